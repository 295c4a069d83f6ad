"""Turns an image into the aligned crops of the faces in it, ready to be embedded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from facekd.errors import ImageError, InputError, ModelError
from facekd.faces.choosing import REASONS, FaceRules, choose_faces, detect_at_two_sizes
from facekd.faces.detectors import FaceDetector
from facekd.images.alignment import align, is_plausible, template_fit
from facekd.images.decoding import decode_rgb
from facekd.images.frames import FirstImageNote
from facekd.images.image_files import read_image_file
from facekd.images.preprocessing import LARGEST_SIZE, fit_images

# Why an image yields no face, in words: one that is searched for faces, or one that is said to be aligned.
IMAGE_REASONS: Mapping[str, str] = {
    **REASONS,
    "other_size": "of another size than the model takes",
    "no_direction": "a face whose embedding is all zeros",
}
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray


@dataclass(frozen=True)
class FoundFace:
    """Holds one face.

    Attributes:
        crop: uint8 RGB (S, S, 3), aligned, of the size that the model takes.
        box: float32 (4,), left, top, right, bottom in pixels of the photograph; NaN if the image was an aligned crop.
        landmarks: float32 (5, 2) in pixels of the photograph, in the order of `facekd.images.alignment`; or NaN.
        score: score of the detector, 0..1; or NaN.
    """

    crop: np.ndarray
    box: np.ndarray
    landmarks: np.ndarray
    score: float


@dataclass(frozen=True)
class FoundFaces:
    """Holds the faces of one image.

    Attributes:
        faces: those taken; empty if there is a reason.
        reason: why there are none, a key of `IMAGE_REASONS`; None if there are some.
        detail: a sentence about that; None if there is no more to say.
        num_sure: number of faces whose score is sufficient; more than are taken if the photograph shows several.
    """

    faces: list[FoundFace]
    reason: str | None = None
    detail: str | None = None
    num_sure: int = 0


class FaceFinder:
    """Finds the faces of images, each a photograph or an aligned crop. May be used from several threads at once.

    Args:
        image_size: S, side of the crops in pixels: that of the model's input.
        detector: finds the faces of photographs; None takes each image for an aligned crop.
        rules: which of several faces are taken; without a detector they have no effect.
        resize: whether to scale aligned crops of another size instead of refusing them.
        exif: whether to turn images upright as their Exif data say.

    Raises:
        InputError: a size out of range.
    """

    def __init__(
        self,
        image_size: int,
        detector: FaceDetector | None = None,
        rules: FaceRules | None = None,
        resize: bool = False,
        exif: bool = True,
    ) -> None:
        if not 1 <= image_size <= LARGEST_SIZE:
            raise InputError(f"image_size is {image_size}: expected 1 to {LARGEST_SIZE}")
        self.image_size = image_size
        self.detector = detector
        self.rules: FaceRules = rules or FaceRules()
        self.resize = resize
        self.exif = exif
        self._note = FirstImageNote()

    def find(self, image: ImageSource) -> FoundFaces:
        """Finds the faces of one image; what is wrong with the image is the reason in the result.

        Args:
            image: path of a file, its bytes, or uint8 RGB pixels (H, W, 3).

        Raises:
            InputError: an array of another type or shape.
            ModelError: the detector fails.
            OSError: the disk fails.
        """
        try:
            pixels = self._read(image)
        except ImageError as error:
            return FoundFaces([], "unreadable", str(error))
        return self._take_whole(pixels) if self.detector is None else self._detect(pixels, self.detector)

    def _read(self, image: ImageSource) -> np.ndarray:
        """Returns the pixels of an image; raises an ImageError for one that cannot be read."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise InputError(f"an image is uint8 RGB (H, W, 3); found {image.dtype} {image.shape}")
            return image
        if isinstance(image, bytes):
            return decode_rgb(image, self.exif)
        content = read_image_file(Path(image))
        pixels = decode_rgb(content, self.exif)
        self._note.look(Path(image), content)
        return pixels

    def _take_whole(self, pixels: np.ndarray) -> FoundFaces:
        """Returns an aligned crop as the one face of its image."""
        height, width = pixels.shape[:2]
        try:
            crop = fit_images(pixels[None], self.image_size, self.resize)[0]
        except ModelError:
            return FoundFaces(
                [], "other_size", f"is {width}x{height} pixels, expected {self.image_size}x{self.image_size}"
            )
        unknown = np.full((5, 2), np.nan, np.float32)
        return FoundFaces([FoundFace(crop, np.full(4, np.nan, np.float32), unknown, np.nan)], num_sure=1)

    def _detect(self, pixels: np.ndarray, detector: FaceDetector) -> FoundFaces:
        """Finds the faces of a photograph and cuts them out."""
        found = detect_at_two_sizes(detector, pixels, self.rules)
        choice = choose_faces(found, pixels.shape, self.rules)
        if choice.reason is not None:
            return FoundFaces([], choice.reason, choice.detail, choice.num_sure)
        faces, detail = [], None
        for number in choice.numbers:
            crop, problem = cut_face(pixels, found.landmarks[number], self.image_size)
            if crop is None:
                detail = detail or problem
                continue
            box, landmarks = (array[number].astype(np.float32) for array in (found.boxes, found.landmarks))
            faces.append(FoundFace(crop, box, landmarks, float(found.scores[number])))
        if not faces:
            return FoundFaces([], "odd_landmarks", detail, choice.num_sure)
        return FoundFaces(faces, num_sure=choice.num_sure)


def cut_face(image: np.ndarray, landmarks: np.ndarray, image_size: int) -> tuple[np.ndarray | None, str | None]:
    """Cuts out one face if its landmarks look like one.

    Args:
        image: uint8 RGB (H, W, 3).
        landmarks: (5, 2).
        image_size: S, side of the crop in pixels.

    Returns:
        The crop, uint8 (S, S, 3), and None; or None and a sentence that says what is odd about the landmarks.
    """
    if not is_plausible(landmarks[None])[0]:
        return None, f"they fit the template to {template_fit(landmarks[None])[0]:.2f} of 1"
    try:
        return align(image, landmarks, image_size), None
    except ImageError as error:
        return None, str(error)
