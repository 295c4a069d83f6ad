"""Embeds the images of folders for `facekd evaluate folder`, by a model or from a file, and finds their quality."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.sets.all_pairs import AllPairs
from evaluation.sets.embedding_cache import embed_pair_set
from evaluation.sets.face_folder import FaceFolder
from evaluation.sets.given_embeddings import read_named_embeddings, rows_by_name
from evaluation.sets.labelled_faces import LabelledFaces
from evaluation.sets.qualities import (
    DETECTOR,
    MODEL,
    Source,
    checked_lengths,
    checked_qualities,
    describe_quality,
    lengths_as_quality,
    read_named_array,
)
from facekd.embedder.described_model import open_described_model
from facekd.embedder.quality import QualityEmbedder
from facekd.errors import DataError
from facekd.files.npy_files import read_npz
from facekd.verification.error_versus_discard import measure_quality


class FolderModel:
    """Embeds the images of a folder with a model, from the cache where they are there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._embedder, model = open_described_model(arguments.model, arguments)
        self._cache = Path(arguments.output) / "embeddings" if arguments.cache else None
        self.flip = arguments.flip is not False
        self.image_size = self._embedder.preprocessing.image_size
        self.entries = {"model": model, "embeddings": None}
        self._scorer = QualityEmbedder(self._embedder, arguments.model) if arguments.quality == MODEL else None

    def embed(self, faces: FaceFolder | LabelledFaces, folder: Path) -> np.ndarray:
        """Returns the embeddings of the images, (N, D)."""
        return embed_pair_set(self._embedder, faces, self.flip, self._cache)

    def quality(self, kind: str, faces: FaceFolder | LabelledFaces, embeddings: np.ndarray) -> np.ndarray:
        """Returns the lengths (N,) of the embeddings, or what the model says of the images."""
        if self._scorer is not None:
            found = embed_pair_set(self._scorer, faces, False, self._cache)[:, 0]
            return checked_qualities(found, str(self.entries["model"]["path"]), len(faces), "one for each image")
        if kind == DETECTOR:
            raise DataError(
                f"--quality {DETECTOR}: aligned images come without scores of a detector; give --embeddings with a "
                "file of `facekd embed --detector`, which keeps them"
            )
        return lengths_as_quality(embeddings, str(self.entries["model"]["path"]))


class GivenFolder:
    """Looks up embeddings that were made elsewhere by the names of the images below `--images`."""

    image_size = 1  # images are listed, and not decoded

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._path, self._root, self._asked = arguments.embeddings, Path(arguments.images), arguments.flip
        self._given, self._places = read_named_embeddings(arguments.embeddings, arguments.embeddings_flipped)
        self.flip = self._given.compared(arguments.flip, slice(0, 0))[1]
        self.entries = {"model": None, "embeddings": self._given.about}

    def embed(self, faces: FaceFolder | LabelledFaces, folder: Path) -> np.ndarray:
        """Returns the embeddings of the images, (N, D)."""
        assert isinstance(faces, FaceFolder)  # a pack is refused, because its images have no names
        names = [(folder / file).relative_to(self._root).as_posix() for file in faces.files]
        self._rows = rows_by_name(self._places, names, self._path)
        return self._given.compared(self._asked, self._rows)[0]

    def quality(self, kind: str, faces: FaceFolder | LabelledFaces, embeddings: np.ndarray) -> np.ndarray:
        """Returns the qualities (N,) of the images that were embedded last, which the file keeps."""
        if kind == DETECTOR:
            return read_named_array(self._path, "scores", self._rows, "scores of a detector")
        if read_npz(self._path, "make it again", ("norms",)):  # embeddings of a gallery have unit length
            norms = read_named_array(self._path, "norms", self._rows, "lengths of embeddings")
            return checked_lengths(norms, self._path)
        return lengths_as_quality(embeddings, self._path)


def measure_pair_quality(
    pairs: AllPairs, quality: np.ndarray, source: Source, points: list[dict[str, Any]], draws: int, seed: int
) -> dict[str, Any]:
    """Returns the entry `quality` of results.json for all pairs of a set.

    Args:
        pairs: the pairs.
        quality: (N,) of the images.
        source: where it is from.
        points: entries of `tar_at_far`.
        draws: bootstrap draws of the intervals; 0 for none.
        seed: random seed of the draws.
    """
    first, second, scores = pairs.genuine_pairs()
    lower = np.minimum(quality[first], quality[second])
    measured = measure_quality(scores, lower, quality, points, pairs.units[first], draws, seed)
    return describe_quality(source, "images", len(quality), measured)
