"""Draws curves on a head, poses the head, and projects both into an aligned crop; vectorised over B images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekd.data.synthetic.parameters import Parameters

# The five points that crops of 112 pixels are aligned to (eyes, nose tip, mouth corners), as fractions of the crop.
TEMPLATE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
TEMPLATE = TEMPLATE / 112
PERSPECTIVE = 0.11  # a point one unit closer to the camera looks this much larger
Value = np.ndarray | float


@dataclass
class Layer:
    """Holds one painted shape in B images.

    Attributes:
        points: (B, P, 2), x and y as fractions of the crop.
        color: (B, 3) RGB 0..255; for soft layers (B, 1), the light to add, -1..1.
        line_width: None to fill the polygon, else (B,) as a fraction of the crop.
        is_visible: bool (B,), or None to draw it in all images.
        is_subject: whether the light of the head falls on it.
        is_soft: whether it is painted into the light, and blurred, instead of into the colours.
    """

    points: np.ndarray
    color: np.ndarray
    line_width: np.ndarray | None = None
    is_visible: np.ndarray | None = None
    is_subject: bool = True
    is_soft: bool = False


Layers = list[Layer]


def soft_layer(points: np.ndarray, light: np.ndarray, is_visible: np.ndarray | None = None) -> Layer:
    """Adds light of strength (B,), or shade if it is negative, inside an outline (B, P, 2)."""
    return Layer(points, light[:, None], None, is_visible, is_soft=True)


def curve(*points: tuple[Value, ...]) -> np.ndarray:
    """Stacks points whose coordinates are numbers or arrays (B,) into (B, P, number of coordinates)."""
    arrays = np.broadcast_arrays(*[np.asarray(value, np.float64) for point in points for value in point])
    stacked = np.stack([np.atleast_1d(array) for array in arrays], axis=-1)
    return stacked.reshape(len(stacked), len(points), -1)


def smooth(points: np.ndarray, per_segment: int = 4, is_closed: bool = False) -> np.ndarray:
    """Samples a Catmull-Rom spline through control points (B, K, C), `per_segment` times between neighbours.

    Four weighted gathers rather than a matrix product, so that a row never depends on its batch.
    """
    count = points.shape[1]
    segments = np.arange(count if is_closed else count - 1)
    neighbours = segments[:, None] + np.arange(-1, 3)
    neighbours = neighbours % count if is_closed else np.clip(neighbours, 0, count - 1)
    t = np.arange(per_segment) / per_segment
    weights = 0.5 * np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])
    taps = points[:, neighbours]  # (B, segments, 4, C)
    sampled = sum(taps[:, :, k, None, :] * weights[k][None, None, :, None] for k in range(4))
    sampled = np.reshape(sampled, (len(points), -1, points.shape[2]))
    return sampled if is_closed else np.concatenate([sampled, points[:, -1:]], axis=1)


def ellipse(
    x: Value, y: Value, radius_x: Value, radius_y: Value, num_points: int = 12, angle: Value = 0.0
) -> np.ndarray:
    """Returns points (B, P, 2) on ellipses turned by `angle`."""
    t = np.arange(num_points) * (2 * np.pi / num_points)
    x, y, radius_x, radius_y, angle = (
        np.atleast_1d(np.asarray(v, np.float64))[:, None] for v in (x, y, radius_x, radius_y, angle)
    )
    u, v = radius_x * np.cos(t), radius_y * np.sin(t)
    return np.stack(
        np.broadcast_arrays(x + u * np.cos(angle) - v * np.sin(angle), y + u * np.sin(angle) + v * np.cos(angle)),
        axis=-1,
    )


class Pose:
    """Turns points of a head into points of the aligned crop.

    The head turns by yaw and pitch, is seen in weak perspective, and the result is brought to the five-point template
    by the least-squares similarity, as an aligner would; then the aligner's error is added. Alignment removes roll, so
    only the error of the aligner is left of it.
    """

    def __init__(self, identity: Parameters, nuisance: Parameters) -> None:
        self.depth: np.ndarray = identity["head_depth"]
        yaw, pitch = nuisance["yaw"], nuisance["pitch"]
        self._turn = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        self._scale = np.ones(len(yaw), np.complex128)
        self._shift = np.zeros(len(yaw), np.complex128)

    def align(self, landmarks: np.ndarray, nuisance: Parameters) -> None:
        """Fits the similarity that takes the head's landmarks (B, 5, 3) to the template, plus the aligner's error."""
        seen = self._project_complex(landmarks)
        target = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
        seen_mean, target_mean = seen.mean(axis=1), target.mean()
        centred = seen - seen_mean[:, None]
        # Umeyama's solution in the plane is one complex division.
        scale = (np.conj(centred) * (target - target_mean)).sum(axis=1) / (np.abs(centred) ** 2).sum(axis=1)
        error = np.exp(nuisance["alignment_scale"] + 1j * nuisance["alignment_angle"])
        self._scale = scale * error
        middle = 0.5 + 0.5j
        shift = target_mean - scale * seen_mean
        self._shift = middle + (shift - middle) * error + nuisance["alignment_x"] + 1j * nuisance["alignment_y"]

    @property
    def unit(self) -> np.ndarray:
        """Half the width of the head (B,), as a fraction of the crop."""
        return np.abs(self._scale)

    @property
    def roll(self) -> np.ndarray:
        """The angle (B,) of the head in the crop, radians."""
        return np.angle(self._scale)

    def surface(self, x: Value, y: Value) -> np.ndarray:
        """Returns the height z of the head's smooth surface at (x, y), arrays (B,) or (B, P)."""
        inside = 1 - (np.asarray(x) / 1.16) ** 2 - ((np.asarray(y) - 0.1) / 1.95) ** 2
        depth = self.depth.reshape(-1, *[1] * (inside.ndim - 1)) if inside.ndim else self.depth
        return depth * np.sqrt(np.clip(inside, 0.02, 1))

    def on_surface(self, points: np.ndarray, lift: Value = 0.0) -> np.ndarray:
        """Projects points (B, P, 2) on the face, `lift` above its smooth surface, to crop positions (B, P, 2)."""
        lift = np.reshape(np.asarray(lift, np.float64), (-1, 1)) if np.ndim(lift) == 1 else lift
        points = self._for_all(points)
        z = self.surface(points[..., 0], points[..., 1]) + lift
        return self.project(np.concatenate([points, z[..., None]], axis=-1))

    def at_depth(self, points: np.ndarray, z: Value) -> np.ndarray:
        """Projects points (B, P, 2) at one depth to crop positions (B, P, 2)."""
        points = self._for_all(points)
        z = np.broadcast_to(np.reshape(np.asarray(z, np.float64), (-1, 1)), points.shape[:2])
        return self.project(np.concatenate([points, z[..., None]], axis=-1))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Projects points (B, P, 3) of the head to crop positions (B, P, 2)."""
        placed = self._project_complex(points) * self._scale[:, None] + self._shift[:, None]
        return np.stack([placed.real, placed.imag], axis=-1)

    def _for_all(self, points: np.ndarray) -> np.ndarray:
        """Repeats points (1, P, 2) that are the same for all images: (B, P, 2)."""
        return np.broadcast_to(points, (len(self.depth), *points.shape[1:]))

    def _project_complex(self, points: np.ndarray) -> np.ndarray:
        cos_yaw, sin_yaw, cos_pitch, sin_pitch = (value[:, None] for value in self._turn)
        x, y, z = points[..., 0], points[..., 1] - 0.3, points[..., 2]
        x, z = x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw
        y, z = y * cos_pitch - z * sin_pitch, z * cos_pitch + y * sin_pitch
        nearness = 1 / (1 - PERSPECTIVE * z)
        return x * nearness + 1j * (y * nearness)
