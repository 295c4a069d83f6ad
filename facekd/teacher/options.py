"""Defines what verbs share that embed a training set: options, opening model and data, and the embedding."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from facekd.commands.command_line import IMAGE_SIDE, PROCESSES
from facekd.commands.places import check_named_once, claimed_files, mark_of_format, path_of_model, paths_of_data
from facekd.embedder.model_options import open_model
from facekd.errors import FacekdError

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import numpy as np
    from numpy.typing import NDArray

    from facekd.data.datasets import FaceDataset
    from facekd.embedder import Embedder
    from facekd.teacher.cache_file import TeacherCache


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--data` and the options for reading it, for verbs that embed a training set."""
    add = parser.add_argument
    add(
        "--data",
        required=True,
        metavar="PACK",
        help="the training set: a .rec file or its folder, or a folder with a subfolder of images for each identity",
    )
    add(
        "--data-size",
        type=IMAGE_SIDE,
        metavar="PX",
        help="open the images at this size (default: the model's); another size needs --resize",
    )
    add(
        "--on-bad-record",
        choices=("fail", "skip"),
        default="fail",
        help="what to do with an image that cannot be read; skip takes the next good one instead, as training does",
    )
    add(
        "--workers",
        type=PROCESSES,
        metavar="N",
        help="processes that read images (default: 4 with --device cuda, else 0)",
    )


def open_teacher_and_data(arguments: argparse.Namespace, learns_classes: bool = False) -> tuple[Embedder, FaceDataset]:
    """Opens the model and the data named by the options of `add_data_options` and `add_model_options`.

    Without `--resize` nothing is resized. With it, images of another size are resized to `--data-size` when they are
    read, and from there to the teacher's input size if the two differ.

    Args:
        arguments: the parsed options.
        learns_classes: whether to refuse data in which fewer than two classes have images, instead of a warning.

    Raises:
        FacekdError: a size does not fit, or the model or the data cannot be used.
    """
    # The teacher, and the size at which it sees the images.
    embedder = open_model(arguments.model, arguments, resize=False)
    teacher_size = embedder.preprocessing.image_size
    data_size = arguments.data_size or teacher_size
    if data_size != teacher_size:
        if not arguments.resize:
            raise FacekdError(
                f"--data-size {data_size}: the teacher takes images of {teacher_size} pixels; leave it out, or add "
                "--resize to have them resized for the teacher"
            )
        # Resizing is part of the fingerprint, so a model is opened with it only if it has to resize.
        embedder = open_model(arguments.model, arguments, resize=True)

    # The images, with warnings about what looks wrong in them.
    from facekd.data.datasets import open_dataset, print_summary
    from facekd.data.datasets.class_counts import require_two_classes

    unlabelled = getattr(arguments, "unlabelled", False)
    dataset = open_dataset(arguments.data, data_size, arguments.on_bad_record, arguments.resize, unlabelled=unlabelled)
    if learns_classes:
        require_two_classes(dataset)
    print_summary(dataset)
    return embedder, dataset


def embed_training_set(
    arguments: argparse.Namespace, path: str | Path, embedder: Embedder, dataset: FaceDataset
) -> TeacherCache:
    """Embeds the images that the cache at `path` does not hold yet, as the options say; see `write_teacher_cache`."""
    from facekd.teacher.cache import write_teacher_cache

    batch_size, workers = _read_batch_size(arguments), _read_workers(arguments)
    return write_teacher_cache(path, embedder, dataset, batch_size=batch_size, workers=workers)


def path_of_embeddings(arguments: argparse.Namespace, output: Path) -> Path:
    """Returns where the embeddings that a verb learns from are kept: in `--cache`, or beside its output for a while."""
    return Path(arguments.cache) if arguments.cache else output.with_name(f"{output.name}.embeddings")


def claimed_head(
    arguments: argparse.Namespace, output: Path, verb: str, report_format: str
) -> AbstractContextManager[None]:
    """Locks a head that a verb learns from embeddings, and the report beside it; see `claimed_files`.

    Args:
        arguments: the parsed options: `model`, `data` and `cache`.
        output: the head; the report beside it ends in `.json`.
        verb: the command, such as `facekd rebuild-head`.
        report_format: the format that the report names.

    Raises:
        DataError: one of them is read by the verb, or the report's name is that of a file of somebody else.
        InUseError: another process writes one of them.
    """
    report, kept = output.with_suffix(".json"), path_of_embeddings(arguments, output)
    check_named_once(output, report, kept)
    sources = [path_of_model(arguments.model), *paths_of_data(arguments.data), kept]
    return claimed_files([report], sources, verb, [mark_of_format(report_format)], replaceable=[output])


def labels_of_embedded(dataset: FaceDataset, cache: TeacherCache) -> NDArray[np.int64]:
    """Returns the labels (N,) of the images, -1 for those whose row in the cache holds another image."""
    labels = dataset.labels.copy()
    labels[cache.replaced] = -1
    return labels


def _read_batch_size(arguments: argparse.Namespace) -> int:
    """Returns the number of images to read at once: whole batches of the model, about 256 images."""
    if arguments.batch_size is None:
        return 256  # a multiple of both default batch sizes
    return arguments.batch_size * max(1, 256 // arguments.batch_size)


def _read_workers(arguments: argparse.Namespace) -> int:
    """Returns the number of processes that read images: none on a CPU, where the teacher uses all cores itself."""
    if arguments.workers is not None:
        return arguments.workers
    from facekd.utils.processes.children import usable_cores

    return min(4, usable_cores()) if arguments.device != "cpu" else 0
