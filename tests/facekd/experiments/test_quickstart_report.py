"""The page of the quickstart, from results that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.experiments.quickstart_report import write_report
from facekd.images.alignment import TEMPLATE_SIZE
from facekd.verification.measures import measure_pairs

PAIRS = 80
HOSTILE = """<script>alert("x")</script> & 'L2'"""


@pytest.fixture
def models(tmp_path: Path) -> list[dict[str, Any]]:
    """The folder of a quickstart with two models, of which one was trained."""
    is_same = np.arange(PAIRS) % 2 == 0
    (tmp_path / "data").mkdir()
    write_pair_pack(tmp_path / "data" / "test.bin", [b"image"] * (2 * PAIRS), is_same)
    cv2.imwrite(str(tmp_path / "data" / "sheet.png"), np.zeros((8, 8, 3), np.uint8))
    found = []
    for number, name in enumerate(("untrained", "arcface")):
        folder = tmp_path / name / "verification"
        folder.mkdir(parents=True)
        scores = np.random.default_rng(number).normal(2 * number * is_same, 1)
        np.save(folder / "scores.npy", scores)
        cv2.imwrite(str(folder / "hardest_pairs.png"), np.zeros((8, 8, 3), np.uint8))
        folds = np.arange(PAIRS) * 10 // PAIRS
        subjects = np.stack([np.arange(PAIRS) * 2, np.arange(PAIRS) * 2 + ~is_same], 1)
        result = measure_pairs(scores, is_same, folds, (0.1, 0.001), "exact", subjects, 100, 0)
        found.append({"name": name, "method": HOSTILE if number else "random weights", **result})
    log = [{"kind": "train", "images_seen": 64 * step, "loss": 1 / step} for step in range(1, 5)]
    (tmp_path / "arcface" / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
    return found


def test_the_page_shows_every_model_and_says_why_a_tar_is_missing(models: list[dict[str, Any]], tmp_path: Path) -> None:
    write_report(tmp_path, models)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    for model in models:
        low, high = model["eer_ci95"]
        assert f"{100 * model['eer']:.2f} ({100 * low:.2f} to {100 * high:.2f})" in page
        assert f'<td class="number">{100 * model["tar_at_far"][0]["tar"]:.2f}</td>' in page
    assert page.count("not measurable") == 1  # once, though both models lack it
    assert page.count(">-</td>") == 2
    assert f"--data.train ALIGNED --data.image_size {TEMPLATE_SIZE} " in page  # the size that `facekd data align` gives
    assert "<script" not in page and "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; &#39;L2&#39;" in page
