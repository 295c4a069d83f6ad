"""Verb: a student learns from a teacher, through a shared classifier, by embeddings, or both.

    facekd distill configs/distill/ms1mv3_th_kd.yaml
    facekd distill configs/distill/ms1mv3_th_kd.yaml --teacher.model runs/teacher --output runs/student

The loop is that of training; what differs is what the loss is made of (`facekd/distiller.py`). The teacher is
evaluated, never trained; its classifier is frozen and checked to know the same people. To resume, run the same command
again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facekd.backbones import build_backbone
from facekd.checkpoints.shared_head import SharedHead, load_shared_head
from facekd.data.datasets import FaceDataset
from facekd.data.loading.loader import Batch
from facekd.data.loading.sampler import PositionSampler
from facekd.distillation.contrastive import ContrastiveDistillation
from facekd.distributed import World, gather_tensor_rows
from facekd.embedder import Embedder, open_embedder
from facekd.embedder.onnx_embedder import is_onnx_file
from facekd.errors import FacekdError, run_verb
from facekd.head.classifier import LinearClassifier, MarginClassifier, build_classifier
from facekd.teacher.cache import open_teacher_cache
from facekd.training.distill_config import (
    IN_TEACHER_SPACE,
    OF_OWN_HEAD,
    OF_TEACHER_HEAD,
    WITHOUT_TEACHER_EMBEDDING,
    DistillConfig,
)
from facekd.training.distill_diagnostics import diagnose
from facekd.training.distiller import Distiller
from facekd.training.state import AMP_DTYPES, backbone_arguments
from facekd.training.train import MakeValidators, run_training


class DistillError(FacekdError):
    """A teacher and a student that cannot work together."""


def main(
    argv: list[str] | None = None,
    make_validators: MakeValidators | None = None,
) -> int:
    """Parse, build, distil."""
    description = "Distil a teacher into a backbone through a shared classifier. The same command again resumes."
    return run_training(
        DistillConfig,
        argv,
        "facekd distill",
        description,
        build_distiller,
        make_validators,
        at_end=diagnose,
    )


def build_distiller(config: DistillConfig, world: World, dataset: FaceDataset) -> Distiller:
    """The student with fresh weights, and everything it takes from its teacher."""
    weights = config.effective_loss
    asks_teacher = not set(weights.active) <= set(WITHOUT_TEACHER_EMBEDDING)  # else its classifier is all it takes
    teacher = _open_teacher(config, world, dataset) if asks_teacher else None
    # A student that owns no linear classifier is recognised by the teacher's, whatever it learnt by.
    is_borrower = config.head.kind == "linear" and not config.needs(OF_OWN_HEAD)
    shared = _load_teacher_head(config, dataset) if config.needs(OF_TEACHER_HEAD) or is_borrower else None
    teacher_head = None
    if shared is not None:  # the teacher's bias is as it is
        teacher_head = shared.build(dataclasses.replace(config.head, bias=None), shared.embedding_size, world)
    sizes = {
        "the teacher's embeddings": teacher.embedding_size if teacher else None,
        "the teacher's classifier": teacher_head.embedding_size if teacher_head else None,
    }
    known = {what: size for what, size in sizes.items() if size is not None}
    if len(set(known.values())) > 1:
        raise DistillError(
            f"teacher.model gives embeddings of {teacher.embedding_size if teacher else 0}, teacher.head takes "
            f"{teacher_head.embedding_size if teacher_head else 0}: they are not of one model"
        )
    student_size, teacher_size = config.backbone.embedding_size, next(iter(known.values()))

    torch.manual_seed(config.seed)  # the student starts as it would in training alone
    backbone = build_backbone(**backbone_arguments(config))
    head: MarginClassifier | LinearClassifier | None = None
    if config.needs(OF_OWN_HEAD):
        if config.shared_head:
            head = load_shared_head(config.shared_head, dataset).build(config.head, student_size, world)
        else:
            head = build_classifier(config.head, student_size, dataset.num_classes, world)
    elif config.shared_head:
        raise DistillError("shared_head is the student's classifier, but neither loss.ce nor loss.kl uses one")
    projection = None
    if student_size != teacher_size and config.needs(IN_TEACHER_SPACE):
        projection = nn.Linear(student_size, teacher_size, bias=False)
        nn.init.orthogonal_(projection.weight)  # keeps lengths and angles as far as the sizes allow
    contrastive = None
    if "crd" in weights.active:
        labels = torch.from_numpy(np.ascontiguousarray(dataset.labels))
        contrastive = ContrastiveDistillation(student_size, teacher_size, len(dataset), labels=labels, seed=config.seed)
        contrastive.gather_rows = lambda rows: gather_tensor_rows(rows, world)
    sampler = PositionSampler(len(dataset), config.seed, 1, block_shuffle=config.data.block_shuffle)
    return Distiller(
        backbone,
        head,
        teacher_head,
        projection,
        weights,
        teacher.embed if teacher else None,
        lambda positions: sampler.indices_at(positions.numpy()),
        margin_on_teacher_head=config.margin_on_teacher_head,
        share=config.share,
        contrastive=contrastive,
        gather_rows=lambda rows: gather_tensor_rows(rows, world),
        teacher_fingerprint=_fingerprint_of(teacher, shared),
    )


class _LiveTeacher:
    """Runs the teacher on each batch."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.embedding_size = embedder.embedding_size
        self.fingerprint = embedder.fingerprint

    def embed(self, batch: Batch) -> np.ndarray:
        images, flip = batch.images.numpy(), batch.flip.numpy()
        seen = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        return self._embedder.embed(np.ascontiguousarray(seen))


class _CachedTeacher:
    """Looks up what the teacher said."""

    def __init__(self, config: DistillConfig, dataset: FaceDataset, embedder: Embedder | None) -> None:
        fingerprint = embedder.fingerprint if embedder else None
        self._cache = open_teacher_cache(config.teacher.cache, dataset, fingerprint)
        self._sampler = PositionSampler(len(dataset), config.seed, 1, block_shuffle=config.data.block_shuffle)
        self.embedding_size = self._cache.embedding_size
        self.fingerprint: str = self._cache.teacher["fingerprint"]

    def embed(self, batch: Batch) -> np.ndarray:
        return self._cache.lookup(self._sampler.indices_at(batch.positions.numpy()), batch.flip.numpy())


def _open_teacher(config: DistillConfig, world: World, dataset: FaceDataset) -> _LiveTeacher | _CachedTeacher | None:
    teacher = config.teacher
    embedder = None
    if teacher.model:
        # A cache is computed in full precision, and its fingerprint says so; ONNX keeps its own.
        is_autocast = not teacher.cache and not is_onnx_file(Path(teacher.model))
        embedder = open_embedder(
            teacher.model,
            mean=teacher.mean,
            std=teacher.std,
            color=teacher.color,
            device=str(world.device),
            resize=teacher.resize,
            **({"autocast": AMP_DTYPES[config.precision]} if is_autocast else {}),
        )
    if teacher.cache:
        return _CachedTeacher(config, dataset, embedder)
    if embedder is None:
        return None
    size = embedder.preprocessing.image_size
    if size != config.data.image_size and not teacher.resize:
        raise DistillError(
            f"the teacher takes images of {size} pixels, the student's are {config.data.image_size}: set teacher.resize"
        )
    return _LiveTeacher(embedder)


def _fingerprint_of(teacher: _LiveTeacher | _CachedTeacher | None, head: SharedHead | None) -> str:
    """Of the backbone and of the classifier: a resumed run must have learnt from both."""
    return f"{teacher.fingerprint if teacher else ''}:{head.fingerprint if head else ''}"


def _load_teacher_head(config: DistillConfig, dataset: FaceDataset) -> SharedHead:
    source = config.teacher.head or config.teacher.model
    if not config.teacher.head and is_onnx_file(Path(source)):
        raise DistillError(
            f"{source} is a backbone alone, and {config.effective_loss} ask for its classifier: set teacher.head to "
            f"what `facekd rebuild-head {source} --data {config.data.train} --output head.pt` writes"
        )
    return load_shared_head(source, dataset)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
