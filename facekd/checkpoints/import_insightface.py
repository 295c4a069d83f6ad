"""Verb `facekd import`: turns a backbone trained with InsightFace's arcface_torch into a facekd checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import math
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.checkpoints.contents import FORMAT
from facekd.errors import ModelError, run_verb
from facekd.utils.command_line import CommandParser
from facekd.utils.files import require_regular_file, sha256_of_file

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

    from facekd.backbones import Backbone

DESCRIPTION = "Turns a backbone trained with InsightFace's arcface_torch (r18 to r200, mbf) into a facekd checkpoint."
EPILOG = """example:
  facekd import glint360k_r50/backbone.pth --output teacher.pt
  facekd import ms1mv3_r100/backbone.pth --name iresnet100 --output teacher.pt
"""
# Keys under which trainers store the backbone in a larger file; "state_dict_backbone" is arcface_torch's.
WRAPPERS = ("state_dict_backbone", "state_dict", "backbone", "model")
# Prefixes that wrappers add to every name: distributed training, torch.compile.
PREFIXES = ("module.", "_orig_mod.")
# arcface_torch's input: RGB, scaled to [-1, 1].
PREPROCESSING: dict[str, Any] = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
NAMES_SHOWN = 3


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

    Only tensors and plain containers are unpickled.

    Raises:
        ModelError: the file is not a torch file, holds code, or has no state dict.
    """
    import torch

    # Load the file, but never run code from it.
    require_regular_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: not a file of plain tensors. A pickle can run code, so whole modules are refused; "
            "if you trust it, load it with the code that wrote it and save `model.state_dict()`"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it ends early"
        raise ModelError(
            f"{path}: not a readable torch file ({reason}). Expected the state dict of an InsightFace backbone "
            "(backbone.pth or model.pt); check that the download is complete"
        ) from error
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        raise ModelError(f"{path}: is already a facekd checkpoint; use it as it is")

    # A training checkpoint keeps the backbone under one of a few names, and wrappers add prefixes to its tensors.
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        found = f"keys {_some(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelError(
            f"{path}: expected a state dict (names to tensors), bare or under one of {', '.join(WRAPPERS)}, "
            f"found {found}"
        )

    # The tensors under their plain names.
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
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
    last_channels = state[f"layer4.{units[3] - 1}.conv2.weight"].shape[0]
    embedding_size, map_values = state["fc.weight"].shape
    return _shape(
        name,
        f"an IR-ResNet with {units} units",
        embedding_size,
        map_side=math.isqrt(map_values // last_channels),
        width=state["conv1.weight"].shape[0] / STAGE_CHANNELS[0],
    )


def _recognize_mobilefacenet(state: Mapping[str, torch.Tensor]) -> BackboneShape:
    from facekd.backbones.mobilefacenet import STEM_CHANNELS, TRUNK_SCALE, UNITS

    # The stem's second convolution shows the trunk's scale: it has that many channels per group.
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
    import torch

    from facekd.backbones.building import BACKBONES, build_backbone, check_backbone, fixed_embedding_size

    # Which network the file is from: the one asked for, or the one its shapes show.
    if name is not None:
        check_backbone(name, embedding_size=512, image_size=112, width=1.0, dropout=0.0)
    state = read_state_dict(path)
    found = recognize_backbone(state)
    wanted = name or (found.name if found else None)
    if wanted is None:
        looks = f"looks like {found.description}" if found else f"is of an unknown network (its names: {_some(state)})"
        raise ModelError(
            f"{path}: {looks}, which facekd does not have; it has "
            f"{', '.join(name for name in BACKBONES if fixed_embedding_size(name) is None)} with InsightFace's names"
        )

    # Build that network, and check that every tensor fits it.
    sizes = (
        {"embedding_size": found.embedding_size, "image_size": found.image_size, "width": found.width} if found else {}
    )
    try:
        backbone = build_backbone(wanted, **sizes)
    except ModelError as error:
        raise ModelError(f"{path}: its shapes ask for an impossible backbone: {error}") from error
    differences = _differences(backbone.state_dict(), state)
    if differences:
        looks = f"looks like {found.description}" if found else f"is of an unknown network (its names: {_some(state)})"
        hint = f"; try --name {found.name}" if found and found.name not in (None, wanted) else ""
        raise ModelError(f"{path}: does not fit {wanted}, it {looks}{hint}. Tensors: {differences}")
    bad = next((key for key, value in state.items() if not bool(torch.isfinite(value).all())), None)
    if bad is not None:
        raise ModelError(f"{path}: {bad} holds NaN or infinity, so that training failed; use another file")
    # Old files lack the counters of batch normalisation, which are only used when momentum is None.
    backbone.load_state_dict(backbone.state_dict() | state)
    return backbone.eval()


def _differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """Says how two state dicts differ, with the first names of each kind; empty if they match."""
    missing = [name for name in expected if name not in found and not name.endswith(".num_batches_tracked")]
    extra = [name for name in found if name not in expected]
    reshaped = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = (("missing", missing), ("not part of it", extra), ("of another shape", reshaped))
    return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names)


def _some(names: Collection[Any]) -> str:
    shown = ", ".join(str(name) for name in list(names)[:NAMES_SHOWN])
    return shown + (", ..." if len(names) > NAMES_SHOWN else "") if names else "none"


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
    return parser


def main(argv: list[str] | None = None) -> int:
    """Imports one backbone: reads, recognises and checks it, and writes the checkpoint."""
    # Read and recognise the backbone, which must not be overwritten by its own import.
    arguments = make_parser().parse_args(argv)
    source, output = arguments.backbone, arguments.output
    if output.exists() and source.exists() and output.samefile(source):
        raise ModelError(f"--output {output} is the file to import: give it another name")
    backbone = import_backbone(source, arguments.name)

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
    write_checkpoint(output, checkpoint)
    size = backbone.image_size
    print(
        f"{backbone.name}: {count_parameters(backbone) / 1e6:.2f} M parameters, "
        f"{count_macs(backbone, size) / 1e9:.3g} GMACs at {size} pixels, embedding of {backbone.embedding_size}"
    )
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
