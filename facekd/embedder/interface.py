"""Defines the `Embedder` protocol: what every benchmark and validator asks of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from facekd.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    pass


@runtime_checkable
class Embedder(Protocol):
    """What every benchmark asks for.

    Attributes:
        embedding_size: D.
        preprocessing: what is done to the images, and the image size expected.
        normalized: whether embeddings leave with unit L2 norm. Where true, `f(x) + f(flipped x)` weighs both alike.
        fingerprint: hex digest over weights and preprocessing: equal fingerprints give equal embeddings, so it is
            the key under which embeddings may be cached.
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
        """Embed uint8 RGB images (B, S, S, 3), any B; returns float32 (B, D), batched inside."""
        ...


def embed_with_flip(embedder: Embedder, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embed the images and their mirror images; returns two float32 (B, D): plain, flipped."""
    return embedder.embed(images), embedder.embed(np.ascontiguousarray(images[:, :, ::-1]))
