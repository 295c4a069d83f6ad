"""The current folder gives torch no library to run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import facekd
from facekd.errors import TrainingError
from facekd.experiments.command_runner import CompletedSteps, Step, run_steps
from facekd.utils.processes.current_folder import why_not_torch_here


@pytest.mark.parametrize("place", [".", "glibc-hwcaps/x86-64-v3", "tls/haswell", "x86_64"])
def test_wherever_the_system_would_find_the_library_it_is_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "x86_64").mkdir(parents=True)
    (tmp_path / "data" / "x86_64" / "libcuda.so.1").touch()  # not where the system looks
    assert why_not_torch_here() is None
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "libcuda.so.1").symlink_to("nothing yet")
    assert f"the current folder holds {os.path.normpath(place + '/libcuda.so.1')}," in str(why_not_torch_here())


def test_a_command_that_needs_torch_refuses_such_a_folder(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("of a stranger")
    command = (
        [sys.executable, "-m", "facekd", "describe", "x.onnx"],
        [sys.executable, "-m", "facekd", "export", "x.pt", "--output", "y.onnx"],
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(facekd.__file__).parents[1])}
    ends = [
        subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        for words in command
    ]
    assert [end.returncode for end in ends] == [2, 2]
    assert "No such file or directory: x.onnx" in ends[0].stderr  # this one does without
    assert ends[1].stderr.startswith("error: the current folder holds libcuda.so.1, and torch would run what is in it")


def test_torchs_launcher_is_not_started_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "libcuda.so.1").touch()
    step = Step("train", ("train",), tmp_path / "run", processes=2)
    with pytest.raises(TrainingError, match=r"holds libcuda\.so\.1"):
        run_steps([step], CompletedSteps(tmp_path / "study"))
