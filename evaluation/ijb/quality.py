"""Finds the quality of the faces and templates of an IJB-style set, and measures what it is worth.

A template is as good as its faces are on average; a pair as the worse of its templates. Shapes: N images listed, F
faces, T templates, P pairs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from evaluation.ijb.pooling import READ_CHUNK, EmbeddingRows, Faces
from evaluation.ijb.protocol import IjbProtocol
from evaluation.sets.qualities import (
    DETECTOR,
    MODEL,
    NORM,
    Source,
    add_quality_option,
    checked_lengths,
    checked_qualities,
    describe_quality,
    read_quality,
    refuse_quality_of_model,
)
from facekd.errors import DataError
from facekd.verification.error_versus_discard import measure_quality

ROWS_ARE = "one for each image that the set lists, by the lines of *_name_5pts_score.txt"


def add_quality_options(parser: argparse.ArgumentParser, switches: Any) -> None:
    """Adds `--quality` to a parser, and `--weight-by-quality` to a group of it."""
    add_quality_option(parser, ROWS_ARE, "the scores that the set lists")
    switches.add_argument(
        "--weight-by-quality",
        action="store_true",
        help="weight a face by its number in --quality X.npy or model, too",
    )


def check_quality_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser if faces are to be weighted by what weights them already, or by nothing."""
    if arguments.weight_by_quality and arguments.quality in (None, NORM, DETECTOR):
        parser.error(
            "--weight-by-quality: give --quality model, or X.npy, a number for each image; --keep-norm weights by the "
            "length of embeddings, and --weight-by-detection-score by the detector's score"
        )
    refuse_quality_of_model(parser, arguments.quality, arguments.embeddings is None)
    if arguments.quality is not None and arguments.protocol == "1:N":
        parser.error("--quality is about 1:1 pairs; leave out --protocol 1:N")


def read_face_qualities(arguments: argparse.Namespace, protocol: IjbProtocol) -> tuple[np.ndarray | None, Source]:
    """Returns the qualities (N,) of images, None for those of embeddings that are not made yet, and their source.

    Raises:
        DataError: a file of other numbers than the set needs, or negative ones to weight by.
    """
    if arguments.quality in (None, NORM):
        return None, {"kind": NORM}
    if arguments.quality == MODEL:
        return None, {"kind": MODEL}
    if arguments.quality == DETECTOR:
        where = f"{protocol.root}: its detector scores"
        return checked_qualities(protocol.detection_scores, where, protocol.num_listed, ROWS_ARE), {"kind": DETECTOR}
    found, source = read_quality(arguments.quality, protocol.num_listed, ROWS_ARE)
    _check_weights(arguments, found, arguments.quality)
    return found, source


def take_model_qualities(arguments: argparse.Namespace, found: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns what the model says of the images (N,), once it is known to say something.

    Args:
        arguments: parsed options.
        found: (N,), of images that are not used anything.
        images: numbers of the images used.

    Raises:
        DataError: all are equal, or negative ones are to weight by.
    """
    used = np.unique(images)
    checked_qualities(found[used], arguments.model, len(used), "one for each image")
    _check_weights(arguments, found, arguments.model)
    return found.astype(np.float64)


def _check_weights(arguments: argparse.Namespace, found: np.ndarray, where: str) -> None:
    if arguments.weight_by_quality and found.min() < 0:
        row = int(np.flatnonzero(found < 0)[0])
        raise DataError(
            f"{where}: the quality in row {row} is {found[row]:g}, and a weight cannot be negative; scale the "
            "qualities to start from 0"
        )


def with_lengths(faces: Faces, rows: EmbeddingRows, flip: bool, where: str) -> Faces:
    """Returns the faces, those without qualities with the lengths of their embeddings as such.

    Raises:
        DataError: all are equal.
    """
    if faces.qualities is not None:
        return faces
    lengths = np.zeros(int(faces.images.max()) + 1)
    for start in range(0, len(lengths), READ_CHUNK):
        stop = min(start + READ_CHUNK, len(lengths))
        plain, mirrored = rows.read(start, stop)
        both = plain.astype(np.float64) + (mirrored if flip and mirrored is not None else 0)
        lengths[start:stop] = np.linalg.norm(both, axis=1)
    return replace(faces, qualities=checked_lengths(lengths[faces.images], where))


def measure_template_quality(
    arguments: argparse.Namespace,
    protocol: IjbProtocol,
    faces: Faces,
    scores: np.ndarray,
    points: list[dict[str, Any]],
    subjects: np.ndarray,
    source: Source,
) -> dict[str, Any]:
    """Returns the entry `quality` of results.json.

    Args:
        arguments: parsed options: draws and seed of the intervals.
        protocol: the set.
        faces: the faces that were pooled, with their qualities.
        scores: (P,) of the pairs, NaN for those left out.
        points: entries of `tar_at_far`.
        subjects: (T,) the subject of each template.
        source: where the qualities are from.
    """
    assert faces.qualities is not None
    size = len(protocol.template_ids)
    counts = np.bincount(faces.templates, minlength=size)
    means = np.bincount(faces.templates, faces.qualities, minlength=size) / np.maximum(counts, 1)
    genuine = np.flatnonzero(protocol.is_same & np.isfinite(scores))
    first, second = protocol.pair_first[genuine], protocol.pair_second[genuine]
    samples = means[protocol.in_pairs & (counts > 0)]
    lower = np.minimum(means[first], means[second])
    draws, seed = arguments.bootstrap, arguments.seed
    curves = measure_quality(scores[genuine], lower, samples, points, subjects[first], draws, seed)
    return describe_quality(source, "templates", len(samples), curves)
