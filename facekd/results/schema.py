"""Says what readers of results.json rely on, and checks it: the file may come from elsewhere, or be edited by hand.

`facekd/results/shape.py` explains how a shape is written. Keys that are not listed are free (docs/results.md has all).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facekd.errors import DataError
from facekd.results.contradictions import (
    problem_of_attribute,
    problem_of_cosines,
    problem_of_galleries,
    problem_of_point,
    problem_of_protocols,
    problem_of_rate,
)
from facekd.results.shape import (
    COUNT,
    INTERVAL,
    NUMBER,
    PART,
    PATH,
    SHARE,
    SHARES,
    TEXT,
    WHOLE,
    Checked,
    TextOr,
    problems_of,
)

# The formats of results.json that an evaluation writes.
LFW_FORMAT, SUMMARY_FORMAT = "facekd-verification", "facekd-verification-summary"
IJB_FORMAT, FOLDER_FORMAT, CLASSIFICATION_FORMAT = "facekd-ijb", "facekd-folder", "facekd-classification"
ROBUSTNESS_FORMAT, PROTOCOL_FORMAT = "facekd-robustness", "facekd-protocol"
FORMATS = (
    *(LFW_FORMAT, SUMMARY_FORMAT, IJB_FORMAT, FOLDER_FORMAT, CLASSIFICATION_FORMAT),
    *(ROBUSTNESS_FORMAT, PROTOCOL_FORMAT),
)

# 1:1 verification.
MEASURED = {"threshold": NUMBER, "false_accepts": COUNT, "achieved_far": SHARE}
POINT: dict[str, Any] = {
    "far": SHARE,
    "~tar": SHARE,
    "num_genuine": COUNT,
    "num_impostor": COUNT,
    "~reason": TEXT,
    "~interval": TEXT,
    "~ci95": SHARES,
    "~threshold": NUMBER,
    "~false_accepts": COUNT,
    "~achieved_far": SHARE,
    "if tar": MEASURED,
}
POINTS = [Checked(POINT, problem_of_point)]
SOME_POINTS = Checked(POINTS, lambda points: None if points else "is empty")
ACCURACY = {"mean": SHARE, "?std": NUMBER, "?folds": [SHARE], "?thresholds": [NUMBER], "?ci95": SHARES}
PROTOCOL = {"text": TEXT, "?name": TEXT, "?within": COUNT}

# 1:N identification.
FOUND: dict[str, Any] = {"fpir": SHARE, "~tpir": SHARE, "?threshold": NUMBER, "?ci95": SHARES, "?reason": TEXT}
GALLERY: dict[str, Any] = {
    "tpir_at_fpir": [FOUND],
    "rank": [{"rank": COUNT, "~rate": SHARE, "?ci95": SHARES}],
    "?mean_average_precision": {"~value": SHARE, "~ci95": SHARES},
    "?num_gallery": COUNT,
    "?num_mated": COUNT,
    "?num_nonmated": COUNT,
    "if num_gallery": {"num_mated": COUNT, "num_nonmated": COUNT},
}
IDENTIFICATION = Checked({"*": GALLERY, "mean": GALLERY}, problem_of_galleries)
FOLDER_COUNTS = {f"num_{what}": COUNT for what in ("people", "gallery", "distractors", "probes")}

# Groups of people, and thresholds of another set.
RATE: dict[str, Any] = {
    "num": COUNT,
    "errors": COUNT,
    "~rate": SHARE,
    "~ci95": SHARES,
    "~interval": TEXT,
    "support": TEXT,
}
GROUP_RATE = Checked(RATE, problem_of_rate)
RATE_HERE = Checked({**RATE, "rate": SHARE, "ci95": SHARES}, problem_of_rate)
TRANSFERRED_POINT: dict[str, Any] = {
    "far": SHARE,
    "threshold": NUMBER,
    "there": {"fmr": SHARE, "fnmr": SHARE},
    "fmr": RATE_HERE,
    "fnmr": RATE_HERE,
    "verdict": frozenset({"kept", "exceeded", "open"}),
}
RATIO: dict[str, Any] = {"~value": NUMBER, "~ci95": INTERVAL}
TO_OTHERS: dict[str, Any] = {"ratio_to_others": RATIO, "minus_others": RATIO}
OWN: dict[str, Any] = {"~threshold": NUMBER, "~fmr": SHARE, "~fnmr": SHARE, "~ci95": SHARES, "~reason": TEXT}
DIFFERENTIALS = {name: {**RATIO, "~reason": TEXT} for name in ("worst_ratio", "geometric_mean_ratio", "gini")}
GROUP_POINT: dict[str, Any] = {
    "far": SHARE,
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

# What an image is worth, and what is wrong with a set.
AREA = {"limit": SHARE, "~relative_pairs": NUMBER, "~relative_pairs_ci95": INTERVAL}
DISCARD = {"far": SHARE, "fnmr": SHARE, **{f"fnmr_by_{kind}": [SHARE] for kind in ("pairs", "samples")}}
QUALITY = {"text": TEXT, "samples": TEXT, "curves": [{**DISCARD, "discarded": [SHARE], "areas": [AREA]}]}
WORST = [{"pair": COUNT, "score": NUMBER, "first": WHOLE, "second": WHOLE}]
PROBLEM: dict[str, Any] = {"kind": TEXT, "severity": TEXT, "count": COUNT, "text": TEXT, "examples": [TEXT]}

MEASURES: dict[str, Any] = {
    "?tar_at_far": POINTS,
    "?eer": SHARE,
    "?eer_threshold": NUMBER,
    "?eer_ci95": SHARES,
    "?auc": SHARE,
    "?auc_threshold": NUMBER,
    "?auc_ci95": SHARES,
    "?accuracy": ACCURACY,
    "?rank": [{"rank": COUNT, "rate": SHARE, "~ci95": SHARES}],
    "?identification": IDENTIFICATION,
    "?quality": QUALITY,
}
RESULT: dict[str, Any] = {
    **MEASURES,
    "protocol": PROTOCOL,
    "?num_*": COUNT,
    "?model": {"?path": TEXT, "?fingerprint": TEXT, "?sha256": TEXT, "?assumed": [TEXT], "?preprocessing": {}},
    "?embeddings": {"?path": TEXT},
    "?pair_set": {"?num_*": COUNT},
    "?dataset": {"?num_*": COUNT},
    "if eer": {"auc": SHARE, "num_genuine": COUNT, "num_impostor": COUNT, "tar_at_far": SOME_POINTS},
    "if tar_at_far": {"num_genuine": COUNT, "num_impostor": COUNT},
    "if rank": FOLDER_COUNTS,
    "if num_images": {"num_people": COUNT},
    "if num_genuine_people": {"num_impostor_people_pairs": COUNT},
    "?notes": [TEXT],
    "?command": TEXT,
    "?software": {},
    "?seconds": {},
    "?failures": {"num_images": COUNT, "rate": SHARE, "ci95": SHARES, "by_role": {"*": COUNT}},
    "?problems": [PROBLEM],
    "?dropped": {"?*": COUNT},
    "?calibration": {},
    "?bootstrap": {"?resampled": TEXT, "?replicates": COUNT, "if resampled": {"replicates": COUNT}},
    "?score_norm": {"kind": TEXT, "cohort": TEXT, "num_images": COUNT},
    "?map": {"people": [TEXT], "num_images": COUNT},
    "?protocols": Checked([{**MEASURES, "protocol": TextOr(PROTOCOL)}], problem_of_protocols),
    "?worst": {"?genuine": WORST, "?impostor": WORST},
    "?search_intervals": TEXT,
    "?transferred": {"path": TEXT, "set": TEXT, "points": [TRANSFERRED_POINT]},
    "?groups": {"path": TEXT, "key": TEXT, "attributes": [Checked(ATTRIBUTE, problem_of_attribute)]},
}
LISTED_SET = {"root": PATH, "target": TEXT, "fingerprint": TEXT, "~published": TEXT}
SEARCHED_SET = {"num_*": COUNT, "num_probes": COUNT, "num_probe_subjects": COUNT, "num_distractors": COUNT}
PACK = {
    **RESULT,
    "pair_set": {"name": TEXT, "path": PATH, "sha256": TEXT, "?num_*": COUNT},
    "protocol": {**PROTOCOL, "folds": COUNT},
    "accuracy": ACCURACY,
    "eer": SHARE,
    "tar_at_far": SOME_POINTS,
}
PACK_OF_SEVERAL = {**PACK, "?format": frozenset({LFW_FORMAT}), "pair_set": {**PACK["pair_set"], "name": PART}}
SPEC_OF: dict[str, Any] = {
    LFW_FORMAT: Checked(PACK, problem_of_cosines),
    SUMMARY_FORMAT: {"pair_sets": [Checked(PACK_OF_SEVERAL, problem_of_cosines)]},
    IJB_FORMAT: Checked({**RESULT, "dataset": {**LISTED_SET, "?num_*": COUNT}}, problem_of_cosines),
    FOLDER_FORMAT: Checked({**RESULT, "images": PATH}, problem_of_cosines),
    PROTOCOL_FORMAT: Checked(
        {
            **RESULT,
            "dataset": {**LISTED_SET, "?num_*": COUNT},
            "if identification": {"dataset": SEARCHED_SET},
            "protocol": {**PROTOCOL, "kind": TEXT, "within": COUNT},
            "failures": RESULT["?failures"],
        },
        problem_of_cosines,
    ),
    CLASSIFICATION_FORMAT: {
        "data": {"name": TEXT, "split": TEXT, "num_images": COUNT, "num_classes": COUNT},
        "heads": {"*": {"top1": SHARE, "?top5": SHARE, "mean_class_top1": SHARE}},
        "?model": {"?assumed": [TEXT]},
    },
    ROBUSTNESS_FORMAT: {},
}


def check_result(path: Path, result: dict[str, Any]) -> None:
    """Refuses a result that lacks what readers need, has values of other kinds, or contradicts itself.

    Raises:
        DataError: naming the file and the key.
    """
    problem = next(problems_of(result, SPEC_OF.get(str(result.get("format")), {})), None)
    if problem is not None:
        raise DataError(f"{path}: {problem}; it was not written by `facekd evaluate`, or changed: run that again")
