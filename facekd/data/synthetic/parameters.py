"""Draws the parameters of generated people and of their photos: two tables of numbers, by counter.

Every number is a pure function of (seed, identity number, image number, name of the parameter), by hashing rather than
by a running generator: identity 17 is the same person in a set of 20 and in a set of 20,000, any image can be made
alone, and a parameter added later changes none of the others.

Lengths are in half head widths, measured from the midpoint between the eyes: x to the right of the image, y down,
z towards the camera. Angles are radians, colours 0..1 positions on the palettes of `colors`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from facekd.utils.randomness import GOLDEN_GAMMA, mix64

HAIR_STYLES = ("bald", "cropped", "side_part", "fringe", "long_straight", "long_wavy", "curly", "tied_back", "receding")
HAIR_STYLE_SHARES = (0.06, 0.13, 0.16, 0.12, 0.14, 0.12, 0.10, 0.09, 0.08)
FACIAL_HAIR = ("none", "stubble", "moustache", "goatee", "beard")
FACIAL_HAIR_SHARES = (0.58, 0.12, 0.09, 0.09, 0.12)
NUM_MOLES = 4
NUM_FRECKLES = 18

# Drawn uniformly between the two ends, once for all images of a person.
IDENTITY_RANGES: dict[str, tuple[float, float]] = {
    # skin, hair and eye colour
    "skin_melanin": (0.0, 1.0),
    "skin_undertone": (-1.0, 1.0),
    "hair_tone": (0.0, 1.0),
    "hair_redness": (-1.2, 1.0),
    "age": (0.0, 1.0),
    "iris_tone": (0.0, 1.0),
    "lip_redness": (0.0, 1.0),
    "blush": (0.0, 1.0),
    "dark_circles": (0.0, 1.0),
    # outline of the head
    "face_width": (0.90, 1.10),
    "forehead_width": (0.80, 1.0),
    "cheek_width": (0.86, 1.0),
    "jaw_width": (0.62, 0.92),
    "chin_width": (0.20, 0.50),
    "chin_y": (1.36, 1.74),
    "chin_cleft": (-1.5, 1.0),
    "head_depth": (0.85, 1.1),
    "ear_size": (0.20, 0.34),
    "ear_y": (0.05, 0.35),
    "ear_protrusion": (0.0, 0.16),
    "neck_width": (0.42, 0.72),
    # hair
    "hairline_y": (-1.0, -0.66),
    "hair_volume": (0.0, 1.0),
    "hair_parting": (-0.5, 0.5),
    "hair_length": (0.0, 1.0),
    "fringe_y": (-0.62, -0.34),
    "hair_strands": (0.0, 1.0),
    # eyes and brows
    "eye_x": (0.36, 0.50),
    "eye_width": (0.170, 0.245),
    "eye_openness": (0.065, 0.125),
    "eye_tilt": (-0.25, 0.35),
    "eye_depth": (-0.08, 0.02),
    "iris_radius": (0.075, 0.105),
    "lid_crease": (-0.4, 1.0),
    "brow_y": (-0.40, -0.20),
    "brow_length": (0.20, 0.31),
    "brow_thickness": (0.018, 0.060),
    "brow_arch": (-0.02, 0.11),
    "brow_tilt": (-0.25, 0.25),
    "brow_gap": (-0.06, 0.06),
    "brow_darkness": (0.35, 1.0),
    # nose
    "nose_y": (0.46, 0.72),
    "nose_width": (0.13, 0.27),
    "bridge_width": (0.05, 0.12),
    "nose_tip": (0.06, 0.13),
    "nose_protrusion": (0.18, 0.46),
    "nose_bend": (-0.04, 0.04),
    "nostril": (0.4, 1.0),
    # mouth
    "mouth_y": (0.90, 1.10),
    "mouth_width": (0.24, 0.42),
    "upper_lip": (0.025, 0.085),
    "lower_lip": (0.035, 0.110),
    "cupid_bow": (0.0, 0.03),
    "mouth_tilt": (-0.04, 0.04),
    # hair on the face, and marks
    "facial_hair_density": (0.35, 0.95),
    "freckles": (-2.0, 1.0),
    "asymmetry": (-0.03, 0.03),
}


@dataclass(frozen=True)
class Parameters:
    """Holds B rows of named numbers: a table of identities, or of the circumstances of photos.

    Attributes:
        columns: name -> array (B,) or (B, K).
    """

    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def take(self, rows: np.ndarray) -> Parameters:
        """Returns the given rows (indices, or a bool mask); repeats are allowed."""
        return Parameters({name: column[rows] for name, column in self.columns.items()})

    def vectors(self) -> np.ndarray:
        """Returns all columns side by side, float64 (B, K): the parameter vectors."""
        return np.concatenate([np.reshape(column, (len(self), -1)) for column in self.columns.values()], axis=1)


def sample_identities(num: int, seed: int = 0, first: int = 0) -> Parameters:
    """Returns the parameter vectors of the generated people number `first` to `first + num - 1`.

    Args:
        num: how many people, B.
        seed: the population; people of two seeds are unrelated.
        first: number of the first one; disjoint ranges share nobody.

    Returns:
        B rows; row i does not depend on `num` or on where the range starts.
    """
    return identities_of(np.arange(first, first + num), seed)


def identities_of(numbers: np.ndarray, seed: int = 0) -> Parameters:
    """Returns the parameter vectors of people by number, (B,) -> B rows; see `sample_identities`."""
    draw = _Draw(seed, "identity", numbers)
    columns = {name: draw.uniform(name, low, high) for name, (low, high) in IDENTITY_RANGES.items()}
    columns["hair_style"] = draw.choice("hair_style", HAIR_STYLE_SHARES)
    columns["facial_hair"] = draw.choice("facial_hair", FACIAL_HAIR_SHARES)
    # Long hair and a beard exist, but not at the rate of two independent draws.
    style = columns["hair_style"]
    has_long_hair = np.isin(style, [HAIR_STYLES.index("long_straight"), HAIR_STYLES.index("long_wavy")])
    shaves = has_long_hair & (draw.uniform("long_hair_shaves") < 0.8)
    columns["facial_hair"] = np.where(shaves, 0, columns["facial_hair"])
    # Dark skin goes with dark hair and eyes more often than not, so that colour tells people apart less well.
    dark = columns["skin_melanin"]
    columns["hair_tone"] *= 1 - 0.75 * dark
    columns["iris_tone"] *= 1 - 0.6 * dark
    columns["hair_grey"] = np.clip((columns["age"] - 0.7) / 0.3, 0, 1) * draw.uniform("hair_grey")
    # Places of moles and freckles.
    columns["mole_x"] = draw.uniform_block("mole_x", NUM_MOLES, -0.6, 0.6)
    columns["mole_y"] = draw.uniform_block("mole_y", NUM_MOLES, -0.7, 1.15)
    columns["mole_radius"] = np.clip(draw.uniform_block("mole_radius", NUM_MOLES, -0.05, 0.045), 0, None)
    columns["freckle_x"] = draw.uniform_block("freckle_x", NUM_FRECKLES, -0.65, 0.65)
    columns["freckle_y"] = draw.uniform_block("freckle_y", NUM_FRECKLES, 0.18, 0.72)
    return Parameters(columns)


# Drawn uniformly between the two ends, anew for every image.
NUISANCE_RANGES: dict[str, tuple[float, float]] = {
    # expression
    "smile": (-0.35, 1.0),
    "mouth_open": (-0.16, 0.17),
    "brow_raise": (-0.05, 0.07),
    "eye_squint": (0.62, 1.12),
    "gaze_x": (-0.07, 0.07),
    "gaze_y": (-0.02, 0.03),
    # the face detector's error: rotation, log scale, shift in crop widths
    "alignment_angle": (-0.07, 0.07),
    "alignment_scale": (-0.06, 0.06),
    "alignment_x": (-0.025, 0.025),
    "alignment_y": (-0.025, 0.025),
    # light
    "light_x": (-1.0, 1.0),
    "light_y": (-0.9, 0.35),
    "light_contrast": (0.15, 0.9),
    "light_specular": (0.0, 1.0),
    "exposure": (-0.40, 0.24),
    "gamma": (-0.3, 0.3),
    "warmth": (-0.12, 0.12),
    "tint": (-0.05, 0.05),
    "saturation": (0.6, 1.15),
    "shadow_angle": (0.0, 2 * np.pi),
    "shadow_offset": (-0.1, 0.35),
    "shadow_depth": (0.35, 0.75),
    # camera
    "noise": (0.0, 9.0),
    "blur": (0.0, 1.0),
    "low_resolution": (0.32, 0.7),
    "motion_angle": (0.0, np.pi),
    # what surrounds the face
    "hair_disorder": (-1.0, 1.0),
    "glasses_shape": (0.0, 1.0),
    "hat_shape": (0.0, 1.0),
}
# Yes with this probability, anew for every image.
NUISANCE_CHANCES: dict[str, float] = {
    "has_glasses": 0.16,
    "has_dark_glasses": 0.04,
    "has_hat": 0.07,
    "has_mask": 0.025,
    "has_occluder": 0.10,
    "has_cast_shadow": 0.20,
    "is_blinking": 0.06,
    "is_blurred": 0.25,
    "is_motion_blurred": 0.10,
    "is_low_resolution": 0.15,
    "is_grey": 0.03,
}


def sample_nuisances(identity_numbers: np.ndarray, image_numbers: np.ndarray, seed: int = 0) -> Parameters:
    """Draws the circumstances of photos: pose, expression, light, occlusion, surroundings and camera.

    Args:
        identity_numbers: whose image, (B,).
        image_numbers: which image of that person, (B,).
        seed: the population, as in `sample_identities`.

    Returns:
        B rows, each a function of its own two numbers and the seed.
    """
    draw = _Draw(seed, "nuisance", identity_numbers, image_numbers)
    columns = {name: draw.uniform(name, low, high) for name, (low, high) in NUISANCE_RANGES.items()}
    columns |= {name: draw.uniform(name) < chance for name, chance in NUISANCE_CHANCES.items()}
    # Most photos are near frontal, some are not: a sum of two uniforms, stretched.
    columns["yaw"] = 0.38 * (draw.uniform("yaw_1", -1, 1) + draw.uniform("yaw_2", -1, 1))
    columns["pitch"] = 0.20 * (draw.uniform("pitch_1", -1, 1) + draw.uniform("pitch_2", -1, 1))
    columns["background"] = draw.uniform_block("background", 60, 0, 1)
    columns["occluder"] = draw.uniform_block("occluder", 10, 0, 1)
    columns["color"] = draw.uniform_block("color", 9, 0, 1)
    columns["offset"] = draw.uniform_block("offset", 2, 0, 1)
    return Parameters(columns)


class _Draw:
    """Draws uniform numbers by hashing (seed, stream, row numbers, name) with SplitMix64."""

    def __init__(self, seed: int, stream: str, *row_numbers: np.ndarray) -> None:
        key = _mix(np.uint64((seed + 0x5851F42D4C957F2D) % 2**64) ^ np.uint64(zlib.crc32(stream.encode())))
        keys = np.broadcast_to(key, np.shape(row_numbers[0]))
        for numbers in row_numbers:
            keys = _mix(keys + (np.asarray(numbers).astype(np.uint64) + np.uint64(1)) * GOLDEN_GAMMA)
        self.keys = keys

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        return self.uniform_block(name, 1, low, high)[:, 0]

    def uniform_block(self, name: str, num_columns: int, low: float, high: float) -> np.ndarray:
        counters = np.uint64(zlib.crc32(name.encode())) * np.uint64(1 << 20) + np.arange(num_columns, dtype=np.uint64)
        bits = _mix(self.keys[:, None] ^ _mix(counters * GOLDEN_GAMMA)[None, :])
        return low + (high - low) * ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def choice(self, name: str, shares: tuple[float, ...]) -> np.ndarray:
        edges = np.cumsum(shares) / np.sum(shares)
        return np.minimum(np.searchsorted(edges, self.uniform(name), side="right"), len(shares) - 1)


def _mix(values: np.ndarray | np.uint64) -> np.ndarray:
    """Takes one step of SplitMix64 from each state: adds the golden gamma, and mixes the bits."""
    with np.errstate(over="ignore"):  # numpy warns when a single number wraps around
        return mix64(np.asarray(values, np.uint64) + GOLDEN_GAMMA)
