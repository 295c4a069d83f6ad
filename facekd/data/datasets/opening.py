"""Labelled images that load by the batch: from record packs, folders of image files, CIFAR's files, or rendered.

`open_dataset` chooses. Whatever can be checked before the first batch is (labels against the number of classes, the
image size, that there is something there); the rest is checked at the image, and every message names it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from facekd.data.datasets.cifar_dataset import CifarDataset, Split, find_cifar
from facekd.data.datasets.face_dataset import FaceDataset, OnBadRecord
from facekd.data.datasets.folder_dataset import FolderDataset
from facekd.data.datasets.generated_dataset import SyntheticDataset
from facekd.data.datasets.record_dataset import RecordDataset
from facekd.errors import DataError
from facekd.images.image_files import LeftOut, read_folder


def open_dataset(
    path: str | os.PathLike[str],
    image_size: int,
    on_bad_record: OnBadRecord = "fail",
    resize: bool = False,
    center_crop: float = 0.0,
    split: Split = "train",
) -> FaceDataset:
    """Open labelled images, whatever they are kept in.

    Args:
        path: a .rec file or a folder that holds one; a folder with one subfolder of images for each identity or class,
            or one that holds such folders as train/ and val/ (or test/); a folder of CIFAR's pickles; or
            `synthetic:IDENTITIESxIMAGES[:SEED]` for faces rendered as they are read.
        image_size: S, side in pixels.
        on_bad_record: what to do at an image that cannot be used, "fail" or "skip".
        resize: scale images of another size instead of refusing them.
        center_crop: of image files of any size, take the square in the middle, this share of the shorter side; 0: no.
        split: "train", or "test" where `path` holds both: CIFAR's test images, or val/ (else test/), whose labels are
            those of the classes in train/.

    Raises:
        DataError: nothing usable at `path`, or no such split; the message says what was found there.
    """
    if str(path).startswith("synthetic:"):
        _require_train(path, split)
        wanted = re.fullmatch(r"synthetic:\s*(\d+)\s*[xX×]\s*(\d+)\s*(?::\s*(\d+))?", str(path))
        if wanted is None:
            raise DataError(f"{path}: generated faces are asked for as in synthetic:200x20 or synthetic:200x20:SEED")
        num_identities, images_per_identity, seed = (int(number or 0) for number in wanted.groups())
        return SyntheticDataset(num_identities, images_per_identity, image_size, seed)
    folder = Path(path)
    if not folder.exists():
        raise DataError(
            f"no data at {path}; expected a .rec file, a folder that holds one, a folder with a subfolder of images "
            "for each identity, CIFAR's folder, or synthetic:IDENTITIESxIMAGES"
        )
    if folder.is_file() or any(folder.glob("*.rec")):
        _require_train(path, split)
        return RecordDataset(folder, image_size, on_bad_record, resize)
    if find_cifar(folder) is not None:
        if center_crop:
            raise DataError(f"{path}: CIFAR's images have one size; center_crop has no use there, set it to 0")
        return CifarDataset(folder, image_size, split, resize)
    train = folder / "train"
    if not (train.is_dir() and _subfolders(train)):
        _require_train(path, split)
        return FolderDataset(folder, image_size, on_bad_record, resize, center_crop)
    if split == "train":
        return FolderDataset(train, image_size, on_bad_record, resize, center_crop)
    found = [folder / name for name in ("val", "test") if (folder / name).is_dir()]
    if not found:
        raise DataError(f"{path}: holds train/ but neither val/ nor test/, so there is nothing to judge by")
    return FolderDataset(found[0], image_size, on_bad_record, resize, center_crop, _subfolders(train))


def _require_train(path: str | os.PathLike[str], split: Split) -> None:
    if split != "train":
        raise DataError(
            f"{path}: has no test images beside those to train on; expected CIFAR's folder, or one with train/ and val/"
        )


def _subfolders(folder: Path) -> list[str]:
    return read_folder(folder, LeftOut())[1]
