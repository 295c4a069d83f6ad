"""Says what the run of a tracker is to the thread that feeds it, and keeps its id in the folder of the training run."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from facekd import __version__
from facekd.commands.open_sections import flatten
from facekd.errors import DataError
from facekd.files.reading import read_json
from facekd.files.writing import write_json

Outcome = Literal["complete", "stopped", "failed"]


@dataclass(frozen=True)
class RunFacts:
    """Describes a training run to a tracker.

    Args:
        folder: its folder, an absolute path.
        images_seen: where it is; above 0 it is resumed.
        config: its config as plain values.
    """

    folder: Path
    images_seen: int
    config: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """Returns what a tracker shows beside the curves: the config by dotted keys, and the version of facekd."""
        return {**flatten(self.config), "facekd_version": __version__}


@dataclass(frozen=True)
class Entry:
    """Holds numbers of one moment.

    Args:
        images_seen: images seen by then, the step.
        seconds: the time, since 1970.
        numbers: by name.
    """

    images_seen: int
    seconds: float
    numbers: Mapping[str, float]


def numbers_of(kind: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers among the values of an entry of the log, as `kind/name`."""
    return {f"{kind}/{name}": float(value) for name, value in values.items() if isinstance(value, int | float)}


class TrackedRun(ABC):
    """Is the run of one tracker; every method is called in one thread, and may raise whatever its package raises.

    Attributes:
        name: name of the tracker.
    """

    name: str

    def __init__(self, facts: RunFacts) -> None:
        self.facts = facts

    @abstractmethod
    def start(self) -> str:
        """Begins or continues the run; returns in words where it is. Called again after it has raised."""

    @abstractmethod
    def log(self, entries: Sequence[Entry]) -> None:
        """Sends entries, in order; called again with the same ones after it has raised.

        Those of a resumed run begin with all that is in its log: what the tracker already has it leaves out.
        """

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """Ends the run."""

    @property
    def _id_file(self) -> Path:
        return self.facts.folder / f"{self.name}_run.json"

    def kept_ids(self, *keys: str) -> dict[str, str]:
        """Returns what `keep_ids` wrote for a run that is resumed; empty for a new one, or without these keys."""
        if not self.facts.images_seen:
            return {}
        with contextlib.suppress(DataError, OSError):
            ids = read_json(self._id_file, f"the run of {self.name}", keys=keys)
            if all(isinstance(ids[key], str) for key in keys):
                return ids
        return {}

    def keep_ids(self, **ids: str) -> None:
        """Writes by what the run is found again when training resumes."""
        write_json(self._id_file, ids)
