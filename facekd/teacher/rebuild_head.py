"""Verb `facekd rebuild-head`: computes class centres from data for a teacher published without a classifier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facekd.commands.command_line import COSINE, COUNT, CommandParser, real_number
from facekd.embedder.model_options import MODEL_HELP, add_model_options
from facekd.errors import InputError, run_verb
from facekd.files.writing import write_json
from facekd.head.robust_centres import (
    NearestCentres,
    RobustCentres,
    UnitEmbeddings,
    find_nearest_centres,
    robust_centres,
)
from facekd.teacher.derived_centres import derive_centres, describe_measures, read_own_rows
from facekd.teacher.options import (
    add_data_options,
    claimed_head,
    embed_training_set,
    labels_of_embedded,
    open_teacher_and_data,
    path_of_embeddings,
)
from facekd.utils.foreign import shown
from facekd.utils.progress import track
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import agreeing, counted

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    from facekd.data.datasets import FaceDataset

IMAGES_CHUNK = 1024
NUM_LISTED = 10
REPORT_FORMAT, REPORT_VERSION = "facekd-rebuilt-head-report", 1
EPILOG = """example:
  facekd rebuild-head teacher.onnx --data ms1mv3 --output teacher_head.pt --cache ms1mv3.teacher
  facekd rebuild-head runs/student --data ms1mv3 --output student_head.pt --power 0.25   # to share it (SH-KD)

The centre of an identity is the mean direction of its images without outliers; the scheme and its sources are in
docs/method.md. teacher_head.pt holds the classifier. teacher_head.json has its top-1 accuracy on the data, and every
image and identity far from its centre. After an interruption the same command continues.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses and computes a classifier; returns the exit status."""
    arguments = _parse(argv)
    output = Path(arguments.output)
    with claimed_head(arguments, output, "facekd rebuild-head", REPORT_FORMAT):
        return _rebuild(arguments, output)


def _rebuild(arguments: argparse.Namespace, output: Path) -> int:
    """Embeds or looks up the images, computes and evaluates the centres, and writes and prints the results."""
    # The teacher and the data.
    embedder, dataset = open_teacher_and_data(arguments, learns_classes=True)
    _check_identities(dataset, dataset.labels)  # fails here rather than after hours of embedding
    own_rows = read_own_rows(arguments.model, dataset, is_needed=arguments.blend is not None)

    # Without --cache, the embeddings are kept beside the output until it is written, so that a kill costs little.
    cache_path = path_of_embeddings(arguments, output)
    cache = embed_training_set(arguments, cache_path, embedder, dataset)
    labels = labels_of_embedded(dataset, cache)
    _check_identities(dataset, labels)

    # The centres, and their accuracy on the images they were made from.
    embeddings = cache.lookup_units
    centres = robust_centres(embeddings, labels, dataset.num_classes, arguments.min_cosine, track)
    accuracy = measure_accuracy(centres, embeddings, labels, arguments.evaluation_images)
    derived = derive_centres(centres.weight, own_rows, arguments.power, arguments.blend)
    report = {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "model": str(arguments.model),
        "data": cache.data,
        "teacher": cache.teacher,
        "threshold": centres.threshold,
        "threshold_from": "the data" if arguments.min_cosine is None else "--min-cosine",
        "num_images": int(np.count_nonzero(labels >= 0)),
        "num_unreadable": int(np.count_nonzero(labels < 0)),
        "num_left_out": int(np.count_nonzero(~centres.is_kept & (labels >= 0))),
        "accuracy": accuracy,
        "centres": derived.measures,
        "far_identities": list_far_identities(centres, labels),
        "far_images": list_far_images(centres, embeddings, labels, dataset),
    }

    # Write the report first, so that no classifier exists without its report.
    write_json(output.with_suffix(".json"), report)
    write_head(output, derived.weight, cache.teacher["fingerprint"], dataset, report)
    if not arguments.cache:
        cache_path.unlink()
    _print(report, output)
    return 0


def measure_accuracy(
    centres: RobustCentres, embeddings: UnitEmbeddings, labels: NDArray[np.int64], at_most: int
) -> dict[str, Any]:
    """Computes top-1 accuracy over at most `at_most` evenly spread images, with and without each image in its centre.

    "top1" is too high, because each image contributes to its own centre; "top1_leave_one_out" is what to expect of
    images that did not contribute. Mislabelled images count as errors in both.
    """
    labelled = np.flatnonzero(labels >= 0)
    chosen = labelled[spread_evenly(len(labelled), at_most)]
    correct = correct_left_out = alone = 0
    starts = range(0, len(chosen), IMAGES_CHUNK)
    for start in track(starts, "classifying by the centres", len(chosen), IMAGES_CHUNK):
        nearest = find_nearest_centres(centres, embeddings, labels, chosen[start : start + IMAGES_CHUNK])
        correct += int(nearest.is_correct.sum())
        correct_left_out += int((nearest.is_correct_left_out & ~nearest.is_alone).sum())
        alone += int(nearest.is_alone.sum())
    left_out = len(chosen) - alone
    return {
        "num_images": len(chosen),
        "top1": correct / len(chosen),
        "num_images_left_out": left_out,
        "top1_leave_one_out": correct_left_out / left_out if left_out else None,
        "num_alone_in_their_class": alone,
    }


def list_far_identities(centres: RobustCentres, labels: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Lists identities with at least two images and at least a quarter of all far from the centre, worst first."""
    labelled = labels >= 0
    num_classes = len(centres.weight)
    images = np.bincount(labels[labelled], minlength=num_classes)
    far = np.bincount(labels[labelled & centres.is_far], minlength=num_classes)
    known = np.isfinite(centres.cosine)
    sums = np.bincount(labels[known], weights=centres.cosine[known], minlength=num_classes)
    means = sums / np.maximum(np.bincount(labels[known], minlength=num_classes), 1)
    listed = np.flatnonzero((far >= 2) & (4 * far >= images))
    listed = listed[np.lexsort((means[listed], -far[listed] / images[listed]))]
    return [
        {
            "label": int(label),
            "num_images": int(images[label]),
            "num_far": int(far[label]),
            "mean_cosine": round(float(means[label]), 4),
        }
        for label in listed
    ]


def list_far_images(
    centres: RobustCentres, embeddings: UnitEmbeddings, labels: NDArray[np.int64], dataset: FaceDataset
) -> list[dict[str, Any]]:
    """Lists images below the threshold, furthest first, with the nearest other identity of each."""
    far = np.flatnonzero(centres.is_far)
    far = far[np.argsort(centres.cosine[far], kind="stable")]
    listed = []
    for start in range(0, len(far), IMAGES_CHUNK):
        images = far[start : start + IMAGES_CHUNK]
        nearest: NearestCentres = find_nearest_centres(centres, embeddings, labels, images)
        for place, image in enumerate(images.tolist()):
            other = int(nearest.nearest_other[place])
            listed.append(
                {
                    "image": image,
                    "source": dataset.describe(image),
                    "label": int(labels[image]),
                    "cosine": round(float(centres.cosine[image]), 4),
                    "is_left_out": not centres.is_kept[image],
                    "nearest_other": None if other < 0 else other,
                    "nearest_other_cosine": None if other < 0 else round(float(nearest.nearest_other_cosine[place]), 4),
                }
            )
    return listed


def write_head(
    path: Path,
    weight: NDArray[np.float32],
    teacher_fingerprint: str,
    dataset: FaceDataset,
    report: dict[str, Any],
) -> None:
    """Writes centres (C, E) as a checkpoint that holds a classifier only."""
    import torch

    from facekd.checkpoints.checkpoint import write_checkpoint
    from facekd.checkpoints.contents import Checkpoint
    from facekd.data.datasets.identity_map import people_fields

    summary = {key: report[key] for key in ("model", "data", "teacher", "threshold", "threshold_from", "accuracy")}
    if report["centres"]["power"] is not None or report["centres"]["blend"] is not None:  # not the means as they are
        summary["centres"] = report["centres"]
    checkpoint = Checkpoint(
        config={"head": {"kind": "margin"}, "rebuilt_head": {**summary, "num_left_out": report["num_left_out"]}},
        head={"weight": torch.from_numpy(weight)},
        num_classes=len(weight),
        **people_fields(dataset),
        teacher_fingerprint=teacher_fingerprint,
    )
    write_checkpoint(path, checkpoint)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd rebuild-head",
        description="Rebuilds the classifier of a teacher published as a backbone only: class centres from data.",
        example=EPILOG,
    )
    # What to read and where to write.
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"the teacher: {MODEL_HELP}")
    add_data_options(parser)
    add(
        "--output",
        required=True,
        metavar="head.pt",
        help="the classifier to write; the report is written beside it as .json",
    )
    add(
        "--cache",
        metavar="FILE",
        help="embeddings from `facekd cache-teacher`; computed here if missing, and kept for distillation",
    )
    # How to compute and evaluate the centres.
    add(
        "--min-cosine",
        type=COSINE,
        metavar="X",
        help="leave out images below this cosine to their centre (default: from the data, see docs/method.md)",
    )
    add(
        "--power",
        type=real_number(0, 1),
        metavar="P",
        help="subtract the mean of all centres, and raise their singular values to this power: 0.25 to share the means "
        "of a weak student, 1 subtracts the mean alone (default: the means as they are)",
    )
    add(
        "--blend",
        type=real_number(0, 1),
        metavar="W",
        help="mix the model's own classifier in: W of the class means, 1 - W of its rows (default: the means alone)",
    )
    add(
        "--evaluation-images",
        type=COUNT,
        default=200_000,
        metavar="N",
        help="number of images to evaluate the centres on, spread evenly (default: 200000)",
    )
    # The name that this option had at first, so that old command lines work.
    add("--judge-images", dest="evaluation_images", type=COUNT, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    # What argparse cannot check.
    if Path(arguments.output).suffix == ".json":
        parser.error(f"--output {arguments.output}: the report takes this name; call the classifier .pt")
    return arguments


def _check_identities(dataset: FaceDataset, labels: NDArray[np.int64]) -> None:
    empty = np.flatnonzero(np.bincount(labels[labels >= 0], minlength=dataset.num_classes) == 0)
    if not len(empty):
        return
    names: list[str] | None = getattr(dataset, "identities", None)
    named = ", ".join(f"{label} ({names[label]})" if names else f"{label}" for label in empty[:NUM_LISTED].tolist())
    raise InputError(
        f"{dataset.name}: {len(empty):,} of {counted(dataset.num_classes, 'identity')} "
        f"{agreeing(len(empty), 'has', 'have')} no image to compute a centre from: labels "
        f"{named}{', ...' if len(empty) > NUM_LISTED else ''}. Add images of them, or make the pack again without "
        "them (`facekd data convert PACK OUT --renumber`)"
    )


def _print(report: dict[str, Any], output: Path) -> None:
    # How well the centres classify the images.
    accuracy = report["accuracy"]
    print(
        f"{counted(report['data']['num_classes'], 'class centre')} from {counted(report['num_images'], 'image')}, "
        "flip-averaged"
    )
    print(f"  top-1 by the nearest centre   {accuracy['top1']:.2%} of {counted(accuracy['num_images'], 'image')}")
    if accuracy["top1_leave_one_out"] is not None:
        print(
            f"  with the image left out       {accuracy['top1_leave_one_out']:.2%} of "
            f"{counted(accuracy['num_images_left_out'], 'image')}"
        )
    if num_alone := accuracy["num_alone_in_their_class"]:
        images = counted(num_alone, "image is the only one of its class", "images are the only one of their class")
        print(f"  {images} and cannot be left out")
    print(
        f"  far from their centre         {counted(len(report['far_images']), 'image')} below cosine "
        f"{report['threshold']:.3f}; {report['num_left_out']:,} left out of the centres"
    )
    print(describe_measures(report["centres"]))
    # The worst images and identities, to look at first.
    for entry in report["far_images"][:NUM_LISTED]:
        other = ""
        if entry["nearest_other"] is not None:
            other = f"; nearest other {entry['nearest_other']} at {entry['nearest_other_cosine']:.3f}"
        print(f"    cosine {entry['cosine']:6.3f} to {entry['label']}{other}: {shown(entry['source'], 400)}")
    for entry in report["far_identities"][:NUM_LISTED]:
        print(
            f"    identity {entry['label']}: {entry['num_far']} of {counted(entry['num_images'], 'image')} far, "
            f"mean cosine {entry['mean_cosine']:.3f}"
        )
    print(f"wrote {output}; all images and identities far from their centre: {output.with_suffix('.json')}")


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
