"""Builds what a distillation trains: the student, and everything it takes from its teacher."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facekd.backbones.building import build_backbone
from facekd.checkpoints.shared_head import SharedHead, load_shared_head
from facekd.data.datasets import FaceDataset
from facekd.data.loading.sampler import PositionSampler
from facekd.distillation.contrastive import ContrastiveDistillation
from facekd.distributed import AMP_DTYPES, World, gather_tensor_rows
from facekd.embedder.checks import is_onnx_file
from facekd.errors import TeacherError
from facekd.head.classifier import LinearClassifier, MarginClassifier, build_classifier
from facekd.teacher.teacher import open_teacher, teacher_fingerprint
from facekd.training.distill_config import (
    IN_TEACHER_SPACE,
    OF_OWN_HEAD,
    OF_TEACHER_HEAD,
    WITHOUT_TEACHER_EMBEDDING,
    DistillConfig,
)
from facekd.training.distiller import Distiller
from facekd.training.recognizer import backbone_arguments


def build_distiller(config: DistillConfig, world: World, dataset: FaceDataset) -> Distiller:
    """The student with fresh weights, and everything it takes from its teacher."""
    weights = config.effective_loss
    asks_teacher = not set(weights.active) <= set(WITHOUT_TEACHER_EMBEDDING)  # else its classifier is all it takes
    sampler = PositionSampler(len(dataset), config.seed, 1, block_shuffle=config.data.block_shuffle)
    teacher = None
    if asks_teacher:
        autocast = AMP_DTYPES[config.precision]
        teacher = open_teacher(
            config.teacher,
            dataset,
            sampler,
            config.data.image_size,
            autocast,
            world.device,
            images_per_call=config.batch_size_per_rank,  # as many as the student takes in one pass
        )
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
        raise TeacherError(
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
        raise TeacherError("shared_head is the student's classifier, but neither loss.ce nor loss.kl uses one")
    projection = None
    if student_size != teacher_size and config.needs(IN_TEACHER_SPACE):
        projection = nn.Linear(student_size, teacher_size, bias=False)
        nn.init.orthogonal_(projection.weight)  # keeps lengths and angles as far as the sizes allow
    contrastive = None
    if "crd" in weights.active:
        labels = torch.from_numpy(np.ascontiguousarray(dataset.labels))
        contrastive = ContrastiveDistillation(student_size, teacher_size, len(dataset), labels=labels, seed=config.seed)
        contrastive.gather_rows = lambda rows: gather_tensor_rows(rows, world)
    return Distiller(
        backbone,
        head,
        teacher_head,
        projection,
        weights,
        teacher,
        lambda positions: sampler.indices_at(positions.numpy()),
        margin_on_teacher_head=config.margin_on_teacher_head,
        share=config.share,
        contrastive=contrastive,
        gather_rows=lambda rows: gather_tensor_rows(rows, world),
        teacher_fingerprint=teacher_fingerprint(teacher, shared),
    )


def _load_teacher_head(config: DistillConfig, dataset: FaceDataset) -> SharedHead:
    source = config.teacher.head or config.teacher.model
    if not config.teacher.head and is_onnx_file(Path(source)):
        raise TeacherError(
            f"{source} is a backbone alone, and {config.effective_loss} ask for its classifier: set teacher.head to "
            f"what `facekd rebuild-head {source} --data {config.data.train} --output head.pt` writes"
        )
    return load_shared_head(source, dataset)
