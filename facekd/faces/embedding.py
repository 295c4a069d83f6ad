"""Embeds the faces of many images: threads read, decode and find the next faces while the model embeds these.

Shapes: K faces of an image, D embedding values, S image size in pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from facekd.embedder import Embedder
from facekd.errors import ModelError, RecordError
from facekd.faces.finding import FaceFinder, FoundFaces
from facekd.faces.image_inputs import Images
from facekd.images.preprocessing import mirror
from facekd.utils.processes.ordered_work import in_order
from facekd.verification.scores import unit_rows

DEFAULT_BATCH = 32
LEAST_READ_AHEAD = 4  # images for each thread
CROPS_AT_ONCE = 16  # that a thread decodes for one handing over, which costs as much as a sixth of a decoding


@dataclass(frozen=True)
class EmbeddedFaces:
    """Holds the faces of one image and their embeddings.

    Attributes:
        index: number of the image.
        found: the faces, K of them, or why there are none.
        embeddings: float32 (K, D) as the model gives them, not of unit length.
    """

    index: int
    found: FoundFaces
    embeddings: np.ndarray


def row_type(embedding_size: int) -> np.dtype:
    """Returns the type of what is kept of one face: the arrays of a gallery that hold numbers, as fields."""
    return np.dtype(
        [
            ("embeddings", "<f4", (embedding_size,)),
            ("norms", "<f4"),
            ("boxes", "<f4", (4,)),
            ("landmarks", "<f4", (5, 2)),
            ("scores", "<f4"),
        ]
    )


def rows_to_keep(images: Sequence[EmbeddedFaces]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is kept of the faces of images; embeddings have unit length, `norms` theirs before.

    A face whose embedding has no direction is left out: a black crop, say, is no reason to lose other images.

    Args:
        images: at least one.

    Returns:
        One row a face, of `row_type`; and for each image the number of its rows.
    """
    faces = [face for image in images for face in image.found.faces]
    embeddings = np.concatenate([image.embeddings for image in images])
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    usable = np.flatnonzero((lengths > 0) & (lengths <= np.finfo(np.float32).max))
    rows = np.zeros(len(usable), row_type(embeddings.shape[1]))
    rows["embeddings"] = unit_rows(embeddings[usable], None)
    rows["norms"] = lengths[usable]
    if len(usable):
        kept = [faces[number] for number in usable.tolist()]
        rows["boxes"], rows["landmarks"] = [face.box for face in kept], [face.landmarks for face in kept]
        rows["scores"] = [face.score for face in kept]
    owners = np.repeat(np.arange(len(images)), [len(image.found.faces) for image in images])
    return rows, np.bincount(owners[usable], minlength=len(images))


@contextmanager
def embed_in_order(
    embedder: Embedder,
    finder: FaceFinder,
    images: Images,
    indices: Sequence[int],
    flip: bool = False,
    workers: int = 1,
) -> Iterator[Iterator[EmbeddedFaces]]:
    """Yields the faces of images with their embeddings, in order. All threads have stopped when the block ends.

    Args:
        embedder: the model, opened without `resize`: the finder's crops have its size.
        finder: makes crops of images.
        images: the images.
        indices: numbers of the images to embed.
        flip: whether to add the embedding of the mirror image, f(x) + f(mirrored x).
        workers: threads that read, decode and find faces.

    Raises:
        ModelError: the model fails, or an embedding is not finite; the message names an image.
        OSError: the disk fails.
    """
    usual: int = getattr(embedder, "batch_size", DEFAULT_BATCH)
    batch_size: int = getattr(embedder, "images_at_once", usual)
    at_once = CROPS_AT_ONCE if finder.detector is None else 1  # a detector takes long for each photograph
    chunks = [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
    read_ahead = max(LEAST_READ_AHEAD, -(-2 * batch_size // (workers * at_once)))
    with in_order(partial(_find, finder, images), chunks, workers, read_ahead) as results:
        found = (pair for chunk, result in zip(chunks, results, strict=True) for pair in _pairs(chunk, result))
        yield _embed(embedder, images, found, flip, batch_size)


def _find(finder: FaceFinder, images: Images, indices: Sequence[int]) -> list[FoundFaces | Exception]:
    """Finds the faces of some images, in a thread; an error stands in the place of the image that it belongs to."""
    found: list[FoundFaces | Exception] = []
    for index in indices:
        try:
            found.append(finder.find(images.read(index)))
        except RecordError as error:
            found.append(FoundFaces([], "unreadable", str(error)))
        except Exception as error:  # the images before it are embedded first
            return [*found, error]
    return found


def _pairs(indices: Sequence[int], result: Future[list[FoundFaces | Exception]]) -> Iterator[tuple[int, FoundFaces]]:
    for index, found in zip(indices, result.result(), strict=False):
        if isinstance(found, Exception):
            raise found
        yield index, found


def _embed(
    embedder: Embedder,
    images: Images,
    results: Iterator[tuple[int, FoundFaces]],
    flip: bool,
    batch_size: int,
) -> Iterator[EmbeddedFaces]:
    """Fills batches with the crops of as many images as it takes, and yields the images whose crops are embedded."""
    waiting: deque[tuple[int, FoundFaces]] = deque()
    crops: list[np.ndarray] = []  # of the images that wait, those that are not embedded
    rows = np.empty((0, embedder.embedding_size), np.float32)  # and the embeddings of the others

    def run(count: int) -> None:
        """Embeds the first crops that wait."""
        nonlocal rows
        batch = np.stack(crops[:count]) if count > 1 else crops[0][None]
        try:
            found = embedder.embed(batch)
            if flip:
                found = found + embedder.embed(mirror(batch))
        except ModelError as error:
            raise ModelError(f"{error} (at {images.names[waiting[0][0]]} or one of the next images)") from error
        rows = np.concatenate([rows, found])
        del crops[:count]

    def ready() -> Iterator[EmbeddedFaces]:
        """Yields the images whose faces are all embedded, in order."""
        nonlocal rows
        while waiting and len(waiting[0][1].faces) <= len(rows):
            index, found = waiting.popleft()
            own, rows = rows[: len(found.faces)], rows[len(found.faces) :]
            yield EmbeddedFaces(index, found, own)

    failures = list[Exception]()
    for index, found in _until_one_fails(results, failures):
        waiting.append((index, found))
        crops += [face.crop for face in found.faces]
        while len(crops) >= batch_size:
            run(batch_size)
        yield from ready()
    while crops:
        run(min(len(crops), batch_size))
    yield from ready()
    if failures:  # only now: no image that was found before it is lost
        raise failures[0]


def _until_one_fails(
    results: Iterator[tuple[int, FoundFaces]], failures: list[Exception]
) -> Iterator[tuple[int, FoundFaces]]:
    """Yields results until one raises; its exception goes into `failures`."""
    try:
        yield from results
    except Exception as error:
        failures.append(error)
