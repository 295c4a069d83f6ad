"""Paints eyes, brows, nose and mouth, with the light and shade that give them depth.

Each function returns the layers of its part for B images, from the back to the front.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from facekd.data.synthetic.colors import IRIS, hair_color, lip_color, mix, palette, skin_color
from facekd.data.synthetic.geometry import Layer, Layers, Pose, curve, ellipse, smooth, soft_layer
from facekd.data.synthetic.parameters import Parameters


def mouth_corners(identity: Parameters, nuisance: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Returns half the width (B,) of the mouth and the height (B,) of its corners, expression included."""
    smile = nuisance["smile"]
    return identity["mouth_width"] * (1 + 0.17 * smile), identity["mouth_y"] - 0.075 * smile


def landmarks(identity: Parameters, nuisance: Parameters, pose: Pose) -> np.ndarray:
    """Returns the five points (B, 5, 3) that an aligner would find: eyes, nose tip, mouth corners."""
    width, corner_y = mouth_corners(identity, nuisance)
    x = identity["eye_x"]
    flat = curve(
        (-x, 0.0), (x, 0.0), (identity["nose_bend"], identity["nose_y"] - 0.08), (-width, corner_y), (width, corner_y)
    )
    z = pose.surface(flat[..., 0], flat[..., 1])
    z[:, 2] += identity["nose_protrusion"]
    return np.concatenate([flat, z[..., None]], axis=-1)


def eyes(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints eyeballs, lids, creases, lashes, and the shade of the sockets."""
    return [layer for side in (-1, 1) for layer in _eye(identity, nuisance, pose, side)]


def _eye(identity: Parameters, nuisance: Parameters, pose: Pose, side: int) -> Layers:
    """Paints the left (-1) or the right (1) eye."""
    # The edges of the lids, opened by expression.
    openness = identity["eye_openness"] * nuisance["eye_squint"] * (1 - 0.12 * np.clip(nuisance["smile"], 0, 1))
    openness = np.where(nuisance["is_blinking"], 0.006, openness)
    lid = _lid_points(identity, side)
    upper = smooth(
        curve(
            lid(-1, 0.012), lid(-0.6, -0.78 * openness), lid(0.05, -openness), lid(0.65, -0.74 * openness), lid(1, 0.0)
        ),
        3,
    )
    lower = smooth(
        curve(
            lid(1, 0.0),
            lid(0.55, 0.55 * openness),
            lid(-0.1, 0.72 * openness),
            lid(-0.65, 0.45 * openness),
            lid(-1, 0.012),
        ),
        3,
    )
    # The iris would spill over the lids: it is painted first, and the lids in skin colour over it.
    return (
        _eyeball(identity, nuisance, pose, side, np.concatenate([upper, lower[:, 1:-1]], axis=1), openness)
        + _lids(identity, pose, lid, upper, lower)
        + _crease(identity, pose, lid, openness)
        + _socket(identity, pose, side)
    )


LidPoints = Callable[[float, "np.ndarray | float"], tuple[np.ndarray, np.ndarray]]


def _lid_points(identity: Parameters, side: int) -> LidPoints:
    """Returns a function from (u, v) to (x, y): u runs from the inner corner (-1) to the outer one (1), v downwards."""
    x, y, width = side * identity["eye_x"], side * identity["asymmetry"], identity["eye_width"]

    def lid(u: float, v: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        # The tilt raises the outer corner.
        return x + side * u * width, y + v - 0.5 * identity["eye_tilt"] * width * (u + 0.3)

    return lid


def _eyeball(
    identity: Parameters, nuisance: Parameters, pose: Pose, side: int, outline: np.ndarray, openness: np.ndarray
) -> Layers:
    """Paints the white within `outline`, and over it iris, pupil and highlight."""
    skin, iris, depth = skin_color(identity), palette(IRIS, identity["iris_tone"]), identity["eye_depth"]
    radius = identity["iris_radius"]
    x, y = side * identity["eye_x"], side * identity["asymmetry"]
    iris_x, iris_y = x + nuisance["gaze_x"], y + nuisance["gaze_y"] - 0.1 * openness
    white = np.broadcast_to(np.array([232.0, 228.0, 224.0]), skin.shape)
    highlight = ellipse(iris_x - 0.35 * radius, iris_y - 0.35 * radius, 0.2 * radius, 0.2 * radius, 6)
    return [
        Layer(pose.on_surface(outline, depth), white),
        Layer(pose.on_surface(ellipse(iris_x, iris_y, radius, radius, 16), depth), mix(iris, (0, 0, 0), 0.45)),
        Layer(pose.on_surface(ellipse(iris_x, iris_y, 0.82 * radius, 0.82 * radius, 14), depth), iris),
        Layer(pose.on_surface(ellipse(iris_x, iris_y, 0.42 * radius, 0.42 * radius, 10), depth), iris * 0.12),
        Layer(pose.on_surface(highlight, depth), white + 20),
    ]


def _lids(identity: Parameters, pose: Pose, lid: LidPoints, upper: np.ndarray, lower: np.ndarray) -> Layers:
    """Paints the skin of both lids, whose edges are `upper` and `lower`, and the lashes along them."""
    skin, width, depth = skin_color(identity), identity["eye_width"], identity["eye_depth"]
    dark = mix(skin * 0.34, hair_color(identity), 0.35)
    reach = 0.30 * width / 0.19
    above = curve(lid(1.25, 0.0), lid(1.0, -0.10), lid(0.0, -0.16 * reach), lid(-1.0, -0.10), lid(-1.25, 0.012))
    below = curve(lid(-1.25, 0.012), lid(-0.8, 0.10), lid(0.0, 0.15 * reach), lid(0.8, 0.10), lid(1.25, 0.0))
    return [
        Layer(pose.on_surface(np.concatenate([upper, above], axis=1), depth), skin * 0.96),
        Layer(pose.on_surface(np.concatenate([lower, below], axis=1), depth), skin * 0.97),
        Layer(pose.on_surface(lower, depth), skin * 0.72, 0.018 * pose.unit),
        Layer(pose.on_surface(upper, depth), dark, (0.032 + 0.012 * (identity["brow_darkness"] > 0.7)) * pose.unit),
    ]


def _crease(identity: Parameters, pose: Pose, lid: LidPoints, openness: np.ndarray) -> Layers:
    """Paints the fold of the upper lid."""
    skin, crease = skin_color(identity), np.clip(identity["lid_crease"], 0, 1)
    fold = smooth(
        curve(lid(-0.8, -0.03 - 0.3 * openness), lid(0.0, -0.035 - 0.05 * crease - openness), lid(1.05, -0.05)), 4
    )
    line = pose.on_surface(fold, identity["eye_depth"])
    return [Layer(line, mix(skin, skin * 0.55, crease), 0.022 * pose.unit, crease > 0.05)]


def _socket(identity: Parameters, pose: Pose, side: int) -> Layers:
    """Shades the eye socket, and the bags under the eye that come with age or lack of sleep."""
    x, y, width = side * identity["eye_x"], side * identity["asymmetry"], identity["eye_width"]
    socket = -0.16 - 1.6 * np.clip(-identity["eye_depth"], 0, 1)
    circles = ellipse(x - side * 0.03, y + 0.165, 0.8 * width, 0.04, 10)
    return [
        soft_layer(pose.on_surface(ellipse(x - side * 0.02, y - 0.11, 1.25 * width, 0.085, 10)), socket),
        soft_layer(pose.on_surface(circles), -0.22 * identity["dark_circles"]),
    ]


def brows(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints the eyebrows, raised by expression."""
    skin = skin_color(identity)
    color = mix(skin * 0.8, hair_color(identity) * 0.8, identity["brow_darkness"])
    thickness, length = identity["brow_thickness"], identity["brow_length"]
    layers: Layers = []
    for side in (-1, 1):
        middle = side * (identity["eye_x"] + identity["brow_gap"])
        y = identity["brow_y"] - nuisance["brow_raise"] + 0.7 * side * identity["asymmetry"]
        tilt, arch = identity["brow_tilt"] * length, identity["brow_arch"]
        ridge = [(-1.0, 0.28 * tilt, 0.75), (-0.4, -0.45 * arch, 1.0), (0.3, -arch, 0.9), (1.0, 0.15 * arch, 0.25)]
        top = [(middle + side * u * length, y - 0.5 * u * tilt + v - t * thickness) for u, v, t in ridge]
        bottom = [
            (middle + side * u * length, y - 0.5 * u * tilt + v + 0.8 * t * thickness) for u, v, t in reversed(ridge)
        ]
        outline = np.concatenate([smooth(curve(*top), 3), smooth(curve(*bottom), 3)], axis=1)
        layers.append(Layer(pose.on_surface(outline, 0.03), color))
    return layers


def nose(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints ridge, flanks, wings and nostrils."""
    # A smile widens the nose.
    width = identity["nose_width"] * (1 + 0.10 * np.clip(nuisance["smile"], 0, 1))
    return _nose_shading(identity, nuisance, pose, width) + _nose_surface(identity, pose, width)


def _nose_shading(identity: Parameters, nuisance: Parameters, pose: Pose, width: np.ndarray) -> Layers:
    """Lights and shades the flanks, the ridge and the lower side; `width` (B,) is that of the nose."""
    y, bridge, out = identity["nose_y"], identity["bridge_width"], identity["nose_protrusion"]
    tip, bend = identity["nose_tip"], identity["nose_bend"]

    def lifted(points: np.ndarray, *lift: np.ndarray | float) -> np.ndarray:
        z = pose.surface(points[..., 0], points[..., 1]) + curve(*[(value,) for value in lift])[..., 0]
        return pose.project(np.concatenate([points, z[..., None]], axis=-1))

    # A flank facing the light is as bright as the other one is dark.
    light = nuisance["light_x"] * nuisance["light_contrast"]
    layers: Layers = []
    for side in (-1, 1):
        flank = curve(
            (side * bridge, -0.04),
            (side * bridge * 0.9 + bend, 0.5 * y),
            (side * 0.9 * tip + bend, y - 0.10),
            (side * width, y - 0.02),
            (side * (bridge + 0.10), 0.55 * y),
            (side * (bridge + 0.09), -0.02),
        )
        layers.append(
            soft_layer(lifted(flank, 0.02, 0.55 * out, 0.95 * out, 0.3 * out, 0.1, 0.0), 0.34 * side * light - 0.10)
        )
    # The ridge shines, and the lower side lies in shade.
    ridge = curve(
        (-0.4 * bridge, -0.02),
        (0.4 * bridge, -0.02),
        (0.45 * bridge + bend, 0.5 * y),
        (0.6 * tip + bend, y - 0.08),
        (-0.6 * tip + bend, y - 0.08),
        (-0.45 * bridge + bend, 0.5 * y),
    )
    layers.append(
        soft_layer(
            lifted(ridge, 0.05, 0.05, 0.55 * out, out, out, 0.55 * out), 0.16 + 0.12 * nuisance["light_specular"]
        )
    )
    under = curve(
        (-0.9 * width, y + 0.01), (0.9 * width, y + 0.01), (0.55 * width, y + 0.10), (-0.55 * width, y + 0.10)
    )
    layers.append(soft_layer(lifted(under, 0.2 * out, 0.2 * out, 0.02, 0.02), -0.24 + 0.15 * nuisance["light_y"]))
    return layers


def _nose_surface(identity: Parameters, pose: Pose, width: np.ndarray) -> Layers:
    """Paints the wings and the ball, then the nostrils, then the line along their lower edge."""
    skin = skin_color(identity)
    y, out, tip = identity["nose_y"], identity["nose_protrusion"], identity["nose_tip"]
    bend, hole = identity["nose_bend"], identity["nostril"]
    layers: Layers = []
    # Wings and ball.
    for side in (-1, 1):
        wing = ellipse(side * (width - 0.055) + bend * 0.5, y - 0.035, 0.06, 0.075, 10)
        layers.append(Layer(pose.on_surface(wing, 0.35 * out), skin * 0.93))
    ball = ellipse(bend, y - 0.06, tip * 1.15, 0.095, 14)
    layers.append(Layer(pose.on_surface(ball, 0.85 * out), skin * 1.02))
    # Nostrils, the edge of the wings, and the base between them.
    for side in (-1, 1):
        nostril = ellipse(
            side * (0.42 * width + 0.02) + bend * 0.6,
            y + 0.012,
            0.035 + 0.09 * (width - 0.13),
            0.022 * hole + 0.008,
            8,
            side * 0.3,
        )
        layers.append(Layer(pose.on_surface(nostril, 0.5 * out), skin * np.array([0.36, 0.28, 0.26])))
        edge = smooth(
            curve(
                (side * (width - 0.02), y - 0.12),
                (side * (width + 0.005), y - 0.03),
                (side * (width - 0.04), y + 0.03),
                (side * 0.6 * width, y + 0.02),
            ),
            3,
        )
        layers.append(Layer(pose.on_surface(edge, 0.3 * out), skin * 0.66, 0.020 * pose.unit))
    base = smooth(curve((-0.45 * width, y + 0.035), (bend, y + 0.05 + 0.2 * tip), (0.45 * width, y + 0.035)), 4)
    layers.append(Layer(pose.on_surface(base, 0.6 * out), skin * 0.70, 0.018 * pose.unit))
    return layers


def mouth(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints lips, teeth and the dark between them."""
    skin = skin_color(identity)
    lips = lip_color(identity, skin)
    half, _ = mouth_corners(identity, nuisance)
    stretch, gap = _lip_stretch(nuisance), np.clip(nuisance["mouth_open"], 0, None)
    top, inner_top = _upper_lip(identity, nuisance, stretch, gap)
    inner_bottom, bottom = _lower_lip(identity, nuisance, stretch, gap)

    # The teeth hang below the upper lip.
    teeth_edge = inner_top.copy()
    teeth_edge[..., 1] += np.clip(0.55 * gap, 0, 0.055)[:, None]
    teeth = np.concatenate([inner_top, teeth_edge[:, ::-1]], axis=1)
    white = np.broadcast_to(np.array([228.0, 222.0, 210.0]), skin.shape)

    # The lower lip casts a shadow on the chin; then from the inside outwards.
    below = identity["mouth_y"] + 0.75 * gap + identity["lower_lip"] * stretch + 0.075
    shadow = ellipse(identity["asymmetry"], below, 0.5 * half, 0.035, 10)
    inside = np.concatenate([inner_top, inner_bottom], axis=1)
    return [
        soft_layer(pose.on_surface(shadow), np.full(len(half), -0.22)),
        Layer(pose.on_surface(inside, 0.02), lips * 0.25, None, gap > 0.012),
        Layer(pose.on_surface(teeth, 0.03), white, None, gap > 0.03),
        Layer(pose.on_surface(np.concatenate([inner_bottom, bottom], axis=1), 0.06), np.clip(lips * 1.06, 0, 255)),
        Layer(pose.on_surface(np.concatenate([top, inner_top], axis=1), 0.07), lips * 0.9),
        Layer(pose.on_surface(inner_top, 0.06), lips * 0.42, 0.020 * pose.unit),
    ]


def _lip_stretch(nuisance: Parameters) -> np.ndarray:
    """Returns by what factor (B,) a smile makes the lips thinner."""
    return 1 - 0.22 * np.clip(nuisance["smile"], 0, 1)


Point = tuple[np.ndarray, np.ndarray]


def _corners(identity: Parameters, nuisance: Parameters) -> tuple[Point, Point, np.ndarray]:
    """Returns the left and the right corner of the mouth, and a height (B,) between them and the middle."""
    half, corner = mouth_corners(identity, nuisance)
    shift, tilt = identity["asymmetry"], identity["mouth_tilt"]
    middle = 0.4 * corner + 0.6 * identity["mouth_y"]
    return (-half + shift, corner - tilt), (half + shift, corner + tilt), middle


def _upper_lip(
    identity: Parameters, nuisance: Parameters, stretch: np.ndarray, gap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the outer edge of the upper lip, from left to right, and its inner edge, from right to left."""
    left, right, middle = _corners(identity, nuisance)
    half, _ = mouth_corners(identity, nuisance)
    y, shift, bow = identity["mouth_y"], identity["asymmetry"], identity["cupid_bow"]
    upper, seam = identity["upper_lip"] * stretch, y - 0.15 * gap
    outer = curve(
        left,
        (-0.5 * half + shift, middle - 0.72 * upper),
        (-0.16 * half + shift, y - upper - bow),
        (shift, y - upper + bow),
        (0.16 * half + shift, y - upper - bow),
        (0.5 * half + shift, middle - 0.72 * upper),
        right,
    )
    inner = curve(
        right,
        (0.5 * half + shift, 0.5 * (middle + seam)),
        (shift, seam),
        (-0.5 * half + shift, 0.5 * (middle + seam)),
        left,
    )
    return smooth(outer, 3), smooth(inner, 3)


def _lower_lip(
    identity: Parameters, nuisance: Parameters, stretch: np.ndarray, gap: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inner edge of the lower lip, from left to right, and its outer edge, from right to left."""
    left, right, middle = _corners(identity, nuisance)
    half, _ = mouth_corners(identity, nuisance)
    shift, lower = identity["asymmetry"], identity["lower_lip"] * stretch
    seam = identity["mouth_y"] + 0.75 * gap
    inner = curve(
        left,
        (-0.5 * half + shift, 0.3 * middle + 0.7 * seam),
        (shift, seam),
        (0.5 * half + shift, 0.3 * middle + 0.7 * seam),
        right,
    )
    outer = curve(
        right,
        (0.55 * half + shift, 0.3 * middle + 0.7 * seam + 0.72 * lower),
        (shift, seam + lower),
        (-0.55 * half + shift, 0.3 * middle + 0.7 * seam + 0.72 * lower),
        left,
    )
    return smooth(inner, 3), smooth(outer, 3)
