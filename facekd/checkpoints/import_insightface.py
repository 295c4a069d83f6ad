"""Verb `facekd import`: turns a backbone trained with InsightFace's arcface_torch into a facekd checkpoint.

A training checkpoint also has the classifier, which is kept (`facekd/checkpoints/insightface_files.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.checkpoints.insightface_files import (
    JoinedClassifier,
    join_classifier,
    read_insightface_file,
    tensors_of,
)
from facekd.commands.command_line import CommandParser
from facekd.errors import ModelError, run_verb
from facekd.files.output_lock import file_lock
from facekd.files.reading import sha256_of_file
from facekd.utils.foreign import some_of

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

    from facekd.backbones import Backbone
    from facekd.checkpoints.contents import Checkpoint
    from facekd.data.datasets import FaceDataset

DESCRIPTION = "Turns a backbone trained with InsightFace's arcface_torch (r18 to r200, mbf) into a facekd checkpoint."
EPILOG = """example:
  facekd import glint360k_r50/backbone.pth --output teacher.pt
  facekd import ms1mv3_r100/backbone.pth --name iresnet100 --output teacher.pt
  facekd import run/checkpoint_gpu_0.pt --data ms1mv3 --output teacher.pt

A checkpoint_gpu_N.pt also has the classifier of its training, or the part of process N: with the files of all
processes in one folder, the classifier is kept. `facekd distill` can use it if --data names the data it was trained on.
"""
# Keys under which trainers store the backbone in a larger file; "state_dict_backbone" is arcface_torch's.
WRAPPERS = ("state_dict_backbone", "state_dict", "backbone", "model")
# arcface_torch's input: RGB, scaled to [-1, 1].
PREPROCESSING: dict[str, Any] = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
IMAGES_LOOKED_AT = 64  # to see whether the classifier knows them; a second on a CPU


@dataclasses.dataclass(frozen=True)
class BackboneShape:
    """Describes the network that wrote a state dict, recognised by names and shapes.

    Attributes:
        name: key of `facekd.backbones.BACKBONES`, or None if facekd has no such network.
        description: for messages, `"iresnet50 (512-d, 112 pixels)"`.
        embedding_size: D.
        image_size: side of the input in pixels.
        width: channel multiplier.
    """

    name: str | None
    description: str
    embedding_size: int
    image_size: int
    width: float


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Reads the named tensors of a backbone from a bare state dict or a training checkpoint, wrapped or not.

    Raises:
        ModelError: the file cannot be read (see `read_insightface_file`), or has no state dict.
    """
    # A training checkpoint keeps the backbone under one of a few names, and wrappers add prefixes to its tensors.
    content = read_insightface_file(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = tensors_of(content) if isinstance(content, Mapping) else {}
    if not state:
        found = f"keys {some_of(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelError(
            f"{path}: expected a state dict (names to tensors), bare or under one of {', '.join(WRAPPERS)}, "
            f"found {found}"
        )
    return state


def recognize_backbone(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    """Recognises the network that wrote a state dict by its names and shapes; None if it belongs to neither family."""
    if {"layer1.0.prelu.weight", "conv1.weight", "fc.weight", "features.weight"} <= state.keys():
        return _recognize_iresnet(state)
    if {"conv_sep.layers.0.weight", "layers.1.layers.0.weight", "features.layers.2.weight"} <= state.keys():
        return _recognize_mobilefacenet(state)
    return None


def _recognize_iresnet(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    from facekd.backbones.iresnet import IRESNET_UNITS, STAGE_CHANNELS

    units = tuple(_count_children(state, f"layer{stage}") for stage in (1, 2, 3, 4))
    name = next((name for name, known in IRESNET_UNITS.items() if known == units), None)
    if f"layer4.{units[3] - 1}.conv2.weight" not in state:
        return None
    last, fc, first = (
        state[name].shape for name in (f"layer4.{units[3] - 1}.conv2.weight", "fc.weight", "conv1.weight")
    )
    if (len(last), len(fc), len(first)) != (4, 2, 4) or 0 in (*last, *fc, *first):
        return None
    last_channels, (embedding_size, map_values) = last[0], fc
    return _shape(
        name,
        f"an IR-ResNet with {units} units",
        embedding_size,
        map_side=math.isqrt(map_values // last_channels),
        width=first[0] / STAGE_CHANNELS[0],
    )


def _recognize_mobilefacenet(state: Mapping[str, torch.Tensor]) -> BackboneShape | None:
    from facekd.backbones.mobilefacenet import STEM_CHANNELS, TRUNK_SCALE, UNITS

    # The stem's second convolution shows the trunk's scale: it has that many channels per group.
    names = ("layers.1.layers.0.weight", "features.layers.0.layers.0.weight", "features.layers.2.weight")
    if any(name not in state or state[name].ndim < 2 or not state[name].numel() for name in names):
        return None
    channels, trunk_scale = state["layers.1.layers.0.weight"].shape[:2]
    units = tuple(_count_children(state, f"layers.{2 + i}.layers") for i, unit in enumerate(UNITS) if unit[-1])
    expected = tuple(unit[2] for unit in UNITS if unit[-1])
    name = next((name for name, scale in TRUNK_SCALE.items() if scale == trunk_scale and units == expected), None)
    return _shape(
        name,
        f"a MobileFaceNet with {units} units and {channels} channels in its stem",
        embedding_size=state["features.layers.2.weight"].shape[0],
        map_side=state["features.layers.0.layers.0.weight"].shape[-1],
        width=channels / trunk_scale / STEM_CHANNELS,
    )


def _shape(name: str | None, otherwise: str, embedding_size: int, map_side: int, width: float) -> BackboneShape:
    image_size = 16 * map_side  # both families halve the image four times
    scaled = "" if width == 1 else f", width {width:g}"
    description = f"{name or otherwise} ({embedding_size}-d, {image_size} pixels{scaled})"
    return BackboneShape(name, description, embedding_size, image_size, width)


def _count_children(state: Mapping[str, torch.Tensor], module: str) -> int:
    pattern = re.compile(re.escape(module) + r"\.(\d+)\.")
    return len({match[1] for name in state if (match := pattern.match(name))})


def import_backbone(path: Path, name: str | None = None) -> Backbone:
    """Builds the backbone that a file was written from and loads its weights, in float32 and evaluation mode.

    Args:
        path: an arcface_torch `backbone.pth`, `model.pt` or `checkpoint_gpu_0.pt`.
        name: expected backbone, a key of `facekd.backbones.BACKBONES`; None recognises it from the file.
            Embedding size, image size and width always come from the file.

    Raises:
        ModelError: `name` is unknown, or the file is unreadable, of another architecture, or has values that are not
            finite.
    """
    from facekd.backbones.building import BACKBONES, build_backbone, check_backbone, fixed_embedding_size
    from facekd.checkpoints.models import find_misfit, find_not_finite, load_weights, plan_backbone

    # Which network the file is from: the one asked for, or the one its shapes show.
    if name is not None:
        check_backbone(name, embedding_size=512, image_size=112, width=1.0, dropout=0.0)
    state = read_state_dict(path)
    found = recognize_backbone(state)
    wanted = name or (found.name if found else None)
    if wanted is None:
        raise ModelError(
            f"{path}: {_appearance(found, state)}, which facekd does not have; it has "
            f"{', '.join(name for name in BACKBONES if fixed_embedding_size(name) is None)} with InsightFace's names"
        )

    # Build that network around its tensors.
    sizes = (
        {"embedding_size": found.embedding_size, "image_size": found.image_size, "width": found.width} if found else {}
    )
    try:
        plan = plan_backbone({"name": wanted, **sizes})
    except ModelError as error:
        raise ModelError(f"{path}: its shapes ask for an impossible backbone: {error}") from error
    if misfit := find_misfit(plan.state_dict(), state):
        hint = f"; try --name {found.name}" if found and found.name not in (None, wanted) else ""
        raise ModelError(f"{path}: does not fit {wanted}, it {_appearance(found, state)}{hint}: {misfit}")
    backbone = build_backbone(wanted, **sizes)
    load_weights(backbone, state, str(path))
    if broken := find_not_finite(state):
        raise ModelError(f"{path}: {broken} holds NaN or infinity, so that training failed; use another file")
    return backbone.eval()


def _appearance(found: BackboneShape | None, state: Mapping[str, torch.Tensor]) -> str:
    """Says which network the tensors look like, for messages."""
    return f"looks like {found.description}" if found else f"is of an unknown network (its names: {some_of(state)})"


def make_parser() -> argparse.ArgumentParser:
    """Defines the options of `facekd import`."""
    parser = CommandParser(
        prog="facekd import",
        description=DESCRIPTION,
        example=EPILOG,
    )
    parser.add_argument("backbone", type=Path, metavar="BACKBONE.pth", help="state dict or training checkpoint to read")
    parser.add_argument("--output", type=Path, required=True, metavar="CHECKPOINT.pt", help="checkpoint to write")
    parser.add_argument(
        "--name",
        help="expected backbone: iresnet18, 34, 50, 100 or 200, mobilefacenet_0.45g, mobilefacenet "
        "(default: recognised from the names and shapes in the file)",
    )
    parser.add_argument(
        "--data",
        metavar="PACK",
        help="the training set of the classifier in the file, with the same identities under the same labels",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses and imports one model; returns the exit status."""
    arguments = make_parser().parse_args(argv)
    source, output = arguments.backbone, arguments.output
    if output.exists() and source.exists() and output.samefile(source):
        raise ModelError(f"--output {output} is the file to import: give it another name")
    with file_lock(output):
        return _import(source, output, arguments.name, arguments.data)


def _import(source: Path, output: Path, name: str | None, data: str | None) -> int:
    """Reads, recognises and checks backbone and classifier, and writes the checkpoint."""
    backbone = import_backbone(source, name)

    from facekd.backbones import count_macs, count_parameters
    from facekd.checkpoints.checkpoint import write_checkpoint
    from facekd.checkpoints.contents import Checkpoint

    # The checkpoint, with all arguments that build this backbone again and where it came from.
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
        source={"file": source.name, "sha256": sha256_of_file(source), "framework": "insightface arcface_torch"},
    )
    said = _add_classifier(checkpoint, source, backbone, data)
    write_checkpoint(output, checkpoint)
    size = backbone.image_size
    print(
        f"{backbone.name}: {count_parameters(backbone) / 1e6:.2f} M parameters, "
        f"{count_macs(backbone, size) / 1e9:.3g} GMACs at {size} pixels, embedding of {backbone.embedding_size}"
    )
    print(f"{said}wrote {output}")
    return 0


def _add_classifier(checkpoint: Checkpoint, source: Path, backbone: Backbone, data: str | None) -> str:
    """Puts the classifier of a training checkpoint into ours, if it is there; returns a line that says so.

    Raises:
        ModelError: `data` is given, and there is no classifier, or none that fits it.
    """
    from facekd.data.datasets import open_dataset
    from facekd.data.datasets.identity_map import people_fields

    # The classifier, from this file and those beside it.
    dataset = open_dataset(data, backbone.image_size, resize=True) if data else None
    found = join_classifier(source, dataset.num_classes if dataset else None)
    if found and found.weight_CD is not None and found.weight_CD.shape[1] != backbone.embedding_size:
        sizes = f"embeddings of {found.weight_CD.shape[1]}, and the backbone gives {backbone.embedding_size}"
        found = JoinedClassifier(problem=f"it takes {sizes}")
    if dataset is not None and (found is None or found.weight_CD is None):
        problem = f"its classifier cannot be used: {found.problem}" if found else "has no classifier to use with --data"
        raise ModelError(f"{source}: {problem}. Leave --data out to import the backbone alone")
    if found is None:
        return ""
    if found.weight_CD is None:
        print(f"warning: {source}: the classifier is left out, because {found.problem}", file=sys.stderr)
        return ""

    # What it is, and whose classes it has: without data, nobody can tell.
    checkpoint.config["head"] = {"kind": "margin"}
    checkpoint.head = {"weight": found.weight_CD}
    checkpoint.num_classes = len(found.weight_CD)
    files = f"{found.files[0]}{f' to {found.files[-1]}' if len(found.files) > 1 else ''}"
    said = f"classifier of {checkpoint.num_classes:,} identities, from {files}"
    if dataset is None:
        return f"{said}; to distil through it, import with --data, the data that it was trained on\n"
    for name, value in people_fields(dataset).items():
        setattr(checkpoint, name, value)
    recognised, looked_at = _count_recognised(backbone, found.weight_CD, dataset)
    if recognised < looked_at / 2:
        print(
            f"warning: {data}: the classifier recognises {recognised} of {looked_at} images; are its labels those of "
            "the data that it was trained on?",
            file=sys.stderr,
        )
    return f"{said}; it recognises {recognised} of {looked_at} images of {data}\n"


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
