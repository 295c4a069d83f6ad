"""Classifies images with a trained backbone and its linear classifier.

Shapes: B images, C classes, D embedding, E the embedding that a teacher's classifier takes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facekd.backbones import ProjectedBackbone
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.contents import Checkpoint
from facekd.checkpoints.models import find_not_finite, load_backbone, load_weights
from facekd.checkpoints.run_folder import resolve_checkpoint
from facekd.checkpoints.shared_head import check_classifier
from facekd.data.datasets import FaceDataset
from facekd.data.datasets.identity_map import identities_sha256
from facekd.distillation.logits import mix
from facekd.embedder import OnnxEmbedder, Preprocessing, TorchEmbedder
from facekd.errors import CheckpointError, ModelError
from facekd.head.classifier import LinearClassifier
from facekd.utils.foreign import shown
from facekd.utils.wording import counted


class ClassifyingModel:
    """Computes class probabilities with the model's own classifier, a teacher's, and mixes of the two.

    Attributes:
        preprocessing: mean, std and size that the backbone was trained with.
        center_crop: share of the shorter side that test images are cropped to; 0 means no crop.
        resize: whether images of another size are stretched to the model's.
        embedding_size: D.
    """

    def __init__(
        self,
        file: Path,
        checkpoint: Checkpoint,
        device: str,
        teacher_head: LinearClassifier | None = None,
        projection: nn.Linear | None = None,
        mixes: Sequence[float] = (),
    ) -> None:
        self.preprocessing: Preprocessing
        backbone, self.preprocessing = load_backbone(file)
        self._embedder = TorchEmbedder(backbone, self.preprocessing, device, batch_size=256, frozen=True)
        self._head = build_linear_head(checkpoint, file).to(device)
        self._teacher_head = None if teacher_head is None else teacher_head.to(device)
        self._projection = None if projection is None else projection.to(device)
        self._mixes = tuple(mixes)
        self._file, self._checkpoint, self._device = file, checkpoint, device
        self.center_crop: float = checkpoint.center_crop
        self.resize: bool = checkpoint.resize
        self.embedding_size: int = self._embedder.embedding_size

    @torch.inference_mode()
    def classify(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns probabilities (B, C) of uint8 RGB (B, S, S, 3) by classifier: `head`, `teacher_head`, `mix A`."""
        embedding_BD = torch.from_numpy(self._embedder.embed(images)).to(self._device)
        found = {"head": self._head(embedding_BD).softmax(1)}
        if self._teacher_head is not None:
            projected_BE = embedding_BD if self._projection is None else self._projection(embedding_BD)
            found["teacher_head"] = self._teacher_head(projected_BE).softmax(1)
            for a in self._mixes:
                found[f"mix {a:g}"] = mix(found["head"], found["teacher_head"], a)
        return {name: probabilities.cpu().numpy() for name, probabilities in found.items()}

    def check_classes(self, dataset: FaceDataset, path: str | os.PathLike[str]) -> None:
        """Checks that class n of the model is class n of the data.

        Raises:
            CheckpointError: the number of classes differs, or their names do.
        """
        if dataset.num_classes != self._checkpoint.num_classes:
            raise CheckpointError(
                f"{self._file}: has {counted(self._checkpoint.num_classes, 'class')}, {path} has {dataset.num_classes}"
            )
        _require_same_names(self._file, self._checkpoint.identities_sha256, dataset, path)


def open_classifying_model(
    path: str | os.PathLike[str],
    teacher_head: str | os.PathLike[str] | None = None,
    mixes: Sequence[float] = (),
    device: str = "cpu",
) -> ClassifyingModel:
    """Opens a checkpoint that has a linear classifier; `teacher_head` adds a teacher's classifier beside it.

    Args:
        path: a checkpoint, or the folder of a run.
        teacher_head: a checkpoint whose classifier is applied to the model's embeddings as well.
        mixes: weights a of the mixes (1 - a) p_s + a p_s^TH (arXiv:2201.06945).
        device: where to run.

    Raises:
        CheckpointError: a file has no linear classifier, or the two classifiers do not fit together.
    """
    file = resolve_checkpoint(path)
    checkpoint = read_checkpoint(file)
    if teacher_head is None:
        return ClassifyingModel(file, checkpoint, device)
    teacher_file = resolve_checkpoint(teacher_head)
    teacher = read_checkpoint(teacher_file)
    # Both classifiers must know the same classes under the same numbers.
    head, own = build_linear_head(teacher, teacher_file), build_linear_head(checkpoint, file)
    same_names = checkpoint.identities_sha256 == teacher.identities_sha256
    if head.num_classes != own.num_classes or not same_names:
        raise CheckpointError(
            f"{teacher_file}: its classifier has other classes than {file}: {head.num_classes} and {own.num_classes}"
            f"{'' if same_names else ', under other names'}"
        )

    # Embeddings of another size pass through the projection that the student learnt in its training.
    projection = None
    if head.embedding_size != own.embedding_size:
        weight = None if checkpoint.training is None else checkpoint.training.extras.get("projection.weight")
        shape = (head.embedding_size, own.embedding_size)
        if weight is None or weight.shape != shape or not weight.is_floating_point():
            raise CheckpointError(
                f"{teacher_file}: its classifier takes embeddings of {head.embedding_size}; {file} gives "
                f"{own.embedding_size} and has no projection to that size"
            )
        projection = _linear(weight)
    return ClassifyingModel(file, checkpoint, device, head, projection, mixes)


def build_linear_head(checkpoint: Checkpoint, file: Path) -> LinearClassifier:
    """Builds the linear classifier of a checkpoint and freezes it.

    Raises:
        CheckpointError: the checkpoint has no classifier, a margin classifier, or one of impossible shapes or values.
    """
    state = checkpoint.head or {}
    weight, bias = state.get("weight"), state.get("bias")
    if weight is None or checkpoint.head_kind != "linear":
        what = "no classifier" if weight is None else "a margin classifier, which is for faces"
        raise CheckpointError(f"{file}: holds {what}; train with head.kind = 'linear' to classify")
    check_classifier(file, checkpoint, weight)
    head = LinearClassifier(weight.shape[1], len(weight), bias=bias is not None)
    load_weights(head, state, f"{file}: head")
    if broken := find_not_finite(head.state_dict()):
        raise CheckpointError(f"{file}: its head.{broken} holds NaN or infinity: take an earlier checkpoint")
    return head.requires_grad_(False)


class OnnxClassifier:
    """Runs an ONNX file whose output is logits, from `facekd export` or any other tool, like a `ClassifyingModel`.

    Args:
        path: the ONNX file; one of facekd records the preprocessing and the centre crop.
        threads: threads of onnxruntime; None means one per core.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.

    Attributes:
        assumed: names of the preprocessing fields that neither the file nor its graph says.
        remarks: what its user should know, one sentence each.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, device: str = "cpu") -> None:
        self._embedder = OnnxEmbedder(path, threads=threads, device=device)
        self._file = Path(path)
        self.preprocessing: Preprocessing = self._embedder.preprocessing
        self.assumed: tuple[str, ...] = self._embedder.assumed
        self.remarks: tuple[str, ...] = self._embedder.remarks
        self.center_crop: float = _read_center_crop(self._embedder.metadata.get("center_crop", "0"), self._file)
        self.resize = False
        self.embedding_size: int = self._embedder.embedding_size

    def classify(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the logits (B, C) of uint8 RGB images (B, S, S, 3) under the name `head`."""
        return {"head": self._embedder.embed(images)}

    def check_classes(self, dataset: FaceDataset, path: str | os.PathLike[str]) -> None:
        """Checks that there is a logit for each class of the data, of the same name where the file records the names.

        Raises:
            CheckpointError: the numbers differ, or the names.
        """
        if self.embedding_size != dataset.num_classes:
            raise CheckpointError(
                f"{self._file}: gives {counted(self.embedding_size, 'value')}, but {path} has "
                f"{counted(dataset.num_classes, 'class')}; export a classifier without --embedding"
            )
        _require_same_names(self._file, self._embedder.metadata.get("identities_sha256"), dataset, path)


def _require_same_names(file: Path, recorded: str | None, dataset: FaceDataset, path: str | os.PathLike[str]) -> None:
    """Raises a CheckpointError where the names of a model's classes are known, and are not those of the data."""
    own = identities_sha256(dataset)
    if None not in (recorded, own) and recorded != own:
        raise CheckpointError(
            f"{file}: was trained on classes with other names than those of {path}: give data whose folders of classes "
            "are called as in its training data"
        )


def _read_center_crop(text: str, path: Path) -> float:
    """Returns the share of the shorter side that an ONNX file records; 0 means no crop."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ModelError(f"{path}: records center_crop {shown(text)}, expected a share from 0 to 1; export it again")
    return share


class LogitNetwork(nn.Module):
    """Computes logits (B, C) from images (B, 3, S, S); folds a projection behind the backbone into the classifier.

    Args:
        backbone: turns images into embeddings.
        head: linear classifier of the embeddings.
    """

    def __init__(self, backbone: nn.Module, head: LinearClassifier) -> None:
        super().__init__()
        if isinstance(backbone, ProjectedBackbone):  # W (P z) + b = (W P) z + b, in double precision, rounded once
            folded = LinearClassifier(backbone.projection.in_features, head.num_classes, bias=head.bias is not None)
            with torch.no_grad():
                folded.weight.copy_(head.weight.double() @ backbone.projection.weight.double())
                if folded.bias is not None and head.bias is not None:
                    folded.bias.copy_(head.bias)
            backbone, head = backbone.backbone, folded.requires_grad_(False)
        self.backbone = backbone
        self.head = head
        self.embedding_size: int = head.num_classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))


def load_logit_network(path: str | os.PathLike[str], *, ema: bool | None = None) -> tuple[LogitNetwork, Preprocessing]:
    """Loads backbone and classifier of a checkpoint as one module in evaluation mode, with its preprocessing.

    Args:
        path: a checkpoint, or the folder of a run.
        ema: which weights of the backbone to take, see `load_backbone`; the classifier has no moving average.

    Raises:
        CheckpointError: see `load_backbone`; also where there is no linear classifier.
    """
    file = resolve_checkpoint(path)
    backbone, preprocessing = load_backbone(file, ema=ema)
    return LogitNetwork(backbone, build_linear_head(read_checkpoint(file), file)).eval(), preprocessing


def _linear(weight_ED: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight_ED.shape[1], weight_ED.shape[0], bias=False)
    layer.load_state_dict({"weight": weight_ED})
    return layer.requires_grad_(False)
