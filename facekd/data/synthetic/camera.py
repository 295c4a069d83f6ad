"""Turns painted shapes into photos: rasterises, lights, and adds the faults of a camera, one image at a time."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np

from facekd.data.synthetic.geometry import Layer, Pose
from facekd.data.synthetic.parameters import Parameters

SUPERSAMPLING = 2
_SOFT_REDUCTION = 2  # light and shade are blurred, so half the resolution is enough for them
_BLUR = 0.055  # blur of light and shade, in half head widths
_SHIFT = 5  # fractional bits of the coordinates handed to OpenCV
_GREY = np.array([0.299, 0.587, 0.114])


class Canvas:
    """Paints the layers of B images and photographs them, image by image."""

    def __init__(self, layers: Sequence[Layer], pose: Pose, nuisance: Parameters, size: int) -> None:
        self.size = size
        self.nuisance = nuisance
        big = size * SUPERSAMPLING
        # Turn each layer into what OpenCV draws: integer coordinates, colours and line widths.
        self._shapes = []
        for layer in layers:
            scale = size // _SOFT_REDUCTION if layer.is_soft else big
            # OpenCV puts a pixel's centre at its integer coordinate.
            points = np.rint((layer.points * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
            widths = (
                None
                if layer.line_width is None
                else np.maximum(np.rint(layer.line_width * scale), 1).astype(int).tolist()
            )
            if layer.is_soft:
                colors = np.clip(128 + 127 * layer.color, 0, 255).tolist()
            else:
                alpha = np.full((len(points), 1), 255.0 if layer.is_subject else 0.0)
                colors = np.concatenate([np.broadcast_to(layer.color, (len(points), 3)), alpha], axis=1).tolist()
            visible = [True] * len(points) if layer.is_visible is None else layer.is_visible.tolist()
            self._shapes.append((points, colors, widths, visible, layer.is_soft))
        # The light falls on an ellipsoid around the middle of the head.
        middle = pose.project(np.broadcast_to(np.array([[0.0, 0.15, 0.0]]), (len(nuisance), 1, 3)))[:, 0] * size - 0.5
        self._middle, self._unit = middle, pose.unit * size
        self._tones = _tone_curves(nuisance)

    def photograph(self, i: int) -> np.ndarray:
        """Returns image i, uint8 (S, S, 3) RGB."""
        painted, soft = self._paint(i)
        image = self._light(painted, soft, i)
        return self._develop(image, i)

    def _paint(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the colours (S, S, 4) of image i, with the subject as alpha, and its light and shade (S, S)."""
        size, big = self.size, self.size * SUPERSAMPLING
        canvas = _background(self.nuisance["background"][i], big)
        soft = np.full((size // _SOFT_REDUCTION, size // _SOFT_REDUCTION), 128, np.uint8)
        for points, colors, widths, visible, is_soft in self._shapes:
            if visible[i]:
                target = soft if is_soft else canvas
                if widths is None:
                    cv2.fillPoly(target, [points[i]], colors[i], cv2.LINE_AA, _SHIFT)
                else:
                    cv2.polylines(target, [points[i]], False, colors[i], widths[i], cv2.LINE_AA, _SHIFT)
        painted = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        soft = cv2.GaussianBlur(soft, (0, 0), max(_BLUR * float(self._unit[i]) / self.size * len(soft), 0.5))
        return painted, cv2.resize(soft, (size, size), interpolation=cv2.INTER_LINEAR)

    def _light(self, painted: np.ndarray, soft: np.ndarray, i: int) -> np.ndarray:
        """Lights the image as a head-shaped ellipsoid, with the features' own light and shade on top."""
        # The surface of the ellipsoid, and how much each pixel of it faces the light.
        n = self.nuisance
        columns, rows = _grid(self.size)
        x = (columns - np.float32(self._middle[i, 0])) / np.float32(1.22 * self._unit[i])
        y = (rows - np.float32(self._middle[i, 1])) / np.float32(1.75 * self._unit[i])
        z = np.sqrt(np.maximum(1 - x * x - y * y, np.float32(0.02)))
        light_x, light_y, contrast = float(n["light_x"][i]), float(n["light_y"][i]), float(n["light_contrast"][i])
        norm = 1 / np.sqrt(light_x**2 + light_y**2 + 0.55)
        facing = x * np.float32(light_x * norm) + y * np.float32(light_y * norm) + z * np.float32(0.74 * norm)
        # Directed and ambient light, the shade of the features, and the edge of a cast shadow.
        shade = np.maximum(facing, 0)
        shade *= np.float32(0.75 * contrast)
        shade += np.float32(1.02 - 0.55 * contrast)
        shade += (soft.astype(np.float32) - 128) * np.float32(1 / 127)
        if n["has_cast_shadow"][i]:
            angle = float(n["shadow_angle"][i])
            edge = (
                x * np.float32(6 * np.cos(angle))
                + y * np.float32(6 * np.sin(angle))
                + np.float32(6 * n["shadow_offset"][i])
            )
            shade *= np.clip(edge, np.float32(n["shadow_depth"][i]), 1)
        # The background has its own light: only the subject is shaded.
        alpha = cv2.extractChannel(painted, 3).astype(np.float32)
        alpha *= np.float32(1 / 255)
        shade -= 1
        shade *= alpha
        shade += 1
        colors = cv2.cvtColor(painted, cv2.COLOR_RGBA2RGB)
        return cv2.multiply(colors, cv2.merge([shade, shade, shade]), dtype=cv2.CV_8U)

    def _develop(self, image: np.ndarray, i: int) -> np.ndarray:
        """Applies the tone, colour, resolution, focus and noise of the camera."""
        # Tone and colour.
        n, size = self.nuisance, self.size
        developed = cv2.LUT(image, self._tones[i])
        saturation = 0.0 if n["is_grey"][i] else float(n["saturation"][i])
        matrix = saturation * np.eye(3) + (1 - saturation) * _GREY[None, :]
        developed = cv2.transform(developed, matrix)
        # Resolution and focus.
        if n["is_low_resolution"][i]:
            small = max(round(size * float(n["low_resolution"][i])), 8)
            reduced = cv2.resize(developed, (small, small), interpolation=cv2.INTER_AREA)
            developed = cv2.resize(reduced, (size, size), interpolation=cv2.INTER_LINEAR)
        if n["is_blurred"][i]:
            developed = cv2.GaussianBlur(developed, (0, 0), size / 112 * (0.5 + 1.5 * float(n["blur"][i])))
        if n["is_motion_blurred"][i]:
            developed = cv2.filter2D(developed, -1, _motion_kernel(size, float(n["motion_angle"][i])))
        # Noise: each image takes its own part of one field.
        field = _noise(max(384, 2 * size))
        top, left = (int(value * (len(field) - size)) for value in n["offset"][i])
        noise = field[top : top + size, left : left + size]
        return cv2.addWeighted(developed, 1.0, noise, float(n["noise"][i]), 0.0, dtype=cv2.CV_8U)


def _tone_curves(nuisance: Parameters) -> np.ndarray:
    """Returns exposure, gamma and colour cast as one lookup table per image: uint8 (B, 1, 256, 3)."""
    levels = np.arange(256) / 255
    warmth, tint, exposure = nuisance["warmth"], nuisance["tint"], np.exp(nuisance["exposure"])
    gains = np.stack([1 + warmth, 1 + tint, 1 - warmth], axis=-1) * exposure[:, None]
    curves = np.power(levels, np.exp(nuisance["gamma"])[:, None])[:, :, None] * gains[:, None, :]
    # Highlights roll off instead of being clipped, as in cameras.
    curves = np.where(curves > 0.75, 1 - 0.25 * np.exp(-(curves - 0.75) / 0.25), curves)
    return np.rint(255 * np.clip(curves, 0, 1)).astype(np.uint8)[:, None]


def _background(u: np.ndarray, size: int) -> np.ndarray:
    """Paints a background out of focus: a coarse colour grid and a shape, uint8 (size, size, 4), alpha 0."""
    grid = np.zeros((4, 4, 4), np.float32)
    # Rooms and streets are mostly dull, so the colours are mixed with their own grey.
    cells = u[:3] + (u[3:51].reshape(4, 4, 3) - 0.5) * (0.2 + 0.7 * u[51])
    grey = cells.mean(axis=-1, keepdims=True)
    grid[..., :3] = 255 * np.clip(grey + (cells - grey) * (0.15 + 0.7 * u[57]), 0, 1)
    base = grid[0, 0, :3]
    canvas = cv2.resize(grid.astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR)
    if u[52] < 0.6:
        left, right = sorted((int(u[53] * size), int(u[54] * size)))
        color = [*np.clip(base * (0.4 + 1.2 * u[55]), 0, 255).tolist(), 0.0]
        cv2.rectangle(canvas, (left, int(size * (u[56] - 0.5))), (right, size), color, cv2.FILLED)
    return canvas


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    ramp = np.arange(size, dtype=np.float32)
    return ramp[None, :], ramp[:, None]


@functools.lru_cache(maxsize=4)
def _noise(side: int) -> np.ndarray:
    """Returns colour noise with some grain, float32 (side, side, 3), unit variance; the same in every process."""
    generator = np.random.Generator(np.random.PCG64(20240229))
    fine = generator.standard_normal((side, side, 3), dtype=np.float32)
    grain = cv2.GaussianBlur(generator.standard_normal((side, side, 1), dtype=np.float32), (0, 0), 0.8)[..., None]
    field = 0.6 * fine + 1.6 * grain
    return field / field.std()


def _motion_kernel(size: int, angle: float) -> np.ndarray:
    length = max(3, round(5 * size / 112) | 1)
    kernel = np.zeros((length, length), np.float32)
    middle = length // 2
    dx, dy = round(middle * np.cos(angle)), round(middle * np.sin(angle))
    cv2.line(kernel, (middle - dx, middle - dy), (middle + dx, middle + dy), 1.0)
    return kernel / kernel.sum()
