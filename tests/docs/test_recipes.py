"""docs/recipes.md: the list is that of the headers, and every recipe starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from facekd.cli import main
from facekd.training import dry_run
from tests.docs.blocks import ROOT
from tests.docs.recipes_page import FOLDERS, PAGE, RECIPES, read_header, script, whole_page

SMALL = "--images 4 --global_batch_size 4 --data.workers 0 --schedule.warmup_images 0 --precision fp32"


def test_the_list_is_what_the_headers_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == whole_page(), "write it again: python -m tests.docs.recipes_page"


def test_every_recipe_is_on_the_page_with_a_command() -> None:
    assert {path.parent.relative_to(ROOT / "configs").as_posix() for path in RECIPES} == {*FOLDERS}
    text = PAGE.read_text(encoding="utf-8")
    for path in RECIPES:
        name = path.relative_to(ROOT).as_posix()
        assert f"\n### `{name}`\n" in text
        assert any(name in line for line in script(read_header(path)["Command"]) if "facekd" in line), name


def test_what_is_no_command_becomes_a_comment() -> None:
    lines = [
        "facekd train a \\",
        "--b c",
        "One GPU: facekd train a",
        "first this:",
        "facekd train b     (stage I0)",
    ]
    expected = ["facekd train a \\", "    --b c", "# One GPU", "facekd train a", "# first this:", "# stage I0"]
    assert [*script(lines)] == [*expected, "facekd train b"]


@pytest.mark.slow
def test_the_costs_are_those_of_the_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "recipe_costs.py"], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith("| `")]
    assert rows and all(row in PAGE.read_text(encoding="utf-8") for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "train"], ids=lambda path: path.stem)
def test_a_recipe_of_training_tries_its_first_step(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "MOST_STEPS", 0)
    words = [*SMALL.split(), "--data.train", "synthetic:4x2"]
    assert main(["train", str(path), "--dry-run", *words]) == 0
    assert "multiply-adds an image" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
