"""Verb `facekd data pack`: packs aligned faces, in folders or listed in an `.lst`, into RecordIO."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.jobs.bad_records import BadRecords, add_bad_record_option
from data_prep.jobs.resuming import digest_of, file_stamp, resuming
from data_prep.sources.encoded_images import prepare_image
from data_prep.sources.image_lists import (
    LST_COLUMNS,
    ListedImage,
    check_labels,
    check_name,
    check_one_label,
    list_folder,
    read_lst_and_kind,
    renumber,
)
from facekd.commands.command_line import IMAGE_SIDE, JPEG_QUALITY, THREADS, CommandParser
from facekd.commands.places import check_apart
from facekd.data.datasets.class_counts import count_classes, print_contents, warn_of_one_class
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.errors import DataError, FacekdError, ImageError, run_verb
from facekd.images.decoding import quiet_decoders
from facekd.images.frames import FirstImageNote
from facekd.images.image_files import is_image_name
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.ordered_work import in_order
from facekd.utils.progress import track
from facekd.utils.wording import counted


def main(argv: list[str] | None = None) -> int:
    """Packs images; returns the exit status."""
    # Choose the images, their order and their keys.
    arguments = _parser().parse_args(argv)
    images, root = _list_images(arguments)
    if arguments.layout == "insightface":
        images.sort(key=lambda image: image.label)  # stable: the order within an identity stays
    # As in im2rec, the index in the list is the key of the record.
    keys = {image.key for image in images}
    has_keys = arguments.layout == "im2rec" and None not in keys and len(keys) == len(images)
    bad = BadRecords(arguments.on_bad_record)
    if bad.policy == "fail":  # before anything is written
        for image in images:
            check_name(image.name)
    quiet_decoders()

    note = FirstImageNote()

    def prepare(image: ListedImage) -> tuple[str, bytes]:
        path = root / image.name
        stamp = file_stamp(path)  # before reading, because the file may change meanwhile
        return stamp, prepare_image(path, arguments.size, arguments.resize, arguments.quality, note)

    def is_unchanged(task: int, stamp: str) -> bool:
        return file_stamp(root / images[task].name) == stamp

    # Pack them, or go on where an earlier run stopped.
    job = _job(arguments, images, root, has_keys)
    writer = RecordPackWriter(
        arguments.output, arguments.size, arguments.layout, job, is_unchanged, replace=arguments.force
    )
    with resuming(writer, bad):
        tasks = range(writer.next_task, len(images))
        todo = (images[task] for task in tasks)
        with in_order(prepare, todo, arguments.workers) as results:
            for task, result in zip(tasks, track(results, "packing images", len(tasks)), strict=True):
                image = images[task]
                try:
                    check_name(image.name)
                    stamp, content = result.result()
                except (ImageError, DataError) as error:
                    bad.meet(error)
                    continue
                writer.add(image.label, content, image.name, image.key if has_keys else None, task, stamp)
        if writer.num_images == 0:
            raise DataError(
                f"none of the {counted(len(images), 'image')} of {arguments.source} is usable; nothing was written"
            )
    size = writer.rec_path.stat().st_size / 1e6
    print(
        f"{writer.rec_path}: {counted(writer.num_images, 'image')} of {counted(writer.num_classes, 'identity')}, "
        f"{size:,.1f} MB{bad.summary()}"
    )
    return 0


def _job(arguments: argparse.Namespace, images: list[ListedImage], root: Path, has_keys: bool) -> dict[str, Any]:
    """Returns everything that decides what is written, except the content of the images."""
    lines = (f"{image.label}\t{image.key}\t{image.name}\n" for image in images)
    # Quality and OpenCV matter only if images are scaled.
    scaling = [arguments.quality, cv2.__version__] if arguments.resize else None
    return {
        "verb": "pack",
        "root": os.fsencode(root.resolve()).hex(),
        "images": digest_of(line.encode("utf-8", "surrogateescape") for line in lines),
        "has_keys": has_keys,
        "scaling": scaling,
    }


def _list_images(arguments: argparse.Namespace) -> tuple[list[ListedImage], Path]:
    source: Path = arguments.source
    check_apart(arguments.output, source, arguments.root)
    if not source.exists():
        raise DataError(f"{source}: no such folder or .lst file")
    if source.is_dir():
        images, root, columns = _list_folder(source), source, "folder of images"
    elif is_image_name(source.name):
        raise DataError(f"{source}: is one image; give the folder that holds a folder of images for each person")
    else:
        images, kind = read_lst_and_kind(source)
        check_one_label(images, source)
        root = arguments.root or source.parent
        columns = f"columns `{LST_COLUMNS[kind]}` ({kind})"
    counts = count_classes(np.array([image.label for image in images], dtype=np.int64))
    print_contents(source, counts, warn_of_one_class(counts, lambda: "Is every image in its place?"), columns)
    if arguments.renumber:
        images = renumber(images)
    check_labels(images, source)
    if arguments.output.exists() and arguments.output.is_file() and arguments.output.suffix != ".rec":
        raise FacekdError(f"{arguments.output} is a file; give a folder, or a name that ends in .rec")
    return images, root


def _list_folder(source: Path) -> list[ListedImage]:
    try:
        return list_folder(source)
    except DataError as error:
        if packs := sorted(source.glob("*.rec")):
            raise DataError(
                f"{source}: holds a record pack, {packs[0].name}, and no folders of images; `facekd data unpack` makes "
                "such folders of it, `facekd data convert` another pack"
            ) from error
        raise


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data pack",
        description="Packs aligned face images into RecordIO, as training reads them.",
        example="examples:\n"
        "  facekd data pack faces_aligned shards                     # faces_aligned/PERSON/*.jpg\n"
        "  facekd data pack train.lst shards --root images --layout im2rec\n\n"
        "Files of the right size go in byte for byte; every image is decoded once to check it. After a stop or a\n"
        "full disk, run the same command again: it resumes.\n\n"
        "writes OUT/train.rec, train.idx, train.lst and property",
    )
    # The images, and the pack to write.
    parser.add_argument(
        "source", type=Path, metavar="FOLDER_OR_LST", help="folder with a subfolder of images per identity, or an .lst"
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for the pack, or a name ending in .rec")
    parser.add_argument(
        "--layout",
        choices=("insightface", "im2rec"),
        default="insightface",
        help="insightface: with header and identity records (default); im2rec: images only",
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder that the names in the .lst are relative to (default: its own)"
    )
    # What the images in the pack look like.
    parser.add_argument(
        "--size", type=IMAGE_SIDE, default=112, metavar="PIXELS", help="side of the images (default: 112)"
    )
    parser.add_argument(
        "--resize",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="scale images of another size instead of refusing them (default: no)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing pack")
    parser.add_argument("--quality", type=JPEG_QUALITY, default=95, help="JPEG quality of scaled images (default: 95)")
    # Labels, and how the pack is written.
    parser.add_argument(
        "--renumber",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="make the labels of an .lst consecutive (default: no)",
    )
    parser.add_argument(
        "--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads that read and check images"
    )
    add_bad_record_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
