"""Keeps the embeddings of many faces in one file, a gallery: `faces.npz`, as `facekd embed` writes it.

It is a zip archive of numpy arrays, for N faces of D values each (`np.load` opens it); docs/formats.md lists them.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from facekd import __version__
from facekd.embedder import Embedder
from facekd.errors import DataError, ModelError
from facekd.files.npy_files import read_npz
from facekd.files.reading import require_regular_file
from facekd.files.writing import opened
from facekd.images.preprocessing import Preprocessing
from facekd.utils.foreign import reading, shown

FORMAT, VERSION = "facekd-faces", 1
REMEDY = "make it again by `facekd embed`"
LENGTH_TOLERANCE = 1e-3  # of embeddings that may have been through half precision
# Each array beside the embeddings: its type, its shape after N, and whether a face may lack it (all values NaN).
ARRAYS: Mapping[str, tuple[str, tuple[int, ...], bool]] = {
    "norms": ("f", (), False),
    "names": ("U", (), False),
    "people": ("U", (), False),
    "boxes": ("f", (4,), True),
    "landmarks": ("f", (5, 2), True),
    "scores": ("f", (), True),
}


@dataclass(frozen=True)
class Origin:
    """Says how the embeddings of a gallery were made.

    Attributes:
        model: name of the model's file, for people.
        fingerprint: that of the embedder; galleries of one fingerprint can be compared.
        preprocessing: what the model takes.
        flip: whether the embedding of the mirror image was added.
        detector: name of the detector's file; None if the images were aligned crops.
        detector_sha256: digest of that file, or None.
        facekd: version that wrote the gallery.
    """

    model: str
    fingerprint: str
    preprocessing: Preprocessing
    flip: bool = False
    detector: str | None = None
    detector_sha256: str | None = None
    facekd: str = __version__


@dataclass(frozen=True)
class Gallery:
    """Holds the embeddings of N faces, and where each face is from. N is at least 1.

    Attributes:
        embeddings: float32 (N, D), of unit length.
        norms: float32 (N,), lengths of the embeddings as the model gave them.
        names: str (N,), the image: a path as it was given, `FILE.rec#KEY` or `PACK.bin#NUMBER`.
        people: str (N,), name or label of the person where it is known, else "".
        boxes: float32 (N, 4), left, top, right, bottom in pixels of the photograph; NaN for an aligned crop.
        landmarks: float32 (N, 5, 2) in pixels of the photograph; NaN for an aligned crop.
        scores: float32 (N,), scores of the detector; NaN for an aligned crop.
        origin: how they were made.
    """

    embeddings: np.ndarray
    norms: np.ndarray
    names: np.ndarray
    people: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    origin: Origin

    def __len__(self) -> int:
        """Returns the number of faces N."""
        return len(self.embeddings)


def write_gallery(target: str | os.PathLike[str] | BinaryIO, gallery: Gallery) -> None:
    """Writes a gallery, atomically. Arrays that are mapped from a file are copied in pieces.

    Args:
        target: the file, or a stream.
        gallery: the faces.

    Raises:
        DataError: its arrays do not fit together.
        OSError: it cannot be written.
    """
    arrays = {"embeddings": gallery.embeddings, **{name: getattr(gallery, name) for name in ARRAYS}}
    _check_arrays(arrays, str(target))
    about = {"format": FORMAT, "version": VERSION, **asdict(gallery.origin)}
    with opened(target) as stream:
        np.savez(stream, about=np.array(json.dumps(about)), **arrays)  # pyright: ignore[reportArgumentType]


def read_gallery(path: str | os.PathLike[str]) -> Gallery:
    """Reads a gallery.

    Raises:
        DataError: the file is of another kind or version, damaged, or its arrays do not fit together.
        OSError: it cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected a gallery (.npz), which `facekd embed` makes of it")
    names = ("about", "embeddings", *ARRAYS)
    found = read_npz(path, REMEDY, names)
    missing = {*names} - found.keys()
    if missing:
        raise DataError(
            f"{path}: is no gallery, it lacks {', '.join(sorted(missing))}; expected a file that `facekd embed` wrote"
        )
    origin = _read_origin(found["about"], path)
    arrays = {name: found[name] for name in ("embeddings", *ARRAYS)}
    _check_arrays(arrays, path)
    kept = {name: array.astype(np.float32, copy=False) for name, array in arrays.items() if array.dtype.kind == "f"}
    return Gallery(**{**arrays, **kept}, origin=origin)


def is_gallery(path: Path) -> bool:
    """Tells whether a file looks like a gallery, by the names in its archive; whether it is whole shows on reading.

    Raises:
        DataError: it is a named pipe or a device, at which opening could wait for ever.
    """
    return {"about", "embeddings"} <= _names_in(path)


def _names_in(path: Path) -> set[str]:
    """Returns the names of the arrays in an archive; none for another file."""
    require_regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # a damaged archive can make zipfile raise anything
        return set()


def holds_mirror_images(path: Path) -> bool:
    """Tells whether a file is a gallery whose embeddings have those of the mirror images added.

    Only its description is read. Other archives, whatever they hold beside embeddings, are none.

    Raises:
        DataError: it is a gallery of another version, or with a damaged description.
    """
    if not {"about", "embeddings", *ARRAYS} <= _names_in(path):
        return False
    return _read_origin(read_npz(path, REMEDY, ("about",))["about"], path).flip


def check_same_model(gallery: Gallery, embedder: Embedder, path: str | os.PathLike[str]) -> None:
    """Refuses a gallery whose embeddings cannot be compared with those of a model.

    Open the model with `resize=False`, as `facekd embed` does: whether it resizes is part of the fingerprint, and the
    `FaceFinder` resizes what has to be.

    Args:
        gallery: the embeddings.
        embedder: the model.
        path: the gallery's file, for the message.

    Raises:
        DataError: they were made by another model, or with another preprocessing.
    """
    origin = gallery.origin
    if origin.fingerprint == embedder.fingerprint:
        return
    differs = [
        f"{name} was {getattr(origin.preprocessing, name)}, now {getattr(embedder.preprocessing, name)}"
        for name in ("mean", "std", "color", "image_size")
        if getattr(origin.preprocessing, name) != getattr(embedder.preprocessing, name)
    ]
    how = f" ({'; '.join(differs)})" if differs else ""
    raise DataError(
        f"{os.fspath(path)}: was made by another model, {shown(origin.model)}, or with another preprocessing{how}; "
        "embeddings of two models cannot be compared: give that model, or embed the images again by `facekd embed`"
    )


def _read_origin(about: np.ndarray, path: Path) -> Origin:
    """Reads the description of a gallery, which may be anything."""
    with reading(path, "a gallery of faces", remedy=REMEDY):
        content = json.loads(str(about))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: is no gallery (it says {shown(content['format'])}); expected {FORMAT}")
        if content["version"] != VERSION:
            raise DataError(
                f"{path}: is a gallery of version {shown(content['version'])}; this facekd reads version {VERSION}"
            )
        fields = {name: content[name] for name in Origin.__dataclass_fields__}
        try:
            fields["preprocessing"] = Preprocessing(**fields["preprocessing"])
        except ModelError as error:
            raise DataError(f"{path}: {error}; {REMEDY}") from error
        required, optional = ("model", "fingerprint", "facekd"), ("detector", "detector_sha256")
        is_sound = all(isinstance(fields[name], str) for name in required) and isinstance(fields["flip"], bool)
        if not is_sound or not all(isinstance(fields[name], str | None) for name in optional):
            raise DataError(f"{path}: its description holds values of other kinds; {REMEDY}")
    return Origin(**fields)


def _check_arrays(arrays: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuses arrays that are not those of a gallery."""
    # Types and shapes.
    where, embeddings = os.fspath(path), arrays["embeddings"]
    if embeddings.dtype.kind != "f" or embeddings.ndim != 2 or 0 in embeddings.shape:
        raise DataError(
            f"{where}: embeddings are {embeddings.dtype} {embeddings.shape}; expected real numbers (N, D) of at least "
            f"one face; {REMEDY}"
        )
    count = len(embeddings)
    for name, (kind, shape, _) in ARRAYS.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.shape != (count, *shape):
            what = "text" if kind == "U" else "real numbers"
            raise DataError(
                f"{where}: {name} are {array.dtype} {array.shape}; expected {what} {(count, *shape)}; {REMEDY}"
            )

    # Values: finite, or all unknown where that may be.
    for name, (kind, _, may_lack) in {"embeddings": ("f", (), False), **ARRAYS}.items():
        if kind != "f":
            continue
        for start in range(0, count, 1 << 16):
            values = np.asarray(arrays[name][start : start + (1 << 16)]).reshape(min(count - start, 1 << 16), -1)
            is_sound = np.isfinite(values).all(axis=1) | (np.isnan(values).all(axis=1) & may_lack)
            if name == "embeddings":
                is_sound &= np.abs(np.linalg.norm(values, axis=1) - 1) <= LENGTH_TOLERANCE
            if name == "norms":
                is_sound &= values[:, 0] > 0
            if not is_sound.all():
                row = start + int(np.argmin(is_sound))
                expected = {"embeddings": "unit length", "norms": "a length above 0"}.get(name, "numbers, or none")
                found = ", ".join(f"{value:g}" for value in values[row - start][:5])
                raise DataError(f"{where}: {name} of face {row:,}: expected {expected}, found {found}; {REMEDY}")
