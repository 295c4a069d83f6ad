"""Renders photos of generated people: paints their parts from back to front, and photographs them."""

from __future__ import annotations

import numpy as np

from facekd.data.synthetic.camera import Canvas
from facekd.data.synthetic.features import brows, eyes, landmarks, mouth, nose
from facekd.data.synthetic.geometry import Pose
from facekd.data.synthetic.groups import plant_groups
from facekd.data.synthetic.head import behind, hair, occluder, skull, worn
from facekd.data.synthetic.marks import facial_hair, marks
from facekd.data.synthetic.parameters import Parameters, identities_of, sample_nuisances
from facekd.errors import DataError
from facekd.utils.wording import counted

MIN_SIZE = 16  # a smaller face is a few dots
_CHUNK = 64  # images rendered together
# From the back to the front: later parts cover earlier ones.
_PARTS = (behind, skull, marks, facial_hair, nose, eyes, brows, mouth, hair, worn)


def render(identity: Parameters, nuisance: Parameters, size: int = 112) -> np.ndarray:
    """Renders photos of people.

    Args:
        identity: who is in each image, B rows of `sample_identities` or `identities_of` (see `Parameters.take`).
        nuisance: how each was taken, B rows of `sample_nuisances`.
        size: side S in pixels.

    Returns:
        uint8 (B, S, S, 3), RGB. An image depends on its own two rows only, not on the rest of the batch.

    Raises:
        DataError: the two tables differ in length, or `size` is too small.
    """
    if len(identity) != len(nuisance):
        raise DataError(
            f"{counted(len(identity), 'identity')} for {counted(len(nuisance), 'photo')}: give one row of each per "
            "image, repeating people by `identity.take(rows)`"
        )
    if size < MIN_SIZE:
        raise DataError(f"size is {size} pixels; generated faces need at least {MIN_SIZE}")
    batch = np.empty((len(identity), size, size, 3), np.uint8)
    for start in range(0, len(identity), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(identity)))
        _render_chunk(identity.take(rows), nuisance.take(rows), batch[start : start + _CHUNK])
    return batch


def render_faces(
    identity_numbers: np.ndarray, image_numbers: np.ndarray, size: int = 112, seed: int = 0, has_groups: bool = False
) -> np.ndarray:
    """Renders photos by number: image `image_numbers[i]` of person `identity_numbers[i]` in the population `seed`.

    Args:
        identity_numbers: (B,), 0 or more.
        image_numbers: (B,), 0 or more.
        size: side S in pixels.
        seed: random seed of the population.
        has_groups: whether some people differ as `facekd.data.synthetic.groups` says.

    Returns:
        uint8 (B, S, S, 3), RGB.

    Raises:
        DataError: the arrays differ in length, or `size` is too small.
    """
    identity_numbers, image_numbers = np.asarray(identity_numbers), np.asarray(image_numbers)
    if identity_numbers.ndim != 1 or identity_numbers.shape != image_numbers.shape:
        raise DataError(
            f"identity numbers of shape {identity_numbers.shape} and image numbers of shape {image_numbers.shape}; "
            "give one of each per image"
        )
    people, rows = np.unique(identity_numbers, return_inverse=True)
    identity = identities_of(people, seed).take(rows.reshape(-1))
    nuisance = sample_nuisances(identity_numbers, image_numbers, seed)
    if has_groups:
        identity, nuisance = plant_groups(identity, nuisance, identity_numbers, seed)
    return render(identity, nuisance, size)


def _render_chunk(identity: Parameters, nuisance: Parameters, out: np.ndarray) -> None:
    pose = Pose(identity, nuisance)
    pose.align(landmarks(identity, nuisance, pose), nuisance)
    layers = [layer for part in _PARTS for layer in part(identity, nuisance, pose)] + occluder(nuisance)
    canvas = Canvas(layers, pose, nuisance, out.shape[1])
    for i in range(len(out)):
        out[i] = canvas.photograph(i)
