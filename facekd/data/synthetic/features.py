"""Eyes, brows, nose and mouth, with the light and shade that give them depth.

Each function returns the layers of its part for B images, from the back to the front.
"""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.colors import IRIS, hair_color, lip_color, mix, palette, skin_color
from facekd.data.synthetic.geometry import Layer, Layers, Pose, curve, ellipse, smooth, soft_layer
from facekd.data.synthetic.parameters import Parameters


def mouth_corners(identity: Parameters, nuisance: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Half width (B,) of the mouth and height (B,) of its corners, expression included."""
    smile = nuisance["smile"]
    return identity["mouth_width"] * (1 + 0.17 * smile), identity["mouth_y"] - 0.075 * smile


def landmarks(identity: Parameters, nuisance: Parameters, pose: Pose) -> np.ndarray:
    """The five points (B, 5, 3) an aligner would find: eyes, nose tip, mouth corners."""
    width, corner_y = mouth_corners(identity, nuisance)
    x = identity["eye_x"]
    flat = curve(
        (-x, 0.0), (x, 0.0), (identity["nose_bend"], identity["nose_y"] - 0.08), (-width, corner_y), (width, corner_y)
    )
    z = pose.surface(flat[..., 0], flat[..., 1])
    z[:, 2] += identity["nose_protrusion"]
    return np.concatenate([flat, z[..., None]], axis=-1)


def eyes(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Eyeballs, lids, creases, lashes, and the shade of the sockets."""
    skin = skin_color(identity)
    layers: Layers = []
    openness = identity["eye_openness"] * nuisance["eye_squint"] * (1 - 0.12 * np.clip(nuisance["smile"], 0, 1))
    openness = np.where(nuisance["is_blinking"], 0.006, openness)
    width, depth = identity["eye_width"], identity["eye_depth"]
    iris = palette(IRIS, identity["iris_tone"])
    dark = mix(skin * 0.34, hair_color(identity), 0.35)
    for side in (-1, 1):
        x = side * identity["eye_x"]
        y = side * identity["asymmetry"]

        def lid(u: float, v: np.ndarray | float, x=x, y=y, side=side) -> tuple[np.ndarray, np.ndarray]:
            # u runs from the inner corner (-1) to the outer (1); the tilt raises the outer one
            return x + side * u * width, y + v - 0.5 * identity["eye_tilt"] * width * (u + 0.3)

        upper = smooth(
            curve(
                lid(-1, 0.012),
                lid(-0.6, -0.78 * openness),
                lid(0.05, -openness),
                lid(0.65, -0.74 * openness),
                lid(1, 0.0),
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
        outline = np.concatenate([upper, lower[:, 1:-1]], axis=1)
        # The iris would spill over the lids: it is painted first and the lids, in skin colour, over it.
        reach = 0.30 * width / 0.19
        above = curve(lid(1.25, 0.0), lid(1.0, -0.10), lid(0.0, -0.16 * reach), lid(-1.0, -0.10), lid(-1.25, 0.012))
        below = curve(lid(-1.25, 0.012), lid(-0.8, 0.10), lid(0.0, 0.15 * reach), lid(0.8, 0.10), lid(1.25, 0.0))
        radius = identity["iris_radius"]
        iris_x, iris_y = x + nuisance["gaze_x"], y + nuisance["gaze_y"] - 0.1 * openness
        white = np.broadcast_to(np.array([232.0, 228.0, 224.0]), skin.shape)
        layers += [
            Layer(pose.on_surface(outline, depth), white),
            Layer(pose.on_surface(ellipse(iris_x, iris_y, radius, radius, 16), depth), mix(iris, (0, 0, 0), 0.45)),
            Layer(pose.on_surface(ellipse(iris_x, iris_y, 0.82 * radius, 0.82 * radius, 14), depth), iris),
            Layer(pose.on_surface(ellipse(iris_x, iris_y, 0.42 * radius, 0.42 * radius, 10), depth), iris * 0.12),
            Layer(
                pose.on_surface(
                    ellipse(iris_x - 0.35 * radius, iris_y - 0.35 * radius, 0.2 * radius, 0.2 * radius, 6), depth
                ),
                white + 20,
            ),
            Layer(pose.on_surface(np.concatenate([upper, above], axis=1), depth), skin * 0.96),
            Layer(pose.on_surface(np.concatenate([lower, below], axis=1), depth), skin * 0.97),
            Layer(pose.on_surface(lower, depth), skin * 0.72, 0.018 * pose.unit),
            Layer(pose.on_surface(upper, depth), dark, (0.032 + 0.012 * (identity["brow_darkness"] > 0.7)) * pose.unit),
        ]
        crease = np.clip(identity["lid_crease"], 0, 1)
        fold = smooth(
            curve(lid(-0.8, -0.03 - 0.3 * openness), lid(0.0, -0.035 - 0.05 * crease - openness), lid(1.05, -0.05)), 4
        )
        layers.append(
            Layer(pose.on_surface(fold, depth), mix(skin, skin * 0.55, crease), 0.022 * pose.unit, crease > 0.05)
        )
        # Shade in the socket, and below the eye with age or little sleep.
        socket = -0.16 - 1.6 * np.clip(-depth, 0, 1)
        layers.append(soft_layer(pose.on_surface(ellipse(x - side * 0.02, y - 0.11, 1.25 * width, 0.085, 10)), socket))
        layers.append(
            soft_layer(
                pose.on_surface(ellipse(x - side * 0.03, y + 0.165, 0.8 * width, 0.04, 10)),
                -0.22 * identity["dark_circles"],
            )
        )
    return layers


def brows(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Eyebrows, raised by expression."""
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
    """Ridge, flanks, wings and nostrils."""
    skin = skin_color(identity)
    y, width, bridge, out = (
        identity["nose_y"],
        identity["nose_width"],
        identity["bridge_width"],
        identity["nose_protrusion"],
    )
    tip, bend, hole = identity["nose_tip"], identity["nose_bend"], identity["nostril"]
    width = width * (1 + 0.10 * np.clip(nuisance["smile"], 0, 1))

    def lifted(points: np.ndarray, *lift: np.ndarray | float) -> np.ndarray:
        z = pose.surface(points[..., 0], points[..., 1]) + curve(*[(value,) for value in lift])[..., 0]
        return pose.project(np.concatenate([points, z[..., None]], axis=-1))

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
        # A flank facing the light is as bright as it is dark on the other side.
        layers.append(
            soft_layer(lifted(flank, 0.02, 0.55 * out, 0.95 * out, 0.3 * out, 0.1, 0.0), 0.34 * side * light - 0.10)
        )
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
    # The ball and wings, then the holes, then the line along their lower edge.
    for side in (-1, 1):
        wing = ellipse(side * (width - 0.055) + bend * 0.5, y - 0.035, 0.06, 0.075, 10)
        layers.append(Layer(pose.on_surface(wing, 0.35 * out), skin * 0.93))
    ball = ellipse(bend, y - 0.06, tip * 1.15, 0.095, 14)
    layers.append(Layer(pose.on_surface(ball, 0.85 * out), skin * 1.02))
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
    """Lips, teeth and what is dark between them."""
    skin = skin_color(identity)
    lips = lip_color(identity, skin)
    half, corner = mouth_corners(identity, nuisance)
    y, gap = identity["mouth_y"], np.clip(nuisance["mouth_open"], 0, None)
    stretch = 1 - 0.22 * np.clip(nuisance["smile"], 0, 1)
    upper, lower, bow, tilt = (
        identity["upper_lip"] * stretch,
        identity["lower_lip"] * stretch,
        identity["cupid_bow"],
        identity["mouth_tilt"],
    )
    shift = identity["asymmetry"]
    seam_top, seam_bottom = y - 0.15 * gap, y + 0.75 * gap
    left, right = (-half + shift, corner - tilt), (half + shift, corner + tilt)
    middle = 0.4 * corner + 0.6 * y
    top = smooth(
        curve(
            left,
            (-0.5 * half + shift, middle - 0.72 * upper),
            (-0.16 * half + shift, y - upper - bow),
            (shift, y - upper + bow),
            (0.16 * half + shift, y - upper - bow),
            (0.5 * half + shift, middle - 0.72 * upper),
            right,
        ),
        3,
    )
    inner_top = smooth(
        curve(
            right,
            (0.5 * half + shift, 0.5 * (middle + seam_top)),
            (shift, seam_top),
            (-0.5 * half + shift, 0.5 * (middle + seam_top)),
            left,
        ),
        3,
    )
    inner_bottom = smooth(
        curve(
            left,
            (-0.5 * half + shift, 0.3 * middle + 0.7 * seam_bottom),
            (shift, seam_bottom),
            (0.5 * half + shift, 0.3 * middle + 0.7 * seam_bottom),
            right,
        ),
        3,
    )
    bottom = smooth(
        curve(
            right,
            (0.55 * half + shift, 0.3 * middle + 0.7 * seam_bottom + 0.72 * lower),
            (shift, seam_bottom + lower),
            (-0.55 * half + shift, 0.3 * middle + 0.7 * seam_bottom + 0.72 * lower),
            left,
        ),
        3,
    )
    inside = np.concatenate([inner_top, inner_bottom], axis=1)
    teeth_edge = inner_top.copy()
    teeth_edge[..., 1] += np.clip(0.55 * gap, 0, 0.055)[:, None]
    teeth = np.concatenate([inner_top, teeth_edge[:, ::-1]], axis=1)
    is_open = gap > 0.012
    white = np.broadcast_to(np.array([228.0, 222.0, 210.0]), skin.shape)
    return [
        soft_layer(
            pose.on_surface(ellipse(shift, seam_bottom + lower + 0.075, 0.5 * half, 0.035, 10)), np.full(len(y), -0.22)
        ),
        Layer(pose.on_surface(inside, 0.02), lips * 0.25, None, is_open),
        Layer(pose.on_surface(teeth, 0.03), white, None, gap > 0.03),
        Layer(pose.on_surface(np.concatenate([inner_bottom, bottom], axis=1), 0.06), np.clip(lips * 1.06, 0, 255)),
        Layer(pose.on_surface(np.concatenate([top, inner_top], axis=1), 0.07), lips * 0.9),
        Layer(pose.on_surface(inner_top, 0.06), lips * 0.42, 0.020 * pose.unit),
    ]
