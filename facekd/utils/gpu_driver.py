"""Sees whether a machine has a GPU: by the files of its driver, or by torch where torch is to compute on it."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from facekd.errors import FacekdError
from facekd.utils.processes.children import launcher_number
from facekd.utils.wording import counted

if TYPE_CHECKING:
    import torch

FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # of NVIDIA, WSL and AMD


def has_gpu_driver() -> bool:
    """Tells whether the system has the files of a GPU's driver."""
    return any(Path(file).exists() for file in FILES)


def require_gpu(device: torch.device) -> None:
    """Checks that torch sees a GPU, where it is to compute on one.

    Raises:
        FacekdError: it sees none, or not so many.
    """
    if device.type != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise FacekdError(f"device {device} was asked for, but torch {torch.__version__} sees no GPU; use --device cpu")
    if (device.index or 0) >= (count := torch.cuda.device_count()):
        raise FacekdError(
            f"device {device} was asked for, and this machine has {counted(count, 'GPU')}, counted from 0"
        )


@cache  # a command may open several models
def mention_gpu(device: str) -> None:
    """Says, once, that a model runs on the CPU although there is a GPU; of several processes one says it.

    Args:
        device: where the model runs; the default of most commands is "cpu", so that results are the same anywhere.
    """
    if device == "cpu" and has_gpu_driver() and launcher_number("RANK", 0) == 0:
        print(
            "the model runs on the CPU, and this machine has a GPU: `--device cuda` takes that (an ONNX file then "
            "needs onnxruntime-gpu)",
            file=sys.stderr,
        )
