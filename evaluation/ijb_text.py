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
LONGEST_NAME = 64  # bytes, for the fast way
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
    names: list[np.ndarray] = []
    values: list[np.ndarray] = []
    if path.stat().st_size:
        whole = np.memmap(path, np.uint8, "r")

        def parse(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
            return _parse_named(whole, *bounds, path, num_values, np.dtype(dtype))

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            found = [part for part in pool.map(parse, _line_bounds(whole)) if len(part[0])]
        names, values = [part[0] for part in found], [part[1] for part in found]
    if not names:
        raise ProtocolError(f"{path}: is empty; expected lines of a name and {num_values} numbers")
    return np.concatenate(names), np.concatenate(values)


def read_template_subjects(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the TEMPLATE_ID and SUBJECT_ID of each row of a 1:N file (comma-separated, one header line).

    The columns are found by those names; where the header has others, the first two are taken, as the peers do.

    Returns:
        template ids, subject ids: int64 (rows,), one row a face.

    Raises:
        ProtocolError: no rows, a row without them, or with something else than whole numbers.
    """
    path = Path(path)
    tidy = _parse_tidy_subjects(_text_of(path))
    if tidy is not None:
        return tidy
    lines = _split_lines(path)
    if len(lines) < 2:
        raise ProtocolError(f"{path}: holds no rows; expected a header TEMPLATE_ID,SUBJECT_ID,... and one row a face")
    columns = _subject_columns(lines[0][1])
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
    text = _text_of(path)
    return [(number, line.strip()) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]


def _text_of(path: Path) -> bytes:
    return path.read_bytes().removeprefix(BYTE_ORDER_MARK)


def _subject_columns(header: bytes) -> list[int]:
    names = [name.strip(b" \"'").upper() for name in header.split(b",")]
    return [names.index(name) if name in names else at for at, name in enumerate((b"TEMPLATE_ID", b"SUBJECT_ID"))]


def _parse_tidy_subjects(text: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of as many fields as the header, ids of up to 8 digits without quotes; None where any is otherwise."""
    header, _, body = text.replace(b"\r\n", b"\n").partition(b"\n")
    width = header.count(b",") + 1
    if not body or width < 2:
        return None
    text = body if body.endswith(b"\n") else body + b"\n"
    codes, words = _as_words(text)
    ends = np.flatnonzero((codes == ord(",")) | (codes == ord("\n")))
    if ends.size % width:
        return None
    ends = ends.reshape(-1, width)
    if (codes[ends[:, :-1]] != ord(",")).any() or (codes[ends[:, -1]] != ord("\n")).any():
        return None
    starts = np.concatenate([[0], ends.reshape(-1)[:-1] + 1]).reshape(-1, width)
    found = [
        _digits_to_numbers(words, starts[:, column], ends[:, column] - starts[:, column])
        for column in _subject_columns(header)
    ]
    if found[0] is None or found[1] is None:
        return None
    return found[0].astype(np.int64), found[1].astype(np.int64)


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


def _parse_named(
    whole: np.ndarray, begin: int, end: int, path: Path, num_values: int, dtype: np.dtype[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(names, values (n, V)) of some whole lines."""
    text = whole[begin:end].tobytes().replace(b"\r\n", b"\n")
    if not text.endswith(b"\n"):
        text += b"\n"
    parsed = _parse_tidy_named(text, num_values, dtype)
    if parsed is not None:
        return parsed
    kind = "whole numbers" if dtype.kind == "i" else "numbers"
    names, rows = [], []
    for offset, line in enumerate(text.split(b"\n")):
        name, *tokens = line.split() or [b""]
        if not name:
            continue
        values = _numbers(b" ".join(tokens), dtype) if len(tokens) == num_values else None
        if values is None or len(values) != num_values:
            number = int(np.count_nonzero(whole[:begin] == ord("\n"))) + offset + 1
            found = "" if len(tokens) == num_values else f", found {len(tokens) + 1} columns"
            raise ProtocolError(
                f"{path}, line {number}: expected a name and {num_values} {kind}{found}: {_shown(line.strip())}"
            )
        names.append(name)
        rows.append(values)
    return np.array(names, np.bytes_), np.array(rows, dtype).reshape(-1, num_values)


def _parse_tidy_named(text: bytes, num_values: int, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Lines of `stem.ending value ... value newline`, one space between; None where any is otherwise.

    Values are whole numbers where `dtype` is, else decimal numbers with digits on both sides of a point, 15 in all:
    their digits are a whole number below 2^53, which divided by a power of ten is what correct rounding gives.
    """
    codes, words = _as_words(text)
    has_points = dtype.kind == "f"
    marks = np.flatnonzero((codes <= ord(" ")) | (codes == ord(".")))
    expected = b". " + (b". " if has_points else b" ") * num_values
    expected = np.frombuffer(expected[:-1] + b"\n", np.uint8)
    if marks.size % len(expected) or not marks.size:
        return None
    marks = marks.reshape(-1, len(expected))
    if (codes[marks] != expected).any():
        return None
    line_starts = np.concatenate([[0], marks[:-1, -1] + 1])
    stride = 2 if has_points else 1
    values = np.empty((len(marks), num_values), dtype)
    for column in range(num_values):
        start = marks[:, 1 + stride * column] + 1
        stop = marks[:, 1 + stride * (column + 1)]
        if not has_points:
            whole = _digits_to_numbers(words, start, stop - start)
            if whole is None:
                return None
            values[:, column] = whole
            continue
        point = marks[:, 2 + stride * column]
        is_negative = codes[start] == ord("-")
        start = start + is_negative
        whole = _digits_to_numbers(words, start, point - start)
        fraction = _digits_to_numbers(words, point + 1, stop - point - 1)
        if whole is None or fraction is None or (stop - start).max() > 16:
            return None
        scale = 10.0 ** np.arange(DIGITS_AT_ONCE + 1)[stop - point - 1]
        number = (whole * scale + fraction) / scale
        values[:, column] = np.where(is_negative, -number, number)
    names = _gather_bytes(words, line_starts, marks[:, 1] - line_starts)
    return (names, values) if names is not None else None


def _as_words(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(the bytes, every 8 bytes from any offset on as one little-endian word; zeros follow the text)."""
    padded = text + bytes(LONGEST_NAME + DIGITS_AT_ONCE)
    codes = np.frombuffer(padded, np.uint8)[: len(text)]
    return codes, np.ndarray((len(text) + LONGEST_NAME,), "<u8", buffer=padded, strides=(1,))


def _gather_bytes(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """Byte strings of 1 to LONGEST_NAME bytes; None where one is longer or empty."""
    longest = int(lengths.max())
    if lengths.min() < 1 or longest > LONGEST_NAME:
        return None
    parts = np.empty((len(starts), -(-longest // 8)), "<u8")
    for at in range(parts.shape[1]):
        left = np.clip(lengths - 8 * at, 0, 8).astype(np.uint64)
        beyond = np.uint64(64) - (left << np.uint64(3))  # bits; numpy gives 0 for a shift by all 64
        parts[:, at] = (words[starts + 8 * at] << beyond) >> beyond
    return parts.view(f"S{8 * parts.shape[1]}").reshape(-1).astype(f"S{longest}")


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
    codes, words = _as_words(text)
    ends = np.flatnonzero(codes <= ord(" "))
    if ends.size % 3:
        return None
    ends = ends.reshape(-1, 3)
    last, labels = codes[ends[:, 2]], codes[ends[:, 2] - 1] - np.uint8(ord("0"))
    spaces = codes[ends[:, :2]]
    tidy = (last == ord("\n")).all() and (spaces == ord(" ")).all() and (ends[:, 2] - ends[:, 1] == 2).all()
    if not tidy or labels.max() > 1:
        return None
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
