"""Defines the `Embedder` protocol, by which every benchmark and validator uses a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np

from facekd.images.preprocessing import Preprocessing, mirror


class GivenPreprocessing(TypedDict, total=False):
    """Holds `Preprocessing` fields given by hand; what is left out or None is taken from the model's file."""

    mean: Sequence[float] | float | None
    std: Sequence[float] | float | None
    color: str | None
    image_size: int | None


@runtime_checkable
class Embedder(Protocol):
    """Turns images into embeddings; every benchmark and validator takes one.

    Attributes:
        embedding_size: D.
        preprocessing: how images become the model's input, and the image size it takes.
        normalized: whether embeddings have unit L2 norm; if so, `f(x) + f(flipped x)` weighs both alike.
        fingerprint: hex digest over weights and preprocessing. Equal fingerprints give equal embeddings, so it is the
            key under which embeddings may be cached.
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
        """Embeds uint8 RGB images (B, S, S, 3), any B, in batches; returns float32 (B, D)."""
        ...


def embed_with_flip(embedder: Embedder, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeds the images and their mirror images; returns two float32 (B, D): plain, flipped."""
    return embedder.embed(images), embedder.embed(mirror(images))
