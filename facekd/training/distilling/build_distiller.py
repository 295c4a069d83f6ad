"""Builds what a distillation trains: the student, and everything it takes from its teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facekd.checkpoints.shared_head import SharedHead, load_shared_head, read_classifier, require_same_people
from facekd.data.datasets import FaceDataset
from facekd.data.loading.sampler import PositionSampler
from facekd.distillation.contrastive import ContrastiveDistillation
from facekd.distillation.weights import LOSS_NEEDS, Need
from facekd.distributed import AMP_DTYPES, World, gather_tensor_rows
from facekd.embedder.checks import is_onnx_file
from facekd.errors import TeacherError
from facekd.head.classifier import build_classifier
from facekd.teacher.config import TeacherConfig
from facekd.teacher.mean_teacher import MeanTeacher, joined_fingerprint
from facekd.teacher.teacher import has_fingerprint, open_teacher, teacher_fingerprint
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.distiller import Distiller, Embedder, Head, Objective, StudentParts, TeacherParts
from facekd.training.recognizer import make_backbone
from facekd.training.starting_weights import advise_start, start_from_weights
from facekd.utils.wording import counted


def build_distiller(
    config: DistillConfig, world: World, dataset: FaceDataset, module: nn.Module | None = None
) -> Distiller:
    """Builds the student with fresh weights, and everything that it takes from its teacher.

    Args:
        config: the config of the run.
        world: the processes that train.
        dataset: the training set.
        module: the student's backbone, where `backbone.name` is "module".

    Raises:
        TeacherError: teacher and classifier do not fit together or do not fit the losses.
    """
    # The teacher's embeddings and its classifier, each only where it is needed. A student without a linear classifier
    # of its own is evaluated by the teacher's, whatever it learns from.
    loss = config.effective_loss
    sampler = PositionSampler(config.data.make_order(dataset, config.seed), 1)
    teachers = _open_teachers(config, world, dataset, sampler) if loss.needs(Need.TEACHER_EMBEDDING) else []
    teacher = teachers[0] if teachers else None
    is_borrower = config.head.kind == "linear" and not loss.needs(Need.OWN_HEAD)
    shared = _load_teacher_head(config, dataset, teacher) if loss.needs(Need.TEACHER_HEAD) or is_borrower else None
    teacher_head = None
    if shared is not None:  # the teacher's bias and sub-centres stay as they are, whatever the head section says
        _check_moving_centres(config, shared)
        kept = dataclasses.replace(config.head, bias=None, sub_centers=shared.sub_centers)
        teacher_head = shared.build(kept, shared.embedding_size, world)
    known = {part.embedding_size for part in (teacher, teacher_head) if part is not None}
    if len(known) > 1:
        raise TeacherError(
            f"teacher.model gives embeddings of {teacher.embedding_size if teacher else 0}, teacher.head takes "
            f"{teacher_head.embedding_size if teacher_head else 0}: they are not of one model"
        )
    (teacher_size,) = known

    # The student, with the weights that it would start from in training alone.
    torch.manual_seed(config.seed)
    sizes = [teacher_size, *(one.embedding_size for one in teachers[1:])]
    student = _build_student(config, world, dataset, sizes, module)
    contrastive = None
    if loss.needs(Need.MEMORY):
        labels = torch.from_numpy(np.ascontiguousarray(dataset.labels)) if dataset.has_labels else None
        student_size = config.backbone.embedding_size
        contrastive = ContrastiveDistillation(student_size, teacher_size, len(dataset), labels=labels, seed=config.seed)
        contrastive.gather_rows = lambda rows: gather_tensor_rows(rows, world)
    fingerprint = teacher_fingerprint(joined_fingerprint(teachers), shared)
    distiller = Distiller(
        student,
        TeacherParts(teacher_head, teacher, fingerprint, teachers[1:], _shares(config.all_teachers)),
        Objective(loss, config.margin_on_teacher_head, config.share),
        lambda positions: sampler.indices_at(positions.numpy()),
        contrastive=contrastive,
        gather_rows=lambda rows: gather_tensor_rows(rows, world),
    )
    if world.is_main:
        distiller.summary_lines += advise_start(distiller.backbone, config, config.teacher.model)
    start_from_weights(distiller, config, dataset)
    return distiller


def _open_teachers(
    config: DistillConfig, world: World, dataset: FaceDataset, sampler: PositionSampler
) -> list[Embedder]:
    """Opens the teachers; those whose mean is wanted are one.

    Raises:
        TeacherError: they cannot be joined.
    """
    found = [
        open_teacher(
            teacher,
            dataset,
            sampler,
            config.data.image_size,
            AMP_DTYPES[config.precision],
            world.device,
            images_per_call=config.batch_size_per_rank,  # as many as the student takes in one pass
        )
        for teacher in config.all_teachers
    ]
    opened = [teacher for teacher in found if teacher is not None]
    if len(opened) > 1 and config.combine_teachers == "mean":
        return [MeanTeacher(opened, _shares(config.teachers))]
    return [*opened]


def _shares(teachers: Sequence[TeacherConfig]) -> list[float]:
    """Returns the weights of teachers, divided by their sum."""
    total = sum(teacher.weight for teacher in teachers)
    return [teacher.weight / total for teacher in teachers]


def _build_student(
    config: DistillConfig,
    world: World,
    dataset: FaceDataset,
    teacher_sizes: Sequence[int],
    module: nn.Module | None,
) -> StudentParts:
    """Builds backbone, classifier and projections, each only where it is needed.

    Args:
        config: the run's.
        world: the processes.
        dataset: the images to learn from.
        teacher_sizes: embedding sizes of the teachers that losses are computed with.
        module: the student's backbone, where the caller gives it.

    Raises:
        TeacherError: a shared classifier for a student whose losses use none of its own.
    """
    size = config.backbone.embedding_size
    backbone = make_backbone(config, module)
    head: Head | None = None
    if config.effective_loss.needs(Need.OWN_HEAD):
        if config.shared_head:
            head = load_shared_head(config.shared_head, dataset).build(config.head, size, world)
        else:
            head = build_classifier(config.head, size, dataset.num_classes, world)
    elif config.shared_head or config.head.weights:
        users = " nor ".join(f"loss.{name}" for name, need in LOSS_NEEDS.items() if need & Need.OWN_HEAD)
        key = "shared_head is" if config.shared_head else "head.weights are for"
        raise TeacherError(f"{key} the student's classifier, but neither {users} uses one")
    projections: list[nn.Linear | None] = []
    for teacher_size in teacher_sizes:
        projection = None
        if size != teacher_size and config.effective_loss.needs(Need.TEACHER_SPACE):
            projection = nn.Linear(size, teacher_size, bias=False)
            nn.init.orthogonal_(projection.weight)  # keeps lengths and angles as far as the sizes allow
        projections.append(projection)
    return StudentParts(backbone, head, projections[0], projections[1:])


def _check_moving_centres(config: DistillConfig, shared: SharedHead) -> None:
    """Refuses a teacher with several centres for each class where a loss moves the centre of a class.

    Raises:
        TeacherError: it has several, and an active loss moves them.
    """
    if shared.sub_centers > 1 and config.effective_loss.needs(Need.MOVING_CENTRES):
        raise TeacherError(
            f"{shared.source}: its classifier has {counted(shared.sub_centers, 'centre')} for each class, and "
            f"{config.effective_loss.active_keys(Need.MOVING_CENTRES)} moves one: keep one of each class by `facekd "
            "drop-sub-centers`, or use another loss"
        )


def _load_teacher_head(config: DistillConfig, dataset: FaceDataset, teacher: Embedder | None) -> SharedHead:
    """Loads the teacher's classifier from teacher.head, else from teacher.model.

    Adds a warning to the data where it was rebuilt from another model than the teacher, whose embeddings it would take.

    Raises:
        TeacherError: an ONNX file, which has no classifier.
    """
    source = config.teacher.head or config.teacher.model
    if not config.teacher.head and is_onnx_file(Path(source)):
        raise TeacherError(
            f"{source} is a backbone without a classifier, and {config.effective_loss} need one: set teacher.head to "
            f"what `facekd rebuild-head {source} --data {config.data.train} --output head.pt` writes"
        )
    head, checkpoint = read_classifier(source)
    require_same_people(head, checkpoint, dataset)
    made_of = (checkpoint.teacher_fingerprint or "") if checkpoint.backbone is None else ""
    is_other = teacher is not None and made_of not in ("", teacher.fingerprint)
    if is_other and not (config.teacher.model and has_fingerprint(config.teacher, made_of)):
        dataset.warnings.append(
            f"{source}: was rebuilt from the embeddings of another file or preprocessing than "
            f"{config.teacher.model or config.teacher.cache}: if that is another network, what is learnt through this "
            "classifier is noise; rebuild it from the teacher by `facekd rebuild-head`"
        )
    return head
