"""Defines the `head:` section of a training config and checks its values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from facekd.commands.config_files import check_choice, path_field
from facekd.errors import ConfigError
from facekd.margins.table import MARGINS, Gradient
from facekd.utils.wording import counted

DEFAULT_NORM_MOMENTUM = 0.01
MAX_SUB_CENTERS = 64  # each takes the memory of a whole classifier; the paper tries up to 10


@dataclass(frozen=True)
class HeadConfig:
    """Holds the `head` section of a configuration.

    A value that the chosen head would ignore is an error, so that no setting is lost silently.

    Args:
        kind: "margin" (normalised embeddings and centres, for faces) or "linear" (a plain layer, for image
            classification).
        margin: which margin, a name of `facekd.margins.table.MARGINS`; "none" is the normalised softmax.
        margin_value: radians for ArcFace, CurricularFace and elastic_arcface, units of cosine for CosFace and
            elastic_cosface, both for AdaFace; by default the paper's value (0.5, 0.35, 0.4).
        m1: factor on the angle, only for "combined"; default 1.
        m2: radians, only for "combined"; default 0.
        m3: units of cosine, only for "combined"; default 0.
        sub_centers: K of Sub-center ArcFace, centres of each class, of which an image counts by the nearest; 3 is usual
            where many labels are wrong (docs/method.md).
        scale: factor on the margined cosines. 64 is usual for faces; with few identities a smaller one is worth trying,
            see docs/method.md.
        gradient: "exact", or "straight_through" as arcface_torch computes it.
        margin_std: ElasticFace's standard deviation of the margins, which are drawn for each image (default 0.0125).
        margin_low: MagFace's margin at the norm `norm_low`, in radians (default 0.45).
        margin_high: its margin at the norm `norm_high` (default 0.8).
        norm_low: MagFace's lowest norm (default 10).
        norm_high: its highest norm (default 110).
        norm_weight: weight of MagFace's loss of the norm (default 35).
        h: AdaFace's concentration (default 0.333).
        norm_momentum: share of the new batch in AdaFace's running mean and deviation of norms (default 0.01).
        filter_above: inter-class filtering, as in arcface_torch: another class that an image comes nearer to than this
            cosine is taken for the same person under a second label, and its cosine counts as 0; 0 turns it off.
        product: precision of the product of embeddings and centres under autocast: "float32", or "autocast" for its
            half type, meant for very many classes; with bfloat16 each cosine is off by up to 0.002. At `precision`
            fp32 there is no autocast, and a run refuses this value.
        bias: whether a "linear" head has a bias (default True).
        sharded: split the classes of a "margin" head over the processes; for heads too large to copy to each.
        sample_rate: partial FC (arXiv:2203.15565): share of a sharded head's classes that take part in a step, drawn
            anew for each step; the classes of the batch always do. 1 takes all.
        weights: a checkpoint or the folder of a run whose classifier to start from, where it has the same people; by
            default the class centres are fresh. A resumed run does not read it.
    """

    kind: Literal["margin", "linear"] = "margin"
    margin: str = "arcface"
    margin_value: float | None = None
    m1: float | None = None
    m2: float | None = None
    m3: float | None = None
    sub_centers: int = 1
    scale: float = 64.0
    gradient: Gradient = "exact"
    margin_std: float | None = None
    margin_low: float | None = None
    margin_high: float | None = None
    norm_low: float | None = None
    norm_high: float | None = None
    norm_weight: float | None = None
    h: float | None = None
    norm_momentum: float | None = None
    filter_above: float = 0.0
    product: Literal["float32", "autocast"] = "float32"
    bias: bool | None = None
    sharded: bool = False
    sample_rate: float = 1.0
    weights: str = path_field()

    def __post_init__(self) -> None:
        check_choice("head.kind", self.kind, ("margin", "linear"))
        check_choice("head.margin", self.margin, tuple(MARGINS))
        check_choice("head.gradient", self.gradient, ("exact", "straight_through"))
        check_choice("head.product", self.product, ("float32", "autocast"))
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"head.scale = {self.scale}: give a positive number, 64 is usual")
        if not 0 < self.sample_rate <= 1:
            raise ConfigError(f"head.sample_rate = {self.sample_rate} is outside (0, 1]: it is a share of the classes")
        if not 1 <= self.sub_centers <= MAX_SUB_CENTERS:
            raise ConfigError(
                f"head.sub_centers = {self.sub_centers} is outside 1 to {MAX_SUB_CENTERS}: 1 is one centre for each "
                "class, 3 is usual"
            )
        if not 0 <= self.filter_above < 1:
            raise ConfigError(f"head.filter_above = {self.filter_above} is outside [0, 1): it is a cosine, 0 for none")
        self._refuse_unused()
        if self.kind == "linear":
            return
        # The margin's parameters, by their ranges in the table of margins.
        margin = MARGINS[self.margin]
        keys = [f"head.{margin.key(argument)}" for argument in margin.parameters]
        if margin.needs_a_value and not any(self._given(argument) is not None for argument in margin.parameters):
            raise ConfigError(
                f"head.margin = {self.margin!r} needs {', '.join(keys[:-1])} or {keys[-1]}; {margin.example}"
            )
        for (argument, parameter), key in zip(margin.parameters.items(), keys, strict=True):
            fault = parameter.find_fault(key, self.margin_arguments[argument])
            if fault:
                raise ConfigError(fault)
        for name in ("margin", "norm"):
            low, high = (self.margin_arguments.get(f"{name}_{end}", end == "high") for end in ("low", "high"))
            if not low < high:
                raise ConfigError(f"head.{name}_low = {low} must be below head.{name}_high = {high}")
        if self.norm_momentum is not None and not 0 < self.norm_momentum <= 1:
            raise ConfigError(f"head.norm_momentum = {self.norm_momentum} is outside (0, 1]")

    def _refuse_unused(self) -> None:
        """Refuses values that the head would ignore: they are mistakes, and something else would be trained."""
        is_margin = self.kind == "margin"
        if not is_margin:
            names = ("margin", "scale", "gradient", "filter_above", "product", "sharded", "sample_rate", "sub_centers")
            for name in names:
                if getattr(self, name) != getattr(type(self), name):
                    raise ConfigError(f"head.{name} = {getattr(self, name)} has no effect with head.kind = 'linear'")
        if self.sample_rate < 1 and not self.sharded:
            raise ConfigError(
                f"head.sample_rate = {self.sample_rate} has no effect without head.sharded: set it to true"
            )
        # Keys that only some heads use default to None; find out which of them this head uses.
        margin = MARGINS[self.margin]
        used = {entry.key(argument): False for entry in MARGINS.values() for argument in entry.parameters}
        used |= {margin.key(argument): is_margin for argument in margin.parameters}
        used |= {"norm_momentum": is_margin and margin.needs_norms, "bias": not is_margin}
        for name, is_used in used.items():
            if getattr(self, name) is not None and not is_used:
                found = f"head.margin = {self.margin!r}" if is_margin else "head.kind = 'linear'"
                raise ConfigError(f"head.{name} = {getattr(self, name)} has no effect with {found}: remove it")

    @property
    def margin_arguments(self) -> dict[str, float]:
        """Returns the margin's parameters by argument name, with defaults where none is given."""
        found = {}
        for argument, parameter in MARGINS[self.margin].parameters.items():
            given = self._given(argument)
            found[argument] = parameter.default if given is None else given
        return found

    def _given(self, argument: str) -> float | None:
        return getattr(self, MARGINS[self.margin].key(argument))

    def __str__(self) -> str:
        """Describes the head in a few words, for logs: "arcface 0.5, scale 64"."""
        if self.kind == "linear":
            return "linear" if self.bias is not False else "linear without bias"
        arguments = self.margin_arguments
        if "margin" in arguments:
            values = f"{arguments['margin']:g}"
        else:
            values = ", ".join(f"{name} {value:g}" for name, value in arguments.items())
        centres = f", {counted(self.sub_centers, 'sub-centre')}" if self.sub_centers > 1 else ""
        return f"{self.margin}{f' {values}' if values else ''}, scale {self.scale:g}{centres}"
