"""Makes results of each of the four kinds, with everything that may be in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.measured_results import folder_result

INTERVAL, RATE = [0.0, 1.0], {"num": 4, "errors": 2, "rate": 0.5, "ci95": [0.1, 0.9], "interval": "w", "support": "no"}
MEASURE = {"value": None, "ci95": None, "reason": "why"}
OWN = {"threshold": 0.1, "fmr": 0.1, "fnmr": 0.1, "ci95": INTERVAL, "interval": "w", "reason": None}
GROUP_POINT = {
    "far": 0.1,
    "threshold": 0.3,
    "pairs": [{"first": "a", "second": "a", "fmr": RATE, "fnmr": {**RATE, "errors": 0, "rate": 0.0, "ci95": INTERVAL}}],
    "groups": [
        {
            "group": "a",
            **dict.fromkeys(("fmr", "fnmr"), dict.fromkeys(("ratio_to_others", "minus_others"), MEASURE)),
            "own": OWN,
        }
    ],
    "differentials": dict.fromkeys(
        ("fmr", "fnmr"), dict.fromkeys(("worst_ratio", "geometric_mean_ratio", "gini"), MEASURE)
    ),
}
GROUPS = {
    "path": "g.csv",
    "key": "person",
    "attributes": [
        {
            "name": "sex",
            "groups": [{"name": "a", "num_people": 2}],
            "points": [GROUP_POINT],
            "notes": ["n"],
            "thin": ["t"],
        }
    ],
}
TRANSFERRED = {
    "path": "r",
    "set": "s",
    "points": [
        {
            "far": 0.1,
            "threshold": 0.3,
            "there": {"fmr": 0.1, "fnmr": 0.2},
            "fmr": RATE,
            "fnmr": RATE,
            "verdict": "open",
        }
    ],
}
AREA = {"limit": 0.2, "relative_pairs": 0.5, "relative_pairs_ci95": [-0.1, 1.1]}
CURVE = {"far": 0.1, "fnmr": 0.2, "discarded": [0.0, 0.1], "fnmr_by_pairs": [0.2, 0.1], "fnmr_by_samples": [0.2, 0.1]}
QUALITY = {"text": "norm", "samples": "images", "curves": [{**CURVE, "areas": [AREA]}]}
FOUND = {"fpir": 0.1, "tpir": 0.5, "threshold": 0.3, "ci95": INTERVAL, "reason": None}
GALLERY = {
    "num_gallery": 4,
    "num_mated": 3,
    "num_nonmated": 2,
    "tpir_at_fpir": [FOUND],
    "rank": [{"rank": 1, "rate": 0.5, "ci95": INTERVAL}],
    "mean_average_precision": {"value": 0.5, "ci95": None},
}
IDENTIFICATION = {"one": GALLERY, "two": GALLERY, "mean": GALLERY}
FAILURES = {"num_images": 0, "rate": 0.0, "ci95": INTERVAL, "by_role": {"probe": 0}}
SET = {"root": "nowhere", "target": "tinyface", "fingerprint": "f", "published": None}
COUNTS = {"num_gallery": 4, "num_gallery_subjects": 2, "num_probes": 5, "num_probe_subjects": 3, "num_distractors": 0}


def people() -> dict[str, Any]:
    """Results of `evaluate folder` with all that may be in them."""
    generator = np.random.default_rng(0)
    scores = generator.normal(0.6, 0.2, 20).clip(-1, 1), generator.normal(0, 0.2, 40).clip(-1, 1)
    measured = folder_result(*scores, (0.1, 0.01))
    counts = {"num_people": 4, "num_images": 9, "num_genuine_people": 3, "num_impostor_people_pairs": 6}
    boots = {"resampled": "subjects", "num_subjects": 4, "replicates": 100, "seed": 0, "note": None}
    more = {"groups": GROUPS, "transferred": TRANSFERRED, "quality": QUALITY, "set_sha256": "aa", "bootstrap": boots}
    return {**measured, **counts, **more, "notes": ["n"], "dropped": {"faces": 1}, "command": "facekd", "software": {}}


def searches() -> dict[str, Any]:
    """Results of `evaluate protocol` of a set with galleries alone."""
    protocol = {"text": "cosine", "kind": "tinyface", "flip": True, "within": 1}
    empty = dict.fromkeys(("eer", "auc", "num_genuine", "num_impostor", "tar_at_far", "bootstrap"))
    about = {"model": {"path": "m.onnx", "fingerprint": "ff"}, "dataset": {**SET, **COUNTS}, "protocol": protocol}
    return {
        "format": "facekd-protocol",
        "version": 1,
        **about,
        "failures": FAILURES,
        **empty,
        "identification": IDENTIFICATION,
        "search_intervals": "Wilson's",
    }


def templates() -> dict[str, Any]:
    """Results of `evaluate ijbc`, from pairs and from searches, under two protocols."""
    pairs = people()
    protocol = {"text": "cosine of sums", "name": "norm", "flip_augment": True}
    for key in ("images", "groups", "transferred", "quality", "num_images", "num_genuine_people"):
        del pairs[key]
    measured = {key: pairs[key] for key in ("eer", "auc", "tar_at_far")}
    worst = [{"pair": 1, "score": 0.1, "first": 2, "second": -3}]
    return {
        **pairs,
        "format": "facekd-ijb",
        "dataset": {**SET, "target": "IJBC"},
        "protocol": protocol,
        "identification": IDENTIFICATION,
        "protocols": [{**measured, "protocol": protocol}, {**measured, "protocol": "other"}],
        "worst": {"genuine": worst, "impostor": worst},
        "problems": [{"kind": "k", "severity": "error", "count": 1, "text": "t", "examples": ["e"]}],
    }


def pack() -> dict[str, Any]:
    """Results of `evaluate lfw`."""
    pairs = people()
    accuracy = {"mean": 0.9, "std": 0.1, "folds": [0.8, 1.0], "thresholds": [0.3, 0.4]}
    about = {"name": "lfw", "path": "lfw.bin", "sha256": "aa", "num_subjects": None}
    protocol = {"text": "cosine", "score": "cosine", "flip": True, "folds": 2}
    for key in ("images", "groups", "transferred", "quality", "num_images", "num_genuine_people"):
        del pairs[key]
    return {**pairs, "format": "facekd-verification", "pair_set": about, "accuracy": accuracy, "protocol": protocol}
