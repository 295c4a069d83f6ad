"""The `loss` section of a configuration: how much of which loss, and their weighted sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facekd.errors import InputError


@dataclass(frozen=True)
class LossWeights:
    """The `loss` section of a configuration: the weight of each loss in the sum, and the temperature of the KL.

    A loss of weight 0 is not computed. The mix of TH-KD (arXiv:2201.06945, eq. 1 and 2) with weights CE and alpha and
    share a is ce = CE (1 - a), th_ce = CE a, kl = alpha (1 - a), th_kl = alpha a.

    Args:
        ce: cross-entropy of the student's own head, with its margin.
        kl: `kd_kl` of the student's own head and the teacher.
        th_ce: cross-entropy of the teacher's frozen head on the student's embedding.
        th_kl: `kd_kl` of the teacher's frozen head on the student's embedding and the teacher.
        embedding_l2: `embedding_l2`, the mean over the batch.
        embedding_cosine: `embedding_cosine`.
        rkd_distance: `rkd_distance`; published code uses 25 together with rkd_angle = 50.
        rkd_angle: `rkd_angle`.
        sp: `sp`; published code uses 3000.
        crd: `ContrastiveDistillation`; published code uses 0.8.
        arcdistill: `arcdistill`, on the teacher's frozen class centres.
        adadistill: `adadistill`, on class centres that move; the authors use it alone (ce = 0).
        simkd: `simkd`, the squared difference of features behind a projector.
        temperature: T of kl and th_kl.

    Raises:
        InputError: a weight that is negative or not finite, no weight at all, or a temperature not positive.
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
    temperature: float = 4.0

    def __post_init__(self) -> None:
        for name, weight in self._weights().items():
            if not math.isfinite(weight) or weight < 0:
                raise InputError(f"loss.{name} = {weight}: a weight is a finite number, 0 (off) or more")
        if not math.isfinite(self.temperature) or self.temperature <= 0:
            raise InputError(f"loss.temperature = {self.temperature}: give a positive number, 4 is usual")
        if not self.active:
            names = ", ".join(f"loss.{name}" for name in self._weights())
            raise InputError(f"all weights under loss.* are 0, so nothing would be learned: raise one of {names}")

    @property
    def active(self) -> dict[str, float]:
        """The losses to compute and their weights: those above 0, in the order above."""
        return {name: weight for name, weight in self._weights().items() if weight > 0}

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
        names = (field.name for field in dataclasses.fields(self) if field.name != "temperature")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        """The losses in a few words, for logs: "ce 1, kl 1.5 (T 4)"."""
        words = [f"{name} {weight:g}" for name, weight in self.active.items()]
        softened = f" (T {self.temperature:g})" if self.kl > 0 or self.th_kl > 0 else ""
        return ", ".join(words) + softened
