"""Defines the `teacher:` section of a distillation config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher: evaluated, never trained.

    Args:
        model: a checkpoint, the folder of a run, or an ONNX file, anyone's.
        head: where its classifier is, if not in `model`: what `facekd rebuild-head` writes.
        cache: what `facekd cache-teacher` wrote of it; used instead of running it.
        cache_despite_augmentation: use the cache although images are augmented by more than the flip: the teacher then
            speaks of the image as it was before.
        resize: resize images to the teacher's input size where it differs.
        mean: for an ONNX file that does not record it, in units of 0..255.
        std: likewise.
        color: likewise.
    """

    model: str = ""
    head: str = ""
    cache: str = ""
    cache_despite_augmentation: bool = False
    resize: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    color: Literal["rgb", "bgr"] | None = None
