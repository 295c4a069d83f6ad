"""Makes arrays of text, in which numpy gives every entry the room of the longest."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

BYTES_A_CHARACTER = 4
# Arrays of this size are always made; larger ones if they take at most so many times the room that the texts would
# need by themselves, short ones counted as 16 characters. Names of people and files stay below 20 times.
FREE_BYTES, MAX_RATIO, SHORTEST_COUNTED = 256 << 20, 64, 16


def text_array(texts: Sequence[str], where: str | os.PathLike[str]) -> NDArray[np.str_]:
    """Returns texts as an array (N,).

    Args:
        texts: N texts.
        where: the file that they are from, for messages.

    Raises:
        DataError: see `require_even_lengths`.
    """
    require_even_lengths(texts, where)
    return np.array(texts, dtype=np.str_)


def require_even_lengths(texts: Sequence[str], where: str | os.PathLike[str]) -> None:
    """Refuses texts of which one is so long that an array of all would exhaust the memory.

    Raises:
        DataError: it names the longest.
    """
    lengths = [len(text) for text in texts]
    longest = max(lengths, default=0)
    room = longest * len(lengths)
    own = sum(max(length, SHORTEST_COUNTED) for length in lengths)
    if BYTES_A_CHARACTER * room > FREE_BYTES and room > MAX_RATIO * own:
        raise DataError(
            f"{os.fspath(where)}: a name in it has {counted(longest, 'character')}, and an array of all "
            f"{counted(len(lengths), 'name')} gives each that room, {BYTES_A_CHARACTER * room / 1e9:.1f} GB: shorten "
            f"{shown(texts[lengths.index(longest)], 60)}"
        )
