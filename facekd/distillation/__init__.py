"""Holds the distillation losses: pure functions of student and teacher outputs for the same images.

Every loss returns a 0-d tensor, computed in float32 (float64 for float64 input) whatever autocast says. The teacher's
side is detached: no gradient reaches it. A loss is a mean over the batch unless its docstring says otherwise.
Embeddings are passed as the backbone returns them, not normalised.

Shapes: B batch, C classes, D the student's embedding size, E the teacher's. Equations, sources and our own choices:
docs/method.md. Import everything from here; it is defined in the files beside this one, by subject.
"""

from typing import TYPE_CHECKING

from facekd.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from facekd.distillation.centre_geometry import cosine_correlation, effective_dimension, spread_centres
    from facekd.distillation.centres import adadistill, adadistill_centres, arcdistill
    from facekd.distillation.contrastive import ContrastiveDistillation, ContrastiveSettings, contrastive_loss
    from facekd.distillation.diagnostics import (
        HeadComparison,
        compare_classifiers,
        embedding_similarity,
        relation_similarity,
    )
    from facekd.distillation.embeddings import embedding_cosine, embedding_l2, simkd
    from facekd.distillation.logits import kd_kl, mix
    from facekd.distillation.relations import rkd_angle, rkd_distance, sp
    from facekd.distillation.weights import LossWeights

# Imported at the first use of each: the config section in this folder is read without torch.
__getattr__ = lazy_names(
    __name__,
    {
        "ContrastiveDistillation": "facekd.distillation.contrastive",
        "ContrastiveSettings": "facekd.distillation.contrastive",
        "HeadComparison": "facekd.distillation.diagnostics",
        "LossWeights": "facekd.distillation.weights",
        "adadistill": "facekd.distillation.centres",
        "adadistill_centres": "facekd.distillation.centres",
        "arcdistill": "facekd.distillation.centres",
        "compare_classifiers": "facekd.distillation.diagnostics",
        "contrastive_loss": "facekd.distillation.contrastive",
        "cosine_correlation": "facekd.distillation.centre_geometry",
        "effective_dimension": "facekd.distillation.centre_geometry",
        "embedding_cosine": "facekd.distillation.embeddings",
        "embedding_l2": "facekd.distillation.embeddings",
        "embedding_similarity": "facekd.distillation.diagnostics",
        "kd_kl": "facekd.distillation.logits",
        "mix": "facekd.distillation.logits",
        "relation_similarity": "facekd.distillation.diagnostics",
        "rkd_angle": "facekd.distillation.relations",
        "rkd_distance": "facekd.distillation.relations",
        "simkd": "facekd.distillation.embeddings",
        "sp": "facekd.distillation.relations",
        "spread_centres": "facekd.distillation.centre_geometry",
    },
)

__all__ = [
    "ContrastiveDistillation",
    "ContrastiveSettings",
    "HeadComparison",
    "LossWeights",
    "adadistill",
    "adadistill_centres",
    "arcdistill",
    "compare_classifiers",
    "contrastive_loss",
    "cosine_correlation",
    "effective_dimension",
    "embedding_cosine",
    "embedding_l2",
    "embedding_similarity",
    "kd_kl",
    "mix",
    "relation_similarity",
    "rkd_angle",
    "rkd_distance",
    "simkd",
    "sp",
    "spread_centres",
]
