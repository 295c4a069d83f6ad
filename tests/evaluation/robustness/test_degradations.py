"""Degradations: each against its definition, written out by hand, and what all have in common."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.robustness.degraded_images import DegradedImages

SIDE = 112


def portrait(side: int = SIDE) -> np.ndarray:
    """A smooth image with an edge, so that blur, light and shifts all change it."""
    rows, columns = np.mgrid[:side, :side] / side
    image = np.stack([120 + 80 * np.sin(9 * rows), 90 + 60 * columns, 200 * (rows > columns)], axis=-1)
    return image.clip(0, 255).astype(np.uint8)


def apply(name: str, strength: float, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return DEGRADATIONS[name].apply(image, strength, np.random.default_rng(seed))


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("side", [16, SIDE])
def test_every_strength_moves_further_from_the_image_and_leaves_it_alone(name: str, side: int) -> None:
    image = portrait(side)
    before = image.copy()
    degraded = [apply(name, strength, image) for strength in DEGRADATIONS[name].strengths]
    assert np.array_equal(image, before)
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in degraded)
    errors = [float(np.abs(one.astype(float) - image).mean()) for one in degraded]
    assert errors == sorted(errors) and errors[-1] > 2
    assert np.array_equal(degraded[0], apply(name, DEGRADATIONS[name].strengths[0], image))


def test_light_is_halved_by_each_stop() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(apply("darkness", 3, image), np.rint(image * 0.5 ** (3 / 2.2)))


def test_low_resolution_holds_the_means_of_blocks() -> None:
    image = portrait()
    small = cv2.resize(apply("resolution", 16, image), (16, 16), interpolation=cv2.INTER_AREA).astype(float)
    means = image.reshape(16, 7, 16, 7, 3).mean(axis=(1, 3))
    inner = np.abs(small - means)[1:-1, 1:-1]
    assert np.median(inner) < 1.5
    flat = np.full((SIDE, SIDE, 3), 77, np.uint8)
    assert (apply("resolution", 16, flat) == 77).all()


def test_blur_is_the_gaussian_of_its_standard_deviation() -> None:
    point = np.zeros((SIDE, SIDE, 3), np.uint8)
    point[56, 56] = 255
    spread = apply("blur", 2, point)[56, :, 0].astype(float)
    places = np.arange(SIDE) - 56
    assert np.sqrt((spread * places**2).sum() / spread.sum()) == pytest.approx(2, abs=0.25)


def test_noise_has_its_standard_deviation_and_strengths_share_the_pattern() -> None:
    grey = np.full((SIDE, SIDE, 3), 127, np.uint8)
    weak, strong = (apply("noise", strength, grey).astype(float) - 127 for strength in (10, 20))
    assert weak.std() == pytest.approx(10, rel=0.03)
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99


def test_rotation_turns_to_either_side_and_back() -> None:
    image = portrait()
    turned = [apply("rotation", 20, image, seed) for seed in range(12)]
    sides = {one.tobytes() for one in turned}
    assert len(sides) == 2
    for one in turned[:4]:
        angles = [np.abs(_turn(one, angle).astype(float) - image)[30:80, 30:80].mean() for angle in (20, -20)]
        assert min(angles) < 4 < max(angles)


def _turn(image: np.ndarray, degrees: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D((55.5, 55.5), degrees, 1)
    return cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)


def test_shift_moves_by_its_length() -> None:
    point = np.zeros((SIDE, SIDE, 3), np.uint8)
    point[56, 56] = 255
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for seed in range(5):
        moved = apply("shift", 8, point, seed)[..., 0].astype(float)
        centre = [(moved * places).sum() / moved.sum() for places in (rows, columns)]
        assert np.hypot(centre[0] - 56, centre[1] - 56) == pytest.approx(8, abs=0.15)


def test_covers_lie_where_mask_and_sunglasses_do() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    covered = np.flatnonzero(apply("lower-part", 0.5, image).any(axis=(1, 2)))
    assert (covered.min(), covered.max()) == (56, 111)
    band = np.flatnonzero(apply("eyes", 0.2, image).any(axis=(1, 2)))
    assert band.mean() == pytest.approx(51.6, abs=0.7) and len(band) == pytest.approx(22.4, abs=1)


class Whole:
    """Provides images for `DegradedImages`."""

    name = "whole"

    def __init__(self, decoded: np.ndarray) -> None:
        self._decoded = decoded
        self.images = [image.tobytes() for image in decoded]

    def decode(self, start: int, stop: int) -> np.ndarray:
        return self._decoded[start:stop]


@pytest.mark.parametrize("name", ["noise", "shift", "rotation"])
def test_what_is_drawn_goes_by_the_image_and_the_seed(name: str) -> None:
    image = portrait(32)
    whole = Whole(np.stack([image, 255 - image, image]))
    digests = [b"a", b"b", b"a"]
    strength = DEGRADATIONS[name].strengths[-1]
    images = DegradedImages(whole, digests, name, strength, 3)
    together = images.decode(0, 3)
    assert np.array_equal(together[0], together[2])  # one image, one result
    assert np.array_equal(together[1:], images.decode(1, 3))  # wherever a batch begins
    assert images.digests[0] == images.digests[2] != images.digests[1]
    others = [DegradedImages(whole, digests, name, strength, seed) for seed in range(4, 12)]
    assert any(not np.array_equal(together[0], other.decode(0, 1)[0]) for other in others)
    names = {one.digests[0] for one in [*others, images, DegradedImages(whole, digests, name, strength / 2, 3)]}
    assert len(names) == 10
