"""YAML files of sections and keys, for the verbs that build command lines from them (study, pipeline)."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from facekd.errors import ConfigError, FacekdError


def read_sections(path: Path) -> dict[str, Any]:
    """The content of a YAML file.

    Raises:
        ConfigError: no file, no YAML, or no keys in it.
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; configs/ holds examples to start from")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return as_section(content, str(path))


def as_section(value: Any, where: str) -> dict[str, Any]:
    """A value that must be keys with values; nothing is an empty section."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where}: expected keys with values, found {value!r}")
    return value


def check_keys(value: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that does not exist, with the nearest that does."""
    known = list(known)
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}{key!r} is not a key here{hint(key, known)}; known: {', '.join(known)}")


def hint(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted keys: what comes later then overrides single keys, not whole sections."""
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            found |= flatten(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


Config = TypeVar("Config")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError that names the key unless `value` is one of the choices."""
    require(value in choices, f"{key} = {value!r}: choose one of {', '.join(choices)}")


def check_number(key: str, value: float, is_good: bool, wanted: str) -> None:
    """Raises a ConfigError that names the key unless `value` is finite and good, such as "at least 0"."""
    require(math.isfinite(value) and is_good, f"{key} = {value}: give a number that is {wanted}")


def parse_config(config_class: type[Config], argv: list[str] | None, prog: str, description: str) -> Config:
    """Read `[CONFIG.yaml] [--a.b value ...]` into a config; later values win.

    `--help` and `--print_config` print and exit, as in any jsonargparse program.

    Raises:
        ConfigError: a key that does not exist (with the nearest that does), a value of the wrong type, a bad file.
    """
    from jsonargparse import ArgumentParser

    argv = sys.argv[1:] if argv is None else argv

    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG.yaml [--key value ...]\n\nexample: {prog} configs/debug.yaml --seed 1",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,  # or `--batch_size` would quietly mean batch_size_per_rank
    )
    parser.add_argument("--config", action="config", help="a YAML file; CONFIG.yaml as the first word is the same")
    parser.add_class_arguments(config_class)
    if argv and not argv[0].startswith("-"):
        _check_yaml(Path(argv[0]), config_class)
        argv = ["--config", argv[0], *argv[1:]]
    try:
        values = parser.instantiate(parser.parse_args(argv))
        return config_class(**{item.name: values[item.name] for item in fields(config_class)})  # type: ignore[arg-type]
    except FacekdError:
        raise
    except Exception as error:  # jsonargparse wraps everything in its own ArgumentError, our checks included
        raise _readable(error, config_class) from error


def _check_yaml(path: Path, config_class: type) -> None:
    """Find what is wrong with a file as a file, and with its sections as sections, before its keys are looked at."""
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; configs/ holds examples to start from")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no configuration; expected lines such as `output: runs/mine`")
    for item in fields(config_class):
        is_section = callable(item.default_factory) and is_dataclass(item.default_factory())
        if is_section and not isinstance(content.get(item.name, {}), dict):
            raise ConfigError(f"{path}: {item.name} is a section: expected keys below it, not {content[item.name]!r}")


def _readable(error: BaseException, config_class: type) -> FacekdError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FacekdError):
            return cause
        cause = cause.__cause__ or cause.__context__
    message = re.sub(r"\s+", " ", str(error)).strip()
    message = re.sub(r"Group '([\w.]+)' does not accept option '([\w.]+)'", r"Option '\1.\2'", message)
    known = config_keys(config_class)
    for named in re.findall(r"(?:[Kk]ey|Option) '([\w.]+)'|--([\w.-]+)", message):
        typed = named[0] or named[1]
        key = typed.replace("-", "_")
        if typed not in known and typed != "config":
            # Most often the section was left out, or was another: `lr` for `schedule.lr`.
            close = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
            close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return ConfigError(f"{typed!r} is not a configuration key{hint} (`--help` lists them all)")
    if wrong := re.search(r'Parser key "([\w.]+)": (.*)', message):
        return ConfigError(f"{wrong[1]}: {_without_types(wrong[2])}")
    return ConfigError(message)


def _without_types(message: str) -> str:
    """`Expected a <class 'float'>` and `typing.Literal['a', 'b']`, said without Python."""
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("NoneType", "null")
    message = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\].*?Given",
        r"expected \1. Given",
        message,
    )
    message = message.replace("Expected a tuple", "expected a list in brackets")
    return re.sub(r"[Ee]xpected a typing\.Literal\[(.*?)\]", r"expected one of \1", message)


def config_keys(config_class: type) -> list[str]:
    """All dotted keys of a config class, sections included: `["output", "data", "data.train", ...]`."""
    keys = []
    for item in fields(config_class):
        keys.append(item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            keys += [f"{item.name}.{key}" for key in config_keys(type(default))]
    return keys


def to_plain(config: Any) -> dict[str, Any]:
    """A config as nested dicts and lists of plain values, as it goes into checkpoints and YAML."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def to_yaml(config: Any) -> str:
    """A config as YAML that `parse_config` reads back."""
    import yaml

    return yaml.safe_dump(to_plain(config), sort_keys=False)


def with_defaults(plain: dict[str, Any], config_class: type) -> dict[str, Any]:
    """A plain config written before some keys existed, with those at their defaults: what it meant then."""
    found = dict(plain)
    for item in fields(config_class):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            found[item.name] = with_defaults(found.get(item.name, {}), type(default))
        elif item.name not in found:
            found[item.name] = _plain(default)
    return found


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys at which two plain configs differ, with both values; a key that one lacks counts as None."""
    found = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[prefix + key] = (before, after)
    return found
