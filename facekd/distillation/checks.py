"""What the distillation losses share: precision, checks of shapes, and directions that are safe to differentiate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from facekd.errors import InputError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

SMALLEST_NORM = 1e-12  # an embedding shorter than this has no direction


def in_full_precision(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Run `function` outside autocast, which would turn its products into bfloat16 or float16.

    The device is that of the first tensor among the arguments.
    """

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        device = next((value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def unit(rows: Tensor) -> Tensor:
    """Vectors scaled to length 1 along the last dimension.

    One shorter than 1e-12 becomes zero, with zero gradient; `functional.normalize` would pass 1e12 times the gradient.
    """
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    has_direction = length > SMALLEST_NORM
    return torch.where(has_direction, rows / torch.where(has_direction, length, 1.0), 0.0)


def at_least_float32(values: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pair(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both sides in one dtype of at least float32, the teacher's detached, once they have been found fit."""
    for side, values in (("student", student), ("teacher", teacher)):
        if values.ndim != 2 or not values.is_floating_point():
            raise InputError(
                f"{side} {what} must be floating, two-dimensional with a row an image; "
                f"found {values.dtype} of shape {tuple(values.shape)}"
            )
    if len(student) != len(teacher) or len(student) == 0:
        raise InputError(
            f"{len(student)} rows of student {what} and {len(teacher)} of the teacher: both must come from the same "
            "images, at least one"
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def same_size(student: Tensor, teacher: Tensor, name: str) -> tuple[Tensor, Tensor]:
    student_BD, teacher_BD = pair(student, teacher, "embeddings")
    if student_BD.shape[1] != teacher_BD.shape[1]:
        sizes = f"{student_BD.shape[1]} to {teacher_BD.shape[1]}"
        raise InputError(
            f"the student's embedding has {student_BD.shape[1]} values and the teacher's {teacher_BD.shape[1]}: "
            f"loss.{name} compares them one by one; give the student a projection ({sizes}), or use rkd_distance, "
            "rkd_angle, sp or crd, which take any two sizes"
        )
    return student_BD, teacher_BD
