"""Provides the teacher's embeddings of a batch: computed live, or looked up in a cache.

Shapes: B images of the batch, S image size in pixels, E the teacher's embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facekd.checkpoints.shared_head import SharedHead
from facekd.data.datasets import FaceDataset
from facekd.data.loading.loader import Batch
from facekd.data.loading.sampler import PositionSampler
from facekd.embedder import OnnxEmbedder, TorchEmbedder, open_embedder
from facekd.embedder.checks import is_onnx_file
from facekd.embedder.model_options import report_preprocessing
from facekd.errors import ModelError, TeacherError
from facekd.images.preprocessing import fit_images, mirror
from facekd.teacher.cache import open_teacher_cache
from facekd.teacher.config import TeacherConfig
from facekd.utils.wording import agreeing, counted


class LiveTeacher:
    """Runs the teacher on each batch.

    A torch teacher takes images that are already on the device, and its embeddings stay there, so nothing waits for the
    device. An ONNX teacher, or one whose images are resized, runs through the host.

    Args:
        embedder: the teacher.
        describe: names the image at a position of the run, for error messages.
        images_per_call: images that a torch teacher embeds at once on a GPU; 0 means the whole batch.
    """

    def __init__(
        self, embedder: TorchEmbedder | OnnxEmbedder, describe: Callable[[int], str] = str, images_per_call: int = 0
    ) -> None:
        self._embedder = embedder
        self._describe = describe
        self._images_per_call = images_per_call
        self._unchecked: tuple[Tensor, torch.Event | None, Tensor] | None = None
        self.embedding_size: int = embedder.embedding_size
        self.fingerprint: str = embedder.fingerprint

    def embed(self, batch: Batch) -> Tensor:
        """Embeds the images of a batch, mirrored as its `flip` says.

        Returns:
            float32 (B, E); on the device of a torch teacher, on the CPU from an ONNX file.

        Raises:
            ModelError: an embedding is not finite, see `check_finite`.
        """
        self.check_finite()
        if isinstance(self._embedder, OnnxEmbedder):
            return torch.from_numpy(self._embedder.embed(_mirrored(batch)))

        # Resizing happens on the host, after mirroring, exactly as when a cache is made.
        size = self._embedder.preprocessing.image_size
        images, flip = batch.on_device or (batch.images, batch.flip)
        if images.shape[1] != size:
            images = torch.from_numpy(fit_images(_mirrored(batch), size, self._embedder.resize))
            flip = torch.zeros(len(images), dtype=torch.bool)

        # On a GPU a large batch may be embedded in parts, to save memory.
        is_on_host = self._embedder.device.type == "cpu"
        chunk = self._embedder.batch_size if is_on_host else self._images_per_call or len(images)
        parts = zip(images.split(chunk), flip.split(chunk), strict=True)
        embedding_BE = torch.cat([self._embedder.embed_tensor(*part) for part in parts])

        # On a GPU the check comes later: the copy runs meanwhile, and the next step waits for the device anyway.
        is_finite = embedding_BE.isfinite().all(dim=1).to("cpu", non_blocking=True)
        copied = None if is_on_host else torch.cuda.current_stream(self._embedder.device).record_event()
        self._unchecked = is_finite, copied, batch.positions
        if is_on_host:
            self.check_finite()
        return embedding_BE

    def check_finite(self) -> None:
        """Checks the last batch's embeddings; on a GPU `embed` leaves this to its next call, or to the caller.

        Raises:
            ModelError: some are not finite; the message names the first image.
        """
        if self._unchecked is None:
            return
        (is_finite, copied, positions), self._unchecked = self._unchecked, None
        if copied is not None:
            copied.synchronize()
        if bool(is_finite.all()):
            return
        bad = positions[~is_finite].tolist()
        raise ModelError(
            f"the teacher: {len(bad):,} of {counted(len(positions), 'embedding')} {agreeing(len(bad), 'is', 'are')} "
            f"not finite, the first is that of {self._describe(bad[0])}; the weights hold NaN, or half precision "
            "overflows"
        )


def _mirrored(batch: Batch) -> np.ndarray:
    """Returns the images of a batch on the host, mirrored as its `flip` says: uint8 RGB (B, S, S, 3)."""
    images, flip = batch.images.numpy().copy(), batch.flip.numpy()
    images[flip] = mirror(images[flip])
    return images


class CachedTeacher:
    """Looks up the teacher's embeddings in the file that `facekd cache-teacher` wrote."""

    def __init__(
        self, path: str, dataset: FaceDataset, embedder: TorchEmbedder | OnnxEmbedder | None, sampler: PositionSampler
    ) -> None:
        fingerprint = embedder.fingerprint if embedder else None
        self._cache = open_teacher_cache(path, dataset, fingerprint)
        self._sampler = sampler
        self.embedding_size: int = self._cache.embedding_size
        self.fingerprint: str = self._cache.teacher["fingerprint"]

    def embed(self, batch: Batch) -> Tensor:
        """Looks up the images of a batch, mirrored as its `flip` says: float32 (B, E) on the CPU."""
        indices = self._sampler.indices_at(batch.positions.numpy())
        return torch.from_numpy(self._cache.lookup(indices, batch.flip.numpy()))

    def check_finite(self) -> None:
        """Does nothing: each lookup checks the embeddings it returns."""


def open_teacher(
    teacher: TeacherConfig,
    dataset: FaceDataset,
    sampler: PositionSampler,
    image_size: int,
    autocast: torch.dtype | None,
    device: torch.device,
    images_per_call: int = 0,
) -> LiveTeacher | CachedTeacher | None:
    """Opens the teacher that a config names; returns None if it names neither a model nor a cache.

    Args:
        teacher: the config's `teacher:` section.
        dataset: the student's training set; a cache must be of these images.
        sampler: order of images in the run; it says which image is at a position.
        image_size: side of the student's images in pixels.
        autocast: half-precision type that a live torch model computes in; None means full precision.
        device: where a live model runs.
        images_per_call: see `LiveTeacher`.

    Raises:
        TeacherError: the teacher takes images of another size.
        FacekdError: the model or the cache cannot be opened, or the cache is of other images or another model.
    """
    # The model, which also proves that a cache is its own.
    embedder = None
    if teacher.model:
        # A cache is computed in full precision, and its fingerprint says so; an ONNX file has its own precision.
        is_autocast = not teacher.cache and not is_onnx_file(Path(teacher.model))
        options: dict[str, Any] = {"autocast": autocast} if is_autocast else {}
        embedder = _open_model(teacher, device=str(device), resize=teacher.resize, **options)
        report_preprocessing(teacher.model, embedder)

    # A cache is used instead of the model; a model must take the student's images.
    if teacher.cache:
        return CachedTeacher(teacher.cache, dataset, embedder, sampler)
    if embedder is None:
        return None
    size = embedder.preprocessing.image_size
    if size != image_size and not teacher.resize:
        raise TeacherError(
            f"the teacher takes images of {size} pixels, the student's are {image_size}: set teacher.resize"
        )

    def describe(position: int) -> str:
        return dataset.describe(int(sampler.indices_at(np.array([position]))[0]))

    return LiveTeacher(embedder, describe, images_per_call)


def _open_model(teacher: TeacherConfig, **options: Any) -> TorchEmbedder | OnnxEmbedder:
    """Opens the model that a config names, with what the config says of its input and output."""
    return open_embedder(
        teacher.model,
        mean=teacher.mean,
        std=teacher.std,
        color=teacher.color,
        output=teacher.embedding_output or None,
        rewrite_prelu=teacher.rewrite_prelu or None,
        **options,
    )


def has_fingerprint(teacher: TeacherConfig, fingerprint: str) -> bool:
    """Tells whether a fingerprint is that of a config's model in full precision, with or without resizing.

    So `facekd rebuild-head` opens it, whatever the precision of the distillation.
    """
    resizes = (teacher.resize, not teacher.resize)
    return any(_open_model(teacher, resize=resize).fingerprint == fingerprint for resize in resizes)


def teacher_fingerprint(embedder: str, head: SharedHead | None) -> str:
    """Joins the fingerprints of the teacher's backbone and classifier; a resumed run must learn from the same two."""
    return f"{embedder}:{head.fingerprint if head else ''}"
