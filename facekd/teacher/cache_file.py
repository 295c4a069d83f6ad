"""Reads a teacher cache: a memory-mapped file with a teacher's embeddings of a training set.

The file holds float16 (N, 2, E), row after row, [plain, mirrored], from byte 0; then uint32 (N, 2), the CRC-32 of each
embedding; then a trailer, one line of JSON that names the teacher and the data set and has the checksums of itself and
of those; then the length of that JSON in 16 hexadecimal digits, and the 16 bytes `facekd teacher` and two line ends.
The trailer is written last, so a file that has one is complete. Until then the rows are in `FILE.partial`, and
`FILE.progress` says how many are finished: after a kill or a power cut the same command continues from there.
docs/method.md says what half precision costs. Version 1 had no checksums, and is still read.

This is not a `facekd.files.array_file`, because rows are appended as they are computed, and because only the end shows
which images were replaced. Nobody would verify one checksum of tens of gigabytes; `lookup` verifies what it returns.

Shapes: N images of the data set, B images asked for, E the teacher's embedding size.
"""

from __future__ import annotations

import json
import os
import re
import weakref
import zlib
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.data.datasets import FaceDataset
from facekd.data.datasets.identity_map import images_sha256, labels_sha256
from facekd.embedder import Embedder
from facekd.errors import InputError, TeacherError
from facekd.files.reading import is_sealed
from facekd.teacher.config import CACHE_END
from facekd.utils.foreign import shown
from facekd.utils.typed_values import Plain, Range, find_fault
from facekd.utils.wording import counted
from facekd.verification.scores import unit_rows

FORMAT, VERSION = "facekd-teacher-cache", 2
END_LENGTH = 16 + len(CACHE_END)
HEXADECIMAL = re.compile(rb"[0-9a-f]{16}")
FREE_TRAILER_BYTES = 1 << 16
LARGEST_EMBEDDING = 1 << 20  # values; twice as many half-precision numbers make a row
REMEDY = "delete it and make it again with `facekd cache-teacher`"


class Teacher(TypedDict):
    """Describes the teacher of a cache; `describe_teacher` makes it."""

    fingerprint: str
    embedding_size: Annotated[int, Range(1, LARGEST_EMBEDDING)]
    normalized: bool
    preprocessing: dict[str, Plain]


class Data(TypedDict):
    """Describes the data set of a cache; `describe_data` makes it."""

    name: str
    num_images: Annotated[int, Range(1)]
    num_classes: Annotated[int, Range(1)]
    image_size: Annotated[int, Range(1)]
    labels_sha256: str
    images_sha256: str


class _Claim(TypedDict):
    format: Literal["facekd-teacher-cache"]
    version: Annotated[int, Range(1)]
    teacher: Teacher
    data: Data
    replaced: list[Annotated[int, Range(0)]]


class Trailer(_Claim, total=False):
    """Describes the JSON at the end of a cache."""

    checksums_crc32: int


class TeacherCache:
    """Looks up embeddings in a finished cache. It is pickled as its path, so that each process opens its own.

    Attributes:
        path: the file.
        num_images: N.
        embedding_size: E.
        teacher: the teacher's "fingerprint", "preprocessing", "embedding_size" and "normalized"; also
            "input_arithmetic" and "output" of an ONNX file by others.
        data: the data set's "name", "num_images", "num_classes", "image_size", "labels_sha256", "images_sha256".
        replaced: (K,) numbers of the images that could not be read. Their rows hold another image, the same one that a
            data set opened with `on_bad_record="skip"` gives in training.

    Raises:
        TeacherError: the file is not a cache, is incomplete, or is of a later version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        _require_cache(self.path)
        # The trailer and all rows are of the file that is opened here, whatever the path stands for later.
        self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        with os.fdopen(os.dup(self._file), "rb") as stream:
            self._trailer = _read_trailer(self.path, stream)
            self._map(stream)

    def _map(self, stream: BinaryIO) -> None:
        """Maps the rows and their checksums, which the trailer describes."""
        self.teacher: dict[str, Any] = self._trailer["teacher"]
        self.data: dict[str, Any] = self._trailer["data"]
        self.num_images: int = self.data["num_images"]
        self.embedding_size: int = self.teacher["embedding_size"]
        self.replaced: NDArray[np.int64] = np.array(self._trailer["replaced"], dtype=np.int64)
        shape = (self.num_images, 2, self.embedding_size)
        self._size = os.fstat(self._file).st_size
        self._rows: NDArray[np.float16] = np.memmap(stream, dtype="<f2", mode="r", shape=shape)
        self._checksums: NDArray[np.uint32] | None = None
        if self._trailer["version"] > 1:
            self._checksums = np.memmap(stream, "<u4", "r", self._rows.nbytes, (self.num_images, 2))
            if zlib.crc32(self._checksums.data) != self._trailer["checksums_crc32"]:
                raise TeacherError(f"{self.path}: damaged: its checksums are; {REMEDY}")

    def __len__(self) -> int:
        return self.num_images

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._trailer)

    def lookup(self, indices: ArrayLike, flip: ArrayLike = False) -> NDArray[np.float32]:
        """Returns the teacher's embeddings of images, float32 (B, E) with half precision.

        Args:
            indices: (B,) image numbers in the data set; a CPU tensor is accepted as well.
            flip: True for the mirror image; (B,) bool, or one value for all.

        Raises:
            TeacherError: a number is outside the data set, or a row holds no embedding.
        """
        indices = self._checked(indices)
        side = np.broadcast_to(np.asarray(flip, dtype=np.bool_), indices.shape).astype(np.intp)
        return self._sound(self._rows[indices, side], indices, side)

    def lookup_both(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Returns the embeddings of images and of their mirror images, float32 (B, 2, E); see `lookup`."""
        indices = self._checked(indices)
        return self._sound(self._rows[indices], indices, slice(None))

    def lookup_units(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Returns f(x) + f(mirrored x) of images at unit length, float32 (B, E); see `lookup`.

        Raises:
            InputError: both cancel out.
        """
        indices = np.asarray(indices)
        return unit_rows(
            self.lookup_both(indices).sum(axis=1),
            lambda rows: InputError(
                f"{self.path}: the embeddings of image {indices[rows[0]]} and of its mirror image cancel out: "
                "the model is broken or its preprocessing wrong"
            ),
        )

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        # Touching mapped rows that are no longer in the file would end the process.
        if os.fstat(self._file).st_size != self._size:
            raise TeacherError(
                f"{self.path}: had {counted(self._size, 'byte')} when it was opened, and has others now: something is "
                "writing to it. Copy or make it again, and run the same command again"
            )
        indices = np.asarray(indices)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise TeacherError(f"image numbers must be whole, (B,); found {indices.dtype} of shape {indices.shape}")
        outside = (indices < 0) | (indices >= self.num_images)
        if outside.any():
            raise TeacherError(
                f"{self.path}: there is no image {indices[outside][0]} among its {self.num_images:,}; look up by the "
                "number of the image in the data set, not by its position in the run"
            )
        return indices.astype(np.int64, copy=False)

    def _sound(
        self, rows: NDArray[np.float16], indices: NDArray[np.int64], side: NDArray[np.intp] | slice
    ) -> NDArray[np.float32]:
        """Returns rows [indices, side] as float32, after checking them."""
        # Written rows are finite and not zero, whereas a hole in a copied or restored file reads as zeros.
        wide = rows.astype(np.float32)
        is_sound = np.isfinite(wide).all(axis=-1) & wide.any(axis=-1)
        if self._checksums is not None:
            is_sound &= checksums_of(rows) == self._checksums[indices, side]
        if not is_sound.all():
            first = indices[~is_sound.reshape(len(indices), -1).all(axis=1)][0]
            raise TeacherError(f"{self.path}: damaged: the embedding of image {first} is not what was made; {REMEDY}")
        return wide


def checksums_of(rows: NDArray[np.float16]) -> NDArray[np.uint32]:
    """Returns the CRC-32 of each embedding (..., E): uint32 (...)."""
    each = np.ascontiguousarray(rows).reshape(-1, rows.shape[-1])
    return np.array([zlib.crc32(row.data) for row in each], "<u4").reshape(rows.shape[:-1])


def open_teacher_cache(
    path: str | os.PathLike[str], dataset: FaceDataset, embedder_fingerprint: str | None = None
) -> TeacherCache:
    """Opens a cache and checks that it belongs to this data set.

    Args:
        path: a file written by `facekd.teacher.cache.write_teacher_cache` (`facekd cache-teacher`).
        dataset: the images to look up. Only labels and encoded images must be those the cache was made from; image size
            and on_bad_record may differ.
        embedder_fingerprint: `Embedder.fingerprint` of the teacher that must have made it; None accepts any.

    Raises:
        TeacherError: the cache belongs to another teacher or data set (the message says which), or is incomplete.
    """
    cache = TeacherCache(path)
    teacher = None if embedder_fingerprint is None else {**cache.teacher, "fingerprint": embedder_fingerprint}
    check_claim(cache.path, cache.teacher, cache.data, teacher, describe_data(dataset))
    return cache


def describe_teacher(embedder: Embedder) -> dict[str, Any]:
    """Describes a teacher in plain types, for the trailer of a cache."""
    # What most teachers do not have is left out, so that their trailers stay as they were.
    preprocessing = embedder.preprocessing
    arithmetic, output = getattr(embedder, "input_arithmetic", None), getattr(embedder, "output", "embedding")
    return {
        "fingerprint": embedder.fingerprint,
        "embedding_size": embedder.embedding_size,
        "normalized": embedder.normalized,
        "preprocessing": {
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "color": preprocessing.color,
            "image_size": preprocessing.image_size,
        },
        **({} if arithmetic is None else {"input_arithmetic": arithmetic}),
        **({} if output == "embedding" else {"output": output}),
    }


def describe_data(dataset: FaceDataset) -> dict[str, Any]:
    """Describes a data set in plain types, for the trailer of a cache."""
    return {
        "name": dataset.name,
        "num_images": len(dataset),
        "num_classes": dataset.num_classes,
        "image_size": dataset.image_size,
        "labels_sha256": labels_sha256(dataset),
        "images_sha256": images_sha256(dataset),
    }


def check_claim(
    path: Path,
    teacher: dict[str, Any],
    data: dict[str, Any],
    wanted_teacher: dict[str, Any] | None,
    wanted_data: dict[str, Any],
    remedy: str = "Give the one it was made of, or make another cache with `facekd cache-teacher`, under another name",
) -> None:
    """Refuses a file of another teacher or data set; the message says which, and how it differs."""
    # The same weights, used in the same way, have the same fingerprint.
    if wanted_teacher is not None and teacher["fingerprint"] != wanted_teacher["fingerprint"]:
        changed = [
            f"{key} {shown(teacher[key])} there, {wanted_teacher[key]} here"
            for key in ("embedding_size", "normalized", "preprocessing")
            if teacher[key] != wanted_teacher[key]
        ]
        difference = "; ".join(changed) or "the weights or their use differ"
        raise TeacherError(
            f"{path}: is the cache of another teacher (fingerprint {teacher['fingerprint'][:12]} there, "
            f"{wanted_teacher['fingerprint'][:12]} here; {difference}). {remedy}"
        )

    # Compare the data from coarse to fine, so that the message names the plainest difference.
    for key, what in (
        ("num_images", "number of images"),
        ("num_classes", "number of identities"),
        ("labels_sha256", "labels"),
        ("images_sha256", "images, under the same labels,"),
    ):
        if data[key] != wanted_data[key]:
            numbers = f" ({data[key]:,} there, {wanted_data[key]:,} here)" if isinstance(data[key], int) else ""
            raise TeacherError(
                f"{path}: is the cache of another data set, {shown(data['name'])}; its {what} differ from those of "
                f"{wanted_data['name']}{numbers}. {remedy}"
            )


def _require_cache(path: Path) -> None:
    """Refuses a path at which there is no file, or one that is not finished."""
    if not path.exists() and beside(path, "partial").exists():
        raise TeacherError(f"{path}: is not finished; run the same `facekd cache-teacher` command again to continue")
    if not path.is_file():
        raise TeacherError(f"{path}: no such teacher cache; `facekd cache-teacher` makes one")


def _read_trailer(path: Path, stream: BinaryIO) -> dict[str, Any]:
    """Returns the trailer of an open cache, which fits the size of the file."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - END_LENGTH))
    end = stream.read()
    if not end.endswith(CACHE_END) or len(end) != END_LENGTH:
        raise TeacherError(f"{path}: not a teacher cache, or one cut short (its end mark is missing)")
    # How long the trailer is, in 16 digits; the rows of the images that it may list take far more bytes.
    length = int(end[:16], 16) if HEXADECIMAL.fullmatch(end[:16]) else size
    if length > min(size - END_LENGTH, size // 2 + FREE_TRAILER_BYTES):
        raise TeacherError(f"{path}: damaged: its trailer cannot be read (its length is not that of one); {REMEDY}")
    try:
        stream.seek(size - END_LENGTH - length)
        trailer = json.loads(stream.read(length))
    except (ValueError, RecursionError, OSError) as error:
        raise TeacherError(f"{path}: damaged: its trailer cannot be read ({shown(error)}); {REMEDY}") from error
    if isinstance(trailer, dict):
        check_version(path, trailer)
    fault = find_fault_of_trailer(trailer)
    if not fault and trailer["version"] > 1 and not is_sealed(trailer):
        fault = "its checksum differs"
    if fault:
        raise TeacherError(f"{path}: damaged: its trailer cannot be read ({fault}); {REMEDY}")
    rows, columns = trailer["data"]["num_images"], trailer["teacher"]["embedding_size"]
    checksums = rows * 2 * 4 if trailer["version"] > 1 else 0
    if size != rows * 2 * columns * 2 + checksums + length + END_LENGTH:
        raise TeacherError(
            f"{path}: damaged: {counted(size, 'byte does', 'bytes do')} not hold {counted(rows, 'image')} of 2 x "
            f"{counted(columns, 'value')} and the trailer"
        )
    return trailer


def find_fault_of_trailer(trailer: Any) -> str:
    """Returns the first thing in which a trailer differs from `Trailer`, as a clause; empty if there is none."""
    fault = find_fault(trailer, Trailer)
    if fault:
        return fault
    outside = [number for number in trailer["replaced"] if number >= trailer["data"]["num_images"]]
    if outside:
        return f"its 'replaced' has image {outside[0]:,}, and there are {trailer['data']['num_images']:,}"
    return "it has no 'checksums_crc32'" if trailer["version"] > 1 and "checksums_crc32" not in trailer else ""


def check_version(path: Path, trailer: dict[str, Any]) -> None:
    """Refuses a trailer of another format, or of a later facekd.

    Raises:
        TeacherError: it is.
    """
    if trailer.get("format") != FORMAT:
        raise TeacherError(f"{path}: not a teacher cache (its format is {shown(trailer.get('format'))!r})")
    if type(trailer.get("version")) is int and trailer["version"] > VERSION:
        raise TeacherError(
            f"{path}: teacher cache version {trailer['version']}, this facekd reads up to {VERSION}; update facekd"
        )


def _reopen(path: Path, trailer: dict[str, Any]) -> TeacherCache:
    cache = TeacherCache(path)
    if cache._trailer != trailer:
        raise TeacherError(f"{path}: was replaced by another cache while it was in use")
    return cache


def beside(path: Path, suffix: str) -> Path:
    """Returns the path of `FILE.partial` or `FILE.progress`, which hold an unfinished cache."""
    return path.with_name(f"{path.name}.{suffix}")
