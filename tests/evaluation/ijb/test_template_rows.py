"""Tests the rows of ids, through a table or by bisection, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.ijb import template_rows
from evaluation.ijb.template_rows import TemplateRows, distinct_ids

IDS = st.lists(st.integers(-3, 300), min_size=1, max_size=60)


@settings(max_examples=100)
@given(
    columns=st.lists(IDS, min_size=1, max_size=3),
    dtype=st.sampled_from([np.int32, np.int64]),
    step=st.sampled_from([1, 1_000_003]),
    largest_table=st.sampled_from([100, 1 << 25]),
)
def test_rows_are_places_among_the_ids_that_occur(columns, dtype, step, largest_table):
    columns = [np.array(column, dtype) * dtype(step) for column in columns]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_rows, "MAX_TABLE_ID", largest_table)
        patch.setattr(template_rows, "IDS_CHUNK", 7)
        ids = distinct_ids(columns)
        np.testing.assert_array_equal(ids, np.unique(np.concatenate(columns)))
        assert ids.dtype == np.int64
        lookup = TemplateRows(ids)
        for column in columns:
            rows = lookup.rows_of(column)
            assert rows.dtype == np.uint16
            np.testing.assert_array_equal(ids[rows], column)


def test_more_ids_than_sixteen_bits_count():
    ids = np.arange(1 << 17) * 3
    rows = TemplateRows(ids).rows_of(ids[::-1])
    np.testing.assert_array_equal(rows, np.arange(1 << 17)[::-1])
