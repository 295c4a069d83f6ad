"""Tests plain values of configs that hold lists of sections: paths, keys that came later, and what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from facekd.commands.config_files import parse_config, path_field
from facekd.commands.plain_configs import differences, to_plain, to_yaml, with_defaults


@dataclass(frozen=True)
class Entry:
    """Holds an entry."""

    file: str = path_field()
    weight: float = 1.0


@dataclass(frozen=True)
class Config:
    """Holds a list of them."""

    output: str = path_field("x")
    entries: tuple[Entry, ...] = field(default=(), metadata={"entries": Entry})


def test_paths_in_a_list_are_expanded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/there")
    given = tmp_path / "given.yaml"
    given.write_text("entries:\n- {file: $PLACE/a$$b, weight: 2}\n- {file: ./~c}\n")
    config = parse_config(Config, [str(given)], "", "")
    assert config == Config(entries=(Entry("/there/a$b", 2.0), Entry("./~c")))
    written = tmp_path / "written.yaml"
    written.write_text(to_yaml(config))
    assert parse_config(Config, [str(written)], "", "") == config


def test_an_older_list_is_completed_entry_by_entry() -> None:
    old = {"output": "x", "entries": [{"file": "a"}, {"file": "b", "weight": 3.0}]}
    assert with_defaults(old, Config) == to_plain(Config(entries=(Entry("a"), Entry("b", 3.0))))
    assert with_defaults({}, Config) == to_plain(Config())
    assert with_defaults({"entries": ["damaged"]}, Config)["entries"] == ["damaged"]


def test_lists_differ_key_by_key_and_by_their_lengths() -> None:
    one, two = (
        to_plain(Config(entries=(Entry("a"), Entry("b")))),
        to_plain(Config(entries=(Entry("a"), Entry("c", 2.0)))),
    )
    assert differences(one, one) == {}
    assert differences(one, two) == {"entries.1.file": ("b", "c"), "entries.1.weight": (1.0, 2.0)}
    longer = to_plain(Config(entries=(Entry("a"), Entry("b"), Entry("c"))))
    assert differences(one, longer) == {"entries.2": (None, {"file": "c", "weight": 1.0})}
    assert set(differences(to_plain(Config()), one)) == {"entries"}
