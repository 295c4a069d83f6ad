"""Provides the images of a pair set degraded, for embedding and to be looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.sets.embedding_cache import EncodedImages

VERSION = 1  # raise it when a degradation changes its pixels: kept embeddings go by it


class DegradedImages:
    """Provides the images of a set with one degradation of one strength.

    What is drawn depends on the seed, the degradation and the content of an image alone: equal images stay equal, all
    models see the same pixels, and the noise of two strengths differs in its scale only.

    Args:
        whole: the images as they are.
        digests: for each its SHA-256.
        name: a key of `DEGRADATIONS`.
        strength: how strong it is.
        seed: random seed of what is drawn.
    """

    def __init__(self, whole: EncodedImages, digests: Sequence[bytes], name: str, strength: float, seed: int) -> None:
        self.name: str = f"{whole.name}, {name} {strength:g}"
        self._whole, self._own = whole, digests
        self._apply, self._strength = DEGRADATIONS[name].apply, strength
        self._key = f"{name} {seed}".encode()

    @property
    def images(self) -> Sequence[bytes]:
        """Returns the encoded images as they are."""
        return self._whole.images

    @property
    def digests(self) -> list[bytes]:
        """Returns for each image a digest of its content and of what is done to it."""
        more = self._key + f" {self._strength!r} {VERSION}".encode()
        return [hashlib.sha256(own + more).digest() for own in self._own]

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes and degrades images `start` to `stop`: uint8 RGB (B, S, S, 3)."""
        images = self._whole.decode(start, stop)
        generators = (self._generator(own) for own in self._own[start:stop])
        return np.stack(
            [self._apply(image, self._strength, rng) for image, rng in zip(images, generators, strict=True)]
        )

    def _generator(self, own: bytes) -> np.random.Generator:
        return np.random.default_rng(int.from_bytes(hashlib.sha256(own + self._key).digest()[:16], "little"))
