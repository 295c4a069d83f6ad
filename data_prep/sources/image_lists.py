"""Lists the image files of a data set, from a folder of identities or from an `.lst` file of either kind."""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np

from facekd.data.datasets.record_pack import RecordPack
from facekd.errors import DataError
from facekd.files.reading import read_text_file
from facekd.images.image_files import Reason, list_by_folder
from facekd.utils.decimal_digits import real_number
from facekd.utils.foreign import leads_out, shown
from facekd.utils.wording import counted

T = TypeVar("T")
AGEDB_NAME = re.compile(r"\d+_(?P<who>.+)_(?P<age>\d+)_(?P<sex>[mfMF])")


class ListedImage(NamedTuple):
    """Names one image of a data set: its path below the root with `/`, its label, and im2rec's index if listed."""

    name: str
    label: int
    key: int | None = None


LARGEST_LABEL = (1 << 53) - 1
MAX_DIGITS = 18  # of a key that fits in 64 bits
LST_COLUMNS = {"insightface": "aligned path label", "im2rec": "index label path"}


def list_folder(root: Path, warn: bool = True) -> list[ListedImage]:
    """Lists the images of a folder with one subfolder per identity; labels number the subfolders in sorted order.

    `facekd.images.image_files` says which files are images; with `warn`, what is left out is named on the terminal.

    AgeDB comes without subfolders, and its file names say who is on the image, how old, and of which sex:
    `0_MariaCallas_35_f.jpg`. A folder of such names alone is read as that; labels number the people in sorted order.

    Raises:
        DataError: there are no subfolders with images, or two of them are one folder.
    """
    listing = list_by_folder(root)
    # A folder without images is not an identity.
    with_images = {folder: files for folder, files in listing.by_folder.items() if files}
    images = [
        ListedImage(f"{folder}/{file}", label)
        for label, (folder, files) in enumerate(with_images.items())
        for file in files
    ]
    outside = listing.outside
    if not images:
        images, outside = _list_agedb(outside), []
    if not images:
        raise DataError(
            f"{root} should hold one subfolder of images for each identity, or images "
            f"named as AgeDB's (number_name_age_sex){listing.explain()}"
        )

    # Say what is not in the list.
    for name in outside:
        listing.left_out.add(Reason.OUTSIDE, name)
    for name in sorted(listing.by_folder.keys() - with_images.keys()):
        listing.left_out.add(Reason.EMPTY, name)
    for warning in listing.warnings() if warn else ():
        print(f"warning: {root}: {warning}", file=sys.stderr)
    return images


def _list_agedb(files: list[str]) -> list[ListedImage]:
    """Returns the images if each file is named as AgeDB names them; an empty list if one is not."""
    names = [AGEDB_NAME.fullmatch(os.path.splitext(file)[0]) for file in files]  # noqa: PTH122
    people = [name["who"] for name in names if name is not None]
    if len(people) < len(files):
        return []
    label_of = {person: label for label, person in enumerate(sorted(set(people)))}
    listed = [ListedImage(file, label_of[person]) for file, person in zip(files, people, strict=True)]
    return sorted(listed, key=lambda image: image.label)  # stable: an identity's images lie together


def read_lst(path: Path) -> list[ListedImage]:
    """Returns the images of an `.lst` file, in its order; see `read_lst_and_kind`."""
    return read_lst_and_kind(path)[0]


def read_lst_and_kind(path: Path) -> tuple[list[ListedImage], str]:
    """Returns the images of an `.lst` file, in its order, and its kind, a key of `LST_COLUMNS`.

    Both kinds in use are read: InsightFace's `aligned<tab>path<tab>label` and im2rec's
    `index<tab>label [more labels]<tab>path`, of which the first label is taken.

    Raises:
        DataError: a line is of neither kind, or not of the kind of the first line.
    """
    images = []
    kind = None
    if path.suffix.lower() == ".rec":
        raise DataError(f"{path}: is RecordIO already; `facekd data unpack` makes folders of images of it")
    for number, line in enumerate(read_text_file(path, has_file_names=True).split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) < 3:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} has {counted(len(columns), 'tab-separated column')}; expected "
                "`aligned path label` (InsightFace) or `index label path` (im2rec)"
            )
        # A name is never a number, so every line shows the kind.
        second = real_number(columns[1])
        if second is None:
            found, name, label, value = "insightface", columns[1], columns[2], real_number(columns[2])
        else:
            found, name, label, value = "im2rec", columns[-1], columns[1], second
        if found != (kind := kind or found):
            raise DataError(
                f"{path}, line {number}: has the columns `{LST_COLUMNS[found]}`, and the lines before "
                f"`{LST_COLUMNS[kind]}`; make them alike"
            )
        # Labels are whole numbers, though they may be written as 3.0.
        if value is None or value < 0 or not value.is_integer():
            raise DataError(f"{path}, line {number}: label '{shown(label)}' of {shown(name)} is no whole number from 0")
        key = int(columns[0]) if found == "im2rec" and _is_key(columns[0]) else None
        images.append(ListedImage(name, check_label(int(value), f"{path}, line {number}", name), key))
    if not images:
        raise DataError(f"{path} lists no images")
    return images, str(kind)


def check_label(label: int, where: str, name: str = "") -> int:
    """Returns a label unless it is negative, or so large that two of them could become one number.

    Args:
        label: the label.
        where: the file, and perhaps the line, for the message.
        name: the image, for the message; shown only there, which would take long for every line.

    Raises:
        DataError: the label is outside 0 to 2^53 - 1, up to which a float64 holds every whole number.
    """
    if not 0 <= label <= LARGEST_LABEL:
        where = f"{where}: {shown(name)}" if name else where
        raise DataError(f"{where} has label {shown(label)}; labels are whole numbers from 0 to {LARGEST_LABEL}")
    return label


def number_labels(first_of: Mapping[str, T], where: Callable[[T], str]) -> dict[str, int]:
    """Returns the number of each label that a list or table gives as text.

    Numbers are the labels that they say, whatever the order; if one label is no number, all are names of people, which
    are numbered in sorted order.

    Args:
        first_of: for each label the first image that has it.
        where: says for messages in which file such an image is named, and where.

    Raises:
        DataError: among numbers one is no label: 1.5, -1, or nan, as pandas writes what is missing.
    """
    values = {label: real_number(label) if len(label) <= MAX_DIGITS else None for label in first_of}
    if None in values.values():
        return {label: number for number, label in enumerate(sorted(values))}
    number_of = {}
    for label, value in values.items():
        if value is None or not value.is_integer():
            raise DataError(
                f"{where(first_of[label])} has the label {shown(label)}; expected whole numbers from 0, or names"
            )
        number_of[label] = check_label(int(value), where(first_of[label]))
    return number_of


def check_labels(images: list[ListedImage], source: Path) -> None:
    """Refuses labels with gaps, which would give a classifier classes that nobody belongs to.

    Raises:
        DataError: a label below the highest has no image.
    """
    labels = {image.label for image in images}
    if len(labels) <= max(labels):
        missing = next(label for label in range(max(labels)) if label not in labels)
        raise DataError(
            f"{source}: {counted(len(labels), 'label is', 'labels are')} used, up to {max(labels):,}, and label "
            f"{missing} has no image; --renumber gives consecutive ones"
        )


def check_one_label(images: list[ListedImage], source: Path) -> list[ListedImage]:
    """Returns the images unless one is listed with two labels; an image listed twice with the same label is fine.

    Raises:
        DataError: an image is listed with two labels.
    """
    label_of: dict[str, int] = {}
    contradictions = [image for image in images if label_of.setdefault(image.name, image.label) != image.label]
    if contradictions:
        first = contradictions[0]
        raise DataError(
            f"{source}: '{shown(first.name)}' is listed with label {label_of[first.name]} and with label "
            f"{first.label}, so one of them is wrong ({counted(len(contradictions), 'such line')}); take the wrong "
            "lines out"
        )
    return images


def check_name(name: str) -> None:
    """Refuses a name that a list of names cannot hold, such as an `.lst`.

    Raises:
        DataError: the name has a tab or a line break.
    """
    if any(character in name for character in "\t\n\r"):
        raise DataError(f"'{shown(name)}': names with tabs or line breaks do not fit a list; rename the image")


def renumber(images: list[ListedImage]) -> list[ListedImage]:
    """Returns the images with consecutive labels from 0, in the order of the old labels."""
    new_label = {label: position for position, label in enumerate(sorted({image.label for image in images}))}
    return [image._replace(label=new_label[image.label]) for image in images]


def _is_key(text: str) -> bool:
    text = text.strip(" ")
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def names_from_lst(pack: RecordPack, lst_path: Path) -> list[str]:
    """Returns the names of a pack's images from the `.lst` beside it, checked against the labels of all records.

    Raises:
        DataError: it lists other images than those of the pack, or names that lead out of a folder.
    """
    # Find the line of each image.
    listed = read_lst(lst_path)
    if len(listed) != pack.num_images:
        raise DataError(f"{lst_path} lists {counted(len(listed), 'image')} and the pack has {pack.num_images:,}")
    if pack.layout == "insightface":
        order = (pack.image_keys - 1).tolist()  # line n, counted from 1, is key n
    else:
        # The first column of im2rec is the key; lines and records may both be shuffled.
        lines = read_text_file(lst_path, has_file_names=True).split("\n")
        line_of_key = {line.partition("\t")[0]: number for number, line in enumerate(filter(str.strip, lines))}
        order = [line_of_key.get(str(key), -1) for key in pack.image_keys.tolist()]
    if min(order) < 0 or max(order) >= len(listed):
        raise DataError(f"{lst_path} does not list the keys of the pack")

    # Check each name and label.
    labels = pack.labels().tolist()
    names = []
    places = set()
    for image, line in enumerate(order):
        name, label = listed[line].name, listed[line].label
        if labels[image] not in (label, -1):
            raise DataError(
                f"{lst_path} gives {shown(name)} label {label}, and record {pack.image_keys[image]} has {labels[image]}"
            )
        if leads_out(name):
            raise DataError(f"{lst_path} has the name '{shown(name)}', which leads out of the output folder")
        names.append(name)
        places.add(str(PurePosixPath(name)))
    if len(places) != len(names):
        raise DataError(f"{lst_path} lists some names twice")
    return names


def labels_from_key_list(pack: RecordPack, path: Path) -> tuple[np.ndarray, list[str]]:
    """Returns labels, int64 (N,), and names of a pack's images from a list of `key<tab>folder/image` lines.

    DCFace is published so: every record has label 0, and `list.txt` says which image a record is. The person is the
    folder that the line names; labels number the folders in sorted order. Further columns are not read.

    Raises:
        DataError: a line has another form, a key has two lines that differ, or an image of the pack has no line.
    """
    # The path of each key.
    path_of: dict[int, str] = {}
    for number, line in enumerate(read_text_file(path, has_file_names=True).split("\n"), start=1):
        key, _, rest = line.rstrip("\r").partition("\t")
        name = rest.partition("\t")[0]
        if not line.strip():
            continue
        if not _is_key(key) or "/" not in name:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r}; expected `key folder/image`, parted by a tab: the key of a "
                "record, and the image with the folder of the person"
            )
        if path_of.setdefault(int(key), name) != name:
            before = shown(path_of[int(key)])
            raise DataError(f"{path}, line {number}: record {key} is {shown(name)}, and {before} in a line before")

    # Each image of the pack must have one.
    keys = pack.image_keys.tolist()
    missing = [key for key in keys if key not in path_of]
    if missing:
        raise DataError(
            f"{path} has no line for {len(missing):,} of the {counted(len(keys), 'image')} of {pack.reader.rec_path}, "
            f"first record {missing[0]}: it is the list of another pack, or not complete"
        )
    names = [path_of[key] for key in keys]
    people = [posixpath.normpath(name.rpartition("/")[0]) for name in names]
    label_of = {person: label for label, person in enumerate(sorted(set(people)))}
    # Names that lead out of a folder, or are there twice, are no use as names of files.
    is_usable = len(set(names)) == len(names) and not any(map(leads_out, names))
    return np.array([label_of[person] for person in people], dtype=np.int64), names if is_usable else []
