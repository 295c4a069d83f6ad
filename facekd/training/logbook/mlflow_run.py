"""Logs a run to MLflow: to the server that MLFLOW_TRACKING_URI names, else to a database in the folder of the run."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from facekd import __version__
from facekd.files.temporaries import temporary_folder
from facekd.training.logbook.tracked_run import Entry, Outcome, RunFacts, TrackedRun
from facekd.utils.foreign import shown

T = TypeVar("T")
MAX_METRICS = 1000  # of one call, by MLflow's API
MAX_PARAMETERS = 100
LONGEST_VALUE = 500
LONGEST_NAME = 250
STATUS: dict[Outcome, str] = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowRun(TrackedRun):
    """Is a run of MLflow; its variables MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and so on hold."""

    name = "mlflow"

    def __init__(self, facts: RunFacts) -> None:
        super().__init__(facts)
        self._run_id = ""
        self._last_steps: dict[str, int] = {}

    def start(self) -> str:
        """See `TrackedRun.start`."""
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        # It logs how it makes its tables, and urllib3 each try to reach a server.
        for noisy in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        named = os.environ.get("MLFLOW_TRACKING_URI")
        uri = named or _own_database(self.facts.folder / "mlflow.db")
        self._client: Any = MlflowClient(tracking_uri=uri)
        kept = self.kept_ids("run_id", "uri")
        self._is_continued = kept.get("uri") == (named or "") and self._continue(kept["run_id"])
        if not self._is_continued:
            self._begin(named or "")
        return f"run {self._run_id} in {shown(uri)}"

    def log(self, entries: Sequence[Entry]) -> None:
        """See `TrackedRun.log`."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        metrics = (
            Metric(name, value, round(entry.seconds * 1000), entry.images_seen)
            for entry in entries
            for name, value in ((_as_name(name), value) for name, value in entry.numbers.items())
            if entry.images_seen > self._last_step(name)
        )
        for chunk in _chunks(metrics, MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=chunk)

    def finish(self, outcome: Outcome) -> None:
        """See `TrackedRun.finish`."""
        self._client.set_terminated(self._run_id, STATUS[outcome])

    def _begin(self, uri: str) -> None:
        """Makes a run, in the experiment that the environment names, with the config as its parameters."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        if not self._run_id:  # a call that failed below has made it already
            experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment(is_local=not uri)
            tags = {"facekd.version": __version__}
            run = self._client.create_run(experiment, tags=tags, run_name=self.facts.folder.name)
            self._run_id = run.info.run_id
        self.keep_ids(run_id=self._run_id, uri=uri)
        parameters = (Param(_as_name(key), _as_value(value)) for key, value in self.facts.parameters.items())
        for chunk in _chunks(parameters, MAX_PARAMETERS):
            self._client.log_batch(self._run_id, params=chunk)

    def _experiment(self, is_local: bool) -> str:
        """Returns the id of the experiment that the environment names, and makes it where there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "facekd"
        found = self._client.get_experiment_by_name(name)
        files = str(self.facts.folder / "mlartifacts") if is_local else None
        return found.experiment_id if found else self._client.create_experiment(name, artifact_location=files)

    def _continue(self, run_id: str) -> bool:
        """Goes on with a run, and tags it with the values of the config that are others now; False if it is gone."""
        try:
            run = self._client.get_run(run_id)
        except Exception as error:
            if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        self._run_id = run_id
        self._client.update_run(run_id, status="RUNNING")
        for key, value in self.facts.parameters.items():
            now = _as_value(value)
            if run.data.params.get(_as_name(key), now) != now:  # parameters of MLflow never change
                self._client.set_tag(run_id, _as_name(f"resumed_with.{key}"), now)
        return True

    def _last_step(self, name: str) -> int:
        """Returns the last step at which a continued run has a metric; -1 if it has none."""
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name) if self._is_continued else []
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]


def _own_database(path: Path) -> str:
    """Returns the URI of a database, and makes it where there is none, elsewhere until all its tables exist.

    MLflow makes them by dozens of migrations, and cannot use a database that was left in the midst of them. SQLite
    opens files by their names and follows links, so that its folder is one that nobody can plant a link in.
    """
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    if not path.exists():
        path.with_suffix(".unfinished").unlink(missing_ok=True)  # as an earlier facekd called it
        with temporary_folder(path) as staged:
            MlflowClient(tracking_uri=f"sqlite:///{staged / path.name}").search_experiments(max_results=1)
            (staged / path.name).replace(path)
    return f"sqlite:///{path}"


def _as_name(name: str) -> str:
    """Returns a name with the characters that MLflow does not allow replaced."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:LONGEST_NAME]


def _as_value(value: Any) -> str:
    return str(value)[:LONGEST_VALUE]


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk
