"""Reads and writes the text of `.idx` files, lines of `key<tab>offset`, without a Python step per line."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from facekd.errors import RecordError
from facekd.files.reading import read_text_file
from facekd.files.writing import atomic_open
from facekd.utils.decimal_digits import DIGITS_IN_A_WORD, each_byte, numbers_of_words
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

TAB, NEWLINE = b"\t\n"
BYTES_CHUNK = 1 << 18  # fits in the cache of the processor
MAX_LINE = 64  # bytes; a key and an offset of 16 digits each take 34
MIN_LINES_IN_A_RUN = 64  # on average; with fewer, numpy's reader is faster
RUNS_TO_TRY = 64
MAX_DIGITS = 18  # of a number that fits in 64 bits


def parse_idx(idx_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads keys and offsets, int64 (N,) each, from an `.idx` file with lines of `key<tab>offset`.

    Raises:
        RecordError: the file is empty, a line is not two whole numbers, or an offset is impossible.
    """
    if idx_path.stat().st_size == 0:
        raise RecordError(f"{idx_path} is empty: delete it, and make it again from the .rec by `facekd data index`")
    # From the fastest reader, which takes what writers write, to the one that takes most.
    keys, offsets = _parse_runs(idx_path) or _parse_plain(idx_path.read_bytes()) or _parse_any(idx_path)
    wrong = np.flatnonzero((offsets < 0) | (offsets & 3 != 0))
    if len(wrong):
        row = int(wrong[0])
        raise RecordError(
            f"{idx_path}, line {row + 1}: key {keys[row]} has offset {offsets[row]}, and records start at "
            "multiples of 4 bytes: this is not the index of a RecordIO file, or it is corrupt",
            key=int(keys[row]),
            offset=int(offsets[row]),
        )
    return keys, offsets


def write_idx(idx_path: Path, keys: np.ndarray, offsets: np.ndarray) -> None:
    """Writes an `.idx` file atomically, as mxnet does: lines of `key<tab>offset` in the given order."""
    with atomic_open(idx_path) as stream:
        write_idx_lines(stream, keys, offsets)


def write_idx_lines(stream: BinaryIO, keys: np.ndarray, offsets: np.ndarray) -> None:
    """Writes what `write_idx` does to an open file."""
    for start in range(0, len(keys), 1 << 16):
        rows = zip(keys[start : start + (1 << 16)].tolist(), offsets[start : start + (1 << 16)].tolist(), strict=True)
        stream.write("".join(f"{key}\t{offset}\n" for key, offset in rows).encode())


def _parse_runs(idx_path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads an index in the form in which writers leave it; returns None if it has another form.

    Both numbers grow along the file, so lines of equal widths follow each other in long runs. Within a run, each number
    is the same number of bytes after the one before. So eight digits of all of them are one array of 64-bit words.
    """
    codes = np.zeros(BYTES_CHUNK + DIGITS_IN_A_WORD, dtype=np.uint8)  # a word may start at the last digit
    # Room for as many of the shortest lines as fit in the file; pages that are not used take no memory.
    most = idx_path.stat().st_size // len(b"0\t0\n") + 1
    keys, offsets = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    num_lines = num_runs = filled = 0
    with idx_path.open("rb", buffering=0) as stream:
        while True:
            # Fill up the buffer behind what is left of the last line.
            num_read = stream.readinto(codes.data[filled:BYTES_CHUNK])
            filled += num_read
            if num_read == 0 and filled:
                codes[filled] = NEWLINE  # the last line may lack it
                filled += 1
            if filled == 0:
                break
            # Read run after run, up to the last whole line.
            begin = 0
            end = _end_of_lines(codes, filled)
            while begin < end:
                length, key_width, width = _run(codes, begin, end)
                if length == 0 or num_lines + length > most:
                    return None
                for column, start, stop in ((keys, 0, key_width), (offsets, key_width + 1, width - 1)):
                    numbers = _numbers_in_column(codes, begin + start, stop - start, width, length)
                    if numbers is None:
                        return None
                    column[num_lines : num_lines + length] = numbers
                begin += length * width
                num_lines += length
                num_runs += 1
                # Short runs mean another kind of file.
                if num_runs > RUNS_TO_TRY and num_lines < MIN_LINES_IN_A_RUN * num_runs:
                    return None
            if begin == 0:
                return None  # a line longer than the buffer
            codes[: filled - begin] = codes[begin:filled].copy()
            filled -= begin
    return keys[:num_lines], offsets[:num_lines]


def _end_of_lines(codes: np.ndarray, filled: int) -> int:
    """Returns where the last whole line among the first `filled` bytes ends; 0 if there is none."""
    tail = codes[max(filled - MAX_LINE, 0) : filled]
    newlines = np.flatnonzero(tail == NEWLINE)
    return filled - len(tail) + int(newlines[-1]) + 1 if len(newlines) else 0


def _run(codes: np.ndarray, begin: int, end: int) -> tuple[int, int, int]:
    """Returns how many lines from `begin` on have the widths of the first, then the widths of key and line; else 0s."""
    head = codes[begin : begin + MAX_LINE].tobytes()
    width = head.find(b"\n") + 1
    key_width = head.find(b"\t", 0, width)
    if width == 0 or key_width < 1:
        return 0, 0, 0
    length = (end - begin) // width
    lines = codes[begin : begin + length * width].reshape(length, width)
    is_alike = (lines[:, key_width] == TAB) & (lines[:, -1] == NEWLINE)
    return length if is_alike.all() else int(is_alike.argmin()), key_width, width


def _numbers_in_column(codes: np.ndarray, begin: int, num_digits: int, stride: int, count: int) -> np.ndarray | None:
    """Reads `count` numbers of `num_digits` digits, `stride` bytes apart, as int64; None if they are not digits."""
    if not 1 <= num_digits <= 2 * DIGITS_IN_A_WORD:
        return None
    in_last = min(num_digits, DIGITS_IN_A_WORD)
    numbers = _digits(codes, begin + num_digits - in_last, in_last, stride, count)
    if num_digits > in_last:
        high = _digits(codes, begin, num_digits - in_last, stride, count)
        if high is None or numbers is None:
            return None
        numbers += high * np.uint64(10**DIGITS_IN_A_WORD)
    return None if numbers is None else numbers.view(np.int64)


def _digits(codes: np.ndarray, begin: int, num_digits: int, stride: int, count: int) -> np.ndarray | None:
    """Reads numbers of up to eight digits like `_numbers_in_column`: their characters are one 64-bit word."""
    words = np.ndarray((count,), "<u8", codes.data, begin, (stride,)) ^ each_byte(ord("0"))
    words <<= np.uint64(
        8 * (DIGITS_IN_A_WORD - num_digits)
    )  # shifts out what follows the digits, and puts zeros before them
    return numbers_of_words(words)


def _parse_plain(content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads lines of digits, a tab and digits, in any order, twice as fast as `loadtxt`; None for other lines."""
    content = content.replace(b"\r\n", b"\n")
    if not content.endswith(b"\n"):
        content += b"\n"
    # A tab and the end of a line take turns, and digits alone stand between them.
    num_lines = content.count(b"\n")
    if content.translate(None, b"0123456789") != b"\t\n" * num_lines:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's report of text that it cannot read
        try:
            numbers = np.fromstring(content, dtype=np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    # Nothing stood between two of them, or numpy cut a number to the largest that it holds.
    if len(numbers) != 2 * num_lines or numbers.max() >= 10**MAX_DIGITS:
        return None
    return _columns(numbers.reshape(num_lines, 2))


def _parse_any(idx_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads lines with spaces, empty lines and the like; raises an error that names the line for anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # before numpy 2.3 it reads 1.5 as 1, and warns
        try:
            text = read_text_file(idx_path, error=RecordError)
            if not text.strip():
                raise RecordError(f"{idx_path} holds no lines: delete it, and make it again by `facekd data index`")
            if not text.isascii():  # numpy takes some letters of other scripts for digits of thousands
                raise ValueError("it holds letters of another script")
            table = np.loadtxt(io.StringIO(text), dtype=np.int64, ndmin=2, comments=None)
        except (ValueError, OverflowError, DeprecationWarning) as error:
            raise RecordError(_wrong_line(idx_path, shown(error))) from error
    if table.shape[1] != 2:
        raise RecordError(_wrong_line(idx_path, f"its lines hold {counted(table.shape[1], 'number')}"))
    return _columns(table)


def _wrong_line(idx_path: Path, problem: str) -> str:
    """Returns a message that names the first line which is not two whole numbers; the problem if there is none."""
    for number, line in enumerate(read_text_file(idx_path, error=RecordError).split("\n"), start=1):
        if line.strip() and not re.fullmatch(r"\s*[-+]?\d{1,18}\s+[-+]?\d{1,18}\s*", line, re.ASCII):
            problem = f"line {number} is '{shown(line, 80)}'"
            break
    return f"{idx_path} is not an index, which has lines of `key<tab>offset`: {problem}"


def _columns(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
