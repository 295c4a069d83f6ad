"""Commands, and what they start, in a folder that holds packages with the names of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.errors import DataError
from facekd.experiments.command_runner import LAUNCH, LAUNCH_MANY
from facekd.utils.processes.apart import run_apart

ROOT = Path(__file__).resolve().parents[4]


def folder_with(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).mkdir(parents=True)
        (place / name / "__init__.py").write_text(f"raise SystemExit('the {name} of another')")
    return place


def run(command: tuple[str, ...], folder: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "FACEKD_PLUGINS": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_what_facekd_starts_does_not_search_the_working_directory(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "facekd", "evaluation", "data_prep", "json")
    done = run((*LAUNCH, "data", "index", "none.rec"), folder, path="")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: none.rec: ")


@pytest.mark.slow
def test_nor_do_several_processes(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "facekd", "evaluation", "torch")
    done = run((*LAUNCH_MANY, "2", *LAUNCH[1:], "configs", "configs/debug.yaml"), folder)
    assert done.returncode == 0 and done.stdout.count("output: runs/debug") == 2, done.stderr


def test_nor_does_a_parser_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_with(tmp_path, "facekd", "json", "resource"))
    with pytest.raises(DataError, match=r"^none\.mat: .*[Nn]o such file"):
        run_apart("data_prep.pairs.agedb", "parse_protocol", ["none.mat"], "a protocol")


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python heeds PYTHONSAFEPATH from 3.11 on")
def test_nor_do_workers(tmp_path: Path) -> None:
    (tmp_path / "signal.py").write_text("raise SystemExit('the signal of another')")
    words = "data synthesize --identities 30 --images-per-identity 40 --pairs 0 --size 32 --workers 2 --output out"
    done = run((*LAUNCH, *words.split()), tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_itself_runs_there(tmp_path: Path) -> None:
    done = run((sys.executable, "-m", "facekd", "data"), folder_with(tmp_path, "evaluation", "data_prep"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("is_package", [True, False])
def test_a_package_that_hides_ours_is_named(tmp_path: Path, is_package: bool) -> None:
    if is_package:
        named = folder_with(tmp_path, "data_prep") / "data_prep"
    else:
        named = tmp_path / "evaluation.py"
        named.write_text("raise SystemExit('of another')")
    done = run((sys.executable, "-m", "facekd", "data"), tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: facekd's package `{named.stem}` is hidden by {named}: take its folder out of PYTHONPATH, or run "
        "facekd in another one\n"
    )
