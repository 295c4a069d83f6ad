"""Describes what `facekd/head/chunked_loss.py` computes: the logits of a head, and the losses to take of them.

Shapes: B batch, D embedding, C classes (with shards, those of this process).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from facekd.errors import InputError
from facekd.head.class_shards import ClassShards
from facekd.head.classifier import LinearClassifier, MarginClassifier, OtherCosines
from facekd.head.loss_plan import TermKind

# A margin as this file calls it:
# (cosine (B, C), labels (B,), embedding (B, D) before it is normalised) -> cosine, such as
# `MarginClassifier.apply_margin`. Here it is only given the target cosines: C = 1.
TargetMargin = Callable[[Tensor, Tensor, Tensor], Tensor]
MakeOthers = Callable[[Tensor, Tensor], OtherCosines]


@dataclass(frozen=True, eq=False)
class LazyLogits:
    """Describes the logits of one classifier for one batch, without computing them.

    They are scale * cos(embedding, weight), or scale * (embedding . weight + bias) with `is_normalized` False.

    Args:
        embedding_BD: (B, D), floating, not normalised.
        weight_CD: (C, D), or (C, M D) with M sub-centres; gets a gradient if it requires one; for a frozen one none is
            computed.
        scale: factor on the scores.
        margin: applied to the target, by `CrossEntropy` only. Autograd computes its slope, so "straight_through" and
            any other choice of slope works.
        is_normalized: normalise embeddings and centres.
        bias_C: (C,), with `is_normalized` False only.
        product_dtype: a half type for the product of embeddings and centres; everything else stays float32.
        shards: which classes `weight_CD` holds, where they are split over processes.
        sample_C: (C,) with `shards` and partial FC, the places of the drawn classes, whose centres `weight_CD` holds.
        others: with a margin, makes the function that changes the scores of other classes, from the target's cosines
            and the same with margin; such as `MarginClassifier.make_others`.
        norm_loss: with a margin through whose norms the loss has a gradient, what is added to the loss of each image,
            (B, D) -> (B,).
        sub_centers: M, how many centres each class has, one behind the other in its row of `weight_CD`; the score of a
            class is that of the nearest. With `is_normalized` only.
    """

    embedding_BD: Tensor
    weight_CD: Tensor
    scale: float = 1.0
    margin: TargetMargin | None = None
    is_normalized: bool = True
    bias_C: Tensor | None = None
    product_dtype: torch.dtype | None = None
    shards: ClassShards | None = None
    sample_C: Tensor | None = None
    others: MakeOthers | None = None
    norm_loss: Callable[[Tensor], Tensor] | None = None
    sub_centers: int = 1

    def __post_init__(self) -> None:
        # Shapes, and what only a plain or only a normalised head may have.
        embedding, weight = self.embedding_BD, self.weight_CD
        if embedding.ndim != 2 or weight.ndim != 2 or embedding.shape[1] * self.sub_centers != weight.shape[1]:
            columns = "D" if self.sub_centers == 1 else f"{self.sub_centers} D"
            raise InputError(
                f"embeddings {tuple(embedding.shape)} do not fit class centres {tuple(weight.shape)}: they must be "
                f"(B, D) and (C, {columns}); project the embeddings where student and teacher differ in D"
            )
        if self.sub_centers != 1 and not self.is_normalized:
            raise InputError("sub-centres are compared by their cosines: they need is_normalized = True")
        if self.bias_C is not None and (self.is_normalized or self.bias_C.shape != weight.shape[:1]):
            raise InputError(
                f"a bias of {tuple(self.bias_C.shape)} for class centres {tuple(weight.shape)}: it must be (C,), and "
                "normalised heads have none"
            )
        if self.margin is not None and not self.is_normalized:
            raise InputError("a margin is made for cosines: it needs is_normalized = True")

    @classmethod
    def of(cls, classifier: MarginClassifier | LinearClassifier, embedding_BD: Tensor) -> LazyLogits:
        """Describes what `classifier(embedding_BD, labels_B)` computes, with its margin, scale and precision.

        In training mode AdaFace moves its running statistics when the loss is computed, as in the classifier.

        Raises:
            InputError: embeddings of another size.
        """
        # A linear head has no margin, scale, precision of its own or shards.
        if isinstance(classifier, LinearClassifier):
            return cls(embedding_BD, classifier.weight, is_normalized=False, bias_C=classifier.bias)
        # With partial FC, the centres of the drawn classes stand in for the weight.
        sample = classifier.sample
        return cls(
            embedding_BD,
            classifier.weight if sample is None else sample.weight_SD,
            scale=classifier.scale,
            margin=classifier.apply_margin,
            others=classifier.make_others if classifier.changes_others else None,
            norm_loss=classifier.norm_loss if classifier.learns_norms else None,
            product_dtype=classifier.product_dtype(embedding_BD.device.type),
            shards=classifier.shards,
            sample_C=None if sample is None else sample.places_S,
            sub_centers=classifier.config.sub_centers,
        )


@dataclass(frozen=True)
class CrossEntropy:
    """Asks for the mean cross-entropy of the logits, margin applied, with the labels."""

    logits: LazyLogits


@dataclass(frozen=True)
class Comparison:
    """Asks for a comparison of two heads' softmax at a temperature, without a margin on either side.

    The teacher's side gets no gradient. Each kind of comparison is a class below; docs/method.md has the equations.

    Args:
        student: the logits that learn.
        teacher: the logits to learn from, over the same classes.
        temperature: T, by which both are divided; each comparison is multiplied by its square.
        standardize: first scale each image's logits, on either side, to standard deviation 1 over all classes
            (Sun et al. 2024, arXiv:2403.01427). The size of logits is then not compared, and T counts in standard
            deviations.

    Raises:
        InputError: a temperature that is not positive.
    """

    kind: ClassVar[TermKind]
    leaves_out_target: ClassVar[bool] = False

    student: LazyLogits
    teacher: LazyLogits
    temperature: float = 4.0
    standardize: bool = False

    def __post_init__(self) -> None:
        check_temperature(self.temperature)


class KL(Comparison):
    """Asks for KL(teacher || student), summed over classes, mean over the batch (Hinton et al. 2015, arXiv:1503.02531).

    `facekd.distillation.kd_kl` computes the same from whole matrices of logits.
    """

    kind: ClassVar[TermKind] = "kl"


class TargetKL(Comparison):
    """Asks for the KL between (p of the label, 1 - p): TCKD of DKD (Zhao et al. 2022, arXiv:2203.08679, eq. 5 to 7)."""

    kind: ClassVar[TermKind] = "target kl"
    leaves_out_target = True


class OthersKL(Comparison):
    """Asks for the KL between the softmaxes over all classes but the label's: NCKD of DKD (as `TargetKL`)."""

    kind: ClassVar[TermKind] = "kl"
    leaves_out_target = True


class InterClass(Comparison):
    """Asks for 1 - the correlation between each image's probabilities (DIST, Huang et al. 2022, arXiv:2205.10536)."""

    kind: ClassVar[TermKind] = "inter class"


class IntraClass(Comparison):
    """Asks for 1 - the correlation between each class's probabilities over the images of this process (as DIST's)."""

    kind: ClassVar[TermKind] = "intra class"


def check_temperature(temperature: float) -> None:
    """Raises InputError where a temperature is not a positive number."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature = {temperature}: give a positive number, 4 is usual")
