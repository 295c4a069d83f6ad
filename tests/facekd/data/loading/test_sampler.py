"""The sampler: every image once an epoch, the same run at any world size, and resume anywhere."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.data.loading.orders import DatasetOrder, FullShuffle
from facekd.data.loading.sampler import PositionSampler, shares
from facekd.errors import InputError

PINNED_SMALL = [0, 1, 6, 9, 5, 3, 4, 2, 8, 7, 3, 4, 9, 1, 8, 6, 5, 7, 2, 0]
PINNED_LARGE = [26667847, 39641520, 26904044, 35888889, 1404514]
RUNS = st.fixed_dictionaries(
    {
        "num_images": st.integers(1, 90),
        "seed": st.integers(0, 2**64 - 1),
        "images_per_rank": st.integers(1, 12),
        "world_size": st.integers(1, 6),
        "images_over": st.integers(0, 5),
        "num_batches": st.integers(1, 12),
    }
)


def batch_size_of(run: dict) -> int:
    """Of all ranks: the first ones may have one image more than the others."""
    return run["images_per_rank"] * run["world_size"] + run["images_over"] % run["world_size"]


def sampler_of(run: dict, rank: int = 0, **changes) -> PositionSampler:
    global_batch_size = batch_size_of(run)
    arguments = {
        "order": FullShuffle(run["num_images"], run["seed"]),
        "global_batch_size": global_batch_size,
        "rank": rank,
        "world_size": run["world_size"],
        "total_images": global_batch_size * run["num_batches"],
    }
    return PositionSampler(**(arguments | changes))


def global_batches(samplers: list[PositionSampler]) -> list[tuple[list[int], list[int]]]:
    """Positions and indices of each step over all ranks, in rank order."""
    return [
        (
            np.concatenate([batch.positions for batch in step]).tolist(),
            np.concatenate([batch.indices for batch in step]).tolist(),
        )
        for step in zip(*samplers, strict=True)
    ]


@settings(max_examples=60)
@given(RUNS)
def test_each_image_is_read_once_in_each_epoch_over_all_ranks(run):
    steps = global_batches([sampler_of(run, rank) for rank in range(run["world_size"])])
    positions, indices = (list(itertools.chain(*column)) for column in zip(*steps, strict=True))
    assert positions == list(range(batch_size_of(run) * run["num_batches"]))
    size = run["num_images"]
    for start in range(0, len(indices), size):
        epoch = indices[start : start + size]
        if len(epoch) == size:
            assert sorted(epoch) == list(range(size))
        else:  # the run ends within this epoch
            assert len(set(epoch)) == len(epoch)


@settings(max_examples=60)
@given(RUNS, st.data())
def test_a_resumed_run_goes_on_with_the_batches_of_the_uninterrupted_one(run, data):
    rank = data.draw(st.integers(0, run["world_size"] - 1))
    done = data.draw(st.integers(0, run["num_batches"]))
    whole = list(sampler_of(run, rank))
    rest = list(sampler_of(run, rank, images_seen=done * batch_size_of(run)))
    assert len(rest) == len(whole) - done
    for ours, theirs in zip(rest, whole[done:], strict=True):
        np.testing.assert_array_equal(ours.positions, theirs.positions)
        np.testing.assert_array_equal(ours.indices, theirs.indices)


@settings(max_examples=40)
@given(RUNS, st.data())
def test_the_number_of_processes_does_not_change_the_run(run, data):
    global_batch_size = batch_size_of(run)
    other = data.draw(st.integers(1, min(global_batch_size, 12)))
    seen = data.draw(st.integers(0, 3)) * global_batch_size
    ours = [sampler_of(run, rank, images_seen=seen) for rank in range(run["world_size"])]
    theirs = [sampler_of(run, rank, world_size=other, images_seen=seen) for rank in range(other)]
    assert global_batches(ours) == global_batches(theirs)


@settings(max_examples=40)
@given(RUNS, st.integers(0, 500), st.integers(0, 500))
def test_length_counts_full_batches_and_the_last_one_is_filled_up(run, images_seen, total_images):
    sampler = sampler_of(run, images_seen=images_seen, total_images=total_images)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(batch.indices) == -(-batch_size_of(run) // run["world_size"]) for batch in batches)
    end = images_seen + len(batches) * sampler.global_batch_size
    if total_images > images_seen:
        assert total_images <= end < total_images + sampler.global_batch_size
    else:
        assert end == images_seen


def test_a_resume_within_a_batch_goes_on_at_that_position():
    sampler = PositionSampler(FullShuffle(50, 1), 8, images_seen=13, total_images=29)
    assert np.concatenate([batch.positions for batch in sampler]).tolist() == list(range(13, 29))


def test_iterating_twice_gives_the_same_and_so_does_asking_for_positions():
    sampler = PositionSampler(FullShuffle(23, 4), 6, rank=1, world_size=2, total_images=60)
    once, twice = ([batch.indices.tolist() for batch in sampler] for _ in range(2))
    assert once == twice
    positions = np.stack([batch.positions for batch in sampler])
    assert sampler.indices_at(positions).tolist() == once


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed: int, epoch: int) -> list[int]:
        return PositionSampler(FullShuffle(300, seed), 1).indices_at(np.arange(300) + 300 * epoch).tolist()

    orders = [order(seed, epoch) for seed in (0, 1, 2**64 - 1) for epoch in (0, 1, 40)]
    assert len(set(map(tuple, orders))) == len(orders)
    assert all(sorted(o) == list(range(300)) for o in orders)


def test_the_order_is_pinned_so_that_an_upgrade_does_not_change_a_resumed_run():
    assert FullShuffle(10, 0).images_at(np.arange(20)).tolist() == PINNED_SMALL
    large = FullShuffle(42_474_557, 2024).images_at([0, 1, 42_474_556, 42_474_557, 10**12])
    assert large.tolist() == PINNED_LARGE


def test_without_a_total_it_goes_on_for_ever():
    sampler = PositionSampler(FullShuffle(3, 0), 5)
    batches = list(itertools.islice(sampler, 4000))  # more than are worked out at once
    assert np.concatenate([batch.positions for batch in batches]).tolist() == list(range(20_000))
    with pytest.raises(TypeError, match="no length"):
        len(sampler)


def test_unshuffled_order_is_that_of_the_data_set():
    sampler = PositionSampler(DatasetOrder(5), 4, total_images=12)
    assert np.concatenate([batch.indices for batch in sampler]).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_forty_million_images_cost_no_memory_to_start_or_resume():
    order = FullShuffle(42_474_557, 3)
    sampler = PositionSampler(order, 1024, rank=5, world_size=8, images_seen=1_000_000_448, total_images=10**10)
    tracemalloc.start()
    batch = next(iter(sampler))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.positions[0] == 1_000_000_448 + 5 * 128
    assert peak < 10 * 2**20
    assert len(pickle.dumps(batch)) < 16 * 128 + 1000  # what travels to a worker is the batch, not the whole stretch


def test_the_first_ranks_take_what_does_not_divide():
    assert [shares(8, size) for size in (1, 2, 3, 5)] == [[8], [4, 4], [3, 3, 2], [2, 2, 2, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 2, "world_size": 2}, "found rank 2 of world_size 2"),
        ({"rank": -1}, "found rank -1"),
        ({"world_size": 0}, "world_size 0"),
        ({"global_batch_size": 0}, "batch of 0 images over 1 process"),
        ({"global_batch_size": 3, "world_size": 4}, "3 images over 4 processes leaves some without an image"),
        ({"images_seen": -4}, "must not be negative, found -4"),
        ({"total_images": -1}, "must not be negative"),
    ],
)
def test_arguments_that_cannot_work_are_refused_by_name(changes, message):
    arguments = {"order": FullShuffle(10, 0), "global_batch_size": 4} | changes
    with pytest.raises(InputError, match=message):
        PositionSampler(**arguments)
