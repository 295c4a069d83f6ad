"""Defines the `Embedder` protocol, through which benchmarks and validators use a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np

from facekd.images.preprocessing import Preprocessing, mirror


class GivenPreprocessing(TypedDict, total=False):
    """Lists the fields of `Preprocessing` that a caller may set; the model's file supplies those left out or None."""

    mean: Sequence[float] | float | None
    std: Sequence[float] | float | None
    color: str | None
    image_size: int | None


@runtime_checkable
class Embedder(Protocol):
    """Turns images into embeddings, whatever file the model comes from.

    Attributes:
        embedding_size: D.
        preprocessing: mean, std, channel order and image size of the model's input.
        normalized: whether embeddings have unit L2 norm; if so, `f(x) + f(flipped x)` weighs both alike.
        fingerprint: hex digest of weights and preprocessing. Models with equal fingerprints give equal embeddings up
            to rounding (1e-5 of their length), so embeddings may be cached under it and compared.
    """

    @property
    def embedding_size(self) -> int: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def normalized(self) -> bool: ...
    @property
    def fingerprint(self) -> str: ...

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeds uint8 RGB images (B, S, S, 3) for any B, in batches; returns float32 (B, D)."""
        ...


def embed_with_flip(embedder: Embedder, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the images and their mirror images; returns two float32 (B, D): plain, flipped."""
    return embedder.embed(images), embedder.embed(mirror(images))
