"""Measures how far the outputs of an ONNX file are from those of torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from facekd.embedder import OnnxEmbedder, Preprocessing
from facekd.embedder.checks import largest_error
from facekd.errors import ModelError

# 1, because exporters specialise on it; 2, the batch that is traced; 7, which is not a multiple of 2.
PARITY_BATCHES = (1, 2, 7)


def measure_parity(
    file: Path, expected: Mapping[int, np.ndarray], images: np.ndarray, preprocessing: Preprocessing, output: Path
) -> dict[int, float]:
    """Computes the largest relative error at each batch size in `expected`, which maps it to torch's embeddings.

    The written file is opened as any user would open it, so its preprocessing is compared along with its graph.

    Raises:
        ModelError: the file cannot be opened or run, or records another preprocessing.
    """
    try:
        embedder = OnnxEmbedder(file, batch_size=max(expected))
        found = {count: embedder.embed(images[:count]) for count in expected}
    except ModelError as error:
        message = str(error).replace(str(file), "the exported model")
        raise ModelError(f"{output}: not kept, {message}") from error
    if embedder.preprocessing != preprocessing:
        raise ModelError(f"{output}: not kept, it records {embedder.preprocessing} instead of {preprocessing}")
    return {count: largest_error(found[count], reference) for count, reference in expected.items()}


def check_parity(parity: Mapping[int, float], tolerance: float, output: Path) -> None:
    """Refuses a file whose outputs differ too much from torch's; NaN counts as too much.

    Raises:
        ModelError: the relative error of some batch size exceeds `tolerance`.
    """
    worst = max(parity, key=lambda count: parity[count])
    if not parity[worst] <= tolerance:
        raise ModelError(
            f"{output}: not kept, the ONNX model differs from torch: relative error {parity[worst]:.2e} at batch "
            f"{worst}, at most {tolerance:g} allowed. Report it as a defect of facekd, or raise --tolerance if "
            "you know why it differs"
        )
