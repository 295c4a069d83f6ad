"""Says what readers of results.json rely on, and checks it: the file may come from elsewhere, or be edited by hand.

A key that begins with `?` may be absent or null, one that begins with `~` may be null. What stands under `if KEY` is
needed where that key is there and not null. Keys that are not listed are free (docs/results.md has all).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facekd.errors import DataError
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

# The formats of results.json that an evaluation writes.
LFW_FORMAT, SUMMARY_FORMAT = "facekd-verification", "facekd-verification-summary"
IJB_FORMAT, FOLDER_FORMAT, CLASSIFICATION_FORMAT = "facekd-ijb", "facekd-folder", "facekd-classification"
ROBUSTNESS_FORMAT, PROTOCOL_FORMAT = "facekd-robustness", "facekd-protocol"
FORMATS = (
    *(LFW_FORMAT, SUMMARY_FORMAT, IJB_FORMAT, FOLDER_FORMAT, CLASSIFICATION_FORMAT),
    *(ROBUSTNESS_FORMAT, PROTOCOL_FORMAT),
)
NUMBER, COUNT, TEXT = "a number", "a whole number", "text"
MAX_NUMBER = 1e300
INTERVAL = (NUMBER, NUMBER)
MEASURED = {"threshold": NUMBER, "false_accepts": COUNT, "achieved_far": NUMBER}
POINT: dict[str, Any] = {
    "far": NUMBER,
    "~tar": NUMBER,
    "num_genuine": COUNT,
    "num_impostor": COUNT,
    "~reason": TEXT,
    "~interval": TEXT,
    "~ci95": INTERVAL,
    "~threshold": NUMBER,
    "~false_accepts": COUNT,
    "~achieved_far": NUMBER,
    "if tar": MEASURED,
}
PROTOCOL = {"text": TEXT, "?name": TEXT}
NAMED = "a protocol or its name"
FOUND: dict[str, Any] = {"fpir": NUMBER, "~tpir": NUMBER, "?threshold": NUMBER, "?ci95": INTERVAL, "?reason": TEXT}
SIZES = {"?num_gallery": COUNT, "?num_mated": COUNT, "?num_nonmated": COUNT}
GALLERY: dict[str, Any] = {
    "tpir_at_fpir": [FOUND],
    "rank": [{"rank": COUNT, "~rate": NUMBER, "?ci95": INTERVAL}],
    "?mean_average_precision": {"~value": NUMBER, "~ci95": INTERVAL},
    **SIZES,
}
IDENTIFICATION: dict[str, Any] = {"*": GALLERY, "mean": GALLERY}
WORST = [{"pair": COUNT, "score": NUMBER, "first": COUNT, "second": COUNT}]
PROBLEM: dict[str, Any] = {"kind": TEXT, "severity": TEXT, "count": COUNT, "text": TEXT, "examples": [TEXT]}
FOLDER_COUNTS = {f"num_{what}": COUNT for what in ("people", "gallery", "distractors", "probes")}
GROUP_RATE: dict[str, Any] = {
    "num": COUNT,
    "errors": COUNT,
    "~rate": NUMBER,
    "~ci95": INTERVAL,
    "~interval": TEXT,
    "support": TEXT,
}
TRANSFERRED_POINT: dict[str, Any] = {
    "far": NUMBER,
    "threshold": NUMBER,
    "there": {"fmr": NUMBER, "fnmr": NUMBER},
    "fmr": GROUP_RATE,
    "fnmr": GROUP_RATE,
    "verdict": TEXT,
}
RATIO: dict[str, Any] = {"~value": NUMBER, "?ci95": INTERVAL, "?reason": TEXT}
TO_OTHERS: dict[str, Any] = {"ratio_to_others": RATIO, "minus_others": RATIO}
OWN: dict[str, Any] = {"~threshold": NUMBER, "~fnmr": NUMBER, "~ci95": INTERVAL, "~reason": TEXT}
DIFFERENTIALS: dict[str, Any] = dict.fromkeys(("worst_ratio", "geometric_mean_ratio", "gini"), RATIO)
GROUP_POINT: dict[str, Any] = {
    "far": NUMBER,
    "threshold": NUMBER,
    "pairs": [{"first": TEXT, "second": TEXT, "fmr": GROUP_RATE, "fnmr": GROUP_RATE}],
    "groups": [{"group": TEXT, "fmr": TO_OTHERS, "fnmr": TO_OTHERS, "own": OWN}],
    "differentials": {"fmr": DIFFERENTIALS, "fnmr": DIFFERENTIALS},
}
ATTRIBUTE: dict[str, Any] = {
    "name": TEXT,
    "groups": [{"name": TEXT, "num_people": COUNT}],
    "points": [GROUP_POINT],
    "notes": [TEXT],
    "thin": [TEXT],
}
MEASURES: dict[str, Any] = {
    "?tar_at_far": [POINT],
    "?eer": NUMBER,
    "?eer_ci95": INTERVAL,
    "?identification": IDENTIFICATION,
}
AREA = {"limit": NUMBER, "~relative_pairs": NUMBER, "~relative_pairs_ci95": INTERVAL}
DISCARD = {"far": NUMBER, "fnmr": NUMBER, **{f"fnmr_by_{kind}": [NUMBER] for kind in ("pairs", "samples")}}
QUALITY = {"text": TEXT, "samples": TEXT, "curves": [{**DISCARD, "discarded": [NUMBER], "areas": [AREA]}]}
RESULT: dict[str, Any] = {
    **MEASURES,
    "?quality": QUALITY,
    "protocol": PROTOCOL,
    "?auc": NUMBER,
    "?num_genuine": COUNT,
    "?num_impostor": COUNT,
    "?num_people": COUNT,
    "?num_images": COUNT,
    "?model": {"?path": TEXT, "?fingerprint": TEXT, "?sha256": TEXT, "?assumed": [TEXT], "?preprocessing": {}},
    "?embeddings": {"?path": TEXT},
    "if eer": {"auc": NUMBER, "num_genuine": COUNT, "num_impostor": COUNT},
    "if num_images": {"num_people": COUNT},
    "if num_genuine_people": {"num_impostor_people_pairs": COUNT},
    "?num_genuine_people": COUNT,
    "?notes": [TEXT],
    "?command": TEXT,
    "?software": {},
    "?seconds": {},
    "?dropped": {},
    "?calibration": {},
    "?bootstrap": {},
    "?score_norm": {"kind": TEXT, "cohort": TEXT, "num_images": COUNT},
    "?transferred": {"path": TEXT, "set": TEXT, "points": [TRANSFERRED_POINT]},
    "?groups": {"path": TEXT, "key": TEXT, "attributes": [ATTRIBUTE]},
}
SPEC_OF: dict[str, Any] = {
    LFW_FORMAT: {
        **RESULT,
        "pair_set": {"name": TEXT, "path": TEXT, "sha256": TEXT},
        "protocol": {**PROTOCOL, "folds": COUNT},
        "accuracy": {"mean": NUMBER},
        "eer": NUMBER,
        "tar_at_far": [POINT],
    },
    IJB_FORMAT: {
        **RESULT,
        "dataset": {"root": TEXT, "target": TEXT, "fingerprint": TEXT, "~published": TEXT},
        "?protocols": [{**MEASURES, "protocol": NAMED}],
        "?worst": {"?genuine": WORST, "?impostor": WORST},
        "?problems": [PROBLEM],
    },
    FOLDER_FORMAT: {
        **RESULT,
        "images": TEXT,
        "?rank": [{"rank": COUNT, "rate": NUMBER, "~ci95": INTERVAL}],
        "if rank": FOLDER_COUNTS,
        "?map": {"people": [TEXT], "num_images": COUNT},
    },
    PROTOCOL_FORMAT: {
        **RESULT,
        "dataset": {"root": TEXT, "target": TEXT, "fingerprint": TEXT, "~published": TEXT},
        "protocol": {**PROTOCOL, "kind": TEXT, "within": COUNT},
        "failures": {"num_images": COUNT, "rate": NUMBER, "ci95": INTERVAL, "by_role": {}},
        "?search_intervals": TEXT,
    },
    CLASSIFICATION_FORMAT: {
        "data": {"name": TEXT, "split": TEXT, "num_images": COUNT, "num_classes": COUNT},
        "heads": {"*": {"top1": NUMBER, "?top5": NUMBER, "mean_class_top1": NUMBER}},
    },
    ROBUSTNESS_FORMAT: {},
}
SPEC_OF[SUMMARY_FORMAT] = {"pair_sets": [SPEC_OF[LFW_FORMAT]]}


def check_result(path: Path, result: dict[str, Any]) -> None:
    """Refuses a result that lacks what readers need, or has values of other kinds.

    Raises:
        DataError: naming the file and the key.
    """
    problem = next(_problems("", result, SPEC_OF.get(str(result.get("format")), {})), None)
    if problem is not None:
        raise DataError(f"{path}: {problem}; it was not written by `facekd evaluate`, or changed: run that again")


def _problems(place: str, value: Any, spec: Any) -> Iterator[str]:
    if isinstance(spec, dict):
        yield from _problems_of_object(place, value, spec)
    elif isinstance(spec, list | tuple):
        if not isinstance(value, list) or (isinstance(spec, tuple) and len(value) != len(spec)):
            yield f"{place} is no list{' of ' + counted(len(spec), 'number') if isinstance(spec, tuple) else ''}"
            return
        for number, item in enumerate(value):
            yield from _problems(f"{place}[{number}]", item, spec[number if isinstance(spec, tuple) else 0])
    elif spec == NAMED and isinstance(value, dict):
        yield from _problems_of_object(place, value, PROTOCOL)
    elif not _is(value, TEXT if spec == NAMED else spec):
        yield f"{place} is '{shown(value, 60)}', and {spec} is expected"


def _problems_of_object(place: str, value: Any, spec: dict[str, Any]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place or 'it'} is no object"
        return
    for key, inner in spec.items():
        name = key.lstrip("?~")
        inside = f"{place}.{name}" if place else name
        if key == "*":
            for other, item in value.items():
                yield from _problems(f"{place}.{shown(other)}", item, inner)
        elif key.startswith("if "):
            if value.get(key[3:]) is not None:
                yield from _problems_of_object(place, value, inner)
        elif value.get(name) is not None:
            yield from _problems(inside, value[name], inner)
        elif not key.startswith("?") and (name not in value or name == key):
            yield f"it has no {inside}"
    # The tables have a row for each point of the mean.
    if spec is IDENTIFICATION:
        for part in ("tpir_at_fpir", "rank"):
            if len({len(gallery.get(part, ())) for gallery in value.values() if isinstance(gallery, dict)}) > 1:
                yield f"the lists {part} of {place} differ in length"


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (kind == NUMBER or isinstance(value, int)) and math.isfinite(value) and abs(value) < MAX_NUMBER
