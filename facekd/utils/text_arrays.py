"""Makes arrays of text, in which numpy gives every entry the room of the longest."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

# An array may take so many times the room of its texts by themselves, each counted as 16 bytes at least, beyond what is
# always allowed. A character takes four bytes: names of 80 are never too long, nor are those of five times the mean.
MAX_RATIO, SHORTEST_COUNTED, FREE_BYTES = 20, 16, 64 << 20


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
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    own_bytes = int(np.maximum(lengths, SHORTEST_COUNTED).sum())
    if len(texts):
        require_room(texts[int(lengths.argmax())], len(texts), own_bytes, where)


def join_text_arrays(arrays: Sequence[NDArray[np.str_]], where: str | os.PathLike[str]) -> NDArray[np.str_]:
    """Returns the texts of several arrays (N_i,) as one (N,).

    Raises:
        DataError: see `require_even_arrays`.
    """
    require_even_arrays(arrays, where)
    return np.concatenate(arrays)


def require_even_arrays(arrays: Sequence[NDArray[np.str_] | NDArray[np.bytes_]], where: str | os.PathLike[str]) -> None:
    """Refuses arrays (N_i,), all of text or all of bytes, that would exhaust the memory if they had one type.

    That is what numpy gives them where they are joined or searched for each other's texts.

    Raises:
        DataError: it names the longest text, whose room the entries of another array would get.
    """
    lengths = [np.char.str_len(array) for array in arrays]
    longest = [array[own.argmax()] for array, own in zip(arrays, lengths, strict=True) if own.size]
    own_bytes = sum(int(np.maximum(own, SHORTEST_COUNTED).sum()) for own in lengths)
    require_room(max(longest, key=len, default=""), sum(map(len, arrays)), own_bytes, where)


def require_room(longest: str | bytes, count: int, own_bytes: int, where: str | os.PathLike[str]) -> None:
    """Refuses an array whose entries all get the room of the longest, if that is far more than they need.

    Args:
        longest: the longest text.
        count: number of texts.
        own_bytes: what they take by themselves.
        where: the file that they are from, for messages.

    Raises:
        DataError: it names the longest.
    """
    room = count * len(longest) * (4 if isinstance(longest, str) else 1)
    if room > FREE_BYTES + MAX_RATIO * own_bytes:
        text = os.fsdecode(longest)
        raise DataError(
            f"{os.fspath(where)}: a name in it has {counted(len(longest), 'character')}, and an array of all "
            f"{counted(count, 'name')} gives each that room, {room / 1e9:.1f} GB: shorten {shown(text, 60)}"
        )
