"""Paints hair on the face, and the folds, moles and freckles of the skin."""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.colors import hair_color, mix, skin_color
from facekd.data.synthetic.features import mouth_corners
from facekd.data.synthetic.geometry import Layer, Layers, Pose, curve, ellipse, smooth, soft_layer
from facekd.data.synthetic.parameters import FACIAL_HAIR, NUM_FRECKLES, NUM_MOLES, Parameters


def facial_hair(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints stubble, moustache, goatee or beard; the mouth is painted over them."""
    skin, kind = skin_color(identity), identity["facial_hair"]
    kinds = {name: kind == number for number, name in enumerate(FACIAL_HAIR)}
    density = np.where(kinds["stubble"], 0.28 * identity["facial_hair_density"], identity["facial_hair_density"])
    color = mix(skin, hair_color(identity) * 0.85, density)
    drop = 0.5 * np.clip(nuisance["mouth_open"], 0, None)  # an open mouth lowers the chin
    half, corner = mouth_corners(identity, nuisance)
    beard = _beard(identity, half, drop)
    goatee = _goatee(identity, half, drop)
    moustache = _moustache(identity, half, corner)
    return [
        Layer(pose.on_surface(beard, -0.02), color, None, kinds["beard"] | kinds["stubble"]),
        Layer(pose.on_surface(goatee, 0.03), color, None, kinds["goatee"]),
        Layer(pose.on_surface(moustache, 0.05), color, None, kinds["moustache"] | kinds["goatee"]),
    ]


def _beard(identity: Parameters, half: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """Returns the outline of a beard; `half` (B,) is half the width of the mouth, `drop` (B,) lowers the chin."""
    y, chin, jaw = identity["mouth_y"], identity["chin_y"] + drop, identity["jaw_width"] * identity["face_width"]
    side = identity["face_width"] * 0.97
    outline = curve(
        (-side, 0.30),
        (-jaw * 1.01, 1.0),
        (-identity["chin_width"], chin - 0.02),
        (0.0, chin + 0.05),
        (identity["chin_width"], chin - 0.02),
        (jaw * 1.01, 1.0),
        (side, 0.30),
        (side - 0.14, 0.42),
        (half + 0.22, 0.86),
        (half * 0.7, y - 0.22),
        (0.0, y - 0.19),
        (-half * 0.7, y - 0.22),
        (-half - 0.22, 0.86),
        (-side + 0.14, 0.42),
    )
    return smooth(outline, 3, is_closed=True)


def _moustache(identity: Parameters, half: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Returns the outline of a moustache; `half` and `corner` (B,) are those of `mouth_corners`."""
    y, tall = identity["mouth_y"], 0.05 + 0.05 * identity["facial_hair_density"]
    outline = curve(
        (-half * 1.12, corner + 0.05),
        (-half * 0.6, y - 0.10 - tall),
        (0.0, y - 0.11 - 0.6 * tall),
        (half * 0.6, y - 0.10 - tall),
        (half * 1.12, corner + 0.05),
        (half * 0.5, y - 0.045),
        (0.0, y - 0.06),
        (-half * 0.5, y - 0.045),
    )
    return smooth(outline, 3, is_closed=True)


def _goatee(identity: Parameters, half: np.ndarray, drop: np.ndarray) -> np.ndarray:
    """Returns the outline of a goatee; `half` (B,) is half the width of the mouth, `drop` (B,) lowers the chin."""
    y, chin, wide = identity["mouth_y"], identity["chin_y"] + drop, 0.6 * half + 0.06
    outline = curve(
        (-wide, y + 0.10 + drop),
        (0.0, y + 0.19 + drop),
        (wide, y + 0.10 + drop),
        (wide * 0.9, chin - 0.08),
        (0.0, chin + 0.02),
        (-wide * 0.9, chin - 0.08),
    )
    return smooth(outline, 3, is_closed=True)


def marks(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints cheeks, creases, moles and freckles."""
    layers = [layer for side in (-1, 1) for layer in _cheek(identity, nuisance, pose, side)]
    return layers + _creases(identity, nuisance, pose) + _moles(identity, pose) + _freckles(identity, pose)


def _cheek(identity: Parameters, nuisance: Parameters, pose: Pose, side: int) -> Layers:
    """Paints the blush, shine and hollow of a cheek, and the fold from the nose to the mouth."""
    skin = skin_color(identity)
    half, corner = mouth_corners(identity, nuisance)
    smile = np.clip(nuisance["smile"], 0, 1)
    cheek_y = 0.48 - 0.05 * smile
    layers: Layers = []
    for reach, share in ((1.0, 0.10), (0.7, 0.22)):  # two steps pass for a soft edge
        rose = mix(skin, skin * np.array([1.0, 0.66, 0.66]), share * identity["blush"])
        cheek = ellipse(side * 0.57, cheek_y, 0.21 * reach, 0.17 * reach, 10)
        layers.append(Layer(pose.on_surface(cheek), rose))
    shine = 0.08 + 0.10 * nuisance["light_specular"] + 0.06 * smile
    layers.append(soft_layer(pose.on_surface(ellipse(side * 0.58, cheek_y, 0.19, 0.15, 10)), shine))
    hollow = ellipse(side * 0.70, 0.86, 0.10, 0.22, 10, side * 0.3)
    layers.append(soft_layer(pose.on_surface(hollow), -0.5 * (1 - identity["cheek_width"]) - 0.06))
    # The fold comes with age and with smiling.
    fold = smooth(
        curve(
            (side * (identity["nose_width"] + 0.05), identity["nose_y"] - 0.03),
            (side * (half + 0.07), 0.5 * (identity["nose_y"] + corner)),
            (side * (half + 0.09), corner),
        ),
        3,
    )
    strength = np.clip(0.75 * (identity["age"] - 0.35) + 0.30 * smile, 0, 0.6)
    layers.append(
        Layer(pose.on_surface(fold, 0.02), mix(skin, skin * 0.55, strength), 0.024 * pose.unit, strength > 0.08)
    )
    return layers


def _creases(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints three creases of the forehead, and the cleft of the chin."""
    skin = skin_color(identity)
    layers: Layers = []
    for line in range(3):
        y = -0.78 + 0.12 * line
        crease = smooth(curve((-0.42, y + 0.02), (0.0, y - 0.02), (0.42, y + 0.02)), 3)
        strength = np.clip(identity["age"] - 0.55, 0, 0.35) + 2.0 * np.clip(nuisance["brow_raise"] - 0.04, 0, 1)
        layers.append(
            Layer(pose.on_surface(crease), mix(skin, skin * 0.6, strength), 0.018 * pose.unit, strength > 0.06)
        )
    cleft = curve((0.0, identity["chin_y"] - 0.20), (0.0, identity["chin_y"] - 0.07))
    layers.append(Layer(pose.on_surface(cleft), skin * 0.72, 0.03 * pose.unit, identity["chin_cleft"] > 0.3))
    return layers


def _moles(identity: Parameters, pose: Pose) -> Layers:
    color = skin_color(identity) * np.array([0.42, 0.32, 0.30])
    layers: Layers = []
    for mole in range(NUM_MOLES):
        x, y, radius = (identity[f"mole_{part}"][:, mole] for part in ("x", "y", "radius"))
        layers.append(Layer(pose.on_surface(ellipse(x, y, radius, radius, 8)), color, None, radius > 0.01))
    return layers


def _freckles(identity: Parameters, pose: Pose) -> Layers:
    skin, strength = skin_color(identity), 0.55 * np.clip(identity["freckles"], 0, 1)
    color = mix(skin, skin * np.array([0.62, 0.46, 0.38]), strength + 0.2)
    layers: Layers = []
    for freckle in range(NUM_FRECKLES):
        x, y = (identity[f"freckle_{part}"][:, freckle] for part in ("x", "y"))
        layers.append(Layer(pose.on_surface(ellipse(x, y, 0.022, 0.022, 5)), color, None, strength > 0.05))
    return layers
