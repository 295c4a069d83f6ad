"""Finds what numbers of results.json cannot be together: a share that is not that of its counts, groups without rates.

Each function takes an object whose shape has been checked, and returns what is wrong in words that follow its name;
None if nothing is. What facekd has written agrees to the last digits (`ROUNDING`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from facekd.results.shape import ROUNDING
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

MAX_GROUPS = 64  # of an attribute: a matrix of more cells is no longer read by anybody
COSINE_ROUNDING = 1e-4  # of embeddings in float32, and of a threshold just above the highest cosine


def problem_of_point(point: Mapping[str, Any]) -> str | None:
    """Compares the rates of an operating point with its counts, and its interval with its TAR."""
    if point["tar"] is None:
        return None
    accepted, num_impostor = point["false_accepts"], point["num_impostor"]
    if not num_impostor or not point["num_genuine"] or accepted > num_impostor:
        return (
            f"has impossible counts: {accepted:,} false accepts among {num_impostor:,} impostor and "
            f"{counted(point['num_genuine'], 'genuine comparison')}"
        )
    return _problem_of_share("achieved_far", point["achieved_far"], accepted, num_impostor) or _problem_of_interval(
        "tar", point["tar"], point.get("ci95")
    )


def problem_of_rate(rate: Mapping[str, Any]) -> str | None:
    """Compares the error rate of some comparisons with its counts, and with its interval."""
    if rate["rate"] is None:
        return None
    if rate["errors"] > rate["num"] or not rate["num"]:
        return f"has impossible counts: {rate['errors']:,} errors among {counted(rate['num'], 'comparison')}"
    return _problem_of_share("rate", rate["rate"], rate["errors"], rate["num"]) or _problem_of_interval(
        "rate", rate["rate"], rate["ci95"]
    )


def problem_of_galleries(galleries: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Compares what galleries were measured at: tables have a row for each point of their mean."""
    for part, target in (("tpir_at_fpir", "fpir"), ("rank", "rank")):
        if len({tuple(point[target] for point in gallery[part]) for gallery in galleries.values()}) > 1:
            return f"has lists {part} that differ from gallery to gallery"
    return None


def problem_of_protocols(protocols: Sequence[Mapping[str, Any]]) -> str | None:
    """Compares the FARs that protocols were measured at: their table has a column for each."""
    lists = (entry["tar_at_far"] for entry in protocols if entry.get("tar_at_far"))
    if len({tuple(point["far"] for point in points) for points in lists}) > 1:
        return "has lists tar_at_far that differ from protocol to protocol"
    return None


def problem_of_attribute(attribute: Mapping[str, Any]) -> str | None:
    """Looks for the rates of each group, within itself and at its own threshold, at every operating point."""
    names = [group["name"] for group in attribute["groups"]]
    if len(names) > MAX_GROUPS:  # the page draws every group against every other
        return f"has {counted(len(names), 'group')}, and at most {MAX_GROUPS} are compared"
    for number, point in enumerate(attribute["points"]):
        if [entry["group"] for entry in point["groups"]] != names:
            return f"has other groups at points[{number}] than in its list"
        pairs = {(pair["first"], pair["second"]) for pair in point["pairs"]}
        if unknown := {name for pair in pairs for name in pair} - set(names):
            return f"has pairs of a group that is not in its list: {shown(min(unknown))}"
        if missing := [name for name in names if (name, name) not in pairs]:
            return f"has no pair of the group {shown(missing[0])} with itself at points[{number}]"
        own = [entry["own"] for entry in point["groups"]]
        if any(not one["reason"] and None in (one["threshold"], one["fmr"], one["fnmr"]) for one in own):
            return f"has a group without a threshold, or the reason why there is none, at points[{number}]"
    return None


def problem_of_cosines(result: Mapping[str, Any]) -> str | None:
    """Looks for thresholds that no cosine has, where cosines were compared and not normalised scores."""
    if result["protocol"].get("score", "cosine") != "cosine":
        return None
    for number, point in enumerate(result.get("tar_at_far") or []):
        threshold = point["threshold"]
        if point["tar"] is not None and abs(threshold) > 1 + COSINE_ROUNDING:
            return f"has in tar_at_far[{number}] the threshold {threshold:g}, and cosines are from -1 to 1"
    return None


def _problem_of_share(name: str, share: float, count: int, total: int) -> str | None:
    if abs(share - count / total) <= ROUNDING:
        return None
    return f"contradicts itself: its {name} is {share:g}, and {count:,} of {total:,} are {count / total:g}"


def _problem_of_interval(name: str, value: float, bounds: Sequence[float] | None) -> str | None:
    if bounds is None or bounds[0] - ROUNDING <= value <= bounds[1] + ROUNDING:
        return None
    return f"contradicts itself: its {name} {value:g} is not in its interval from {bounds[0]:g} to {bounds[1]:g}"
