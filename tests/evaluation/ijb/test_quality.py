"""Qualities in `facekd evaluate ijbc`: curves and weights against loops over faces, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.evaluate_ijbc import main
from facekd.errors import run_verb
from tests.evaluation.ijb_layout import Layout, make_layout, naive_scores, naive_templates

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def layout() -> Layout:
    return make_layout(4)


@pytest.fixture
def evaluate(layout: Layout, tmp_path: Path) -> Run:
    """Run the verb on the embeddings of the layout; returns (status, results)."""
    root, out = layout.write(tmp_path / "set"), tmp_path / "out"
    words = ["--root", str(root), "--output", str(out), "--embeddings", str(root / "embeddings.npy")]
    words += ["--embeddings-flipped", "--bootstrap", "0", "--fars", "0.1,0.02", "--protocol", "1:1", "--no-report"]

    def run(*extra: str) -> tuple[int, dict[str, Any]]:
        status = run_verb(lambda: main([*words, *extra]))
        return status, json.loads((out / "results.json").read_text()) if status == 0 else {}

    return run


def qualities(layout: Layout, tmp_path: Path) -> tuple[np.ndarray, str]:
    """A quality for each line of the list of landmarks, and the file of them."""
    values = np.random.default_rng(1).uniform(0, 1, len(layout.names))
    np.save(tmp_path / "quality.npy", values)
    return values, str(tmp_path / "quality.npy")


def naive_fnmr(layout: Layout, of_faces: np.ndarray, scores: np.ndarray, threshold: float, share: float) -> float:
    """The FNMR of genuine pairs after a share of them, those with the lowest worse template, is left out."""
    templates = np.array(layout.templates)
    means = {template: of_faces[templates == template].mean() for template in set(layout.templates)}
    pairs = [
        (min(means[first], means[second]), score < threshold)
        for (first, second, same), score in zip(layout.pairs, scores, strict=True)
        if same
    ]
    lowest = sorted(value for value, _ in pairs)[int(share * len(pairs))]
    kept = [is_rejected for value, is_rejected in pairs if value >= lowest]
    return sum(kept) / len(kept)


def test_curves_take_the_mean_of_faces_and_the_worse_template(evaluate: Run, layout: Layout, tmp_path: Path) -> None:
    values, file = qualities(layout, tmp_path)
    status, result = evaluate("--quality", file, "--report")
    assert status == 0 and result["quality"]["samples"] == "templates"
    scores = np.load(tmp_path / "out" / "scores.npy")
    for curve in result["quality"]["curves"]:
        for share in (0, 30, 60):
            expected = naive_fnmr(layout, values, scores, curve["threshold"], share / 100)
            assert curve["fnmr_by_pairs"][share] == pytest.approx(expected, abs=1e-12)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Quality: error versus discard" in page and "without 10 % of templates" in page
    assert page.count("data:image/png") == 3
    assert "discard_area_to_0.2,,0.1," in (tmp_path / "out" / "results.csv").read_text()


@pytest.mark.parametrize("kind", ["norm", "detector"])
def test_lengths_and_detector_scores_are_qualities(evaluate: Run, layout: Layout, tmp_path: Path, kind: str) -> None:
    lengths = np.linalg.norm(layout.plain.astype(np.float64) + layout.mirrored, axis=1)
    np.save(tmp_path / "own.npy", lengths if kind == "norm" else np.array(layout.scores))
    _, by_name = evaluate("--quality", kind)
    _, by_file = evaluate("--quality", str(tmp_path / "own.npy"))
    assert by_name["quality"]["source"] == {"kind": kind}
    for first, second in zip(by_name["quality"]["curves"], by_file["quality"]["curves"], strict=True):
        np.testing.assert_allclose(first["fnmr_by_samples"], second["fnmr_by_samples"], atol=1e-12)


@pytest.mark.parametrize("detector", [True, False])
def test_templates_weighted_by_quality_are_those_of_loops(
    evaluate: Run, layout: Layout, tmp_path: Path, detector: bool
) -> None:
    values, file = qualities(layout, tmp_path)
    switch = "--weight-by-detection-score" if detector else "--no-weight-by-detection-score"
    status, result = evaluate("--quality", file, "--weight-by-quality", switch)
    assert status == 0 and result["protocol"]["weight_by_quality"] is True
    assert "times quality" in result["protocol"]["text"] and result["protocol"]["name"].endswith("+quality")
    # The same as detector scores that are multiplied by it.
    other = make_layout(4)
    other.scores = [one * (score if detector else 1) for one, score in zip(values.tolist(), other.scores, strict=True)]
    expected = naive_scores(other, naive_templates(other, True, True, True))
    np.testing.assert_allclose(np.load(tmp_path / "out" / "scores.npy"), expected, atol=1e-6)


def test_what_cannot_be_weighted_by_is_refused(evaluate: Run, layout: Layout, tmp_path: Path, capsys: Any) -> None:
    values, file = qualities(layout, tmp_path)
    np.save(file, values - 0.5)
    assert evaluate("--quality", file, "--weight-by-quality")[0] == 2
    assert "a weight cannot be negative" in capsys.readouterr().err
    assert evaluate("--quality", file)[0] == 0  # to discard by, it may be
    np.save(file, values[1:])
    assert evaluate("--quality", file)[0] == 2
    assert f"expected {len(values):,} numbers" in capsys.readouterr().err
    for words, message in (
        (("--weight-by-quality",), "--weight-by-quality: give --quality model, or X.npy"),
        (("--weight-by-quality", "--quality", "norm"), "--keep-norm weights by the length"),
        (("--quality", "norm", "--protocol", "1:N"), "--quality is about 1:1 pairs"),
    ):
        with pytest.raises(SystemExit):
            evaluate(*words)
        assert message in capsys.readouterr().err
