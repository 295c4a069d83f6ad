"""Checks labels against the number of classes, without making a GPU wait at every layer that checks them.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.utils.wording import agreeing, counted

# Within the two contexts below, labels are known to be in [0, this).
_known_below: ContextVar[int | None] = ContextVar("known_below", default=None)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Checks labels against the number of classes: a wrong one would train silently or kill the GPU's context.

    For labels on a GPU this waits for the device, except within `labels_checked`.

    Args:
        labels: (B,), int64.
        num_classes: C.

    Raises:
        InputError: not one-dimensional int64, or a label outside [0, C), naming its position in the batch.
    """
    if not isinstance(labels, Tensor):
        raise InputError(f"labels must be an int64 tensor, found a {type(labels).__name__}: use torch.tensor(labels)")
    if labels.dtype != torch.int64:
        raise InputError(f"labels must be int64, found {labels.dtype}: convert them with labels.long()")
    if labels.ndim != 1:
        raise InputError(f"labels must have the shape (B,), found {tuple(labels.shape)}")
    known_below = _known_below.get()
    if known_below is not None and known_below <= num_classes:
        return
    wrong_B = (labels < 0) | (labels >= num_classes)
    if bool(wrong_B.any()):
        position, num_wrong = int(wrong_B.nonzero()[0]), int(wrong_B.sum())
        raise InputError(
            f"label {int(labels[position])} at position {position} of the batch is outside [0, {num_classes}) "
            f"({num_wrong} of {counted(labels.numel(), 'label')} {agreeing(num_wrong, 'is', 'are')}): the classifier "
            f"has {counted(num_classes, 'class')}; make it as wide as the data set's num_classes, or mend the labels"
        )


@contextlib.contextmanager
def labels_checked(labels: Tensor, num_classes: int) -> Iterator[None]:
    """Checks labels once, on the host; within the block no further check of them waits for a GPU.

    In the block, `check_labels` skips the range check wherever the number of classes is at least `num_classes`. So use
    only these labels there, or copies or parts of them.

    Args:
        labels: (B,), int64, on the CPU.
        num_classes: C.

    Raises:
        InputError: see `check_labels`.
    """
    check_labels(labels, num_classes)
    with labels_known_below(num_classes):
        yield


@contextlib.contextmanager
def labels_known_below(num_classes: int) -> Iterator[None]:
    """Skips range checks like `labels_checked`, without a check of its own: for labels right by construction."""
    token = _known_below.set(num_classes)
    try:
        yield
    finally:
        _known_below.reset(token)
