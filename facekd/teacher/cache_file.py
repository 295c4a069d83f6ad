"""Reads a teacher cache: the file with a teacher's embeddings of a training set, memory-mapped.

The file: float16 (N, 2, E), row after row, [plain, mirrored], starting at byte 0; then a trailer, one line of JSON
that names the teacher and the data; then the length of that JSON in 16 hexadecimal digits, and the 16 bytes
`facekd teacher` and two line ends. The trailer is written last, so a file that has one is whole. While a cache is being
computed its rows lie in `FILE.partial` and `FILE.progress` says how many of them are finished: after a kill or a power
cut the same command goes on from there. See docs/method.md for what half precision costs.

Not a `facekd.utils.array_file`: rows are appended as they are computed, and which images were replaced is known only at
the end. A checksum of tens of gigabytes would never be verified; `lookup` notices holes instead.

Shapes: N images of the data set, B of them asked for, E teacher's embedding size.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facekd.data.datasets import EncodedDataset, FaceDataset
from facekd.data.datasets.identity_map import labels_sha256
from facekd.embedder import Embedder
from facekd.errors import RecordError, TeacherError

FORMAT, VERSION = "facekd-teacher-cache", 1
END_MARK = b"facekd teacher\n\n"
END_LENGTH = 16 + len(END_MARK)
# Enough to notice another alignment, compression or order; few enough to read in a second from a network disk.
IMAGES_IN_FINGERPRINT = 256


class TeacherCache:
    """Looks up embeddings in a finished cache. It pickles as its path, so each process can open its own.

    Attributes:
        path: the file.
        num_images: N.
        embedding_size: E.
        teacher: the teacher's "fingerprint", "preprocessing", "embedding_size" and "normalized".
        data: the data set's "name", "num_images", "num_classes", "image_size", "labels_sha256", "images_sha256".
        replaced: (K,) numbers of the images that could not be read. Their rows hold another image, the same that a data
            set opened with `on_bad_record="skip"` gives in training.

    Raises:
        TeacherError: not a cache, one that is not whole, or one of a later version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._trailer = _read_trailer(self.path)
        self.teacher: dict[str, Any] = self._trailer["teacher"]
        self.data: dict[str, Any] = self._trailer["data"]
        self.num_images: int = self.data["num_images"]
        self.embedding_size: int = self.teacher["embedding_size"]
        self.replaced = np.array(self._trailer["replaced"], dtype=np.int64)
        shape = (self.num_images, 2, self.embedding_size)
        self._rows: NDArray[np.float16] = np.memmap(self.path, dtype="<f2", mode="r", shape=shape)

    def __len__(self) -> int:
        return self.num_images

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self._trailer)

    def lookup(self, indices: ArrayLike, flip: ArrayLike = False) -> NDArray[np.float32]:
        """Returns the teacher's embeddings of images, float32 (B, E), to half precision.

        Args:
            indices: image numbers in the data set (B,); a CPU tensor does as well.
            flip: True for the mirror image, (B,) bool, or one for all.

        Raises:
            TeacherError: a number outside the data set, or a row that holds no embedding.
        """
        indices = self._checked(indices)
        rows = self._rows[indices, np.broadcast_to(np.asarray(flip, dtype=np.bool_), indices.shape).astype(np.intp)]
        return self._sound(rows.astype(np.float32), indices)

    def lookup_both(self, indices: ArrayLike) -> NDArray[np.float32]:
        """Returns the embeddings of images and of their mirror images, float32 (B, 2, E); see `lookup`."""
        indices = self._checked(indices)
        return self._sound(self._rows[indices].astype(np.float32), indices)

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
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

    def _sound(self, rows: NDArray[np.float32], indices: NDArray[np.int64]) -> NDArray[np.float32]:
        # What was written is finite and not zero. A hole in a copied or restored file reads as zeros.
        is_sound = np.isfinite(rows).all(axis=-1) & rows.any(axis=-1)
        if not is_sound.all():
            first = indices[~is_sound.reshape(len(indices), -1).all(axis=1)][0]
            raise TeacherError(f"{self.path}: damaged: no embedding at image {first}; delete it and make it again")
        return rows


def open_teacher_cache(
    path: str | os.PathLike[str], dataset: FaceDataset, embedder_fingerprint: str | None = None
) -> TeacherCache:
    """Opens a cache, and checks that it is of this data set.

    Args:
        path: a file written by `facekd.teacher.cache.write_teacher_cache` (`facekd cache-teacher`).
        dataset: the images to look up. Image size and on_bad_record may differ from when the cache was made: it is the
            same data if labels and encoded images are the same.
        embedder_fingerprint: `Embedder.fingerprint` of the teacher that must have made it; None accepts any.

    Raises:
        TeacherError: the cache is of another teacher or data set (it says which), or not whole.
    """
    cache = TeacherCache(path)
    teacher = None if embedder_fingerprint is None else {**cache.teacher, "fingerprint": embedder_fingerprint}
    check_claim(cache.path, cache.teacher, cache.data, teacher, describe_data(dataset))
    return cache


def describe_teacher(embedder: Embedder) -> dict[str, Any]:
    """Describes a teacher in plain types, for the trailer of a cache."""
    preprocessing = embedder.preprocessing
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


def images_sha256(dataset: FaceDataset) -> str:
    """Computes a fingerprint of the images, which other photos, crops or compression under the same labels change.

    It covers the encoded bytes of up to 256 images spread evenly over the data set, first and last included, so a few
    changed images among millions can go unnoticed. Rendered images, which have no encoded bytes, go by their pixels.
    """
    count = len(dataset)
    digest = hashlib.sha256(str(count).encode())
    for index in np.unique(np.linspace(0, count - 1, IMAGES_IN_FINGERPRINT).round().astype(np.int64)).tolist():
        if isinstance(dataset, EncodedDataset):
            try:
                content = dataset.read_encoded(index)[0]
            except (RecordError, OSError):
                content = b"unreadable"  # whether that is an error is for `load` to say
        else:
            content = dataset.load(np.array([index]))[0].tobytes()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def check_claim(
    path: Path,
    teacher: dict[str, Any],
    data: dict[str, Any],
    wanted_teacher: dict[str, Any] | None,
    wanted_data: dict[str, Any],
    remedy: str = "Give the one it was made of, or make another cache with `facekd cache-teacher`, under another name",
) -> None:
    """Refuses a file of another teacher or data set; the message says which, and how it differs."""
    if wanted_teacher is not None and teacher["fingerprint"] != wanted_teacher["fingerprint"]:
        changed = [
            f"{key} {teacher[key]} there, {wanted_teacher[key]} here"
            for key in ("embedding_size", "normalized", "preprocessing")
            if teacher[key] != wanted_teacher[key]
        ]
        shown = "; ".join(changed) or "the weights or their use differ"
        raise TeacherError(
            f"{path}: is the cache of another teacher (fingerprint {teacher['fingerprint'][:12]} there, "
            f"{wanted_teacher['fingerprint'][:12]} here; {shown}). {remedy}"
        )
    for key, what in (
        ("num_images", "number of images"),
        ("num_classes", "number of identities"),
        ("labels_sha256", "labels"),
        ("images_sha256", "images, under the same labels,"),
    ):
        if data[key] != wanted_data[key]:
            numbers = f" ({data[key]:,} there, {wanted_data[key]:,} here)" if isinstance(data[key], int) else ""
            raise TeacherError(
                f"{path}: is the cache of another data set, {data['name']}; its {what} differ from those of "
                f"{wanted_data['name']}{numbers}. {remedy}"
            )


def _read_trailer(path: Path) -> dict[str, Any]:
    if not path.exists() and beside(path, "partial").exists():
        raise TeacherError(f"{path}: is not finished; the same `facekd cache-teacher` command goes on with it")
    if not path.is_file():
        raise TeacherError(f"{path}: no such teacher cache; `facekd cache-teacher` makes one")
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - END_LENGTH))
        end = stream.read()
        if not end.endswith(END_MARK) or len(end) != END_LENGTH:
            raise TeacherError(f"{path}: not a teacher cache, or one cut short (its end mark is missing)")
        try:
            length = int(end[:16], 16)
            stream.seek(size - END_LENGTH - length)
            trailer = json.loads(stream.read(length))
            check_version(path, trailer)
            rows, columns = trailer["data"]["num_images"], trailer["teacher"]["embedding_size"]
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise TeacherError(f"{path}: damaged: its trailer cannot be read ({error})") from error
    if size != rows * 2 * columns * 2 + length + END_LENGTH:
        raise TeacherError(
            f"{path}: damaged: {size:,} bytes do not hold {rows:,} images of 2 x {columns} values and the trailer"
        )
    return trailer


def check_version(path: Path, trailer: dict[str, Any]) -> None:
    """Refuses a trailer of another format, or of a later facekd."""
    if trailer["format"] != FORMAT:
        raise TeacherError(f"{path}: not a teacher cache (its format is {trailer['format']!r})")
    if trailer["version"] > VERSION:
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
