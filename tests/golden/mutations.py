"""Lists bugs that golden records of training must show: for each a name, a monkeypatch, and the runs that show it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from facekd.checkpoints.shared_head import SharedHead
from facekd.distillation.weights import LossWeights
from facekd.head.classifier import MarginClassifier
from facekd.head.config import HeadConfig
from facekd.training import loop, state, train_step


class Mutation(NamedTuple):
    """A bug put in by `apply`, and the golden runs in each of which it must show."""

    apply: Callable[[pytest.MonkeyPatch], None]
    runs: tuple[str, ...]


def wrap(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replaces a function by `change(original, *its arguments)`."""
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))


def lose_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(monkeypatch, state, "parameter_groups", lambda call, modules, decay, **rest: call(modules, 0.0, **rest))


def lower_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    change_optimizer(monkeypatch, momentum=0.85)


def wrong_betas(monkeypatch: pytest.MonkeyPatch) -> None:
    change_optimizer(monkeypatch, betas=(0.85, 0.999))


def change_optimizer(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    def build(call: Callable[..., Any], config: Any, groups: Any) -> Any:
        return call(dataclasses.replace(config, **changes), groups)

    wrap(monkeypatch, state, "build_optimizer", build)


def raise_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(monkeypatch, train_step, "set_learning_rate", lambda call, optimizer, lr: call(optimizer, 1.02 * lr))


def lose_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(call: Callable[..., float], config: Any, images_seen: int, total_images: int) -> float:
        return call(dataclasses.replace(config, warmup_images=0), images_seen, total_images)

    wrap(monkeypatch, loop, "learning_rate", rate)


def lose_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(monkeypatch, train_step, "clip_grad_norm_", lambda call, parameters, max_norm: call(parameters, math.inf))


def leave_average_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "ema_update", lambda *_: None)


def average_the_last_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "ema_decay", lambda *_: 0.0)


def lengthen_half_life(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(
        monkeypatch, train_step, "ema_decay", lambda call, images, half_life, seen: call(images, 1.1 * half_life, seen)
    )


def widen_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(config: HeadConfig) -> HeadConfig:
        return dataclasses.replace(config, margin_value=1.02 * config.margin_arguments["margin"])

    change_head(monkeypatch, change)


def raise_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    change_head(monkeypatch, lambda config: dataclasses.replace(config, scale=1.02 * config.scale))


def change_head(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    def build(call: Callable[..., None], head: Any, size: int, classes: int, config: Any, *rest: Any) -> None:
        call(head, size, classes, change(config), *rest)

    wrap(monkeypatch, MarginClassifier, "__init__", build)


def lose_squared_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    scale_weights(monkeypatch, dict.fromkeys(("kl", "th_kl"), 1 / LossWeights.temperature**2))


def thaw_teacher_head(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap(monkeypatch, SharedHead, "build", lambda call, *args, **kwargs: call(*args, **kwargs).requires_grad_(True))


def scale_weights(monkeypatch: pytest.MonkeyPatch, factors: Mapping[str, float]) -> None:
    def active(call: Callable[..., dict[str, float]], weights: LossWeights) -> dict[str, float]:
        return {name: factors.get(name, 1.0) * weight for name, weight in call(weights).items()}

    assert LossWeights.active.fget is not None
    original = LossWeights.active.fget
    monkeypatch.setattr(LossWeights, "active", property(lambda weights: active(original, weights)))


def weigh(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Returns a mutation that raises the weight of one loss by 2 %."""
    return lambda monkeypatch: scale_weights(monkeypatch, {name: 1.02})


SGD = ("arcface",)
MUTATIONS: dict[str, Mutation] = {
    "weight decay lost": Mutation(lose_weight_decay, ("arcface", "adamw", "th_kd")),
    "momentum 0.85": Mutation(lower_momentum, SGD),
    "learning rate x 1.02": Mutation(raise_learning_rate, ("arcface", "adamw", "th_kd")),
    "warm-up lost": Mutation(lose_warmup, SGD),
    "clipping lost": Mutation(lose_clipping, SGD),
    "average left behind": Mutation(leave_average_behind, SGD),
    "average of the last step": Mutation(average_the_last_step_alone, SGD),
    "half-life x 1.1": Mutation(lengthen_half_life, SGD),
    "margin x 1.02": Mutation(widen_margin, ("arcface", "cosface", "adaface")),
    "scale x 1.02": Mutation(raise_scale, ("arcface", "none")),
    "first beta 0.85": Mutation(wrong_betas, ("adamw",)),
    "squared temperature lost": Mutation(lose_squared_temperature, ("th_kd",)),
    "teacher's classifier not frozen": Mutation(thaw_teacher_head, ("th_kd",)),
    **{f"loss.{name} x 1.02": Mutation(weigh(name), ("th_kd",)) for name in ("ce", "kl", "th_ce", "th_kl")},
    **{
        f"loss.{name} x 1.02": Mutation(weigh(name), ("embeddings",))
        for name in ("embedding_l2", "rkd_distance", "rkd_angle")
    },
}
