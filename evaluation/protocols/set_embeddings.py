"""Reads embeddings of a listed set as unit vectors: some at a time, so that a million distractors need no memory.

Shapes: N images, D embedding values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from evaluation.protocols.listed_set import Entries, ListedSet
from evaluation.sets.embedding_rows import NpyRows
from facekd.errors import DataError
from facekd.utils.foreign import shown
from facekd.utils.progress import track
from facekd.utils.wording import agreeing
from facekd.verification.scores import unit_rows

ROWS_CHUNK = 8192
MAX_GAP = 16  # rows of a file that are read and not wanted, rather than reading twice


class SetEmbeddings:
    """Provides embeddings of images of a set: float64, of unit length.

    Args:
        listed: the set.
        rows: the embeddings (N, D) in the order of its names.
        flip: whether those of the mirror images are added.
    """

    def __init__(self, listed: ListedSet, rows: NpyRows, flip: bool) -> None:
        self._listed, self._rows, self._flip = listed, rows, flip
        self.embedding_size = rows.embedding_size

    def of_images(self, images: np.ndarray) -> np.ndarray:
        """Returns the embeddings of some images (n,), in their order: (n, D).

        Raises:
            DataError: an embedding has no direction; the message names the image.
        """
        return unit_rows(self._raw(images), lambda bad: self._no_direction(images[bad]))

    def of_entries(self, entries: Entries) -> np.ndarray:
        """Returns one embedding for each entry (n, D): the sum over its images, where longer embeddings count more.

        Raises:
            DataError: an entry without a direction; the message names its first image.
        """
        sums = np.zeros((len(entries), self.embedding_size))
        for start in range(0, len(entries.images), ROWS_CHUNK):
            some = slice(start, start + ROWS_CHUNK)
            of_entry = entries.of_entry[some]
            firsts = np.flatnonzero(np.diff(of_entry, prepend=-1))
            sums[of_entry[firsts]] += np.add.reduceat(self._raw(entries.images[some]), firsts, axis=0)
        first_image = np.searchsorted(entries.of_entry, np.arange(len(entries)))
        return unit_rows(sums, lambda bad: self._no_direction(entries.images[first_image[bad]]))

    def find_equal(self, known: np.ndarray, strangers: np.ndarray) -> tuple[list[str], list[str]]:
        """Finds images embedded exactly as an earlier one: among known images, and strangers embedded as a known one.

        Returns:
            Descriptions of both kinds, `NAME as NAME`.
        """
        first_with: dict[bytes, int] = {}
        among: list[str] = []
        for image, digest in self._digests(known, "comparing images"):
            first = first_with.setdefault(digest, image)
            if first != image:
                among.append(f"{shown(self._listed.names[image])} as {shown(self._listed.names[first])}")
        found = [
            f"{shown(self._listed.names[image])} as {shown(self._listed.names[first_with[digest]])}"
            for image, digest in self._digests(strangers, "comparing distractors")
            if digest in first_with
        ]
        return among, found

    def _digests(self, images: np.ndarray, what: str) -> Iterator[tuple[int, bytes]]:
        starts = range(0, len(images), ROWS_CHUNK)
        for start in track(starts, what, len(images), ROWS_CHUNK):
            some = images[start : start + ROWS_CHUNK]
            for image, row in zip(some.tolist(), self._raw(some), strict=True):
                yield image, hashlib.blake2b(row, digest_size=16).digest()

    def _raw(self, images: np.ndarray) -> np.ndarray:
        """Returns the embeddings of some images as they are, float64 (n, D)."""
        found = np.empty((len(images), self.embedding_size))
        order = np.argsort(images, kind="stable")
        # Images near each other are read together.
        breaks = np.flatnonzero(np.diff(images[order]) > MAX_GAP) + 1
        for part in np.split(order, breaks) if len(order) else ():
            low, high = int(images[part[0]]), int(images[part[-1]]) + 1
            plain, mirrored = self._rows.read(low, high)
            values = plain[images[part] - low].astype(np.float64)
            if self._flip and mirrored is not None:
                values += mirrored[images[part] - low]
            found[part] = values
        return found

    def _no_direction(self, images: np.ndarray) -> DataError:
        return DataError(
            f"{self._listed.root / self._listed.names[int(images[0])]}: its embedding has no direction (all zeros, or "
            f"not finite), as {agreeing(images.size - 1, 'has', 'have')} {images.size - 1:,} more: the model is "
            "broken or its preprocessing wrong"
        )


class DistractorRows:
    """Provides the embeddings of distractors block by block, as `UnitRows`.

    Args:
        embeddings: the embeddings of the set.
        images: (G,) the distractors, ascending.
    """

    def __init__(self, embeddings: SetEmbeddings, images: np.ndarray) -> None:
        self._embeddings, self._images = embeddings, images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop`: float64 (n, D)."""
        return self._embeddings.of_images(self._images[start:stop])
