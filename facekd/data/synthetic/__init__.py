"""Renders generated faces, the data that needs no download: people as parameter vectors, and photos of them.

A person is a row of numbers (outline of the head, skin, hair, eyes, brows, nose, mouth, marks); a photo adds another
row (pose, expression, light, occlusion, surroundings, camera). Both are functions of (seed, number) alone, so any image
can be rendered at any time, in any batch, by any process, with the same bytes:

    images = render_faces(np.array([0, 0, 1]), np.array([0, 1, 0]), size=112, seed=0)  # uint8 (3, 112, 112, 3)

The head is a set of curves on a smooth surface in three dimensions. It is turned, seen in perspective, aligned to the
five-point template, painted with OpenCV, lit, and photographed by a simulated camera. The faces are drawings: they
show that training, distillation and evaluation work, and compare methods on a small scale; they say nothing about
accuracy on real faces.
"""

from facekd.data.synthetic.parameters import Parameters, identities_of, sample_identities, sample_nuisances
from facekd.data.synthetic.rendering import MIN_SIZE, render, render_faces

__all__ = [
    "MIN_SIZE",
    "Parameters",
    "identities_of",
    "render",
    "render_faces",
    "sample_identities",
    "sample_nuisances",
]
