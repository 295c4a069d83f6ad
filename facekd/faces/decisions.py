"""Decides by a threshold on the cosine whether two faces are of one person, and states what it is known to accept."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

from facekd.commands.command_line import COSINE, real_number
from facekd.errors import ConfigError
from facekd.results.thresholds import MeasuredThresholds, RatesAtCosine, read_thresholds
from facekd.utils.foreign import shown
from facekd.utils.wording import counted
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.operating_points import TarAtFar, false_accept_among

DEFAULT_FAR = 1e-3


@dataclass(frozen=True)
class Decision:
    """Holds a threshold, and what is known of it.

    Attributes:
        threshold: two faces whose cosine is not below it are taken for one person.
        measured: the thresholds of an evaluation; None if the threshold was given as a number alone.
        point: the operating point that the threshold is of; None for a threshold given as a number.
    """

    threshold: float
    measured: MeasuredThresholds | None = None
    point: TarAtFar | None = None

    def accepts(self, cosine: float) -> bool:
        """Tells whether two faces of this cosine are taken for one person."""
        return cosine >= self.threshold

    def rates_at(self, cosine: float) -> RatesAtCosine | None:
        """Returns the error rates of accepting a cosine; None if nothing was measured."""
        return None if self.measured is None else self.measured.rates_at(cosine)

    def describe(self) -> list[str]:
        """Says in sentences where the threshold is from and what it accepts."""
        if self.measured is None:
            return [f"threshold {self.threshold:.6g}, as given"]
        where = f"{self.measured.path} ({self.measured.data})"
        if self.point is None:
            rates = describe_rates(self.measured.rates_at(self.threshold))
            return [f"threshold {self.threshold:.6g}, as given; in {where} {rates} reach it", *self.measured.remarks]
        point = self.point
        assert point.tar is not None and point.achieved_far is not None and point.false_accepts is not None
        far_bounds = _interval(wilson_interval(point.false_accepts, point.num_impostor))
        tar_bounds = f" ({_interval(point.ci95)}, {shown(point.interval or 'interval')})" if point.ci95 else ""
        return [
            f"threshold {self.threshold:.6g}, that of FAR {point.far:g} in {where}",
            f"it accepted {point.false_accepts:,} of {counted(point.num_impostor, 'impostor pair')} there, "
            f"{percent(point.achieved_far)} ({far_bounds}, wilson)",
            f"and {percent(point.tar)} of {counted(point.num_genuine, 'genuine pair')}{tar_bounds}",
            *self.measured.remarks,
        ]

    def describe_search(self, num_faces: int) -> str | None:
        """Estimates how often a stranger is taken for somebody among many; None if no rate was measured.

        Args:
            num_faces: the number of faces that a probe is compared with.
        """
        if self.measured is None:
            return None
        if self.point is None or self.point.achieved_far is None:
            far = self.measured.rates_at(self.threshold).far
            rate = _range((false_accept_among(far[0], num_faces), false_accept_among(far[1], num_faces)))
        else:
            bounds = wilson_interval(self.point.false_accepts or 0, self.point.num_impostor)
            low, high = (false_accept_among(bound, num_faces) for bound in bounds)
            rate = f"{percent(false_accept_among(self.point.achieved_far, num_faces))} ({_interval((low, high))})"
        return (
            f"each probe is compared with {counted(num_faces, 'face')}: if comparisons erred independently, strangers "
            f"would be taken for somebody in {rate} of searches, 1 - (1 - FAR)^{num_faces}"
        )

    def as_json(self) -> dict[str, Any]:
        """Returns what is known in plain values for JSON."""
        source = None if self.measured is None else str(self.measured.path)
        return {
            "threshold": self.threshold,
            "from": source,
            "point": None if self.point is None else asdict(self.point),
        }


def add_decision_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--threshold`, `--thresholds` and `--far`."""
    group = parser.add_argument_group("the decision", "without one of these only cosines are shown")
    group.add_argument("--threshold", type=COSINE, metavar="C", help="least cosine of two faces of one person")
    group.add_argument(
        "--thresholds",
        metavar="RESULTS",
        help="take the threshold that `facekd evaluate lfw`, `folder`, `ijbc` or `protocol` measured with this model: "
        "its output folder or results.json",
    )
    group.add_argument(
        "--far",
        "--fmr",
        type=real_number(0, 1, above=True),
        metavar="F",
        help=f"share of impostor pairs that the threshold may accept, one of those measured (default: {DEFAULT_FAR:g})",
    )


def read_decision(arguments: argparse.Namespace) -> Decision | None:
    """Reads the threshold that the options of `add_decision_options` ask for; None if they ask for none.

    Raises:
        ConfigError: the options contradict each other, or that FAR was not measured.
        DataError: see `read_thresholds`.
    """
    if arguments.far is not None and (arguments.thresholds is None or arguments.threshold is not None):
        why = "--thresholds, which has them" if arguments.thresholds is None else "--threshold, which chooses otherwise"
        verb = "needs" if arguments.thresholds is None else "contradicts"
        raise ConfigError(f"--far chooses among measured thresholds: it {verb} {why}")
    if arguments.thresholds is None:
        return None if arguments.threshold is None else Decision(arguments.threshold)
    measured = read_thresholds(arguments.thresholds)
    if arguments.threshold is not None:
        return Decision(arguments.threshold, measured)
    point = measured.point_at(DEFAULT_FAR if arguments.far is None else arguments.far)
    assert point.threshold is not None
    return Decision(point.threshold, measured, point)


def how_to_measure(model: str, flip: bool | None) -> str:
    """Returns a sentence that says how to come by a threshold.

    Args:
        model: the file of the model.
        flip: whether the mirror images' embeddings are added; None if thresholds of both kinds do.
    """
    mirrored = "" if flip is None else " --flip" if flip else " --no-flip"
    return (
        "whether they are one person is for a threshold to say, which an evaluation measures: `facekd evaluate folder "
        f"--model {shown(model)} --images PEOPLE{mirrored} --output RESULTS`, then give --thresholds RESULTS"
    )


def describe_rates(rates: RatesAtCosine) -> str:
    """Says which shares of impostor and of genuine pairs reach a cosine."""
    return f"{_range(rates.far)} of impostor pairs and {_range(rates.tar)} of genuine pairs"


def percent(value: float) -> str:
    """Writes a share with three digits that count: `0.0012345` as `0.123 %`."""
    return f"{100 * value:.3g} %"


def _range(bounds: tuple[float, float]) -> str:
    low, high = bounds
    if low == high:
        return percent(low)
    if low <= 0:
        return f"at most {percent(high)}"
    return f"at least {percent(low)}" if high >= 1 else f"{percent(low)} to {percent(high)}"


def _interval(bounds: tuple[float, float]) -> str:
    return f"95 % interval {100 * bounds[0]:.3g} to {100 * bounds[1]:.3g} %"
