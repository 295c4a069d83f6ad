"""Chooses among the faces that a detector finds in a photograph, and says why none is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from facekd.errors import InputError
from facekd.faces.detectors import SMALLEST_INPUT, FaceDetector, Faces
from facekd.images.preprocessing import LARGEST_SIZE
from facekd.utils.foreign import shown

WhichFaces = Literal["all", "largest", "centre", "score"]
# Why a photograph yields no face, in words.
REASONS: Mapping[str, str] = {
    "no_face": "no face found",
    "low_confidence": "only faces below --min-score",
    "too_small": "only faces smaller than --min-face",
    "odd_landmarks": "landmarks that do not look like a face",
    "unreadable": "cannot be read or decoded",
}
# Which face of several is taken, in words.
ONE_OF_SEVERAL: Mapping[str, str] = {"largest": "largest", "centre": "one nearest the centre", "score": "surest"}
# Faces far below the least score are still found, to tell "only low scores" from "no face" when choosing the limit.
LEAST_CANDIDATE_SCORE = 0.1


@dataclass(frozen=True)
class FaceRules:
    """Says which of the faces in a photograph are taken.

    Attributes:
        which: `"all"` of them, the `"largest"`, the one nearest the `"centre"`, or the one of the highest `"score"`.
        min_score: least score of the detector, 0..1.
        min_face: least side of the box in pixels of the photograph.
        detector_size: longer side of the photograph in the detector, pixels; half of it if no face is sure.

    Raises:
        InputError: a value is out of its range.
    """

    which: WhichFaces = "largest"
    min_score: float = 0.5
    min_face: float = 0
    detector_size: int = 640

    def __post_init__(self) -> None:
        if self.which not in get_args(WhichFaces):
            raise InputError(f"which is {shown(repr(self.which))}: expected {', '.join(get_args(WhichFaces))}")
        if not 0 <= self.min_score <= 1 or not self.min_face >= 0:
            raise InputError(f"min_score is {self.min_score}: expected 0 to 1; min_face {self.min_face}: 0 or more")
        if not SMALLEST_INPUT <= self.detector_size <= LARGEST_SIZE:
            raise InputError(f"detector_size is {self.detector_size}: expected {SMALLEST_INPUT} to {LARGEST_SIZE}")


@dataclass(frozen=True)
class Choice:
    """Says which faces of a photograph are taken.

    Attributes:
        numbers: their numbers among the faces found; empty if none is taken.
        reason: why none is, a key of `REASONS`; None if some are.
        detail: a sentence about that; None if there is no more to say.
        num_sure: number of faces whose score is sufficient.
    """

    numbers: list[int]
    reason: str | None
    detail: str | None
    num_sure: int


def choose_faces(faces: Faces, image_shape: tuple[int, ...], rules: FaceRules) -> Choice:
    """Chooses the faces to take.

    Args:
        faces: those found.
        image_shape: height and width of the photograph, and perhaps more.
        rules: which to take, and how sure and large they must be.
    """
    # Those that are sure and large enough.
    if not len(faces):
        return Choice([], "no_face", None, 0)
    is_sure = faces.scores >= rules.min_score
    if not is_sure.any():
        return Choice([], "low_confidence", f"the best face has score {faces.scores.max():.3f}", 0)
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    is_eligible = is_sure & (sides.min(axis=1) >= rules.min_face)
    num_sure = int(is_sure.sum())
    if not is_eligible.any():
        largest = sides.min(axis=1)[is_sure].max()
        return Choice([], "too_small", f"the largest face is {largest:.0f} pixels across", num_sure)
    if rules.which == "all":
        return Choice(np.flatnonzero(is_eligible).tolist(), None, None, num_sure)

    # The best of them.
    middle = np.array([image_shape[1], image_shape[0]]) / 2
    from_middle = np.linalg.norm((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2 - middle, axis=1)
    merit = {"largest": sides.prod(axis=1), "centre": -from_middle, "score": faces.scores}[rules.which]
    return Choice([int(np.argmax(np.where(is_eligible, merit, -np.inf)))], None, None, num_sure)


def detect_at_two_sizes(detector: FaceDetector, image: np.ndarray, rules: FaceRules) -> Faces:
    """Detects at `detector_size`, then at half of it if no face is sure: a face may be too large for the first.

    Args:
        detector: finds the faces.
        image: uint8 RGB (H, W, 3).
        rules: what a sure face is, and the size.
    """
    least = min(LEAST_CANDIDATE_SCORE, rules.min_score)
    found = detector.detect(image, least, rules.detector_size)
    if len(found) and found.scores.max() >= rules.min_score:
        return found
    again = detector.detect(image, least, rules.detector_size // 2)
    best = [faces.scores.max() if len(faces) else 0.0 for faces in (found, again)]
    return again if best[1] > best[0] else found
