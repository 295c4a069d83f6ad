"""Options for single keys of sections whose keys another verb defines: the file's other keys stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from facekd.commands.config_files import parse_config
from facekd.errors import ConfigError

FILE = """
base: {data: {train: faces, image_size: 32}, epochs: 3, schedule.lr: 0.1}
stage: {config: {images: 7}}
methods:
  a.b: {config: {loss: {ce: 1, kl: 2}}}
  plain: {}
"""


@dataclass(frozen=True)
class Entry:
    """Holds an entry.

    Args:
        config: keys of another verb.
        note: a text.
    """

    config: dict[str, Any] | None = None
    note: str = ""


@dataclass(frozen=True)
class Whole:
    """Holds open sections: by itself, in a section, in entries.

    Args:
        base: keys of another verb.
        stage: a section.
        methods: entries.
    """

    base: dict[str, Any] | None = None
    stage: Entry = field(default_factory=Entry)
    methods: dict[str, Entry] = field(default_factory=dict, metadata={"entries": Entry})


def parse(folder: Path, *words: str) -> Whole:
    path = folder / "c.yaml"
    path.write_text(FILE)
    return parse_config(Whole, [str(path), *words], "facekd try", "Tries.")


def test_one_key_leaves_the_others_of_its_section(tmp_path: Path) -> None:
    config = parse(tmp_path, "--base.data.train", "others", "--base.epochs=5", "--base.device", "cuda")
    base = {"data.train": "others", "data.image_size": 32, "epochs": 5, "schedule.lr": 0.1, "device": "cuda"}
    assert config.base == base
    # Nothing else is touched.
    assert config.methods["a.b"].config == {"loss": {"ce": 1, "kl": 2}}


def test_sections_within_sections_and_entries(tmp_path: Path) -> None:
    words = ["--stage.config.images", "9", "--methods.a.b.config.loss.kl", "1e-1", "--methods.plain.config.share", "1"]
    config = parse(tmp_path, *words, "--methods.plain.note", "a note")
    assert config.stage.config == {"images": 9}
    assert config.methods["a.b"].config == {"loss.ce": 1, "loss.kl": 0.1}
    assert config.methods["plain"] == Entry({"share": 1}, "a note")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--base.data={train: x, workers: 0}", {"data.train": "x", "data.image_size": 32, "data.workers": 0}),
        ("--base.data=null", {"data": None}),
        ("--base.schedule={lr: 1, name: step}", {"schedule.lr": 1, "schedule.name": "step"}),
        ("--base.epochs.more=1", {"epochs.more": 1}),
        ("--base.seeds=[1, 2]", {"seeds": [1, 2]}),
        ("--base.teacher.model={teacher@0}", {"teacher.model": "{teacher@0}"}),  # a reference, and no mapping
        ("--base.teacher.cache={study}/teacher.cache", {"teacher.cache": "{study}/teacher.cache"}),
        ("--base.shared_head=", {"shared_head": ""}),  # an empty text, as the verbs themselves take it
        ("--base.data={}", {"data": None}),  # none of the section's keys
    ],
)
def test_a_value_replaces_what_is_at_its_key(tmp_path: Path, word: str, expected: dict[str, Any]) -> None:
    unchanged = {"data.train": "faces", "data.image_size": 32, "epochs": 3, "schedule.lr": 0.1}
    heads = {key.partition(".")[0] for key in expected}
    kept = {key: value for key, value in unchanged.items() if key.partition(".")[0] not in heads}
    if word == "--base.data={}":
        expected = {}
    assert parse(tmp_path, word).base == kept | expected


def test_of_names_within_names_the_longest_counts(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("methods: {a: {}, a.config.b: {config: {x: 1}}}")
    words = [str(path), "--methods.a.config.b.config.x", "2", "--methods.a.config.y", "3"]
    methods = parse_config(Whole, words, "facekd try", "Tries.").methods
    assert (methods["a.config.b"].config, methods["a"].config) == ({"x": 2}, {"y": 3})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base.epochs"], r"--base\.epochs: expected a value after it"),
        (["--base.epochs", "[1"], r"--base\.epochs: not YAML: "),
        (
            ["--methods.plane.config.share", "1"],
            "--methods.plane.config.share: there is no plane in methods; did you mean",
        ),
        (["--base.device", "--base.epochs", "5"], r"--base\.device: expected a value after it"),
        (["--base.data={5: 1}"], r"--base\.data: the key 5 is no text"),
        (["--base.data={x: {a b: 1}}"], r"--base\.data: 'a b' below x is no key"),
        (["--base.a..b", "1"], r"--base\.a\.\.b names no key"),
        (
            ["--base.epochs", "5", "--print_config"],
            r"--base\.epochs: --print_config shows the file and plain keys alone",
        ),
        (["--stage.confg.images", "1"], "'stage.confg.images' is not a configuration key; did you mean 'stage.config'"),
    ],
)
def test_mistakes_name_the_option(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(tmp_path, *words)
