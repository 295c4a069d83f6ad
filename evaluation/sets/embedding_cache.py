"""Embeds the images of a pair set once and keeps the embeddings on disk, named by everything they depend on.

An image in several pairs is embedded once. Scoring with other folds, FARs or rules then reads the embeddings back and
never runs the model. Shapes: M images, D embedding values, N pairs.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from evaluation.kept_arrays import name_of, read_kept, write_kept
from facekd.embedder import Embedder
from facekd.images.preprocessing import mirror
from facekd.utils.processes.threads import generator_threads
from facekd.utils.progress import track

IMAGES_CHUNK = 256
Embed = Callable[[np.ndarray], np.ndarray]


class EncodedImages(Protocol):
    """Provides images that are decoded when they are needed: those of a pair set, or of a folder."""

    @property
    def name(self) -> str: ...
    @property
    def images(self) -> Sequence[bytes]: ...
    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop`: uint8 RGB (B, S, S, 3)."""
        ...


@runtime_checkable
class KnowsDigests(Protocol):
    """Provides images whose contents need not be read again to tell them apart."""

    @property
    def digests(self) -> list[bytes]: ...


def embed_images(
    embed: Embed,
    pair_set: EncodedImages,
    start: int = 0,
    stop: int | None = None,
    mirrors: Sequence[bool] = (False,),
    show_progress: bool = False,
) -> list[np.ndarray]:
    """Embeds images `start` to `stop` of a pair set, batch by batch; the next batch is decoded meanwhile.

    Args:
        embed: uint8 RGB (B, S, S, 3) -> (B, D).
        pair_set: the images.
        start, stop: range of its 2N images; all by default.
        mirrors: False for the embeddings of the images, True for those of their mirror images.
        show_progress: whether to show progress on standard error.

    Returns:
        For each of `mirrors`, float32 (M, D).
    """
    # A thread decodes the next batch while this one is embedded.
    stop = len(pair_set.images) if stop is None else stop
    parts: list[list[np.ndarray]] = [[] for _ in mirrors]
    batches = _decoded_ahead(pair_set, start, stop)
    if show_progress:
        batches = track(batches, f"embedding {pair_set.name}", stop - start, IMAGES_CHUNK)
    # Each batch is embedded once as it is or mirrored, or both.
    for images in batches:
        for part, is_mirrored in zip(parts, mirrors, strict=True):
            part.append(embed(mirror(images) if is_mirrored else images))
    return [np.concatenate(part).astype(np.float32, copy=False) for part in parts]


def _decoded_ahead(images: EncodedImages, start: int, stop: int) -> Iterator[np.ndarray]:
    """Yields batches of pixels, decoding one while the one before is used: decoders release the interpreter lock."""
    pending = None
    with generator_threads(1) as ahead:
        for first in range(start, stop, IMAGES_CHUNK):
            decoded, pending = pending, ahead.submit(images.decode, first, min(first + IMAGES_CHUNK, stop))
            if decoded is not None:
                yield decoded.result()
        if pending is not None:
            yield pending.result()


def distinct_images(images: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Finds equal images.

    Args:
        images: M images, or a digest of each.

    Returns:
        For each image its number among the distinct ones (M,), numbered as they first occur; and for each distinct
        image the position of its first occurrence (K,).
    """
    numbers: dict[Hashable, int] = {}
    place_of = np.array([numbers.setdefault(image, len(numbers)) for image in images])
    return place_of, np.unique(place_of, return_index=True)[1]


def embed_pair_set(
    embedder: Embedder,
    pair_set: EncodedImages,
    flip: bool,
    cache: str | os.PathLike[str] | None = None,
    show_progress: bool = True,
) -> np.ndarray:
    """Returns embeddings (M, D) of all images of a set, from `cache` if possible; equal images are embedded once.

    Args:
        embedder: the model.
        pair_set: the images; 2N for N pairs.
        flip: whether to add the embedding of the mirror image, f(x) + f(mirrored x): the field's LFW protocol.
        cache: folder of kept embeddings, one file for the images and one for their mirror images. The name of a file
            is a digest over weights, preprocessing, images and mirroring, so that a changed model or pack never uses
            old embeddings.
        show_progress: whether to show progress on standard error.
    """
    # Read what is kept.
    wanted = (False, True) if flip else (False,)
    is_known = isinstance(pair_set, KnowsDigests)
    contents = pair_set.digests if is_known else [hashlib.sha256(image).digest() for image in pair_set.images]
    known: dict[bool, np.ndarray] = {}
    files: dict[bool, Path] = {}
    if cache is not None:
        digest = name_of([embedder.fingerprint.encode(), *contents])
        files = {side: Path(cache) / f"{digest}-{'mirrored' if side else 'plain'}.npy" for side in wanted}
        shape = (len(pair_set.images), embedder.embedding_size)
        known = {side: array for side, file in files.items() if (array := _read_cached(file, shape)) is not None}
    # Embed the rest, and keep it.
    missing = [side for side in wanted if side not in known]
    if missing:
        place_of, first = distinct_images(contents)
        embedded = embed_images(
            embedder.embed, ImageSubset(pair_set, first), mirrors=missing, show_progress=show_progress
        )
        known.update((side, array[place_of]) for side, array in zip(missing, embedded, strict=True))
    for side in missing:
        if side in files:
            write_kept(files[side], known[side])
    return known[False] + known[True] if flip else known[False]


class ImageSubset:
    """Provides the images of a set at ascending positions (M,)."""

    def __init__(self, whole: EncodedImages, positions: np.ndarray) -> None:
        self.name = whole.name
        self._whole = whole
        self._positions = positions

    @property
    def images(self) -> Sequence[bytes]:
        return [self._whole.images[position] for position in self._positions.tolist()]

    def decode(self, start: int, stop: int) -> np.ndarray:
        positions = self._positions[start:stop]
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1)
        parts = [self._whole.decode(int(run[0]), int(run[-1]) + 1) for run in runs]
        if len({part.shape[1:] for part in parts}) > 1:
            return self._whole.decode(
                int(positions[0]), int(positions[-1]) + 1
            )  # raises an error that names the image of another size
        return np.concatenate(parts)


def _read_cached(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    array = read_kept(file)
    if array is None:
        return None
    if array.shape != shape or array.dtype != np.float32:
        print(f"{file}: holds {array.dtype} {array.shape}, expected {shape}; embedding again", file=sys.stderr)
        return None
    return array
