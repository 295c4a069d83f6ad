"""Verb `facekd train-quality`: teaches a trained backbone to tell how well an image can be recognised."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.commands.command_line import COUNT, SEED, CommandParser, device_name
from facekd.errors import CheckpointError, DataError, FacekdError, run_verb
from facekd.files.unchanged import unchanged
from facekd.files.writing import write_json
from facekd.plugins import add_plugin_option
from facekd.quality.targets import IN_WORDS, TARGETS, Targets, make_targets
from facekd.teacher.options import (
    add_data_options,
    claimed_head,
    embed_training_set,
    labels_of_embedded,
    open_teacher_and_data,
    path_of_embeddings,
)
from facekd.utils.wording import counted
from facekd.verification.scores import unit_rows

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from facekd.checkpoints.contents import Checkpoint
    from facekd.quality.fitting import FittedHead
    from facekd.teacher.cache_file import TeacherCache

HELD_OUT = 10  # one person in so many is not learnt from
REPORT_FORMAT, REPORT_VERSION = "facekd-quality-head-report", 1
EPILOG = """example:
  facekd train-quality runs/student --data ms1mv3 --output scored.pt --cache student.cache
  facekd export scored.pt --output scored.onnx
  facekd evaluate lfw --model scored.onnx --pairs lfw.bin --quality model --output results

scored.pt holds the backbone, unchanged, and a small network behind it that gives each image a quality from 0 to 1;
scored.json says how well that predicts people it was not taught. `facekd export` writes both
outputs. What is learnt, and from what: docs/method.md, Quality heads. After an interruption the same command continues.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses, and trains a quality head; returns the exit status."""
    arguments = _parse(argv)
    with claimed_head(arguments, arguments.output, "facekd train-quality", REPORT_FORMAT):
        return _train(arguments, arguments.output)


def _train(arguments: argparse.Namespace, output: Path) -> int:
    """Embeds or looks up the images, computes the targets, trains, and writes and prints the results."""
    # The model and the data.
    file = resolve_checkpoint(arguments.model)
    arguments.model = str(file)
    with unchanged(file):  # a run that still trains replaces best.pt
        checkpoint = _read_model(file)
        embedder, dataset = open_teacher_and_data(arguments, learns_classes=True)

    # Without --cache, the embeddings are kept beside the output until it is written, so that a kill costs little.
    cache_path = path_of_embeddings(arguments, output)
    cache = embed_training_set(arguments, cache_path, embedder, dataset)
    labels = labels_of_embedded(dataset, cache)

    # What to learn, from embeddings of the images as they are, and the head.
    def units(images: NDArray[np.int64]) -> NDArray[np.float32]:
        return unit_rows(cache.lookup(images), None)

    try:
        targets = make_targets(arguments.target, units, labels, arguments.images, arguments.seed)
        fitted = _fit(cache, targets, labels, arguments.seed)
    except FacekdError as error:
        raise DataError(f"{dataset.name}: {error}") from error

    # Write the report first, so that no head exists without its report.
    report = _describe(arguments, cache, targets, fitted)
    write_json(output.with_suffix(".json"), report)
    _write_model(output, checkpoint, fitted, report)
    if not arguments.cache:
        cache_path.unlink()
    _print(report, output)
    return 0


def _read_model(file: Path) -> Checkpoint:
    """Reads a checkpoint with a backbone of faces.

    Raises:
        CheckpointError: it has none, or is one of image classification.
    """
    from facekd.checkpoints.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(file)
    if checkpoint.backbone is None:
        raise CheckpointError(f"{file}: holds no backbone to put a quality head behind; name the run that trained it")
    if checkpoint.head_kind == "linear":
        raise CheckpointError(
            f"{file}: has a linear classifier, whose embeddings are not compared by cosine; a quality head is for "
            "models that tell people apart, trained with head.kind = 'margin'"
        )
    return checkpoint


def _fit(cache: TeacherCache, targets: Targets, labels: NDArray[np.int64], seed: int) -> FittedHead:
    """Trains on the images and their mirror images, without the people held out."""
    from facekd.quality.fitting import fit_quality_head

    people = np.unique(labels[targets.images])
    held_out = np.random.default_rng(seed).permutation(people)[: max(1, len(people) // HELD_OUT)]
    both = cache.lookup_both(targets.images)
    rows = np.concatenate([both[:, 0], both[:, 1]])
    is_held_out = np.isin(labels[targets.images], held_out)
    return fit_quality_head(rows, np.tile(targets.scaled, 2), np.tile(is_held_out, 2), seed)


def _describe(
    arguments: argparse.Namespace, cache: TeacherCache, targets: Targets, fitted: FittedHead
) -> dict[str, Any]:
    """Returns the content of the report."""
    return {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "model": arguments.model,
        "fingerprint": cache.teacher["fingerprint"],
        "data": cache.data,
        "target": arguments.target,
        "seed": arguments.seed,
        "num_images": len(targets.images),
        "num_unreadable": len(cache.replaced),
        "low": targets.low,
        "high": targets.high,
        "num_learnt_from": fitted.num_learnt_from,
        "num_held_out": fitted.num_held_out,
        "step": fitted.step,
        "rank_correlation": fitted.rank_correlation,
        "rank_correlation_of_length": fitted.rank_correlation_of_length,
    }


def _write_model(path: Path, checkpoint: Checkpoint, fitted: FittedHead, report: dict[str, Any]) -> None:
    """Writes the weights that the head was made for, and the head; neither the classifier nor what resumes a run."""
    from facekd.checkpoints.checkpoint import write_checkpoint

    summary = {key: report[key] for key in ("model", "data", "target", "seed", "num_images", "low", "high")}
    summary["weights"] = checkpoint.weights_in_words
    taken = {"backbone": checkpoint.backbone, "projection": checkpoint.projection}
    if checkpoint.ema:
        taken = {"backbone": checkpoint.ema, "projection": checkpoint.ema_projection}
    left_out = ("ema", "ema_projection", "head", "head_shards", "sub_centers", "training")
    write_checkpoint(
        path,
        dataclasses.replace(
            checkpoint,
            config={**checkpoint.config, "quality_head": summary},
            quality_head=fitted.head.state_dict(),
            **taken,
            **dict.fromkeys(left_out),
        ),
    )


def _print(report: dict[str, Any], output: Path) -> None:
    def text(value: float | None) -> str:
        return "not measurable" if value is None else f"{value:.3f}"

    print(f"{counted(report['num_images'], 'image')}, learnt: {IN_WORDS[report['target']]}")
    print(f"  rank correlation with it      {text(report['rank_correlation'])}, of people held out")
    print(f"  of the embedding's length     {text(report['rank_correlation_of_length'])}, for comparison")
    print(f"wrote {output}; `facekd export {output} --output MODEL.onnx` writes it with an output `quality`")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd train-quality",
        description="Teaches a trained backbone, which stays as it is, to tell how well an image can be recognised.",
        example=EPILOG,
    )
    # What to read and where to write.
    add = parser.add_argument
    add("model", metavar="RUN", help="a run of facekd or a checkpoint; its classifier is not needed")
    add_data_options(parser)
    add(
        "--output",
        type=Path,
        required=True,
        metavar="OUT.pt",
        help="the model with its quality head; the report is written beside it as .json",
    )
    add(
        "--cache",
        type=Path,
        metavar="FILE",
        help="embeddings from `facekd cache-teacher RUN`; computed here if missing, and kept",
    )
    # What to learn.
    add(
        "--target",
        choices=TARGETS,
        default="sdd",
        help="; ".join(f"{name}: {what}" for name, what in IN_WORDS.items()) + " (default: sdd)",
    )
    add(
        "--images",
        type=COUNT,
        default=100_000,
        metavar="N",
        help="images to learn from, spread evenly (default: 100000)",
    )
    add("--seed", type=SEED, default=0, help="of what is drawn (default: 0)")
    # How the backbone is run; its preprocessing is that of its training.
    add_plugin_option(parser)
    add("--resize", action="store_true", help="resize images of another size instead of refusing them")
    add("--batch-size", type=COUNT, metavar="N", help="images per call of the backbone (default: 16 on a CPU, else 64)")
    add("--device", type=device_name, default="cpu", help="where the backbone runs: cpu, cuda or cuda:N (default: cpu)")
    unused = ("mean", "std", "color", "image_size", "embedding_output", "threads", "rewrite_prelu")
    parser.set_defaults(**dict.fromkeys(unused))
    arguments = parser.parse_args(argv)
    if arguments.output.suffix == ".json":
        parser.error(f"--output {arguments.output}: the report takes this name; call the model .pt")
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
