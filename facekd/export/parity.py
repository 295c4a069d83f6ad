"""Measures how far the outputs of an ONNX file are from those of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from facekd.embedder import OnnxEmbedder, Preprocessing, TorchEmbedder
from facekd.embedder.checks import largest_error, probe_images
from facekd.errors import ModelError
from facekd.export.onnx_graph import first_line
from facekd.export.options import ExportOptions
from facekd.images.preprocessing import mirror

if TYPE_CHECKING:
    import torch

# 1, because exporters specialise on it; 2, the batch that is traced; 7, which is not a multiple of 2.
PARITY_BATCHES = (1, 2, 7)
Errors = tuple[dict[int, float], dict[int, float] | None]  # of embedding and quality


class Truth(NamedTuple):
    """Holds images, uint8 RGB (7, S, S, 3), and what torch makes of the first of them, by batch size.

    The qualities are None without a quality head.
    """

    images: np.ndarray
    embeddings: dict[int, np.ndarray]
    qualities: dict[int, np.ndarray] | None


def embed_by_torch(
    module: torch.nn.Module, preprocessing: Preprocessing, options: ExportOptions, output: Path
) -> Truth:
    """Returns what the outputs of a file must be.

    Args:
        module: the network, in evaluation mode.
        preprocessing: what its images go through.
        options: of the file.
        output: the file, for messages.

    Raises:
        ModelError: the module fails.
    """
    images = probe_images(preprocessing.image_size, max(PARITY_BATCHES))
    qualities = None
    try:
        reference = TorchEmbedder(module, preprocessing, batch_size=max(PARITY_BATCHES))
        expected = {count: reference.embed(images[:count]) for count in PARITY_BATCHES}
        if options.flip:
            expected = {n: (plain + reference.embed(mirror(images[:n]))) / 2 for n, plain in expected.items()}
        if reference.has_quality:
            sides = (images, mirror(images)) if options.flip else (images,)
            mean = np.mean([reference.qualities(side) for side in sides], axis=0)
            qualities = {count: mean[:count] for count in PARITY_BATCHES}
    except (ModelError, RuntimeError) as error:
        raise ModelError(f"{output}: not exported, the backbone itself fails in torch: {first_line(error)}") from error
    if options.normalize:
        expected = {n: plain / np.linalg.norm(plain, axis=1, keepdims=True) for n, plain in expected.items()}
    return Truth(images, expected, qualities)


def compare_with_torch(
    plain: Path, truth: Truth, outside: Preprocessing, options: ExportOptions, output: Path
) -> Errors:
    """Returns the errors of the embedding and of the quality by batch size, None without one.

    Raises:
        ModelError: one is too large, see `check_parity`; or the file cannot be opened or run, or records another
            preprocessing.
    """
    with _refusing(plain, output):
        embedder = OnnxEmbedder(plain, batch_size=max(PARITY_BATCHES))
        parity = measure_parity(embedder, truth.embeddings, truth.images)
    if embedder.preprocessing != outside:
        raise ModelError(f"{output}: not kept, it records {embedder.preprocessing} instead of {outside}")
    check_parity(parity, options.tolerance, output)
    if truth.qualities is None:
        return parity, None
    with _refusing(plain, output):
        of_quality = measure_quality_parity(embedder, truth.qualities, truth.images)
    check_parity(of_quality, options.tolerance, output, "quality")
    return parity, of_quality


@contextlib.contextmanager
def _refusing(plain: Path, output: Path) -> Iterator[None]:
    """Turns an error of the exported file, which has a passing name, into a refusal of the file that was asked for."""
    try:
        yield
    except ModelError as error:
        message = str(error.args[0]).replace(str(plain), "the exported model")
        raise ModelError(f"{output}: not kept, {message}") from error


def measure_parity(embedder: OnnxEmbedder, expected: Mapping[int, np.ndarray], images: np.ndarray) -> dict[int, float]:
    """Computes the largest relative error at each batch size in `expected`, which maps it to torch's embeddings.

    The written file is opened as any user would open it, so its preprocessing is compared along with its graph.

    Raises:
        ModelError: the file cannot be run.
    """
    return {n: largest_error(embedder.embed(images[:n]), reference) for n, reference in expected.items()}


def measure_quality_parity(
    embedder: OnnxEmbedder, expected: Mapping[int, np.ndarray], images: np.ndarray
) -> dict[int, float]:
    """Computes the same of the output `quality`: `expected` maps batch sizes to torch's qualities.

    Raises:
        ModelError: the file cannot be run.
    """
    return {n: largest_error(embedder.qualities(images[:n])[:, None], own[:, None]) for n, own in expected.items()}


def check_parity(parity: Mapping[int, float], tolerance: float, output: Path, what: str = "embedding") -> None:
    """Refuses a file one of whose outputs differs too much from torch's; NaN counts as too much.

    Raises:
        ModelError: the relative error of some batch size exceeds `tolerance`.
    """
    worst = max(parity, key=lambda count: parity[count])
    if not parity[worst] <= tolerance:
        of = "" if what == "embedding" else f" of {what}"
        raise ModelError(
            f"{output}: not kept, the ONNX model differs from torch: relative error {parity[worst]:.2e}{of} at batch "
            f"{worst}, at most {tolerance:g} allowed. Report it as a defect of facekd, or raise --tolerance if "
            "you know why it differs"
        )
