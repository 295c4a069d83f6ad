"""Computes verification metrics from comparison scores: TAR@FAR, ROC, EER, k-fold accuracy and intervals."""

from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.kfold import KFoldAccuracy, balanced_folds, kfold_accuracy
from facekd.verification.metrics import (
    area_under_roc,
    equal_error_point,
    equal_error_rate,
    roc_curve,
    tar_at_far,
    tar_curve,
)
from facekd.verification.operating_points import (
    RULES,
    EqualErrorPoint,
    RocCurve,
    Rule,
    TarAtFar,
    far_threshold,
    num_allowed_false_accepts,
)
from facekd.verification.scores import fold_indices

__all__ = [
    "RULES",
    "EqualErrorPoint",
    "KFoldAccuracy",
    "RocCurve",
    "Rule",
    "TarAtFar",
    "area_under_roc",
    "balanced_folds",
    "equal_error_point",
    "equal_error_rate",
    "far_threshold",
    "fold_indices",
    "kfold_accuracy",
    "num_allowed_false_accepts",
    "roc_curve",
    "tar_at_far",
    "tar_curve",
    "wilson_interval",
]
