"""Verb `facekd data unpack`: writes the images of a record pack into one folder per identity."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.jobs.bad_records import BadRecords, add_bad_record_option
from data_prep.jobs.resuming import files_fingerprint
from data_prep.sources.encoded_images import suffix_of
from data_prep.sources.image_lists import names_from_lst
from data_prep.sources.people import people_of
from facekd.commands.command_line import CommandParser
from facekd.commands.places import check_apart
from facekd.data.datasets.class_counts import print_contents
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.errors import DataError, RecordError, run_verb
from facekd.files.held_folders import make_folder
from facekd.files.output_lock import folder_lock
from facekd.files.reading import is_sealed, require_regular_file, sealed
from facekd.files.syncing import sync_file_system
from facekd.files.writing import write_json, write_small_file
from facekd.images.image_files import is_listed_name
from facekd.utils.progress import track
from facekd.utils.wording import counted

PROGRESS_NAME = ".unpack_progress.json"


def main(argv: list[str] | None = None) -> int:
    """Parses and unpacks; returns the exit status."""
    arguments = _parser().parse_args(argv)
    check_apart(arguments.output, arguments.path)
    with folder_lock(arguments.output, "command unpacks"):
        return _unpack(arguments)


def _unpack(arguments: argparse.Namespace) -> int:
    """Writes the images that are not there yet."""
    pack = open_record_pack(arguments.path, arguments.on_bad_record)
    print_contents(arguments.path, pack.class_counts, [*pack.warnings, *pack.class_warnings()])
    name_image = _choose_names(pack, arguments.names)

    # Go on where an earlier run of this job was stopped. Otherwise the folder must not hold the images of another.
    rec_path = pack.reader.rec_path
    files = [rec_path, *(rec_path.with_suffix(suffix) for suffix in (".idx", ".lst"))]
    job = {"verb": "unpack", **files_fingerprint(files), "by": name_image.__name__}
    progress = arguments.output / PROGRESS_NAME
    is_ours = _job_in(progress) == job
    if not is_ours and not arguments.force:
        _check_used_folder(arguments.output, pack, name_image)
        make_folder(arguments.output)
        write_json(progress, sealed({"job": job}))
        is_ours = True
    elif not is_ours:
        progress.unlink(missing_ok=True)

    # Write what is missing.
    bad = BadRecords(arguments.on_bad_record)
    written = present = 0
    for image in track(range(pack.num_images), "unpacking images", pack.num_images):
        try:
            content, label = pack.read_image(image)
        except RecordError as error:
            bad.meet(error)
            continue
        path = os.path.join(arguments.output, name_image(image, label, content))  # noqa: PTH118 - pathlib takes longer
        # Files are renamed into place, so one that this job has left there is complete.
        if is_ours and _has_size(path, len(content)):
            present += 1
            continue
        write_small_file(path, content)
        written += 1
    sync_file_system(arguments.output)  # what the mark says is missing must not be missing without it
    progress.unlink(missing_ok=True)
    already = f", {counted(present, 'was', 'were')} there already" if present else ""
    print(f"{arguments.output}: {counted(written, 'image')} written{already}{bad.summary()}")
    return 0


NameImage = Callable[[int, int, bytes], str]


def _choose_names(pack: RecordPack, wanted: bool | None) -> NameImage:
    """Returns a function that names the file of `(image, label, content)`: by the `.lst` if it fits, else by number."""
    label_width = len(str(max(pack.num_classes - 1, 0)))
    # A key that occurs twice would name two images.
    keys = pack.image_keys
    numbers = keys if len(np.unique(keys)) == len(keys) else np.arange(len(keys))
    number_width = len(str(int(numbers.max())))

    def by_number(image: int, label: int, content: bytes) -> str:
        return f"{label:0{label_width}d}/{int(numbers[image]):0{number_width}d}{suffix_of(content)}"

    if wanted is False:
        return by_number
    lst_path = pack.reader.rec_path.with_suffix(".lst")
    try:
        names = names_from_lst(pack, lst_path)
        people_of(names, pack.labels().tolist())  # refuses folders that are not the people
        for name in names:
            if not is_listed_name(name):
                raise DataError(f"{name!r} is hidden or does not end like an image, so listings would leave it out")
    except (FileNotFoundError, DataError) as error:
        if wanted:
            raise DataError(f"no names for the images from {lst_path}: {error}") from error
        if lst_path.exists():
            print(f"note: files are named by label and key, because in {lst_path.name} {error}")
        return by_number

    def by_list(image: int, label: int, content: bytes) -> str:
        return names[image]

    return by_list


def _job_in(progress: Path) -> dict[str, Any] | None:
    """Returns the job that the progress file of a stopped run names; None without one."""
    require_regular_file(progress)
    try:
        found = json.loads(progress.read_bytes())
        return found["job"] if is_sealed(found) else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _check_used_folder(output: Path, pack: RecordPack, name_image: NameImage) -> None:
    """Refuses a folder that holds anything but images of this pack; reads those that are there.

    Raises:
        DataError: a file there has another content, or is none of the pack.
    """
    num_there = sum(1 for _, _, names in os.walk(output) for name in names if not name.startswith("."))
    if not num_there:
        return
    remedy = "choose an empty folder, or write every image anew by --force (files of other names stay)"
    num_known = 0
    for image in track(range(pack.num_images), "comparing images that are there", pack.num_images):
        try:
            content, label = pack.read_image(image)
        except RecordError:  # met again, by the policy, when images are written
            continue
        path = output / name_image(image, label, content)
        if path.is_file():
            if path.read_bytes() != content:
                raise DataError(f"{path} is there and is not that image of {pack.reader.rec_path}; {remedy}")
            num_known += not path.name.startswith(".")
    if num_known < num_there:
        raise DataError(
            f"{output} holds {counted(num_there - num_known, 'file that is', 'files that are')} not of "
            f"{pack.reader.rec_path}; {remedy}"
        )


def _has_size(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size  # noqa: PTH116
    except OSError:
        return False


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data unpack",
        description="Writes the images of a record pack, byte for byte, into one folder per identity.",
        example="example:\n  facekd data unpack ms1mv3 ms1mv3_images\n\n"
        "After a stop, run the same command again: it resumes. Files that are there from elsewhere are compared, and\n"
        "refused if they are not those of the pack.\n\n"
        "writes OUT/IDENTITY/IMAGE.jpg",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a .rec file, or a folder that holds one")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for the images")
    parser.add_argument(
        "--names",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="name files by the .lst beside the .rec (default: if its folders are the people), or by label and key",
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other files")
    add_bad_record_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
