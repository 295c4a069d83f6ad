"""Reads YAML files and dotted options into config dataclasses, with errors that name the file and the key to change."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import tempfile
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import Field, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from facekd.commands.completion import is_completing
from facekd.commands.open_sections import check_keys, flatten, put_open_options, take_open_options
from facekd.commands.places import require_own_output
from facekd.commands.section_values import check_section_values, refuse_code_keys
from facekd.commands.suggestions import did_you_mean, nearest, verb_of_keys, why_no_config
from facekd.errors import ConfigError, FacekdError
from facekd.files.reading import read_text_file, require_regular_file
from facekd.utils.foreign import shown

Config = TypeVar("Config")
LONGEST_PROBLEM = 800  # characters of a message of jsonargparse, which repeats the value
SHIPPED_CONFIGS = Path(__file__).resolve().parent.parent / "configs"  # the examples, in an installed facekd as well


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises a ConfigError that names the key unless `value` is one of the choices."""
    meant = did_you_mean(str(value), choices)
    require(value in choices, f"{key} = {shown(repr(value))}: choose one of {', '.join(choices)}{meant}")


def check_number(key: str, value: float, is_good: bool, wanted: str) -> None:
    """Raises a ConfigError that names the key unless `value` is finite and good, such as "at least 0"."""
    require(math.isfinite(value) and is_good, f"{key} = {value}: give a number that is {wanted}")


def path_field(default: Any = "") -> Any:
    """Returns a field of a config that holds a path, or several; `parse_config` expands `~` and `$VAR` in it."""
    return field(default=default, metadata={"path": True})


def expand_path(path: str, key: str) -> str:
    """Returns a path with `$VAR` and `${VAR}` replaced, `$$` meaning one `$`, and then a leading `~`.

    Args:
        path: as the user wrote it.
        key: where, for messages.

    Raises:
        ConfigError: there is no such variable, or no such user.
    """

    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name and not os.environ.get(name):
            raise ConfigError(
                f"{key} is {path!r}, and the environment variable {name} is not set: set it, or write $$ for a plain $"
            )
        return os.environ[name] if name else "$"

    found = re.sub(r"\$(?:\$|([A-Za-z_]\w*)|\{(\w+)\})", value_of, path)
    expanded = os.path.expanduser(found)  # noqa: PTH111 - Path would drop a trailing slash and the dot of ./~
    if expanded == found and found.startswith("~"):
        raise ConfigError(f"{key} is {path!r}, and there is no such user; write ./{found} for a folder of that name")
    return expanded


def protect_path(path: str | os.PathLike[str]) -> str:
    """Returns a path as it must be written for `expand_path` to give it back."""
    text = os.fspath(path).replace("$", "$$")
    return f"./{text}" if text.startswith("~") else text


def _expand_paths(values: Any, config_class: type, origin: Callable[[str], str], prefix: str = "") -> None:
    """Expands, in place, the paths among parsed values: those of `path_field`s, in sections and entries as well.

    A text that is missing behind its key becomes an empty one: jsonargparse gives None, whatever the key's type.
    """

    def expanded(value: Any, key: str) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(expanded(one, key) for one in value)
        return expand_path(value, origin(key) + key) if isinstance(value, str) else value

    for item in fields(config_class):
        if item.name not in values:  # an entry has the keys that were given
            continue
        if values[item.name] is None and item.type in ("str", str):  # `key:` with nothing behind it
            values[item.name] = ""
        key, value = prefix + item.name, values[item.name]
        if item.metadata.get("path"):
            values[item.name] = value = expanded(value, key)
        if "entries" in item.metadata:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for name, entry in entries:
                if not isinstance(entry, str):
                    _expand_paths(entry, item.metadata["entries"], origin, f"{key}.{name}.")
        elif callable(item.default_factory) and is_dataclass(default := item.default_factory()):
            _expand_paths(value, type(default), origin, f"{key}.")


def parse_config(
    config_class: type[Config], argv: list[str] | None, prog: str, description: str, epilog: str | None = None
) -> Config:
    """Reads `[CONFIG.yaml] [--a.b value ...]` into a config; later values win.

    `--help` and `--print_config` print and exit, as in any jsonargparse program. A field whose metadata name a
    dataclass as its "entries" holds many such sections, by name or in a list; errors then name the entry.

    Args:
        config_class: dataclass to read into.
        argv: words of the command line; None takes those of this process.
        prog: the command, for messages and help.
        description: what the command does, for `--help`.
        epilog: example and notes below the help; None gives a short example above it.

    Raises:
        ConfigError: a key that does not exist (with the nearest that does), a value of the wrong type, a bad file.
    """
    # One parser holds the options of all sections.
    given = sys.argv[1:] if argv is None else argv
    refuse_code_keys(given)
    words, open_options = take_open_options(config_class, given)
    argv = _config_first(["--help" if word == "--help-all" else word for word in words])
    parser = _make_parser(config_class, prog, description, epilog)
    vars(parser).pop("print_config", None)  # left by words that asked for it and were wrong
    # Mistakes in the file as a file are reported first; which keys it has tells later errors apart from options.
    file, keys_of_file = None, set()
    if argv and not argv[0].startswith("-"):
        file = Path(argv[0])
        content = _read_yaml(file, config_class, prog)
        given_as_options = {word[2:].partition("=")[0] for word in argv[1:] if word.startswith("--")}
        keys_of_file = {*content, *flatten(content)} - given_as_options  # an option replaces the file's value
    check_section_values(config_class, words)
    try:
        with _as_plain_files(
            argv, lambda path: _read_yaml(path, config_class, prog), lambda text: _check_text(text, config_class)
        ) as plain:
            parsed = parser.parse_args(plain)
        put_open_options(parsed, open_options)
        _expand_paths(parsed, config_class, lambda key: f"{file}: " if key in keys_of_file else "")
        values = parser.instantiate(parsed)
        if file is not None and "output" in keys_of_file:
            require_own_output(file, values["output"])
        return config_class(**{item.name: values[item.name] for item in fields(config_class)})  # type: ignore[arg-type]
    except FacekdError:
        raise
    except Exception as error:  # jsonargparse wraps everything in its own ArgumentError, our checks included
        raise _readable(error, config_keys(config_class), file, keys_of_file) from error


@cache  # a study parses the config of each method
def _make_parser(config_class: type, prog: str, description: str, epilog: str | None) -> Any:
    """Returns a parser of a file, and of options for the keys of all sections."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    from facekd.commands.yaml_files import MODE

    class Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
        """Explains the keys by their docstrings, and prints description and epilog as they are."""

    example = "" if epilog else f"\n\nexample: {prog} configs/debug.yaml --seed 1"
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG.yaml [--key value ...]{example}",
        description=description,
        epilog=epilog,
        formatter_class=Formatter,
        parser_mode=MODE,
        exit_on_error=False,
        allow_abbrev=False,  # otherwise `--batch_size` would silently mean batch_size_per_rank
    )
    parser.add_argument("--config", action="config", help="a YAML file; CONFIG.yaml as the first word is the same")
    parser.add_class_arguments(config_class)
    if is_completing():  # what the verbs take from the words themselves
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("--plugin")
    return parser


def file_first(argv: Sequence[str]) -> list[str]:
    """Moves CONFIG.yaml, the first word that is neither an option nor the value of one, to the front."""
    is_value = False
    for place, word in enumerate(argv):
        if not is_value and not word.startswith("-"):
            return [word, *argv[:place], *argv[place + 1 :]]
        is_value = not is_value and "=" not in word and word not in ("-h", "--help", "--print_config")
    return list(argv)


def _config_first(argv: Sequence[str]) -> list[str]:
    """Returns the words with `--config FILE` at their beginning as plain FILE, and a `~` in it expanded."""
    words = file_first(argv)
    if words and words[0].startswith("--config="):
        words[0] = words[0].partition("=")[2]
    elif len(words) > 1 and words[0] == "--config":
        del words[0]
    if words and not words[0].startswith("-"):
        words[0] = _find_config(words[0])
    return words


def _find_config(path: str) -> str:
    """Returns the path of a config with `~` expanded; if there is no configs/NAME, that of the example of this name."""
    found = os.path.expanduser(path)  # noqa: PTH111
    folder, _, name = found.partition("/")
    shipped = SHIPPED_CONFIGS / name
    if folder == "configs" and not os.path.exists(found) and shipped.is_file():  # noqa: PTH110
        return str(shipped)
    return found


@contextlib.contextmanager
def _as_plain_files(
    argv: Sequence[str], check: Callable[[Path], object], check_text: Callable[[str], object]
) -> Iterator[list[str]]:
    """Yields the words for jsonargparse: each file named by `--config`, or by the first word, checked and plain.

    It reads plain UTF-8 alone, so that files in another encoding give way to copies for the time.
    """
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if words and not words[0].startswith("-"):
        words.insert(0, "--config")
    with contextlib.ExitStack() as stack:
        for place in [number + 1 for number, word in enumerate(words[:-1]) if word == "--config"]:
            words[place] = _find_config(words[place])
            if not os.path.exists(words[place]):  # noqa: PTH110 - it may be YAML itself, too long for a name
                check_text(words[place])
                continue
            path = Path(words[place])
            check(path)
            text = read_text_file(path, error=ConfigError)
            if path.read_bytes() != text.encode():
                copy = stack.enter_context(tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8"))
                copy.write(text)
                copy.flush()
                words[place] = copy.name
        yield words


def _read_yaml(path: Path, config_class: type, prog: str) -> dict[str, Any]:
    """Reads a file and checks that it is one, and that its sections and entries are, before its keys are parsed."""
    from facekd.commands.yaml_files import read_yaml

    require_regular_file(path)
    if problem := why_no_config(path, prog):
        raise ConfigError(f"{path} {problem}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; examples to start from lie in {SHIPPED_CONFIGS}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no configuration; expected lines such as `output: runs/mine`")
    check_keys(str(path), content)
    verb = verb_of_keys([str(key) for key in content], [item.name for item in fields(config_class)])
    if verb is not None and verb != prog:
        raise ConfigError(f"{path} is a configuration of `{verb}`, not of `{prog}`; run `{verb} {path}`")
    _check_names(str(path), content, config_class)
    for item in fields(config_class):
        found = content.get(item.name, {})
        is_section = callable(item.default_factory) and is_dataclass(item.default_factory())
        if is_section and not isinstance(found, dict):
            raise ConfigError(f"{path}: {item.name} is a section: expected keys below it, not {shown(repr(found))}")
        if "entries" in item.metadata:
            _check_entries(path, item, found)
    return content


def _check_text(text: str, config_class: type) -> None:
    """Checks YAML that stands in the place of a file's name."""
    from facekd.commands.yaml_files import YamlLimitError, load_yaml

    try:
        content = load_yaml(text)
    except YamlLimitError as error:
        raise ConfigError(f"--config: {error.problem}") from error
    except Exception:  # whatever a text that is no YAML makes of its reader
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"{shown(text)}: no such configuration file; examples lie in {SHIPPED_CONFIGS}")
    check_keys("--config", content)
    _check_names("--config", content, config_class)


def _check_names(origin: str, content: dict[str, Any], config_class: type) -> None:
    """Refuses keys that are none, and those that would be lost.

    jsonargparse has keys of its own, such as `config`, which reads another file, and lets a section replace what stood
    before it with dots.
    """
    names = [item.name for item in fields(config_class)]
    keys = list(content)
    for place, key in enumerate(keys):
        if key.partition(".")[0] not in names:
            raise _unknown_key(f"{origin}: ", key, config_keys(config_class))
        is_section = isinstance(content[key], dict)
        if is_section and (lost := [before for before in keys[:place] if before.startswith(f"{key}.")]):
            raise ConfigError(f"{origin}: {lost[0]} would be lost by the section {key} behind it; write it into that")


def _check_entries(path: Path, item: Field[Any], found: Any) -> None:
    """Parses each entry of a section by itself, because jsonargparse would not say which of them is wrong."""
    entry_class = item.metadata["entries"]
    if isinstance(item.default, tuple) and isinstance(found, dict) and found:
        raise ConfigError(f"{path}: {item.name} is a list: begin each of its entries with a line `- key: value`")
    entries = list(found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ())
    if not entries:
        return
    parser = _parser_of_entries(entry_class)
    for key, entry in entries:
        if isinstance(found, list) and not isinstance(entry, dict) and item.metadata.get("path"):
            continue  # a plain value; whether the field takes one is checked with the rest
        place = f"{item.name}.{key}"
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: {place} is a section: expected keys below it, not {shown(repr(entry))}")
        try:
            parser.instantiate(parser.parse_object(entry))
        except Exception as error:
            raise _readable(error, config_keys(entry_class), path, {*entry}, f"{place}.") from error


@cache  # a file may have many sections of entries, and a study many files
def _parser_of_entries(entry_class: type) -> Any:
    from jsonargparse import ArgumentParser

    from facekd.commands.yaml_files import MODE

    parser = ArgumentParser(exit_on_error=False, parser_mode=MODE)
    parser.add_class_arguments(entry_class)
    return parser


def _readable(
    error: BaseException, known: Collection[str], file: Path | None, keys_of_file: Collection[str], prefix: str = ""
) -> FacekdError:
    """Turns an error of jsonargparse into one that names the key, what was expected, and the file it stands in.

    Args:
        error: the error; one of our own checks may be its cause.
        known: all keys that exist.
        file: the file that was read, if any.
        keys_of_file: the keys in it.
        prefix: where in the file the keys are, such as `"methods.alone."`.
    """
    # One of our own checks, somewhere below what jsonargparse made of it.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FacekdError):
            return ConfigError(f"{file}: {prefix[:-1]}: {cause}") if prefix else cause
        cause = cause.__cause__ or cause.__context__

    def at(key: str) -> str:
        return f"{file}: " if key in keys_of_file else ""

    # A key that does not exist.
    message = re.sub(r"\s+", " ", str(error)).strip()
    message = re.sub(r"Group '([\w.]+)' does not accept option '([\w.]+)'", r"Option '\1.\2'", message)
    for named in re.findall(r"(?:[Kk]ey|Option) '([\w.]+)'|--([\w.-]+)", message):
        typed = named[0] or named[1]
        if typed not in known and typed != "config":
            return _unknown_key(at(typed), typed, known, prefix)
    # A value that a key cannot have.
    if wrong := re.search(r'Parser key "([\w.]+)": (.*)', message):
        return ConfigError(f"{at(wrong[1])}{prefix}{wrong[1]}: {shown(_without_types(wrong[2]), LONGEST_PROBLEM)}")
    return ConfigError(shown(message, LONGEST_PROBLEM))


def _unknown_key(where: str, typed: str, known: Collection[str], prefix: str = "") -> ConfigError:
    """Says that there is no such key, and which was meant: most often the section was left out, or was another."""
    key = typed.replace("-", "_")
    close = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    meant_key = close[0] if close else nearest(key, known, cutoff=0.4)
    meant = f"; did you mean {prefix + meant_key!r}?" if meant_key else ""
    return ConfigError(f"{where}{prefix + typed!r} is not a configuration key{meant} (`--help-all` lists them all)")


def _without_types(message: str) -> str:
    """Rewords `Expected a <class 'float'>` and `typing.Literal['a', 'b']` for people who do not write Python."""
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("NoneType", "null")
    message = re.sub(r"Problem with given class_path '.*?': Parser key \"(\w+)\": ", r"\1: ", message)
    message = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\].*?Given",
        r"expected \1. Given",
        message,
    )
    message = message.replace("Expected a tuple", "expected a list in brackets")
    message = re.sub(r"Expected a dot import path string: (.*)", r"expected a section of keys, not \1", message)
    message = re.sub(r"[Ee]xpected a typing\.Literal\[(.*?)\]", r"expected one of \1", message)
    given = re.search(r"expected one of ('.*'). Got value: (\S+)$", message)
    return message + did_you_mean(given[2], re.findall(r"'(.*?)'", given[1])) if given else message


def config_keys(config_class: type) -> list[str]:
    """Returns all dotted keys of a config class, sections included: `["output", "data", "data.train", ...]`."""
    keys = []
    for item in fields(config_class):
        keys.append(item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            keys += [f"{item.name}.{key}" for key in config_keys(type(default))]
    return keys
