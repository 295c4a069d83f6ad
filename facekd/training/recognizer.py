"""Joins a backbone and a head into one module: images and labels in, a loss out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facekd.backbones.building import build_backbone
from facekd.checkpoints.shared_head import load_shared_head
from facekd.data.datasets import FaceDataset
from facekd.data.loading.loader import Batch
from facekd.distributed import World
from facekd.head.chunked_loss import CrossEntropy, LazyLogits, chunked_losses
from facekd.head.classifier import MarginClassifier, build_classifier
from facekd.training.config import TrainConfig
from facekd.utils.config_files import to_plain


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


def build_recognizer(config: TrainConfig, world: World, dataset: FaceDataset) -> Recognizer:
    """A backbone with a classifier: weights drawn from the seed, or a classifier that is shared and stays as it is."""
    torch.manual_seed(config.seed)
    backbone = build_backbone(**backbone_arguments(config))
    size = config.backbone.embedding_size
    head = build_classifier(config.head, size, dataset.num_classes, world)
    if config.shared_head:
        head = load_shared_head(config.shared_head, dataset).build(config.head, size, world)
    return Recognizer(backbone, head)


def backbone_arguments(config: TrainConfig) -> dict[str, Any]:
    """The arguments of `build_backbone`, which are also what a checkpoint records of the architecture."""
    return {**to_plain(config.backbone), "image_size": config.data.image_size}
