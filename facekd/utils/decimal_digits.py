"""Converts decimal digits to numbers eight at a time, for text files with millions of numbers."""

from __future__ import annotations

import numpy as np

DIGITS_IN_A_WORD = 8


def each_byte(value: int) -> np.uint64:
    """Returns a word with this value in all of its eight bytes."""
    return np.uint64(value * 0x0101010101010101)


def numbers_of_words(words: np.ndarray) -> np.ndarray | None:
    """Converts words (n,) of eight digits each to the numbers they spell.

    All digits of a word are combined at once: neighbours to pairs, pairs to groups of four, these to the number.

    Args:
        words: uint64, overwritten by the numbers. Each byte is a digit, 0 to 9 (not its character); the last digit of
            the number is in the highest byte.

    Returns:
        `words`; None, with the words unchanged, if a byte is not a digit.
    """
    # A byte above 9 has a bit of its upper half set, either itself or after adding 6.
    beyond = (words + each_byte(6)) | words
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
