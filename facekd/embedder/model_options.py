"""Defines the command-line options for opening a model, shared by all verbs that embed images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import COUNT, IMAGE_SIDE, comma_separated, device_name, real_number, whole_number
from facekd.plugins import add_plugin_option
from facekd.utils.gpu_driver import mention_gpu
from facekd.utils.processes.children import launcher_number, usable_cores
from facekd.utils.wording import counted

if TYPE_CHECKING:  # torch and onnxruntime cost seconds: `--help` does without
    from facekd.embedder import Embedder

# Means may be negative, for models that take other units; more threads than this slow each other down.
GREY_LEVELS = comma_separated(real_number(-1e6, 1e6), "127.5,127.5,127.5")
MAX_THREADS = 4 * (os.cpu_count() or 1)
AUTO = "auto"
MODEL_HELP = "an ONNX file (any tool's), a facekd checkpoint, or the folder of a run: its latest checkpoint"


def add_model_options(parser: argparse.ArgumentParser, tries_batches: bool = False) -> None:
    """Adds `--mean`, `--std`, `--color`, `--image-size`, `--embedding-output`, `--resize`, and how the model is run.

    Args:
        parser: gets the options.
        tries_batches: whether the verb opens the model by `open_fastest_model`, which may choose the batch size.
    """
    add_plugin_option(parser)
    # Preprocessing first, then how the model runs.
    add = parser.add_argument_group("the model", "overriding what its file records").add_argument
    add(
        "--mean",
        type=GREY_LEVELS,
        metavar="R,G,B",
        help="mean to subtract, in units of 0..255; one number for all three",
    )
    add("--std", type=GREY_LEVELS, metavar="R,G,B", help="standard deviation to divide by, in units of 0..255")
    add("--color", choices=("rgb", "bgr"), help="channel order of the model's input")
    add("--image-size", type=IMAGE_SIDE, metavar="PX", help="input size, if the model's file does not record it")
    add(
        "--embedding-output",
        metavar="NAME",
        help="output that is the embedding, if an ONNX file has several and it is not plain which",
    )
    add(
        "--resize",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="resize images of another size instead of refusing them",
    )
    add(
        "--batch-size",
        type=_count_or_auto if tries_batches else COUNT,
        metavar="N",
        default=AUTO if tries_batches else None,
        help="images per call of a model with a dynamic batch (default: "
        + ("auto, by a trial of a second)" if tries_batches else "16 for a checkpoint on a CPU, else 64)"),
    )
    add("--device", type=device_name, default="cpu", help="where the model runs: cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=whole_number(1, MAX_THREADS), help="threads of onnxruntime (default: one per core"
        + (", or half of that if the trial is faster)" if tries_batches else ")"))  # fmt: skip
    add(
        "--rewrite-prelu",
        action="store_true",
        help="compute the PReLU of an ONNX file in a form that is faster on a CPU; used only if it has any, and if "
        "embeddings stay the same within 1e-5 (default: no; files of `facekd export` have that form already)",
    )


def open_model(path: str, arguments: argparse.Namespace, resize: bool | None = None) -> Embedder:
    """Opens a model with the options of `add_model_options`, and prints what it had to assume or found in the graph.

    Args:
        path: an ONNX file, or a facekd checkpoint.
        arguments: parsed command line with those options.
        resize: overrides `arguments.resize`.

    Raises:
        ModelError: see `facekd.embedder.open_embedder`.
    """
    embedder = _open(path, arguments, resize, arguments.batch_size, arguments.threads)
    report_preprocessing(path, embedder)
    mention_gpu(arguments.device)
    return embedder


def open_as_told(path: str, options: argparse.Namespace) -> Embedder:
    """Opens a model as `open_model` does and prints nothing, for preprocessings that are known to be wrong."""
    return _open(path, options, None, options.batch_size, options.threads)


def open_fastest_model(path: str, arguments: argparse.Namespace) -> Embedder:
    """Opens a model as `open_model` does, without resizing, and finds a fast batch size for it if none is given.

    What was chosen is said on standard error.

    Args:
        path: an ONNX file, or a facekd checkpoint.
        arguments: parsed command line with the options of `add_model_options(parser, tries_batches=True)`.

    Raises:
        ModelError: see `facekd.embedder.open_embedder`.
    """
    is_auto = arguments.batch_size == AUTO
    first = _open(path, arguments, False, None if is_auto else arguments.batch_size, arguments.threads)
    report_preprocessing(path, first)
    mention_gpu(arguments.device)
    if not is_auto:
        return first
    from facekd.embedder import OnnxEmbedder
    from facekd.embedder.speed_trial import find_fastest

    # The number of threads can be chosen for onnxruntime on a CPU; where cores are halves of one, half may be faster.
    counts, cores = [arguments.threads], usable_cores()
    if arguments.threads is None and arguments.device == "cpu" and cores > 1 and isinstance(first, OnnxEmbedder):
        counts = [None, cores // 2]
    opened = {counts[0]: first}
    embedder, speed = find_fastest(
        lambda threads: opened.get(threads) or _open(path, arguments, False, None, threads), counts, arguments.device
    )
    threads = f" and {counted(speed.threads or cores, 'thread')}" if len(counts) > 1 else ""
    print(
        f"batches of {speed.batch_size}{threads}: {speed.images_per_second:,.0f} images/s in a trial", file=sys.stderr
    )
    return embedder


def _open(
    path: str, arguments: argparse.Namespace, resize: bool | None, batch_size: int | None, threads: int | None
) -> Embedder:
    """Opens a model; options that were not given are None: the model's file decides."""
    from facekd.embedder import open_embedder

    mean, std = _to_grey_levels(arguments.mean, arguments.std)
    return open_embedder(
        path,
        mean=_one_or_three(mean),
        std=_one_or_three(std),
        color=arguments.color,
        image_size=arguments.image_size,
        device=arguments.device,
        batch_size=batch_size,
        resize=arguments.resize if resize is None else resize,
        threads=threads,
        output=arguments.embedding_output,
        rewrite_prelu=arguments.rewrite_prelu or None,
    )


def _count_or_auto(text: str) -> int | str:
    return text if text == AUTO else COUNT(text)


def report_preprocessing(path: str | os.PathLike[str], embedder: Any) -> None:
    """Prints what a model is known as, and what was assumed or found in its graph; of several processes one prints."""
    # A wrong guess only lowers accuracy, so users must see it.
    if launcher_number("RANK", 0) > 0:
        return
    if known := getattr(embedder, "known", None):
        print(f"{path}: is {known}", file=sys.stderr)
    assumed = getattr(embedder, "assumed", ())
    if assumed:
        used = ", ".join(f"{name} {getattr(embedder.preprocessing, name)}" for name in assumed)
        print(f"{path} does not record its preprocessing; assumed: {used}", file=sys.stderr)
    for remark in getattr(embedder, "remarks", ()):
        print(f"{path}: {remark}", file=sys.stderr)


def _one_or_three(values: Sequence[float] | None) -> Sequence[float] | float | None:
    return values[0] if values is not None and len(values) == 1 else values


def _to_grey_levels(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Converts torchvision's 0..1 units, recognised by a std below 1, and says so on standard error."""
    if mean is None or std is None or max(std) >= 1 or min(std) <= 0 or not all(0 <= value <= 1 for value in mean):
        return mean, std
    mean, std = [255 * value for value in mean], [255 * value for value in std]
    shown = " and ".join(", ".join(f"{value:g}" for value in values) for values in (mean, std))
    print(f"mean and std are below 1: taken as fractions of 255, that is {shown}", file=sys.stderr)
    return mean, std
