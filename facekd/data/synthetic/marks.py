"""Hair on the face, and what time and chance leave on skin: folds, moles, freckles."""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.colors import hair_color, mix, skin_color
from facekd.data.synthetic.features import mouth_corners
from facekd.data.synthetic.geometry import Layer, Layers, Pose, curve, ellipse, smooth, soft_layer
from facekd.data.synthetic.parameters import FACIAL_HAIR, NUM_FRECKLES, NUM_MOLES, Parameters


def facial_hair(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Stubble, moustache, goatee or beard; painted before the mouth."""
    skin, kind = skin_color(identity), identity["facial_hair"]
    kinds = {name: kind == number for number, name in enumerate(FACIAL_HAIR)}
    density = np.where(kinds["stubble"], 0.28 * identity["facial_hair_density"], identity["facial_hair_density"])
    color = mix(skin, hair_color(identity) * 0.85, density)
    drop = 0.5 * np.clip(nuisance["mouth_open"], 0, None)
    y, chin, jaw = identity["mouth_y"], identity["chin_y"] + drop, identity["jaw_width"] * identity["face_width"]
    half, corner = mouth_corners(identity, nuisance)
    side = identity["face_width"] * 0.97
    beard = smooth(
        curve(
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
        ),
        3,
        is_closed=True,
    )
    tall = 0.05 + 0.05 * identity["facial_hair_density"]
    moustache = smooth(
        curve(
            (-half * 1.12, corner + 0.05),
            (-half * 0.6, y - 0.10 - tall),
            (0.0, y - 0.11 - 0.6 * tall),
            (half * 0.6, y - 0.10 - tall),
            (half * 1.12, corner + 0.05),
            (half * 0.5, y - 0.045),
            (0.0, y - 0.06),
            (-half * 0.5, y - 0.045),
        ),
        3,
        is_closed=True,
    )
    wide = 0.6 * half + 0.06
    goatee = smooth(
        curve(
            (-wide, y + 0.10 + drop),
            (0.0, y + 0.19 + drop),
            (wide, y + 0.10 + drop),
            (wide * 0.9, chin - 0.08),
            (0.0, chin + 0.02),
            (-wide * 0.9, chin - 0.08),
        ),
        3,
        is_closed=True,
    )
    return [
        Layer(pose.on_surface(beard, -0.02), color, None, kinds["beard"] | kinds["stubble"]),
        Layer(pose.on_surface(goatee, 0.03), color, None, kinds["goatee"]),
        Layer(pose.on_surface(moustache, 0.05), color, None, kinds["moustache"] | kinds["goatee"]),
    ]


def marks(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Cheeks, creases, moles and freckles."""
    skin = skin_color(identity)
    half, corner = mouth_corners(identity, nuisance)
    smile, age = np.clip(nuisance["smile"], 0, 1), identity["age"]
    layers: Layers = []
    for side in (-1, 1):
        cheek_y = 0.48 - 0.05 * smile
        for reach, share in ((1.0, 0.10), (0.7, 0.22)):  # two steps pass for a soft edge
            rose = mix(skin, skin * np.array([1.0, 0.66, 0.66]), share * identity["blush"])
            cheek = ellipse(side * 0.57, cheek_y, 0.21 * reach, 0.17 * reach, 10)
            layers.append(Layer(pose.on_surface(cheek), rose))
        shine = 0.08 + 0.10 * nuisance["light_specular"] + 0.06 * smile
        layers.append(soft_layer(pose.on_surface(ellipse(side * 0.58, cheek_y, 0.19, 0.15, 10)), shine))
        hollow = ellipse(side * 0.70, 0.86, 0.10, 0.22, 10, side * 0.3)
        layers.append(soft_layer(pose.on_surface(hollow), -0.5 * (1 - identity["cheek_width"]) - 0.06))
        fold = smooth(
            curve(
                (side * (identity["nose_width"] + 0.05), identity["nose_y"] - 0.03),
                (side * (half + 0.07), 0.5 * (identity["nose_y"] + corner)),
                (side * (half + 0.09), corner),
            ),
            3,
        )
        strength = np.clip(0.75 * (age - 0.35) + 0.30 * smile, 0, 0.6)
        layers.append(
            Layer(pose.on_surface(fold, 0.02), mix(skin, skin * 0.55, strength), 0.024 * pose.unit, strength > 0.08)
        )
    for line in range(3):
        y = -0.78 + 0.12 * line
        crease = smooth(curve((-0.42, y + 0.02), (0.0, y - 0.02), (0.42, y + 0.02)), 3)
        strength = np.clip(age - 0.55, 0, 0.35) + 2.0 * np.clip(nuisance["brow_raise"] - 0.04, 0, 1)
        layers.append(
            Layer(pose.on_surface(crease), mix(skin, skin * 0.6, strength), 0.018 * pose.unit, strength > 0.06)
        )
    cleft = curve((0.0, identity["chin_y"] - 0.20), (0.0, identity["chin_y"] - 0.07))
    layers.append(Layer(pose.on_surface(cleft), skin * 0.72, 0.03 * pose.unit, identity["chin_cleft"] > 0.3))
    for mole in range(NUM_MOLES):
        x, y, radius = (identity[f"mole_{part}"][:, mole] for part in ("x", "y", "radius"))
        layers.append(
            Layer(
                pose.on_surface(ellipse(x, y, radius, radius, 8)),
                skin * np.array([0.42, 0.32, 0.30]),
                None,
                radius > 0.01,
            )
        )
    strength = 0.55 * np.clip(identity["freckles"], 0, 1)
    for freckle in range(NUM_FRECKLES):
        x, y = (identity[f"freckle_{part}"][:, freckle] for part in ("x", "y"))
        layers.append(
            Layer(
                pose.on_surface(ellipse(x, y, 0.022, 0.022, 5)),
                mix(skin, skin * np.array([0.62, 0.46, 0.38]), strength + 0.2),
                None,
                strength > 0.05,
            )
        )
    return layers
