"""Writes a teacher's embeddings of images and their mirror images to a file; an interrupted run continues.

`facekd.teacher.cache_file` describes and reads the file; its public names are available here as well.

This is not a `facekd.files.resumable_file.ResumableFile`, because rows of one size need only a count, and because a
file begun with another teacher, which may be days of work, must be refused and not overwritten.

Shapes: N images of the data set, B images of a batch, E the teacher's embedding size.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets import FaceDataset
from facekd.data.loading.in_order import read_in_order
from facekd.embedder import Embedder, embed_with_flip
from facekd.errors import InUseError, TeacherError
from facekd.files.held_folders import check_held, held_folder, make_folder
from facekd.files.locks import is_file_at, lock_open_file
from facekd.files.reading import is_sealed, read_json, sealed
from facekd.files.syncing import sync_folder
from facekd.files.temporaries import open_own_file
from facekd.files.writing import write_json
from facekd.teacher.cache_file import (
    FORMAT,
    VERSION,
    TeacherCache,
    Trailer,
    beside,
    check_claim,
    check_version,
    checksums_of,
    describe_data,
    describe_teacher,
    find_fault_of_trailer,
    open_teacher_cache,
)
from facekd.teacher.config import CACHE_END
from facekd.utils.progress import track
from facekd.utils.typed_values import Range, find_fault
from facekd.utils.wording import agreeing, counted

__all__ = [
    "TeacherCache",
    "describe_data",
    "describe_teacher",
    "open_teacher_cache",
    "write_teacher_cache",
]

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
# Rounding to float16 moves a vector by at most 2^-11 of its length, unless its values become subnormal.
LARGEST_ROUNDING = 2.0**-10
SECONDS_BETWEEN_SAVES = 15.0
ROWS_CHUNK = 4096


def write_teacher_cache(
    path: str | os.PathLike[str],
    embedder: Embedder,
    dataset: FaceDataset,
    *,
    batch_size: int = 256,
    workers: int = 0,
    show_progress: bool = True,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
) -> TeacherCache:
    """Embeds a data set, or the rest of it after an interruption; opens a cache that is already complete.

    Args:
        path: the file to write; it appears when it is complete.
        embedder: the teacher. Images of another size are resized only if it was opened with `resize`.
        dataset: the images; the cache has a row for each, in the same order.
        batch_size: images per batch.
        workers: processes that read and decode; 0 reads and decodes in this process.
        show_progress: whether to show progress and the time left on standard error.
        seconds_between_saves: the most work, in seconds, that a kill can cost.

    Raises:
        InUseError: another process is writing it.
        TeacherError: `path` is the cache of another teacher or data set, the disk is too small, or the embeddings do
            not fit into half precision.
        DataError, ModelError: an image cannot be read or embedded.
    """
    # A complete cache is used if it belongs to this teacher and data set.
    path = Path(path)
    teacher, data = describe_teacher(embedder), describe_data(dataset)
    if path.exists():
        cache = TeacherCache(path)
        check_claim(path, cache.teacher, cache.data, teacher, data)
        # A run that was stopped right after it had finished the file left its progress.
        if not beside(path, "partial").exists():
            beside(path, "progress").unlink(missing_ok=True)
        return cache

    # Write what is missing, as the only process to do so.
    make_folder(path.parent)
    with held_folder(path.parent), _sole_writer(beside(path, "partial")) as stream:
        if not path.exists():  # another process may have finished it before this one got the lock
            writer = _Writer(path, stream, teacher, data, seconds_between_saves)
            if writer.rows_done and show_progress:
                print(f"{path}: continuing at image {writer.rows_done:,} of {data['num_images']:,}", file=sys.stderr)
            try:
                for images, indices, is_replaced in _read_from(
                    dataset, writer.rows_done, batch_size, workers, show_progress, path.name
                ):
                    writer.add(embed_with_flip(embedder, images), indices, is_replaced)
            finally:
                writer.save()  # also after an error or Ctrl-C, to keep what is done
            writer.complete()
    return TeacherCache(path)


def _read_from(
    dataset: FaceDataset, start: int, batch_size: int, workers: int, show_progress: bool, name: str
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]]:
    """Yields images from number `start` on, their numbers, and whether each was replaced by another image."""
    count = len(dataset)
    batches = read_in_order(dataset, start, count, batch_size, workers)
    if show_progress:
        batches = track(batches, f"embedding for {name}", count - start, batch_size)
    for batch in batches:
        indices = batch.positions.numpy()
        is_replaced = np.zeros(len(indices), dtype=np.bool_)
        if batch.bad_records:  # rare, so images are checked one by one only now
            dataset.take_bad_records()
            for place, index in enumerate(indices):
                dataset.load(np.array([index]))
                is_replaced[place] = bool(dataset.take_bad_records())
        yield batch.images.numpy(), indices, is_replaced


class Progress(TypedDict):
    """Describes the JSON of `FILE.progress`; of an earlier facekd it has no checksum."""

    trailer: Trailer
    rows_done: Annotated[int, Range(0)]


class _Writer:
    """Writes an unfinished cache: the rows to `FILE.partial`, and the number of rows on disk to `FILE.progress`."""

    def __init__(
        self, path: Path, stream: BinaryIO, teacher: dict[str, Any], data: dict[str, Any], seconds_between_saves: float
    ) -> None:
        self.path = path
        self.stream = stream
        self.teacher = teacher
        self.data = data
        self.row_bytes = 2 * teacher["embedding_size"] * 2
        self.rows_done = 0
        self.replaced: list[int] = []
        self.seconds_between_saves = seconds_between_saves
        self.last_save = time.monotonic()
        self._resume()
        needed = (data["num_images"] - self.rows_done) * self.row_bytes
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise TeacherError(
                f"{path}: needs {needed / 1e9:.1f} GB more and the disk has {free / 1e9:.1f} GB free; free some, or "
                "choose another --output"
            )
        stream.truncate(self.rows_done * self.row_bytes)  # the rest may be half a row
        stream.seek(0, os.SEEK_END)

    def _resume(self) -> None:
        file = beside(self.path, "progress")
        what, remedy = "the progress of a cache", f"delete it and {self.stream.name}"
        try:
            progress = read_json(file, what, remedy, ("trailer", "rows_done"), TeacherError)
        except FileNotFoundError:
            return
        claim, rows_done = progress["trailer"], progress["rows_done"]
        if isinstance(claim, dict):
            check_version(file, claim)
        fault = find_fault(progress, Progress) or find_fault_of_trailer({"checksums_crc32": 0, **claim})
        if not fault and "crc32" in progress and not is_sealed(progress):
            fault = "its checksum differs"
        if not fault and rows_done > claim["data"]["num_images"]:
            fault = f"its 'rows_done' is {rows_done:,}, of {counted(claim['data']['num_images'], 'image')}"
        if fault:
            raise TeacherError(f"{file}: damaged, not {what} ({fault}); {remedy}")
        partial = Path(self.stream.name)
        remedy = f"Give the one that it was begun with, or delete {partial.name} and {file.name} to start anew"
        check_claim(partial, claim["teacher"], claim["data"], self.teacher, self.data, remedy)
        size = os.fstat(self.stream.fileno()).st_size
        if size < rows_done * self.row_bytes:
            raise TeacherError(
                f"{self.stream.name}: holds {counted(size, 'byte')}, but {file.name} says that "
                f"{counted(rows_done, 'row')} of {counted(self.row_bytes, 'byte')} {agreeing(rows_done, 'is', 'are')} "
                "finished; delete both to start anew"
            )
        self.rows_done, self.replaced = rows_done, list(claim["replaced"])

    def add(
        self,
        embeddings: tuple[NDArray[np.float32], NDArray[np.float32]],
        indices: NDArray[np.int64],
        is_replaced: NDArray[np.bool_],
    ) -> None:
        """Appends the embeddings of the next images, plain and mirrored, each (B, E)."""
        rows = np.stack(embeddings, axis=1)
        self.stream.write(_to_float16(rows, indices).tobytes())
        self.rows_done += len(indices)
        self.replaced += indices[is_replaced].tolist()
        if time.monotonic() - self.last_save >= self.seconds_between_saves:
            self.save()

    def save(self) -> None:
        """Syncs the rows to disk, then records their number, so that every recorded row survives a power cut."""
        if not self.rows_done:
            return  # a file without rows does not belong to this teacher yet
        check_held(self.path)
        if not is_file_at(self.stream, Path(self.stream.name)):
            raise TeacherError(
                f"{self.stream.name}: was deleted or moved while it was written; run the same command again"
            )
        self._sync()
        progress = {"trailer": self._trailer(), "rows_done": self.rows_done}
        write_json(beside(self.path, "progress"), sealed(progress))
        self.last_save = time.monotonic()

    def complete(self) -> None:
        """Writes checksums and trailer, and gives the file its final name."""
        self.stream.flush()
        shape = (self.data["num_images"], 2, self.teacher["embedding_size"])
        rows = np.memmap(self.stream.name, "<f2", "r", shape=shape)
        checksums = np.concatenate([checksums_of(rows[i : i + ROWS_CHUNK]) for i in range(0, len(rows), ROWS_CHUNK)])
        trailer = sealed({**self._trailer(), "checksums_crc32": zlib.crc32(checksums.data)})
        text = json.dumps(trailer).encode() + b"\n"
        self.stream.write(checksums.tobytes() + text + f"{len(text):016x}".encode() + CACHE_END)
        self._sync()
        Path(self.stream.name).replace(self.path)
        sync_folder(self.path.parent)
        beside(self.path, "progress").unlink(missing_ok=True)

    def _trailer(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "teacher": self.teacher,
            "data": self.data,
            "replaced": self.replaced,
        }

    def _sync(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())


def _to_float16(rows: NDArray[np.float32], indices: NDArray[np.int64]) -> NDArray[np.float16]:
    """Rounds embeddings (B, 2, E) to float16; refuses values that would lose more than its last digit."""
    # Values beyond the range of float16 would become infinite.
    largest = np.abs(rows).max(axis=(1, 2))
    if (largest > LARGEST_FLOAT16).any():
        first = int((largest > LARGEST_FLOAT16).argmax())
        raise TeacherError(
            f"the teacher's embedding of image {indices[first]} holds the value {largest[first]:,.0f}, beyond half "
            f"precision's {LARGEST_FLOAT16:,.0f}: a cache cannot hold this teacher's un-normalised embeddings. "
            "Export it with --normalize, or distil with the teacher itself"
        )

    # Values of short embeddings become subnormal, and rounding them changes the direction.
    halves = rows.astype("<f2")
    lengths = np.linalg.norm(rows, axis=2)
    errors = np.linalg.norm(halves.astype(np.float32) - rows, axis=2)
    if not (errors <= LARGEST_ROUNDING * lengths).all() or not lengths.all():
        image = int((~(errors <= LARGEST_ROUNDING * lengths) | (lengths == 0)).any(axis=1).argmax())
        shortest = float(lengths[image].min())
        problem = "has no direction" if shortest == 0 else "is too short for half precision"
        raise TeacherError(
            f"the teacher's embedding of image {indices[image]} {problem} (its length is {shortest:.3g}): the model is "
            "broken, its preprocessing wrong, or it needs to be exported with --normalize"
        )
    return halves


@contextmanager
def _sole_writer(partial: Path) -> Iterator[BinaryIO]:
    """Opens `FILE.partial` for this process alone; the lock ends with the process, however that ends."""
    with open_own_file(partial) as stream:
        if not lock_open_file(stream):
            raise InUseError(f"{partial}: another process is writing this cache; wait until it has ended")
        try:
            yield stream
        finally:
            with suppress(FileNotFoundError):  # it already has its final name
                if partial.stat().st_size == 0:
                    partial.unlink()
