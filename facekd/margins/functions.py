"""Gives each margin of the table its functions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from facekd.margins.adaptive import adaface, curricularface, harder_others, magface, magface_norm_loss
from facekd.margins.drawn import elastic_arcface, elastic_cosface
from facekd.margins.fixed import arcface, combined, cosface, no_margin

# The formulas of the table `facekd.margins.table.MARGINS`, which has everything else about each margin.
MARGIN_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "none": no_margin,
    "arcface": arcface,
    "cosface": cosface,
    "combined": combined,
    "adaface": adaface,
    "curricularface": curricularface,
    "magface": magface,
    "elastic_arcface": elastic_arcface,
    "elastic_cosface": elastic_cosface,
}

# What margins with `learns_norms` add to the loss of each image: (norms (B,)) and the margin's arguments -> (B,).
NORM_LOSSES: dict[str, Callable[..., Tensor]] = {"magface": magface_norm_loss}

# What margins with `changes_others` do to the cosines of other classes: (cosine (B, n), margined target (B, 1)) and the
# margin's arguments -> new cosines and their slopes. Elementwise, so that training does it chunk by chunk.
OTHER_COSINES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"curricularface": harder_others}
