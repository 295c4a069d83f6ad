"""Provides the teacher's embeddings of a batch: computed live, or looked up in a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from facekd.checkpoints.shared_head import SharedHead
from facekd.data.datasets import FaceDataset
from facekd.data.loading.loader import Batch
from facekd.data.loading.sampler import PositionSampler
from facekd.embedder import Embedder, open_embedder
from facekd.embedder.checks import is_onnx_file
from facekd.errors import TeacherError
from facekd.teacher.cache import open_teacher_cache
from facekd.teacher.config import TeacherConfig


class LiveTeacher:
    """Runs the teacher on each batch."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.embedding_size = embedder.embedding_size
        self.fingerprint = embedder.fingerprint

    def embed(self, batch: Batch) -> np.ndarray:
        images, flip = batch.images.numpy(), batch.flip.numpy()
        seen = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        return self._embedder.embed(np.ascontiguousarray(seen))


class CachedTeacher:
    """Looks up what the teacher said."""

    def __init__(self, path: str, dataset: FaceDataset, embedder: Embedder | None, sampler: PositionSampler) -> None:
        fingerprint = embedder.fingerprint if embedder else None
        self._cache = open_teacher_cache(path, dataset, fingerprint)
        self._sampler = sampler
        self.embedding_size = self._cache.embedding_size
        self.fingerprint: str = self._cache.teacher["fingerprint"]

    def embed(self, batch: Batch) -> np.ndarray:
        return self._cache.lookup(self._sampler.indices_at(batch.positions.numpy()), batch.flip.numpy())


def open_teacher(
    teacher: TeacherConfig,
    dataset: FaceDataset,
    sampler: PositionSampler,
    image_size: int,
    autocast: torch.dtype | None,
    device: torch.device,
) -> LiveTeacher | CachedTeacher | None:
    """Open the teacher that a config names; None where it names neither a model nor a cache.

    Args:
        teacher: the config's `teacher:` section.
        dataset: what the student is trained on; a cache must be of the same images.
        sampler: the order of images in the run; it finds a batch's images in the cache.
        image_size: side of the student's images in pixels.
        autocast: the type of half precision that a live torch model computes in, or None for full precision.
        device: where a live model runs.

    Raises:
        TeacherError: the teacher takes images of another size.
        FacekdError: a model or a cache that cannot be opened, or a cache of other images or another model.
    """
    embedder = None
    if teacher.model:
        # A cache is computed in full precision, and its fingerprint says so; ONNX keeps its own.
        is_autocast = not teacher.cache and not is_onnx_file(Path(teacher.model))
        options: dict[str, Any] = {"autocast": autocast} if is_autocast else {}
        embedder = open_embedder(
            teacher.model,
            mean=teacher.mean,
            std=teacher.std,
            color=teacher.color,
            device=str(device),
            resize=teacher.resize,
            **options,
        )
    if teacher.cache:
        return CachedTeacher(teacher.cache, dataset, embedder, sampler)
    if embedder is None:
        return None
    size = embedder.preprocessing.image_size
    if size != image_size and not teacher.resize:
        raise TeacherError(
            f"the teacher takes images of {size} pixels, the student's are {image_size}: set teacher.resize"
        )
    return LiveTeacher(embedder)


def teacher_fingerprint(teacher: LiveTeacher | CachedTeacher | None, head: SharedHead | None) -> str:
    """Of the backbone and of the classifier: a resumed run must have learnt from both."""
    return f"{teacher.fingerprint if teacher else ''}:{head.fingerprint if head else ''}"
