"""Computes the margins: pure functions that make the target cosine harder.

Every margin takes cosines (B, C) and labels (B,), replaces the one cosine of each row that belongs to the row's label,
and returns a new (B, C) tensor; multiply it by the scale and pass it to cross-entropy. Nothing is modified in place.
What CurricularFace does to the cosines of other classes is a function of its own, in `OTHER_COSINES`.
Values and gradients are computed in float32 (float64 for float64 input), whatever autocast says.

Training applies the same functions to the target cosines alone, as (B, 1) with labels of 0
(`facekd/head/chunked_loss.py`).

To add a margin, give it a row in `MARGINS` of table.py, its function in fixed.py, adaptive.py or drawn.py, and a row in
functions.py. One with a parameter that no other margin has also needs a key in facekd/head/config.py.
"""

from typing import TYPE_CHECKING

from facekd.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from facekd.margins.adaptive import (
        adaface,
        curricularface,
        harder_others,
        magface,
        magface_norm_loss,
        norm_statistics,
    )
    from facekd.margins.drawn import elastic_arcface, elastic_cosface
    from facekd.margins.fixed import arcface, combined, cosface, no_margin
    from facekd.margins.functions import MARGIN_FUNCTIONS, NORM_LOSSES, OTHER_COSINES
    from facekd.margins.table import MARGINS, Gradient, Margin, Parameter, check_margin_value

# Imported at the first use of each: configurations are read by the table alone, without torch.
__getattr__ = lazy_names(
    __name__,
    {
        "Gradient": "facekd.margins.table",
        "MARGINS": "facekd.margins.table",
        "MARGIN_FUNCTIONS": "facekd.margins.functions",
        "Margin": "facekd.margins.table",
        "NORM_LOSSES": "facekd.margins.functions",
        "OTHER_COSINES": "facekd.margins.functions",
        "Parameter": "facekd.margins.table",
        "adaface": "facekd.margins.adaptive",
        "arcface": "facekd.margins.fixed",
        "check_margin_value": "facekd.margins.table",
        "combined": "facekd.margins.fixed",
        "cosface": "facekd.margins.fixed",
        "curricularface": "facekd.margins.adaptive",
        "elastic_arcface": "facekd.margins.drawn",
        "elastic_cosface": "facekd.margins.drawn",
        "harder_others": "facekd.margins.adaptive",
        "magface": "facekd.margins.adaptive",
        "magface_norm_loss": "facekd.margins.adaptive",
        "no_margin": "facekd.margins.fixed",
        "norm_statistics": "facekd.margins.adaptive",
    },
)

__all__ = [
    "MARGINS",
    "MARGIN_FUNCTIONS",
    "NORM_LOSSES",
    "OTHER_COSINES",
    "Gradient",
    "Margin",
    "Parameter",
    "adaface",
    "arcface",
    "check_margin_value",
    "combined",
    "cosface",
    "curricularface",
    "elastic_arcface",
    "elastic_cosface",
    "harder_others",
    "magface",
    "magface_norm_loss",
    "no_margin",
    "norm_statistics",
]
