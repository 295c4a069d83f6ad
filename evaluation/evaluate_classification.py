"""Verb `facekd evaluate classification`: evaluates a classifier on test images: top-1 and top-5.

The classifier is the model's own, a teacher's, or a mix of both. Also `python evaluation/evaluate_classification.py`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import name_with_assumptions
from evaluation.result_files import check_output, lock_output, make_result, start_evaluation
from evaluation.shared_options import add_output_option
from facekd import __version__
from facekd.commands.command_line import COUNT, PROCESSES, THREADS, CommandParser, device_name, real_number
from facekd.data.datasets import FaceDataset, open_dataset, print_summary
from facekd.data.datasets.identity_map import identity_map, stored_images_sha256
from facekd.embedder.model_options import report_preprocessing
from facekd.errors import FacekdError, run_verb
from facekd.files.reading import sha256_of_file
from facekd.files.result_folder import finish_results
from facekd.files.unchanged import unchanged
from facekd.pages.tables import Table
from facekd.plugins import add_plugin_option
from facekd.results.schema import CLASSIFICATION_FORMAT
from facekd.utils.foreign import shown
from facekd.utils.gpu_driver import mention_gpu
from facekd.utils.terminal import console, say
from facekd.utils.wording import counted
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.top_k_accuracy import TOP_K

RESULT_VERSION = 1
EXAMPLE = """\
example:
  facekd evaluate classification --model runs/student --data /data/cifar --output results/student

  the teacher's head on the student's embeddings, and the two heads mixed half and half (TH-KD):
  facekd evaluate classification --model runs/student --teacher-head runs/teacher --mix 0.5 --data /data/cifar \\
      --output results/student

The test images are those of CIFAR, or val/ (else test/) beside train/. Mean, std, image size and centre crop are
those the model was trained with.

writes DIR/results.json (its keys: docs/results.md)"""


def main(argv: list[str] | None = None) -> int:
    """Parses and evaluates."""
    arguments = parse(argv)
    with lock_output(Path(arguments.output), arguments=arguments):
        return _evaluate(arguments, argv)


def _evaluate(arguments: argparse.Namespace, argv: list[str] | None) -> int:
    """Loads, classifies, counts, writes and prints."""
    check_output(Path(arguments.output))
    # After parsing, because they import torch, which takes seconds: `--help` and a mistyped option answer at once.
    from evaluation.sets.class_ranks import rank_images
    from facekd.checkpoints.run_folder import resolve_checkpoint
    from facekd.embedder.checks import is_onnx_file
    from facekd.embedder.classifying_model import OnnxClassifier, open_classifying_model

    # The model: ONNX gives logits, a checkpoint embeddings and classifiers.
    is_onnx = is_onnx_file(Path(arguments.model))
    if is_onnx and arguments.teacher_head:
        raise FacekdError(f"{arguments.model}: gives logits, no embeddings for --teacher-head; name a checkpoint")
    file = Path(arguments.model) if is_onnx else resolve_checkpoint(arguments.model)
    with unchanged(file):
        mention_gpu(arguments.device)
        if is_onnx:
            model = OnnxClassifier(arguments.model, arguments.threads, arguments.device)
            report_preprocessing(file, model)
        else:
            model = open_classifying_model(file, arguments.teacher_head, arguments.mix, device=arguments.device)
        digest = sha256_of_file(file)

    # Rank the true class of every image under each head.
    dataset = _open_test_images(arguments, model.center_crop, model.preprocessing.image_size, model.resize)
    print_summary(dataset)
    model.check_classes(dataset, arguments.data)
    ranks = rank_images(
        dataset,
        model.classify,
        batch_size=arguments.batch_size,
        workers=arguments.workers,
        progress=f"classifying for {Path(arguments.output).name}",
    )
    heads = {name: measure_ranks(found, dataset) for name, found in ranks.items()}
    content = {
        "model": {
            "path": str(file),
            "sha256": digest,
            "embedding_size": model.embedding_size,
            "preprocessing": asdict(model.preprocessing),
            "assumed": list(getattr(model, "assumed", ())),
            "teacher_head": str(arguments.teacher_head) if arguments.teacher_head else None,
        },
        "data": _describe_data(dataset, arguments.split, model.center_crop),
        "heads": heads,
    }
    software = {"facekd": __version__, **_versions()}
    result = make_result(CLASSIFICATION_FORMAT, RESULT_VERSION, content, "evaluate classification", argv, software)
    start_evaluation(Path(arguments.output))
    finish_results(Path(arguments.output), result)
    named = name_with_assumptions(arguments.model, content["model"])
    print_heads(heads, f"{named} on {dataset.name}", len(dataset), dataset.num_classes)
    print(f"\nwritten to {arguments.output}")
    return 0


def _describe_data(dataset: FaceDataset, split: str, center_crop: float) -> dict[str, Any]:
    """Returns what results.json says of the images."""
    return {
        "name": dataset.name,
        "split": split,
        "num_images": len(dataset),
        "num_classes": dataset.num_classes,
        "center_crop": center_crop,
        **identity_map(dataset),
        "images_sha256": stored_images_sha256(dataset),
    }


def measure_ranks(ranks: np.ndarray, dataset: FaceDataset) -> dict[str, Any]:
    """Computes counts, shares and 95 % intervals from the ranks of the true classes, (N,).

    `mean_class_top1` weighs all classes alike, however many images they have; classes without images are left out.
    """
    labels, count = dataset.labels, len(ranks)
    images_of = np.bincount(labels, minlength=dataset.num_classes)
    right_of = np.bincount(labels[ranks == 0], minlength=dataset.num_classes)
    found: dict[str, Any] = {}
    for k in TOP_K:
        if k > 1 and k >= dataset.num_classes:
            continue  # every image is right then, whatever the model
        correct = int((ranks < k).sum())
        found[f"top{k}"] = correct / count
        found[f"top{k}_correct"] = correct
        found[f"top{k}_interval"] = list(wilson_interval(correct, count))
    has_images = images_of > 0
    found["mean_class_top1"] = float((right_of[has_images] / images_of[has_images]).mean())
    return found


def print_heads(heads: dict[str, Any], title: str, num_images: int, num_classes: int) -> None:
    """Prints a table with one row per classifier."""
    rows = []
    for name, found in heads.items():
        low, high = found["top1_interval"]
        top5 = f"{100 * found['top5']:.2f}" if "top5" in found else "-"
        row = f"{100 * found['top1']:.2f}", f"{100 * low:.2f} - {100 * high:.2f}", top5
        rows.append([name, *row, f"{100 * found['mean_class_top1']:.2f}"])
    say(console(), f"{shown(title)}: {counted(num_images, 'image')} of {counted(num_classes, 'class')}")
    Table("", ["classifier", "top-1 %", "95 % interval", "top-5 %", "mean over classes %"], rows).print(console())


def _open_test_images(arguments: argparse.Namespace, center_crop: float, size: int, resize: bool) -> FaceDataset:
    return open_dataset(arguments.data, size, resize=resize, center_crop=center_crop, split=arguments.split)


def _versions() -> dict[str, str]:
    import cv2
    import torch

    return {"torch": str(torch.__version__), "numpy": np.__version__, "opencv": cv2.__version__}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; a mistake prints one line and exits."""
    parser = CommandParser(
        prog="facekd evaluate classification",
        description="Evaluates a classifier: top-1 and top-5 of its own head, of a teacher's, or of a mix of both.",
        example=EXAMPLE,
        allow_abbrev=False,  # otherwise a typo in a study could pass as the short form of an option
    )
    add = parser.add_argument
    # What to evaluate, on what, and where the results go.
    add("--model", required=True, metavar="FILE", help="a checkpoint of a linear classifier, a run, or ONNX")
    add_plugin_option(parser)
    add("--data", required=True, metavar="DIR", help="CIFAR's folder, or one with train/ and val/ in it")
    add_output_option(parser)
    add("--split", choices=("test", "train"), default="test", help="which images (default: test)")
    # Other classifiers on the same embeddings.
    add("--teacher-head", metavar="FILE", help="also apply the classifier of this checkpoint to the model's embeddings")
    add(
        "--mix",
        type=real_number(0, 1),
        nargs="+",
        default=[],
        metavar="A",
        help="also mix: (1 - A) times the model's probabilities plus A times those of the teacher's head",
    )
    # How the model is run.
    add("--batch-size", type=COUNT, default=256, metavar="N", help="images per batch (default: 256)")
    add(
        "--workers",
        type=PROCESSES,
        default=4,
        metavar="N",
        help="reading processes, at most one per core (default: 4)",
    )
    add("--device", type=device_name, default="cpu", help="where it runs: cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=THREADS, metavar="N", help="computing threads of an ONNX file (default: one per core)")
    arguments = parser.parse_args(argv)
    # What a parser cannot express: combinations and ranges.
    if arguments.mix and not arguments.teacher_head:
        parser.error("--mix joins two classifiers: name the other by --teacher-head")
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
