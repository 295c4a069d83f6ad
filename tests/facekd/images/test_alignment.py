"""Alignment: against Umeyama's own SVD form, OpenCV's estimate, planted similarities, and one golden crop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import ImageError
from facekd.images.alignment import align, is_plausible, similarity_transforms, template, template_fit, warp

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "aligned_crop.png"
SWAPPED = [1, 0, 2, 4, 3]


def umeyama_svd(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama (1991), equations 38 to 43, as printed: a covariance, its SVD, and a sign against reflections."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (singular * sign).sum() / a.var(0).sum()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def generated_image() -> np.ndarray:
    """Smooth waves and hard edges, uint8 (180, 220, 3), from whole-number arithmetic alone."""
    y, x = np.mgrid[:180, :220]
    red = (x * 7 + y * 3) % 256
    green = np.where((x // 9 + y // 9) % 2, 230, 25)
    blue = (x * x // 50 + y * y // 35) % 256
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


GENERATED_LANDMARKS = np.array([[78.3, 60.1], [131.8, 71.4], [99.2, 98.7], [74.0, 121.5], [116.9, 131.2]])


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 112, 224]))
def test_transforms_are_those_of_umeyama_by_svd(seed: int, image_size: int) -> None:
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 4, (6, 5, 2))
    landmarks = template() * generator.uniform(0.3, 6, (6, 1, 1)) + noise + generator.uniform(-50, 900, (6, 1, 2))
    target = template(112) * image_size / 112
    expected = np.stack([umeyama_svd(points, target) for points in landmarks])
    np.testing.assert_allclose(similarity_transforms(landmarks, image_size), expected, rtol=1e-9, atol=1e-7)


def test_a_reflection_is_not_taken_for_a_rotation() -> None:
    mirrored = template() * (-1, 1)
    matrix = similarity_transforms(mirrored[None])[0]
    np.testing.assert_allclose(matrix, umeyama_svd(mirrored, template()), atol=1e-9)
    assert np.linalg.det(matrix[:, :2]) > 0


@given(st.floats(-np.pi, np.pi), st.floats(0.01, 100), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_a_planted_similarity_is_undone(angle: float, scale: float, x: float, y: float) -> None:
    factor = scale * np.exp(1j * angle)
    planted = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    landmarks = template() @ planted.T + (x, y)
    matrix = similarity_transforms(landmarks[None])[0]
    np.testing.assert_allclose(landmarks @ matrix[:, :2].T + matrix[:, 2], template(), atol=1e-5)
    assert template_fit(landmarks[None])[0] == pytest.approx(1, abs=1e-9)
    assert is_plausible(landmarks[None]).all()


def test_fit_is_the_share_of_variance_explained() -> None:
    landmarks = np.random.default_rng(3).uniform(0, 100, (20, 5, 2))
    placed = np.einsum("nij,nkj->nki", similarity_transforms(landmarks)[:, :, :2], landmarks)
    placed += similarity_transforms(landmarks)[:, None, :, 2]
    residual = ((placed - template()) ** 2).sum((1, 2)) / ((template() - template().mean(0)) ** 2).sum()
    np.testing.assert_allclose(template_fit(landmarks), np.sqrt(1 - residual), atol=1e-9)


def test_absurd_landmarks_are_told_apart() -> None:
    good = template() + 20
    profile = np.array([[50, 50], [50, 50], [62, 70], [51, 92], [51, 92]], float)
    one_place = np.full((5, 2), 7.0)
    not_finite = np.where(np.arange(5)[:, None] == 2, np.nan, good)
    sets = np.stack([good, good[::-1] * -1 + 200, profile, good[SWAPPED], one_place, not_finite])
    assert is_plausible(sets)[[0, 2, 3, 4, 5]].tolist() == [True, True, False, False, False]
    assert is_plausible((200 - good)[None]).all()  # upside down
    assert is_plausible(np.empty((0, 5, 2))).shape == (0,)
    assert similarity_transforms(np.empty((0, 5, 2))).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.full((1, 5, 2), 7.0), "the landmarks all lie in one place"),
        (np.stack([template(), np.full((5, 2), np.nan), np.zeros((5, 2))]), "landmarks 1 of 3 are not finite.*1 more"),
        (np.full((1, 5, 2), np.inf), "not finite"),
        (np.zeros((5, 2)), r"expected \(N, 5, 2\)"),
        (np.zeros((2, 10)), r"expected \(N, 5, 2\)"),
    ],
)
def test_landmarks_without_a_solution_are_errors(landmarks: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        similarity_transforms(landmarks)


def test_the_golden_crop() -> None:
    """OpenCV 5 changes a quarter of the bytes; builds of OpenCV 4 may round a byte in hundreds otherwise."""
    crop = align(generated_image(), GENERATED_LANDMARKS)
    golden = cv2.imread(str(GOLDEN), cv2.IMREAD_COLOR_RGB)
    difference = np.abs(crop.astype(int) - golden)
    assert crop.dtype == np.uint8 and crop.shape == (112, 112, 3)
    assert (difference > 0).mean() < 0.005 and difference.max() <= 2


def test_crops_are_bilinear_and_black_outside() -> None:
    image = generated_image()
    crop = align(image, GENERATED_LANDMARKS).astype(float)
    matrix = umeyama_svd(GENERATED_LANDMARKS, template())
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    v, u = np.mgrid[:112, :112]
    x, y = np.moveaxis(np.stack([u, v, np.ones_like(u)], -1) @ inverse.T, -1, 0)
    padded = np.pad(image.astype(float), ((1, 2), (1, 2), (0, 0)))
    x, y = np.clip(x + 1, 0, 221), np.clip(y + 1, 0, 181)
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = (x - column)[..., None], (y - row)[..., None]
    top = padded[row, column] * (1 - right) + padded[row, column + 1] * right
    bottom = padded[row + 1, column] * (1 - right) + padded[row + 1, column + 1] * right
    naive = top * (1 - down) + bottom * down
    # OpenCV 4 rounds source coordinates to 1/32 pixel, which on hard edges is some grey levels.
    assert np.abs(crop - naive).mean() < 1 and np.abs(crop - naive).max() < 13
    shifted = align(image, GENERATED_LANDMARKS - (80, 60))
    assert (shifted[:30, :30] == 0).all() and shifted[60:, 60:].any()


def test_grey_images_and_other_sizes() -> None:
    image = generated_image()
    grey = align(image[..., 0], GENERATED_LANDMARKS, 56)
    assert grey.shape == (56, 56)
    np.testing.assert_array_equal(grey, align(image, GENERATED_LANDMARKS, 56)[..., 0])
    with pytest.raises(ImageError, match="image size 0"):
        align(image, GENERATED_LANDMARKS, 0)


def test_images_and_landmarks_that_do_not_belong_together() -> None:
    image = generated_image()
    with pytest.raises(ImageError, match="no landmark lies in the image of 220x180"):
        align(image, GENERATED_LANDMARKS + 300)
    with pytest.raises(ImageError, match=r"expected \(5, 2\)"):
        align(image, GENERATED_LANDMARKS.ravel())
    with pytest.raises(ImageError, match="40000x2 cannot be aligned"):
        warp(np.zeros((2, 40000), np.uint8), np.eye(2, 3))


def test_real_detections_fit_and_agree_with_the_svd(real_data: Callable[[str], Path]) -> None:
    table = real_data("lfw_landmarks/deepfunneled_landmarks5.tsv")
    rows = [line.split("\t")[1:11] for line in table.read_text().splitlines() if not line.startswith("#")]
    landmarks = np.array(rows, float).reshape(-1, 5, 2)
    matrices = similarity_transforms(landmarks)
    expected = np.stack([umeyama_svd(points, template()) for points in landmarks])
    np.testing.assert_allclose(matrices, expected, rtol=1e-9, atol=1e-9)
    assert template_fit(landmarks).min() > 0.85
    assert not is_plausible(landmarks[:, SWAPPED]).any()
