"""Builds what measures a model while it is trained: training itself knows no benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facekd.training.config import TrainConfig
    from facekd.training.validation import HeadValidator, Validator


def make_validators(config: TrainConfig) -> list[Validator | HeadValidator]:
    """Builds the validators that a configuration asks for: packs of pairs, and the images of a classifier."""
    if not config.validation.packs and config.validation.classification == "none":
        return []
    from evaluation.validators import ClassificationValidator, PairSetValidator

    wanted = config.validation
    validators: list[Validator | HeadValidator] = [PairSetValidator(pack, flip=wanted.flip) for pack in wanted.packs]
    if wanted.classification != "none":
        validators.append(ClassificationValidator(config.data, wanted.classification))
    return validators
