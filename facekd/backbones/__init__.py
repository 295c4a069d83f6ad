"""Builds backbones by name: `build_backbone("mobilefacenet", embedding_size=128)`."""

from typing import TYPE_CHECKING

from facekd.utils.lazy_names import lazy_names

if TYPE_CHECKING:
    from facekd.backbones.backbone import Backbone
    from facekd.backbones.building import BACKBONES, build_backbone, check_backbone, fixed_embedding_size
    from facekd.backbones.counting import count_macs, count_parameters
    from facekd.backbones.folding import (
        ProjectedBackbone,
        can_fold_projection,
        fold_batch_norms,
        fold_projection,
    )

# Imported at the first use of each: the config section in this folder is read without torch.
__getattr__ = lazy_names(
    __name__,
    {
        "BACKBONES": "facekd.backbones.building",
        "Backbone": "facekd.backbones.backbone",
        "ProjectedBackbone": "facekd.backbones.folding",
        "build_backbone": "facekd.backbones.building",
        "can_fold_projection": "facekd.backbones.folding",
        "check_backbone": "facekd.backbones.building",
        "count_macs": "facekd.backbones.counting",
        "count_parameters": "facekd.backbones.counting",
        "fixed_embedding_size": "facekd.backbones.building",
        "fold_batch_norms": "facekd.backbones.folding",
        "fold_projection": "facekd.backbones.folding",
    },
)

__all__ = [
    "BACKBONES",
    "Backbone",
    "ProjectedBackbone",
    "build_backbone",
    "can_fold_projection",
    "check_backbone",
    "count_macs",
    "count_parameters",
    "fixed_embedding_size",
    "fold_batch_norms",
    "fold_projection",
]
