"""The sequential shuffle: every image once an epoch, in long stretches, the same on any ranks and after a resume."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.data.config import DataConfig
from facekd.data.datasets import RecordDataset, SyntheticDataset
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.datasets.subset_dataset import SubsetDataset
from facekd.data.loading.block_shuffle import BlockShuffle
from facekd.data.loading.loader import make_loader
from facekd.data.loading.orders import BlockOrder, FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.errors import ConfigError

SHAPES = st.builds(BlockShuffle, st.integers(1, 12), st.integers(1, 6))
PINNED = [8, 3, 9, 0, 2, 10, 5, 4, 1, 7, 6, 9, 10, 2, 0, 8, 1, 5, 7, 3, 4, 6]
PINNED_LARGE = [10835536, 29284882, 17703559, 23762440, 1803797]
SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=150)
@given(SHAPES, SEEDS, st.integers(0, 50), st.integers(1, 200))
def test_each_epoch_has_each_image_once(shape, seed, epoch, num_images):
    order = shape.permute(seed, np.full(num_images, epoch), np.arange(num_images), num_images)
    assert sorted(order.tolist()) == list(range(num_images))


@settings(max_examples=20)
@given(SHAPES, SEEDS, st.integers(0, 50), st.integers(1, 200))
def test_a_window_reads_its_stretches_and_nothing_else(shape, seed, epoch, num_images):
    order = shape.permute(seed, np.full(num_images, epoch), np.arange(num_images), num_images)
    for number, start in enumerate(range(0, num_images, shape.window_size)):
        stretches = shape.stretches(seed, epoch, number, num_images)
        read = [image for first, end in stretches for image in range(first, end)]
        assert sorted(read) == sorted(order[start : start + shape.window_size].tolist())
        assert len(stretches) <= shape.blocks_in_window + 1  # one block may go on at the other end


def test_blocks_and_windows_are_shuffled_and_epochs_differ():
    shape = BlockShuffle(block_size=50, blocks_in_window=4)
    orders = [shape.permute(7, np.full(5000, epoch), np.arange(5000), 5000) for epoch in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) == 3
    window = orders[0][:200]
    assert np.abs(np.diff(window)).max() > 1000  # blocks from all over
    blocks = np.unique((window - window.min()) // 50)
    assert len(blocks) >= 4
    # Within a window any image may follow any other: neighbours in the order are of one block a quarter of the time.
    same = np.mean([abs(a - b) < 50 for a, b in itertools.pairwise(window)])
    assert 0.1 < same < 0.45


@settings(max_examples=60)
@given(SHAPES, SEEDS, st.integers(1, 90), st.integers(1, 4), st.integers(1, 4), st.integers(0, 6))
def test_ranks_are_disjoint_and_a_resumed_run_goes_on_as_the_whole_one(shape, seed, num_images, share, ranks, done):
    def batches(rank: int, size: int, images_seen: int = 0) -> list[list[int]]:
        order = BlockOrder(num_images, seed, shape)
        sampler = PositionSampler(order, share * ranks, rank, size, images_seen, 8 * share * ranks)
        return [batch.indices.tolist() for batch in sampler]

    whole = batches(0, 1)
    together = [
        list(itertools.chain(*step)) for step in zip(*(batches(rank, ranks) for rank in range(ranks)), strict=True)
    ]
    assert together == whole
    assert batches(0, 1, done * share * ranks) == whole[done:]
    flat = list(itertools.chain(*whole))
    for start in range(0, len(flat), num_images):
        assert len(set(flat[start : start + num_images])) == len(flat[start : start + num_images])


def test_the_order_is_pinned_so_that_an_upgrade_does_not_change_a_resumed_run():
    small = BlockOrder(11, 3, BlockShuffle(2, 3))
    assert small.images_at(np.arange(22)).tolist() == PINNED
    large = BlockOrder(42_474_557, 2024, BlockShuffle())
    assert large.images_at([0, 1, 42_474_556, 42_474_557, 10**12]).tolist() == PINNED_LARGE


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumed_within_a_window_gives_the_rest_of_the_run(insightface_pack, workers):
    dataset = RecordDataset(insightface_pack(), 32)

    def batches(images_seen: int = 0, workers: int = 0) -> list[tuple]:
        order = BlockOrder(12, 5, BlockShuffle(2, 3))
        sampler = PositionSampler(order, 4, images_seen=images_seen, total_images=48)
        loader = make_loader(dataset, sampler, seed=5, workers=workers, start_method="fork" if workers else None)
        return [(batch.positions.tolist(), batch.labels.tolist(), batch.images.numpy().tobytes()) for batch in loader]

    assert batches(20, workers) == batches()[5:]


@pytest.mark.parametrize("is_subset", [False, True])
def test_windows_are_asked_for_before_they_are_read(insightface_pack, monkeypatch, is_subset):
    """All windows up to the one after the batch's, as byte ranges that hold the records of their images."""
    path = insightface_pack()
    asked: list[tuple[int, int]] = []

    def note(_descriptor: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            asked.append((offset, offset + length))

    dataset = RecordDataset(path, 32)
    whole = SubsetDataset(dataset, np.array([0, 2, 3, 5, 7, 8, 9, 11]), "part") if is_subset else dataset
    shape = BlockShuffle(2, 2)
    sampler = PositionSampler(BlockOrder(len(whole), 1, shape), 4, total_images=4)
    (place,) = open_record_pack(path).locations(np.arange(12))
    spans = list(zip(place[1].tolist(), (place[1] + place[2]).tolist(), strict=True))
    monkeypatch.setattr(dataset, "read_many", lambda indices: pytest.fail("read before it was asked for"))
    monkeypatch.setattr(os, "posix_fadvise", note)
    batches = iter(make_loader(whole, sampler))
    with pytest.raises(pytest.fail.Exception):
        next(batches)
    due = sampler.indices_at(np.arange(8))  # two windows of four
    due = whole.indices[due] if isinstance(whole, SubsetDataset) else due
    for image in due.tolist():
        assert any(start <= spans[image][0] and spans[image][1] <= end for start, end in asked)
    if not is_subset:
        assert sum(end - start for start, end in asked) == sum(spans[image][1] - spans[image][0] for image in due)


def test_the_shape_is_in_the_data_section():
    dataset = SyntheticDataset(3, 4, 32)
    assert type(DataConfig().make_order(dataset, 5)) is FullShuffle
    order = DataConfig(shuffle="sequential", shuffle_block=256, shuffle_window=8).make_order(dataset, 5)
    assert isinstance(order, BlockOrder) and (order.num_images, order.seed) == (12, 5)
    assert order.shape == BlockShuffle(256, 8)
    with pytest.raises(ConfigError, match=r"data\.shuffle_block has no effect unless data.shuffle is sequential"):
        DataConfig(shuffle_block=256)
    with pytest.raises(ConfigError, match=r"data\.shuffle_block and data.shuffle_window must be at least 1"):
        DataConfig(shuffle="sequential", shuffle_window=0)
