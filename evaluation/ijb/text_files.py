"""Reads the text files of an IJB release into arrays at the speed of the disk, and names any line that is wrong.

The pair file of IJB-C has 15.7 million lines. Its numbers are converted by arithmetic on eight bytes at a time, a
megabyte of text at a time: three times faster than numpy's own readers, and without a data-frame library.
"""

from __future__ import annotations

import codecs
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.utils.decimal_digits import DIGITS_IN_A_WORD, each_byte, numbers_of_words, whole_number
from facekd.utils.foreign import shown
from facekd.utils.processes.children import usable_cores
from facekd.utils.text_arrays import require_room
from facekd.utils.wording import counted

BYTES_CHUNK = 1 << 20
MAX_MMAP_THRESHOLD = 30 << 20  # bytes; mallopt(3): glibc raises M_MMAP_THRESHOLD to at most 32 MB
SHORTEST_PAIR = 6  # bytes of the shortest line: two digits, a label, two spaces and a newline
POWERS_OF_TEN = np.array([10.0**digits for digits in range(DIGITS_IN_A_WORD + 1)])
LONGEST_NAME = 64  # bytes of a name that the fast parser takes
MAX_NAME = 512  # bytes of any name: arrays give each as much room as the longest takes
BYTE_ORDER_MARK = codecs.BOM_UTF8
Columns = tuple[np.ndarray, ...]


def read_pairs(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads `template template label` lines.

    Returns:
        first, second: integer (P,) template ids; is_same: bool (P,).

    Raises:
        DataError: an empty file, or a line that is not two whole numbers and 0 or 1.
    """
    # Room for as many lines as there can be; larger ids than int32 holds widen a column.
    path = Path(path)
    columns = [np.empty(path.stat().st_size // SHORTEST_PAIR + 1, dtype) for dtype in (np.int32, np.int32, bool)]
    count = 0
    for parts in _parse_runs(path, _parse_tidy_pairs, _parse_pairs):
        end = count + len(parts[0])
        for at, part in enumerate(parts):
            if part.dtype != columns[at].dtype:
                columns[at] = columns[at].astype(np.int64)
            columns[at][count:end] = part
        count = end
    if not count:
        raise DataError(f"{path}: is empty; expected `template template label` lines")
    first, second, is_same = (column[:count] for column in columns)
    return first, second, is_same


def read_named_numbers(path: str | os.PathLike[str], num_values: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Reads lines of a name and `num_values` numbers.

    Returns:
        names: bytes (N,); values (N, num_values) of `dtype`.

    Raises:
        DataError: an empty file, a line with more or fewer values, or with anything but numbers, or one name among many
            that is so long that an array of all would exhaust the memory.
    """
    kind = np.dtype(dtype)
    path, parts, count, longest = Path(path), [], 0, b""
    for part in _parse_runs(
        path,
        lambda text: _parse_tidy_named(text, num_values, kind),
        lambda text: _parse_named(text, num_values, kind),
    ):
        parts.append(part)
        # All names get the room of the longest.
        count, longest = count + len(part[0]), max(longest, part[0][np.char.str_len(part[0]).argmax()], key=len)
        require_room(longest, count, path.stat().st_size, path)
    if not parts:
        raise DataError(f"{path}: is empty; expected lines of a name and {counted(num_values, 'number')}")
    names, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return names, values


def read_template_subjects(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the TEMPLATE_ID and SUBJECT_ID of each row of a 1:N file (comma-separated, one header line).

    The columns are found by those names; if the header lacks them, the first two are taken, as other tools do.

    Returns:
        template ids, subject ids: int64 (rows,), one row for each face.

    Raises:
        DataError: no rows, or a row in which one of the two is missing or not a whole number.
    """
    path = Path(path)
    # The fast parser, else line by line.
    tidy = _parse_tidy_subjects(_text_of(path))
    if tidy is not None:
        return tidy
    lines = _split_lines(path)
    if len(lines) < 2:
        raise DataError(f"{path}: holds no rows; expected a header TEMPLATE_ID,SUBJECT_ID,... and one row a face")
    columns = _subject_columns(lines[0][1])
    last = max(columns) + 1
    values = []
    for number, line in lines[1:]:
        fields = line.split(b",", last)
        try:
            values.append([np.int64(whole_number(fields[column].strip(b" \"'"))) for column in columns])  # type: ignore[arg-type]
        except (TypeError, IndexError, OverflowError):
            raise DataError(
                f"{path}, line {number}: expected a row with whole TEMPLATE_ID and SUBJECT_ID: {_shown(line)}"
            ) from None
    table = np.array(values, np.int64)
    return table[:, 0].copy(), table[:, 1].copy()


def _split_lines(path: Path) -> list[tuple[int, bytes]]:
    """Returns (number from 1, line) of the lines that are not blank."""
    text = _text_of(path)
    return [(number, line.strip()) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]


def _text_of(path: Path) -> bytes:
    text = path.read_bytes()
    _refuse_utf16(path, text[:2])
    return text.removeprefix(BYTE_ORDER_MARK)


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path}: is UTF-16; convert it by `iconv -f UTF-16 -t UTF-8`")


def _subject_columns(header: bytes) -> list[int]:
    """Returns the columns of the template and of the subject."""
    names = [name.strip(b" \"'").upper() for name in header.split(b",")]
    return [names.index(name) if name in names else at for at, name in enumerate((b"TEMPLATE_ID", b"SUBJECT_ID"))]


def _parse_tidy_subjects(text: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Parses rows with as many fields as the header and unquoted ids of up to 8 digits; None if any differs."""
    header, _, body = text.replace(b"\r\n", b"\n").partition(b"\n")
    width = header.count(b",") + 1
    if not body or width < 2:
        return None
    text = body if body.endswith(b"\n") else body + b"\n"
    # Where each field ends; every row must have as many as the header.
    codes, words, _ = _as_words(text)
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
    """Returns all numbers of a text, or None if it contains anything else."""
    if np.dtype(dtype).kind == "i":
        # int() refuses "7.5" and 10^20; numpy would read the first as 7 and wrap the second. It takes 1_2 as 12.
        try:
            return None if b"_" in text else np.array(list(map(int, text.split())), dtype)
        except (ValueError, OverflowError):
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, dtype, sep=" ")
        except (ValueError, DeprecationWarning):
            return None


def _parse_runs(
    path: Path, parse_tidy: Callable[[bytes], Columns | None], parse_any: Callable[[bytes], Columns]
) -> Iterator[Columns]:
    """Yields the columns of each run of lines that has any: by the fast parser, else by the one for all lines.

    Raises:
        DataError: with the number of the line, if `parse_any` raises `_LineError`.
    """
    # Until glibc has seen a block of this size freed, it returns memory to the system and requests it for every run.
    np.empty(MAX_MMAP_THRESHOLD, np.uint8)
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(min(4, usable_cores())) as pool:
        _refuse_utf16(path, os.pread(file.fileno(), 2, 0))

        def parse(bounds: tuple[int, int]) -> Columns:
            begin, end = bounds
            text = os.pread(file.fileno(), end - begin, begin)  # not mapped: that costs more than the copy
            if b"\r" in text:  # this test takes a tenth of the time of replacing
                text = text.replace(b"\r\n", b"\n")
            if not text.endswith(b"\n"):
                text += b"\n"
            try:
                return parse_tidy(text) or parse_any(text)
            except _LineError as error:
                number = path.read_bytes()[:begin].count(b"\n") + error.offset + 1
                raise DataError(f"{path}, line {number}: expected {error}: {_shown(error.line)}") from None

        for columns in pool.map(parse, _line_bounds(file.fileno())):
            if len(columns[0]):
                yield columns


class _LineError(Exception):
    """Reports a line that is not what was `expected`; `offset` counts from the first line of the run."""

    def __init__(self, expected: str, offset: int, line: bytes) -> None:
        super().__init__(expected)
        self.offset = offset
        self.line = line


def _line_bounds(file: int) -> Iterator[tuple[int, int]]:
    """Yields (begin, end) of runs of whole lines, about a megabyte each."""
    size = os.fstat(file).st_size
    begin = len(BYTE_ORDER_MARK) if os.pread(file, len(BYTE_ORDER_MARK), 0) == BYTE_ORDER_MARK else 0
    while begin < size:
        end = min(begin + BYTES_CHUNK, size)
        while end < size:  # look for a newline from the last byte of the run on
            following = os.pread(file, 4096, end - 1)
            at = following.find(b"\n")
            end += at if at >= 0 else len(following) - 1
            if at >= 0:
                break
        yield begin, end
        begin = end


def _parse_named(text: bytes, num_values: int, dtype: np.dtype[Any]) -> Columns:
    """Parses any lines to (names, values (n, V))."""
    kind = "whole numbers" if dtype.kind == "i" else "numbers"
    names, rows = [], []
    for offset, line in enumerate(text.split(b"\n")):
        name, *tokens = line.split() or [b""]
        if not name:
            continue
        values = _numbers(b" ".join(tokens), dtype) if len(tokens) == num_values else None
        if len(name) > MAX_NAME:
            raise _LineError(f"a name of at most {MAX_NAME} bytes, found {len(name):,}", offset, line.strip())
        if values is None or len(values) != num_values:
            found = "" if len(tokens) == num_values else f", found {counted(len(tokens) + 1, 'column')}"
            raise _LineError(f"a name and {num_values} {kind}{found}", offset, line.strip())
        names.append(name)
        rows.append(values)
    return np.array(names, np.bytes_), np.array(rows, dtype).reshape(-1, num_values)


def _parse_tidy_named(text: bytes, num_values: int, dtype: np.dtype[Any]) -> Columns | None:
    """Parses lines of `stem.ending value ... value newline` with single spaces; None if any line differs.

    Values are whole numbers for an integer `dtype`, else decimals with digits on both sides of the point, 15 in all:
    their digits form a whole number below 2^53, and dividing it by a power of ten rounds correctly.
    """
    # Every line must have the same points and spaces, in the same order.
    codes, words, _ = _as_words(text)
    has_points = dtype.kind == "f"
    marks = np.flatnonzero((codes <= ord(" ")) | (codes == ord(".")))
    expected = b". " + (b". " if has_points else b" ") * num_values
    expected = np.frombuffer(expected[:-1] + b"\n", np.uint8)
    if marks.size % len(expected) or not marks.size:
        return None
    marks = marks.reshape(-1, len(expected))
    if (codes[marks] != expected).any():
        return None
    # The values lie between those marks.
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
        # Digits before and behind the point, and the sign.
        point = marks[:, 2 + stride * column]
        is_negative = codes[start] == ord("-")
        start = start + is_negative
        whole = _digits_to_numbers(words, start, point - start)
        fraction = _digits_to_numbers(words, point + 1, stop - point - 1)
        if whole is None or fraction is None or (stop - start).max() > 16:
            return None
        scale = POWERS_OF_TEN[stop - point - 1]
        number = (whole * scale + fraction) / scale
        values[:, column] = np.where(is_negative, -number, number) if is_negative.any() else number
    names = _gather_bytes(words, line_starts, marks[:, 1] - line_starts)
    return (names, values) if names is not None else None


def _as_words(text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (the bytes, the 8 bytes from each offset as a little-endian word, the 8 before it), padded with zeros."""
    padded = bytes(DIGITS_IN_A_WORD) + text + bytes(LONGEST_NAME + DIGITS_IN_A_WORD)
    words = np.ndarray((len(padded) - 7,), "<u8", buffer=padded, strides=(1,))
    return np.frombuffer(padded, np.uint8)[8 : 8 + len(text)], words[8:], words


def _gather_bytes(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """Gathers byte strings of 1 to LONGEST_NAME bytes; None if one is longer or empty."""
    longest = int(lengths.max())
    if lengths.min() < 1 or longest > LONGEST_NAME:
        return None
    parts = np.empty((len(starts), -(-longest // 8)), "<u8")
    for at in range(parts.shape[1]):
        left = np.clip(lengths - 8 * at, 0, 8).astype(np.uint64)
        beyond = np.uint64(64) - (left << np.uint64(3))  # bits; numpy gives 0 for a shift by all 64
        parts[:, at] = (words[starts + 8 * at] << beyond) >> beyond
    return parts.view(f"S{8 * parts.shape[1]}").reshape(-1).astype(f"S{longest}")


def _parse_pairs(text: bytes) -> Columns:
    """Parses any lines to (first, second, labels)."""
    rows = []
    for offset, line in enumerate(text.split(b"\n")):
        tokens = line.split()
        if not tokens:
            continue
        try:
            first, second, label = map(int, tokens)
            if label not in (0, 1) or max(abs(first), abs(second)) >= 1 << 62 or b"_" in line:  # int() takes 1_2 as 12
                raise ValueError
        except ValueError:
            expected = "`template template label`, three whole numbers with a label of 0 or 1"
            raise _LineError(expected, offset, line) from None
        rows.append((first, second, label))
    table = np.array(rows, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2].astype(bool)


def _parse_tidy_pairs(text: bytes) -> Columns | None:
    """Parses lines of exactly `digits space digits space 0-or-1 newline`, up to 8 digits; None if any line differs.

    Only the ends of lines are searched for. The second number ends three bytes before, and the word that holds it
    tells its length. The first number is converted only where it differs from that of the line before.
    """
    # The label, and the space before it.
    codes, words, words_before = _as_words(text)
    ends = np.flatnonzero(codes == ord("\n"))
    labels = codes[ends - 1] - np.uint8(ord("0"))
    if labels.max() > 1 or (codes[ends - 2] != ord(" ")).any():
        return None
    # The second number: the digits at the end of the word before that space.
    values = words_before[ends - 2]
    others = ~values & each_byte(0x10)  # no digit has this bit clear, and a space has
    for bits in (8, 16, 32):  # mark all bytes before the last non-digit
        others |= others >> np.uint64(bits)
    lengths = DIGITS_IN_A_WORD - np.bitwise_count(others).astype(np.int64)
    mask = ~((others >> np.uint64(4)) * np.uint64(0xFF))
    second = _word_to_numbers((values & mask) ^ (mask & each_byte(ord("0"))))
    if second is None or lengths.min() < 1:
        return None
    # The first number: from the start of the line to the space before the second.
    starts = np.concatenate([[0], ends[:-1] + 1])
    spaces = ends - 3 - lengths
    lengths = spaces - starts
    if lengths.min() < 1 or lengths.max() > DIGITS_IN_A_WORD or (codes[spaces] != ord(" ")).any():
        return None
    values = words[starts] << (64 - 8 * lengths).view(np.uint64)
    differs = (values[1:] != values[:-1]) | (lengths[1:] != lengths[:-1])
    lines = np.concatenate([[0], np.flatnonzero(differs) + 1])
    first = _digits_to_numbers(words, starts[lines], lengths[lines])
    if first is None:
        return None
    return np.repeat(first, np.diff(lines, append=len(ends))), second, labels.astype(bool)


def _digits_to_numbers(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
    """Converts 1 to 8 decimal digits at `starts` to int32; None if one is longer, empty, or not a number."""
    if lengths.min() < 1 or lengths.max() > DIGITS_IN_A_WORD:
        return None
    shift = (64 - 8 * lengths.astype(np.int64, copy=False)).view(np.uint64)
    return _word_to_numbers((words[starts] << shift) ^ (each_byte(ord("0")) << shift))


def _word_to_numbers(words: np.ndarray) -> np.ndarray | None:
    numbers = numbers_of_words(words)
    return None if numbers is None else numbers.astype(np.int32)


def _shown(line: bytes) -> str:
    """Returns a line as a message quotes it: at most 80 characters."""
    return f"'{shown(line.decode(errors='replace'), 80)}'"
