"""The menu: every verb is reachable, explains itself, and a slip of the keyboard gets a suggestion."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.cli import VERBS, main
from facekd.errors import FacekdError, run_verb


def test_the_menu_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"facekd {verb}" in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([*verb.split(), "--help"])
    printed = capsys.readouterr().out
    assert f"usage: facekd {verb}" in printed
    assert "example" in printed.lower()


def test_a_group_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    printed = capsys.readouterr().out
    assert "facekd data inspect" in printed and "facekd train" not in printed


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["trian"], "train"), (["data", "inspct"], "data inspect"), (["evaluate", "flw"], "evaluate lfw")],
)
def test_a_slip_gets_a_suggestion(typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed) == 2
    assert f"did you mean `facekd {meant}`" in capsys.readouterr().err


def test_the_menu_does_not_wait_for_torch() -> None:
    code = "import sys; from facekd.cli import main; main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_errors_for_people_become_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail_with(error: BaseException) -> int:
        def verb() -> int:
            raise error

        return run_verb(verb)

    assert fail_with(FacekdError("record 7 is short")) == 2
    assert capsys.readouterr().err == "error: record 7 is short\n"
    assert fail_with(OSError(errno.ENOSPC, "No space left", "model.onnx")) == 2
    assert "no space left on the device while writing model.onnx" in capsys.readouterr().err
    assert fail_with(PermissionError(errno.EACCES, "Permission denied", "out")) == 2
    assert "Permission denied: out" in capsys.readouterr().err
    assert fail_with(KeyboardInterrupt()) == 130
    assert run_verb(lambda: None) == 0
    with pytest.raises(ZeroDivisionError):  # a defect of ours keeps its traceback
        fail_with(ZeroDivisionError())


@pytest.mark.parametrize("below", ["", "run", "run/checkpoints"])
def test_a_file_in_the_place_of_a_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")

    assert run_verb(lambda: (file / below).mkdir(parents=True, exist_ok=True)) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is a file, and a folder is needed there")
    assert file.read_text() == "mine"
