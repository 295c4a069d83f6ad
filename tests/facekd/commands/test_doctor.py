"""What `facekd doctor` and `facekd --version` say, with and without the packages that facekd requires."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facekd import __version__
from facekd.cli import main
from facekd.commands import doctor
from facekd.utils.requirements import PACKAGES, installed_version

ROOT = Path(__file__).resolve().parents[3]


def run_alone(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a verb without any installed package."""
    code = "import sys; from facekd.cli import main; status = main(sys.argv[1:]); sys.exit(status)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", "-c", code, *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_is_found_is_printed_and_written_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"]["numpy"]["version"] == installed_version("numpy")
    assert found["packages"].keys() == PACKAGES.keys() and found["cores"] >= 1
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert all(problem in printed for problem in found["problems"])
    assert found["problems"] or printed.endswith("\nNothing that facekd requires is missing.\n")


def test_it_runs_where_nothing_is_installed_and_says_what_to_install() -> None:
    done = run_alone("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    required = [name for name, package in PACKAGES.items() if not package.extra]
    assert all(f"\n- {name} is missing, for " in done.stdout for name in required)


def test_a_command_without_a_package_names_it() -> None:
    done = run_alone("data", "pack", "a", "b")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(r"error: this command needs (\S+), which is not installed here: pip install .*\b\1 ", done.stderr)
    assert done.stderr.count("\n") == 1


def test_the_packages_of_an_evaluation_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--without-torch"]) == 0
    words = capsys.readouterr().out.split()
    assert "numpy>=2" in words and not any(word.startswith(("torch", "onnxscript", "pyarrow")) for word in words)


def test_problems_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: {"torch": "2.4.0", "numpy": None}.get(name, "99"))
    monkeypatch.setattr(doctor, "wanted_versions", lambda: {**dict.fromkeys(PACKAGES, ""), "torch": ">=2.11"})
    monkeypatch.setattr(doctor, "_free", lambda folder: {"total": 10**9, "free": 64 * 10**6})
    monkeypatch.setattr(doctor, "_open_files", lambda: 256)
    problems = "\n".join(doctor.examine()["problems"])
    assert "torch 2.4.0 is not what facekd wants: pip install 'torch>=2.11'" in problems
    assert "numpy is missing, for all but" in problems and "onnx is missing" not in problems
    assert "/dev/shm has 64 MB left" in problems and "only 256 files" in problems and "on its disk" in problems


def test_the_version_names_those_that_results_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert printed.startswith(f"facekd {__version__} (") and f"numpy {installed_version('numpy')}, " in printed
    assert "torch -, " in run_alone("--version").stdout
