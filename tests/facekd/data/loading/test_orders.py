"""The orders of images: the shuffle by people, and what is refused. The others are tested with sampler and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.data.config import DataConfig
from facekd.data.datasets import SyntheticDataset
from facekd.data.loading.orders import DatasetOrder, FullShuffle, PeopleShuffle
from facekd.errors import ConfigError, InputError

PEOPLE = st.lists(st.integers(0, 9), min_size=1, max_size=60)  # labels; some classes have no images
PINNED = [1, 3, 2, 0, 3, 1, 4, 4, 1, 3, 0, 2]
SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=100)
@given(PEOPLE, SEEDS, st.integers(1, 5), st.integers(0, 7))
def test_each_turn_is_one_person_and_each_round_has_all(labels, seed, images_each, first_round):
    labels = np.array(labels)
    order = PeopleShuffle(labels, seed, images_each)
    assert order.num_people == len(set(labels.tolist()))
    start = first_round * order.num_people * images_each
    images = order.images_at(np.arange(start, start + order.num_people * images_each))
    turns = labels[images].reshape(order.num_people, images_each)
    assert (turns == turns[:, :1]).all()
    assert sorted(turns[:, 0].tolist()) == sorted(set(labels.tolist()))
    for turn, person in zip(images.reshape(turns.shape), turns[:, 0], strict=True):
        if (labels == person).sum() >= 2 * images_each:  # a turn may straddle two passes over a person's images
            assert len(set(turn.tolist())) >= (images_each + 1) // 2


@settings(max_examples=60)
@given(PEOPLE, SEEDS, st.integers(1, 5))
def test_a_person_s_images_are_all_read_before_one_is_read_again(labels, seed, images_each):
    labels = np.array(labels)
    order = PeopleShuffle(labels, seed, images_each)
    images = order.images_at(np.arange(9 * order.num_people * images_each))
    for person in set(labels.tolist()):
        own = np.flatnonzero(labels == person)
        read = images[labels[images] == person]
        for start in range(0, len(read) - len(own) + 1, len(own)):
            assert sorted(read[start : start + len(own)].tolist()) == own.tolist()


@settings(max_examples=60)
@given(PEOPLE, SEEDS, st.integers(1, 5), st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_any_positions_in_any_shape_give_the_images_of_the_whole_order(labels, seed, images_each, positions):
    order = PeopleShuffle(np.array(labels), seed, images_each)
    together = order.images_at(positions)
    assert together.tolist() == [int(order.images_at([position])[0]) for position in positions]
    assert order.images_at(np.array([positions, positions])).tolist() == [together.tolist()] * 2


def test_rounds_passes_and_seeds_differ_and_the_order_is_pinned():
    labels = np.repeat(np.arange(20), 10)
    runs = [PeopleShuffle(labels, seed, 5).images_at(np.arange(400)).tolist() for seed in (0, 1)]
    assert runs[0] != runs[1] and runs[0][:100] != runs[0][100:200] and runs[0][:200] != runs[0][200:]
    by_pass = [[image for image in runs[0][start : start + 200] if image < 10] for start in (0, 200)]
    assert sorted(by_pass[0]) == sorted(by_pass[1]) == list(range(10)) and by_pass[0] != by_pass[1]
    small = PeopleShuffle(np.array([2, 0, 2, 0, 2]), 7, 2).images_at(np.arange(12))
    assert small.tolist() == PINNED


def test_the_data_section_asks_for_it():
    dataset = SyntheticDataset(3, 4, 32)
    order = DataConfig(images_each=2).make_order(dataset, 5)
    assert isinstance(order, PeopleShuffle) and order.images_each == 2
    assert len(set(dataset.labels[order.images_at(np.arange(2))])) == 1
    with pytest.raises(ConfigError, match=r"data\.images_each reads images from all over the pack"):
        DataConfig(images_each=2, shuffle="sequential")
    with pytest.raises(ConfigError, match=r"data\.images_each must not be negative"):
        DataConfig(images_each=-1)


def test_what_cannot_be_ordered_is_refused():
    for make in (lambda: DatasetOrder(0), lambda: FullShuffle(0, 1), lambda: PeopleShuffle(np.zeros(0, int), 0, 2)):
        with pytest.raises(InputError, match="holds no images"):
            make()
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match=rf"seed must be from 0 to 2\*\*64 - 1, found {seed}"):
            FullShuffle(3, seed)
    with pytest.raises(InputError, match="images_each must be at least 1, found 0"):
        PeopleShuffle(np.array([0, 1]), 0, 0)
