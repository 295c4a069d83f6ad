"""Turns uint8 images into the normalised float tensors that networks take."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from facekd.errors import InputError
from facekd.images.augmentation import IMAGES_IN_CACHE
from facekd.utils.randomness import uniform


def flip_mask(seed: int, positions: ArrayLike) -> NDArray[np.bool_]:
    """Returns which images of the run are mirrored: True with probability 1/2, a function of (seed, position) alone.

    Args:
        seed: random seed of the run.
        positions: positions in the run, (B,).

    Returns:
        (B,) bool.
    """
    return uniform(seed, "flip", positions) < 0.5


def to_model_input(
    images: torch.Tensor,
    flip: torch.Tensor | None = None,
    mean: float | Sequence[float] = 127.5,
    std: float | Sequence[float] = 127.5,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """Mirrors and normalises a batch on its device, (pixel - mean) / std; `Preprocessing.apply` is the form in numpy.

    Args:
        images: (B, H, W, 3) uint8 RGB.
        flip: (B,) bool, which images to mirror left and right; None mirrors none.
        mean: in units of 0..255; one number, or one for each of R, G, B.
        std: like `mean`, not zero.
        dtype: dtype of the result, which is computed in float32 and rounded once.
        memory_format: memory format of the result; channels_last is how pixels arrive, and needs no rearranging.

    Returns:
        (B, 3, H, W).

    Raises:
        InputError: images are not uint8 (B, H, W, 3), or mean or std does not fit.
    """
    # Check the arguments.
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise InputError(f"images must be uint8 (B, H, W, 3), found {images.dtype} {tuple(images.shape)}")
    mean_3, std_3 = _three("mean", mean), _three("std", std)
    if 0.0 in std_3:
        raise InputError(f"std must not be zero, found {std_3}")
    batch_size, height, width, _ = images.shape
    mask = None if flip is None else flip.to(images.device, torch.uint8).mul(255)[:, None, None, None]
    mean_row, std_row = _row_constants(mean_3, std_3, width, images.device)
    # Normalise rows of W * 3 numbers: broadcasting three constants would be slower.
    rows = torch.empty((batch_size, height, width * 3), dtype=torch.float32, device=images.device)
    step = IMAGES_IN_CACHE if images.device.type == "cpu" else max(1, batch_size)
    for start in range(0, batch_size, step):
        part = images[start : start + step]
        if mask is not None:
            # Choosing bytes by a bit mask is ten times as fast as torch.where on a CPU, and as fast elsewhere.
            chosen = mask[start : start + step]
            part = part.flip(2).bitwise_xor_(part).bitwise_and_(chosen).bitwise_xor_(part)
        rows[start : start + step].copy_(part.reshape(len(part), height, width * 3)).sub_(mean_row).div_(std_row)
    pixels = rows.view(batch_size, height, width, 3).permute(0, 3, 1, 2)
    return pixels.to(dtype=dtype, memory_format=memory_format)


def _three(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),) * 3
    if len(values) != 3:
        raise InputError(f"{name} must be one number or three (R, G, B), found {len(values)}")
    return values


@functools.lru_cache(maxsize=64)
def _row_constants(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    # Cached on the device: copying them there for each batch would wait for the device.
    with torch.inference_mode(False):
        constants = torch.tensor((mean, std), dtype=torch.float32, device=device).repeat(1, width)
    return constants[0], constants[1]
