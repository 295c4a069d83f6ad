"""Photographs, bytes and aligned crops become faces to embed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.errors import InputError
from facekd.faces import FaceFinder, FaceRules, open_detector
from facekd.images.alignment import align
from tests.painted_faces import PAINTED, paint

TWO = ((3, 4, 255, 0), (11, 10, 204, 255))  # a small face, and one of 64 pixels


def saved(path: Path, image: np.ndarray) -> Path:
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def test_a_file_its_bytes_and_its_pixels_yield_the_same_faces(scrfd: Path, tmp_path: Path) -> None:
    finder = FaceFinder(48, open_detector(scrfd), FaceRules("all", detector_size=128))
    photo = paint(*TWO)
    path = saved(tmp_path / "p.png", photo)
    for image in (path, str(path), path.read_bytes(), photo):
        found = finder.find(image)
        assert (found.reason, found.num_sure, len(found.faces)) == (None, 2, 2)
        for face, centre, side in zip(found.faces, ((24, 32), (88, 80)), (32, 64), strict=True):
            np.testing.assert_allclose(face.landmarks, np.array(centre) + PAINTED, atol=0.1)
            np.testing.assert_allclose(face.box, np.repeat([[-1, 1]], 2, 1).ravel() * side / 2 + 2 * centre, atol=0.3)
            np.testing.assert_array_equal(face.crop, align(photo, face.landmarks, 48))
        assert found.faces[0].score == pytest.approx(1, abs=0.01)
    largest = FaceFinder(48, open_detector(scrfd), FaceRules(detector_size=128)).find(photo)
    assert len(largest.faces) == 1 and largest.num_sure == 2 and largest.faces[0].box[2] > 100


def test_without_a_detector_the_image_is_the_face(tmp_path: Path) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    found = FaceFinder(48).find(saved(tmp_path / "c.png", crop))
    np.testing.assert_array_equal(found.faces[0].crop, crop)
    assert np.isnan([*found.faces[0].box, *found.faces[0].landmarks.ravel(), found.faces[0].score]).all()
    other = FaceFinder(32).find(crop)
    assert (other.reason, other.detail) == ("other_size", "is 48x48 pixels, expected 32x32")
    assert FaceFinder(32, resize=True).find(crop).faces[0].crop.shape == (32, 32, 3)


def test_it_is_said_why_there_is_no_face(scrfd: Path, tmp_path: Path) -> None:
    finder = FaceFinder(48, open_detector(scrfd), FaceRules(detector_size=128))
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    reasons = [
        (tmp_path / "none.jpg", "unreadable", "no such image"),
        (tmp_path / "circle.jpg", "unreadable", "symbolic links"),
        (tmp_path / "cut.jpg", "unreadable", "JPEG is cut short"),
        (b"", "unreadable", "holds no image bytes"),
        (paint(), "no_face", ""),
    ]
    for image, reason, detail in reasons:
        found = finder.find(image)
        assert not found.faces and found.reason == reason and detail in (found.detail or ""), image
    with pytest.raises(InputError, match=r"uint8 RGB \(H, W, 3\); found float32 \(4, 4, 3\)"):
        finder.find(np.zeros((4, 4, 3), np.float32))
