"""Verb `facekd threshold`: prints the threshold to deploy for a false match rate, and everything that it rests on."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from facekd.commands.command_line import CommandParser, real_number
from facekd.errors import run_verb
from facekd.faces.decisions import DEFAULT_FAR, percent
from facekd.results.reading import read_result
from facekd.results.thresholds import MeasuredThresholds, read_thresholds
from facekd.utils.foreign import shown
from facekd.utils.terminal import console, say
from facekd.utils.wording import agreeing, counted
from facekd.verification.groups.cell_rates import RULE_OF_3, RULE_OF_30, resolves
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.operating_points import TarAtFar

FORMAT, VERSION = "facekd-threshold", 1
EXAMPLE = """\
examples:
  facekd threshold runs/people --fmr 1e-4
  facekd threshold runs/people/results.json --fmr 1e-4 --json > threshold.json

RESULTS is what `facekd evaluate lfw`, `folder` (all pairs), `ijbc` (1:1) or `protocol` (sets with pairs) wrote, with
this false match rate among its FARs. Whether the threshold holds for other people is for another set to say; the last
line says how to ask it.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses, reads and prints."""
    arguments = _parse(argv)
    measured = read_thresholds(arguments.results)
    found = _describe(measured, measured.point_at(arguments.far), read_result(arguments.results))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd threshold",
        description="Prints the threshold to deploy for a false match rate, and what it rests on.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("results", metavar="RESULTS", help="the output folder of an evaluation, or its results.json")
    add(
        "--fmr",
        "--far",
        dest="far",
        type=real_number(0, 1, above=True),
        default=DEFAULT_FAR,
        metavar="F",
        help=f"share of impostor pairs that the threshold may accept, one of those measured (default: {DEFAULT_FAR:g})",
    )
    add("--json", action="store_true", help="print JSON instead of sentences (keys: docs/embedding.md)")
    return parser.parse_args(argv)


def _describe(measured: MeasuredThresholds, point: TarAtFar, result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that is known of a threshold, as plain values for JSON."""
    pair_set, dataset = result.get("pair_set") or {}, result.get("dataset") or {}
    model = measured.model
    return {
        "format": FORMAT,
        "version": VERSION,
        "threshold": point.threshold,
        "fmr": point.far,
        "from": str(measured.path),
        "set": measured.data,
        "set_digest": pair_set.get("sha256") or result.get("set_sha256") or dataset.get("fingerprint"),
        "protocol": result["protocol"]["text"],
        "flip": measured.flip,
        "num_impostor_people_pairs": result.get("num_impostor_people_pairs", pair_set.get("num_impostor_people_pairs")),
        "fmr_ci95": list(wilson_interval(point.false_accepts or 0, point.num_impostor)),
        "resolved": resolves(point.far, point.num_impostor),
        "point": asdict(point),
        "model": {
            key: model.get(key) for key in ("path", "sha256", "fingerprint", "preprocessing", "output", "assumed")
        },
        "remarks": list(measured.remarks),
        "command": result.get("command"),
    }


def _print(found: Mapping[str, Any]) -> None:
    """Prints the threshold in sentences."""
    point, screen = found["point"], console()
    say(screen, f" for FMR {found['fmr']:g}: two images are one person if their cosine is at least this",
        bold=f"threshold {found['threshold']!r}")  # fmt: skip
    people = found["num_impostor_people_pairs"]
    of_people = (
        f" of {counted(people, 'pair of people')}" if people else " (how many people are behind them is not known)"
    )
    low, high = found["fmr_ci95"]
    lines = [
        f"measured on   {found['set']} ({shown(found['from'])})",
        f"protocol      {shown(found['protocol'], 400)}",
        f"non-mated     {counted(point['num_impostor'], 'comparison')}{of_people}",
        f"FMR           {percent(point['achieved_far'])}, {point['false_accepts']:,} of them (95 % {percent(low)} .. "
        f"{percent(high)} if comparisons were independent; those of the same people are not, so expect it wider)",
        f"resolved      {_resolution(found)}",
        f"mated         {counted(point['num_genuine'], 'comparison')}",
        f"FNMR          {percent(1 - point['tar'])}{_fnmr_interval(point)}",
        *_model_lines(found["model"]),
        f"mirror image  {'add its embedding, as was done here' if found['flip'] else 'leave it out, as was done here'}",
        *(f"note          {shown(remark, 400)}" for remark in found["remarks"]),
    ]
    for line in lines:
        say(screen, line)
    say(
        screen,
        "It holds for this model with this preprocessing, and for people and images like these. On another set: "
        f"`facekd evaluate folder --model MODEL --images OTHERS {'--flip' if found['flip'] else '--no-flip'} "
        f"--thresholds-from {shlex.quote(found['from'])} --output RESULTS`",
    )


def _resolution(found: Mapping[str, Any]) -> str:
    """Says whether the comparisons are enough to show this false match rate."""
    rate, num = found["fmr"], found["point"]["num_impostor"]
    matches = float(f"{rate * num:.3g}")
    matches_are = agreeing(matches, "false match is", "false matches are")
    expected = f"{matches:,.3g} {matches_are} expected among {counted(num, 'comparison')}"
    if found["resolved"] == "well":
        return f"yes: {expected}, {RULE_OF_30} or more (rule of 30: the rate is known to within 30 %)"
    needed = f"{RULE_OF_30 / rate:,.0f} comparisons would be enough"
    if found["resolved"] == "barely":
        return f"barely: {expected}, fewer than {RULE_OF_30}; the order of magnitude is shown, {needed}"
    return (
        f"no: {expected}, fewer than {RULE_OF_3}, so that even no false match at all would not show a rate below "
        f"{rate:g} (rule of 3); {needed}"
    )


def _fnmr_interval(point: Mapping[str, Any]) -> str:
    bounds = point["ci95"]
    if bounds is None:
        return ""
    return f" (95 % {percent(1 - bounds[1])} .. {percent(1 - bounds[0])}, {shown(point['interval'] or 'interval')})"


def _model_lines(model: Mapping[str, Any]) -> list[str]:
    takes = model["preprocessing"] or {}
    parts = [f"{shown(key)} {shown(value)}" for key, value in takes.items()]
    if model["output"]:
        parts.append(f"output {shown(model['output'])}")
    lines = [
        f"model         {shown(Path(model['path'] or 'not named').name)}, fingerprint {shown(model['fingerprint'])}",
        f"SHA-256       {shown(model['sha256'] or 'not recorded')}",
        f"it takes      {'; '.join(parts) or 'not recorded'}",
    ]
    if model["assumed"]:
        assumed = ", ".join(shown(name) for name in model["assumed"])
        lines.append(f"assumed       {assumed}: neither recorded in the model nor given; check these first")
    return lines


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
