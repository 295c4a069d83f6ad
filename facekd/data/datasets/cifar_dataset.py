"""Reads CIFAR-10 and CIFAR-100 as they are distributed: folders of Python pickles with known md5.

torchvision has the md5 of the official files; a set made by `facekd data synthesize-classification` has its own in
`generated.json`. Anyone can write such a list, and a pickle can run code when it is read, so all files are read by the
unpickler of verification packs, which knows only inert stand-ins for numpy's classes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import put_into
from facekd.data.pair_packs.unpickler import ArrayStandIn, RefusedGlobalError, load_pairs
from facekd.errors import DataError
from facekd.files.reading import read_json
from facekd.images.crops import ResizedCrop, cut_and_scale
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import counted

Split = Literal["train", "test"]
CIFAR_SIZE = 32
CIFAR_FOLDERS = {"cifar-100": "cifar-100-python", "cifar-10": "cifar-10-batches-py"}
GENERATED = "generated.json"  # describes a generated set
GENERATED_FORMAT = "facekd-generated-classification"
_META_FILES = {"meta": "cifar-100", "batches.meta": "cifar-10"}
ROW_BYTES = 3 * CIFAR_SIZE**2


class CifarDataset:
    """Holds CIFAR-10 or CIFAR-100 in memory; a `FaceDataset` whose identities are the classes.

    Args:
        path: the folder of the pickles (cifar-100-python, cifar-10-batches-py), or the one that holds it.
        image_size: S, side in pixels; 32 unless `resize` is set.
        split: "train" (50,000 images) or "test" (10,000).
        resize: whether to scale images to S x S.

    Raises:
        DataError: a file is missing, or is neither the official nor the generated one.
    """

    has_labels = True

    def __init__(
        self, path: str | os.PathLike[str], image_size: int = CIFAR_SIZE, split: Split = "train", resize: bool = False
    ) -> None:
        folder = find_cifar(path)
        if folder is None:
            raise DataError(f"{path}: no CIFAR files there; expected {' or '.join(CIFAR_FOLDERS.values())}")
        if image_size != CIFAR_SIZE and not resize:
            raise DataError(
                f"{path}: CIFAR's images have {CIFAR_SIZE} pixels, not {image_size}: set the image size to that, "
                "or have them resized"
            )

        # Read the files, and check the labels.
        read, is_generated = _read(folder, split)
        self.is_generated: bool = is_generated
        origin = "generated, md5 as listed in it" if self.is_generated else "official files, md5 checked"
        self.name: str = f"{folder} ({split}; {origin})"
        self.warnings: list[str] = []
        self.image_size = image_size
        self.identities: list[str] = read.classes
        self.num_classes: int = len(self.identities)
        self._images, self._labels = read.images, read.labels
        self._split = split

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `FaceDataset.labels`."""
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def load(
        self,
        indices: NDArray[np.int64],
        crops: Sequence[ResizedCrop] | None = None,
        out: NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """See `FaceDataset.load`."""
        images = self._images[indices]
        size = self.image_size
        if crops is not None:
            boxes = (crop.box(CIFAR_SIZE, CIFAR_SIZE) for crop in crops)
            images = np.stack([cut_and_scale(image, box, size) for image, box in zip(images, boxes, strict=True)])
        elif size != CIFAR_SIZE:
            images = np.stack([cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in images])
        return put_into(out, images), self._labels[indices]

    def describe(self, index: int) -> str:
        """See `FaceDataset.describe`."""
        return f"image {index} of {self.name}"

    def take_bad_records(self) -> list[str]:
        """See `FaceDataset.take_bad_records`: the files are whole, so there are none."""
        return []


def find_cifar(path: str | os.PathLike[str]) -> Path | None:
    """Returns the folder of CIFAR's pickles, which is `path` or directly in it; None if there is none.

    Raises:
        DataError: both data sets are there.
    """
    folder = Path(path)
    if any((folder / name).is_file() for name in _META_FILES):
        return folder
    inside = [folder / name for name in CIFAR_FOLDERS.values() if (folder / name).is_dir()]
    if len(inside) > 1:
        raise DataError(f"{path}: holds CIFAR-10 and CIFAR-100; name one, {inside[0]} or {inside[1]}")
    return inside[0] if inside else None


def cifar_kind(folder: Path) -> str:
    """Returns "cifar-100" or "cifar-10", by the name of the file that lists the classes."""
    for name, kind in _META_FILES.items():
        if (folder / name).is_file():
            return kind
    raise DataError(f"{folder}: holds neither {' nor '.join(_META_FILES)}, the file that names the classes of CIFAR")


def cifar_files(kind: str) -> dict[str, str]:
    """Returns the files of a CIFAR folder with the md5 of the official ones, from torchvision."""
    reader = _readers()[kind]
    entries = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
    return dict(entries)


def _readers() -> dict[str, Any]:
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar-10": CIFAR10, "cifar-100": CIFAR100}


class _Cifar(NamedTuple):
    """Holds images uint8 (N, 32, 32, 3), labels int64 (N,), and the names of the classes."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]


def _read(folder: Path, split: Split) -> tuple[_Cifar, bool]:
    """Returns the set, and whether it is a generated one."""
    # Read and check every file once; what is parsed is what was checked.
    kind = cifar_kind(folder)
    md5_of = cifar_files(kind)
    generated = _generated_md5(folder)
    known = md5_of if generated is None else {name: generated.get(name, "") for name in md5_of}
    contents = {name: _checked(folder / name, md5, generated is not None) for name, md5 in known.items()}
    # Parse them: no class of numpy sees what they hold.
    reader = _readers()[kind]
    meta_name, batch_list = reader.meta["filename"], reader.train_list if split == "train" else reader.test_list
    parts, labels = [], []
    with reading(folder, f"the files of {kind}", remedy="unpack the data set again"):
        meta = _load(contents[meta_name], folder / meta_name)
        classes = [_text(name) for name in _field(meta, reader.meta["key"], folder / meta_name)]
        for name, _ in batch_list:
            batch = _load(contents[name], folder / name)
            data = _field(batch, "data", folder / name)
            parts.append(_pixels(data.resolve() if isinstance(data, ArrayStandIn) else data, folder / name))
            labels += _field(batch, "fine_labels" if kind == "cifar-100" else "labels", folder / name)
            if len(labels) != sum(len(part) for part in parts):
                raise DataError(
                    f"{folder / name}: holds {counted(len(parts[-1]), 'image')} and another number of labels"
                )
    if not all(type(label) is int and 0 <= label < len(classes) for label in labels) or not labels:
        raise DataError(f"{folder}: labels are not whole numbers from 0 to {len(classes) - 1}, or there are none")
    return _Cifar(np.concatenate(parts), np.array(labels, dtype=np.int64), classes), generated is not None


def _load(content: bytes, file: Path) -> Any:
    try:
        return load_pairs(content)
    except RefusedGlobalError as error:
        raise DataError(
            f"{file}: refused, because it asks for {shown(error)}, which CIFAR does not need and which could run code"
        ) from None


def _field(content: Any, name: str, file: Path) -> Any:
    """Returns a value of a file's dictionary, whose keys are bytes if Python 2 wrote it."""
    if isinstance(content, dict):
        for key in (name, name.encode()):
            if key in content:
                return content[key]
    raise DataError(f"{file}: holds no {name!r}; expected a dictionary of CIFAR's")


def _pixels(data: Any, file: Path) -> NDArray[np.uint8]:
    """Returns rows of 3 x 32 x 32 bytes, planes of red, green and blue, as images (N, 32, 32, 3)."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != ROW_BYTES:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{file}: its data are {found}; expected uint8 (N, {ROW_BYTES})")
    return np.ascontiguousarray(data.reshape(-1, 3, CIFAR_SIZE, CIFAR_SIZE).transpose(0, 2, 3, 1))


def _text(name: Any) -> str:
    if not isinstance(name, bytes | str):
        raise ValueError(f"a class is named by a {type(name).__name__}")
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _generated_md5(folder: Path) -> dict[str, str] | None:
    """Returns the md5 of each file of a generated set; None for the official one."""
    file = folder / GENERATED
    if not file.exists():
        return None
    what, remedy = "the list of a generated set", "delete it, or generate again"
    content = read_json(file, what, remedy, ("format", "md5"))
    if content["format"] != GENERATED_FORMAT:
        raise DataError(f"{file}: not {what} (format is {content['format']!r}); {remedy}")
    try:
        return dict(content["md5"])
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: not {what} ({error}); {remedy}") from error


def _checked(file: Path, md5: str, is_generated: bool) -> bytes:
    """Returns the content of a file if its md5 is as known."""
    if not file.is_file():
        raise DataError(f"{file}: missing; unpack the data set again (facekd never downloads it)")
    content = file.read_bytes()
    found = hashlib.md5(content).hexdigest()
    if found != md5:
        whose = f"the md5 that {GENERATED} lists" if is_generated else "the official md5"
        raise DataError(
            f"{file}: damaged, or another file: its md5 is {found}, {whose} is {shown(md5) or '(none)'}. Unpack the "
            "data set again, or generate one: `facekd data synthesize-classification --help`"
        )
    return content
