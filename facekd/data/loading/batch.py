"""Defines `Batch`, the images of one step on one rank, which the loader yields and the trainer takes."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """Holds one rank's images of one step, on the CPU. B images, S image size."""

    images: torch.Tensor  # (B, S, S, 3) uint8 RGB, augmented but not flipped
    labels: torch.Tensor  # (B,) int64
    positions: torch.Tensor  # (B,) int64, 0-based places in the run
    flip: torch.Tensor  # (B,) bool: mirror these on the device (`to_model_input`)
    bad_records: list[str]  # one line for each bad record that was replaced by another image
    on_device: tuple[torch.Tensor, torch.Tensor] | None = None  # images and flip, if they were sent ahead
