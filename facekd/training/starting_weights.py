"""Starts a run from weights that were trained elsewhere: a backbone's, and a classifier's of the same people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from facekd.backbones import ProjectedBackbone, count_parameters
from facekd.backbones.backbone import Backbone
from facekd.backbones.weight_selection import check_is_part, select_weights
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.models import load_backbone, load_weights, plan_backbone
from facekd.checkpoints.run_folder import list_checkpoints, resolve_checkpoint
from facekd.checkpoints.shared_head import find_same_people, read_classifier
from facekd.data.datasets import FaceDataset
from facekd.embedder.checks import is_onnx_file
from facekd.errors import CheckpointError, FacekdError, ModelError
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.head.classifier import LinearClassifier, MarginClassifier
from facekd.training.config import TrainConfig
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

if TYPE_CHECKING:
    from facekd.training.recognizer import Recognizer


def start_from_weights(recognizer: Recognizer, config: TrainConfig, dataset: FaceDataset) -> None:
    """Replaces the fresh weights by those that `backbone.weights` and `head.weights` name, and records where from.

    A run that has a checkpoint goes on from that, and reads neither.

    Args:
        recognizer: the run's modules, with fresh weights; changed in place.
        config: the config of the run.
        dataset: the training set, whose people the classifier must know.

    Raises:
        CheckpointError: a file is missing, damaged, of another architecture or of other people, or holds values that
            are not finite.
    """
    if list_checkpoints(Path(config.output)):
        return
    if config.backbone.weights:
        recognizer.started_from["backbone"] = _load_backbone(recognizer.backbone, config)
    if config.head.weights:
        recognizer.started_from["head"] = _load_head(recognizer.head, config, dataset)


def describe_start(started_from: dict[str, dict[str, Any]], is_resumed: bool) -> str:
    """Says whose weights a run began with, a line for each, for the head of the log; each after a line break.

    A resumed run does not read them again, and says so.
    """
    lines = []
    for part, source in started_from.items():
        classes = f", {counted(source['classes'], 'class')}" if "classes" in source else ""
        taken = (
            f", {source['weights']:,} of its {counted(source['of_weights'], 'weight')}" if "weights" in source else ""
        )
        again = "; not read again" if is_resumed else ""
        lines.append(
            f"\nstart      {part} from {source['file']} (sha256 {source['sha256'][:12]}{classes}{taken}{again})"
        )
    return "".join(lines)


def advise_start(backbone: torch.nn.Module, config: TrainConfig, teacher: str) -> str:
    """Says, in a line for the head of the log, that a student with fresh weights could be a part of its teacher.

    Args:
        backbone: the student's network.
        config: the config of its run.
        teacher: the teacher's file or run; "" if there is none.

    Returns:
        The line after a line break; "" where that is no choice, or the run goes on from a checkpoint.
    """
    if not teacher or config.backbone.weights or list_checkpoints(Path(config.output)):
        return ""
    try:
        is_part = _is_part(backbone, config, teacher)
    except FacekdError:  # whether the teacher can be used is not asked here
        return ""
    words = f"--backbone.weights {shlex.quote(teacher)} --backbone.select_weights true"
    return (
        f"\nadvice     the student can start as a part of its teacher (docs/backbones.md): {words}" if is_part else ""
    )


def _is_part(backbone: torch.nn.Module, config: TrainConfig, teacher: str) -> bool:
    """Tells whether `_load_backbone` could start a run's network as a part of a larger teacher.

    Raises:
        FacekdError: it could not, or the teacher cannot be read.
    """
    if not isinstance(backbone, Backbone) or backbone.selectable is None or is_onnx_file(Path(teacher)):
        return False
    checkpoint = read_checkpoint(resolve_checkpoint(teacher))
    if checkpoint.backbone is None or checkpoint.architecture is None or checkpoint.projection is not None:
        return False
    if _find_other_images(checkpoint.input_preprocessing, config):
        return False
    whole = plan_backbone(checkpoint.architecture)
    check_is_part(backbone, whole)
    return count_parameters(backbone) < count_parameters(whole)


def _find_other_images(seen: Mapping[str, Any], config: TrainConfig) -> str:
    """Returns how the images of a run differ from those that a backbone was trained on, as a clause; else ""."""
    if seen.get("color") != "rgb":
        return f"takes images in {seen.get('color')}, and facekd trains on rgb"
    for key in ("mean", "std"):
        given, wanted = list(getattr(config.data, key)), list(seen.get(key, ()))
        if given != wanted:
            return f"was trained with data.{key} = {wanted}, and data.{key} is {given}: give it the same"
    return ""


def _load_backbone(backbone: torch.nn.Module, config: TrainConfig) -> dict[str, Any]:
    """Loads the weights that would be exported: the moving average if there is one, with a projection folded in."""
    file = resolve_checkpoint(config.backbone.weights)
    with unchanged(file):
        (trained, preprocessing), digest = load_backbone(file), sha256_of_file(file)

    # The images of the run must look to the backbone as those did that it was trained on.
    seen = {"color": preprocessing.color, "mean": preprocessing.mean, "std": preprocessing.std}
    if difference := _find_other_images(seen, config):
        raise CheckpointError(f"{file}: its backbone {difference}")

    # Of a network of others nobody knows how its layers follow each other, so that its projection stays behind it.
    if isinstance(trained, ProjectedBackbone):
        raise CheckpointError(
            f"{file}: its backbone has a learned projection behind it, which cannot be folded into "
            f"{shown(trained.backbone.name)}, and a run starts from a backbone alone: take a checkpoint from before "
            "that distillation, or start with fresh weights"
        )

    source: dict[str, Any] = {"file": str(file), "sha256": digest}
    weights = trained.state_dict()
    if config.backbone.select_weights:
        assert isinstance(backbone, Backbone)
        try:
            weights = select_weights(backbone, trained)
        except ModelError as error:
            raise CheckpointError(f"{file} (backbone.weights): {error}") from error
        source |= {"weights": count_parameters(backbone), "of_weights": count_parameters(trained)}
    load_weights(backbone, weights, f"{file} (backbone.weights)")
    return source


def _load_head(head: torch.nn.Module, config: TrainConfig, dataset: FaceDataset) -> dict[str, Any]:
    """Loads the class centres of the same people, wherever the classifier of the file has them."""
    stored, checkpoint = read_classifier(config.head.weights)
    file = Path(stored.source)
    digest = sha256_of_file(file)  # now, before the file may be replaced
    assert isinstance(head, MarginClassifier | LinearClassifier)
    stored.check_fit(config.head, config.backbone.embedding_size)
    source_of_C = find_same_people(stored, checkpoint, dataset)

    # Each process takes the rows of its own classes; people whom the file does not know keep fresh centres.
    shards = getattr(head, "shards", None)
    source = source_of_C if shards is None else shards.own(source_of_C)
    known = (source >= 0).nonzero().flatten()
    with torch.no_grad():
        head.weight[known] = stored.weight_CD[source[known]]
        if isinstance(head, LinearClassifier) and head.bias is not None and stored.bias_C is not None:
            head.bias[known] = stored.bias_C[source[known]]
        _copy_norm_statistics(head, checkpoint.head or {})
    return {"file": str(file), "sha256": digest, "classes": int((source_of_C >= 0).sum())}


def _copy_norm_statistics(head: torch.nn.Module, stored: dict[str, torch.Tensor]) -> None:
    """Copies AdaFace's running mean and deviation of norms, where both classifiers keep them."""
    for name, value in head.named_buffers():
        if name in stored:
            value.copy_(stored[name])
