"""Pools faces into templates as IJB does, with a switch for each point on which the tools of the field disagree.

A face's embedding is f(x), or f(x) + f(mirrored x); it may be normalised, and weighted by the detector's score. A
template is the sum over its media of the mean over each medium's faces, normalised. All of that is a weighted sum over
faces, so all templates together are one sparse product, computed a block of faces at a time. Everything is float64, so
that results do not depend on rounding. The pooling is that of deepinsight/insightface (`onnx_ijbc.py`); `PRESETS` holds
what other tools do.

Shapes: N images, F faces, T templates, D embedding values.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from facekd.errors import InputError
from facekd.utils.wording import counted

ROWS_CHUNK = 1024  # image rows of one sparse product
READ_CHUNK = 256  # image rows read together: they fit the processor's cache
ROWS_SAMPLED = 4096  # image rows whose lengths are examined
UNIT_ROUNDING = 1e-3  # float16 embeddings of unit length are that near to it
Block = tuple[int, int, int, int]  # image rows from, to; faces from, to in the order of their images


@dataclass(frozen=True)
class Pooling:
    """Holds the switches. `keep_norm` keeps the length of a face's embedding, a sign of its quality, as its weight."""

    keep_norm: bool = True
    weight_by_detection_score: bool = True
    flip_augment: bool = True
    normalize_media: bool = False  # bring the mean of each medium to unit length before the sum
    weight_by_quality: bool = False  # by a quality of the image that was measured elsewhere

    @property
    def name(self) -> str:
        """Names the switches in short, for tables and files."""
        parts = [
            "norm" if self.keep_norm else "nonorm",
            "detector" if self.weight_by_detection_score else "nodetector",
            "flip" if self.flip_augment else "noflip",
        ]
        parts += ["quality"] if self.weight_by_quality else []
        return "+".join([*parts, "mediaunit"] if self.normalize_media else parts)

    @property
    def text(self) -> str:
        """Describes the switches in words, for every output."""
        face = "f(x) + f(mirrored x)" if self.flip_augment else "f(x)"
        face += ", norm kept" if self.keep_norm else ", norm removed"
        face += ", times detector score" if self.weight_by_detection_score else ", no detector score"
        face += ", times quality" if self.weight_by_quality else ""
        media = "unit means" if self.normalize_media else "means"
        return f"face = {face}; template = sum over media of {media} over faces; cosine"


# What other tools do, read from their code (docs/method.md). AdaFace's flip fusion divides the sum by its norm and
# multiplies by the same again, which is the sum.
PRESETS: dict[str, Pooling] = {
    "insightface": Pooling(True, True, True),
    "adaface": Pooling(True, False, True),
    "facexzoo": Pooling(True, True, False),
    "tface": Pooling(False, False, False),
    "magface": Pooling(True, False, False, normalize_media=True),
}


def all_poolings(has_flipped: bool) -> list[Pooling]:
    """Returns every combination of the three switches; without mirrored embeddings, half as many."""
    flips = (True, False) if has_flipped else (False,)
    return [Pooling(*switches) for switches in product((True, False), (True, False), flips)]


class EmbeddingRows(Protocol):
    """Reads embeddings a block of rows at a time."""

    @property
    def embedding_size(self) -> int: ...
    @property
    def has_flipped(self) -> bool: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Reads rows `start` to `stop`: plain (n, D), and mirrored (n, D) or None."""
        ...


@dataclass(frozen=True)
class Faces:
    """Holds the faces to pool: image row, template row, media id, detector score and quality of each, all (F,)."""

    images: np.ndarray
    templates: np.ndarray
    media: np.ndarray
    detection_scores: np.ndarray
    qualities: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


class UselessEmbeddingsError(InputError):
    """Reports embeddings that are not finite or all zeros; `images` holds their rows, ascending."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(
            f"{counted(len(images), 'embedding is', 'embeddings are')} all zeros or not finite, the first in row "
            f"{images[0]}"
        )
        self.images = images


def pool_templates(
    rows: EmbeddingRows, faces: Faces, template_ids: np.ndarray, poolings: Sequence[Pooling]
) -> list[np.ndarray]:
    """Pools faces into templates of unit norm, under several switch settings in one pass over the embeddings.

    Args:
        rows: the embeddings of the images.
        faces: the faces to pool.
        template_ids: (T,), for messages.
        poolings: switch settings, at least one.

    Returns:
        For each setting float64 (T, D), unit rows; NaN rows for templates without a face.

    Raises:
        UselessEmbeddingsError: embeddings of these faces are not finite or all zeros; it lists all of them.
        InputError: mirrored embeddings are wanted but `rows` has none; the faces of a template add up to nothing, or
            to no finite number.
    """
    if any(pooling.flip_augment for pooling in poolings) and not rows.has_flipped:
        raise InputError("flip_augment needs embeddings of the mirrored images, and there are none; --no-flip-augment")
    # Each face counts for one n-th if its medium shows n faces of the template.
    group_of, template_of_group, num_faces_of_group = _group_by_media(faces)
    share = 1.0 / num_faces_of_group[group_of]
    order = np.argsort(faces.images, kind="stable")
    # Sum the weighted embeddings by template, or by medium first where media are normalised.
    pooled = []
    for some in _pooled_together(poolings):
        keys = [group_of if pooling.normalize_media else faces.templates for pooling in some]
        sizes = [len(template_of_group) if pooling.normalize_media else len(template_ids) for pooling in some]
        sums = [np.zeros((size, rows.embedding_size)) for size in sizes]
        _add_up(rows, faces, order, share, some, keys, sums)
        pooled += [
            _media_to_templates(total, template_of_group, len(template_ids)) if pooling.normalize_media else total
            for pooling, total in zip(some, sums, strict=True)
        ]
    # Normalise; a template without a face has no embedding, and NaN makes any use of it visible.
    has_face = np.zeros(len(template_ids), bool)
    has_face[faces.templates] = True
    for templates, pooling in zip(pooled, poolings, strict=True):
        norms = np.sqrt(np.einsum("td,td->t", templates, templates))
        bad = np.flatnonzero(has_face & ~((norms > 0) & np.isfinite(norms)))
        if bad.size:
            raise InputError(
                f"{counted(bad.size, 'template adds', 'templates add')} up to a vector without direction under "
                f"{pooling.name}, the first is template {template_ids[bad[0]]}: its embeddings cancel, overflow, or "
                "all have detector score 0, or quality 0"
            )
        norms[~has_face] = np.nan
        templates /= norms[:, None]
    return pooled


def _pooled_together(poolings: Sequence[Pooling]) -> Iterator[Sequence[Pooling]]:
    """Yields the settings to pool together: all, or one by one if some need a sum for each medium, which is large."""
    plain = [pooling for pooling in poolings if not pooling.normalize_media]
    if len(plain) == len(poolings):
        yield poolings
    else:
        yield from ([pooling] for pooling in poolings)


def _group_by_media(faces: Faces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (group of each face, template of each group, faces in each group); a group is a medium of a template."""
    # Sorting by one combined key takes a tenth of the time of sorting by two: releases are nearly in order.
    media, lowest = faces.media, int(faces.media.min())
    span = int(media.max()) - lowest + 1
    if span * (int(faces.templates.max()) + 1) >= 1 << 62:
        media, lowest, span = np.unique(media, return_inverse=True)[1], 0, len(media)
    order = np.argsort(faces.templates * np.int64(span) + (media - lowest), kind="stable")
    template, media = faces.templates[order], faces.media[order]
    # A group starts where the template or the medium changes.
    starts = np.ones(len(template), bool)
    starts[1:] = (template[1:] != template[:-1]) | (media[1:] != media[:-1])
    group_of = np.empty(len(template), np.int64)
    group_of[order] = np.cumsum(starts) - 1
    return group_of, template[starts], np.bincount(group_of)


def _add_up(
    rows: EmbeddingRows,
    faces: Faces,
    order: np.ndarray,
    share: np.ndarray,
    poolings: Sequence[Pooling],
    keys: Sequence[np.ndarray],
    sums: Sequence[np.ndarray],
) -> None:
    """Adds the weighted embeddings of all faces to `sums`, one array for each pooling.

    Args:
        rows: the embeddings of the images.
        faces: the faces.
        order: (F,) positions of the faces, ordered by image.
        share: (F,) the weight of each face within its medium.
        poolings: the switch settings.
        keys: for each setting (F,) the row of `sums` that a face belongs to.
        sums: for each setting the sums, changed in place.
    """
    images = faces.images[order]
    useless: list[np.ndarray] = []
    # The squares of float64 values can overflow.
    needs_lengths = any(not pooling.keep_norm for pooling in poolings) or rows.dtype == np.float64
    flips = {pooling.flip_augment for pooling in poolings}
    own = threading.local()  # memory of a block, reused: allocating it anew costs as much as the sums

    def one_block(block: Block) -> list[tuple[np.ndarray, np.ndarray]]:
        # Read the embeddings of the block's images.
        start, stop, first, last = block
        some = order[first:last]
        columns = (faces.images[some] - start).astype(np.int32, copy=False)
        if not hasattr(own, "sums"):
            own.sums = {flip: np.empty((ROWS_CHUNK, rows.embedding_size)) for flip in flips}
        embeddings = {flip: memory[: stop - start] for flip, memory in own.sums.items()}
        bad = _read_block(rows, start, stop, embeddings)
        norms = _lengths(embeddings) if needs_lengths else {}
        parts = []
        for pooling, key in zip(poolings, keys, strict=True):
            lengths = None if pooling.keep_norm else norms[pooling.flip_augment][columns]
            weights = _face_weights(pooling, faces, some, share[some], lengths)
            parts.append(_sum_by_key(key[some], weights, columns, embeddings[pooling.flip_augment]))
        # Report the rows that cannot be used.
        if not norms and not all(np.isfinite(part).all() for _, part in parts):
            norms = _lengths(embeddings)
        for length in norms.values():
            bad |= ~np.isfinite(length)
        if bad.any() and bad[columns].any():
            useless.append(start + np.intersect1d(np.flatnonzero(bad), columns))
        return parts

    # Blocks are added in order, whichever is ready first, so that equal runs give equal bits.
    with ThreadPoolExecutor(2) as pool:
        for parts in pool.map(one_block, _blocks(images)):
            for total, (targets, part) in zip(sums, parts, strict=True):
                total[targets] += part
    if useless:
        raise UselessEmbeddingsError(np.sort(np.concatenate(useless)))


def _face_weights(
    pooling: Pooling, faces: Faces, some: np.ndarray, share: np.ndarray, lengths: np.ndarray | None
) -> np.ndarray:
    """Computes the weights (n,) of some faces under some switches; `lengths` divides them, but for those of 0."""
    weights = share * faces.detection_scores[some] if pooling.weight_by_detection_score else share
    if pooling.weight_by_quality:
        assert faces.qualities is not None
        weights = weights * faces.qualities[some]
    if lengths is not None:
        weights = np.divide(weights, lengths, out=np.zeros_like(weights), where=lengths > 0)
    return weights


def _sum_by_key(
    keys: np.ndarray, weights: np.ndarray, columns: np.ndarray, embeddings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums the weighted embeddings of the faces of each key, by one sparse product.

    Args:
        keys: (n,) the key of each face.
        weights: (n,) its weight.
        columns: int32 (n,) its row of `embeddings`.
        embeddings: float64 (B, D).

    Returns:
        The K distinct keys, ascending, and their sums (K, D).
    """
    by_key = np.argsort(keys, kind="stable")
    sorted_keys = keys[by_key]
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    ends = np.append(starts, len(keys)).astype(np.int32)
    matrix = sparse.csr_array((weights[by_key], columns[by_key], ends), shape=(len(starts), len(embeddings)))
    with np.errstate(invalid="ignore", over="ignore"):
        return sorted_keys[starts], matrix @ embeddings


def _read_block(rows: EmbeddingRows, start: int, stop: int, embeddings: dict[bool, np.ndarray]) -> np.ndarray:
    """Reads rows into `embeddings`, keyed by whether mirrored ones are added; returns bool (n,), true for all zeros."""
    zeros = np.zeros(stop - start, bool)
    for first in range(start, stop, READ_CHUNK):
        last = min(first + READ_CHUNK, stop)
        some = slice(first - start, last - start)
        plain, flipped = rows.read(first, last)
        if False in embeddings:
            np.copyto(embeddings[False][some], plain)
        if True in embeddings:
            assert flipped is not None
            with np.errstate(invalid="ignore", over="ignore"):  # the caller checks for values that are not finite
                np.add(plain, flipped, out=embeddings[True][some], dtype=np.float64)
        for part in (plain, flipped):
            # Only if some row begins with a zero: examining all values costs more.
            if part is not None and not (part[:, 0] != 0).all():
                zeros[some] |= ~part.any(axis=1)
    return zeros


def notes_on_norms(rows: EmbeddingRows, images: np.ndarray, poolings: Sequence[Pooling]) -> list[str]:
    """Says where keeping the norm has no effect, or another than it is kept for: embeddings that all have unit length.

    Args:
        rows: the embeddings of the images.
        images: ascending image rows of the faces; up to `ROWS_SAMPLED` of them, evenly spread, are examined.
        poolings: the switch settings that are scored.
    """
    flips = sorted({pooling.flip_augment for pooling in poolings if pooling.keep_norm})
    chosen = images[:: max(-(-len(images) // ROWS_SAMPLED), 1)]
    for image in chosen.tolist() if flips else ():
        for part in rows.read(image, image + 1):
            if part is not None and abs(float(np.linalg.norm(part.astype(np.float64))) - 1) > UNIT_ROUNDING:
                return []
    why = "all embeddings have unit length already, so the model normalises them itself and their quality is lost"
    effects = {
        False: f"norm kept: the switch does nothing here, because {why}",
        True: "norm kept: f(x) + f(mirrored x) is longer only where the two agree, not where the face is better, "
        f"because {why}",
    }
    return [effects[flip] for flip in flips]


def _media_to_templates(sums: np.ndarray, template_of_group: np.ndarray, num_templates: int) -> np.ndarray:
    """Normalises the sum of each medium and adds them up by template."""
    norms = np.sqrt(np.einsum("gd,gd->g", sums, sums))
    weights = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    ends = np.concatenate([[0], np.cumsum(np.bincount(template_of_group, minlength=num_templates))])
    return sparse.csr_array((weights, np.arange(len(sums)), ends), shape=(num_templates, len(sums))) @ sums


def _lengths(embeddings: dict[bool, np.ndarray]) -> dict[bool, np.ndarray]:
    return {flip: np.sqrt(np.einsum("nd,nd->n", both, both)) for flip, both in embeddings.items()}


def _blocks(images: np.ndarray) -> Iterator[Block]:
    """Yields the blocks of image rows that contain some of the ascending `images`."""
    if not len(images):
        return
    end = int(images[-1]) + 1
    starts = np.arange(int(images[0]) // ROWS_CHUNK * ROWS_CHUNK, end, ROWS_CHUNK)
    edges = [*np.searchsorted(images, starts).tolist(), len(images)]
    for start, (first, last) in zip(starts.tolist(), pairwise(edges), strict=True):
        if last > first:
            yield start, min(start + ROWS_CHUNK, end), first, last


def with_switches(
    base: Pooling, keep_norm: bool | None, weight_by_detection_score: bool | None, flip_augment: bool | None
) -> Pooling:
    """Returns `base` with the switches changed that are not None."""
    given = {
        "keep_norm": keep_norm,
        "weight_by_detection_score": weight_by_detection_score,
        "flip_augment": flip_augment,
    }
    return replace(base, **{name: value for name, value in given.items() if value is not None})
