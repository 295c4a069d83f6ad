"""Verb `facekd data unpack`: writes the images of a record pack into one folder per identity."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from data_prep.jobs.bad_records import BadRecords, add_bad_record_option
from data_prep.sources.encoded_images import suffix_of
from data_prep.sources.image_lists import names_from_lst
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.errors import DataError, RecordError, run_verb
from facekd.utils.command_line import CommandParser
from facekd.utils.files import write_small_file
from facekd.utils.progress import track


def main(argv: list[str] | None = None) -> int:
    """Unpacks images; returns the exit status."""
    arguments = _parser().parse_args(argv)
    pack = open_record_pack(arguments.path, arguments.on_bad_record)
    bad = BadRecords(arguments.on_bad_record)
    name_image = _choose_names(pack, arguments.names)
    written = present = 0
    for image in track(range(pack.num_images), "unpacking images", pack.num_images):
        try:
            content, label = pack.read_image(image)
        except RecordError as error:
            bad.meet(error)
            continue
        path = os.path.join(arguments.output, name_image(image, label, content))  # noqa: PTH118 - pathlib takes longer
        # An earlier run may have been stopped. Files are renamed into place, so one that is there is complete.
        if _has_size(path, len(content)):
            present += 1
            continue
        write_small_file(path, content)
        written += 1
    already = f", {present:,} were there already" if present else ""
    print(f"{arguments.output}: {written:,} images written{already}{bad.summary()}")
    return 0


def _choose_names(pack: RecordPack, wanted: bool | None) -> Callable[[int, int, bytes], str]:
    """Returns a function that names the file of `(image, label, content)`: by the `.lst` if it fits, else by number."""
    label_width = len(str(max(pack.num_classes - 1, 0)))
    key_width = len(str(int(pack.image_keys.max())))

    def by_number(image: int, label: int, content: bytes) -> str:
        return f"{label:0{label_width}d}/{int(pack.image_keys[image]):0{key_width}d}{suffix_of(content)}"

    if wanted is False:
        return by_number
    lst_path = pack.reader.rec_path.with_suffix(".lst")
    try:
        names = names_from_lst(pack, lst_path)
    except (OSError, DataError) as error:
        if wanted:
            raise DataError(f"no names for the images from {lst_path}: {error}") from error
        if lst_path.exists():
            print(f"note: files are named by label and key, because {error}")
        return by_number
    return lambda image, label, content: names[image]


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
        "After a stop, run the same command again: it resumes.\n\n"
        "writes OUT/IDENTITY/IMAGE.jpg",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a .rec file, or a folder that holds one")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for the images")
    parser.add_argument(
        "--names",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="name files by the .lst beside the .rec (default: if it fits), or by label and key",
    )
    add_bad_record_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
