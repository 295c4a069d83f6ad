"""Checks that YAML made to do harm is refused by a sentence, quickly, and that all other YAML reads as ever."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import get_loader

from facekd.commands.config_files import parse_config
from facekd.commands.yaml_files import load_yaml, read_yaml
from facekd.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Section:
    """Holds a value.

    Args:
        name: a text.
    """

    name: str = ""


@dataclass(frozen=True)
class Config:
    """Holds what a configuration has.

    Args:
        seed: a number.
        values: several.
        free: anything.
        section: a section.
    """

    seed: int = 0
    values: tuple[str, ...] = ()
    free: dict[str, Any] | None = None
    section: Section = field(default_factory=Section)


def bomb(levels: int = 9, separator: str = "\n") -> str:
    """Returns 600 bytes that stand for 10^9 values."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels)]
    return separator.join(rows)


HOSTILE = {
    "lists of aliases": (bomb(), "more than 10,000 values"),
    "in a section": ("free:\n" + "".join(f"  {line}\n" for line in bomb().split("\n")), "line 5: more than 10,000"),
    "in a text": (
        f"seed: '{{{bomb(separator=', ')}}}'\n",
        "line 1: a text that is YAML itself: more than 10,000 values",
    ),
    "merges": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
        "more than 10,000 values",
    ),
    "a merge into itself": ("free: &a\n  <<: *a\n", r"line 2: the alias \*a stands inside of what it repeats"),
    "a section in itself": ("section: &a {name: *a}\n", r"the alias \*a stands inside"),
    "levels": ("free: " + "[" * 3000, "more than 40 levels|maximum nesting depth"),  # libyaml has a limit of its own
    "levels in a text": (f"seed: '{'[' * 100_000}'\n", "seed: Expected a int|YAML itself: more than 40 levels"),
    "indentation": ("".join(" " * level + "a:\n" for level in range(500)), "more than 40 levels"),
    "digits": ("seed: " + "9" * 5000 + "\n", "line 1: a number of 5,000 characters"),
    "digits in a text": (f"seed: '{'9' * 5000}'\n", "a number of 5,000 characters"),
    "hexadecimal digits": ("seed: 0x" + "f" * 100_000 + "\n", "a number of 100,002 characters"),
    "a number to base 60": ("seed: 1" + ":59" * 50_000 + "\n", "a number to another base"),
    "an only key that is none": ("~:\n", "not YAML: its only key is no text"),
    "a tag of another kind": ("seed: !!int ''\n", "not YAML: a value is not what its tag says"),
    "a tag of another word": ("seed: !!bool x\n", "not YAML: a value is not what its tag says"),
    "a number to base 8": ("values: [a]\nseed: 010\n", "line 2: 010 is a number to another base in YAML"),
    "minutes and seconds": ("seed: 1:30\n", "line 1: 1:30 is a number to another base"),
    "no digits": ("seed: 0b_\n", "not YAML: invalid literal"),
    "levels in a whole text": (f"free: '{'[' * 99}{']' * 99}'\n", "a text that is YAML itself: more than 40 levels"),
    "a key twice": ("seed: 1\nvalues: []\nseed: 2\n", "line 3: the key 'seed' stands in line 1 already"),
    "a key twice in a section": ("section: {name: a, name: b}\n", "the key 'name' stands in line 1 already"),
    "a Python object": ("free: !!python/object/apply:os.system [true]\n", "line 1: has the tag .*os.system"),
    "another kind of value": ("values: !!set {a, b}\n", "has the tag .*:set"),
    "bytes": ("seed: " + "x" * 300_000, "has 300,006 bytes, and a configuration at most 256 KB"),
    "a zero": (r'free: [{a: "b\0"}]' + "\n", "line 1: a text with the character of code 0"),
    "a key that the terminal obeys": (
        r'"[red]\e]0;x\a\u202e\ny": 1' + "\n",
        r"'\[red\]\\x1b\]0;x\\x07\\u202e\\ny' is no",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_at_once_by_a_sentence(name: str, tmp_path: Path) -> None:
    content, expected = HOSTILE[name]
    path = tmp_path / "c.yaml"
    path.write_text(content)
    started = time.process_time()
    with pytest.raises(ConfigError, match=expected) as caught:
        parse_config(Config, [str(path)], "facekd train", "")
    assert time.process_time() - started < 5  # 10^9 values would take an hour
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_configurations_read_as_without_limits(path: Path) -> None:
    assert read_yaml(path) == get_loader("yaml")(path.read_text()) != {}


def test_anchors_merges_dates_and_long_texts_are_read(tmp_path: Path) -> None:
    text = (
        "a: &a {x: 1, y: [2, 1e-4]}\n"
        "b: {<<: *a, x: 3}\n"
        "c: [*a, *a]\n"
        "d: 2026-11-25\n"
        f"e: 'a note of more than forty characters, with & and * and [brackets: {'long ' * 30}'\n"
        "f: !!str 5\n"
    )
    assert load_yaml(text) == get_loader("yaml")(text)
    (tmp_path / "c.yaml").write_text("values: &v [a, b]\nfree: {v: *v, w: {<<: {p: 1}, p: 2}}\n")
    found = parse_config(Config, [str(tmp_path / "c.yaml"), "--section.name", "[a, b"], "facekd train", "")
    assert found == Config(0, ("a", "b"), {"v": ["a", "b"], "w": {"p": 2}}, Section("[a, b"))
