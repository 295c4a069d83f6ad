"""Computes the learning rate as a pure function of the images seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from facekd.commands.config_files import check_choice, check_number
from facekd.errors import ConfigError
from facekd.utils.wording import counted


@dataclass(frozen=True)
class ScheduleConfig:
    """Holds the `schedule` section of a config.

    Args:
        name: "linear" (to `final_lr`), "cosine", "polynomial", "step" or "constant".
        lr: the peak learning rate, used as given: it is not rescaled with the batch size.
        final_lr: the learning rate at the end of linear, cosine and polynomial.
        warmup_images: number of images over which the rate rises to its peak; 0 for none. The decay starts after them.
        warmup_start: learning rate of the first step as a share of the peak; above 0, so that no step is wasted.
        milestones: for "step", where the rate drops: all as shares of the run (0 < m < 1), or all as images (m >= 1).
        gamma: for "step", the factor of the rate at each milestone.
        power: exponent of "polynomial".
    """

    name: Literal["linear", "cosine", "polynomial", "step", "constant"] = "linear"
    lr: float = 0.1
    final_lr: float = 0.0
    warmup_images: int = 0
    warmup_start: float = 0.01
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    power: float = 2.0

    def __post_init__(self) -> None:
        check_choice("schedule.name", self.name, ("linear", "cosine", "polynomial", "step", "constant"))
        check_number("schedule.lr", self.lr, self.lr > 0, "positive")
        check_number("schedule.final_lr", self.final_lr, 0 <= self.final_lr <= self.lr, "between 0 and schedule.lr")
        check_number("schedule.warmup_images", self.warmup_images, self.warmup_images >= 0, "at least 0")
        check_number("schedule.warmup_start", self.warmup_start, 0 < self.warmup_start < 1, "between 0 and 1")
        check_number("schedule.gamma", self.gamma, 0 < self.gamma < 1, "between 0 and 1")
        check_number("schedule.power", self.power, self.power > 0, "positive")
        if self.final_lr > 0 and self.name in ("step", "constant"):
            raise ConfigError(f"schedule.final_lr has no effect with schedule.name = {self.name!r}: remove it")
        if bool(self.milestones) != (self.name == "step"):
            raise ConfigError(
                "schedule.name = 'step' needs schedule.milestones, such as [0.5, 0.75]"
                if self.name == "step"
                else f"schedule.milestones has no effect with schedule.name = {self.name!r}: use 'step' or remove it"
            )
        if self.milestones:
            self._check_milestones()

    def _check_milestones(self) -> None:
        milestones = list(self.milestones)
        if any(not math.isfinite(m) or m <= 0 for m in milestones):
            raise ConfigError(f"schedule.milestones = {milestones}: give positive numbers")
        if len({m < 1 for m in milestones}) > 1:
            raise ConfigError(f"schedule.milestones = {milestones} mixes shares of the run (< 1) with images (>= 1)")
        if milestones != sorted(set(milestones)):
            raise ConfigError(f"schedule.milestones = {milestones}: give them in rising order, each once")

    def check(self, total_images: int) -> None:
        """Checks the schedule against the length of the run, before the run starts.

        Raises:
            ConfigError: the warm-up does not fit in the run, or a milestone lies outside it or in the warm-up.
        """
        if total_images < 1:
            raise ConfigError(f"a run of {counted(total_images, 'image')}: raise the number of epochs or images")
        if self.warmup_images and self.warmup_images >= total_images:
            raise ConfigError(
                f"schedule.warmup_images = {self.warmup_images} does not fit in a run of "
                f"{counted(total_images, 'image')}: shorten the warm-up or lengthen the run"
            )
        for milestone in self.milestones:
            image = milestone * total_images if milestone < 1 else milestone
            if not self.warmup_images <= image < total_images:
                raise ConfigError(
                    f"schedule.milestones: {milestone} is image {image:.0f}, which is not between the end of the "
                    f"warm-up (image {self.warmup_images}) and the end of the run (image {total_images})"
                )


def learning_rate(config: ScheduleConfig, images_seen: int, total_images: int) -> float:
    """Returns the learning rate of the step that starts after `images_seen` images.

    With a warm-up of W images the rate rises in a straight line from warmup_start * lr at image 0 to lr at image W; the
    decay then runs over the rest, t = (images_seen - W) / (total_images - W). Past the end the rate stays at its last
    value. The function is pure: it depends on nothing but its arguments.

    Args:
        config: the schedule.
        images_seen: images consumed before this step, 0 for the first.
        total_images: length of the run in images.

    Returns:
        The rate, at least 0. A linear decay to 0 reaches 0 only after the last step.

    Raises:
        ConfigError: a negative clock, or a schedule that does not fit in the run.
    """
    config.check(total_images)
    if images_seen < 0:
        raise ConfigError(f"images_seen = {images_seen} is negative")
    if images_seen < config.warmup_images:
        return config.lr * (config.warmup_start + (1 - config.warmup_start) * images_seen / config.warmup_images)
    if config.name == "constant":
        return config.lr
    if config.name == "step":
        passed = sum(images_seen >= (m * total_images if m < 1 else m) for m in config.milestones)
        return config.lr * config.gamma**passed
    progress = min(1.0, (images_seen - config.warmup_images) / (total_images - config.warmup_images))
    fallen = {
        "linear": progress,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
        "polynomial": 1 - (1 - progress) ** config.power,
    }[config.name]
    # Computed down from the peak, not up from the end, so that rounding keeps the peak exact and the fall monotone.
    return max(config.final_lr, config.lr - (config.lr - config.final_lr) * fallen)


def first_change(
    before: ScheduleConfig, total_before: int, after: ScheduleConfig, total_after: int, steps: range
) -> int | None:
    """Finds the first step at which two schedules give different learning rates; None if none does.

    Args:
        before: a schedule.
        total_before: length of its run in images.
        after: another schedule.
        total_after: length of its run in images.
        steps: images seen before each step.
    """
    for images in steps:
        if learning_rate(before, images, total_before) != learning_rate(after, images, total_after):
            return images
    return None
