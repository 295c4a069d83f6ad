"""Computes random numbers as pure functions of (seed, purpose, position), so that no generator state must be saved.

Everything random in the data pipeline depends on an image's position in the run (see `facekd.data.loading.sampler`).
Hashing that position, instead of advancing a generator, makes a run the same at any world size, with any number of
workers, and after a resume. Only 64-bit integer arithmetic is used, so the draws do not change with the version of
numpy or torch either.

Sources: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), the
swap-or-not shuffle (Hoang, Morris, Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012, fig. 1).
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1
# Each round halves what remains predictable about an image's place. Ethereum uses 90 rounds for up to 2**40 items.
SHUFFLE_ROUNDS = 90
# k * gamma modulo 2**64, k = 1, 2, ...: in Python integers, because numpy warns when a single number overflows.
_ROUND_OFFSETS = [np.uint64(k * int(GOLDEN_GAMMA) & _MASK_64) for k in range(1, SHUFFLE_ROUNDS + 1)]


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Applies the finaliser of SplitMix64, a bijection in which every output bit depends on every input bit."""
    values = values ^ (values >> np.uint64(30))
    values *= _MIX_1
    values ^= values >> np.uint64(27)
    values *= _MIX_2
    values ^= values >> np.uint64(31)
    return values


def random_words(seed: int, purpose: str, positions: ArrayLike) -> NDArray[np.uint64]:
    """Returns 64 random bits for each position.

    Args:
        seed: random seed of the run, 0 <= seed < 2**64.
        purpose: what the bits are for, such as `"flip"`. Different purposes give independent words, so switching one
            augmentation on does not change the draws of another.
        positions: integers of any shape, below 2**63.

    Returns:
        Words in the shape of `positions`.
    """
    words = np.array(positions, dtype=np.int64, ndmin=1).astype(np.uint64)  # arrays wrap around; numpy scalars warn
    words = mix64(words * GOLDEN_GAMMA + np.uint64(_stream_key(seed, purpose)))
    return words.reshape(np.shape(positions))


def uniform(seed: int, purpose: str, positions: ArrayLike, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
    """Returns a number in [low, high) for each position, a function of (seed, purpose, position) alone."""
    unit = (random_words(seed, purpose, positions) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return low + (high - low) * unit


def permute(
    seed: int, epochs: ArrayLike, ranks: ArrayLike, size: int, purpose: str = "permutation"
) -> NDArray[np.int64]:
    """Returns element `ranks[i]` of the permutation of 0..size-1 that belongs to (seed, epochs[i]).

    The permutation is never written out, so 42 million images cost neither memory nor a pause at each epoch, and a
    run resumes anywhere at once. In each round of the swap-or-not shuffle an element x is paired with K - x modulo
    `size`, and one hashed bit of the pair decides whether the two swap places.

    Args:
        seed: random seed of the run, 0 <= seed < 2**64.
        epochs: integers of any shape.
        ranks: integers of the same shape, each 0 <= rank < size.
        size: number of elements permuted.
        purpose: what is permuted, as in `random_words`.

    Returns:
        Elements of the same shape, each 0 <= element < size.
    """
    # One key for each epoch; most calls concern a single epoch, which saves a look-up in every round.
    elements = np.array(ranks, dtype=np.uint64).ravel()
    flat_epochs = np.asarray(epochs, dtype=np.int64).ravel()
    distinct_epochs, epoch_of_rank = np.unique(flat_epochs, return_inverse=True)
    one_epoch = len(distinct_epochs) == 1
    epoch_keys = random_words(seed, purpose, distinct_epochs)
    partners, coins = np.empty_like(elements), np.empty_like(elements)
    is_swapped = np.empty(elements.shape, dtype=bool)
    for round_offset in _ROUND_OFFSETS:
        round_keys = mix64(epoch_keys + round_offset)
        pivots = round_keys % np.uint64(size)
        if not one_epoch:
            round_keys, pivots = round_keys[epoch_of_rank], pivots[epoch_of_rank]
        # The partner is K - x modulo `size`. Below 0 it has wrapped around to a huge number; adding `size` mends that.
        np.subtract(pivots, elements, out=partners)
        np.add(partners, np.uint64(size), out=coins)
        np.minimum(partners, coins, out=partners)
        # Both members of a pair must see the same coin, so the larger one is hashed. One multiplication and fold is a
        # weaker hash than mix64 but enough: a coin only needs to be unrelated to the coins of the other rounds.
        np.maximum(elements, partners, out=coins)
        coins += round_keys
        coins *= _MIX_1
        coins ^= coins >> np.uint64(32)
        coins *= _MIX_2
        np.less(coins.view(np.int64), 0, out=is_swapped)  # the topmost bit
        np.copyto(elements, partners, where=is_swapped)
    return elements.astype(np.int64).reshape(np.shape(ranks))


@functools.lru_cache(maxsize=256)
def _stream_key(seed: int, purpose: str) -> int:
    if not 0 <= seed <= _MASK_64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, found {seed}")
    digest = hashlib.blake2b(purpose.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
