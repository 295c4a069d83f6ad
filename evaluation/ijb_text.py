"""The text files of an IJB release as arrays, at the speed of the disk; a line that is not as it should be is named.

The pair file of IJB-C has 15.7 million lines. Its numbers are converted here by arithmetic on eight bytes at a time, a
megabyte of text at a time: three times faster than numpy's own readers, and without a data-frame library.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import FacekdError

BYTES_AT_ONCE = 1 << 20
DIGITS_AT_ONCE = 8  # of one number, in one 64-bit word
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ProtocolError(FacekdError):
    """A file of a protocol that is absent, broken, or at odds with another."""


def read_pairs(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read `template template label` lines.

    Returns:
        first, second: integer (P,) template ids; is_same: bool (P,).

    Raises:
        ProtocolError: an empty file, or a line that is not two whole numbers and 0 or 1.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ProtocolError(f"{path}: is empty; expected `template template label` lines")
    whole = np.memmap(path, np.uint8, "r")
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(lambda bounds: _parse_pairs(whole, bounds[0], bounds[1], path), _line_bounds(whole)))
    first, second, label = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(first):
        raise ProtocolError(f"{path}: holds only empty lines; expected `template template label` lines")
    return first, second, label


def read_named_numbers(path: str | os.PathLike[str], num_values: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read lines of a name and `num_values` numbers.

    Returns:
        names: bytes (N,); values (N, num_values) of `dtype`.

    Raises:
        ProtocolError: an empty file, or a line with more or fewer values, or with something that is no number.
    """
    path = Path(path)
    lines = _split_lines(path)
    names, rests = [], []
    for number, line in lines:
        name, *rest = line.split(None, 1)
        values = rest[0].rstrip() if rest else b""
        if values.count(b" ") != num_values - 1:  # other white space, or another number of values
            tokens = values.split()
            if len(tokens) != num_values:
                raise ProtocolError(
                    f"{path}, line {number}: expected a name and {num_values} numbers, found "
                    f"{len(tokens) + 1} columns: {_shown(line)}"
                )
            values = b" ".join(tokens)
        names.append(name)
        rests.append(values)
    if not names:
        raise ProtocolError(f"{path}: is empty; expected lines of a name and {num_values} numbers")
    flat = _numbers(b" ".join(rests), dtype)
    if flat is None or flat.size != num_values * len(names):
        for (number, line), values in zip(lines, rests, strict=True):
            found = _numbers(values, dtype)
            if found is None or found.size != num_values:
                kind = "whole numbers" if np.dtype(dtype).kind == "i" else "numbers"
                raise ProtocolError(f"{path}, line {number}: expected a name and {num_values} {kind}: {_shown(line)}")
        raise ProtocolError(f"{path}: its numbers cannot be read")
    return np.array(names), flat.reshape(-1, num_values)


def read_template_subjects(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the TEMPLATE_ID and SUBJECT_ID of each row of a 1:N file (comma-separated, one header line).

    The columns are found by those names; where the header has others, the first two are taken, as the peers do.

    Returns:
        template ids, subject ids: int64 (rows,), one row a face.

    Raises:
        ProtocolError: no rows, a row without them, or with something else than whole numbers.
    """
    path = Path(path)
    lines = _split_lines(path)
    if len(lines) < 2:
        raise ProtocolError(f"{path}: holds no rows; expected a header TEMPLATE_ID,SUBJECT_ID,... and one row a face")
    header = [name.strip(b" \"'").upper() for name in lines[0][1].split(b",")]
    columns = [header.index(name) if name in header else at for at, name in enumerate((b"TEMPLATE_ID", b"SUBJECT_ID"))]
    last = max(columns) + 1
    values = []
    for number, line in lines[1:]:
        fields = line.split(b",", last)
        try:
            values.append([int(fields[column].strip(b" \"'")) for column in columns])
        except (ValueError, IndexError):
            raise ProtocolError(
                f"{path}, line {number}: expected a row with whole TEMPLATE_ID and SUBJECT_ID: {_shown(line)}"
            ) from None
    table = np.array(values, np.int64)
    return table[:, 0].copy(), table[:, 1].copy()


def _split_lines(path: Path) -> list[tuple[int, bytes]]:
    """(number from 1, line) of the lines that are not blank."""
    text = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    return [(number, line.strip()) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]


def _numbers(text: bytes, dtype: Any) -> np.ndarray | None:
    """All numbers of a text; None where something in it is none."""
    if np.dtype(dtype).kind == "i":
        # Through int(), "7.5" and 10^20 are errors; numpy would read the first as 7 and wrap the second.
        try:
            return np.array(list(map(int, text.split())), dtype)
        except (ValueError, OverflowError):
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, dtype, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _line_bounds(whole: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of runs of whole lines, about a megabyte each."""
    begin = len(BYTE_ORDER_MARK) if whole[:3].tobytes() == BYTE_ORDER_MARK else 0
    while begin < len(whole):
        end = min(begin + BYTES_AT_ONCE, len(whole))
        while end < len(whole) and whole[end - 1] != ord("\n"):
            following = np.flatnonzero(whole[end : end + 4096] == ord("\n"))
            end = end + int(following[0]) + 1 if following.size else min(end + 4096, len(whole))
        yield begin, end
        begin = end


def _parse_pairs(whole: np.ndarray, begin: int, end: int, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    text = whole[begin:end].tobytes().replace(b"\r\n", b"\n")
    if not text.endswith(b"\n"):
        text += b"\n"
    parsed = _parse_tidy_pairs(text)
    if parsed is not None:
        return parsed
    rows = []
    for offset, line in enumerate(text.split(b"\n")):
        tokens = line.split()
        if not tokens:
            continue
        try:
            first, second, label = map(int, tokens)
            if label not in (0, 1) or max(abs(first), abs(second)) >= 1 << 62:
                raise ValueError
        except ValueError:
            number = int(np.count_nonzero(whole[:begin] == ord("\n"))) + offset + 1
            raise ProtocolError(
                f"{path}, line {number}: expected `template template label`, three whole numbers with a label of 0 or "
                f"1: {_shown(line)}"
            ) from None
        rows.append((first, second, label))
    table = np.array(rows, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2].astype(bool)


def _parse_tidy_pairs(text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Lines of exactly `digits space digits space 0-or-1 newline`, up to 8 digits; None where any is otherwise."""
    padded = text + bytes(DIGITS_AT_ONCE)
    codes = np.frombuffer(padded, np.uint8)[: len(text)]
    ends = np.flatnonzero(codes <= ord(" "))
    if ends.size % 3:
        return None
    ends = ends.reshape(-1, 3)
    last, labels = codes[ends[:, 2]], codes[ends[:, 2] - 1] - np.uint8(ord("0"))
    spaces = codes[ends[:, :2]]
    tidy = (last == ord("\n")).all() and (spaces == ord(" ")).all() and (ends[:, 2] - ends[:, 1] == 2).all()
    if not tidy or labels.max() > 1:
        return None
    # Every 8 bytes of the text as one word, at any offset.
    words = np.ndarray((len(text),), "<u8", buffer=padded, strides=(1,))
    starts = np.concatenate([[0], ends[:-1, 2] + 1])
    first = _digits_to_numbers(words, starts, ends[:, 0] - starts)
    second = _digits_to_numbers(words, ends[:, 0] + 1, ends[:, 1] - ends[:, 0] - 1)
    if first is None or second is None:
        return None
    return first, second, labels.astype(bool)


def _digits_to_numbers(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """int32 numbers of 1 to 8 decimal digits at `starts`; None where one is longer, empty, or no number.

    All eight digits of a word are combined at once: neighbours to pairs, pairs to fours, fours to the number.
    """
    if lengths.min() < 1 or lengths.max() > DIGITS_AT_ONCE:
        return None
    values = words[starts]
    shift = np.uint64(64) - (lengths.astype(np.uint64) << np.uint64(3))
    values <<= shift  # what follows the number leaves at the top
    # Digits are 0x30 .. 0x39: the high half is 3, and adding 6 to the low half does not carry.
    carried = ((values & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(0x0606060606060606)) & np.uint64(0x1010101010101010)
    if (values & np.uint64(0xF0F0F0F0F0F0F0F0) != np.uint64(0x3030303030303030) << shift).any() or carried.any():
        return None
    values &= np.uint64(0x0F0F0F0F0F0F0F0F)
    values *= np.uint64(10 * 256 + 1)
    values >>= np.uint64(8)
    values &= np.uint64(0x00FF00FF00FF00FF)
    values *= np.uint64(100 * 65536 + 1)
    values >>= np.uint64(16)
    values &= np.uint64(0x0000FFFF0000FFFF)
    values *= np.uint64(10000 * (1 << 32) + 1)
    values >>= np.uint64(32)
    return values.astype(np.int32)


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")
