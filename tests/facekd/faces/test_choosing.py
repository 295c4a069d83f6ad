"""Which of several faces is taken, and at which size a photograph is searched."""

from __future__ import annotations

import numpy as np
import pytest

from facekd.faces.choosing import FaceRules, WhichFaces, choose_faces, detect_at_two_sizes
from facekd.faces.detectors import Faces


def faces_of(*scores: float) -> Faces:
    count = len(scores)
    return Faces(np.zeros((count, 4)), np.zeros((count, 5, 2)), np.array(scores))


@pytest.mark.parametrize(
    ("at_512", "at_256", "expected", "asked"),
    [
        ((0.9,), (0.99,), 0.9, [512]),
        ((), (0.8,), 0.8, [512, 256]),
        ((0.3,), (0.8,), 0.8, [512, 256]),
        ((0.3,), (0.2,), 0.3, [512, 256]),
        ((0.3,), (), 0.3, [512, 256]),
    ],
)
def test_where_no_face_is_sure_a_smaller_picture_is_tried(
    at_512: tuple[float, ...], at_256: tuple[float, ...], expected: float, asked: list[int]
) -> None:
    class Detector:
        kind = "fake"

        def __init__(self) -> None:
            self.sizes: list[int] = []

        def detect(self, image: np.ndarray, least_score: float, input_size: int) -> Faces:
            self.sizes.append(input_size)
            return faces_of(*{512: at_512, 256: at_256}[input_size])

    detector = Detector()
    found = detect_at_two_sizes(detector, np.zeros((9, 9, 3), np.uint8), FaceRules(detector_size=512))
    assert found.scores.max() == expected and detector.sizes == asked


@pytest.mark.parametrize(
    ("which", "least", "numbers"),
    [("all", 0, [0, 1, 2]), ("all", 15, [1, 2]), ("largest", 0, [1]), ("centre", 0, [2]), ("score", 0, [0])],
)
def test_faces_are_chosen_by_the_rule(which: WhichFaces, least: float, numbers: list[int]) -> None:
    """In a photograph of 100 pixels: a small sure face, a large one, one in the middle, and one that is not sure."""
    boxes = np.array([[0, 0, 10, 10], [0, 50, 40, 90], [40, 40, 60, 60], [0, 0, 99, 99]], float)
    faces = Faces(boxes, np.zeros((4, 5, 2)), np.array([0.9, 0.8, 0.7, 0.2]))
    choice = choose_faces(faces, (100, 100, 3), FaceRules(which, 0.5, least))
    assert (choice.numbers, choice.reason, choice.num_sure) == (numbers, None, 3)


def test_it_is_said_why_no_face_is_taken() -> None:
    found = faces_of(0.3, 0.6)
    assert choose_faces(faces_of(), (9, 9), FaceRules()).reason == "no_face"
    unsure = choose_faces(found, (9, 9), FaceRules(min_score=0.7))
    assert (unsure.reason, unsure.detail, unsure.num_sure) == ("low_confidence", "the best face has score 0.600", 0)
    small = choose_faces(found, (9, 9), FaceRules(min_face=20))
    assert (small.reason, small.detail, small.num_sure) == ("too_small", "the largest face is 0 pixels across", 1)
