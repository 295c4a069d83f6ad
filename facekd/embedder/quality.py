"""Takes the quality that a model itself gives to images, in the place of their embeddings.

Shapes: B images, S image size in pixels.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Protocol

import numpy as np

from facekd.errors import ModelError
from facekd.images.preprocessing import Preprocessing


class GivesQuality(Protocol):
    """Says how well images can be recognised; embedders do whose model has a quality head.

    Attributes:
        has_quality: whether the model that is open has one.
    """

    @property
    def has_quality(self) -> bool: ...

    def qualities(self, images: np.ndarray) -> np.ndarray:
        """Returns the qualities, float32 (B,), higher is better, of uint8 RGB images (B, S, S, 3) as they are."""
        ...

    def embed_with_quality(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `embed` and `qualities` return, by one pass of the network."""
        ...


class QualityEmbedder:
    """Gives the quality of images as embeddings of one value, so that they are kept and shared out like embeddings.

    Args:
        embedder: an open model.
        path: its file, for messages.

    Raises:
        ModelError: the model says nothing of quality.
    """

    embedding_size = 1
    normalized = False

    def __init__(self, embedder: Any, path: str | os.PathLike[str]) -> None:
        if not getattr(embedder, "has_quality", False):
            raise ModelError(
                f"{path}: says nothing of the quality of images: it has no output `quality`. `facekd train-quality` "
                "teaches a run of facekd to, and `facekd export` writes it"
            )
        self._model: GivesQuality = embedder
        self.preprocessing: Preprocessing = embedder.preprocessing
        self.fingerprint: str = hashlib.sha256(f"quality of {embedder.fingerprint}".encode()).hexdigest()

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns the qualities, float32 (B, 1)."""
        return self._model.qualities(images)[:, None]

    def embed_with_quality(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the embeddings that the model itself gives (B, D), and the qualities (B, 1), by one pass."""
        embeddings, qualities = self._model.embed_with_quality(images)
        return embeddings, qualities[:, None]
