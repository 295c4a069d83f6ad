"""Opens aligned faces with a person each, and changes them as a protocol needs: small, masked, blurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data_prep.ijb_sets.sources import JPEG_QUALITY, open_face_source
from facekd.data.synthetic import render_faces
from facekd.data.synthetic.set_name import read_set_name
from facekd.errors import DataError
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_jpeg
from facekd.utils.wording import agreeing, counted

MASK_COLOR = (150, 190, 215)
# The outline of a painted mask, as shares of the side of an aligned face: the bridge of the nose, cheeks and chin.
MASK_OUTLINE = ((0.5, 0.55), (0.78, 0.62), (0.76, 0.84), (0.5, 0.99), (0.24, 0.84), (0.22, 0.62))


class AlignedFaces:
    """Provides the images of a folder of people, a pack, or `synthetic:PEOPLExIMAGES`, as JPEG.

    Args:
        source: what to open.
        size: side of a generated face in pixels.
        seed: random seed of generated people, if the source names none.

    Attributes:
        labels: (N,) the person of each image.

    Raises:
        FacekdError: see `open_face_source`.
    """

    def __init__(self, source: str, size: int, seed: int) -> None:
        generated = read_set_name(source)
        self._images_each = generated.images if generated else 0
        self._size, self._seed = size, generated.seed_or(seed) if generated else seed
        self._source = None if generated else open_face_source(source, None, "fail", size, seed)
        people = np.arange(generated.people) if generated else np.zeros(0, np.int64)
        self.labels = np.repeat(people, self._images_each) if self._source is None else self._source.labels

    def read(self, image: int) -> bytes:
        """Returns an image as JPEG."""
        if self._source is not None:
            return self._source.read(image).jpeg
        person, number = divmod(image, self._images_each)
        pixels = render_faces(np.array([person]), np.array([number]), self._size, self._seed)[0]
        return encode_jpeg(pixels, JPEG_QUALITY)


@dataclass(frozen=True)
class Split:
    """Holds who is known and who is a stranger: image numbers of each person, with the person's number.

    Attributes:
        known: people with at least two images.
        strangers: people whom no gallery has.
    """

    known: dict[int, list[int]]
    strangers: dict[int, list[int]]


def split_people(labels: np.ndarray, share: float, seed: int, source: str) -> Split:
    """Draws the strangers: a share of the people, at least one; people with one image are strangers too.

    Raises:
        DataError: fewer than three people are left to be known.
    """
    images: dict[int, list[int]] = {}
    for image, label in enumerate(np.asarray(labels).tolist()):
        images.setdefault(label, []).append(image)
    order = np.random.default_rng([seed % 2**63, 0x5E7]).permutation(sorted(images)).tolist()
    strangers = set(order[: max(round(share * len(order)), 1)]) | {who for who in order if len(images[who]) < 2}
    known = [who for who in sorted(images) if who not in strangers]
    if len(known) < 3:
        raise DataError(
            f"{source}: {counted(len(known), 'person')} with two images or more {agreeing(len(known), 'is', 'are')} "
            "left to be known; at least 3 needed"
        )
    return Split({who: images[who] for who in known}, {who: images[who] for who in sorted(strangers)})


def make_small(jpeg: bytes, size: int) -> bytes:
    """Returns a face as small as those of a surveillance camera: `size` pixels a side."""
    return encode_jpeg(_resized(decode_rgb(jpeg), (size, size), cv2.INTER_AREA), JPEG_QUALITY)


def make_poor(jpeg: bytes, size: int) -> bytes:
    """Returns a face of the same size that has lost its detail: shrunk to `size` pixels and enlarged again."""
    pixels = decode_rgb(jpeg)
    small = _resized(pixels, (size, size), cv2.INTER_AREA)
    return encode_jpeg(_resized(small, (pixels.shape[1], pixels.shape[0]), cv2.INTER_LINEAR), JPEG_QUALITY)


def put_mask_on(jpeg: bytes) -> bytes:
    """Returns an aligned face with a mask painted over nose, mouth and chin; a real mask looks different."""
    pixels = decode_rgb(jpeg).copy()
    outline = np.array(MASK_OUTLINE) * (pixels.shape[1], pixels.shape[0])
    cv2.fillPoly(pixels, [np.round(outline).astype(np.int32)], MASK_COLOR)
    return encode_jpeg(pixels, JPEG_QUALITY)


def write_images(folder: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Writes images below a folder, making those between."""
    for name, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _resized(pixels: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    """Returns uint8 RGB of another width and height."""
    return np.asarray(cv2.resize(pixels, size, interpolation=method), np.uint8)
