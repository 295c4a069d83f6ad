"""Verb: embed a training set once with a teacher, so that distillation need not run it at every step."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facekd.embedder.model_options import add_model_options, open_model
from facekd.errors import FacekdError, run_verb

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from facekd.data.datasets import FaceDataset
    from facekd.embedder import Embedder

NUM_NAMED = 3
EPILOG = """example:
  facekd cache-teacher teacher.pt --data ms1mv3 --output ms1mv3.teacher --device cuda --workers 8

  someone else's ONNX model, whose file does not say how it wants its images:
  facekd cache-teacher other.onnx --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --color rgb \\
      --data lfw --output lfw.teacher

The file takes 4 bytes per image and value of the embedding: 10.6 GB for 5.18 million images and 512 values. The same
command goes on with an interrupted one.
"""


def main(argv: list[str] | None = None) -> int:
    """Parse, open, embed what is not embedded yet, say what there is."""
    parser = argparse.ArgumentParser(
        prog="facekd cache-teacher",
        description="Embed a training set and its mirror images once with a teacher, for distillation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="the teacher: an ONNX file, anyone's, or a facekd checkpoint")
    add_data_options(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="the cache; it appears when it is complete")
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    embedder, dataset = open_teacher_and_data(arguments)

    from facekd.teacher.cache import write_teacher_cache

    cache = write_teacher_cache(
        arguments.output, embedder, dataset, batch_size=read_batch_size(arguments), workers=read_workers(arguments)
    )
    print(
        f"{cache.path}: {cache.num_images:,} images and their mirror images, {cache.embedding_size} values each, "
        f"{cache.path.stat().st_size / 1e6:,.1f} MB"
    )
    if len(cache.replaced):
        named = "; ".join(dataset.describe(index) for index in cache.replaced[:NUM_NAMED].tolist())
        print(f"{len(cache.replaced):,} images cannot be read, and the next good one stands in for each: {named}")
    return 0


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add `--data` and how to read it: what a verb that embeds a training set asks for."""
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
        help="open the images at this size; another than the teacher's, which is the default, needs --resize",
    )
    add(
        "--on-bad-record",
        choices=("fail", "skip"),
        default="fail",
        help="what to do at an image that cannot be read; skip puts the next good one in its place, as training does",
    )
    add("--workers", type=int, metavar="N", help="processes that read images (default: 4 with --device cuda, else 0)")


def open_teacher_and_data(arguments: argparse.Namespace) -> tuple[Embedder, FaceDataset]:
    """Open what `add_data_options` and `add_model_options` ask for.

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

    from facekd.data.datasets import open_dataset

    return embedder, open_dataset(arguments.data, data_size, arguments.on_bad_record, arguments.resize)


def read_batch_size(arguments: argparse.Namespace) -> int:
    """Images read at once: whole batches of the model, and enough that the reading costs little."""
    if arguments.batch_size is None:
        return 256  # whole batches of any default
    return arguments.batch_size * max(1, 256 // arguments.batch_size)


def read_workers(arguments: argparse.Namespace) -> int:
    """Processes that read: none beside a teacher that takes all cores itself."""
    if arguments.workers is not None:
        return arguments.workers
    from facekd.data.loading.loader import usable_cores

    return min(4, usable_cores()) if arguments.device == "cuda" else 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
