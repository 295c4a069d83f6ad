"""Compares draws and permutations with plain-integer restatements of their papers, and checks their statistics."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from facekd.utils.randomness import permute, random_words, uniform

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
SEEDS = st.integers(0, MASK)


def naive_mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def naive_word(seed: int, purpose: str, position: int) -> int:
    key = hashlib.blake2b(purpose.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return naive_mix((position * GAMMA + int.from_bytes(key, "little")) & MASK)


def naive_permute(seed: int, epoch: int, element: int, size: int) -> int:
    """Swap-or-not, one element, in integers without limit."""
    epoch_key = naive_word(seed, "permutation", epoch)
    for round_number in range(90):
        key = naive_mix((epoch_key + (round_number + 1) * GAMMA) & MASK)
        partner = (key % size - element) % size
        coin = ((max(element, partner) + key) * 0xBF58476D1CE4E5B9) & MASK
        coin = ((coin ^ (coin >> 32)) * 0x94D049BB133111EB) & MASK
        if coin >> 63:
            element = partner
    return element


def all_of(seed: int, epoch: int, size: int) -> np.ndarray:
    return permute(seed, np.full(size, epoch), np.arange(size), size)


@given(SEEDS, st.lists(st.integers(0, 2**62), min_size=1, max_size=5))
def test_words_are_splitmix64_of_a_keyed_start(seed, positions):
    assert random_words(seed, "flip", positions).tolist() == [naive_word(seed, "flip", p) for p in positions]


def test_words_keep_the_shape_and_a_single_position_is_like_one_of_many():
    grid = random_words(7, "x", np.arange(6).reshape(2, 3))
    assert grid.shape == (2, 3)
    assert random_words(7, "x", 4).shape == ()
    assert random_words(7, "x", 4) == grid[1, 1]


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_that_does_not_fit_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be .* 2\*\*64 - 1"):
        uniform(seed, "x", [0])


def test_uniform_draws_are_uniform_and_unrelated_between_purposes_seeds_and_neighbours():
    positions = np.arange(50_000)
    flip, crop = uniform(3, "flip", positions), uniform(3, "crop", positions)
    assert 0 <= flip.min() < 1e-3 and 1 - 1e-3 < flip.max() < 1
    assert stats.kstest(flip, "uniform").pvalue > 0.01
    for other in (crop, uniform(4, "flip", positions), np.roll(flip, 1)):
        assert abs(np.corrcoef(flip, other)[0, 1]) < 4 / np.sqrt(len(positions))
    scaled = uniform(3, "flip", positions, -2.0, 5.0)
    np.testing.assert_allclose(scaled, -2 + 7 * flip)


@settings(max_examples=60)
@given(SEEDS, st.integers(0, 2**40), st.integers(1, 2**52), st.data())
def test_permute_equals_the_plain_restatement_at_any_size(seed, epoch, size, data):
    ranks = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
    found = permute(seed, [epoch] * len(ranks), ranks, size)
    assert found.tolist() == [naive_permute(seed, epoch, rank, size) for rank in ranks]


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 2**40), st.integers(1, 3000))
def test_permute_gives_each_element_once(seed, epoch, size):
    np.testing.assert_array_equal(np.sort(all_of(seed, epoch, size)), np.arange(size))


def test_epochs_mixed_in_one_call_are_those_asked_for_one_at_a_time():
    epochs, ranks = np.divmod(np.random.default_rng(0).permutation(21), 7)
    mixed = permute(5, epochs.reshape(3, 7), ranks.reshape(3, 7), 7)
    assert mixed.ravel().tolist() == [all_of(5, int(e), 7)[r] for e, r in zip(epochs, ranks, strict=True)]


def test_the_24_orders_of_four_images_come_up_equally_often():
    num_epochs = 24_000
    epochs = np.arange(num_epochs)
    orders = np.stack([permute(11, epochs, np.full(num_epochs, rank), 4) for rank in range(4)], axis=1)
    counts = Counter(map(tuple, orders.tolist()))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_each_place_in_an_epoch_holds_each_image_equally_often():
    num_epochs, size = 5000, 20
    epochs = np.arange(num_epochs)
    for rank in (0, 7, 19):
        counts = np.bincount(permute(2, epochs, np.full(num_epochs, rank), size), minlength=size)
        assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("size", [1000, 65_536, 100_003])
def test_a_large_order_shows_no_pattern(size):
    order, next_epoch = all_of(0, 0, size), all_of(0, 1, size)
    limit = 4 / np.sqrt(size)
    # unrelated to the place, to the image before, to the next epoch and to another seed
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < limit
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < limit
    assert abs(np.corrcoef(order, next_epoch)[0, 1]) < limit
    assert abs(np.corrcoef(order, all_of(1, 0, size))[0, 1]) < limit
    # steps between neighbours modulo the size are uniform: no neighbours stay neighbours
    steps = np.diff(order) % size
    assert stats.chisquare(np.bincount(steps * 50 // size, minlength=50)).pvalue > 0.001
    # as in a random permutation, about one image keeps its place
    assert np.count_nonzero(order == np.arange(size)) < 8
