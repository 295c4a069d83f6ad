"""Finds the quality of the images of verification packs for `facekd evaluate lfw`, and measures what it is worth."""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

from evaluation.sets.embedding_cache import distinct_images, embed_pair_set
from evaluation.sets.pair_set import PairSet
from evaluation.sets.qualities import (
    MODEL,
    NORM,
    Source,
    checked_qualities,
    describe_quality,
    lengths_as_quality,
    read_quality,
)
from facekd.embedder.quality import QualityEmbedder
from facekd.verification.error_versus_discard import measure_quality

Entry = dict[str, Any]  # of results.json
Quality = tuple[np.ndarray, Source]  # of each image, and where it is from
ROWS_ARE = "one for each image of the pack, those of pair 0 first"


def read_pack_qualities(arguments: argparse.Namespace, pair_sets: list[PairSet]) -> list[Quality | None]:
    """Returns the qualities of each pack's images; None where there are none, or none before it is embedded."""
    if arguments.quality in (None, [NORM], [MODEL]):
        return [None] * len(pair_sets)
    return [
        read_quality(path, len(pair_set.images), ROWS_ARE)
        for path, pair_set in zip(arguments.quality, pair_sets, strict=True)
    ]


def ask_model(
    scorer: QualityEmbedder | None, pair_set: PairSet, cache: str | os.PathLike[str] | None
) -> Quality | None:
    """Returns what a model says of a pack's images, from the cache if it is there; None without such a model."""
    if scorer is None:
        return None
    found = embed_pair_set(scorer, pair_set, flip=False, cache=cache)[:, 0]
    return checked_qualities(found, str(pair_set.path), len(pair_set.images), ROWS_ARE), {"kind": MODEL}


def measure_pack_quality(
    arguments: argparse.Namespace,
    pair_set: PairSet,
    given: Quality | None,
    embeddings: np.ndarray,
    scores: np.ndarray,
    points: list[Entry],
) -> Entry | None:
    """Returns `quality` of a pack's results.json; None if it was not asked for."""
    if arguments.quality is None:
        return None
    found, source = given or (lengths_as_quality(embeddings, str(pair_set.path)), {"kind": NORM})
    # An image in several pairs is one image.
    images = found[distinct_images(pair_set.images)[1]]
    of_pairs, same = found.reshape(-1, 2).min(axis=1), pair_set.is_same
    people = None if pair_set.subjects is None else pair_set.subjects[same, 0]
    draws, seed = arguments.bootstrap, arguments.seed
    curves = measure_quality(scores[same], of_pairs[same], images, points, people, draws, seed)
    return describe_quality(source, "images", len(images), curves)
