"""Trackers get every number of the log at its step, and no trouble with them reaches training."""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints
from unittest import mock

import pytest

from facekd import __version__
from facekd.errors import ConfigError
from facekd.training.config import TrainConfig
from facekd.training.logbook import Logbook, background, mlflow_run, require_trackers
from facekd.training.logbook.trackers import REMOTE
from facekd.training.train import main
from tests.no_waiting import failing_if_it_waits

CONFIG = {"schedule": {"lr": 0.1}, "images": 40}


class FakeServer:
    """Stands in for both packages: keeps what they would have sent, and fails or hangs when told to."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.fails = self.hangs = False
        self.hold = threading.Event()

    def answer(self) -> None:
        if self.hangs:
            self.hold.wait(20)
        if self.fails:
            raise ConnectionError("nobody there")

    def run(self, run_id: str) -> dict[str, Any]:
        return self.runs.setdefault(run_id, {"points": {}, "config": {}, "status": "RUNNING"})

    # Weights & Biases.

    def init(self, *, settings: Any, id: str | None = None, resume: str | None = None, **given: Any) -> Any:
        if settings.mode == "online":
            self.answer()
        run = self.run(id or f"run{len(self.runs)}")
        run.update(given, mode=settings.mode, resume=resume, status="RUNNING")
        last = max((step for step, _ in run["points"]), default=-1) if settings.mode == "online" else -1

        def log(numbers: dict[str, float], step: int) -> None:
            for name, value in numbers.items():
                run["points"][step, name] = value

        return SimpleNamespace(
            id=id or f"run{len(self.runs) - 1}",
            project=given["project"],
            entity=None,
            step=last + 1,
            url="https://server/run",
            config=SimpleNamespace(update=lambda values, allow_val_change: run["config"].update(values)),
            log=log,
            finish=lambda exit_code: run.update(status=exit_code),
        )

    # MLflow.

    def client(self, tracking_uri: str) -> Any:
        def log_batch(run_id: str, metrics: Any = (), params: Any = ()) -> None:
            self.answer()
            for name, value, _, step in metrics:
                assert (step, name) not in self.run(run_id)["points"]
                self.run(run_id)["points"][step, name] = value
            self.run(run_id)["config"].update(params)

        def create_run(experiment: str, tags: dict[str, str], run_name: str) -> Any:
            run_id = f"run{len(self.runs)}"
            self.run(run_id).update(tags=tags, name=run_name, experiment=experiment, uri=tracking_uri)
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def get_run(run_id: str) -> Any:
            if run_id not in self.runs:
                gone = RuntimeError("no such run")
                gone.error_code = "RESOURCE_DOES_NOT_EXIST"  # type: ignore[attr-defined]
                raise gone
            return SimpleNamespace(data=SimpleNamespace(params=self.runs[run_id]["config"]))

        def search_experiments(max_results: int) -> None:
            Path(tracking_uri.removeprefix("sqlite:///")).touch()

        return SimpleNamespace(
            get_experiment_by_name=lambda name: self.answer(),
            search_experiments=search_experiments,
            create_experiment=lambda name, artifact_location: name,
            create_run=create_run,
            get_run=get_run,
            log_batch=log_batch,
            get_metric_history=lambda run_id, name: [
                SimpleNamespace(step=step) for step, known in self.run(run_id)["points"] if known == name
            ],
            set_tag=lambda run_id, key, value: self.run(run_id)["tags"].update({key: value}),
            update_run=lambda run_id, status: self.run(run_id).update(status=status),
            set_terminated=lambda run_id, status: self.run(run_id).update(status=status),
        )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    server = FakeServer()
    wandb, mlflow, entities = ModuleType("wandb"), ModuleType("mlflow"), ModuleType("mlflow.entities")
    vars(wandb).update(init=server.init, Settings=SimpleNamespace)
    vars(mlflow).update(MlflowClient=server.client, entities=entities)
    vars(entities).update(Metric=lambda *parts: parts, Param=lambda *parts: parts)
    for module in (wandb, mlflow, entities):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(background, "SECONDS_BETWEEN_TRIES", 0.01)
    yield server
    server.hold.set()


def write(folder: Path, tracker: str, steps: range, start: int = 0, config: dict[str, Any] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    with Logbook(folder, total_images=40, images_seen=start, trackers=(tracker,), config=config or CONFIG) as logbook:
        for step in steps:
            logbook.record("train", step, {"loss": 1 / step, "note": "no number"})
            logbook.record("validation", step, {"lfw: TAR@FAR=1e-3": 0.5})
            logbook.advance(step)


def points(run: dict[str, Any]) -> list[int]:
    """Steps of the loss, whose values are checked."""
    found = {step: value for (step, name), value in run["points"].items() if name == "train/loss"}
    assert all(value == 1 / step for step, value in found.items())
    return sorted(found)


def test_the_config_knows_the_trackers_that_there_are() -> None:
    names = get_args(get_args(get_type_hints(TrainConfig)["logging"])[0])
    assert set(names) == {"tensorboard", *REMOTE}
    config = TrainConfig.__new__(TrainConfig)
    assert vars(TrainConfig)["trackers"].fget(config) == ("tensorboard",)


def test_the_database_of_mlflow_is_made_where_nobody_can_plant_a_link(server: FakeServer, tmp_path: Path) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"mine")

    def client(tracking_uri: str) -> Any:
        (folder / "mlflow.unfinished").symlink_to(victim)  # at the moment before SQLite opens its file by its name
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"tables")
        return SimpleNamespace(search_experiments=lambda max_results: None)

    vars(sys.modules["mlflow"]).update(MlflowClient=client)
    assert mlflow_run._own_database(folder / "mlflow.db") == f"sqlite:///{folder}/mlflow.db"
    assert victim.read_bytes() == b"mine" and (folder / "mlflow.db").read_bytes() == b"tables"
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlflow.unfinished"}


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_gets_every_number_at_its_step(server: FakeServer, tmp_path: Path, tracker: str) -> None:
    folder = tmp_path / "mine"
    write(folder, tracker, range(10, 41, 10))
    (run,) = server.runs.values()
    assert points(run) == [10, 20, 30, 40]
    assert {name for _, name in run["points"]} == {
        "train/loss",
        "validation/lfw: TAR@FAR=1e-3" if tracker == "wandb" else "validation/lfw_ TAR_FAR_1e-3",
    }
    assert run["name"] == "mine"
    if tracker == "wandb":
        assert run["config"] == {**CONFIG, "facekd_version": __version__}
        assert (run["mode"], run["project"], run["status"]) == ("offline", "facekd", 0)
    else:
        assert run["config"] == {"schedule.lr": "0.1", "images": "40", "facekd_version": __version__}
        assert (run["experiment"], run["status"]) == ("facekd", "FINISHED")
        assert run["uri"] == f"sqlite:///{folder}/mlflow.db"


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_resumed_run_goes_on_in_the_same_run(
    server: FakeServer, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    with pytest.raises(KeyError):
        write(tmp_path, tracker, _and_then_fails(range(10, 31, 10)))  # type: ignore[arg-type]
    (run,) = server.runs.values()
    assert run["status"] in (1, "FAILED")
    del run["points"][20, "train/loss"], run["points"][30, "train/loss"]  # it was killed before these were sent
    if tracker == "wandb":
        run["points"] = {key: value for key, value in run["points"].items() if key[0] < 20}
    write(tmp_path, tracker, range(30, 41, 10), start=20, config={**CONFIG, "images": 50})
    (run,) = server.runs.values()
    assert points(run) == [10, 20, 30, 40]
    if tracker == "wandb":
        assert run["config"]["images"] == 50
        assert run["resume"] == "allow"
    else:
        assert run["tags"] == {"facekd.version": __version__, "resumed_with.images": "50"}
        assert run["status"] == "FINISHED"
    write(tmp_path, tracker, range(10, 21, 10))  # a new run in the folder: its checkpoints were deleted
    assert len(server.runs) == 2


def _and_then_fails(steps: range) -> Iterator[int]:
    yield from steps
    raise KeyError


def test_without_a_server_each_part_of_a_wandb_run_holds_the_whole(server: FakeServer, tmp_path: Path) -> None:
    write(tmp_path, "wandb", range(10, 31, 10))
    server.runs["run0"]["points"].clear()  # what the second part writes begins anew
    write(tmp_path, "wandb", range(30, 41, 10), start=20)
    assert points(server.runs["run0"]) == [10, 20, 30, 40]


@pytest.mark.parametrize("damage", ["{", "[]", '{"run_id": 3, "uri": ""}', '{"run_id": "gone", "uri": ""}'])
def test_a_run_that_is_gone_is_begun_anew_with_all_that_was_logged(
    server: FakeServer, tmp_path: Path, damage: str
) -> None:
    write(tmp_path, "mlflow", range(10, 31, 10))
    (tmp_path / "mlflow_run.json").write_text(damage)
    write(tmp_path, "mlflow", range(40, 41), start=30)
    assert points(server.runs["run1"]) == [10, 20, 30, 40]


def test_a_server_that_comes_late_gets_everything(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    server.fails = True
    with Logbook(tmp_path, total_images=40, trackers=("mlflow",), config=CONFIG) as logbook:
        for step in (10, 20, 30, 40):
            logbook.record("train", step, {"loss": 1 / step})
            threading.Event().wait(0.05)
            server.fails = step < 30
        logbook.advance(40)
    (run,) = server.runs.values()
    assert points(run) == [10, 20, 30, 40]
    assert run["status"] == "FINISHED"
    said = capsys.readouterr().err
    assert said.count("warning") == said.count("mlflow does not take the log (ConnectionError: nobody there)") == 1


def test_a_server_that_never_answers_holds_nothing_up(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    monkeypatch.setattr(background, "SECONDS_TO_CLOSE", 0.05)
    server.hangs = True
    write(tmp_path, "mlflow", range(10, 41, 10))
    assert capsys.readouterr().err.count("mlflow has not taken 8 of the log's entries; log.jsonl has them all") == 1
    assert not server.runs


def test_wandb_keeps_a_run_in_files_while_its_server_is_away(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    write(tmp_path, "wandb", range(10, 11))
    server.fails = True
    write(tmp_path, "wandb", range(20, 21), start=10)
    assert server.runs["run1"]["mode"] == "offline"
    assert points(server.runs["run1"]) == [10, 20]
    assert "offline because its server did not take it (ConnectionError); `wandb sync" in capsys.readouterr().err
    server.fails = False
    write(tmp_path, "wandb", range(30, 41, 10), start=20)
    assert points(server.runs["run0"]) == [10, 20, 30, 40]


def test_a_key_where_login_leaves_it_means_online(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0000\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    write(tmp_path, "wandb", range(10, 11))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.other.org")
    write(tmp_path, "wandb", range(10, 11))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write(tmp_path, "wandb", range(10, 11))
    assert [run["mode"] for run in server.runs.values()] == ["online", "offline", "disabled"]


def test_a_package_that_is_missing_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ["--data.train", "synthetic:4x4", "--output", str(tmp_path / "run"), "--logging", "[wandb]"]
    with pytest.raises(ConfigError, match=r"wandb is not installed: `pip install 'facekd\[wandb\]'`"):
        main(words)
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    with pytest.raises(ConfigError, match="wandb is not installed, and a folder has its name"):
        main(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
def test_wandb_takes_no_server_from_the_current_folder(
    server: FakeServer, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / folder / "settings"
    file.parent.mkdir()
    for fine in ("", "[default]\n", "[default]\nmode = offline\nproject = p\nbase_url = https://api.wandb.ai\n"):
        file.write_text(fine)
        require_trackers(("wandb",))
    for key in ("base_url = https://not.wandb.ai", "https_proxy = http://x", "insecure_disable_ssl = true"):
        file.write_text(f"[default]\n{key}\n")
        with pytest.raises(ConfigError, match=rf"would take {key.split()[0]} from {folder}/settings in the current"):
            require_trackers(("wandb",))
    monkeypatch.setenv("WANDB_BASE_URL", "https://mine.org")
    file.write_text("[default]\nbase_url = https://mine.org/\n")
    require_trackers(("wandb",))
    # What stands in the user's own settings as well, as `wandb init` writes it for a server of one's own.
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "own"))
    with pytest.raises(ConfigError, match="would take base_url"):
        require_trackers(("wandb",))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "settings").write_text("[default]\nbase_url = https://mine.org\nhttps_proxy = http://x\n")
    file.write_text("[default]\nbase_url = https://mine.org\nhttps_proxy = http://x\n")
    require_trackers(("wandb",))
    # A container may run as a user without a home, and a folder here be called ~.
    (tmp_path / "~" / ".config").mkdir(parents=True)
    (tmp_path / "own").rename(tmp_path / "~" / ".config" / "wandb")
    with monkeypatch.context() as patch:
        patch.delenv("WANDB_CONFIG_DIR")
        patch.delenv("HOME", raising=False)
        patch.setattr("pwd.getpwuid", mock.Mock(side_effect=KeyError))
        with pytest.raises(ConfigError, match="would take base_url"):
            require_trackers(("wandb",))
    file.write_bytes(b"[default\n\xff")
    with pytest.raises(ConfigError, match="cannot be read: move it away"):
        require_trackers(("wandb",))
    file.unlink()
    os.mkfifo(file)
    with failing_if_it_waits(), pytest.raises(ConfigError, match="cannot be read: move it away"):
        require_trackers(("wandb",))


def test_wandb_leaves_the_repository_of_the_current_folder_alone(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_trackers(("wandb",))
    assert os.environ["WANDB_DISABLE_GIT"] == os.environ["WANDB_DISABLE_CODE"] == "true"
    monkeypatch.setenv("WANDB_DISABLE_GIT", "false")
    require_trackers(("wandb",))
    assert os.environ["WANDB_DISABLE_GIT"] == "false"


def test_a_package_that_does_not_import_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("raise TypeError('another protobuf is needed')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    with pytest.raises(ConfigError, match="mlflow cannot be imported \\(another protobuf is needed\\)"):
        require_trackers(("mlflow",))


@pytest.mark.slow
def test_wandb_itself_writes_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_trackers(("wandb",))
    write(tmp_path, "wandb", range(10, 31, 10))
    write(tmp_path, "wandb", range(30, 41, 10), start=20)
    wandb.teardown()  # as at the end of a process: only then the files are complete
    kept = json.loads((tmp_path / "wandb_run.json").read_text())
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert [folder.name.endswith(kept["id"]) for folder in folders] == [True, True]
    found = {}
    for content in _records((tmp_path / "wandb" / "latest-run" / f"run-{kept['id']}.wandb").read_bytes()):
        record = proto.Record()
        record.ParseFromString(content)
        for item in record.history.item:
            name = item.key or ".".join(item.nested_key)
            found[record.history.step.num, name] = json.loads(item.value_json)
    assert points({"points": found}) == [10, 20, 30, 40]


def _records(content: bytes) -> Iterator[bytes]:
    """Yields the records of a .wandb file, a log in the format of LevelDB after seven bytes."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        _, size, kind = struct.unpack_from("<IHB", content, place)
        if place % (1 << 15) + 7 >= 1 << 15:
            place += (1 << 15) - place % (1 << 15)
            continue
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield parts
            parts = b""


@pytest.mark.slow
def test_mlflow_itself_shows_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(background, "SECONDS_TO_CLOSE", 120)
    write(tmp_path, "mlflow", range(10, 31, 10))
    write(tmp_path, "mlflow", range(30, 41, 10), start=20, config={**CONFIG, "images": 50})
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run_id = json.loads((tmp_path / "mlflow_run.json").read_text())["run_id"]
    history = client.get_metric_history(run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in (10, 20, 30, 40)]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"schedule.lr": "0.1", "images": "40", "facekd_version": __version__}
    assert run.data.tags["resumed_with.images"] == "50"
