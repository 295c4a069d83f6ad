"""Defines the `loss` section of a configuration, and the table of what each loss needs.

Nothing here needs torch, so that a configuration is read without it; facekd/distillation/losses.py computes the losses.

To add a loss: write its function, give it a weight and a row of `LOSS_NEEDS` here, and a row in losses.py.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from facekd.errors import ConfigError, InputError


class Need(enum.Flag):
    """Says what a loss needs besides the student's embedding."""

    OWN_HEAD = enum.auto()  # the student's own classifier
    TEACHER_HEAD = enum.auto()  # the teacher's frozen classifier
    TEACHER_EMBEDDING = enum.auto()  # the teacher's embeddings of the same images
    TEACHER_SPACE = enum.auto()  # the student's embedding in the teacher's space: projected where the sizes differ
    ANGLES = enum.auto()  # a margin on angles to class centres, which a linear classifier does not have
    MOVING_CENTRES = enum.auto()  # a copy of all the teacher's class centres on every process, moved by the loss
    MEMORY = enum.auto()  # a remembered embedding of every training image


_TAUGHT = Need.TEACHER_HEAD | Need.TEACHER_EMBEDDING
_COMPARED = Need.TEACHER_EMBEDDING | Need.TEACHER_SPACE

_OWN = Need.OWN_HEAD | _TAUGHT
_SHARED = _TAUGHT | Need.TEACHER_SPACE

# What each loss needs, by its name in the configuration: half of the table of losses. The other half, the functions, is
# `CLASS_LOSSES` and `EMBEDDING_LOSSES` of losses.py, which needs torch. tests/facekd/distillation/test_losses.py holds
# the names in both and the fields of `LossWeights` the same, and each function to the needs stated here.
LOSS_NEEDS: dict[str, Need] = {
    "ce": Need.OWN_HEAD,
    "kl": _OWN,
    "th_ce": Need.TEACHER_HEAD | Need.TEACHER_SPACE,
    "th_kl": _SHARED,
    "embedding_l2": _COMPARED,
    "embedding_cosine": _COMPARED,
    "rkd_distance": Need.TEACHER_EMBEDDING,
    "rkd_angle": Need.TEACHER_EMBEDDING,
    "sp": Need.TEACHER_EMBEDDING,
    "crd": Need.TEACHER_EMBEDDING | Need.MEMORY,
    "arcdistill": Need.TEACHER_HEAD | Need.TEACHER_SPACE | Need.ANGLES,
    "adadistill": _SHARED | Need.ANGLES | Need.MOVING_CENTRES,
    "simkd": _COMPARED,
    "dkd_target": _OWN,
    "dkd_others": _OWN,
    "dist_inter": _OWN,
    "dist_intra": _OWN,
    "th_dkd_target": _SHARED,
    "th_dkd_others": _SHARED,
    "th_dist_inter": _SHARED,
    "th_dist_intra": _SHARED,
}
# Losses that compare class scores at `loss.temperature`, through the student's own head; those through the teacher's
# have `th_` before their names.
COMPARED_SCORES = ("kl", "dkd_target", "dkd_others", "dist_inter", "dist_intra")


@dataclass(frozen=True)
class LossWeights:
    """Holds the `loss` section of a configuration: the weight of each loss, and how class scores are compared.

    A loss of weight 0 is not computed. The mix of TH-KD (arXiv:2201.06945, eq. 1 and 2) with weights CE and alpha and
    share a is ce = CE (1 - a), th_ce = CE a, kl = alpha (1 - a), th_kl = alpha a.

    Args:
        ce: cross-entropy of the student's own head, with its margin.
        kl: KL divergence between teacher and student, each through its own head (Hinton's KD).
        th_ce: cross-entropy of the teacher's frozen head on the student's embedding.
        th_kl: KL divergence between teacher and student, both through the teacher's frozen head.
        embedding_l2: squared distance between the directions of the embeddings, mean over the batch.
        embedding_cosine: 1 - cosine between the embeddings, mean over the batch.
        rkd_distance: distances within the batch; published code uses 25 together with rkd_angle = 50.
        rkd_angle: angles within the batch.
        sp: similarities within the batch; published code uses 3000.
        crd: contrastive distillation with a memory of all images; published code uses 0.8.
        arcdistill: margin cross-entropy on the teacher's frozen class centres.
        adadistill: the same on class centres that move; its authors use it alone (ce = 0).
        simkd: squared difference of features behind a projector.
        dkd_target: DKD, its alpha: KL of the label's probability against the rest; published code uses 1.
        dkd_others: DKD, its beta: KL among the other classes; published code uses 8, and 0.5 on ImageNet (T 1).
        dist_inter: DIST, its beta: 1 - correlation between an image's class probabilities; published code uses 2.
        dist_intra: DIST, its gamma: 1 - correlation between a class's probabilities over the batch; the same.
        th_dkd_target: dkd_target through the teacher's frozen head, on the student's embedding.
        th_dkd_others: dkd_others, likewise.
        th_dist_inter: dist_inter, likewise.
        th_dist_intra: dist_intra, likewise.
        plugin: weights of losses that plug-ins define, by name; see docs/extending.md.
        temperature: T of kl, dkd_*, dist_* and of th_kl, th_dkd_*, th_dist_*.
        standardize_logits: bring each image's logits to standard deviation 1 before the losses that have a temperature;
            T then counts in standard deviations. Published code uses T 2 with kl 9 (or DKD's weights times 9).

    Raises:
        ConfigError: a weight that is negative or not finite, no weight at all, or a temperature not positive.
    """

    ce: float = 1.0
    kl: float = 0.0
    th_ce: float = 0.0
    th_kl: float = 0.0
    embedding_l2: float = 0.0
    embedding_cosine: float = 0.0
    rkd_distance: float = 0.0
    rkd_angle: float = 0.0
    sp: float = 0.0
    crd: float = 0.0
    arcdistill: float = 0.0
    adadistill: float = 0.0
    simkd: float = 0.0
    dkd_target: float = 0.0
    dkd_others: float = 0.0
    dist_inter: float = 0.0
    dist_intra: float = 0.0
    th_dkd_target: float = 0.0
    th_dkd_others: float = 0.0
    th_dist_inter: float = 0.0
    th_dist_intra: float = 0.0
    temperature: float = 4.0
    standardize_logits: bool = False
    plugin: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {item.name for item in dataclasses.fields(self)}
        if unknown := [name for name in self.plugin if name in own or name not in LOSS_NEEDS]:
            raise ConfigError(f"loss.plugin.{unknown[0]}: no plug-in that is loaded defines a loss {unknown[0]!r}")
        for name, weight in self._weights().items():
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"loss.{name} = {weight}: a weight is a finite number, 0 (off) or more")
        if not math.isfinite(self.temperature) or self.temperature <= 0:
            raise ConfigError(f"loss.temperature = {self.temperature}: give a positive number, 4 is usual")
        if self.standardize_logits and not self.has_temperature:
            raise ConfigError(
                "loss.standardize_logits has no effect: no active loss has a temperature; remove it, or raise one of "
                f"{', '.join(f'loss.{name}' for name in COMPARED_SCORES)} (or the same with th_)"
            )
        if not self.active:
            names = ", ".join(f"loss.{name}" for name in self._weights())
            raise ConfigError(f"all weights under loss.* are 0, so nothing would be learned: raise one of {names}")

    @property
    def active(self) -> dict[str, float]:
        """Returns the losses to compute, with their weights: those above 0, in the order above."""
        return {name: weight for name, weight in self._weights().items() if weight > 0}

    def needs(self, need: Need) -> bool:
        """Returns whether an active loss needs any of these."""
        return any(LOSS_NEEDS[name] & need for name in self.active)

    def active_keys(self, need: Need | None = None) -> str:
        """Lists the keys of the active losses that need any of these (None: of all), for messages."""
        return ", ".join(f"loss.{name}" for name in self.active if need is None or LOSS_NEEDS[name] & need)

    def combine(self, terms: Mapping[str, Any]) -> Any:
        """Returns the weighted sum of losses, a 0-d tensor. (Tensors are `Any` here so that this file needs no torch.)

        Args:
            terms: name to value, a 0-d tensor, for at least the names in `active`; others are ignored, so they may be
                only logged.

        Raises:
            InputError: an active loss has no value.
        """
        missing = [f"loss.{name}" for name in self.active if name not in terms]
        if missing:
            raise InputError(f"no value was computed for {', '.join(missing)}: set the weight to 0 or compute it")
        parts = [weight * terms[name] for name, weight in self.active.items()]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _weights(self) -> dict[str, float]:
        names = (item.name for item in dataclasses.fields(self) if item.type == "float" and item.name != "temperature")
        return {name: getattr(self, name) for name in names} | self.plugin

    @property
    def has_temperature(self) -> bool:
        """Tells whether an active loss is given the temperature, which one of a plug-in may read."""
        return bool(self._with_temperature) or any(name in self.active for name in self.plugin)

    @property
    def _with_temperature(self) -> list[str]:
        """Returns the active losses that have a temperature."""
        return [name for name in self.active if name.removeprefix("th_") in COMPARED_SCORES]

    def shared(self, a: float) -> LossWeights:
        """Returns the weights with the share `a` of each loss that has a `th_` twin moved to that twin."""
        pairs = [(name, f"th_{name}") for name in ("ce", *COMPARED_SCORES)]
        moved = {own: (1 - a) * getattr(self, own) for own, _ in pairs}
        return dataclasses.replace(self, **moved, **{shared: a * getattr(self, own) for own, shared in pairs})

    def __str__(self) -> str:
        """Describes the losses in a few words, for logs: "ce 1, kl 1.5 (T 4)"."""
        words = [f"{name} {weight:g}" for name, weight in self.active.items()]
        if self._with_temperature:
            words[-1] += f" (T {self.temperature:g}{', standardised' if self.standardize_logits else ''})"
        return ", ".join(words)
