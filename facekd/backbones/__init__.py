"""Builds backbones by name: `build_backbone("mobilefacenet", embedding_size=128)`."""

from facekd.backbones.backbone import Backbone
from facekd.backbones.building import BACKBONES, build_backbone, check_backbone, fixed_embedding_size
from facekd.backbones.counting import count_macs, count_parameters
from facekd.backbones.folded_norms import fold_batch_norms
from facekd.backbones.folding import ProjectedBackbone, fold_projection

__all__ = [
    "BACKBONES",
    "Backbone",
    "ProjectedBackbone",
    "build_backbone",
    "check_backbone",
    "count_macs",
    "count_parameters",
    "fixed_embedding_size",
    "fold_batch_norms",
    "fold_projection",
]
