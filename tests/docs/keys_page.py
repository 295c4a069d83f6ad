"""Writes docs/keys.md, the keys of configurations, from their dataclasses: `python -m tests.docs.keys_page`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from docstring_parser import parse

from facekd.commands.config_help import leaf_defaults
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "keys.md"
# Beginnings of descriptions that are written small: a value, and the letter of an equation.
NAMES = ("auto, ", "a of ")
MARK = "<!-- From here on written by `python -m tests.docs.keys_page`. -->\n"


def describe_keys(config_class: type, prefix: str = "") -> dict[str, str]:
    """Returns what the docstrings say of each dotted key, sections left out."""
    described = {name: text for one in config_class.__mro__ for name, text in _parameters(one).items()}
    found: dict[str, str] = {}
    for item in fields(config_class):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            found |= describe_keys(type(default), f"{prefix}{item.name}.")
        else:
            found[prefix + item.name] = described.get(item.name, "")
    return found


def _parameters(one: type) -> dict[str, str]:
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parse(one.__doc__ or "").params}


def list_keys() -> str:
    """Returns the part of the page that the dataclasses give."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    train = describe_keys(TrainConfig)
    both = {"`facekd train` and `facekd distill`": (TrainConfig, train)}
    own = {key: text for key, text in describe_keys(DistillConfig).items() if key not in train}
    both["`facekd distill` alone"] = (DistillConfig, own)
    for title, (config_class, described) in both.items():
        yield f"## {title}\n"
        leaves = leaf_defaults(config_class)
        for section in dict.fromkeys(key.rpartition(".")[0] for key in sorted(described, key=lambda key: "." in key)):
            yield f"### {f'`{section}:`' if section else 'Without a section'}\n"
            yield "| key | default | meaning |\n|---|---|---|"
            for key, text in described.items():
                if key.rpartition(".")[0] == section:
                    yield f"| `{key}` | {_default(leaves[key][1])} | {_meaning(text, leaves[key][0])} |"
            yield ""


def _meaning(text: str, choices: tuple[str, ...]) -> str:
    listed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    first = text.split(maxsplit=1)[0].strip(",:;.") if text else ""
    keeps = first in choices or "_" in first or text.startswith(NAMES)
    return f"{text[:1] if keeps else text[:1].upper()}{text[1:]}{listed}".strip().replace("|", "\\|")


def _default(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, tuple | list):
        return f"`[{', '.join(str(one) for one in value)}]`"
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`"


def whole_page() -> str:
    """Returns the page with its list written anew."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + list_keys()


if __name__ == "__main__":
    PAGE.write_text(whole_page(), encoding="utf-8")
