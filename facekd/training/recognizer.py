"""Joins a backbone and a head into one module: images and labels in, a loss out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facekd.backbones import Backbone
from facekd.backbones.building import build_backbone
from facekd.backbones.given_module import GIVEN, GivenModule
from facekd.checkpoints.shared_head import load_shared_head
from facekd.data.datasets import FaceDataset
from facekd.data.loading.loader import Batch
from facekd.distributed import World
from facekd.errors import ConfigError
from facekd.head.chunked_loss import chunked_losses
from facekd.head.classifier import MarginClassifier, build_classifier
from facekd.head.loss_terms import CrossEntropy, LazyLogits
from facekd.training.config import TrainConfig
from facekd.training.starting_weights import start_from_weights


class Recognizer(nn.Module):
    """Computes the loss of a batch from its images and labels, by a backbone and a classifier.

    Attributes:
        loss_names: names of the losses that `forward` returns; the first is the one minimised.
        teacher_fingerprint: hash of the teacher's weights; empty without a teacher.
        rank_invariant_buffers: prefixes of the names of buffers that every rank computes alike, so that they need not
            be sent from the main rank.
        summary_lines: lines for the head of the log, each after a line break.
        started_from: whose weights the run began with, see `Checkpoint.started_from`.
    """

    loss_names: tuple[str, ...] = ("loss",)
    rank_invariant_buffers: tuple[str, ...] = ()
    teacher_fingerprint = ""
    summary_lines = ""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.started_from: dict[str, dict[str, Any]] = {}

    @property
    def deployed(self) -> nn.Module:
        """Returns the module that turns images into the embeddings compared at deployment."""
        return self.backbone

    def predictions(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns each classifier's probabilities (B, C) for embeddings (B, D); the first is the one to use."""
        return {"head": self.head(embedding).softmax(1)}

    def targets(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Returns what `forward` needs besides images and labels, one row per image, on the device; here nothing."""
        return ()

    def check_targets(self) -> None:
        """Checks the values of the last `targets`, where that has to wait for the device.

        Raises:
            FacekdError: the targets cannot be learnt from, for instance a teacher's embedding is not finite.
        """

    @property
    def sharded_heads(self) -> list[MarginClassifier]:
        """Returns the classifiers whose classes are divided among the processes."""
        # `children` lists a classifier only once, even if student and teacher share it.
        return [child for child in self.children() if isinstance(child, MarginClassifier) and child.shards is not None]

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the mean cross-entropy, (1,) float32, of float images (B, 3, S, S) with labels (B,)."""
        embedding_BD = self.backbone(images)
        if isinstance(self.head, MarginClassifier):
            return torch.stack(chunked_losses([CrossEntropy(LazyLogits.of(self.head, embedding_BD))], labels))
        return functional.cross_entropy(self.head(embedding_BD, labels), labels)[None]


def build_recognizer(
    config: TrainConfig, world: World, dataset: FaceDataset, module: nn.Module | None = None
) -> Recognizer:
    """Builds a backbone and its classifier: fresh weights from the seed, or the frozen classifier of `shared_head`.

    Args:
        config: the config of the run.
        world: the processes that train.
        dataset: the training set.
        module: the backbone, where `backbone.name` is "module".

    Raises:
        FacekdError: the parts do not fit together.
    """
    torch.manual_seed(config.seed)
    backbone = make_backbone(config, module)
    size = config.backbone.embedding_size
    head = build_classifier(config.head, size, dataset.num_classes, world)
    if config.shared_head:
        head = load_shared_head(config.shared_head, dataset).build(config.head, size, world)
    recognizer = Recognizer(backbone, head)
    start_from_weights(recognizer, config, dataset)
    return recognizer


def make_backbone(config: TrainConfig, module: nn.Module | None) -> Backbone:
    """Builds the backbone that a config names, or makes one of the module that was given, in training mode.

    Raises:
        ConfigError: a module was given and the config names another network, or the other way round.
    """
    if module is None:
        backbone = build_backbone(**backbone_arguments(config))
        backbone.gradient_checkpointing = config.backbone.gradient_checkpointing
        return backbone
    if config.backbone.name != GIVEN:
        raise ConfigError(
            f"a module is given as the backbone, and backbone.name is {config.backbone.name!r}: write "
            f"BackboneConfig(name='{GIVEN}', embedding_size=...) in the config"
        )
    given = GivenModule(module, config.backbone.embedding_size, config.data.image_size)
    # As it comes back from an earlier run, or was loaded: in evaluation mode batch normalisations would learn no
    # statistics, and nothing be dropped. Parts that alone are in it stay so.
    if not module.training:
        module.train()
    return given


def backbone_arguments(config: TrainConfig) -> dict[str, Any]:
    """Returns the arguments of `build_backbone`; checkpoints record the architecture by them."""
    return {**config.backbone.architecture, "image_size": config.data.image_size}


def names_in_tables(config: TrainConfig, recognizer: Recognizer) -> list[str]:
    """Returns what a run uses that a plug-in may have added."""
    losses = [f"loss {name.removeprefix('loss_')}" for name in recognizer.loss_names]
    return [f"backbone {config.backbone.name}", f"margin {config.head.margin}", *losses]
