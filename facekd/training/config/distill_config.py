"""Defines the configuration of `facekd distill`: that of training, with a teacher and losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from facekd.commands.config_files import require
from facekd.commands.plain_configs import differences, to_plain
from facekd.distillation.weights import LOSS_NEEDS, LossWeights, Need
from facekd.teacher.config import TeacherConfig
from facekd.training.config.train_config import TrainConfig


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """Configures a student that learns from a teacher, through a shared classifier, by embeddings, or both.

    Args:
        teacher: the teacher, its classifier, and a cache of its embeddings.
        teachers: several teachers, in place of one: a list of such sections, with a weight each. Losses on embeddings
            learn from all of them.
        combine_teachers: mean takes the mean of the teachers' directions for the teacher's embedding; each computes
            every loss with each teacher, and adds up by their weights.
        loss: which losses, and the weight of each.
        share: a of TH-KD's equations 1 and 2, from 0 to 1: this share of loss.ce and of loss.kl, dkd_* and dist_* goes
            to the teacher's frozen classifier on the student's embedding, the rest to the student's own. At 1 the
            student has no classifier of its own. Leave it out to weight the th_ losses yourself.
        margin_on_teacher_head: whether th_ce applies the margin of `head` on the teacher's classifier; a linear head
            has none.
    """

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    teachers: tuple[TeacherConfig, ...] = field(default=(), metadata={"entries": TeacherConfig})
    combine_teachers: Literal["mean", "each"] = "mean"
    loss: LossWeights = field(default_factory=LossWeights)
    share: float | None = None
    margin_on_teacher_head: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share is not None:
            require(0 <= self.share <= 1, f"share = {self.share} is outside [0, 1]: it is a of TH-KD's equations")
            th = [
                f"loss.{name}" for name in self.loss.active if name.startswith("th_") and name not in self.loss.plugin
            ]
            require(
                not th,
                "share spreads loss.ce, loss.kl and whatever else has a th_ twin over both heads, so "
                f"{', '.join(th)} must be left at 0",
            )
        self._check_teachers()
        self._check_losses()
        cached = [teacher for teacher in self.all_teachers if teacher.cache]
        require(
            not self.augmentation.changes_pixels or all(teacher.cache_despite_augmentation for teacher in cached),
            "teacher.cache holds the teacher's embeddings of unchanged images, but augmentation changes them by "
            "more than the flip: turn that off, leave the cache out, or set teacher.cache_despite_augmentation",
        )
        require(
            not self.data.center_crop or all(teacher.cache_despite_augmentation for teacher in cached),
            "teacher.cache holds the teacher's embeddings of whole images, and data.center_crop shows the student the "
            "middle of each: leave one of them out, or set teacher.cache_despite_augmentation",
        )
        require(
            not cached or not self.data.held_out,
            "teacher.cache finds embeddings by image number, and data.held_out renumbers the remaining images: set it "
            "to 0, or leave the cache out",
        )
        require(
            not cached or self.data.on_bad_record == "fail",
            "teacher.cache finds embeddings by image number, but data.on_bad_record = 'skip' replaces bad images by "
            "others: use 'fail', or leave the cache out",
        )

    @property
    def all_teachers(self) -> tuple[TeacherConfig, ...]:
        """Returns the teachers: those of the list, or the one."""
        return self.teachers or (self.teacher,)

    def _check_teachers(self) -> None:
        """Checks that there is one teacher, or several that the losses can learn from.

        Raises:
            ConfigError: there is not.
        """
        combine, loss = f"combine_teachers = {self.combine_teachers!r}", self.effective_loss
        if not self.teachers:
            require(self.combine_teachers == "mean", f"{combine} has no effect: one teacher is named, not several")
            require(self.teacher.weight == 1, "teacher.weight has no effect: one teacher is named, not several")
            return
        kept = differences(to_plain(TeacherConfig()), to_plain(self.teacher))
        require(
            not kept,
            f"teacher.{next(iter(kept), '')} is set beside teachers: give what holds for a teacher in its own section "
            "below teachers, and leave teacher out",
        )
        require(len(self.teachers) > 1, "teachers lists one teacher: name it under teacher, which takes every loss")
        for number, teacher in enumerate(self.teachers):
            where = f"teachers.{number}"
            require(bool(teacher.model or teacher.cache), f"{where}: name its model, its cache, or both")
            require(
                not teacher.head,
                f"{where}.head is the classifier of one teacher, and no loss can learn through it from several: leave "
                "it out, or distil from this teacher alone",
            )
        # Class scores are those of one classifier, and it belongs to one of the teachers.
        belongs = f"which belongs to one of them, and teachers names {len(self.teachers)}"
        require(
            not loss.needs(Need.TEACHER_HEAD),
            f"{loss.active_keys(Need.TEACHER_HEAD)}{'' if self.share is None else ' (by share)'}: this goes by the "
            f"teacher's classifier, {belongs}: use losses on embeddings, such as loss.embedding_cosine, or name one "
            "under teacher",
        )
        require(
            self.head.kind != "linear" or loss.needs(Need.OWN_HEAD),
            "a student with head.kind = 'linear' and without loss.ce predicts with its teacher's classifier, "
            f"{belongs}: raise loss.ce, or name one under teacher",
        )
        require(
            self.combine_teachers == "mean" or not loss.needs(Need.MEMORY),
            f"{loss.active_keys(Need.MEMORY)} remembers the embeddings of one teacher, and {combine} asks for "
            f"{len(self.teachers)}: set combine_teachers to 'mean'",
        )

    def _check_losses(self) -> None:
        """Checks that teacher, head and losses fit together.

        Raises:
            ConfigError: they do not.
        """
        # A teacher for the losses that need one.
        loss = self.effective_loss
        require(
            set(loss.active) != {"ce"},
            "loss.ce alone is training without a teacher: `facekd train` does that. Raise another weight, or set share",
        )
        require(
            bool(self.teachers or self.teacher.model or self.teacher.cache) or not loss.needs(Need.TEACHER_EMBEDDING),
            "teacher.model is empty: name a checkpoint, a run, or an ONNX file (or teacher.cache)",
        )
        # A linear head has no angles, and no margin.
        if self.head.kind == "linear":
            require(
                not loss.needs(Need.ANGLES),
                f"{loss.active_keys(Need.ANGLES)} puts a margin on angles to class centres, and head.kind is 'linear': "
                "use loss.th_ce, the plain cross-entropy of the teacher's classifier, or head.kind = 'margin'",
            )
            require(
                self.margin_on_teacher_head,
                "margin_on_teacher_head has no effect with head.kind = 'linear', which has no margin: remove it",
            )
        # A sharded head needs a loss that uses it, and none that needs all centres on each process.
        require(
            not (self.head.sharded and loss.needs(Need.MOVING_CENTRES)),
            f"{loss.active_keys(Need.MOVING_CENTRES)} moves a copy of the teacher's centres that every process holds "
            "whole: set head.sharded to false, or leave it out",
        )
        heads = Need.OWN_HEAD | Need.TEACHER_HEAD
        with_head = [n for n, need in LOSS_NEEDS.items() if need & heads and not need & Need.MOVING_CENTRES]
        require(
            not self.head.sharded or loss.needs(heads),
            f"head.sharded{' and head.sample_rate have' if self.head.sample_rate < 1 else ' has'} no effect: "
            f"{loss.active_keys()} go by embeddings alone, and no classifier takes part; "
            f"remove it, or raise the weight of a loss that has one ({', '.join(f'loss.{n}' for n in with_head)})",
        )
        require(
            self.head.sub_centers == 1 or loss.needs(Need.OWN_HEAD),
            f"head.sub_centers = {self.head.sub_centers} has no effect: {loss.active_keys()} use no classifier of the "
            "student's own, and the teacher's stays as it is; remove it, or raise loss.ce",
        )
        # The teacher's classifier, for the losses that need it.
        require(
            bool(self.teacher.model or self.teacher.head) or not loss.needs(Need.TEACHER_HEAD),
            f"{loss.active_keys(Need.TEACHER_HEAD)} needs the teacher's classifier: set teacher.model to its "
            "checkpoint or run, or teacher.head to what `facekd rebuild-head` writes",
        )

    def _check_unlabelled(self) -> None:
        """Checks that without labels no classifier takes part.

        Raises:
            ConfigError: a loss or the head needs one.
        """
        if not self.data.unlabelled:
            return
        heads = Need.OWN_HEAD | Need.TEACHER_HEAD
        others = ", ".join(f"loss.{name}" for name, need in LOSS_NEEDS.items() if not need & heads)
        require(
            not self.effective_loss.needs(heads),
            f"{self.effective_loss.active_keys(heads)} compares the classes of a classifier, and images without labels "
            f"(data.unlabelled) belong to none: set it to 0 and take losses on embeddings alone ({others})",
        )
        require(
            self.head.kind == "margin",
            f"head.kind = {self.head.kind!r} with data.unlabelled: there is no classifier without labels; remove it",
        )

    @property
    def effective_loss(self) -> LossWeights:
        """Returns the loss weights after `share` has been applied."""
        return self.loss if self.share is None else self.loss.shared(self.share)
