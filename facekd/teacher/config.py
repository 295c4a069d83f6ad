"""Defines the `teacher:` section of a distillation config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facekd.commands.config_files import path_field


@dataclass(frozen=True)
class TeacherConfig:
    """Names the teacher, which is run but never trained.

    Args:
        model: a checkpoint, the folder of a run, or any ONNX file.
        head: the teacher's classifier, written by `facekd rebuild-head`, if `model` has none.
        cache: the teacher's embeddings, written by `facekd cache-teacher`; used instead of running the model.
        cache_despite_augmentation: use the cache although images are augmented by more than the flip; it holds
            embeddings of the images before augmentation.
        resize: resize images to the teacher's input size if it differs.
        mean: mean in units of 0..255, for an ONNX file that does not record it.
        std: standard deviation in the same units, for an ONNX file that does not record it.
        color: channel order, for an ONNX file that does not record it.
        embedding_output: output that is the embedding, for an ONNX file that has several.
    """

    model: str = path_field()
    head: str = path_field()
    cache: str = path_field()
    cache_despite_augmentation: bool = False
    resize: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    color: Literal["rgb", "bgr"] | None = None
    embedding_output: str = ""
