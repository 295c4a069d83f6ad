"""Paints the head around the face: neck, clothes, ears, outline, hair, and what people wear or hold before it."""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.colors import CLOTHES, hair_color, mix, palette, skin_color
from facekd.data.synthetic.geometry import Layer, Layers, Pose, curve, ellipse, smooth, soft_layer
from facekd.data.synthetic.parameters import HAIR_STYLES, Parameters

# For each style: volume on top, volume at the sides, the height (y) at which the sides end, how far they cover the
# cheeks, how much the outline waves, how far the hairline's corners recede, and whether there is a fringe.
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
    """Paints the hair behind the head, the neck and the clothes."""
    top, side, end, _, wave, _, _ = _hair_shape(identity, nuisance)
    skin, hair = skin_color(identity), hair_color(identity)
    # The back of the hair is an arch over the head; long hair flares out at its ends.
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
    # Neck and shirt.
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
    # Only some styles are seen behind the head.
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
    """Paints the ears and the skin of the face."""
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
    """Returns the closed contour (B, P, 2) of the face from crown to chin; an open mouth lowers the chin."""
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
    """Paints the hair before the head, its strands, and its shadow on the forehead."""
    style, skin = identity["hair_style"], skin_color(identity)
    shows = style != HAIR_STYLES.index("bald")
    # Skin shows through short hair.
    is_cropped = np.isin(style, [HAIR_STYLES.index("cropped"), HAIR_STYLES.index("receding")])
    color = hair_color(identity)
    color = np.where(is_cropped[:, None], mix(color, skin, 0.22), color)

    # The hair lies between the hairline, close to the skin, and the rim, further back.
    inner = _hairline(identity, nuisance)
    inner_depth = pose.surface(inner[..., 0], inner[..., 1]) * 0.92
    inner_seen = pose.project(np.concatenate([inner, inner_depth[..., None]], axis=-1))
    outer_seen = pose.at_depth(_hair_rim(identity, nuisance), 0.08)
    layers = [Layer(np.concatenate([inner_seen, outer_seen], axis=1), color, None, shows)]
    top = _hair_shape(identity, nuisance)[0]
    crown = pose.at_depth(curve((0.5 * identity["hair_parting"], -1.42 - top)), 0.2)[:, 0]
    layers += _strands(identity, pose, (inner_seen, outer_seen, crown), color, shows & ~is_cropped)

    # Its shadow falls on the forehead.
    shadow = inner[:, 8:-8].copy()
    lowered = shadow[:, ::-1].copy()
    lowered[..., 1] += 0.10
    outline = pose.on_surface(np.concatenate([shadow, lowered], axis=1))
    layers.append(soft_layer(outline, np.full(len(style), -0.16), shows))
    return layers


def _hairline(identity: Parameters, nuisance: Parameters) -> np.ndarray:
    """Returns the edge of the hair on the face, from left to right: sideburn, temple, forehead, temple, sideburn."""
    _, _, end, cover, _, recede, has_fringe = _hair_shape(identity, nuisance)
    width, part, style = identity["face_width"], identity["hair_parting"], identity["hair_style"]
    forehead = width * identity["forehead_width"]
    # Hair falls over the forehead: a fringe everywhere, parted hair away from its own side.
    is_parted = np.isin(style, [HAIR_STYLES.index("side_part"), HAIR_STYLES.index("long_wavy")])
    fall = identity["hair_volume"] * is_parted * 0.26
    brow_line = np.where(has_fringe > 0, identity["fringe_y"], identity["hairline_y"])
    left_y, right_y = brow_line + fall * np.clip(2 * part, 0, 1), brow_line + fall * np.clip(-2 * part, 0, 1)
    temple_left, temple_right = left_y + 0.22 - recede, right_y + 0.22 - recede
    # Hair covers the cheeks, and ends in sideburns.
    inner_x = width - 0.05 - cover
    sideburn = np.where(end > 0.5, inner_x - 0.02, width * 0.95)
    return smooth(
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


def _hair_rim(identity: Parameters, nuisance: Parameters) -> np.ndarray:
    """Returns the outer edge of the hair, from right to left over the crown."""
    top, side, end, _, wave, _, _ = _hair_shape(identity, nuisance)
    part, wide = identity["hair_parting"], identity["face_width"] + side
    rim = curve(
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
    )
    return _wavy(smooth(rim, 4), wave)


def _strands(
    identity: Parameters,
    pose: Pose,
    edges: tuple[np.ndarray, np.ndarray, np.ndarray],
    color: np.ndarray,
    is_visible: np.ndarray,
) -> Layers:
    """Paints strands from the rim to the hairline, bent towards the parting; light and dark ones alternate.

    Args:
        identity: the people.
        pose: how each head is seen.
        edges: hairline and rim (B, P, 2) and the crown (B, 2), as seen.
        color: colour of the hair, (B, 3).
        is_visible: bool (B,).
    """
    inner, outer, crown = edges
    last_inner, last_outer = inner.shape[1] - 1, outer.shape[1] - 1
    layers: Layers = []
    for number, share in enumerate(np.linspace(0.2, 0.8, 14)):
        # A strand starts between the rim and the crown: nearer to the crown in the middle of the head.
        start, stop = outer[:, round((1 - share) * last_outer)], inner[:, round(share * last_inner)]
        start = (0.80 - 0.35 * (1 - abs(2 * share - 1))) * start + (0.20 + 0.35 * (1 - abs(2 * share - 1))) * crown
        bent = 0.35 * start + 0.65 * stop + 0.15 * (outer[:, round((1 - share) * last_outer)] - crown)
        strand = smooth(np.stack([start, bent, stop], axis=1), 3)
        shade = 1 + (0.22 if number % 2 else -0.24) * (0.4 + 0.8 * identity["hair_strands"][:, None])
        tint = np.clip(color * shade + (5 if number % 2 else 0), 0, 255)
        layers.append(Layer(strand, tint, (0.025 + 0.02 * (number % 3 == 0)) * pose.unit, is_visible))
    return layers


def worn(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    """Paints glasses, hat and mask."""
    return _glasses(identity, nuisance, pose) + _hat(identity, nuisance, pose) + _mask(identity, nuisance, pose)


def _glasses(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    shape, tone = nuisance["glasses_shape"], nuisance["color"]
    has_glasses = nuisance["has_glasses"] | nuisance["has_dark_glasses"]
    frame = 20 + 150 * tone[:, 2:5] * (tone[:, 2:3] > 0.5)
    layers: Layers = []
    x, lens, tall = identity["eye_x"], identity["eye_width"] + 0.075, 0.14 + 0.06 * shape
    lift, square = 0.14, 0.78 + 0.2 * shape
    for side in (-1, 1):
        # Each side has a lens, its rim, and a temple that runs back to the ear.
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
    # The bridge joins the lenses.
    bridge = curve((-x + lens, -0.03), (0.0, -0.07), (x - lens, -0.03))
    layers.append(Layer(pose.on_surface(bridge, 0.22), frame, 0.03 * pose.unit, has_glasses))
    return layers


def _cloth_color(nuisance: Parameters) -> np.ndarray:
    """Returns the colour (B, 3) of hat and mask."""
    tone = nuisance["color"]
    return np.clip(palette(CLOTHES, tone[:, 6]) * (0.6 + 0.6 * tone[:, 7:8]), 0, 255)


def _hat(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    color = _cloth_color(nuisance)
    rim_y = -0.72 + 0.22 * nuisance["hat_shape"]
    wide = identity["face_width"] + 0.10
    # The cap covers the crown, down to its front edge on the forehead.
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
    # The brim stands out from that edge.
    brim = front.copy()
    brim[..., 1] += 0.14 * np.clip(1 - (front[..., 0] / 1.0) ** 2, 0, 1)
    brim_seen = pose.on_surface(brim, 0.38)[:, ::-1]
    has_hat = nuisance["has_hat"]
    return [
        Layer(np.concatenate([pose.at_depth(cap, 0.0), front_seen], axis=1), color, None, has_hat),
        Layer(np.concatenate([front_seen, brim_seen], axis=1), color * 0.62, None, has_hat),
    ]


def _mask(identity: Parameters, nuisance: Parameters, pose: Pose) -> Layers:
    color = _cloth_color(nuisance)
    y, chin, jaw = identity["nose_y"], identity["chin_y"], identity["jaw_width"] * identity["face_width"]
    outline = smooth(
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
    # Half of the masks are a mixture of the colour of the clothes and the usual light blue.
    is_colored = nuisance["color"][:, 8] > 0.5
    cloth = mix(np.broadcast_to(np.array([188.0, 212.0, 224.0]), color.shape), color, 0.5 * is_colored)
    return [Layer(pose.on_surface(outline, 0.14), cloth, None, nuisance["has_mask"])]


def occluder(nuisance: Parameters) -> Layers:
    """Paints something between the camera and the face (a hand, a microphone, a shoulder), coming in from an edge."""
    u = nuisance["occluder"]
    angle = 2 * np.pi * u[:, 0]
    reach = 0.30 + 0.28 * u[:, 1]  # from the middle of the crop to that of the object
    x, y = 0.5 + (reach + 0.12) * np.cos(angle), 0.52 + (reach + 0.12) * np.sin(angle)
    points = ellipse(x, y, 0.08 + 0.16 * u[:, 2], 0.10 + 0.22 * u[:, 3], 10, np.pi * u[:, 4])
    points = points + 0.03 * (np.modf(u[:, 5:6] * np.arange(17.0, 37.0, 2.0)[None, :10])[0][..., None] - 0.5)
    color = np.where(u[:, 6:7] < 0.5, np.array([196.0, 146.0, 116.0]) * (0.4 + 0.8 * u[:, 7:8]), 255 * u[:, 7:10])
    return [Layer(points, np.clip(color, 0, 255), None, nuisance["has_occluder"], is_subject=False)]


def _hair_shape(identity: Parameters, nuisance: Parameters) -> list[np.ndarray]:
    """Returns the seven numbers (B,) of `HAIR_SHAPES`, varied by person and, a little, by photo."""
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
    """Pushes a contour (B, P, 2) in and out along its length."""
    phase = np.arange(contour.shape[1]) * 1.9
    factor = 1 + amount[:, None] * np.sin(phase)[None, :]
    return contour * factor[..., None]
