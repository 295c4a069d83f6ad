"""Every command of README, docs and help: the verb exists, and its own parser takes the options that it is given."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from facekd.cli import VERBS, main
from facekd.commands.command_line import CommandParser
from facekd.experiments import sh_kd, study
from facekd.training import distill, train
from tests.docs.blocks import ROOT, Block, all_blocks, facekd_calls

BLOCKS = all_blocks()
CALLS = [(block, words) for block in BLOCKS for command in block.commands for words in facekd_calls(command)]
# What the reader's own configuration is called on the pages, and what stands for it here.
OWN = ("CONFIG.yaml", "mine.yaml", "faces_mbf.yaml")
STAND_INS = {"train": "debug.yaml", "distill": "distill/ms1mv3_l2.yaml"}


class Accepted(BaseException):
    """Ends a verb as soon as its parser has taken the command line."""


def stop_after(parse: Callable[..., Any]) -> Callable[..., Any]:
    def stop(*arguments: Any, **options: Any) -> Any:
        parse(*arguments, **options)
        raise Accepted

    return stop


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], int]:
    """Runs a verb up to the point where its command line is parsed, in a folder with the configurations of readers."""
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(CommandParser, name, stop_after(getattr(CommandParser, name)))
    for module, name in ((train, "parse_config"), (distill, "parse_config"), (study, "parse_study")):
        monkeypatch.setattr(module, name, stop_after(getattr(module, name)))
    monkeypatch.setattr(sh_kd, "load_pipeline", stop_after(sh_kd.load_pipeline))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)

    def parse(words: list[str]) -> int:
        for name in ({*OWN} & {*words}) if words[0] in STAND_INS else ():
            shutil.copy(ROOT / "configs" / STAND_INS[words[0]], name)
        return main(words)

    return parse


def identify(value: Any) -> str:
    return str(value) if isinstance(value, Block) else " ".join(value)[:60]


@pytest.mark.parametrize(("block", "words"), CALLS, ids=identify)
def test_the_verb_takes_these_options(
    block: Block, words: list[str], parse_only: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    if not words or words[0] in ("--help", "--version") or "--help" in words:
        assert not words or words[0].startswith("--") or " ".join(words[:-1]) in VERBS
        return
    if any("timm:" in word for word in words):
        pytest.importorskip("timm")
    try:
        status = parse_only(words)
    except Accepted:
        return
    except SystemExit as stop:
        status = stop.code
    pytest.fail(f"{block}: `facekd {' '.join(words)}` ended with status {status}: {capsys.readouterr().err}")


@pytest.mark.parametrize("verb", VERBS)
def test_the_commands_of_its_help_have_options_that_exist(
    verb: str, parse_only: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        main([*verb.split(), "--help"])
    text = re.sub(r"\\\n\s*", "", capsys.readouterr().out)
    examples = re.findall(r"^ +(facekd .*)", text, re.MULTILINE)
    # What stands in a sentence may leave out what is required.
    for command in (*examples, *re.findall("`(facekd [^`]+)`", " ".join(text.split()))):
        for words in facekd_calls(command.replace(" ...", "")):
            if "--help" in words or "--help-all" in words:
                continue
            with contextlib.suppress(Accepted, SystemExit):
                parse_only(words)
            error = capsys.readouterr().err
            assert "not an option" not in error and (command not in examples or not error), f"{command}: {error}"


def test_a_flag_that_does_not_exist_is_noticed(parse_only: Callable[[list[str]], int]) -> None:
    for words in (["data", "pack", "a", "b", "--qualty", "3"], ["train", "configs/debug.yaml", "--head.margn", "x"]):
        try:
            status = parse_only(words)
        except SystemExit as stop:
            status = stop.code
        assert status == 2


def test_calls_are_found_behind_variables_launchers_and_pipes() -> None:
    find = partial(facekd_calls)
    assert find("facekd configs a > b.yaml  # facekd x") == [["configs", "a"]]
    assert find("A=1 python -m torch.distributed.run --nproc_per_node 8 -m facekd train c") == [["train", "c"]]
    assert find("ls facekd | facekd embed - && facekd doctor") == [["embed", "-"], ["doctor"]]
    assert find("python evaluation/evaluate_lfw.py --model m") == [["evaluate", "lfw", "--model", "m"]]
