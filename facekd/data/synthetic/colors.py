"""Maps positions 0..1 on the palettes of skin, hair, irises and clothes to RGB 0..255, arrays (B, 3)."""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.parameters import Parameters

SKIN = [(242, 210, 190), (234, 194, 166), (224, 177, 142), (198, 145, 106), (158, 107, 74), (116, 76, 53), (78, 51, 38)]
HAIR = [(20, 17, 17), (38, 27, 22), (66, 45, 32), (98, 68, 44), (140, 103, 66), (184, 148, 98), (222, 192, 140)]
IRIS = [(38, 24, 18), (70, 44, 26), (104, 72, 38), (104, 104, 58), (88, 124, 108), (98, 140, 172), (138, 164, 184)]
CLOTHES = [
    (34, 38, 52),
    (120, 30, 36),
    (228, 226, 220),
    (52, 92, 66),
    (66, 98, 150),
    (190, 160, 90),
    (90, 70, 110),
    (40, 40, 40),
]


def palette(colors: list[tuple[int, int, int]], position: np.ndarray) -> np.ndarray:
    """Interpolates linearly between the colours, (B,) -> (B, 3)."""
    knots = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(position, knots, [color[c] for color in colors]) for c in range(3)], axis=-1)


def mix(first: np.ndarray, second: np.ndarray | tuple[int, int, int], share: np.ndarray | float) -> np.ndarray:
    """Returns `first` with a share, (B,) or float, of `second` mixed in."""
    share = np.asarray(share, np.float64)
    share = share[:, None] if share.ndim else share
    return first * (1 - share) + np.asarray(second, np.float64) * share


def skin_color(identity: Parameters) -> np.ndarray:
    """Returns the colour of the skin, yellowish to pinkish by its undertone."""
    base = palette(SKIN, identity["skin_melanin"])
    tone = identity["skin_undertone"][:, None]
    return np.clip(
        base * (1 + tone * np.array([0.025, -0.035, -0.012]) + np.abs(tone) * np.array([0, 0, -0.03])), 0, 255
    )


def hair_color(identity: Parameters) -> np.ndarray:
    """Returns the colour of the hair, black to blond, some of it red, some grey."""
    color = palette(HAIR, identity["hair_tone"])
    color = mix(color, (140, 58, 26), 0.75 * np.clip(identity["hair_redness"], 0, 1) * (identity["hair_tone"] > 0.2))
    return mix(color, (196, 194, 192), identity["hair_grey"])


def lip_color(identity: Parameters, skin: np.ndarray) -> np.ndarray:
    """Returns the colour of the lips, close to that of the skin or made up."""
    return mix(skin * np.array([0.86, 0.66, 0.66]), (176, 34, 52), 0.62 * np.clip(identity["lip_redness"] - 0.3, 0, 1))
