"""The dry run of a study, and of a pipeline, which has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from facekd.experiments import sh_kd, study

BASE = {
    "data": {"train": "synthetic:4x6", "image_size": 32, "workers": 0},
    "backbone": {"width": 0.125, "embedding_size": 16},
    "head.scale": 16,
    "images": 48,
    "global_batch_size": 12,
    "device": "cpu",
}


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump({"output": str(path.parent / "out"), "base": BASE} | content))
    return path


def test_a_study_is_tried_as_far_as_it_can_be(tmp_path: Path, run: Callable[..., Any]) -> None:
    methods = {
        "alone": {"verb": "train"},
        "taught": {"verb": "distill", "config": {"teacher.model": "{alone}", "loss": {"embedding_l2": 1}}},
        "means": {"verb": "rebuild-head", "config": {"model": "{alone}"}},
        "under": {"verb": "train", "config": {"shared_head": "{means}"}},
        "away": {"verb": "train", "config": {"data.train": str(tmp_path / "none")}},
    }
    packs = [str(tmp_path / "test.bin")]
    file = write(tmp_path / "s.yaml", seeds=[0, 1, 2], reference="alone", packs=packs, methods=methods)
    status, printed, _ = run(study.main, file, "--dry-run", "--jobs", "2")
    assert status == 0 and [path.name for path in tmp_path.iterdir()] == ["s.yaml"]
    cells = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    rows = {name: others for name, *others in cells if len(others) > 5}
    assert rows["alone"][0] == "3" and float(rows["alone"][4]) > 0 and rows["alone"][5] == "48"
    assert rows["taught"][:2] == rows["away"][:2] == ["3", "-"]
    assert "\ntaught: not tried: it learns from alone, seed 0, which is not trained yet\n" in printed
    assert "\nunder: not tried: it needs what rebuild-head makes of means, seed 0, which is not there yet\n" in printed
    assert "means" not in rows
    assert f"\naway: not tried: no data at {tmp_path / 'none'}; " in printed
    assert "39 steps are to be done, of which 12 train; besides those, training takes about " in printed


def seconds_of(text: str) -> int:
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))


@pytest.mark.slow
def test_images_that_a_run_has_seen_count_as_done_for_that_run_alone(tmp_path: Path, run: Callable[..., Any]) -> None:
    base = {**BASE, "images": 9_600_000}
    given = {"packs": ["a.bin"], "reference": "alone"}
    file = write(tmp_path / "s.yaml", seeds=[0, 1, 2], base=base, methods={"alone": {"verb": "train"}}, **given)
    checkpoint = tmp_path / "out" / "runs" / "alone" / "seed-0" / "checkpoints" / "000009600000.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    status, printed, said = run(study.main, file, "--dry-run")
    assert status == 0, said
    (row,) = (re.split(r"\s{2,}", line) for line in printed.splitlines() if line.startswith("alone "))
    (total,) = re.findall(r"training takes about (\S+) with", printed)
    assert seconds_of(row[-1]) > 60 and seconds_of(total) == pytest.approx(2 * seconds_of(row[-1]), rel=0.1)


def test_a_pipeline_names_the_training_to_try(tmp_path: Path, run: Callable[..., Any]) -> None:
    file = write(tmp_path / "p.yaml", distilled={"config": {"loss": {"embedding_l2": 1}}})
    status, _, said = run(sh_kd.main, file, "--dry-run")
    assert status == 2 and "try its first stage by `facekd train " in said and said.endswith(" --dry-run`\n")
    assert not (tmp_path / "out").exists()
