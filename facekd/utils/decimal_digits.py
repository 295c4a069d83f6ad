"""Decimal numbers read from text eight digits at a time, for files with millions of them."""

from __future__ import annotations

import numpy as np

DIGITS_IN_A_WORD = 8


def each_byte(value: int) -> np.uint64:
    """A word with this value in all of its eight bytes."""
    return np.uint64(value * 0x0101010101010101)


def numbers_of_words(words: np.ndarray) -> np.ndarray | None:
    """Numbers of words (n,) of eight bytes, each a digit (0 to 9, not its character), the last one in the highest.

    All eight digits of a word are combined at once: neighbours to pairs, pairs to fours, fours to the number.

    Args:
        words: uint64, overwritten by the numbers.

    Returns:
        `words`; None, with what is in them untouched, where a byte is no digit.
    """
    beyond = (words + each_byte(6)) | words  # above 9 either has a bit of the upper half
    if int(np.bitwise_or.reduce(beyond)) & int(each_byte(0xF0)):
        return None
    words *= np.uint64(10 * 256 + 1)
    words >>= np.uint64(8)
    words &= np.uint64(0x00FF00FF00FF00FF)
    words *= np.uint64(100 * 65536 + 1)
    words >>= np.uint64(16)
    words &= np.uint64(0x0000FFFF0000FFFF)
    words *= np.uint64(10000 * (1 << 32) + 1)
    words >>= np.uint64(32)
    return words
