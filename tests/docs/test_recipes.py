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


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dry run takes one step, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "MOST_STEPS", 0)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "train"], ids=lambda path: path.stem)
@pytest.mark.usefixtures("one_step")
def test_a_recipe_of_training_tries_its_first_step(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(path), "--dry-run", *SMALL.split(), "--data.train", "synthetic:4x2"]) == 0
    assert "multiply-adds an image" in capsys.readouterr().out
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_step")
def test_recipes_of_distillation_try_their_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    data = [*SMALL.split(), "--data.train", "synthetic:4x2", "--data.image_size", "112"]
    small = ["--backbone.width", "0.25", "--backbone.embedding_size", "512"]
    assert main(["train", "configs/debug.yaml", *data, *small, "--output", "teacher"]) == 0
    wide = ["--backbone.name", "mobilefacenet_0.45g", "--backbone.embedding_size", "512", "--output", "wide"]
    assert main(["train", "configs/debug.yaml", *data, *wide, "--backbone.width", "0.5"]) == 0
    paths = [path for path in RECIPES if path.parent.name == "distill" and "pipeline" not in path.stem]
    assert len(paths) == 5
    own_words = {
        "ms1mv3_sh_kd": ["--shared_head", "teacher"],
        "ms1mv3_th_kd_part": ["--teacher.model", "wide", "--backbone.weights", "wide", "--backbone.width", "0.25"],
    }
    for path in paths:
        words = ["--teacher.model", "teacher", *own_words.get(path.stem, [])]
        assert main(["distill", str(path), "--dry-run", *data, *words]) == 0, path
        assert "multiply-adds an image" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("one_step")
def test_recipes_on_cifar_100_try_their_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    generated = ["--layout", "cifar-100", "--images-per-class", "10", "--output", "try"]
    assert main(["data", "synthesize-classification", *generated]) == 0
    data = [*SMALL.split(), "--data.train", "try"]
    teachers = {
        "cifar100_resnet32x4": [],
        "cifar100_resnet8x4": [],
        "cifar100_sh_kd_teacher": ["--shared_head", "runs/cifar100_resnet8x4"],
    }
    for name, words in teachers.items():
        assert main(["train", f"configs/classification/{name}.yaml", *data, *words]) == 0, name
    for name in ("cifar100_th_kd", "cifar100_sh_kd"):
        assert main(["distill", f"configs/classification/{name}.yaml", "--dry-run", *data]) == 0, name
    assert "multiply-adds an image" in capsys.readouterr().out
