"""Verb `facekd import`: turns weights of InsightFace's arcface_torch, AdaFace or CVLface into a facekd checkpoint.

The classifier of a training is kept, where it is there (`facekd/importing/classifiers.py`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import CommandParser
from facekd.commands.places import check_apart
from facekd.errors import ModelError, run_verb
from facekd.files.output_lock import file_lock
from facekd.files.reading import sha256_of_file
from facekd.importing.backbones import COLORS, UNKNOWN, ImportedBackbone, import_backbone
from facekd.importing.classifiers import JoinedClassifier, classifier_files_beside, is_classifier_file, join_classifier
from facekd.utils.foreign import some_of
from facekd.utils.wording import counted

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

    from facekd.backbones import Backbone
    from facekd.checkpoints.contents import Checkpoint
    from facekd.data.datasets import FaceDataset

DESCRIPTION = """\
Turns weights of other trainers into a facekd checkpoint: InsightFace's arcface_torch (r18 to r200, mbf, mbf_large,
vit_t, vit_s), AdaFace and CVLface (ir_18 to ir_101). The network is recognised by names and shapes in the file."""
EPILOG = """examples:
  facekd import glint360k_r50/backbone.pth --output teacher.pt
  facekd import adaface_ir50_ms1mv2.ckpt --output teacher.pt
  facekd import run/checkpoint_gpu_0.pt --data ms1mv3 --output teacher.pt
  facekd import run/model.pt --classifier run/softmax_fc_gpu_0.pt --data ms1mv3 --output teacher.pt

A training checkpoint also has the classifier of its training, or the part of one process: with the files of all
processes in one folder, it is kept. --data names the data it was trained on, whose labels are the numbers of its
classes: `facekd distill` can then use it, and head.weights of `facekd train` can start from it.
"""
# The input that all these networks take, but for the order of its channels: pixels scaled to [-1, 1].
PREPROCESSING: dict[str, Any] = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
IMAGES_LOOKED_AT = 64  # to see whether the classifier knows them; a second on a CPU


def make_parser() -> argparse.ArgumentParser:
    """Defines the options of `facekd import`."""
    parser = CommandParser(prog="facekd import", description=DESCRIPTION, example=EPILOG)
    parser.add_argument(
        "backbone",
        type=Path,
        metavar="WEIGHTS",
        help="state dict or training checkpoint: .pth, .pt, .ckpt, .safetensors",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="CHECKPOINT.pt", help="checkpoint to write")
    parser.add_argument(
        "--name",
        help="expected backbone: iresnet18, 34, 50, 100 or 200, mobilefacenet_0.45g, mobilefacenet_large, "
        "mobilefacenet, vit_t, vit_s, ir_18, 34, 50 or 101 (default: recognised from the names and shapes in the file)",
    )
    parser.add_argument(
        "--color",
        choices=COLORS,
        help="order of the channels that the network takes (default: bgr for AdaFace, what the .yaml beside the file "
        "says for CVLface, and rgb)",
    )
    parser.add_argument(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="file of one process with its part of the classifier, such as softmax_fc_gpu_0.pt; those of the others "
        "are found beside it (default: what WEIGHTS itself has)",
    )
    parser.add_argument(
        "--data",
        metavar="PACK",
        help="the training set of the classifier, with the same identities under the same labels",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses and imports one model; returns the exit status."""
    arguments = make_parser().parse_args(argv)
    output, own_file = arguments.output, arguments.classifier or arguments.backbone
    parts = [own_file.with_name(name) for name in classifier_files_beside(own_file)] if own_file.exists() else []
    check_apart(output, arguments.backbone, own_file, *parts, Path(arguments.data) if arguments.data else None)
    with file_lock(output):
        return _import(arguments)


def _import(arguments: argparse.Namespace) -> int:
    """Reads, recognises and checks backbone and classifier, and writes the checkpoint."""
    source, output = arguments.backbone, arguments.output
    if is_classifier_file(source) and source.is_file():
        raise ModelError(
            f"{source}: holds a part of a classifier: give the backbone that lies beside it, such as model.pt or "
            f"backbone.pth, and this by --classifier {source}"
        )
    found = import_backbone(source, arguments.name, arguments.color)

    from facekd.backbones import count_macs, count_parameters
    from facekd.checkpoints.checkpoint import write_checkpoint
    from facekd.checkpoints.contents import Checkpoint

    # The checkpoint, with all arguments that build this backbone again and where it came from.
    backbone = found.backbone
    architecture = {
        "name": backbone.name,
        "embedding_size": backbone.embedding_size,
        "image_size": backbone.image_size,
        "width": backbone.width,
        "dropout": 0.0,
    }
    checkpoint = Checkpoint(
        config={"backbone": architecture},
        preprocessing=PREPROCESSING,
        backbone=backbone.state_dict(),
        source={"file": source.name, "sha256": sha256_of_file(source), "framework": found.framework},
    )
    assert checkpoint.source is not None
    if found.color != "rgb":
        checkpoint.source["color"] = found.color
    said = _add_classifier(checkpoint, arguments, backbone)
    write_checkpoint(output, checkpoint)

    # What it is, what was done to it, and what was left behind.
    size = backbone.image_size
    print(
        f"{backbone.name}: {count_parameters(backbone) / 1e6:.2f} M parameters, "
        f"{count_macs(backbone, size) / 1e9:.3g} GMACs at {size} pixels, embedding of {backbone.embedding_size}"
    )
    print("\n".join(filter(None, (_describe_color(found), said, _describe_rest(found)))))
    print(f"wrote {output}")
    return 0


def _describe_color(found: ImportedBackbone) -> str:
    custom = "which is assumed" if found.framework == UNKNOWN else f"as {found.framework} trains"
    by = f"by {found.color_by}" if found.color_by else f"{custom}; --color says otherwise"
    if found.color == "rgb":
        return f"takes RGB images ({by})"
    return f"takes BGR images ({by}): its first convolution was turned to RGB, in which facekd gives images to it"


def _describe_rest(found: ImportedBackbone) -> str:
    left = [name for name in found.others if "softmax_fc" not in name and not name.startswith("head.")]
    return f"not kept: {some_of(left, 8)}" if left else ""


def _add_classifier(checkpoint: Checkpoint, arguments: argparse.Namespace, backbone: Backbone) -> str:
    """Puts the classifier of a training into our checkpoint, if it is there; returns a line that says so.

    Raises:
        ModelError: data or the classifier's file is given, and there is no classifier, or none that fits.
    """
    from facekd.data.datasets import open_dataset
    from facekd.data.datasets.identity_map import people_fields

    # The classifier, from this file and those beside it.
    source, data, own_file = arguments.backbone, arguments.data, arguments.classifier
    dataset = open_dataset(data, backbone.image_size, resize=True) if data else None
    found = join_classifier(own_file or source, dataset.num_classes if dataset else None, bool(own_file))
    if found and found.weight_CD is not None and found.weight_CD.shape[1] != backbone.embedding_size:
        sizes = f"embeddings of {found.weight_CD.shape[1]}, and the backbone gives {backbone.embedding_size}"
        found = JoinedClassifier(problem=f"it takes {sizes}")
    if (dataset is not None or own_file) and (found is None or found.weight_CD is None):
        problem = f"its classifier cannot be used: {found.problem}" if found else "has no classifier to use with --data"
        given = " and ".join(f"--{name}" for name, value in (("data", data), ("classifier", own_file)) if value)
        raise ModelError(f"{own_file or source}: {problem}. Leave {given} out to import the backbone alone")
    if found is None:
        beside = classifier_files_beside(source)
        named = f"{beside[0]}{f' to {beside[-1]}' if len(beside) > 1 else ''}" if beside else ""
        return f"no classifier; {named} beside it has one: --classifier {beside[0]} keeps it" if beside else ""
    if found.weight_CD is None:
        print(f"warning: {source}: the classifier is left out, because {found.problem}", file=sys.stderr)
        return ""

    # What it is, and whose classes it has: without data, nobody can tell.
    checkpoint.config["head"] = {"kind": "margin"}
    checkpoint.head = {"weight": found.weight_CD, **found.statistics}
    checkpoint.num_classes = len(found.weight_CD)
    files = f"{found.files[0]}{f' to {found.files[-1]}' if len(found.files) > 1 else ''}"
    said = f"classifier of {counted(checkpoint.num_classes, 'identity')}, from {files}"
    if dataset is None:
        return f"{said}; whose they are is not known: to use it, import with --data, the data that it was trained on"
    for name, value in people_fields(dataset).items():
        setattr(checkpoint, name, value)
    recognised, looked_at = _count_recognised(backbone, found.weight_CD, dataset)
    if recognised < looked_at / 2:
        print(
            f"warning: {data}: the classifier recognises {recognised:,} of {counted(looked_at, 'image')}; are its "
            "labels those of the data that it was trained on?",
            file=sys.stderr,
        )
    return (
        f"{said}; it recognises {recognised:,} of {counted(looked_at, 'image')} of {data}, whose labels its classes "
        "now have"
    )


def _count_recognised(backbone: Backbone, weight_CD: torch.Tensor, dataset: FaceDataset) -> tuple[int, int]:
    """Counts the images that a classifier gives their own label, among a few spread over a data set.

    Returns:
        Their number, and the number of images looked at.
    """
    import numpy as np
    import torch
    from torch.nn import functional

    from facekd.images.model_input import to_model_input

    places = np.unique(np.linspace(0, len(dataset) - 1, IMAGES_LOOKED_AT).round().astype(np.int64))
    images, labels = dataset.load(places)
    with torch.inference_mode():
        pixels = to_model_input(torch.from_numpy(images), mean=PREPROCESSING["mean"], std=PREPROCESSING["std"])
        scores_BC = functional.linear(backbone(pixels), functional.normalize(weight_CD))
        return int((scores_BC.argmax(1) == torch.from_numpy(labels)).sum()), len(labels)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
