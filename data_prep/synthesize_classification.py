"""Verb `facekd data synthesize-classification`: generates a classification set in the files of CIFAR, or in folders.

It serves to try out and test everything that takes the real files.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facekd.commands.command_line import SEED, CommandParser, whole_number
from facekd.data.datasets.cifar_dataset import CIFAR_FOLDERS, CIFAR_SIZE, GENERATED, GENERATED_FORMAT, cifar_files
from facekd.data.synthetic.class_textures import render_texture
from facekd.errors import DataError, run_verb
from facekd.files.output_lock import file_lock
from facekd.files.reading import read_json
from facekd.files.syncing import sync_file_system
from facekd.files.temporaries import temporary_folder
from facekd.files.writing import atomic_open, write_json
from facekd.utils.progress import track
from facekd.utils.wording import counted

LAYOUTS = (*CIFAR_FOLDERS, "folders")
DEFAULT_CLASSES = {"cifar-100": 100, "cifar-10": 10, "folders": 10}
COARSE_CLASSES = 20  # superclasses of CIFAR-100
MAX_IMAGES = 100_000  # per class; the numbers of test images begin here
EXAMPLE = """\
example:
  facekd data synthesize-classification --layout cifar-100 --images-per-class 20 --test-images-per-class 5 --output try
  facekd train configs/classification/cifar100_resnet8x4.yaml --data.train try --epochs 5

Writes to the output folder
  cifar-100-python/ or cifar-10-batches-py/    the pickles of the data set, and generated.json with the md5 of each, by
                                               which they are checked when they are read
  train/CLASS/, val/CLASS/                     with --layout folders: JPEGs of different sizes, and generated.json
A set made with the same options is kept; a different one in the folder is an error."""


@dataclass(frozen=True)
class Settings:
    """Holds everything that determines a generated set."""

    layout: str
    classes: int
    images_per_class: int
    test_images_per_class: int
    size: int
    seed: int

    def __post_init__(self) -> None:
        if self.layout in CIFAR_FOLDERS and self.classes > DEFAULT_CLASSES[self.layout]:
            raise DataError(f"--classes {self.classes}: {self.layout} takes 2 to {DEFAULT_CLASSES[self.layout]}")
        if self.layout in CIFAR_FOLDERS and self.size != CIFAR_SIZE:
            raise DataError(f"--size {self.size}: CIFAR's images have {CIFAR_SIZE} pixels")


def main(argv: list[str] | None = None) -> int:
    """Generates a set, unless it is there already, and prints what it holds."""
    arguments = _parser().parse_args(argv)
    layout = arguments.layout
    settings = Settings(
        layout=layout,
        classes=DEFAULT_CLASSES[layout] if arguments.classes is None else arguments.classes,
        images_per_class=arguments.images_per_class,
        test_images_per_class=arguments.test_images_per_class,
        size=(CIFAR_SIZE if layout in CIFAR_FOLDERS else 96) if arguments.size is None else arguments.size,
        seed=arguments.seed,
    )
    folder = synthesize_classification(settings, arguments.output)
    print(
        f"{folder}: {counted(settings.classes, 'class')}, {counted(settings.images_per_class, 'image')} of each to "
        f"train on and {settings.test_images_per_class} to test"
    )
    return 0


def synthesize_classification(settings: Settings, output: Path) -> Path:
    """Generates a set, unless it is there already; returns the folder to train on.

    It is made beside its final place and then renamed, so that a set under its name is always complete.

    Raises:
        DataError: the folder holds something else, or its list is damaged.
    """
    is_cifar = settings.layout in CIFAR_FOLDERS
    folder = output / CIFAR_FOLDERS[settings.layout] if is_cifar else output
    with file_lock(folder, "command generates a set in this folder"):
        return _synthesize_in(folder, settings, is_cifar)


def _synthesize_in(folder: Path, settings: Settings, is_cifar: bool) -> Path:
    """Generates the set of `synthesize_classification`, as the only process that does."""
    if (folder / GENERATED).is_file():
        remedy = "choose another --output, or delete the folder"
        if read_json(folder / GENERATED, "the list of a generated set", remedy).get("settings") == asdict(settings):
            return folder
        raise DataError(f"{folder}: holds another generated set; choose another --output, or delete it")
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds files from elsewhere; choose another --output")
    with temporary_folder(folder) as staged:
        md5 = _write_cifar(settings, staged) if is_cifar else _write_folders(settings, staged)
        content = {"format": GENERATED_FORMAT, "version": 1, "settings": asdict(settings), "md5": md5}
        write_json(staged / GENERATED, content)
        sync_file_system(staged)
        if folder.exists():
            folder.rmdir()  # empty, as checked above
        staged.rename(folder)
    return folder


def _images(settings: Settings, is_test: bool) -> Iterator[tuple[int, int]]:
    """Yields class and number of each image, one class after the other in turn, as the real files mix them."""
    count = settings.test_images_per_class if is_test else settings.images_per_class
    pairs = [(label, number) for number in range(count) for label in range(settings.classes)]
    split = "test" if is_test else "training"
    yield from track(pairs, f"rendering {split} images")


def _render(settings: Settings, label: int, number: int, is_test: bool, height: int, width: int) -> np.ndarray:
    return render_texture(label, number + (MAX_IMAGES if is_test else 0), height, width, settings.seed)


def _class_name(label: int) -> str:
    return f"class_{label:03d}"


def _write_cifar(settings: Settings, folder: Path) -> dict[str, str]:
    """Writes pickles with the keys of the real ones; returns the md5 of each."""
    # The names of the classes.
    is_100 = settings.layout == "cifar-100"
    names = [_class_name(label) for label in range(settings.classes)]
    if is_100:
        coarse = [f"superclass_{number:02d}" for number in range(COARSE_CLASSES)]
        meta = {"fine_label_names": names, "coarse_label_names": coarse}
    else:
        meta = {"label_names": names, "num_cases_per_batch": 10_000, "num_vis": 3 * CIFAR_SIZE**2}
    files: dict[str, Any] = {"meta" if is_100 else "batches.meta": meta}

    # The images, in the parts that the real set has.
    for is_test in (False, True):
        pairs = list(_images(settings, is_test))
        images = [_render(settings, *pair, is_test, CIFAR_SIZE, CIFAR_SIZE) for pair in pairs]
        rows = np.stack(images).transpose(0, 3, 1, 2).reshape(len(images), -1)  # red, green, blue planes
        parts = {"test": slice(None)} if is_100 else {"test_batch": slice(None)}
        if not is_test:
            parts = {"train": slice(None)} if is_100 else {f"data_batch_{n + 1}": slice(n, None, 5) for n in range(5)}
        for name, part in parts.items():
            labels = [label for label, _ in pairs[part]]
            labelled = (
                {"fine_labels": labels, "coarse_labels": [label * COARSE_CLASSES // 100 for label in labels]}
                if is_100
                else {"labels": labels}
            )
            filenames = [f"{_class_name(label)}_{number:05d}.png" for label, number in pairs[part]]
            files[name] = {"batch_label": name, "data": np.ascontiguousarray(rows[part]), "filenames": filenames}
            files[name] |= labelled

    # The files.
    md5 = {}
    for name in cifar_files(settings.layout):
        content = pickle.dumps(files[name], protocol=2)
        md5[name] = hashlib.md5(content).hexdigest()
        with atomic_open(folder / name) as stream:
            stream.write(content)
    return md5


def _write_folders(settings: Settings, folder: Path) -> dict[str, str]:
    """Writes train/CLASS/NUMBER.jpg and val/CLASS/NUMBER.jpg, sides of 1 to 1.6 times `size`; returns no md5."""
    for is_test, split in ((False, "train"), (True, "val")):
        for label, number in _images(settings, is_test):
            stretch = 1 + 0.6 * ((7 * number + 3 * label) % 10) / 10
            sides = settings.size, round(settings.size * stretch)
            height, width = sides if number % 2 else sides[::-1]
            image = _render(settings, label, number, is_test, height, width)
            file = folder / split / _class_name(label) / f"{number:05d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return {}


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data synthesize-classification",
        description="Generates a classification set in the files of CIFAR, or in folders of images.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("--layout", choices=LAYOUTS, default="cifar-100", help="layout of the files (default: %(default)s)")
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add(
        "--classes",
        type=whole_number(2, 10_000),
        metavar="N",
        help="number of classes (default: as CIFAR has; 10 for folders)",
    )
    add(
        "--images-per-class",
        type=whole_number(1, MAX_IMAGES - 1),
        default=50,
        metavar="N",
        help="training images (default: %(default)s)",
    )
    add(
        "--test-images-per-class",
        type=whole_number(1, MAX_IMAGES - 1),
        default=10,
        metavar="N",
        help="test images (default: %(default)s)",
    )
    add(
        "--size",
        type=whole_number(8, 8192),
        metavar="PIXELS",
        help="shorter side of the images in folders (default: 96)",
    )
    add("--seed", type=SEED, default=0, metavar="N", help="random seed of the classes (default: %(default)s)")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
