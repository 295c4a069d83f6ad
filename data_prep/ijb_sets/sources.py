"""Opens the images of an IJB-style set: a folder of people, a record pack, or generated faces.

A source gives for each image an encoded loose crop, the five landmarks in it and a detector score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np

from data_prep.photographs.landmark_files import read_landmarks
from data_prep.sources.image_lists import list_folder
from facekd.data.datasets.class_counts import print_contents
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.synthetic import render_faces
from facekd.data.synthetic.set_name import read_set_name
from facekd.errors import DataError, ImageError
from facekd.files.reading import require_regular_file
from facekd.images.alignment import template
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_jpeg
from facekd.images.jpeg import JPEG_START
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

JPEG_QUALITY = 95
MARGIN = 0.25  # added on each side of a face in a loose crop, as a share of the face's side


class LooseCrop(NamedTuple):
    """Holds one image of the set: JPEG bytes, landmarks (5, 2) in its pixels, the detector's score."""

    jpeg: bytes
    landmarks: np.ndarray
    score: float


class FaceSource(Protocol):
    """Gives images of people by position."""

    labels: np.ndarray
    names: list[str]

    def read(self, index: int) -> LooseCrop:
        """Returns the image at `index`; raises `ImageError` if it cannot be used."""
        ...


class GeneratedImages:
    """Generates faces, `synthetic:PEOPLExIMAGES`, each turned and shifted in a wider crop, as a detector leaves them.

    Args:
        people, images: number of people, and of images of each.
        size: side of a face in pixels; the crop is half as wide again.
        seed: random seed of the population and of the crops.
    """

    def __init__(self, people: int, images: int, size: int, seed: int) -> None:
        self.labels = np.repeat(np.arange(people), images)
        self.names = [f"{person:05d}/{image:04d}" for person in range(people) for image in range(images)]
        self._images, self._size, self._seed = images, size, seed

    def read(self, index: int) -> LooseCrop:
        """Returns the image at `index`. Whether a face is hard to detect depends on its number alone."""
        person, image = divmod(index, self._images)
        pixels = render_faces(np.array([person]), np.array([image]), self._size, self._seed)[0]
        generator = np.random.default_rng([self._seed % 2**63, 0x1A, index])
        crop, landmarks = loosen(pixels, generator)
        return LooseCrop(encode_jpeg(crop, JPEG_QUALITY), landmarks, float(1 - 0.45 * generator.beta(1.5, 6)))


class FolderImages:
    """Reads a folder with one folder of images per person.

    Args:
        folder: its path.
        landmarks: a file of landmarks (see `data_prep.photographs.landmark_files`); None means that the images are
            aligned.
        on_missing: whether an image without landmarks is an error ("fail") or is left out ("drop").
        warn: print what of the folder is left out.

    Raises:
        DataError: there are no images, or one has no landmarks.
    """

    def __init__(
        self,
        folder: Path,
        landmarks: Path | None,
        on_missing: Literal["fail", "drop"] = "fail",
        warn: bool = True,
    ) -> None:
        images = list_folder(folder, warn)
        self._folder = folder
        self._landmarks = None if landmarks is None else read_landmarks(landmarks)
        self.num_dropped = 0
        if self._landmarks is not None:
            lacking = [image.name for image in images if image.name not in self._landmarks]
            if lacking and (on_missing == "fail" or len(lacking) == len(images)):
                raise DataError(
                    f"{landmarks}: has no line for {len(lacking):,} of the {counted(len(images), 'image')} of "
                    f"{folder}, the first {shown(lacking[0])}; names are PERSON/IMAGE as in the folder; --on-missing "
                    "drop leaves them out"
                )
            images = [image for image in images if image.name in self._landmarks]
            self.num_dropped = len(lacking)
        self.names = [image.name for image in images]
        self.labels = np.array([image.label for image in images])

    def read(self, index: int) -> LooseCrop:
        """Returns the image at `index`, see `FaceSource`."""
        path = self._folder / self.names[index]
        require_regular_file(path)
        try:
            content, pixels = _as_jpeg(path.read_bytes())
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        if self._landmarks is None:
            return LooseCrop(content, _landmarks_of_aligned(pixels, str(path)), 1.0)
        given = self._landmarks[self.names[index]]
        return LooseCrop(content, given.landmarks, 1.0 if given.score is None else given.score)


class RecordImages:
    """Reads a record pack of aligned faces.

    Args:
        path: a folder that holds train.rec, or a .rec file.

    Raises:
        RecordError: there is no pack, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._pack = open_record_pack(path)
        self.labels = self._pack.labels()
        self.counts = self._pack.class_counts
        self.warnings = [*self._pack.warnings, *self._pack.class_warnings()]
        self.names = [self._pack.describe_image(index) for index in range(self._pack.num_images)]

    def read(self, index: int) -> LooseCrop:
        """Returns the image at `index`, see `FaceSource`."""
        try:
            content, pixels = _as_jpeg(self._pack.read_image(index)[0])
        except ImageError as error:
            raise ImageError(f"{self.names[index]}: {error}") from error
        return LooseCrop(content, _landmarks_of_aligned(pixels, self.names[index]), 1.0)


def open_face_source(
    source: str, landmarks: Path | None, on_missing: Literal["fail", "drop"], size: int, seed: int, *, warn: bool = True
) -> FaceSource:
    """Opens what the user named: `synthetic:PEOPLExIMAGES[:SEED]`, a record pack, or a folder of people.

    With `warn`, what is left out of a folder is printed, and what is in a pack.

    Raises:
        FacekdError: there is nothing of the kind; see the classes above.
    """
    if generated := read_set_name(source):
        if landmarks is not None:
            raise DataError("--landmarks go with a folder of photos; generated faces bring theirs")
        return GeneratedImages(generated.people, generated.images, size, generated.seed_or(seed))
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path}: no such folder or pack; for generated faces give synthetic:PEOPLExIMAGES")
    if path.suffix == ".rec" or (path / "train.rec").exists():
        if landmarks is not None:
            raise DataError(f"{path} is a record pack, whose faces are aligned: --landmarks go with a folder")
        images = RecordImages(path)
        if warn:
            print_contents(path, images.counts, images.warnings)
        return images
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder with one folder of images for each person, or a .rec file")
    return FolderImages(path, landmarks, on_missing, warn)


def loosen(face: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places an aligned face in a wider crop, turned, scaled and shifted a little.

    Args:
        face: uint8 RGB (S, S, 3), aligned to the five-point template.
        generator: source of the random numbers.

    Returns:
        uint8 RGB (1.5 S, 1.5 S, 3), and the landmarks (5, 2) in it.
    """
    size = len(face)
    side = round(size * (1 + 2 * MARGIN))
    turn = np.deg2rad(np.clip(generator.normal(0, 8), -25, 25))
    scale = generator.uniform(0.9, 1.15)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    centre = side / 2 + generator.uniform(-0.05, 0.05, 2) * size
    shift = centre - rotation @ np.full(2, size / 2)
    matrix = np.column_stack([rotation, shift])
    crop = cv2.warpAffine(face, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8), template(size) @ rotation.T + shift


def _landmarks_of_aligned(pixels: np.ndarray, where: str) -> np.ndarray:
    height, width = pixels.shape[:2]
    if height != width:
        raise ImageError(
            f"{where}: is {width}x{height} pixels, so it is not an aligned face; give --landmarks, or "
            "align the images (`facekd data align`)"
        )
    return template(width)


def _as_jpeg(content: bytes) -> tuple[bytes, np.ndarray]:
    """Returns an image as JPEG (a JPEG keeps its bytes) and its pixels, which proves that it decodes."""
    pixels = decode_rgb(content)
    return (content if content.startswith(JPEG_START) else encode_jpeg(pixels, JPEG_QUALITY)), pixels
