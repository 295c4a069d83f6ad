"""Sees whether a machine has a GPU, without a library that takes seconds to load."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from facekd.utils.processes.children import launcher_number

FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")  # of NVIDIA, WSL and AMD


def has_gpu_driver() -> bool:
    """Tells whether the system has the files of a GPU's driver."""
    return any(Path(file).exists() for file in FILES)


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
