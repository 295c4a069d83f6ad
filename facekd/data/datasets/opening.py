"""Opens labelled images that load by the batch: `open_dataset` chooses the class for what is at a path.

Whatever can be checked before the first batch is checked then: labels against the number of classes, the image size,
that there are images at all. The rest is checked at each image, and every message names it.
"""

from __future__ import annotations

import os
from pathlib import Path

from facekd.data.datasets.cifar_dataset import CifarDataset, Split, find_cifar
from facekd.data.datasets.face_dataset import FaceDataset, OnBadRecord
from facekd.data.datasets.folder_dataset import FolderDataset, UnlabelledFolderDataset
from facekd.data.datasets.generated_dataset import SyntheticDataset
from facekd.data.datasets.record_dataset import RecordDataset
from facekd.data.synthetic.set_name import read_set_name
from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.images.image_files import LeftOut, read_folder


def open_dataset(
    path: str | os.PathLike[str],
    image_size: int,
    on_bad_record: OnBadRecord = "fail",
    resize: bool = False,
    center_crop: float = 0.0,
    split: Split = "train",
    unlabelled: bool = False,
) -> FaceDataset:
    """Opens labelled images, whatever format they are in.

    Args:
        path: a .rec file or a folder that holds one; a folder with one subfolder of images for each identity or class,
            or one that holds such folders as train/ and val/ (or test/); a folder of CIFAR's pickles; or
            `synthetic:IDENTITIESxIMAGES[:SEED]` for faces that are rendered as they are read.
        image_size: S, side in pixels.
        on_bad_record: what to do with an image that cannot be used, "fail" or "skip".
        resize: whether to scale images of another size instead of refusing them.
        center_crop: of images of any size, in files or records, take the square in the middle, this share of the
            shorter side; 0 takes the whole image.
        split: "train", or "test" if `path` holds both: CIFAR's test images, or val/ (else test/), whose labels are
            those of the classes in train/.
        unlabelled: whether labels are not used: of a folder of image files, take the images at any depth. `has_labels`
            of the data set is then False.

    Raises:
        DataError: there is nothing usable at `path`, or no such split; the message says what was found there.
    """
    if unlabelled:
        dataset = _open_unlabelled(path, image_size, on_bad_record, resize, center_crop)
        dataset.has_labels = False
        return dataset
    # No file at all: faces rendered as they are read.
    if generated := read_set_name(str(path)):
        _require_train(path, split)
        _refuse_crop(path, center_crop, "generated faces are rendered at the size asked for")
        return SyntheticDataset(generated.people, generated.images, image_size, generated.seed_or(0))
    folder = Path(path)
    if not folder.exists():
        raise DataError(
            f"no data at {path}; expected a .rec file, a folder that holds one, a folder with a subfolder of images "
            "for each identity, CIFAR's folder, or synthetic:IDENTITIESxIMAGES"
        )
    _refuse_other_kinds(folder)
    # Records.
    require_regular_file(folder)
    if folder.is_file() or any(folder.glob("*.rec")):
        _require_train(path, split)
        return RecordDataset(folder, image_size, on_bad_record, resize, center_crop)
    # CIFAR's pickles.
    if find_cifar(folder) is not None:
        _refuse_crop(path, center_crop, "CIFAR's images all have one size")
        return CifarDataset(folder, image_size, split, resize)
    # Image files.
    within, classes = _find_split(folder, split)
    return FolderDataset(within, image_size, on_bad_record, resize, center_crop, classes)


def _refuse_crop(path: str | os.PathLike[str], center_crop: float, why: str) -> None:
    if center_crop:
        raise DataError(f"{path}: {why}, so center_crop has no effect; set it to 0")


def _find_split(folder: Path, split: Split) -> tuple[Path, list[str] | None]:
    """Returns the folder with one subfolder per class, and for images that are held back the classes of train/."""
    classes = _subfolders(folder / "train")
    if not classes:
        _require_train(folder, split)
        return folder, None
    if split == "train":
        return folder / "train", None
    held_back = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
    if held_back is None:
        raise DataError(f"{folder}: holds train/ but neither val/ nor test/, so there is nothing to evaluate on")
    return held_back, classes


def _open_unlabelled(
    path: str | os.PathLike[str], image_size: int, on_bad_record: OnBadRecord, resize: bool, center_crop: float
) -> FaceDataset:
    """Opens images whose labels are not used."""
    folder = Path(path)
    is_of_files = folder.is_dir() and not any(folder.glob("*.rec")) and find_cifar(folder) is None
    if is_of_files:
        _refuse_other_kinds(folder)
        within = folder / "train" if _subfolders(folder / "train") else folder
        return UnlabelledFolderDataset(within, image_size, on_bad_record, resize, center_crop)
    dataset = open_dataset(path, image_size, on_bad_record, resize, center_crop)
    if isinstance(dataset, RecordDataset):
        dataset.warnings = list(dataset.pack.warnings)  # without those about classes
    return dataset


def _refuse_other_kinds(path: Path) -> None:
    """Says where files of facekd that hold images, but are no training set, belong."""
    if path.suffix == ".bin":
        raise DataError(f"{path}: is a verification pack, not training images; it belongs in validation.packs")
    is_tar = ".tar" in path.suffixes if path.is_file() else any(path.glob("*.tar")) and not any(path.glob("*.rec"))
    if is_tar:
        raise DataError(
            f"{path}: tar files are for other loaders, and facekd trains on records: make some with `facekd data "
            f"convert {path} OUT`, and give OUT"
        )


def _require_train(path: str | os.PathLike[str], split: Split) -> None:
    if split != "train":
        raise DataError(
            f"{path}: has no test images beside those to train on; expected CIFAR's folder, or one with train/ and val/"
        )


def _subfolders(folder: Path) -> list[str]:
    return read_folder(folder, LeftOut())[1] if folder.is_dir() else []
