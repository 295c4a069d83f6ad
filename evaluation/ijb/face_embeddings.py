"""Embeds the faces of a set whose images a list names, such as an IJB-style one: embedded once, kept on disk.

Embeddings lie in .npy files with one row for each listed image, beside a file of stamps, written after the row: the
stamp of the image it was made from (`stamp_of`) and the CRC-32 of the row. So a run killed at any moment continues from
what it had, several processes may fill the same files, and a replaced image or a damaged row is embedded again.
Shapes: N images, D values.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from evaluation.kept_arrays import name_of
from evaluation.sets.embedding_rows import NpyRows
from facekd.embedder import Embedder
from facekd.embedder.quality import QualityEmbedder
from facekd.errors import DataError, ImageError, is_device_failure
from facekd.files.held_folders import check_held
from facekd.files.mapped_arrays import create_npy, map_for_writing
from facekd.files.reading import require_regular_file, stamp_of
from facekd.files.writing import atomic_path, write_json
from facekd.images.preprocessing import mirror
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.threads import generator_threads
from facekd.utils.progress import track
from facekd.utils.wording import agreeing, counted

IMAGES_CHUNK = 128
BATCHES_AHEAD = 2  # batches decoded and aligned while the model runs
ROWS_CHUNK = 4096
SECONDS_BETWEEN_STAMPS = 5.0  # the most work that a kill loses
MAX_FLOAT16 = 65504.0
STAMP_SIZE = len(stamp_of(None))


class FaceImages(Protocol):
    """Provides N listed images as aligned faces."""

    @property
    def fingerprint(self) -> str:
        """Returns a digest of what the images are called, and of how they become faces."""
        ...

    @property
    def num_listed(self) -> int:
        """Returns N."""
        ...

    def image_name(self, image: int) -> str:
        """Returns the name of an image, for messages."""
        ...

    def image_path(self, image: int) -> Path:
        """Returns the file of an image."""
        ...

    def read_face(self, image: int, size: int) -> np.ndarray:
        """Reads an image as an aligned face, uint8 RGB (size, size, 3); raises ImageError or OSError."""
        ...


@dataclass(frozen=True)
class Share:
    """Describes this process's share of the batches: every `size`-th from `rank` on; by default all."""

    rank: int = 0
    size: int = 1


EVERYTHING = Share()


class FaceEmbeddings:
    """Manages the files with one model's embeddings of one set.

    Args:
        folder: folder of the files; created if missing.
        embedder: the model.
        protocol: the set.
        flip: whether to embed the mirror images too.
        dtype: float32, or float16 for half the space.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        embedder: Embedder,
        protocol: FaceImages,
        flip: bool,
        dtype: str = "float32",
    ) -> None:
        self.protocol, self.embedder, self.dtype = protocol, embedder, np.dtype(dtype)
        self.digest = _digest(embedder, protocol, self.dtype)
        self.sides = ("plain", "mirrored") if flip else ("plain",)
        self._folder = Path(folder)

    def prepare(self) -> None:
        """Creates the missing files; one process calls this before any process calls `missing`."""
        about = {
            "model": self.embedder.fingerprint,
            "protocol": self.protocol.fingerprint,
            "rows": self.protocol.num_listed,
            "embedding_size": self.embedder.embedding_size,
            "dtype": self.dtype.name,
            "opencv": cv2.__version__,
        }
        write_json(self._folder / f"{self.digest}.json", about)
        # Embeddings and stamps belong together: if one is damaged, both start anew.
        for side in self.sides:
            wanted = {
                self._file(side): (self.dtype, (self.protocol.num_listed, self.embedder.embedding_size)),
                self._file(f"{side}-stamps"): (np.dtype(np.int64), (self.protocol.num_listed, STAMP_SIZE + 1)),
            }
            if not all(_is_sound(path, *kind) for path, kind in wanted.items()):
                for path, (dtype, shape) in wanted.items():
                    with atomic_path(path) as temporary:
                        create_npy(temporary, dtype, shape).flush()

    def missing(self, images: np.ndarray) -> np.ndarray:
        """Returns those of these images (rows) without a sound embedding, or whose file has changed since it was made.

        Reads the embeddings, to check them; damaged ones are counted in a printed line.
        """
        stamps = self.stamps_of_files(images)
        done = np.ones(len(images), bool)
        for side in self.sides:
            kept = np.load(self._file(f"{side}-stamps"), mmap_mode="r")[images]
            is_stamped = (kept[:, :-1] == stamps).all(axis=1)
            embeddings = np.load(self._file(side), mmap_mode="r")
            is_sound = np.ones(len(images), bool)
            for start in range(0, len(images), ROWS_CHUNK):
                part = slice(start, start + ROWS_CHUNK)
                is_sound[part] = _checksums(embeddings[images[part]], self._seed(side)) == kept[part, -1]
            if num_damaged := int((is_stamped & ~is_sound).sum()):
                print(
                    f"{self._file(side)}: {counted(num_damaged, 'row is', 'rows are')} damaged; embedding "
                    f"{agreeing(num_damaged, 'it', 'them')} again",
                    file=sys.stderr,
                )
            done &= is_stamped & is_sound
        return images[~done]

    def fill(
        self,
        images: np.ndarray,
        share: Share = EVERYTHING,
        workers: int | None = None,
        qualities: FaceQualities | None = None,
    ) -> None:
        """Embeds these images, or this process's share of them; images that cannot be read stay missing.

        Args:
            images: (n,) their numbers.
            share: this process's share.
            workers: threads that decode and align; None means one per core, at most 8.
            qualities: where the qualities of these images go, too, which the same pass of the model gives.

        Raises:
            DataError: an embedding beyond the range of float16.
            ModelError: the model fails, or returns values that are not finite.
        """
        batches = [images[start : start + IMAGES_CHUNK] for start in range(0, len(images), IMAGES_CHUNK)]
        mine = batches[share.rank :: share.size]
        if not mine:
            return
        own, more = self._open_files(), {} if qualities is None else qualities._open_files()
        every = [*own.values(), *more.values()]
        # Rows are stamped every few seconds, once they are safely on the disk.
        pending: list[tuple[np.ndarray, np.ndarray]] = []
        last = time.monotonic()

        def stamp_rows() -> None:
            check_held(self._folder)
            for array, _, _ in every:
                array.flush()  # the rows before their stamps, so that a power cut cannot leave a stamp alone
            for rows, found in pending:
                for array, stamps, seed in every:
                    stamps[rows] = np.column_stack([found, _checksums(array[rows], seed)])
            pending.clear()

        # Embed batch by batch, the next ones loading meanwhile; whatever ends this, the rows done are stamped.
        try:
            loaded = self._load_ahead(mine, workers or min(8, usable_cores()))
            if share.rank == 0:
                loaded = track(loaded, "embedding faces", sum(map(len, mine)), IMAGES_CHUNK)
            for rows, crops, found in loaded:
                if not len(rows):
                    continue
                for side, (array, _, _) in own.items():
                    if side == "plain" and qualities is not None:
                        made, more[side][0][rows] = qualities.scorer.embed_with_quality(crops)
                    else:
                        made = self.embedder.embed(mirror(crops) if side == "mirrored" else crops)
                    array[rows] = self._checked(made, rows)
                pending.append((rows, found))
                if time.monotonic() - last > SECONDS_BETWEEN_STAMPS:
                    stamp_rows()
                    last = time.monotonic()
        finally:
            stamp_rows()

    def why_unreadable(self, image: int) -> str:
        """Says why an image stayed missing."""
        found = self._load(image)
        return found if isinstance(found, str) else "it could not be read before, and can now; run again"

    def rows(self) -> NpyRows:
        """Opens the embeddings, for pooling."""
        mirrored = self._file("mirrored") if "mirrored" in self.sides else None
        return NpyRows(self._file("plain"), mirrored, False, self.protocol.num_listed)

    def _open_files(self) -> dict[str, tuple[np.memmap[Any, Any], np.memmap[Any, Any], int]]:
        """Opens the files for writing: for each side the rows, their stamps, and the seed of their checksums."""
        return {
            side: (map_for_writing(self._file(side)), map_for_writing(self._file(f"{side}-stamps")), self._seed(side))
            for side in self.sides
        }

    def _seed(self, side: str) -> int:
        """Returns what the checksums of rows begin with, so that rows of another model or side are not these."""
        return zlib.crc32(self._file(side).name.encode())

    def _file(self, kind: str) -> Path:
        return self._folder / f"{self.digest}-{kind}.npy"

    def stamps_of_files(self, images: np.ndarray) -> np.ndarray:
        """Returns the stamps of the image files: int64 (n, STAMP_SIZE), -1 without a file."""
        stamps = np.zeros((len(images), STAMP_SIZE), np.int64)
        for position, image in enumerate(images.tolist()):
            try:
                stamps[position] = stamp_of(self.protocol.image_path(image))
            except OSError:
                continue
        stamps[(stamps == 0).all(axis=1)] = -1  # no file: never equal to a row's
        return stamps

    def _load_ahead(
        self, batches: Sequence[np.ndarray], workers: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (rows, crops, stamps) of the readable images of each batch, made while the caller is busy."""
        with generator_threads(workers) as pool:
            ahead: deque[tuple[np.ndarray, np.ndarray, list[Future[Any]]]] = deque()
            waiting = iter(batches)
            while True:
                # Keep the threads busy a few batches ahead.
                while len(ahead) <= BATCHES_AHEAD and (batch := next(waiting, None)) is not None:
                    futures = [pool.submit(self._load, image) for image in batch.tolist()]
                    ahead.append((batch, self.stamps_of_files(batch), futures))
                if not ahead:
                    return
                # Hand over the oldest batch, without the images that could not be read.
                batch, stamps, futures = ahead.popleft()
                faces = [future.result() for future in futures]
                good = np.array([not isinstance(face, str) for face in faces])
                crops = [face for face in faces if not isinstance(face, str)]
                yield batch[good], np.stack(crops) if crops else np.zeros(0, np.uint8), stamps[good]

    def _load(self, image: int) -> np.ndarray | str:
        """Returns the aligned crop, or what is wrong with the image."""
        try:
            return self.protocol.read_face(image, self.embedder.preprocessing.image_size)
        except ImageError as error:
            return str(error)
        except OSError as error:
            if is_device_failure(error):
                raise
            return str(error.strerror)

    def _checked(self, embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns the embeddings, after checking that the type of the file can hold them."""
        if self.dtype == np.float16:
            largest = np.abs(embeddings).max(axis=1)
            if (largest > MAX_FLOAT16).any():
                row = int(rows[np.argmax(largest)])
                raise DataError(
                    f"the embedding of {self.protocol.image_name(row)} holds {largest.max():.3g}, more than float16 "
                    f"can ({MAX_FLOAT16:g}); --embedding-dtype float32"
                )
        return embeddings


class FaceQualities(FaceEmbeddings):
    """Manages the files with what one model says of the quality of the images of a set: embeddings of one value.

    Args:
        folder: folder of the files; created if missing.
        scorer: the model.
        protocol: the set.
    """

    def __init__(self, folder: str | os.PathLike[str], scorer: QualityEmbedder, protocol: FaceImages) -> None:
        super().__init__(folder, scorer, protocol, flip=False)
        self.scorer = scorer


def _digest(embedder: Embedder, protocol: FaceImages, dtype: np.dtype[Any]) -> str:
    text = f"{embedder.fingerprint} {protocol.fingerprint} {dtype} OpenCV {cv2.__version__.split('.')[0]}"
    return name_of([text.encode()])


def _checksums(rows: np.ndarray, seed: int) -> np.ndarray:
    """Returns the CRC-32 of each row (n, D), begun with `seed`: int64 (n,)."""
    return np.array([zlib.crc32(row, seed) for row in np.ascontiguousarray(rows)], np.int64)


def _is_sound(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Tells whether a file holds an array of this kind; says so if it is there and does not."""
    # Compare the header as bytes, because numpy's parser meets a damaged one with any kind of exception.
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    size = len(header.getvalue()) + dtype.itemsize * math.prod(shape)
    try:
        require_regular_file(path)
        with path.open("rb") as stream:
            is_of_kind = stream.read(len(header.getvalue())) == header.getvalue()
            is_sound = is_of_kind and os.fstat(stream.fileno()).st_size == size
    except FileNotFoundError:
        return False
    except (OSError, DataError):
        is_sound = False
    if not is_sound:
        kind = f"an array of {dtype} {shape}"
        print(f"{path}: is damaged or from another version, not {kind}; embedding again", file=sys.stderr)
    return is_sound
