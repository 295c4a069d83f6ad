"""Opens the trackers that a config names under `logging`: TensorBoard, Weights & Biases and MLflow.

TensorBoard's events are files, written at once. The other two may speak to a server, so each works in a thread
(`facekd/training/logbook/background.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from facekd.errors import ConfigError
from facekd.training.logbook.background import Background, Outcome
from facekd.training.logbook.log_file import read_log
from facekd.training.logbook.mlflow_run import MlflowRun
from facekd.training.logbook.tracked_run import Entry, RunFacts, TrackedRun, numbers_of
from facekd.training.logbook.wandb_run import WandbRun, why_not_wandb_here
from facekd.utils.foreign import shown

Say = Callable[[str], None]


class Tracker(Protocol):
    """Receives the numbers of a run."""

    def record(self, images_seen: int, numbers: Mapping[str, float]) -> None:
        """Takes numbers by name, measured at `images_seen`."""

    def end(self, outcome: Outcome) -> None:
        """Asks the tracker to finish; no numbers follow."""

    def close(self) -> None:
        """Waits until it has finished, though not for long."""


# The trackers that work in a thread: the class of their runs, and a name that the package of this name must have.
REMOTE: dict[str, tuple[type[TrackedRun], str]] = {"wandb": (WandbRun, "init"), "mlflow": (MlflowRun, "MlflowClient")}
# They tell their makers about their use, and more, unless told not to. What a user has set stays.
QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    # It would send the state of the current folder, which is not that of the code that trains. Git runs programs that
    # the settings of a repository name, which may be a stranger's.
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The thread tries again itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def require_trackers(names: Sequence[str]) -> None:
    """Imports the packages of trackers, so that one that is missing is an error before a run starts.

    Raises:
        ConfigError: a package is not installed, or cannot be imported; or the current folder has settings for it that
            a stranger may have made.
    """
    for name in names:
        if name not in REMOTE:
            continue
        if name == "wandb" and (why := why_not_wandb_here()) is not None:
            raise ConfigError(f"logging: {why}")
        for variable, value in QUIET.items():
            os.environ.setdefault(variable, value)
        remedy = f"`pip install 'facekd[{name}]'`, or take {name} out of logging"
        try:
            package = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"logging: {shown(error.name)} is not installed: {remedy}") from error
        except Exception as error:  # of packages that do not fit together
            raise ConfigError(f"logging: {name} cannot be imported ({shown(error)}): {remedy}") from error
        if not hasattr(package, REMOTE[name][1]):  # such as the folder wandb/ that runs leave in a working directory
            raise ConfigError(f"logging: {name} is not installed, and a folder has its name: {remedy}")


def open_trackers(
    names: Sequence[str], folder: Path, images_seen: int, config: Mapping[str, Any], say: Say
) -> list[Tracker]:
    """Opens the trackers of a run.

    Args:
        names: which; `require_trackers` has imported their packages.
        folder: folder of the run.
        images_seen: where the run is; above 0, the runs of the trackers are continued.
        config: the config as plain values.
        say: prints a line for the person watching.
    """
    facts = RunFacts(folder.absolute(), images_seen, config)
    return [
        Background(REMOTE[name][0](facts), _entries_in_log(folder), say)
        if name in REMOTE
        else TensorBoard(folder, images_seen, say)
        for name in names
    ]


def _entries_in_log(folder: Path) -> list[Entry]:
    """Returns what a resumed run has logged: a tracker may be new, or have missed some."""
    keys = ("kind", "images_seen")
    entries: list[Entry] = []
    with contextlib.suppress(OSError):
        for line in read_log(folder):
            values = {name: value for name, value in line.items() if name not in keys}
            entries.append(Entry(int(line["images_seen"]), time.time(), numbers_of(line["kind"], values)))
    return entries


@cache
def _silence_threads_of_tensorboard() -> None:
    """Keeps tracebacks of TensorBoard's writing threads from the terminal; its `flush` raises the same errors."""
    usual = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        is_write = isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")
        if not is_write:
            usual(failed)

    threading.excepthook = hook


class TensorBoard:
    """Writes TensorBoard events to `tensorboard/` in the folder of a run; where that fails it says so, and stops.

    Args:
        folder: folder of the run.
        images_seen: where the run is; later events of an interrupted one are hidden.
        say: prints a line for the person watching.
    """

    def __init__(self, folder: Path, images_seen: int, say: Say) -> None:
        from torch.utils.tensorboard import SummaryWriter  # importing it takes half a second: not for other verbs

        self._say = say
        self._writer: SummaryWriter | None = None
        _silence_threads_of_tensorboard()
        with self._giving_up():
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images_seen + 1)

    def record(self, images_seen: int, numbers: Mapping[str, float]) -> None:
        """See `Tracker.record`."""
        with self._giving_up():
            if self._writer is not None:
                for name, value in numbers.items():
                    self._writer.add_scalar(shown(name), value, images_seen)
                self._writer.flush()  # unasked it waits for two minutes, and a kill would lose what it holds

    def end(self, outcome: Outcome) -> None:
        """See `Tracker.end`; there is nothing to wait for."""

    def close(self) -> None:
        """See `Tracker.close`."""
        with self._giving_up():
            if self._writer is not None:
                self._writer.close()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            self._say(
                f"warning: tensorboard/ cannot be written ({error.strerror or error}); training goes on without it"
            )
