"""Everything a training run holds between two steps, and how it is saved and restored exactly.

Randomness is not part of it: the order of images, their augmentation and dropout are functions of the seed and
`images_seen`, so the state is the weights, the optimiser's buffers, the AMP scaler and a few counters.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from facekd.backbones import ProjectedBackbone, build_backbone
from facekd.checkpoints.checkpoint import (
    CheckpointError,
    checkpoint_path,
    forget_other_heads,
    keep_last,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    not_written,
    save_checkpoint,
)
from facekd.checkpoints.head_shards import attach_rows, detach_rows, write_rows
from facekd.checkpoints.shared_head import load_shared_head
from facekd.data.datasets import FaceDataset
from facekd.data.datasets.identity_map import is_same_label_map, label_map
from facekd.data.loading.loader import Batch
from facekd.distributed import World, failing_together, gather_rows, make_scaler, replicate
from facekd.head.chunked_loss import CrossEntropy, LazyLogits, chunked_losses
from facekd.head.classifier import MarginClassifier, build_classifier
from facekd.training.config import TrainConfig, differences, to_plain, with_defaults
from facekd.training.optim import build_optimizer, parameter_groups

AMP_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# What a resumed run may change, for it does not alter what is learnt: where it runs, what it measures, what it keeps.
# A change of batch_size_per_rank or of the number of processes alters batch normalisation's batches, and only those.
RESUMABLE_KEYS = (
    # A run that met no bad record did not depend on what is done with one; one that did, by `fail`, stopped there.
    *(
        "output",
        "data.train",
        "teacher.model",
        "teacher.head",
        "teacher.cache",
        "diagnostics",
        "data.workers",
        "data.on_bad_record",
    ),
    *("batch_size_per_rank", "device", "compile", "channels_last", "head.sharded"),
    *("validation", "checkpoint", "log_every_images", "tensorboard"),
)


class Recognizer(nn.Module):
    """A backbone and its classifier as one module: images and labels to the loss of the batch.

    Attributes:
        loss_names: what `forward` returns, the first being what is minimised.
        teacher_fingerprint: of the model that is learnt from; empty where there is none.
        same_everywhere: beginnings of the names of buffers that all processes keep equal without being told.
    """

    loss_names: tuple[str, ...] = ("loss",)
    same_everywhere: tuple[str, ...] = ()
    teacher_fingerprint = ""
    introduction = ""  # lines for the head of the log, each after a line break

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def deployed(self) -> nn.Module:
        """Images to the embeddings that are compared when the model is used."""
        return self.backbone

    def predictions(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        """Probabilities (B, C) by classifier, from embeddings (B, D) of `deployed`; the first is the one to use."""
        return {"head": self.head(embedding).softmax(1)}

    def targets(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """What `forward` takes besides images and labels, one row an image, on the device; here nothing."""
        return ()

    @property
    def sharded_heads(self) -> list[MarginClassifier]:
        """Classifiers whose classes are shared out over the processes."""
        # One that is the student's and the teacher's at once is one child.
        return [child for child in self.children() if isinstance(child, MarginClassifier) and child.shards is not None]

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(1,) float32: the mean cross-entropy of float images (B, 3, S, S) with labels (B,)."""
        embedding_BD = self.backbone(images)
        if isinstance(self.head, MarginClassifier):
            return torch.stack(chunked_losses([CrossEntropy(LazyLogits.of(self.head, embedding_BD))], labels))
        return functional.cross_entropy(self.head(embedding_BD, labels), labels)[None]


@dataclass
class TrainingState:
    """A run between two steps."""

    config: TrainConfig
    world: World
    dataset: FaceDataset
    total_images: int
    recognizer: Recognizer  # or what distillation puts in its place, with the same two parts and more
    replica: nn.Module  # what is called in training: the recognizer, replicated over the world
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: nn.Module | None  # moving average of `recognizer.deployed`
    images_seen: int = 0
    best_accuracy: float = -1.0
    # Losses since the last log line; kept in checkpoints so that the log of a resumed run is the uninterrupted one's.
    losses_since_log: list[list[float]] = field(default_factory=list)
    # This rank's since the last checkpoint; on the main process also everyone's up to it.
    bad_records: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config.output)

    @property
    def evaluated(self) -> nn.Module:
        """What validation judges and export takes, images to embeddings: the moving average where there is one."""
        return self.ema if self.ema is not None else self.recognizer.deployed


def build_recognizer(config: TrainConfig, world: World, dataset: FaceDataset) -> Recognizer:
    """A backbone with a classifier: weights drawn from the seed, or a classifier that is shared and stays as it is."""
    torch.manual_seed(config.seed)
    backbone = build_backbone(**backbone_arguments(config))
    size = config.backbone.embedding_size
    head = build_classifier(config.head, size, dataset.num_classes, world)
    if config.shared_head:
        head = load_shared_head(config.shared_head, dataset).build(config.head, size, world)
    return Recognizer(backbone, head)


def build_state(
    config: TrainConfig, world: World, dataset: FaceDataset, total_images: int, recognizer: Recognizer | None = None
) -> TrainingState:
    """A fresh run, the same on every rank; with a recognizer of its own where it is not plain training."""
    recognizer = recognizer or build_recognizer(config, world, dataset)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    recognizer = recognizer.to(world.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    groups = parameter_groups(
        dict(recognizer.named_children()),
        config.optimizer.weight_decay,
        decay_norm_and_bias=config.optimizer.decay_norm_and_bias,
    )
    average = copy.deepcopy(recognizer.deployed).requires_grad_(False).eval() if config.ema_half_life_images else None
    if config.compile:
        recognizer.backbone.compile()  # in place, its weights keep their names; a head in chunks gains nothing
    own = {id(head.weight) for head in recognizer.sharded_heads}
    own_names = tuple(name for name, parameter in recognizer.named_parameters() if id(parameter) in own)
    return TrainingState(
        config=config,
        world=world,
        dataset=dataset,
        total_images=total_images,
        recognizer=recognizer,
        replica=replicate(recognizer, world, recognizer.same_everywhere, own_names),
        optimizer=build_optimizer(config.optimizer, groups),
        scaler=make_scaler(world, enabled=config.precision == "fp16"),
        ema=average,
    )


def backbone_arguments(config: TrainConfig) -> dict[str, Any]:
    """The arguments of `build_backbone`, which are also what a checkpoint records of the architecture."""
    return {**to_plain(config.backbone), "image_size": config.data.image_size}


def save_state(state: TrainingState, name: str | None = None) -> Path:
    """Write a checkpoint of the run and return when every rank may go on.

    Args:
        state: the run.
        name: `"best"` for `checkpoints/best.pt`; by default the file is named by images seen, and old ones go.

    Raises:
        CheckpointError: it could not be written; on every rank, whichever of them could not.
    """
    path = checkpoint_path(state.folder, state.images_seen)
    path = path if name is None else path.with_stem(name)
    lines = gather_rows(np.array(state.bad_records, dtype=object), state.world).tolist()
    state.bad_records = lines if state.world.is_main else []
    head = state.recognizer.head
    content = _content(state) if state.world.is_main or state.recognizer.sharded_heads else {}
    if isinstance(head, MarginClassifier) and head.shards is not None:
        rows = detach_rows(content, head, state.optimizer)
        content["head_shards"] = write_rows(path, rows, head.shards, state.images_seen)
    try:
        with failing_together(state.world):
            if state.world.is_main:
                save_checkpoint(path, content)
                forget_other_heads(path, content.get("head_shards", {}).get("folder"))
                if name is None:
                    keep_last(state.folder, state.config.checkpoint.keep)
    except OSError as error:
        raise not_written(path, error) from error
    return path


def _content(state: TrainingState) -> dict[str, Any]:
    data = state.config.data
    return {
        "config": {**to_plain(state.config), "backbone": backbone_arguments(state.config)},
        "preprocessing": {"mean": list(data.mean), "std": list(data.std), "color": "rgb"},
        **_deployable(state),
        "head": state.recognizer.head.state_dict(),
        "num_classes": state.dataset.num_classes,
        **label_map(state.dataset),
        "teacher_fingerprint": state.recognizer.teacher_fingerprint,
        "training": {
            "images_seen": state.images_seen,
            "total_images": state.total_images,
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "ema": state.ema.state_dict() if state.ema is not None else None,
            "best_accuracy": state.best_accuracy,
            "extras": _extras(state.recognizer),
            "losses_since_log": list(state.losses_since_log),
            "bad_records": list(state.bad_records),
        },
    }


def _deployable(state: TrainingState) -> dict[str, Any]:
    """Weights by which the checkpoint becomes a model: of the backbone, its average, and a projection behind them."""
    found: dict[str, Any] = {}
    for prefix, module in (("", state.recognizer.deployed), ("ema_", state.ema)):
        if module is None:
            continue
        backbone = module.backbone if isinstance(module, ProjectedBackbone) else module
        found[f"{prefix}backbone"] = backbone.state_dict()
        if isinstance(module, ProjectedBackbone):
            found[f"{prefix}projection"] = module.projection.weight.detach()
    if "ema_backbone" in found:
        found["ema"] = found.pop("ema_backbone")
    return found


def _extras(recognizer: Recognizer) -> dict[str, torch.Tensor]:
    """What is learnt or counted beside backbone and head, AdaFace's statistics on a teacher's frozen head included."""
    kept = {name for name, _ in recognizer.named_buffers()}
    kept |= {name for name, value in recognizer.named_parameters() if value.requires_grad}
    own = ("backbone.", "head.")
    return {name: value for name, value in recognizer.state_dict().items() if name in kept and not name.startswith(own)}


def restore_latest(state: TrainingState) -> Path | None:
    """Bring a fresh state to where the run in its folder last saved; returns that checkpoint, or None if there is none.

    Raises:
        CheckpointError: the run was started with another configuration or other data (the message says what differs),
            or the newest checkpoint is damaged.
    """
    found = list_checkpoints(state.folder)
    if not found:
        return None
    path = found[-1]
    with _saying_what_to_do(found), failing_together(state.world):
        content = load_checkpoint(path)
    if "training" not in content:
        raise CheckpointError(f"{path}: holds weights only, not a run to resume; choose another --output")
    _check_same_run(path, content, state)
    training = content["training"]
    load_weights(state.recognizer.backbone, content["backbone"], f"{path}: backbone")
    if isinstance(state.recognizer.head, MarginClassifier):
        with _saying_what_to_do(found):
            attach_rows(path, content, state.recognizer.head, state.optimizer)
    load_weights(state.recognizer.head, content["head"], f"{path}: head")
    state.recognizer.load_state_dict(training["extras"], strict=False)
    if state.ema is not None:
        load_weights(state.ema, training["ema"], f"{path}: moving average")
    state.optimizer.load_state_dict(training["optimizer"])
    state.scaler.load_state_dict(training["scaler"])
    state.images_seen = training["images_seen"]
    state.best_accuracy = training["best_accuracy"]
    state.losses_since_log = training["losses_since_log"]
    state.bad_records = training["bad_records"] if state.world.is_main else []
    return path


@contextlib.contextmanager
def _saying_what_to_do(found: list[Path]) -> Iterator[None]:
    """Add to what is wrong with the newest of a run's checkpoints how to go on without it."""
    try:
        yield
    except CheckpointError as error:
        then = f"resumes from {found[-2].name}" if len(found) > 1 else "starts anew"
        raise CheckpointError(f"{error}. Delete {found[-1].name} and the same command {then}") from error


def _check_same_run(path: Path, content: dict[str, Any], state: TrainingState) -> None:
    new = {**to_plain(state.config), "backbone": backbone_arguments(state.config)}
    changed = [
        f"{key} was {before}, now {after}"
        for key, (before, after) in differences(with_defaults(content["config"], type(state.config)), new).items()
        if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in RESUMABLE_KEYS)
    ]
    if changed:
        raise CheckpointError(
            f"{state.folder} holds a run with another configuration: {'; '.join(changed)}. "
            "Give the old values to resume it, or another --output to start anew"
        )
    if content["teacher_fingerprint"] != state.recognizer.teacher_fingerprint:
        raise CheckpointError(
            f"{path}: the run in this folder learnt from another teacher (fingerprint "
            f"{content['teacher_fingerprint'][:12]}, now {state.recognizer.teacher_fingerprint[:12]}). Give the same, "
            "or another --output to start anew"
        )
    if not is_same_label_map(content, state.dataset):
        raise CheckpointError(
            f"{path}: the run in this folder was trained on other data ({content['num_classes']} identities, now "
            f"{state.dataset.num_classes} in {state.dataset.name}; labels or names differ). Give the same data, "
            "or another --output to start anew"
        )
