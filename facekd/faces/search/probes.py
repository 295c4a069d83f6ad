"""Collects the faces that are searched for: of images, which are embedded, and of other galleries.

Shapes: Q faces, D embedding values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.embedder import Embedder
from facekd.errors import DataError
from facekd.faces.embedding import embed_in_order, rows_to_keep
from facekd.faces.finding import IMAGE_REASONS, FaceFinder
from facekd.faces.gallery import ARRAYS, Gallery, Origin, check_same_model, is_gallery, read_gallery
from facekd.faces.gallery_writer import ADVICE_ON_SIZE
from facekd.faces.image_inputs import Images, list_images
from facekd.utils.foreign import shown, some_of
from facekd.utils.progress import track
from facekd.utils.text_arrays import require_even_arrays, text_array
from facekd.utils.wording import counted


@dataclass(frozen=True)
class WithoutFace:
    """Names an image that gives no probe, and says why: a key of `IMAGE_REASONS`, and perhaps a sentence."""

    image: str
    reason: str
    detail: str | None

    def describe(self) -> str:
        """Returns this in words."""
        return f"{shown(self.image)}: {IMAGE_REASONS[self.reason]}{f', {self.detail}' if self.detail else ''}"


@dataclass(frozen=True)
class Probes:
    """Holds the faces that are searched for, at least one.

    Attributes:
        faces: their embeddings and where they are from, as in a gallery.
        without: the images that have none.
        named: names of the images that were embedded, which the user named.
        galleries: files of the galleries among the probes.
        several: names of the images in which the detector is sure of several faces.
    """

    faces: Gallery
    without: Sequence[WithoutFace]
    named: frozenset[str] = frozenset()
    galleries: Sequence[Path] = ()
    several: Sequence[str] = ()


def collect_probes(
    words: Sequence[str],
    gallery: Gallery,
    path: Path,
    open_model: Callable[[], tuple[Embedder, FaceFinder]],
    workers: int,
) -> Probes:
    """Reads or embeds the faces of all probes, first those of galleries.

    Args:
        words: what the user named: galleries, or what `list_images` takes.
        gallery: the gallery to be searched, which says how probes must have been embedded.
        path: its file, for messages.
        open_model: opens the model and what finds faces; called if there is anything to embed.
        workers: threads that read, decode and find faces.

    Raises:
        DataError: there is no face in any probe, or a probe or the model does not fit the gallery.
    """
    # Galleries, whose faces are embedded already.
    galleries = [word for word in words if _is_gallery(word)]
    parts = [_read_probes(Path(word), gallery.origin, path) for word in galleries]
    others = [word for word in words if word not in galleries]
    without: list[WithoutFace] = []
    several: list[str] = []
    named: frozenset[str] = frozenset()
    if others:
        images = list_images(others)
        named = frozenset(images.names)
        embedder, finder = open_model()
        check_same_model(gallery, embedder, path)
        if (embedded := _embed(images, embedder, finder, gallery.origin, workers, without, several)) is not None:
            parts.append(embedded)
    if not parts:
        more = f", and {counted(len(without) - 1, 'more image')} without a face" if len(without) > 1 else ""
        advice = ADVICE_ON_SIZE if without[0].reason == "other_size" else ""
        raise DataError(f"{without[0].describe()}{more}: nothing to search for{advice}")
    return Probes(_join(parts), without, named, [Path(word) for word in galleries], several)


def _is_gallery(word: str) -> bool:
    """Tells whether a file is a gallery rather than a verification pack, both of which end in `.npz`."""
    return word.lower().endswith(".npz") and Path(word).is_file() and is_gallery(Path(word))


def _read_probes(word: Path, origin: Origin, path: Path) -> Gallery:
    """Reads a gallery of probes; refuses one that was embedded otherwise than the gallery to be searched."""
    probes = read_gallery(word)
    if probes.origin.fingerprint != origin.fingerprint:
        names = some_of([probes.origin.model, origin.model])
        raise DataError(
            f"{word} and {path}: were made by two models ({names}), or with two preprocessings; embed both by one"
        )
    if probes.origin.flip != origin.flip:
        first, second = (shown(place) for place in ((word, path) if probes.origin.flip else (path, word)))
        raise DataError(
            f"{first}: has embeddings with those of the mirror images, and {second} without; embed both with --flip, "
            "or both without"
        )
    return probes


def _embed(
    images: Images,
    embedder: Embedder,
    finder: FaceFinder,
    origin: Origin,
    workers: int,
    without: list[WithoutFace],
    several: list[str],
) -> Gallery | None:
    """Embeds images as the gallery was; notes those without a face and with several. Returns None if none has one."""
    rows, of_image = [], []
    with embed_in_order(embedder, finder, images, range(len(images)), origin.flip, workers) as results:
        for image in track(results, "embedding probes", len(images)):
            found, _ = rows_to_keep([image])
            rows.append(found)
            of_image += [image.index] * len(found)
            several += [images.names[image.index]] if image.found.num_sure > 1 else []
            if not len(found):
                reason = image.found.reason or "no_direction"
                without.append(WithoutFace(images.names[image.index], reason, image.found.detail))
    if not of_image:
        return None
    joined = np.concatenate(rows)
    arrays = {str(name): np.ascontiguousarray(joined[name]) for name in joined.dtype.names or ()}
    names, people = (
        text_array([str(texts[index]) for index in of_image], "the probes") for texts in (images.names, images.people)
    )
    return Gallery(**arrays, names=names, people=people, origin=origin)


def _join(parts: Sequence[Gallery]) -> Gallery:
    """Returns the faces of galleries of one origin as one."""
    if len(parts) == 1:
        return parts[0]
    for name in ("names", "people"):
        require_even_arrays([getattr(part, name) for part in parts], "the probes")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("embeddings", *ARRAYS)}
    return Gallery(**arrays, origin=parts[0].origin)
