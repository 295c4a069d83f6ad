"""Defines the command-line options that `cache-teacher` and `rebuild-head` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facekd.embedder.model_options import open_model
from facekd.errors import FacekdError

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from facekd.data.datasets import FaceDataset
    from facekd.embedder import Embedder


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--data` and how to read it, for verbs that embed a training set."""
    add = parser.add_argument
    add(
        "--data",
        required=True,
        metavar="PACK",
        help="the training set: a .rec file or its folder, or a folder with a subfolder of images for each identity",
    )
    add(
        "--data-size",
        type=int,
        metavar="PX",
        help="open the images at this size (default: the teacher's); another size needs --resize",
    )
    add(
        "--on-bad-record",
        choices=("fail", "skip"),
        default="fail",
        help="what to do about an image that cannot be read; skip takes the next good one instead, as training does",
    )
    add("--workers", type=int, metavar="N", help="processes that read images (default: 4 with --device cuda, else 0)")


def open_teacher_and_data(arguments: argparse.Namespace) -> tuple[Embedder, FaceDataset]:
    """Opens the model and the data that the options of `add_data_options` and `add_model_options` name.

    Without `--resize` nothing is resized. With it, images of another size than `--data-size` are resized to it as
    they are read, and from there to the teacher's input size where the two differ.

    Raises:
        FacekdError: a size that does not fit, or anything about model or data that cannot be used.
    """
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise FacekdError(f"--batch-size {arguments.batch_size}: give at least 1")
    embedder = open_model(arguments.model, arguments, resize=False)
    teacher_size = embedder.preprocessing.image_size
    data_size = arguments.data_size or teacher_size
    if data_size != teacher_size:
        if not arguments.resize:
            raise FacekdError(
                f"--data-size {data_size}: the teacher takes images of {teacher_size} pixels; leave it out, or add "
                "--resize to have them resized for the teacher"
            )
        # The fingerprint tells whether a model resizes, so only one that has to is opened so.
        embedder = open_model(arguments.model, arguments, resize=True)

    from facekd.data.datasets import open_dataset, print_warnings

    dataset = open_dataset(arguments.data, data_size, arguments.on_bad_record, arguments.resize)
    print_warnings(dataset)
    return embedder, dataset


def read_batch_size(arguments: argparse.Namespace) -> int:
    """Returns how many images to read at once: whole batches of the model, and enough that reading costs little."""
    if arguments.batch_size is None:
        return 256  # whole batches of any default
    return arguments.batch_size * max(1, 256 // arguments.batch_size)


def read_workers(arguments: argparse.Namespace) -> int:
    """Returns how many processes read images: none beside a teacher that takes all cores itself."""
    if arguments.workers is not None:
        return arguments.workers
    from facekd.utils.processes import usable_cores

    return min(4, usable_cores()) if arguments.device == "cuda" else 0
