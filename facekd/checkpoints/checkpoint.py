"""Checkpoints: one file of tensors and plain types, written atomically, read without running a pickle.

A checkpoint is a dict:

    format         "facekd-checkpoint"
    version        1
    config         {"backbone": {"name", "embedding_size", "image_size", "width", "dropout"}, ...} plain types
    preprocessing  {"mean": [3], "std": [3], "color": "rgb"} in units of 0..255
    backbone       state dict, as trained
    ema            state dict of the moving average, or absent
    projection     (E, D), where embeddings are projected before they are compared; folded into the backbone on loading,
                   or kept behind it where the backbone has no embedding layer
    ema_projection its moving average, or absent
    head           state dict of the classifier, or absent for an imported backbone
    head_shards    where the classifier's centres lie, if not under `head`: `facekd/head_shards.py`
    training       optimiser, AMP scaler, images_seen and the rest of what an exact resume needs, or absent
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facekd.backbones import ProjectedBackbone, build_backbone, fixed_embedding_size, fold_projection
from facekd.embedder import Preprocessing
from facekd.errors import FacekdError
from facekd.utils.files import atomic_path

FORMAT = "facekd-checkpoint"
VERSION = 1
SUFFIX = ".pt"
HEAD_SUFFIX = ".head"  # of the folder beside it that `facekd.checkpoints.head_shards` writes


class CheckpointError(FacekdError):
    """A checkpoint that is absent, damaged, unsafe, or of another architecture."""


def save_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a crash or a full disk leaves the previous file as it was."""
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **content}, temporary)
        except RuntimeError as error:
            # torch reports a failed write (a full disk above all) as a RuntimeError of its zip writer.
            raise not_written(Path(path), error) from error


def not_written(path: Path, error: Exception) -> CheckpointError:
    """What to raise where a checkpoint could not be written, which says what the run goes on from."""
    return CheckpointError(
        f"{path}: could not be written ({str(error).splitlines()[0]}); is the disk full? Free some space and "
        f"run the same command again: {_what_is_left(path.parent.parent)}"
    )


def _what_is_left(run_folder: Path) -> str:
    found = list_checkpoints(run_folder)
    return f"it goes on from {found[-1].name}" if found else "it starts anew, for there is no earlier checkpoint"


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; a run's folder stands for its latest checkpoint.

    Raises:
        CheckpointError: absent, damaged, not facekd's, or holding pickled code (which is never run).
    """
    file = resolve_checkpoint(path)
    if not zipfile.is_zipfile(file):
        raise CheckpointError(f"{file}: not a checkpoint, or a truncated one (torch's files are zip archives)")
    if not _is_sound(file):
        raise CheckpointError(f"{file}: damaged: its bytes do not match their checksums")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: refused, for it holds more than tensors and plain types, and loading it could run code"
            f"{_refused_name(error)}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: not a facekd checkpoint; the weights of an InsightFace backbone come in by "
            "`facekd import BACKBONE.pth --name iresnet50 --output checkpoint.pt`"
        )
    if not isinstance(content.get("version"), int):
        raise CheckpointError(f"{file}: damaged: its version is {content.get('version')!r}, not a number")
    if content["version"] > VERSION:
        raise CheckpointError(f"{file}: checkpoint version {content['version']}, this facekd reads up to {VERSION}")
    return content


def _is_sound(file: Path) -> bool:
    """Whether the archive's checksums hold; torch writes them, and does not look at them when it reads."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, EOFError):
        return False


def _refused_name(error: Exception) -> str:
    """What torch refused to load, where its long advice names it: `: posix.mkdir`."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f": {found[1]}" if found else ""


def resolve_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint file meant by `path`: itself, or the latest of the run whose folder it is."""
    file = Path(path)
    if file.is_dir():
        found = list_checkpoints(file)
        if not found:
            raise CheckpointError(f"{file}: no checkpoint in this folder (looked for checkpoints/*{SUFFIX})")
        return found[-1]
    if not file.exists():
        raise CheckpointError(f"{file}: no such checkpoint")
    return file


def checkpoint_path(run_folder: Path, images_seen: int) -> Path:
    """Where a run keeps the checkpoint taken after so many images; the names sort by age."""
    return run_folder / "checkpoints" / f"{images_seen:012d}{SUFFIX}"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The numbered checkpoints of a run, oldest first; `best.pt` is not among them."""
    return sorted(path for path in (run_folder / "checkpoints").glob(f"*{SUFFIX}") if path.stem.isdigit())


def keep_last(run_folder: Path, count: int) -> None:
    """Delete all but the `count` newest numbered checkpoints."""
    for path in list_checkpoints(run_folder)[:-count]:
        path.unlink(missing_ok=True)
        forget_other_heads(path, None)


def delete_leftovers(run_folder: Path) -> None:
    """Delete what a process killed while it saved has left half-written; for the sole owner of the run only."""
    folder = run_folder / "checkpoints"
    for path in folder.glob(f".*.tmp{SUFFIX}"):
        path.unlink(missing_ok=True)
    for path in folder.glob(f".*.tmp{HEAD_SUFFIX}"):
        shutil.rmtree(path, ignore_errors=True)
    for stem in {path.name.removesuffix(HEAD_SUFFIX).split("-")[0] for path in folder.glob(f"[!.]*{HEAD_SUFFIX}")}:
        path = folder / f"{stem}{SUFFIX}"
        if not path.exists():
            forget_other_heads(path, None)
        elif len(_heads_of(path)) > 1:
            with contextlib.suppress(CheckpointError):  # unreadable, it does not say which is its own: all stay
                forget_other_heads(path, load_checkpoint(path).get("head_shards", {}).get("folder"))


def forget_other_heads(path: Path, folder: str | None) -> None:
    """Delete the folders of earlier heads of a checkpoint that was written over, such as `best.pt`.

    Args:
        path: the checkpoint, as it is now.
        folder: the one it names; None where its head lies in the file, or it is gone itself.
    """
    for other in _heads_of(path):
        if other.name != folder:
            shutil.rmtree(other, ignore_errors=True)


def _heads_of(path: Path) -> list[Path]:
    return [*path.parent.glob(f"{path.stem}{HEAD_SUFFIX}"), *path.parent.glob(f"{path.stem}-*{HEAD_SUFFIX}")]


def load_backbone(path: str | os.PathLike[str], *, ema: bool | None = None) -> tuple[nn.Module, Preprocessing]:
    """Build the backbone of a checkpoint, in `eval()` mode, with its preprocessing.

    Args:
        path: a checkpoint, or the folder of a run.
        ema: True asks for the moving average, False for the weights as trained; None takes the average if there is one.

    Raises:
        CheckpointError: see `load_checkpoint`; also when the weights do not fit the recorded architecture.
    """
    file = resolve_checkpoint(path)
    content = load_checkpoint(file)
    if "backbone" not in content:
        raise CheckpointError(f"{file}: holds no backbone; it was written by `facekd rebuild-head`, and is a head only")
    if ema and not content.get("ema"):
        raise CheckpointError(f"{file}: holds no moving average; train with --ema_half_life_images, or leave out --ema")
    if not isinstance(content.get("config"), dict) or "backbone" not in content["config"]:
        raise CheckpointError(f"{file}: damaged: it does not say which backbone its weights are of")
    is_average = bool(content.get("ema")) and ema is not False
    architecture = content["config"]["backbone"]
    backbone = build_backbone(**architecture)
    load_weights(backbone, content["ema" if is_average else "backbone"], f"{file}: backbone")
    projection = content.get("ema_projection" if is_average else "projection")
    if projection is not None and fixed_embedding_size(architecture["name"]) is not None:
        layer = nn.Linear(projection.shape[1], len(projection), bias=False)
        layer.load_state_dict({"weight": projection})
        backbone = ProjectedBackbone(backbone, layer)  # no last layer to fold it into
    elif projection is not None:
        folded = build_backbone(**{**architecture, "embedding_size": len(projection)})
        backbone = fold_projection(backbone, projection, folded)
    image_size = content["config"]["backbone"]["image_size"]
    recorded = content.get("preprocessing") or content["config"]["preprocessing"]
    return backbone.eval(), Preprocessing(**recorded, image_size=image_size)


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], what: str) -> None:
    """Load a state dict, exactly: every name and shape must match.

    Args:
        what: begins the message, `"run/checkpoints/000.pt: backbone"`.

    Raises:
        CheckpointError: naming the first tensors that do not fit.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    reshaped = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    problems = [
        f"{len(found)} {label} ({'; '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for label, found in (("missing", missing), ("unexpected", extra), ("of another shape", reshaped))
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{what} does not fit this architecture: tensors {', '.join(problems)}. "
            "The checkpoint was made with another backbone, width, embedding size or number of classes"
        )
    module.load_state_dict(weights)
