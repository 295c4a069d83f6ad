"""Tests reading a data set once, in order."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.data.datasets import RecordDataset
from facekd.data.loading.in_order import read_in_order


@pytest.mark.parametrize(("start", "stop", "sizes"), [(0, 12, [5, 5, 2]), (3, 9, [5, 1]), (7, 12, [5])])
def test_each_image_comes_once_and_the_last_batch_holds_the_rest(insightface_pack, start, stop, sizes):
    dataset = RecordDataset(insightface_pack(), 32)
    batches = list(read_in_order(dataset, start, stop, 5, 0))
    assert [len(batch.images) for batch in batches] == sizes
    assert [image for batch in batches for image in batch.positions.tolist()] == list(range(start, stop))
    images, labels = dataset.load(np.arange(start, stop))
    np.testing.assert_array_equal(np.concatenate([batch.images.numpy() for batch in batches]), images)
    np.testing.assert_array_equal(np.concatenate([batch.labels.numpy() for batch in batches]), labels)
    assert not any(batch.flip.any() for batch in batches)
