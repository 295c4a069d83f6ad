"""Generated images of classes: coloured textures that a small network learns to tell apart in seconds, and not at once.

For trying out classification without a data set. Every number is a function of (seed, class, number of the image).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facekd.utils.randomness import random_words, uniform

NUM_WAVES = 3  # plane waves a class is made of


def render_texture(
    label: int, number: int, height: int, width: int, seed: int = 0, noise: float = 0.25
) -> NDArray[np.uint8]:
    """One image (H, W, 3) of a class.

    A class is three plane waves, each with a direction, a frequency and a colour of its own. From image to image the
    waves are shifted, turned a little and weighed anew, brightness changes, and there is noise: no two images of a
    class share a pixel, so nothing is learnt by heart that would do for others.

    Args:
        label: the class.
        number: of the image within the class.
        height: in pixels.
        width: in pixels.
        seed: another seed, other classes.
        noise: its largest deviation, as a share of the range of values.
    """
    classes = label * NUM_WAVES + np.arange(NUM_WAVES)
    angles = uniform(seed, "texture.angle", classes, 0, math.pi)
    frequencies = uniform(seed, "texture.frequency", classes, 1.5, 5.0)
    colors = uniform(seed, "texture.color", classes[:, None] * 3 + np.arange(3), -1, 1)
    image_seed = int(random_words(seed, "texture.image", label * 2**31 + number))
    waves = np.arange(NUM_WAVES)
    angles = angles + uniform(image_seed, "turn", waves, -0.15, 0.15)
    phases = uniform(image_seed, "phase", waves, 0, 2 * math.pi)
    weights = uniform(image_seed, "weight", waves, 0.6, 1.4)
    brightness = uniform(image_seed, "brightness", 0, -0.15, 0.15)
    ys, xs = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    image = np.full((height, width, 3), 0.5 + brightness)
    for angle, frequency, color, phase, weight in zip(angles, frequencies, colors, phases, weights, strict=True):
        wave = np.sin(2 * math.pi * frequency * (xs * math.cos(angle) + ys * math.sin(angle)) + phase)
        image += 0.5 / NUM_WAVES * weight * wave[:, :, None] * color
    image += uniform(image_seed, "noise", np.arange(image.size), -noise, noise).reshape(image.shape)
    return np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
