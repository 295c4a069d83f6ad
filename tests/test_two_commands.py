"""Checks that a command is refused, in a sentence and before it reads anything, where another one writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.cli import VERBS, main
from facekd.files.output_lock import file_lock, folder_lock

# `in` does not exist: a verb that looked at it first would say so. What ends in a suffix is a file.
OUTPUTS = {
    "quickstart": "--output out",
    "data align": "in out --landmarks in",
    "data unpack": "in out",
    "data convert": "in out",
    "data cluster": "in out --model in",
    "data inspect": "in --check --lists out",
    "data make-pairs": "in out.bin --sample 9",
    "data synthesize": "--output out --identities 2 --images-per-identity 2",
    "rebuild-head": "in --data in --output out.pt",
    "train-quality": "in --data in --output out.pt",
    "drop-sub-centers": "in --data in --output out",
    "import": "in --output out.pt",
    "import-config": "in --output out.yaml",
    "embed": "in --model in --output out.npz",
    "export": "in --output out.onnx",
    "evaluate lfw": "--model in --pairs in --output out",
    "evaluate ijbc": "--model in --root in --output out",
    "evaluate folder": "--model in --images in --output out",
    "evaluate robustness": "--model in --pairs in --output out",
    "evaluate protocol": "tinyface --model in --root in --output out",
    "evaluate classification": "--model in --data in --output out",
    "report": "in in --output out",
    "compare": "in/a in/b --model in --output out.json",
    "search": "in --gallery in --output out.json",
}
BESIDE = {"data make-ijb": "in out", "data make-protocol": "tinyface in out"}
BESIDE |= {"data synthesize-classification": "--layout folders --output out"}
# Their locks are those of the files that they write, of runs, of studies: tested where those are.
OTHERS = {"pipeline sh-kd", "study", "train", "distill", "cache-teacher"}
OTHERS |= {"data pack", "data clean", "data index", "describe"}
OTHERS |= {"doctor", "configs", "models", "threshold"}  # which only print


def test_every_verb_is_listed() -> None:
    assert {*OUTPUTS, *BESIDE, *OTHERS} == set(VERBS)


@pytest.mark.parametrize(("verb", "words"), [*OUTPUTS.items(), *BESIDE.items()])
def test_a_second_command_is_refused(
    verb: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path(next(word for word in words.split() if word.startswith("out")))
    lock = file_lock(place) if place.suffix or verb in BESIDE else folder_lock(place, "command is at work")
    with lock:
        before = sorted(tmp_path.rglob("*"))
        assert main([*verb.split(), *words.split()]) == 2
        assert sorted(tmp_path.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {place}: another ") and "; wait until it has ended" in line
