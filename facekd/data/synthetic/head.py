"""The head around the face: neck, clothes, ears, outline, hair, and what people wear or hold before it."""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.colors import CLOTHES, hair_color, mix, palette, skin_color
from facekd.data.synthetic.geometry import Layer, Layers, Pose, curve, ellipse, smooth, soft_layer
from facekd.data.synthetic.parameters import HAIR_STYLES, Parameters

# Per style: volume on top, volume at the sides, where the sides end (y), how far they cover the cheeks, how much the
# outline waves, how far the hairline's corners recede, and whether there is a fringe.
HAIR_SHAPES: dict[str, tuple[float, float, float, float, float, float, float]] = {
    "bald": (0.00, 0.00, -0.30, 0.00, 0.000, 0.0, 0),
    "cropped": (0.03, 0.02, 0.10, 0.00, 0.000, 0.08, 0),
    "side_part": (0.17, 0.06, 0.22, 0.01, 0.010, 0.05, 0),
    "fringe": (0.16, 0.10, 0.60, 0.06, 0.012, 0.0, 1),
    "long_straight": (0.12, 0.14, 1.90, 0.13, 0.000, 0.0, 0),
    "long_wavy": (0.18, 0.26, 1.80, 0.09, 0.045, 0.0, 0),
    "curly": (0.34, 0.32, 0.75, 0.05, 0.060, 0.0, 0),
    "tied_back": (0.04, -0.01, 0.00, 0.00, 0.000, -0.02, 0),
    "receding": (0.02, 0.05, 0.28, 0.00, 0.000, 0.26, 0),
}
_SHAPES = np.array([HAIR_SHAPES[name] for name in HAIR_STYLES])


def behind(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Hair behind the head, neck and clothes."""
    top, side, end, _, wave, _, _ = _hair_shape(identity, nuisance)
    skin, hair = skin_color(identity), hair_color(identity)
    wide = identity["face_width"] + side + 0.05
    flare = np.where(end > 1.2, 0.10, -0.25)
    back = _wavy(
        smooth(
            curve(
                (-wide - flare, end),
                (-wide - 0.04, 0.5 * end),
                (-wide, -0.5),
                (-0.75 * wide, -1.2 - 0.6 * top),
                (0.0, -1.5 - top),
                (0.75 * wide, -1.2 - 0.6 * top),
                (wide, -0.5),
                (wide + 0.04, 0.5 * end),
                (wide + flare, end),
            ),
            4,
        ),
        wave,
    )
    neck = identity["neck_width"]
    throat = curve(
        (-neck, 0.9), (neck, 0.9), (neck * 1.02, 1.75), (neck * 1.5, 2.4), (-neck * 1.5, 2.4), (-neck * 1.02, 1.75)
    )
    shirt = smooth(
        curve(
            (-3.0, 3.6),
            (-2.2, 2.15),
            (-neck * 1.15, 1.80),
            (0.0, 2.0),
            (neck * 1.15, 1.80),
            (2.2, 2.15),
            (3.0, 3.6),
        ),
        3,
    )
    chin_shade = curve((-neck, 1.2), (neck, 1.2), (neck, 1.7), (0.0, 1.95), (-neck, 1.7))
    shows_back = np.isin(
        identity["hair_style"], [HAIR_STYLES.index(name) for name in ("fringe", "long_straight", "long_wavy", "curly")]
    )
    clothes = palette(CLOTHES, nuisance["color"][:, 0]) * (0.6 + 0.6 * nuisance["color"][:, 1:2])
    return [
        Layer(pose.at_depth(back, -0.35), hair * 0.62, None, shows_back),
        Layer(pose.at_depth(throat, -0.15), skin * 0.90),
        Layer(pose.at_depth(chin_shade, -0.05), skin * 0.66),
        Layer(pose.at_depth(shirt, -0.2), np.clip(clothes, 0, 255)),
    ]


def skull(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Ears and the outline of the face."""
    skin = skin_color(identity)
    layers: Layers = []
    size, out = identity["ear_size"], identity["ear_protrusion"]
    for side in (-1, 1):
        x = side * (identity["face_width"] * 0.98 + 0.3 * out)
        y = identity["ear_y"] + 0.05
        layers.append(Layer(pose.at_depth(ellipse(x, y, 0.10 + 0.55 * out, size, 12, side * 0.14), 0.0), skin * 0.88))
        layers.append(
            Layer(
                pose.at_depth(ellipse(x + side * 0.01, y, 0.05 + 0.35 * out, 0.62 * size, 10, side * 0.14), 0.02),
                skin * 0.68,
            )
        )
    layers.append(Layer(pose.at_depth(face_outline(identity, nuisance, 0.96, 0.9), 0.02), skin * 0.9))
    layers.append(Layer(pose.at_depth(face_outline(identity, nuisance, 1.0, 1.0), 0.26), skin))
    return layers


def face_outline(identity: Parameters, nuisance: Parameters, widen: float, lengthen: float) -> np.ndarray:
    """Closed contour (B, P, 2) of the face from crown to chin; an open mouth lowers the chin."""
    width = identity["face_width"] * widen
    forehead, jaw = width * identity["forehead_width"], width * identity["jaw_width"]
    chin = (identity["chin_y"] + 0.5 * np.clip(nuisance["mouth_open"], 0, None)) * lengthen
    half_chin = identity["chin_width"] * widen
    cheek = width * identity["cheek_width"]
    right = [
        (forehead * 0.62, -1.28),
        (forehead, -0.75),
        (width, -0.05),
        (width * 0.985, 0.35),
        (0.5 * (cheek + width * 0.9), 0.70),
        (0.5 * (jaw + cheek * 0.9), 1.02),
        (half_chin + 0.35 * (jaw - half_chin), chin - 0.24),
        (half_chin, chin - 0.06),
    ]
    left = [(-x, y) for x, y in reversed(right)]
    return smooth(curve((0.0, -1.45), *right, (0.0, chin), *left), 3, is_closed=True)


def hair(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Hair before the head, and its strands."""
    top, side, end, cover, wave, recede, has_fringe = _hair_shape(identity, nuisance)
    color, skin = hair_color(identity), skin_color(identity)
    width, line = identity["face_width"], identity["hairline_y"]
    part = identity["hair_parting"]
    style = identity["hair_style"]
    is_bald = style == HAIR_STYLES.index("bald")
    is_cropped = np.isin(style, [HAIR_STYLES.index("cropped"), HAIR_STYLES.index("receding")])
    color = np.where(is_cropped[:, None], mix(color, skin, 0.22), color)
    forehead = width * identity["forehead_width"]
    # Where hair falls over the forehead: a fringe everywhere, a parting away from its own side.
    fall = (
        identity["hair_volume"]
        * np.isin(style, [HAIR_STYLES.index("side_part"), HAIR_STYLES.index("long_wavy")])
        * 0.26
    )
    brow_line = np.where(has_fringe > 0, identity["fringe_y"], line)
    left_y, right_y = brow_line + fall * np.clip(2 * part, 0, 1), brow_line + fall * np.clip(-2 * part, 0, 1)
    temple_left, temple_right = left_y + 0.22 - recede, right_y + 0.22 - recede
    inner_x = width - 0.05 - cover
    sideburn = np.where(end > 0.5, inner_x - 0.02, width * 0.95)
    inner = smooth(
        curve(
            (-sideburn, end),
            (-inner_x, np.minimum(0.15, 0.5 * end)),
            (-forehead * 0.93 + cover, temple_left + 0.16),
            (-forehead * 0.72, temple_left - 0.08),
            (-0.38 + 0.5 * part, left_y - recede),
            (part, brow_line - 0.05 * (1 - has_fringe)),
            (0.38 + 0.5 * part, right_y - recede),
            (forehead * 0.72, temple_right - 0.08),
            (forehead * 0.93 - cover, temple_right + 0.16),
            (inner_x, np.minimum(0.15, 0.5 * end)),
            (sideburn, end),
        ),
        4,
    )
    wide = width + side
    outer = _wavy(
        smooth(
            curve(
                (wide + 0.02, end),
                (wide + 0.03, 0.4 * end - 0.1),
                (wide, -0.6),
                (0.74 * wide, -1.22 - 0.7 * top),
                (0.25 * wide + 0.2 * part, -1.47 - top),
                (-0.25 * wide + 0.2 * part, -1.47 - top),
                (-0.74 * wide, -1.22 - 0.7 * top),
                (-wide, -0.6),
                (-wide - 0.03, 0.4 * end - 0.1),
                (-wide - 0.02, end),
            ),
            4,
        ),
        wave,
    )
    inner_depth = pose.surface(inner[..., 0], inner[..., 1]) * 0.92
    inner_seen = pose.project(np.concatenate([inner, inner_depth[..., None]], axis=-1))
    outer_seen = pose.at_depth(outer, 0.08)
    shows = ~is_bald
    layers = [Layer(np.concatenate([inner_seen, outer_seen], axis=1), color, None, shows)]
    # Strands run from the rim to the hairline, bent towards the parting; light and dark ones alternate.
    last_inner, last_outer = inner.shape[1] - 1, outer.shape[1] - 1
    crown = pose.at_depth(curve((0.5 * part, -1.42 - top)), 0.2)[:, 0]
    for number, share in enumerate(np.linspace(0.2, 0.8, 14)):
        start, stop = outer_seen[:, round((1 - share) * last_outer)], inner_seen[:, round(share * last_inner)]
        start = (0.80 - 0.35 * (1 - abs(2 * share - 1))) * start + (0.20 + 0.35 * (1 - abs(2 * share - 1))) * crown
        bent = 0.35 * start + 0.65 * stop + 0.15 * (outer_seen[:, round((1 - share) * last_outer)] - crown)
        strand = smooth(np.stack([start, bent, stop], axis=1), 3)
        shade = 1 + (0.22 if number % 2 else -0.24) * (0.4 + 0.8 * identity["hair_strands"][:, None])
        tint = np.clip(color * shade + (5 if number % 2 else 0), 0, 255)
        layers.append(Layer(strand, tint, (0.025 + 0.02 * (number % 3 == 0)) * pose.unit, shows & ~is_cropped))
    # The hair's shadow on the forehead.
    shadow = inner[:, 8:-8].copy()
    lowered = shadow[:, ::-1].copy()
    lowered[..., 1] += 0.10
    outline = pose.on_surface(np.concatenate([shadow, lowered], axis=1))
    layers.append(soft_layer(outline, np.full(len(part), -0.16), shows))
    return layers


def worn(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Glasses, hat, mask."""
    shape, tone = nuisance["glasses_shape"], nuisance["color"]
    has_glasses = nuisance["has_glasses"] | nuisance["has_dark_glasses"]
    frame = 20 + 150 * tone[:, 2:5] * (tone[:, 2:3] > 0.5)
    layers: Layers = []
    x, lens, tall = identity["eye_x"], identity["eye_width"] + 0.075, 0.14 + 0.06 * shape
    lift = 0.14
    for side in (-1, 1):
        square = 0.78 + 0.2 * shape
        rim = smooth(
            curve(
                (side * x - lens, 0.02),
                (side * x - lens * square, -tall * square),
                (side * x, -tall),
                (side * x + lens * square, -tall * square),
                (side * x + lens, 0.02),
                (side * x + lens * square, tall * square),
                (side * x, tall * 1.05),
                (side * x - lens * square, tall * square),
            ),
            3,
            is_closed=True,
        )
        seen = pose.on_surface(rim, lift)
        layers.append(Layer(seen, frame * 0.25, None, nuisance["has_dark_glasses"]))
        closed = np.concatenate([seen, seen[:, :1]], axis=1)
        layers.append(Layer(closed, frame, (0.022 + 0.03 * tone[:, 5]) * pose.unit, has_glasses))
        temple = np.concatenate(
            [
                pose.on_surface(curve((side * (x + lens), -0.02)), lift),
                pose.at_depth(curve((side * identity["face_width"] * 1.03, 0.02)), 0.0),
            ],
            axis=1,
        )
        layers.append(Layer(temple, frame, 0.03 * pose.unit, has_glasses))
    bridge = curve((-x + lens, -0.03), (0.0, -0.07), (x - lens, -0.03))
    layers.append(Layer(pose.on_surface(bridge, 0.22), frame, 0.03 * pose.unit, has_glasses))

    color = np.clip(palette(CLOTHES, tone[:, 6]) * (0.6 + 0.6 * tone[:, 7:8]), 0, 255)
    rim_y = -0.72 + 0.22 * nuisance["hat_shape"]
    wide = identity["face_width"] + 0.10
    cap = smooth(
        curve(
            (-wide, rim_y + 0.22),
            (-wide, -1.0),
            (-0.7, -1.62),
            (0.0, -1.8),
            (0.7, -1.62),
            (wide, -1.0),
            (wide, rim_y + 0.22),
        ),
        3,
    )
    front = smooth(
        curve(
            (wide, rim_y + 0.22), (0.6, rim_y - 0.02), (0.0, rim_y - 0.07), (-0.6, rim_y - 0.02), (-wide, rim_y + 0.22)
        ),
        3,
    )
    front_seen = pose.on_surface(front, 0.10)
    brim = front.copy()
    brim[..., 1] += 0.14 * np.clip(1 - (front[..., 0] / 1.0) ** 2, 0, 1)
    layers.append(
        Layer(np.concatenate([pose.at_depth(cap, 0.0), front_seen], axis=1), color, None, nuisance["has_hat"])
    )
    layers.append(
        Layer(
            np.concatenate([front_seen, pose.on_surface(brim, 0.38)[:, ::-1]], axis=1),
            color * 0.62,
            None,
            nuisance["has_hat"],
        )
    )

    y, chin, jaw = identity["nose_y"], identity["chin_y"], identity["jaw_width"] * identity["face_width"]
    mask = smooth(
        curve(
            (-0.86 * identity["face_width"], 0.42),
            (-0.3, y - 0.20),
            (0.0, y - 0.30),
            (0.3, y - 0.20),
            (0.86 * identity["face_width"], 0.42),
            (jaw, 1.05),
            (0.3, chin + 0.03),
            (-0.3, chin + 0.03),
            (-jaw, 1.05),
        ),
        3,
        is_closed=True,
    )
    cloth = mix(np.broadcast_to(np.array([188.0, 212.0, 224.0]), color.shape), color, 0.5 * (tone[:, 8] > 0.5))
    layers.append(Layer(pose.on_surface(mask, 0.14), cloth, None, nuisance["has_mask"]))
    return layers


def occluder(nuisance: Parameters) -> Layers:
    """Something between the camera and the face: a hand, a microphone, a shoulder. It comes in from an edge."""
    u = nuisance["occluder"]
    angle = 2 * np.pi * u[:, 0]
    reach = 0.30 + 0.28 * u[:, 1]  # distance of its middle from that of the crop
    x, y = 0.5 + (reach + 0.12) * np.cos(angle), 0.52 + (reach + 0.12) * np.sin(angle)
    points = ellipse(x, y, 0.08 + 0.16 * u[:, 2], 0.10 + 0.22 * u[:, 3], 10, np.pi * u[:, 4])
    points = points + 0.03 * (np.modf(u[:, 5:6] * np.arange(17.0, 37.0, 2.0)[None, :10])[0][..., None] - 0.5)
    color = np.where(u[:, 6:7] < 0.5, np.array([196.0, 146.0, 116.0]) * (0.4 + 0.8 * u[:, 7:8]), 255 * u[:, 7:10])
    return [Layer(points, np.clip(color, 0, 255), None, nuisance["has_occluder"], is_subject=False)]


def _hair_shape(identity: Parameters, nuisance: Parameters) -> list[np.ndarray]:
    """The seven numbers (B,) of `HAIR_SHAPES`, varied by person and, a little, by day."""
    top, side, end, cover, wave, recede, has_fringe = _SHAPES[identity["hair_style"]].T
    volume = 0.55 + 0.9 * identity["hair_volume"] + 0.12 * nuisance["hair_disorder"]
    end = end + (0.35 * (end > 1) + 0.18) * (identity["hair_length"] - 0.5) + 0.04 * nuisance["hair_disorder"]
    return [
        top * volume,
        side * volume,
        end,
        cover * (0.6 + 0.8 * identity["hair_length"]),
        wave * volume,
        recede,
        has_fringe,
    ]


def _wavy(contour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Push a contour (B, P, 2) in and out along its length."""
    phase = np.arange(contour.shape[1]) * 1.9
    factor = 1 + amount[:, None] * np.sin(phase)[None, :]
    return contour * factor[..., None]
