"""Puts something else at every place of results of each kind: whoever reads them says what is wrong, or shows them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from evaluation.compare_models import summary_table
from evaluation.groups.page import differentials_table, own_table, pairs_table, rates_table
from evaluation.results.evaluated import Evaluated, check_comparable, load_results
from evaluation.results.page import write_report
from evaluation.results.quality import quality_table
from evaluation.results.search_tables import search_table
from evaluation.results.standard_summary import standard_table
from evaluation.results.tables import (
    folds_table,
    identification_table,
    protocols_table,
    rank_table,
    summary_of,
    to_csv,
    verification_table,
)
from evaluation.results.transferred import transferred_table
from facekd.errors import DataError
from facekd.pages import figures
from facekd.results.schema import check_result
from facekd.verification.measures import verification_curves
from facekd.verification.ranked_scores import RankedScores
from tests.measured_results import folder_result

VALUES = ("x", -1, 10**400, [], {"a": "b"}, [None], {}, 2**70, "a\0b", 0.5, True)
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


def changed(value: Any, few: int, number: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the value with something else at one of its places, and the name of that place.

    Each place is left out, is null, and gets the next few of `VALUES`.
    """
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value[:1]))
    for key, inner in items:
        at = copy.copy(value)
        number += few
        for odd in (None, *((VALUES * 2)[(number + turn) % len(VALUES)] for turn in range(few))):
            at[key] = odd
            yield str(key), at
        if isinstance(value, dict):
            yield str(key), {other: item for other, item in items if other != key}
        if isinstance(inner, dict | list):
            for place, part in changed(inner, few, number):
                at[key] = part
                yield f"{key}.{place}", at


def show(result: dict[str, Any], compared: list[Evaluated]) -> None:
    """Does with a result what pages, tables and comparisons do, `compared` being those that it is compared with."""
    tables: tuple[Callable[[dict[str, Any]], Any], ...] = (folds_table, identification_table, rank_table, quality_table)
    tables += (protocols_table, transferred_table, standard_table, search_table, summary_of, to_csv)
    for show_one in tables:
        show_one(result)
    if result.get("tar_at_far"):
        verification_table(result)
    for attribute in (result.get("groups") or {}).get("attributes", ()):
        for point in attribute["points"]:
            for table in (own_table, differentials_table, pairs_table):
                table(point)
            rates_table(attribute, point, "fmr")
    for other in compared:
        both = [other, replace(other, result=result)]
        check_comparable(both)
        summary_table(both)


@pytest.mark.parametrize("few", [2, pytest.param(len(VALUES), marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [pack, people, searches, templates])
def test_a_result_with_anything_else_in_it_is_refused_by_a_sentence_or_shown(
    make: Callable[[], dict[str, Any]], few: int, tmp_path: Path
) -> None:
    base, place, refused, num_shown = make(), tmp_path / "results.json", set(), 0
    place.write_text(json.dumps(base))
    compared = load_results(str(tmp_path)) if base["format"] != "facekd-folder" else []
    show(base, compared)
    for where, result in changed(base, few):
        if where in ("format", "version"):
            continue
        try:
            check_result(place, result)
            show(result, compared)
            num_shown += 1
        except DataError as error:
            refused.add(where)
            # Results that can be read, and not compared, are named by their folder.
            assert str(tmp_path) in str(error) and "\n" not in str(error), where
        except Exception as error:
            raise AssertionError(f"{where}: {error!r}") from error
    assert len(refused) > 50 and num_shown > 50


def test_of_very_many_curves_and_thresholds_the_first_are_drawn_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def count(name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words, **options: (drawn.append(name), draw(*words, **options))[1]

    monkeypatch.setattr(figures, "to_png", lambda _: b"")  # what takes the time
    for name in ("axvline", "axhline", "errorbar"):
        monkeypatch.setattr(Axes, name, count(name, getattr(Axes, name)))
    generator = np.random.default_rng(0)
    scores = generator.normal(0.6, 0.2, 20).clip(-1, 1), generator.normal(0, 0.2, 40).clip(-1, 1)
    result = folder_result(*scores, [0.5 + number / 100 for number in range(40)])
    first = result["tar_at_far"][0]
    first["ci95"] = [first["tar"] + 1e-12, 1]  # a hair beside it
    result["quality"] = {**QUALITY, "curves": QUALITY["curves"] * 40}
    (tmp_path / "results.json").write_text(json.dumps(result))
    np.savez(tmp_path / "curves.npz", **verification_curves(RankedScores(*scores)))  # pyright: ignore
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    # Thresholds in one panel, points of the ROC, and the line of each curve in both panels of the quality.
    assert [drawn.count(name) for name in ("axvline", "errorbar", "axhline")] == [32, 32, 64]
    assert "Of 40 thresholds the first 32 are drawn." in page and "Of 40 curves the first 32 are drawn." in page
