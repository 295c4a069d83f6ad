"""Converts decimal digits to numbers: a text strictly, and eight digits at a time where a file has millions."""

from __future__ import annotations

import numpy as np

DIGITS_IN_A_WORD = 8


def whole_number(text: str | bytes) -> int | None:
    """Returns the whole number that a text of a file is, perhaps with a sign and spaces around it; None for any other.

    Python's `int` takes `1_2`, which may be a person beside `12`, and digits of other scripts.
    """
    try:
        mark = b"_" if isinstance(text, bytes) else "_"
        return int(text) if text.isascii() and mark not in text else None  # type: ignore[operator]
    except ValueError:
        return None


def real_number(text: str) -> float | None:
    """Returns the number that a text of a file is, perhaps nan or inf; None for any other; see `whole_number`."""
    try:
        return float(text) if "_" not in text and text.isascii() else None
    except ValueError:
        return None


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
