"""Tests the fast readers of the text files against reading one line at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.ijb import text_files as ijb_text
from evaluation.ijb.text_files import read_named_numbers, read_template_subjects
from facekd.errors import DataError
from facekd.utils import text_arrays

NAMES = st.sampled_from(["1.jpg", "12345678.png", "a/b-c.jpg", "two.dots.jpg", "none", "x" * 70 + ".jpg", "é.jpg"])
DECIMALS = st.one_of(
    st.decimals(-999, 9999, places=3).map(str),
    st.decimals(0, 1, places=8).map(str),
    st.sampled_from(
        ["7", "-0.0", "1e-3", "0.1234567890123", "123456789.5", "-12345678.1234567", "nan", ".5", "5.", "+1.5"]
    ),
)
ENDINGS = st.sampled_from(["\n", "\r\n", " \n", "\n\n"])


@settings(max_examples=200)
@given(
    lines=st.lists(st.tuples(NAMES, st.lists(DECIMALS, min_size=3, max_size=3)), min_size=1, max_size=12),
    ending=ENDINGS,
    tidy_only=st.booleans(),
    at_once=st.sampled_from([16, 1 << 20]),
)
def test_named_decimals_are_those_of_float(tmp_path_factory, lines, ending, tidy_only, at_once):
    path = tmp_path_factory.mktemp("text") / "points.txt"
    if tidy_only:
        lines = [
            ("7.jpg", [f"{float(value) % 1000:.4f}" if value != "nan" else "0.5" for value in v]) for _, v in lines
        ]
    path.write_text(
        "".join(f"{name} {' '.join(values)}{ending}" for name, values in lines), newline="", encoding="utf8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ijb_text, "BYTES_CHUNK", at_once)
        names, values = read_named_numbers(path, 3, np.float64)
    assert names.tolist() == [name.encode() for name, _ in lines]
    np.testing.assert_array_equal(values, [[float(value) for value in row] for _, row in lines])  # to the last bit
    assert values.dtype == np.float64


@settings(max_examples=100)
@given(
    rows=st.lists(st.tuples(NAMES, st.integers(0, 10**9), st.integers(-5, 10**15)), min_size=1, max_size=12),
    largest=st.sampled_from([99_999_999, 10**15]),
)
def test_named_whole_numbers_are_those_of_int(tmp_path_factory, rows, largest):
    path = tmp_path_factory.mktemp("text") / "faces.txt"
    rows = [(name, min(first, largest), min(second, largest)) for name, first, second in rows]
    path.write_text("".join(f"{name} {first} {second}\n" for name, first, second in rows), encoding="utf8")
    names, values = read_named_numbers(path, 2, np.int64)
    assert names.tolist() == [name.encode() for name, _, _ in rows]
    assert values.tolist() == [[first, second] for _, first, second in rows]


@pytest.mark.parametrize("odd", ["9.jpg 1.5", "9.jpg 1.5 2.5 3.5", "9.jpg 1.5 x.5", "9.jpg 1.5 2..5", "9.jpg 1.5 -.-"])
def test_the_odd_line_is_named_by_number(tmp_path, monkeypatch, odd):
    monkeypatch.setattr(ijb_text, "BYTES_CHUNK", 64)
    path = tmp_path / "points.txt"
    lines = [f"{line}.jpg {line}.25 0.5" for line in range(40)]
    lines[30] = odd
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"points.txt, line 31: expected a name and 2 numbers"):
        read_named_numbers(path, 2, np.float64)


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "header", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "FILENAME,SUBJECT_ID,TEMPLATE_ID", "any,other,names", "SUBJECT_ID,X"]
)
@pytest.mark.parametrize("largest", [99_999_999, 10**12])
def test_template_subjects_by_the_names_of_the_columns(tmp_path, quote, ending, header, largest):
    columns = header.split(",")
    template = columns.index("TEMPLATE_ID") if "TEMPLATE_ID" in columns else 0
    subject = columns.index("SUBJECT_ID") if "SUBJECT_ID" in columns else 1
    values = np.random.default_rng(0).integers(0, largest, (50, len(columns)))
    lines = [header, *(",".join(f"{quote}{value}{quote}" for value in row) for row in values)]
    path = tmp_path / "gallery.csv"
    path.write_text(ending.join(lines), newline="")
    templates, subjects = read_template_subjects(path)
    assert templates.dtype == subjects.dtype == np.int64
    np.testing.assert_array_equal(templates, values[:, template])
    np.testing.assert_array_equal(subjects, values[:, subject])


def test_one_long_name_among_many_is_refused_while_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_arrays, "FREE_BYTES", 1 << 20)
    path = tmp_path / "faces.txt"
    path.write_text("a 1 2\n" * 10_000 + f"{'b' * 500} 1 2\n")
    with pytest.raises(DataError, match=r"faces\.txt: a name in it has 500 characters, .* 10,001 names"):
        read_named_numbers(path, 2, np.int64)
    path.write_text("a 1 2\n" * 10_000 + f"{'b' * 100} 1 2\n")
    assert len(read_named_numbers(path, 2, np.int64)[0]) == 10_001
