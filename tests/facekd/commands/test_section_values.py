"""Checks that no configuration, nor an option, has a module imported, a class called or another file read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from facekd.commands.config_files import parse_config
from facekd.errors import ConfigError
from facekd.experiments.sh_kd import PipelineFile
from facekd.experiments.studies.file import StudyFile
from facekd.training.config import DistillConfig, TrainConfig

STUDY = "output: o\nmethods: {m: {model: x.onnx}}\n"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the file that a module `planted` writes when it is imported, and its class when it is called."""
    marks = tmp_path / "ran"
    note = f"open({str(marks)!r}, 'a').write('x')"
    (tmp_path / "planted.py").write_text(f"{note}\nclass Planted:\n    def __init__(self, **_): {note}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return marks


@pytest.mark.parametrize(
    ("config_class", "content"),
    [
        (TrainConfig, "data: {class_path: planted.Planted}\n"),
        (TrainConfig, "data.class_path: planted.Planted\n"),
        (TrainConfig, 'data: {"class\\x5fpath": planted.Planted, init_args: {}}\n'),
        (TrainConfig, "seed: &a class_path\nhead: {? *a : planted.Planted}\n"),
        (TrainConfig, "output: &a {class_path: planted.Planted}\nhead: {<<: *a}\n"),
        (DistillConfig, "teacher: {class_path: planted.Planted}\n"),
        (PipelineFile, "output: o\nstudent: {config: {data: {class_path: planted.Planted}}}\n"),
        (StudyFile, STUDY + "base: {data: {class_path: planted.Planted, init_args: {a: 1}}}\n"),
        (StudyFile, STUDY + "base: {data: [{class_path: planted.Planted}]}\n"),
        (StudyFile, STUDY + "evaluate: {x: {class_path: planted.Planted}}\n"),
    ],
)
def test_no_key_of_a_file_has_a_class_imported(config_class: Any, content: str, ran: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"c.yaml, line \d: the (key 'class_path' would run code|alias \*a stands)"):
        parse_config(config_class, [str(file)], "facekd x", "")
    assert not ran.exists()


def test_a_text_that_is_yaml_stays_a_text(ran: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    called = "{class_path: planted.Planted, init_args: {first: 1, second: 2}}"
    for text in ("{class_path: planted.Planted}", called, "*best: the one that we would ship, after all is said"):
        file.write_text(f"{STUDY}title: '{text}'\nbase: {{x: '{text}'}}\n")
        found = parse_config(StudyFile, [str(file)], "facekd study", "")
        assert found.base == {"x": text} and found.title == text
    assert not ran.exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--data", "planted.Planted"], "data: expected a section of keys, not planted"),
        (["--data=planted.Planted"], "data: expected a section of keys, not planted"),
        (["--data", "{class_path: planted.Planted}"], "would run code"),
        (["--teachers", "[planted.Planted]"], "teachers: expected a section of keys"),
        (["--teachers={a: planted.Planted}"], "teachers: expected a section of keys"),
        (["--head", "FILE"], "head: expected a section of keys"),
        (["--data", "FOLDER"], r"data: expected a section of keys, not .*: write --data.KEY VALUE"),
        (["--teachers.planted.Planted", "1"], "teachers is a list: give all of it by --teachers '"),
        (["--teachers.class_path=planted.Planted"], "--teachers.class_path: the key 'class_path' would run code"),
    ],
)
def test_no_option_for_a_section_has_one_imported(words: list[str], problem: str, ran: Path, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("planted.Planted\n")
    words = [{"FILE": str(tmp_path / "f.yaml"), "FOLDER": str(tmp_path)}.get(word, word) for word in words]
    with pytest.raises(ConfigError, match=problem):
        parse_config(DistillConfig, words, "facekd distill", "")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--methods.m", "planted.Planted"], "methods.m: expected a section of keys, not planted"),
        (["--methods.planted.Planted", "x"], "methods.planted.Planted: expected a section of keys, not x"),
        (["--methods.m.class_path", "planted.Planted"], "the key 'class_path' would run code"),
        (["--methods.class_path=planted.Planted"], "the key 'class_path' would run code"),
        (["--base.class_path", "planted.Planted"], "the key 'class_path' would run code"),
        (["--packs.pairs", "x"], "packs is a list"),  # jsonargparse made packs called "pairs" and "x"
    ],
)
def test_no_option_for_an_entry_has_one_imported(words: list[str], problem: str, ran: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    with pytest.raises(ConfigError, match=problem):
        parse_config(StudyFile, [str(tmp_path / "s.yaml"), *words], "facekd study", "")
    assert not ran.exists()


def test_an_entry_and_its_keys_may_be_given_by_options(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    words = ["--methods.k", "{verb: train}", "--methods.k.note=planted.Planted", "--methods.m.seeds", "[1]"]
    words += ["--methods.m.config.data.train", "a/b", "--methods.m.config.seed=3", "--methods.m.evaluate.mean", "0"]
    methods = parse_config(StudyFile, [str(tmp_path / "s.yaml"), *words], "facekd study", "").methods
    assert (methods["k"].verb, methods["k"].note, methods["m"].seeds) == ("train", "planted.Planted", (1,))
    # The keys of another verb, with values of any kind.
    assert methods["m"].config == {"data.train": "a/b", "seed": 3} and methods["m"].evaluate == {"mean": 0}


def test_a_section_may_be_a_file_or_keys(tmp_path: Path) -> None:
    (tmp_path / "head.yaml").write_text("margin: cosface\n")
    words = ["--output", "o", "--data.train", "d", "--head", str(tmp_path / "head.yaml"), "--schedule", "{lr: 0.5}"]
    config = parse_config(TrainConfig, words, "facekd train", "")
    assert (config.head.margin, config.schedule.lr) == ("cosface", 0.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{config: FILE}", "--config: 'config' is not a configuration key"),
        ("{data.image_size: 64, data: {train: d}}", "--config: data.image_size would be lost by the section data"),
        ("{data: {class_path: planted.Planted}}", "--config: the key 'class_path' would run code"),
        ("planted.Planted", "planted.Planted: no such configuration file"),
        ("[a", "a: no such configuration file"),
    ],
)
def test_yaml_in_place_of_a_file_is_checked_like_one(text: str, problem: str, ran: Path, tmp_path: Path) -> None:
    words = ["--output", "o", "--data.train", "d", "--config", text.replace("FILE", str(tmp_path / "planted.py"))]
    with pytest.raises(ConfigError, match=problem):
        parse_config(TrainConfig, words, "facekd train", "")
    assert not ran.exists()
    assert parse_config(TrainConfig, [*words[:-1], "{seed: 3}"], "facekd train", "").seed == 3


@pytest.mark.parametrize("key", ["config", "__path__", "print_config"])
def test_a_file_has_no_keys_of_the_parser(key: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("output: elsewhere\ndata: {train: d}\n")
    (tmp_path / "c.yaml").write_text(f"output: o\ndata: {{train: d}}\n{key}: {tmp_path / 'other.yaml'}\n")
    with pytest.raises(ConfigError, match=f"c.yaml: '{key}' is not a configuration key"):
        parse_config(TrainConfig, [str(tmp_path / "c.yaml")], "facekd train", "")
