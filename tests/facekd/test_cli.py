"""The menu: every verb is reachable, explains itself, and a slip of the keyboard gets a suggestion."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from facekd.cli import VERBS, main
from facekd.commands.config_help import leaf_defaults
from facekd.errors import FacekdError, run_verb
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig


def test_the_menu_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    named = printed.replace(",", " ").replace(":", " ").split()
    assert all(f"\n  {verb} " in printed or verb.split()[-1] in named for verb in VERBS)
    assert main(["data"]) == 0
    printed += capsys.readouterr().out
    assert all(f"\n  {verb} " in printed for verb in VERBS)


def test_the_menu_fits_a_screen_and_says_what_to_try_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 44 and max(map(len, lines)) <= 80
    assert "facekd quickstart" in lines[-1]


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
    assert "\n  data inspect " in printed and "\n  train " not in printed


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["trian"], "train"), (["data", "inspct"], "data inspect"), (["evaluate", "flw"], "evaluate lfw")],
)
def test_a_slip_gets_a_suggestion(typed: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed) == 2
    assert f"did you mean `facekd {meant}`" in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"pipeline sh-kd"}))  # which hands unknown options to its stages
def test_a_mistyped_option_gets_a_suggestion_and_no_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([*verb.split(), "--help-all" if verb in ("train", "distill", "study") else "--help"])
    option = max(
        set(re.findall(r"--[a-z][a-z_-]{2,}", capsys.readouterr().out)) - {"--print_config", "--help-all"}, key=len
    )
    typed = option[:-2] + option[-1] + option[-2] + "x"

    try:
        status = main([*verb.split(), typed, "1"])
    except SystemExit as stop:  # argparse's way to end
        status = stop.code
    message = capsys.readouterr().err
    assert status == 2
    assert message.startswith("error: ") and message.count("\n") == 1
    assert re.search(rf"{typed.strip('-')}\b.* is not .*did you mean \W*{option.strip('-')}\b", message)


def test_a_mistyped_choice_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "lfw", "--model", "m", "--pairs", "p", "--output", "o", "--rule", "exat"])
    assert "invalid choice: 'exat'; did you mean exact? (choose from exact, insightface)" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "config_class"), [("train", TrainConfig), ("distill", DistillConfig)])
def test_help_shows_the_main_keys_on_a_screen_and_help_all_shows_every_key(
    verb: str, config_class: type, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "configs/debug.yaml", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert "--data.train " in "\n".join(lines) and f"`facekd {verb} --help-all`" in "\n".join(lines)

    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help-all"])
    printed = capsys.readouterr().out
    assert all(f"--{key} " in printed for key in leaf_defaults(config_class))


def test_no_help_waits_for_torch() -> None:
    code = """
import contextlib, sys
from facekd.cli import VERBS, main
for words in ([], ["data"], *(verb.split() for verb in VERBS)):
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    if "torch" in sys.modules:
        sys.exit(f"facekd {' '.join(words)} --help imports torch")
"""
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        (lambda: Path("/dev/full").write_bytes(b"0"), "no space left on the device while writing /dev/full; free"),
        (
            lambda: Path("/proc/self/mem").read_bytes(),
            "Input/output error while reading or writing /proc/self/mem: look",
        ),
        (lambda: shutil.copyfile(__file__, "/dev/full"), "while writing /dev/full; free"),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_failing_device_is_named_by_the_file(
    verb: Callable[[], Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(lambda: verb() and 0) == 2  # the system's own error names no file
    assert message in capsys.readouterr().err


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
    assert fail_with(OSError(errno.EIO, "Input/output error", "./")) == 2
    assert f"error: Input/output error: {Path.cwd()}\n" in capsys.readouterr().err
    assert fail_with(OSError(errno.EIO, "Input/output error")) == 2
    assert "error: Input/output error while reading or writing a file: look at the disk" in capsys.readouterr().err
    assert fail_with(KeyboardInterrupt()) == 130
    assert run_verb(lambda: None) == 0
    capsys.readouterr()
    full = "CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 1 GiB free. Of the allocated memory 3 GiB is ..."
    assert fail_with(torch.OutOfMemoryError(full)) == 2
    assert capsys.readouterr().err == (
        "error: give fewer images at once (--batch-size), or end what else runs on the GPU: CUDA out of memory. Tried "
        "to allocate 2 GiB. GPU 0 has 1 GiB free.\n"
    )
    with pytest.raises(RuntimeError):
        fail_with(RuntimeError("another"))
    with pytest.raises(ZeroDivisionError):  # a defect of ours keeps its traceback
        fail_with(ZeroDivisionError())


def test_a_process_that_waits_with_its_error_ends_silently_when_the_launcher_stops_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise FacekdError("another process is gone")

    # The launcher ends the others once one has failed; that one has said why.
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    assert run_verb(fail) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("below", ["", "run", "run/checkpoints"])
def test_a_file_in_the_place_of_a_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")

    assert run_verb(lambda: (file / below).mkdir(parents=True, exist_ok=True)) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is a file, and a folder is needed there")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "words", [["--local-rank=0", "train"], ["train", "--local_rank=0"], ["train", "--local-rank", "0"]]
)
def test_the_option_of_the_old_launcher_is_explained(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "is an option of torch.distributed.launch" in said and "torchrun" in said and said.count("\n") == 1


def test_the_old_launcher_itself_is_understood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main(["--local-rank=0", "train", "--output", "x"]) == 2
    assert "data.train is empty" in capsys.readouterr().err


def test_an_error_is_reported_whatever_the_environment_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("LOCAL_RANK", "y")
    assert main(["train"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_wait_without_spinning_for_long_unless_the_user_has_said_how(given: dict, expected: str) -> None:
    code = "import os; from facekd.cli import main; main(['--version']); print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == expected
