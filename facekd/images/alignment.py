"""Aligns faces: finds the similarity that takes five landmarks to the template, and cuts the crop.

Landmarks are (5, 2) as (x, y) in pixels of the image, with pixel centres at whole numbers: left eye, right eye, nose,
left corner of the mouth, right corner, left and right as seen in the image. The template and the warp are those of
the ArcFace family of models. A model needs exactly the crops it was trained on, and wrong alignment is the most common
cause of results that cannot be reproduced.
"""

from __future__ import annotations

import cv2
import numpy as np

from facekd.errors import ImageError
from facekd.utils.wording import counted

NUM_LANDMARKS = 5
TEMPLATE_SIZE = 112
# The landmarks in an aligned crop of 112x112 pixels (deepinsight/insightface, `arcface_dst`).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE.flags.writeable = False

# A full profile fits the template to about 0.78 and the worst of 7,701 detections on LFW to 0.89; landmarks with left
# and right exchanged stay below 0.56, five random points mostly below 0.45.
PLAUSIBLE_FIT = 0.6
SMALLEST_SPREAD = 1e-3  # pixels; with less, the five points are one, and the scale of the similarity is undefined
# OpenCV's remapping keeps source coordinates as 16-bit numbers.
LARGEST_SIDE = 32766


def template(image_size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Returns the landmarks in an aligned square crop: float64 (5, 2).

    For other sizes than 112 it is the 112-pixel template times `image_size / 112`, as InsightFace scales it.

    Args:
        image_size: side of the crop in pixels.

    Raises:
        ImageError: `image_size` is not a positive number.
    """
    if image_size < 1:
        raise ImageError(f"image size {image_size}: a crop has at least one pixel; 112 is usual")
    return TEMPLATE * (image_size / TEMPLATE_SIZE)


def template_fit(landmarks: np.ndarray) -> np.ndarray:
    """Returns how well each set of landmarks fits the template after the best similarity transform.

    It is the absolute complex correlation of the centred points with the centred template: 1 is a perfect fit, and
    `1 - fit ** 2` is the share of the template's variance that is not explained.

    Args:
        landmarks: (N, 5, 2).

    Returns:
        float64 (N,), 0..1; 0 if the landmarks are not finite or all in one place.
    """
    points, _ = _as_complex(landmarks)
    target = _template_as_complex(TEMPLATE_SIZE)
    fit = np.zeros(len(points))
    solvable = _spread(points) >= SMALLEST_SPREAD
    centred = points[solvable] - points[solvable].mean(axis=1, keepdims=True)
    target = target - target.mean()
    norms = np.sqrt((np.abs(centred) ** 2).sum(axis=1) * (np.abs(target) ** 2).sum())
    fit[solvable] = np.abs(np.conj(centred) @ target) / norms
    return fit


def is_plausible(landmarks: np.ndarray, least_fit: float = PLAUSIBLE_FIT) -> np.ndarray:
    """Returns which sets of landmarks look like a face: finite, spread out, and similar to the template.

    A face upside down is plausible; one with left and right exchanged is not.

    Args:
        landmarks: (N, 5, 2).
        least_fit: the least value of `template_fit`.

    Returns:
        bool (N,).
    """
    return template_fit(landmarks) >= least_fit


def similarity_transforms(landmarks: np.ndarray, image_size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Computes the least-squares similarities (rotation, uniform scale, shift) that take landmarks to the template.

    Umeyama's problem ("Least-squares estimation of transformation parameters between two point patterns", 1991) has
    a closed form in the plane: with points as complex numbers, centred at their means, a similarity without
    reflection is one complex factor, `a = sum(conj(z) w) / sum(|z|^2)`. All faces are solved at once.

    Args:
        landmarks: (N, 5, 2).
        image_size: side of the crop in pixels.

    Returns:
        float64 (N, 2, 3): `matrix @ (x, y, 1)` is the position in the crop.

    Raises:
        ImageError: a set is not (5, 2), not finite, or all in one place; `is_plausible` finds such sets beforehand.
    """
    # Refuse landmarks that have no similarity.
    points, given = _as_complex(landmarks)
    target = _template_as_complex(image_size)
    bad = np.flatnonzero(~(_spread(points) >= SMALLEST_SPREAD))
    if len(bad):
        what = "are not finite" if not np.isfinite(given[bad[0]]).all() else "all lie in one place"
        which = f"landmarks {bad[0]} of {len(points):,}" if len(points) > 1 else "the landmarks"
        more = f" ({counted(len(bad) - 1, 'more set')} like it)" if len(bad) > 1 else ""
        raise ImageError(f"{which} {what}: {given[bad[0]].tolist()}{more}; no crop can be made from them")
    # Solve: one complex factor, and the shift between the means.
    means = points.mean(axis=1)
    centred = points - means[:, None]
    factors = (np.conj(centred) @ (target - target.mean())) / (np.abs(centred) ** 2).sum(axis=1)
    shifts = target.mean() - factors * means
    # Write both as real matrices.
    matrices = np.empty((len(points), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = factors.real
    matrices[:, 1, 0] = factors.imag
    matrices[:, 0, 1] = -factors.imag
    matrices[:, 0, 2], matrices[:, 1, 2] = shifts.real, shifts.imag
    return matrices


def warp(image: np.ndarray, matrix: np.ndarray, image_size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Cuts a square crop: bilinear, and black outside the image.

    OpenCV 5 rounds differently from OpenCV 4 (a quarter of the bytes differ). So facekd requires OpenCV 4, and aligned
    data records `cv2.__version__`.

    Args:
        image: uint8 (H, W) or (H, W, C), C up to 4.
        matrix: (2, 3), from image to crop, as `similarity_transforms` returns.
        image_size: side of the crop in pixels.

    Returns:
        uint8 (image_size, image_size) or (image_size, image_size, C).

    Raises:
        ImageError: the image has no pixels, or more on a side than OpenCV can address.
    """
    height, width = image.shape[:2]
    if not 0 < min(height, width) <= max(height, width) <= LARGEST_SIDE:
        raise ImageError(f"an image of {width}x{height} cannot be aligned; sides of 1 to {LARGEST_SIDE:,} pixels can")
    size = (image_size, image_size)
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def align(image: np.ndarray, landmarks: np.ndarray, image_size: int = TEMPLATE_SIZE) -> np.ndarray:
    """Cuts out one face, turned and scaled so that its landmarks lie as in the template.

    Args:
        image: uint8 (H, W) or (H, W, C); the order of colours is kept.
        landmarks: (5, 2).
        image_size: side of the crop in pixels.

    Returns:
        uint8 (image_size, image_size) or (image_size, image_size, C).

    Raises:
        ImageError: as `similarity_transforms` and `warp`; or no landmark lies in the image.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (NUM_LANDMARKS, 2):
        raise ImageError(f"landmarks have shape {landmarks.shape}; expected (5, 2)")
    matrix = similarity_transforms(landmarks[None], image_size)[0]
    height, width = image.shape[:2]
    is_inside = (landmarks >= -0.5).all(axis=1) & (landmarks <= (width - 0.5, height - 0.5)).all(axis=1)
    if not is_inside.any():
        raise ImageError(
            f"no landmark lies in the image of {width}x{height} pixels: {landmarks.tolist()}; "
            "they may belong to another image, or to this one before it was cropped or scaled"
        )
    return warp(image, matrix, image_size)


def _as_complex(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns points as complex128 (N, 5), zero if a set is not finite, and the landmarks as float64 (N, 5, 2)."""
    given = np.asarray(landmarks, dtype=np.float64)
    if given.ndim != 3 or given.shape[1:] != (NUM_LANDMARKS, 2):
        raise ImageError(f"landmarks have shape {given.shape}; expected (N, 5, 2)")
    is_finite = np.isfinite(given).all(axis=(1, 2), keepdims=True)
    finite = np.where(is_finite, given, 0.0)
    return finite[..., 0] + 1j * finite[..., 1], given


def _template_as_complex(image_size: int) -> np.ndarray:
    points = template(image_size)
    return points[:, 0] + 1j * points[:, 1]


def _spread(points: np.ndarray) -> np.ndarray:
    """Returns the root mean square distance (N,) of complex points (N, 5) from their mean."""
    centred = points - points.mean(axis=1, keepdims=True)
    return np.sqrt((np.abs(centred) ** 2).mean(axis=1))
