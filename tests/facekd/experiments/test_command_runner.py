"""Checks in which order commands run, what is skipped, and what failures and stop signals do."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from facekd.checkpoints.run_folder import checkpoint_path
from facekd.errors import DataError, TrainingError
from facekd.experiments import command_runner as steps_module
from facekd.experiments.command_runner import CompletedSteps, Step, TrainingWatch, as_options, run_steps
from facekd.files.held_folders import held_folder

# In place of facekd: `touch FILE`, `fail FILE`, or `wait FILE`, which leaves FILE when it is told to stop.
SCRIPT = """
import signal, sys, time
what, file = sys.argv[1:3]
print(what, file, flush=True)
if what == "fail":
    sys.exit(2)
if what == "wait":
    def stop(number, frame):
        open(file, "a").write("stopped"); sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    open(file + ".ready", "w").close()
    time.sleep(60)
open(file, "a").write("x")
"""


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, "LAUNCH", (sys.executable, "-c", SCRIPT))


def step(folder: Path, name: str, *after: str, what: str = "touch", log: bool = True) -> Step:
    return Step(name, (what, str(folder / name)), folder / name, after, folder / "log" if log else None)


def runs(folder: Path, *names: str) -> list[int]:
    """Returns how often each step was run."""
    return [len((folder / name).read_text()) if (folder / name).exists() else 0 for name in names]


def test_what_is_done_is_skipped_and_what_builds_on_a_new_run_is_not(tmp_path: Path) -> None:
    steps = [step(tmp_path, "b", "a"), step(tmp_path, "a"), step(tmp_path, "c")]  # b waits for a
    run_steps(steps, CompletedSteps(tmp_path))
    run_steps(steps, CompletedSteps(tmp_path))
    assert runs(tmp_path, "a", "b", "c") == [1, 1, 1]
    assert (tmp_path / "log").read_text().index("touch " + str(tmp_path / "a")) < (tmp_path / "log").read_text().index(
        "touch " + str(tmp_path / "b")
    )
    (tmp_path / "a").unlink()
    run_steps(steps, CompletedSteps(tmp_path))
    assert runs(tmp_path, "a", "b", "c") == [1, 2, 1]  # a anew, so b again


def test_what_was_replaced_since_is_made_again_and_what_builds_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [step(tmp_path, "a"), step(tmp_path, "b", "a")]
    run_steps(steps, CompletedSteps(tmp_path))
    (tmp_path / "a").write_text("of another run")
    assert not CompletedSteps(tmp_path).is_done(steps[0])
    run_steps(steps, CompletedSteps(tmp_path))
    assert (tmp_path / "a").read_text() == "of another runx" and runs(tmp_path, "b") == [2]
    assert f"-- a: {tmp_path / 'a'} is not what it made; done again" in capsys.readouterr().out


def test_a_run_is_known_by_its_newest_checkpoint_or_none(tmp_path: Path) -> None:
    run, completed = tmp_path / "run", CompletedSteps(tmp_path)
    (run / "checkpoints").mkdir(parents=True)
    training = Step("train", ("train",), run)
    files = [checkpoint_path(run, images_seen) for images_seen in (10, 20)]
    for file in files:
        file.write_bytes(b"x")
    completed.add(training, 1.0)
    assert completed.is_done(training) and CompletedSteps(tmp_path).is_done(training)
    checkpoint_path(run, 30).write_bytes(b"x")  # trained on by hand
    assert not completed.is_done(training)
    checkpoint_path(run, 30).unlink()
    files[1].unlink()  # the one before it is not what was made
    assert completed.has_changed(training)
    files[0].unlink()  # none at all: only results are kept
    assert completed.is_done(training)
    # A record of an earlier facekd says nothing of what was made.
    content = json.loads((tmp_path / "steps.json").read_text())
    del content["steps"]["train"]["made"]
    (tmp_path / "steps.json").write_text(json.dumps(content))
    checkpoint_path(run, 5).write_bytes(b"x")
    assert CompletedSteps(tmp_path).is_done(training)


def test_a_step_stopped_while_it_is_done_again_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(tmp_path, "a", what="wait"), step(tmp_path, "b", "a")]

    def stop(*_: object) -> None:
        if (tmp_path / "a.ready").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps_module, "LAUNCH", (sys.executable, "-c", SCRIPT.replace("wait", "never")))
        run_steps(steps, CompletedSteps(tmp_path))
    assert runs(tmp_path, "a", "b") == [1, 1]
    (tmp_path / "a").unlink()
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps, CompletedSteps(tmp_path), on_poll=stop)
    assert (tmp_path / "a").read_text() == "stopped"  # what it makes is there, though not whole
    assert not CompletedSteps(tmp_path).has_changed(steps[0])  # it did not lie there when the step had ended
    monkeypatch.setattr(steps_module, "LAUNCH", (sys.executable, "-c", SCRIPT.replace("wait", "never")))
    run_steps(steps, CompletedSteps(tmp_path))
    assert (tmp_path / "a").read_text() == "stoppedx" and runs(tmp_path, "b") == [2]


def test_another_command_is_run_or_refused(tmp_path: Path) -> None:
    run_steps([step(tmp_path, "a")], CompletedSteps(tmp_path))
    other = Step("a", ("touch", str(tmp_path / "a"), "more"), tmp_path / "a", (), tmp_path / "log")
    with pytest.raises(TrainingError, match="holds results of another kind"):
        run_steps([other], CompletedSteps(tmp_path, same_command_only=True))
    assert runs(tmp_path, "a") == [1]
    run_steps([other], CompletedSteps(tmp_path))
    assert runs(tmp_path, "a") == [2]


def test_a_failure_stops_or_leaves_out_what_builds_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [step(tmp_path, "a", what="fail"), step(tmp_path, "b", "a"), step(tmp_path, "c")]
    with pytest.raises(TrainingError, match=r"'a' failed: its process ended with status 2; the end of .*log"):
        run_steps(steps, CompletedSteps(tmp_path))
    assert runs(tmp_path, "b", "c") == [0, 0]
    outcome = run_steps(steps, CompletedSteps(tmp_path), keep_going=True)
    assert (outcome.done, outcome.failed, outcome.left_out) == (["c"], ["a"], ["b"])
    assert f"fail {tmp_path / 'a'}" in capsys.readouterr().err


def test_jobs_run_at_once_with_their_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Each waits for the other's file: one after the other they would never end.
    meet = """
import os, sys, time
own, other = sys.argv[1:3]
open(own, "w").write(os.environ["OMP_NUM_THREADS"])
while not os.path.exists(other): time.sleep(0.01)
"""
    monkeypatch.setattr(steps_module, "LAUNCH", (sys.executable, "-c", meet))
    a, b = tmp_path / "a", tmp_path / "b"
    seen: list[int] = []
    run_steps(
        [Step("a", (str(a), str(b)), a, (), tmp_path / "1"), Step("b", (str(b), str(a)), b, (), tmp_path / "2")],
        CompletedSteps(tmp_path),
        jobs=2,
        threads=3,
        on_poll=lambda running, waiting: seen.append(len(running) + len(waiting)),
    )
    assert a.read_text() == b.read_text() == "3"
    assert max(seen) == 2


def test_a_stop_signal_reaches_the_running_step_and_nothing_else_starts(tmp_path: Path) -> None:
    steps = [step(tmp_path, "a", what="wait"), step(tmp_path, "b")]

    def stop_when_ready() -> None:
        while not (tmp_path / "a.ready").exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop_when_ready)
    stopper.start()
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps, CompletedSteps(tmp_path))
    stopper.join()
    assert (tmp_path / "a").read_text() == "stopped"
    assert runs(tmp_path, "b") == [0] and not (tmp_path / "steps.json").exists()


def test_a_folder_that_is_moved_stops_the_running_step(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()

    def move_when_ready(_running: object, _waiting: object) -> None:
        if (tmp_path / "a.ready").exists():
            folder.rename(tmp_path / "moved")

    with held_folder(folder), pytest.raises(DataError, match=f"^{folder}: was moved to {tmp_path / 'moved'} while"):
        run_steps([step(tmp_path, "a", what="wait")], CompletedSteps(folder), on_poll=move_when_ready)
    assert (tmp_path / "a").read_text() == "stopped" and not folder.exists()


@pytest.mark.parametrize(
    "content",
    [
        '{"steps": {"a": {"command": [1], "number": 1, "after": {}, "seconds": NaN}}}',
        "[",
        '{"steps": []}',
        '{"steps": {"a": 1}}',
        '{"steps": {"a": {"command": [], "after": {}}}}',
    ],
)
def test_a_damaged_record_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "steps.json").write_text(content)
    with pytest.raises(TrainingError, match="not a list of steps"):
        CompletedSteps(tmp_path)


def test_values_as_words_of_a_command_line() -> None:
    assert as_options({"a.b": True, "c": [1.5, 2], "d": "1e-4", "e": None, "f": ""}) == [
        *("--a.b", "true", "--c", "[1.5, 2]", "--d", "1e-4", "--e", "null", "--f", ""),
    ]


def test_processes_that_train_together_have_minutes_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_seconds = "import os, sys; open(sys.argv[-1], 'w').write(os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'])"
    monkeypatch.setattr(steps_module, "LAUNCH_MANY", (sys.executable, "-c", write_seconds))
    for name, wanted in (("ours", "600"), ("theirs", "5")):
        monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
        if name == "theirs":
            monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", wanted)
        file = tmp_path / name
        run_steps([Step(name, ("touch", str(file)), file, processes=2)], CompletedSteps(tmp_path))
        assert file.read_text() == wanted


def test_time_left_is_told_from_images_and_not_from_the_number_of_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def training(name: str, *images: str) -> Step:
        return Step(name, ("train", *(("--images", *images) if images else ())), tmp_path / name, ())

    def seen(name: str, images: int, left: int) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        entry = {"kind": "train", "images_seen": images, "seconds_left": left / 10, "images_per_second": 10}
        (tmp_path / name / "log.jsonl").write_text(json.dumps(entry) + "\n")

    clock = [0.0]
    monkeypatch.setattr(steps_module.time, "monotonic", lambda: clock[0])
    long, short, unsaid = training("long", "1000"), training("short", "200"), training("unsaid")
    watch = TrainingWatch([long, short, unsaid])  # 1,000, 200, and the mean of both: 600
    watch.on_poll([long], [short, unsaid])
    clock[0] = 50.0
    seen("long", 500, 500)
    watch.on_poll([long], [short, unsaid])
    # 500 images in 50 seconds; 500 + 200 + 600 are left.
    assert capsys.readouterr().out == "   long: 50%, 10 images/s; 2.5 trainings to go; 2m10s left\n"
    clock[0] = 120.0
    watch.on_poll([], [short, unsaid])
    assert capsys.readouterr().out.endswith("; 2.0 trainings to go; 1m36s left\n")
