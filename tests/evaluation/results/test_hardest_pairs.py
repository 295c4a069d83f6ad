"""Pictures that open and a table that says what it rests on."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from rich.console import Console

from evaluation.results.figures import ScoredPairs, draw_pair_sets
from evaluation.results.hardest_pairs import draw_hardest_pairs
from evaluation.results.terminal import print_lfw_results
from evaluation.sets.pair_set import load_pair_set
from facekd.verification.measures import measure_pairs


def scored(name: str = "pairs", distance: float = 2.0, num_pairs: int = 400) -> ScoredPairs:
    generator = np.random.default_rng(0)
    is_same = np.arange(num_pairs) % 2 == 0
    scores = np.tanh(generator.normal(is_same * distance, 1) / 4)
    return ScoredPairs(name, scores, is_same, measure_pairs(scores, is_same, replicates=100))


@pytest.mark.parametrize(
    "sets",
    [
        [scored()],
        [scored(distance=50)],  # separable: the whole curve lies at one
        [scored(distance=0)],
        [scored(num_pairs=20)],  # no FAR but 0.1 measurable
        [scored("one"), scored("two", 1.0, 1000)],
    ],
    ids=["overlapping", "separable", "chance", "few", "several sets"],
)
def test_the_roc_picture_opens_and_is_not_blank(tmp_path, sets):
    draw_pair_sets(tmp_path / "roc.png", sets, "a model")
    picture = cv2.imread(str(tmp_path / "roc.png"))
    assert picture.shape[0] > 300 and picture.shape[1] > 500
    assert picture.std() > 5
    assert [path.name for path in tmp_path.iterdir()] == ["roc.png"]  # no half-written file stays


@pytest.mark.parametrize("count", [3, 50])
def test_the_hardest_pairs_are_drawn(tmp_path, pack, count):
    pair_set = load_pair_set(pack)
    draw_hardest_pairs(tmp_path / "hardest.png", pair_set, np.linspace(0, 1, 40), 0.5, min(count, 25))
    assert cv2.imread(str(tmp_path / "hardest.png")).std() > 5


def printed(one: ScoredPairs, **console) -> str:
    stream = io.StringIO()
    print_lfw_results(one.result, one.name, "cosine of f(x)", Console(file=stream, soft_wrap=True, **console))
    return stream.getvalue()


def test_the_table_shows_threshold_interval_false_accepts_and_protocol():
    one = scored()
    text = printed(one)
    point = one.result["tar_at_far"][1]
    [row] = [line for line in text.splitlines() if line.split()[:1] == ["0.01"]]
    low, high = (f"{100 * value:.2f}" for value in point["ci95"])
    assert row.split() == [
        "0.01",
        f"{100 * point['tar']:.2f}",
        low,
        "to",
        high,
        f"{point['threshold']:.4f}",
        "2",
        "0.01",
    ]
    assert "cosine of f(x)" in text
    assert f"accuracy  {100 * one.result['accuracy']['mean']:.2f} %" in text
    assert "not measurable: 200 impostor comparisons" in text
    assert "pair bootstrap" in text and "subjects are not known" in text


def test_many_folds_are_summed_up():
    one = scored()
    one.result["accuracy"]["folds"] = [0.9, *[1.0] * 30]
    assert "folds     90.00 to 100.00; each is in results.json" in printed(one)


def test_the_table_fits_a_narrow_log():
    table = [line for line in printed(scored(), width=80).splitlines() if line.strip()[:1].isdigit() or "FAR" in line]
    assert table and all(len(line) <= 80 for line in table if "measurable" not in line)
