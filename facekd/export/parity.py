"""Measures how far an ONNX file's outputs are from those of torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from facekd.embedder import OnnxEmbedder, Preprocessing
from facekd.errors import ModelError

# One, because exporters specialise on it; two, the batch that is traced; seven, a multiple of neither.
PARITY_BATCHES = (1, 2, 7)


# Folding batch norm and reordering sums costs about 1e-5; a wrong layer costs more than 1e-2.
TOLERANCE = 1e-3


def probe_images(size: int) -> np.ndarray:
    """Draws test images, uint8 (7, size, size, 3): noise over a gradient of another brightness in each image.

    Embeddings differ between the images of a batch, so a graph that mixes up or repeats its rows cannot pass.
    """
    generator = np.random.default_rng(0)
    count = max(PARITY_BATCHES)
    ramp = np.linspace(0, 160, size)[None, :, None, None] * np.linspace(0.2, 1, count)[:, None, None, None]
    return (ramp + generator.integers(0, 96, (count, size, size, 3))).astype(np.uint8)


def measure_parity(
    file: Path, expected: Mapping[int, np.ndarray], images: np.ndarray, preprocessing: Preprocessing, output: Path
) -> dict[int, float]:
    """Measures the largest relative error of each batch size in `expected`, torch's embeddings by batch size.

    The written file is opened as any user would open it, so its preprocessing is compared along with its graph.

    Raises:
        ModelError: it cannot be opened or run, or records another preprocessing.
    """
    try:
        embedder = OnnxEmbedder(file, batch_size=max(expected))
        found = {count: embedder.embed(images[:count]) for count in expected}
    except ModelError as error:
        message = str(error).replace(str(file), "the exported model")
        raise ModelError(f"{output}: not kept, {message}") from error
    if embedder.preprocessing != preprocessing:
        raise ModelError(f"{output}: not kept, it records {embedder.preprocessing} instead of {preprocessing}")
    errors: dict[int, float] = {}
    for count, reference in expected.items():
        difference = np.linalg.norm(found[count] - reference, axis=1)
        scale = np.maximum(np.linalg.norm(reference, axis=1), np.finfo(np.float32).tiny)
        errors[count] = float(np.max(difference / scale))
    return errors
