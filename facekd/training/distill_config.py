"""The configuration of a distillation: that of training, and what the teacher has to do with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from facekd.distillation.weights import LossWeights
from facekd.teacher.config import TeacherConfig
from facekd.training.config import TrainConfig
from facekd.utils.config_files import require

# Losses that compare the student's embedding with the teacher's, or put it before the teacher's class centres.
IN_TEACHER_SPACE = ("th_ce", "th_kl", "embedding_l2", "embedding_cosine", "arcdistill", "adadistill", "simkd")
OF_OWN_HEAD = ("ce", "kl")
OF_TEACHER_HEAD = ("kl", "th_ce", "th_kl", "arcdistill", "adadistill")
WITHOUT_TEACHER_EMBEDDING = ("ce", "th_ce", "arcdistill")
OF_ANGLES = ("arcdistill", "adadistill")  # a margin on cosines, which a linear classifier does not have


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """A backbone that learns from a teacher, through a shared classifier, by embeddings, or both.

    Args:
        teacher: whom it learns from.
        loss: which losses, and how much of each.
        share: a of TH-KD's equations 1 and 2, from 0 to 1: this share of loss.ce and loss.kl goes to the teacher's
            frozen classifier on the student's embedding, the rest to the student's own. At 1 the student has no other.
            Leave it out to weigh loss.th_ce and loss.th_kl yourself.
        margin_on_teacher_head: whether th_ce demands the margin of `head` there too; a linear head has none.
        diagnostics: compare the two classifiers, class by class, at the end.
    """

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    share: float | None = None
    margin_on_teacher_head: bool = True
    diagnostics: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share is not None:
            require(0 <= self.share <= 1, f"share = {self.share} is outside [0, 1]: it is a of TH-KD's equations")
            require(
                self.loss.th_ce == 0 and self.loss.th_kl == 0,
                "share spreads loss.ce and loss.kl over both heads, so loss.th_ce and loss.th_kl must be left at 0",
            )
        active = self.effective_loss.active
        require(
            set(active) != {"ce"},
            "loss.ce alone is training without a teacher: `facekd train` does that. Raise another weight, or set share",
        )
        require(
            bool(self.teacher.model or self.teacher.cache) or set(active) <= set(WITHOUT_TEACHER_EMBEDDING),
            "teacher.model is empty: name a checkpoint, a run, or an ONNX file (or teacher.cache)",
        )
        if self.head.kind == "linear":
            angular = ", ".join(f"loss.{name}" for name in active if name in OF_ANGLES)
            require(
                not angular,
                f"{angular} puts a margin on angles to class centres, and head.kind is 'linear': use loss.th_ce, the "
                "plain cross-entropy of the teacher's classifier, or head.kind = 'margin'",
            )
            require(
                self.margin_on_teacher_head,
                "margin_on_teacher_head has no effect with head.kind = 'linear', which has no margin: remove it",
            )
        require(
            not (self.head.sharded and "adadistill" in active),
            "loss.adadistill moves a copy of the teacher's centres that every process holds whole: set head.sharded to "
            "false, or leave it out",
        )
        require(
            not self.head.sharded or self.needs((*OF_OWN_HEAD, *OF_TEACHER_HEAD)),
            f"head.sharded{' and head.sample_rate have' if self.head.sample_rate < 1 else ' has'} no effect: "
            f"{', '.join(f'loss.{name}' for name in active)} go by embeddings alone, and no classifier takes part; "
            "remove it, or raise the weight of a loss that has one (loss.ce, loss.kl, loss.th_ce, loss.th_kl)",
        )
        through_head = ", ".join(f"loss.{name}" for name in active if name in OF_TEACHER_HEAD)
        require(
            bool(self.teacher.model or self.teacher.head) or not through_head,
            f"{through_head} needs the teacher's classifier: set teacher.model to its checkpoint or run, or "
            "teacher.head to what `facekd rebuild-head` writes",
        )
        require(
            not self.teacher.cache or not self.augmentation.changes_pixels or self.teacher.cache_despite_augmentation,
            "teacher.cache holds what the teacher says of the images as they are, but augmentation changes them by "
            "more than the flip: turn that off, leave the cache out, or set teacher.cache_despite_augmentation",
        )
        require(
            not self.teacher.cache or not self.data.held_out,
            "teacher.cache goes by the number of the image among all, and data.held_out numbers what is left anew: set "
            "it to 0, or leave the cache out",
        )
        require(
            not self.teacher.cache or self.data.on_bad_record == "fail",
            "teacher.cache goes by the number of the image, but data.on_bad_record = 'skip' puts others in the place "
            "of bad ones: use 'fail', or leave the cache out",
        )

    @property
    def effective_loss(self) -> LossWeights:
        """`loss` with `share` worked in."""
        if self.share is None:
            return self.loss
        a, ce, kl = self.share, self.loss.ce, self.loss.kl
        return dataclasses.replace(self.loss, ce=(1 - a) * ce, th_ce=a * ce, kl=(1 - a) * kl, th_kl=a * kl)

    def needs(self, losses: tuple[str, ...]) -> bool:
        """Whether any of these losses is active."""
        return any(name in self.effective_loss.active for name in losses)
