"""Defines the `head:` section of a training config and checks its values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from facekd.errors import ConfigError
from facekd.margin_values import DEFAULT_MARGIN_VALUES, MARGIN_NAMES, Gradient, MarginName, check_margin_value
from facekd.utils.config_files import check_choice


@dataclass(frozen=True)
class HeadConfig:
    """The `head` section of a configuration.

    A value that the chosen head would ignore is an error, so that no setting is lost silently.

    Args:
        kind: "margin" (normalised embeddings and centres, faces) or "linear" (a plain layer, image classification).
        margin: which margin: "arcface", "cosface", "combined", "adaface", or "none" for the normalised softmax.
        margin_value: radians for ArcFace, units of cosine for CosFace, both for AdaFace; the default is the one of the
            paper (0.5, 0.35, 0.4).
        m1: factor on the angle, only for "combined"; 1 where not given.
        m2: radians, only for "combined"; 0 where not given.
        m3: units of cosine, only for "combined"; 0 where not given.
        scale: what the margined cosines are multiplied by. 64 for faces; with few identities a smaller one is worth
            trying, see docs/method.md.
        gradient: "exact", or "straight_through" as arcface_torch computes it.
        h: AdaFace's concentration (default 0.333).
        norm_momentum: share of the new batch in AdaFace's running mean and deviation of norms (default 0.01).
        product: in which precision embeddings meet centres under autocast: "float32", or "autocast" for its half type,
            meant for very many classes; with bfloat16 each cosine is off by up to 0.002. Where there is no autocast, at
            `precision` fp32, a run refuses it.
        bias: whether a "linear" head has a bias (default True).
        sharded: share the classes out over the processes, for heads too large to be copied to each; a "margin" head's.
        sample_rate: the share of a sharded head's classes that take part in a step, drawn anew for each; those of the
            batch always do (PartialFC, arXiv:2203.15565). 1 takes all.
    """

    kind: Literal["margin", "linear"] = "margin"
    margin: MarginName = "arcface"
    margin_value: float | None = None
    m1: float | None = None
    m2: float | None = None
    m3: float | None = None
    scale: float = 64.0
    gradient: Gradient = "exact"
    h: float | None = None
    norm_momentum: float | None = None
    product: Literal["float32", "autocast"] = "float32"
    bias: bool | None = None
    sharded: bool = False
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        check_choice("head.kind", self.kind, ("margin", "linear"))
        check_choice("head.margin", self.margin, MARGIN_NAMES)
        check_choice("head.gradient", self.gradient, ("exact", "straight_through"))
        check_choice("head.product", self.product, ("float32", "autocast"))
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"head.scale = {self.scale}: give a positive number, 64 is usual")
        if not 0 < self.sample_rate <= 1:
            raise ConfigError(f"head.sample_rate = {self.sample_rate} is outside (0, 1]: it is a share of the classes")
        self._refuse_unused()
        if self.kind == "linear":
            return
        if self.margin == "combined":
            if self.m1 is None and self.m2 is None and self.m3 is None:
                raise ConfigError(
                    "head.margin = 'combined' needs head.m1, head.m2 or head.m3; ArcFace is head.m2 = 0.5"
                )
            for name, value in zip(("m1", "m2", "m3"), self.combined_values, strict=True):
                check_margin_value("combined", name, value, key=f"head.{name}")
        elif self.margin != "none":
            check_margin_value(self.margin, "margin", self.value, key="head.margin_value")
        if self.h is not None:
            check_margin_value("adaface", "h", self.h, key="head.h")
        if self.norm_momentum is not None and not 0 < self.norm_momentum <= 1:
            raise ConfigError(f"head.norm_momentum = {self.norm_momentum} is outside (0, 1]")

    def _refuse_unused(self) -> None:
        """A value that would be ignored is a mistake: say so rather than train something else."""
        is_margin = self.kind == "margin"
        if not is_margin:
            for name in ("margin", "scale", "gradient", "product", "sharded", "sample_rate"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ConfigError(f"head.{name} = {getattr(self, name)} has no effect with head.kind = 'linear'")
        if self.sample_rate < 1 and not self.sharded:
            raise ConfigError(
                f"head.sample_rate = {self.sample_rate} has no effect without head.sharded: set it to true"
            )
        used = {
            "margin_value": is_margin and self.margin in DEFAULT_MARGIN_VALUES,
            "m1": is_margin and self.margin == "combined",
            "m2": is_margin and self.margin == "combined",
            "m3": is_margin and self.margin == "combined",
            "h": is_margin and self.margin == "adaface",
            "norm_momentum": is_margin and self.margin == "adaface",
            "bias": not is_margin,
        }
        for name, is_used in used.items():
            if getattr(self, name) is not None and not is_used:
                found = f"head.margin = {self.margin!r}" if is_margin else "head.kind = 'linear'"
                raise ConfigError(f"head.{name} = {getattr(self, name)} has no effect with {found}: remove it")

    @property
    def value(self) -> float:
        """`margin_value`, or the margin's default; 0 where the margin has no single value."""
        return DEFAULT_MARGIN_VALUES.get(self.margin, 0.0) if self.margin_value is None else self.margin_value

    @property
    def combined_values(self) -> tuple[float, float, float]:
        """m1, m2 and m3, neutral where not given."""
        return (
            1.0 if self.m1 is None else self.m1,
            0.0 if self.m2 is None else self.m2,
            0.0 if self.m3 is None else self.m3,
        )

    def __str__(self) -> str:
        """The head in a few words, for logs: "arcface 0.5, scale 64"."""
        if self.kind == "linear":
            return "linear" if self.bias is not False else "linear without bias"
        if self.margin == "combined":
            values = "m1 {:g}, m2 {:g}, m3 {:g}".format(*self.combined_values)
            return f"combined {values}, scale {self.scale:g}"
        return f"{self.margin}{f' {self.value:g}' if self.value else ''}, scale {self.scale:g}"
