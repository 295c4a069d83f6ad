"""Loads code of the user's own: plug-ins that add backbones, margins and distillation losses to facekd's tables.

A plug-in is a Python file, or a module that an installed package names as an entry point of the group `facekd.plugins`.
It has one or more of these dicts:

    BACKBONES = {"tiny": TinyNet}              # a subclass of facekd.backbones.Backbone
    MARGINS = {"mine": (Margin(...), mine)}    # facekd.margins.Margin, and a function as in facekd/margins
    LOSSES = {"mine": (Need..., mine)}         # facekd.distillation.weights.Need, and LossInputs -> a 0-d tensor

Its code runs only where the user names it, by `--plugin` or in the environment variable FACEKD_PLUGINS; never because a
configuration or a checkpoint says so. Checkpoints record name and SHA-256 of the plug-ins that they need.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from facekd.commands.suggestions import did_you_mean
from facekd.errors import CheckpointError, ConfigError
from facekd.files.reading import require_regular_file, sha256_of_file
from facekd.utils.foreign import shown

VARIABLE = "FACEKD_PLUGINS"
GROUP = "facekd.plugins"
OPTION = "--plugin"


@dataclass(frozen=True)
class Plugin:
    """Describes a plug-in that is loaded.

    Attributes:
        name: file name, or name of the entry point.
        sha256: of the file; of a package, of all its Python files.
        provides: what it added, such as "backbone tiny".
    """

    name: str
    sha256: str
    provides: list[str] = field(default_factory=list)


_loaded: dict[str, Plugin] = {}  # by what the user wrote, expanded
_modules: set[str] = set()  # their names: of a package, all modules in it belong to the plug-in


def load_plugin(source: str) -> Plugin:
    """Loads a plug-in once, and names it in the environment for the processes that this one starts.

    Args:
        source: a Python file, or the name of an entry point.

    Raises:
        ConfigError: it does not exist, fails, adds nothing, takes a name that is in use, or could not be named in the
            environment.
    """
    path = Path(source).expanduser()
    key = os.fspath(path.absolute()) if path.suffix == ".py" else source
    if key in _loaded:
        return _loaded[key]
    if os.pathsep in key:
        raise ConfigError(
            f"{key}: has a {os.pathsep!r} in its path, which separates plug-ins in {VARIABLE}, by which the processes "
            "that facekd starts find them: give the file, or the folder that it is in, another name"
        )
    module, name, sha256 = _import_file(path) if path.suffix == ".py" else _import_entry_point(source)
    plugin = Plugin(name, sha256)
    _modules.add(module.__name__)
    for table in _TABLES:
        _add_rows(key, module, table, plugin)
    if not plugin.provides:
        raise ConfigError(f"{key}: is no plug-in: it has none of {', '.join(table.name for table in _TABLES)}")
    _loaded[key] = plugin
    os.environ[VARIABLE] = os.pathsep.join(_loaded)
    return plugin


def take_plugins(words: Sequence[str]) -> list[str]:
    """Loads the plug-ins of a command line and of the environment; returns the words without them.

    Raises:
        ConfigError: see `load_plugin`; also if `--plugin` is the last word.
    """
    load_from_environment()
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        if word != OPTION and not word.startswith(f"{OPTION}="):
            left.append(word)
            continue
        source = word.partition("=")[2] if "=" in word else next(rest, "")
        if not source:
            raise ConfigError(f"{OPTION} needs a Python file, or the name of an installed plug-in")
        load_plugin(source)
    return left


def refuse_plugins(words: Iterable[str], where: str) -> None:
    """Refuses options of a file that would load a plug-in, shortened ones too: code runs only where the user names it.

    Raises:
        ConfigError: one of the words is such an option; `where` says where in the file they stand.
    """
    for word in words:
        option = word.partition("=")[0]
        if len(option) > 2 and OPTION.startswith(option):
            raise ConfigError(
                f"{where}: {option} names code, which runs only where you name it yourself: give {OPTION} to this "
                "command, and all that it starts has it"
            )


def load_from_environment() -> None:
    """Loads the plug-ins that FACEKD_PLUGINS names, separated as in PATH."""
    for source in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        load_plugin(source)


def refuse_exit(stop: SystemExit) -> None:
    """Refuses the end of a command by the code of a plug-in; its results would be missing, and its status could be 0.

    Raises:
        ConfigError: a line of a plug-in has called `sys.exit`; it names the line.
    """
    trace = stop.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    if trace is not None and any(module == name or module.startswith(f"{name}.") for name in _modules):
        where = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
        raise ConfigError(f"{where}: the plug-in ends the command by sys.exit; let it raise an error") from stop


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--plugin`; parsing it loads the plug-in. (`facekd VERB` takes it from the words before that.)"""
    help_text = "code of yours that the model needs: a Python file, see docs/extending.md; may be given several times"
    parser.add_argument(OPTION, action="append", type=load_plugin, metavar="FILE", help=help_text)


def plugins_of(names: Iterable[str]) -> list[dict[str, str]]:
    """Returns what a checkpoint records of the plug-ins that provide some of the names, such as "backbone tiny"."""
    return [
        {"provides": name, "name": plugin.name, "sha256": plugin.sha256}
        for name in names
        for plugin in _loaded.values()
        if name in plugin.provides
    ]


def require_plugins(recorded: Iterable[Mapping[str, str]] | None, names: Iterable[str], where: str) -> None:
    """Checks that the plug-ins behind some names are loaded; warns of those that have changed since.

    Args:
        recorded: what `plugins_of` gave when the checkpoint was written; None for nothing.
        names: what is needed now, such as "backbone tiny".
        where: the checkpoint, for messages.

    Raises:
        CheckpointError: a plug-in is not loaded.
    """
    load_from_environment()
    wanted = set(names)
    for entry in recorded or ():
        if entry.get("provides") not in wanted:
            continue
        what, name, sha256 = (shown(entry.get(key, "")) for key in ("provides", "name", "sha256"))
        loaded = next((plugin for plugin in _loaded.values() if entry["provides"] in plugin.provides), None)
        if loaded is None:
            raise CheckpointError(
                f"{where}: its {what} is code of the plug-in {name} (sha256 {sha256[:12]}), which runs only where you "
                f"name it: add `{OPTION} {name}`, or set {VARIABLE}"
            )
        if loaded.sha256 != entry.get("sha256"):
            print(
                f"warning: {where}: its {what} was code of {name} with sha256 {sha256[:12]}; {loaded.name} has "
                f"{loaded.sha256[:12]} now",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class _Table:
    """Describes one dict of a plug-in.

    Attributes:
        name: its name in the module.
        kind: word for messages, and for what a checkpoint records.
        known: returns the names that exist already.
        add: checks a row and puts it into facekd's tables; returns what is wrong with it, or an empty text.
    """

    name: str
    kind: str
    known: Callable[[], Iterable[str]]
    add: Callable[[str, Any], str]


def _known_backbones() -> Iterable[str]:
    from facekd.backbones.building import BACKBONES
    from facekd.backbones.given_module import GIVEN

    return (*BACKBONES, GIVEN)


def _add_backbone(name: str, network: Any) -> str:
    from facekd.backbones import Backbone
    from facekd.backbones.building import BACKBONES

    if not (inspect.isclass(network) and issubclass(network, Backbone)):
        return "is no subclass of facekd.backbones.Backbone"
    BACKBONES[name] = network
    return ""


def _known_margins() -> Iterable[str]:
    from facekd.margins.table import MARGINS

    return MARGINS


def _add_margin(name: str, row: Any) -> str:
    from facekd.margins.functions import MARGIN_FUNCTIONS, OTHER_COSINES
    from facekd.margins.table import MARGINS, Margin

    is_row = isinstance(row, tuple) and len(row) in (2, 3) and isinstance(row[0], Margin)
    if not (is_row and all(map(callable, row[1:])) and (len(row) == 3) == row[0].changes_others):
        return (
            "is no pair of a facekd.margins.Margin and a function; a Margin with changes_others has two "
            "functions, the second one for the cosines of other classes"
        )
    known = {argument for margin in MARGINS.values() for argument in map(margin.key, margin.parameters)}
    if unknown := [key for key in map(row[0].key, row[0].parameters) if key not in known]:
        return f"has a parameter with the key {unknown[0]}, and the head section has {', '.join(sorted(known))}"
    MARGINS[name], MARGIN_FUNCTIONS[name], *others = row
    if others:
        OTHER_COSINES[name] = others[0]
    return ""


def _known_losses() -> Iterable[str]:
    from facekd.distillation.weights import LOSS_NEEDS

    return (*LOSS_NEEDS, "temperature", "standardize_logits", "plugin")


def _add_loss(name: str, row: Any) -> str:
    from facekd.distillation.losses import EMBEDDING_LOSSES
    from facekd.distillation.weights import LOSS_NEEDS, Need

    if not (isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], Need) and callable(row[1])):
        return "is no pair of a facekd.distillation.weights.Need and a function"
    LOSS_NEEDS[name], EMBEDDING_LOSSES[name] = row
    return ""


_TABLES = (
    _Table("BACKBONES", "backbone", _known_backbones, _add_backbone),
    _Table("MARGINS", "margin", _known_margins, _add_margin),
    _Table("LOSSES", "loss", _known_losses, _add_loss),
)


def _add_rows(source: str, module: ModuleType, table: _Table, plugin: Plugin) -> None:
    """Puts the rows of one dict of a plug-in into facekd's tables."""
    rows = getattr(module, table.name, {})
    if not isinstance(rows, Mapping):
        raise ConfigError(f"{source}: its {table.name} is a {type(rows).__name__}, expected a dict of names")
    for name, row in rows.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise ConfigError(f"{source}: {table.name}: {shown(repr(name))} is no name: letters, digits and _")
        if name in table.known():
            raise ConfigError(f"{source}: the {table.kind} {name} exists already: give yours another name")
        if fault := table.add(name, row):
            raise ConfigError(f"{source}: {table.name}[{name!r}] {fault}")
        plugin.provides.append(f"{table.kind} {name}")


def _import_file(path: Path) -> tuple[ModuleType, str, str]:
    """Runs a file; returns the module, its name for people, and its SHA-256."""
    require_regular_file(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such plug-in; give a Python file")
    sha256 = sha256_of_file(path)
    name = f"facekd_plugin_{path.stem}_{sha256[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    _run(os.fspath(path), lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module, path.name, sha256


def _import_entry_point(name: str) -> tuple[ModuleType, str, str]:
    """Imports the module of an entry point; see `_import_file`."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        known = f"the installed ones are {', '.join(sorted(found))}" if found else "none is installed"
        raise ConfigError(f"{name}: no such plug-in{did_you_mean(name, found)}; give a Python file, or a name: {known}")
    module = _run(name, found[name].load)
    if not isinstance(module, ModuleType):
        raise ConfigError(f"{name}: its entry point must name a module, not a {type(module).__name__}")
    file = Path(module.__file__ or "")
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    digests = [sha256_of_file(one) for one in files]
    return module, name, digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _run(source: str, load: Callable[[], Any]) -> Any:
    """Runs a plug-in's code, and says which of its lines failed."""
    try:
        return load()
    except (Exception, SystemExit) as error:  # a file that calls sys.exit would end the command as if all were well
        trace, line = error.__traceback__, 0
        while trace is not None:
            if os.path.abspath(trace.tb_frame.f_code.co_filename) == os.path.abspath(source):  # noqa: PTH100
                line = trace.tb_lineno
            trace = trace.tb_next
        line = error.lineno or line if isinstance(error, SyntaxError) else line
        at = f", line {line}" if line else ""
        raise ConfigError(f"{source}{at}: the plug-in fails: {type(error).__name__}: {error}") from error
