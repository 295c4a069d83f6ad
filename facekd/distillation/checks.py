"""Holds what the distillation losses share: full precision, checks of shapes, and directions safe to differentiate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.utils.wording import counted

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SMALLEST_NORM = 1e-12  # an embedding shorter than this has no direction


def in_full_precision(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wraps `function` to run outside autocast, which would compute its products in bfloat16 or float16.

    The device is the one of the first tensor among the arguments.
    """

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        device = next((value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def unit(rows: Tensor) -> Tensor:
    """Scales vectors to length 1 along the last dimension.

    A vector shorter than 1e-12 becomes zero, with zero gradient; `functional.normalize` would pass on 1e12 times the
    gradient.
    """
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    has_direction = length > SMALLEST_NORM
    return torch.where(has_direction, rows / torch.where(has_direction, length, 1.0), 0.0)


def at_least_float32(values: Tensor) -> Tensor:
    """Converts a tensor to float32; float64 stays float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pair(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Checks two sides; returns them in one dtype of at least float32, the teacher's detached."""
    for side, values in (("student", student), ("teacher", teacher)):
        if values.ndim != 2 or not values.is_floating_point():
            raise InputError(
                f"{side} {what} must be floating, two-dimensional with a row per image; "
                f"found {values.dtype} of shape {tuple(values.shape)}"
            )
    if len(student) != len(teacher) or len(student) == 0:
        raise InputError(
            f"{counted(len(student), 'row')} of student {what} and {len(teacher)} of the teacher: both must come from "
            "the same images, at least one"
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def same_size(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Checks two sides like `pair`, and that their embeddings have one size."""
    student_BD, teacher_BD = pair(student, teacher, "embeddings")
    if student_BD.shape[1] != teacher_BD.shape[1]:
        sizes = f"{student_BD.shape[1]} to {teacher_BD.shape[1]}"
        raise InputError(
            f"the student's embedding has {counted(student_BD.shape[1], 'value')} and the teacher's "
            f"{teacher_BD.shape[1]}: loss.{name} compares them one by one; give the student a projection ({sizes}), "
            "or use a loss that takes any two sizes, such as rkd_distance, rkd_angle, sp or crd"
        )
    return student_BD, teacher_BD
