"""Adds a margin: MV-Softmax on CosFace (Wang et al. 2020, arXiv:1912.00833, eq. 6 to 8), MV-AM-Softmax.

    facekd train CONFIG.yaml --plugin examples/mv_softmax_margin.py --head.margin mv_softmax

The target's cosine is lowered by the margin. Cosines of other classes that still exceed it belong to images that are
misclassified; they are raised, from c to t c + t - 1.
"""

import torch

from facekd.margins import Margin, Parameter, cosface

T = 1.12  # the authors' value


def raise_misclassified(
    cosine: torch.Tensor, margined: torch.Tensor, *, mean_target: torch.Tensor, margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the cosines (B, n) of other classes and their slopes; `margined` is the target, (B, 1)."""
    is_misclassified = cosine > margined
    raised = torch.where(is_misclassified, T * cosine + T - 1, cosine)
    return raised, torch.where(is_misclassified, T, 1.0).to(cosine.dtype)


ROW = Margin(
    {"margin": Parameter(0.35, 0.0, 2.0, "units of cosine", includes_high=True, key="margin_value")},
    changes_others=True,
)
MARGINS = {"mv_softmax": (ROW, cosface, raise_misclassified)}
