"""Generates images of classes, coloured textures, for trying out classification without a data set.

A small network learns to tell them apart in seconds, but not at once. Every number is a function of (seed, class,
number of the image).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facekd.utils.randomness import random_words, uniform

NUM_WAVES = 3  # plane waves in each class


def render_texture(
    label: int, number: int, height: int, width: int, seed: int = 0, noise: float = 0.25
) -> NDArray[np.uint8]:
    """Renders one image (H, W, 3) of a class.

    A class is three plane waves, each with its own direction, frequency and colour. From image to image the waves are
    shifted, turned a little and weighted anew, brightness changes, and noise is added. No two images of a class share
    their pixels, so memorising some of them does not help with the others.

    Args:
        label: the class.
        number: number of the image within the class.
        height: height in pixels.
        width: width in pixels.
        seed: random seed; another seed gives other classes.
        noise: largest deviation by noise, as a share of the range of values.
    """
    # The waves of the class.
    classes = label * NUM_WAVES + np.arange(NUM_WAVES)
    angles = uniform(seed, "texture.angle", classes, 0, math.pi)
    frequencies = uniform(seed, "texture.frequency", classes, 1.5, 5.0)
    colors = uniform(seed, "texture.color", classes[:, None] * 3 + np.arange(3), -1, 1)
    # Draw how this image differs from others of its class.
    image_seed = int(random_words(seed, "texture.image", label * 2**31 + number))
    waves = np.arange(NUM_WAVES)
    angles = angles + uniform(image_seed, "turn", waves, -0.15, 0.15)
    phases = uniform(image_seed, "phase", waves, 0, 2 * math.pi)
    weights = uniform(image_seed, "weight", waves, 0.6, 1.4)
    brightness = uniform(image_seed, "brightness", 0, -0.15, 0.15)
    # Add up the waves.
    ys, xs = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    image = np.full((height, width, 3), 0.5 + brightness)
    for angle, frequency, color, phase, weight in zip(angles, frequencies, colors, phases, weights, strict=True):
        wave = np.sin(2 * math.pi * frequency * (xs * math.cos(angle) + ys * math.sin(angle)) + phase)
        image += 0.5 / NUM_WAVES * weight * wave[:, :, None] * color
    image += uniform(image_seed, "noise", np.arange(image.size), -noise, noise).reshape(image.shape)
    return np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
