"""Reads CIFAR-10 and CIFAR-100 as they are distributed: folders of Python pickles, checked and read by torchvision.

A pickle can run code when it is read, so a file is read only if its md5 is known. torchvision has the md5 of the
official files; a set made by `facekd data synthesize-classification` has its own in `generated.json`. Anyone can write
such a list, so the files of a generated set are also searched for anything but arrays.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import put_into
from facekd.errors import DataError
from facekd.images.crops import ResizedCrop, cut_and_scale
from facekd.utils.files import read_json

Split = Literal["train", "test"]
CIFAR_SIZE = 32
CIFAR_FOLDERS = {"cifar-100": "cifar-100-python", "cifar-10": "cifar-10-batches-py"}
GENERATED = "generated.json"  # describes a generated set
GENERATED_FORMAT = "facekd-generated-classification"
_META_FILES = {"meta": "cifar-100", "batches.meta": "cifar-10"}
# The only names in a pickle of a dictionary of lists and arrays.
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


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
        read, self.is_generated = _read(folder, split)
        origin = "generated, md5 as listed in it" if self.is_generated else "official files, md5 checked"
        self.name = f"{folder} ({split}; {origin})"
        self.warnings: list[str] = []
        self.image_size = image_size
        self.identities: list[str] = list(read.classes)
        self.num_classes = len(self.identities)
        self._images: NDArray[np.uint8] = read.data
        self._labels = np.asarray(read.targets, dtype=np.int64)
        if len(self._labels) == 0 or self._labels.min() < 0 or self._labels.max() >= self.num_classes:
            raise DataError(f"{self.name}: labels are not from 0 to {self.num_classes - 1}, or there are none")
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


def _read(folder: Path, split: Split) -> tuple[Any, bool]:
    """Returns torchvision's data set, and whether it is a generated one."""
    # Check the files before any is read.
    kind = cifar_kind(folder)
    md5_of = cifar_files(kind)
    generated = _generated_md5(folder)
    _check_files(folder, md5_of if generated is None else {name: generated.get(name, "") for name in md5_of}, generated)
    # Have torchvision read them; for a generated set it must expect other md5 sums.
    reader = _readers()[kind]
    known = md5_of if generated is None else generated
    attributes: dict[str, Any] = {
        "base_folder": folder.absolute().name,
        "train_list": [[name, known[name]] for name, _ in reader.train_list],
        "test_list": [[name, known[name]] for name, _ in reader.test_list],
        "meta": {**reader.meta, "md5": known[reader.meta["filename"]]},
    }
    try:
        read = type(reader.__name__, (reader,), attributes)(folder.absolute().parent, train=split == "train")
    except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{folder}: does not read as {kind}: {error}") from error
    return read, generated is not None


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


def _check_files(folder: Path, md5_of: dict[str, str], generated: dict[str, str] | None) -> None:
    for name, md5 in md5_of.items():
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: missing; unpack the data set again (facekd never downloads it)")
        found = hashlib.md5(file.read_bytes()).hexdigest()
        if found != md5:
            whose = f"the md5 that {GENERATED} lists" if generated is not None else "the official md5"
            raise DataError(
                f"{file}: damaged, or another file: its md5 is {found}, {whose} is {md5 or '(none)'}. Unpack the data "
                "set again, or generate one: `facekd data synthesize-classification --help`"
            )
        if generated is not None:
            _refuse_code(file)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _refuse_code(file: Path) -> None:
    with file.open("rb") as stream:
        try:
            _ArraysOnly(stream, encoding="latin1").load()
        except Exception as error:  # a damaged pickle can raise anything
            raise DataError(
                f"{file}: refused, because it holds more than arrays and lists, and reading it could run code ({error})"
            ) from error
