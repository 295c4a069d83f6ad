"""Checks that results from elsewhere, or edited by hand, are refused by a sentence or shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.results.evaluated import load_results
from evaluation.results.page import write_report
from facekd.errors import DataError
from facekd.results.reading import read_curves

POINT = {
    "far": 0.1,
    "tar": 0.5,
    "threshold": 0.3,
    "false_accepts": 1,
    "achieved_far": 0.1,
    "num_genuine": 4,
    "num_impostor": 10,
    "ci95": [0.1, 0.9],
    "interval": "wilson",
    "reason": None,
}
GALLERY = {"tpir_at_fpir": [{"fpir": 0.1, "tpir": 0.5, "threshold": 0.3}], "rank": [{"rank": 1, "rate": 0.5}]}
HISTOGRAM = {
    "histogram_edges": np.array([0.0, 0.5, 1.0]),
    **dict.fromkeys(("histogram_genuine", "histogram_impostor"), np.array([1, 2])),
}
RESULT = {
    "format": "facekd-ijb",
    "version": 1,
    "model": {"path": "m.onnx", "assumed": ["mean"], "preprocessing": {"mean": [1.0, 2.0, 3.0]}},
    "dataset": {"root": "nowhere", "target": "IJBC", "fingerprint": "f", "published": None},
    "protocol": {"text": "cosine", "name": "a"},
    "eer": 0.1,
    "eer_ci95": [0.05, 0.2],
    "auc": 0.9,
    "num_genuine": 4,
    "num_impostor": 10,
    "tar_at_far": [POINT],
    "identification": {"G1": GALLERY, "mean": GALLERY},
    "protocols": [{"protocol": {"name": "b", "text": "b"}, "eer": 0.1, "tar_at_far": [POINT]}],
    "worst": {"genuine": [{"pair": 1, "score": 0.1, "first": 2, "second": 3}]},
    "problems": [{"kind": "k", "severity": "error", "count": 1, "text": "t", "examples": ["e"]}],
    "notes": ["n"],
    "software": {"numpy": "2"},
    "command": "facekd",
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a result."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def written(folder: Path, result: Any) -> Path:
    (folder / "results.json").write_text(json.dumps(result))
    return folder


@pytest.mark.slow  # 600 pages
@pytest.mark.parametrize("value", ["absent", None, "x", [], {}, [5], 5, True, float("inf"), -1])
def test_whatever_is_wrong_is_refused_by_a_sentence_or_shown(value: Any, tmp_path: Path) -> None:
    num_refused = 0
    for path in places(RESULT):
        result = copy.deepcopy(RESULT)
        inside: Any = result
        for key in path[:-1]:
            inside = inside[key]
        if value == "absent":
            del inside[path[-1]]
        else:
            inside[path[-1]] = value
        try:
            write_report(written(tmp_path, result))
        except DataError as error:
            num_refused += 1
            assert str(tmp_path) in str(error), path
    assert num_refused > 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "x"}, "version x of facekd-ijb"),
        ({"dataset": None}, "it has no dataset"),
        ({"tar_at_far": [{**POINT, "threshold": None}]}, r"it has no tar_at_far\[0\]\.threshold"),
        (
            {"tar_at_far": [{**POINT, "far": "\x1b[31m"}]},
            r"tar_at_far\[0\]\.far is '\\x1b\[31m', and a share from 0 to 1 is expected",
        ),
        ({"eer_ci95": [1]}, "eer_ci95 is no list of 2 numbers"),
        ({"identification": {"G1": GALLERY}}, "it has no identification.mean"),
    ],
)
def test_a_result_says_what_is_wrong_in_it(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"results.json: {message}"):
        load_results(str(written(tmp_path, {**RESULT, **change})))
    assert load_results(str(written(tmp_path, RESULT)))[0].result == RESULT


@pytest.mark.parametrize(
    "arrays",
    [
        {"roc_far": np.array(["a"]), "roc_tar": np.array(["b"])},
        {"roc_far": np.zeros(3), "roc_tar": np.zeros(2)},
        {"roc_far": np.zeros((2, 2)), "roc_tar": np.zeros((2, 2))},
        {"roc_far": np.array([np.nan]), "roc_tar": np.array([0.5])},
        {"roc_far": np.zeros(0), "roc_tar": np.zeros(0)},
        {"histogram_edges": np.zeros(3), "histogram_genuine": np.zeros(3), "histogram_impostor": np.zeros(2)},
        {"cmc_G1": np.zeros(3)},
        {"roc_far": np.array([0.1, 2.0]), "roc_tar": np.ones(2)},
        {"roc_far": np.array([0.1, 1.0]), "roc_tar": np.array([-1e300, 1])},
        {"map_x": np.zeros(3), "map_y": np.zeros(3), "map_person": np.zeros(2)},
        {"map_person": np.zeros(2)},
        # What matplotlib cannot draw, or would draw as something else.
        {"roc_far": np.array([5e-324, 1.0]), "roc_tar": np.array([0.0, 1.0])},
        {**HISTOGRAM, "histogram_edges": np.array([0, np.longdouble("1e4000"), np.longdouble("1e4001")])},
        {**HISTOGRAM, "histogram_edges": np.array([0.5, 1.0, 0.0])},
        {**HISTOGRAM, "histogram_genuine": np.array([3, -1])},
    ],
)
def test_curves_of_other_kinds_are_refused(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "curves.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"curves\.npz: (roc|histogram|cmc|map|dir)_"):
        read_curves(tmp_path, {**RESULT, "identification": None, "tar_at_far": None})
