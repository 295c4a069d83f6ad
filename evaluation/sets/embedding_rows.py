"""Reads embeddings from .npy files a block of rows at a time, so that gigabytes never lie in memory at once.

Shapes: N images, D embedding values.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import DataError
from facekd.files.npy_files import read_open_npy
from facekd.files.reading import require_regular_file
from facekd.utils.wording import counted

# How far the halves of a row agree beyond those of different rows, from 0 to 1: an image and its mirror image agree
# well, the halves of one embedding as little as those of strangers.
HALVES_AGREE, HALVES_DIFFER = 0.3, 0.2
STANDARD_ERRORS = 2  # by which few rows must clear these bounds
MAX_ROWS_COMPARED = 4096  # rows whose halves are compared


class NpyRows:
    """Opens embeddings (N, D), or (N, 2D) with those of the mirror images behind, in one or two .npy files.

    Args:
        path: file of the embeddings.
        mirrored_path: file of the mirror images' embeddings, (N, D); None if `path` holds them or there are none.
        holds_flipped: whether rows of `path` are (plain, mirrored); None decides by whether the halves agree.
        num_rows: expected N.
        rows_are: what the rows go by, for messages.

    Raises:
        DataError: not a .npy file of numbers, another shape, or halves that neither agree nor differ.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mirrored_path: str | os.PathLike[str] | None = None,
        holds_flipped: bool | None = False,
        num_rows: int | None = None,
        rows_are: str = "one for each image that the set lists, by the lines of *_name_5pts_score.txt",
    ) -> None:
        self.path = Path(path)
        self._plain = _OpenNpy(self.path, num_rows, rows_are)
        self._mirrored = None if mirrored_path is None else _OpenNpy(Path(mirrored_path), num_rows, rows_are)
        width = self._plain.shape[1]
        if holds_flipped is None:
            holds_flipped = width % 2 == 0 and halves_agree(self._sample(), self.path)
        if holds_flipped and width % 2:
            raise DataError(f"{path}: rows of {counted(width, 'value')} cannot be two embeddings of equal size")
        self._is_split = holds_flipped
        self.embedding_size = width // 2 if holds_flipped else width
        self.has_flipped = holds_flipped or self._mirrored is not None
        if self._mirrored is not None and self._mirrored.shape != self._plain.shape:
            raise DataError(
                f"{mirrored_path}: holds {self._mirrored.shape}, and {path} {self._plain.shape}; expected the same"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Returns the shape of the array in the file."""
        return self._plain.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Returns the type of the array in the file."""
        return self._plain.dtype

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads rows `start` to `stop`: plain (n, D), and mirrored (n, D) or None."""
        block = self._plain.read(start, stop)
        if self._is_split:
            return block[:, : self.embedding_size], block[:, self.embedding_size :]
        return block, None if self._mirrored is None else self._mirrored.read(start, stop)

    def _sample(self) -> np.ndarray:
        """Returns rows spread evenly over the file."""
        num_rows = self._plain.shape[0]
        if num_rows <= MAX_ROWS_COMPARED:
            return self._plain.read(0, num_rows)
        step = num_rows // MAX_ROWS_COMPARED
        return np.concatenate([self._plain.read(row, row + 1) for row in range(0, num_rows, step)])


def halves_agree(rows: np.ndarray, path: Path) -> bool:
    """Tells whether the halves of rows (n, 2D) are an image and its mirror image, or parts of one embedding.

    The two halves of a row are compared, and as a control halves of different rows: values that are never negative, or
    that share a large mean, make any two halves alike. Of the distance from the control to full agreement, halves that
    are an image and its mirror image cover most, and parts of one embedding nothing.

    Raises:
        DataError: it cannot be told.
    """
    size = rows.shape[1] // 2
    # Rows without direction say nothing about mirroring.
    with np.errstate(over="ignore", invalid="ignore"):
        first, second = rows[:, :size].astype(np.float64), rows[:, size:].astype(np.float64)
        lengths = [np.linalg.norm(half, axis=1) for half in (first, second)]
        product = lengths[0] * lengths[1]
    usable = np.isfinite(product) & (product > 0)
    if not usable.any():
        return False
    first, second = (half[usable] / own[usable, None] for half, own in zip((first, second), lengths, strict=True))
    # Halves of one row, and the mean over all halves of different rows.
    own = np.einsum("nd,nd->n", first, second)
    count = len(own)
    others = (first.sum(axis=0) @ second.sum(axis=0) - own.sum()) / max(count * (count - 1), 1)
    room = 1 - others
    found = f"those of a row have a mean cosine of {own.mean():.2f}"
    if count > 1 and room > 1e-9:
        found += f", those of different rows {others:.2f}"
        agreement, error = (own.mean() - others) / room, STANDARD_ERRORS * own.std() / np.sqrt(count) / room
        if agreement - error >= HALVES_AGREE:
            what = f"an image and its mirror image, {counted(size, 'value')} each"
            print(f"{path}: rows taken as {what} (of their halves, {found})", file=sys.stderr)
            return True
        if abs(agreement) + error <= HALVES_DIFFER:
            what = f"one embedding of {counted(2 * size, 'value')}"
            print(f"{path}: rows taken as {what} (of their halves, {found})", file=sys.stderr)
            return False
    raise DataError(
        f"{path}: it cannot be told whether rows of {counted(2 * size, 'value')} are one embedding, or an image and "
        f"its mirror image: of their halves, {found}; say which with --embeddings-flipped or --no-embeddings-flipped"
    )


class _OpenNpy:
    """Reads rows of a .npy file without mapping it: mapped pages would count as memory used."""

    def __init__(self, path: Path, num_rows: int | None, rows_are: str) -> None:
        self.path = path
        # Whatever the path stands for later, header and rows are of one file.
        require_regular_file(path)
        with path.open("rb") as stream:
            array = read_open_npy(stream, path, "write it by np.save", "r")
            self._file = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._file)
        if not isinstance(array, np.memmap) or array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
            shape = getattr(array, "shape", None)
            raise DataError(f"{path}: expected real numbers (N, D), found {getattr(array, 'dtype', '')} {shape}")
        if num_rows is not None and len(array) != num_rows:
            raise DataError(f"{path}: holds {counted(len(array), 'row')}; expected {num_rows:,}, {rows_are}")
        self.shape: tuple[int, int] = array.shape
        self.dtype = array.dtype
        self._whole = None if array.flags.c_contiguous else array
        self._offset = array.offset

    def read(self, start: int, stop: int) -> np.ndarray:
        width = self.shape[1]
        if self._whole is not None:
            return np.array(self._whole[start:stop])
        row_bytes = width * self.dtype.itemsize
        values = os.pread(self._file, (stop - start) * row_bytes, self._offset + start * row_bytes)
        if len(values) != (stop - start) * row_bytes:
            raise DataError(f"{self.path}: ends before row {stop:,}; it was cut short while in use")
        return np.frombuffer(values, self.dtype).reshape(-1, width)
