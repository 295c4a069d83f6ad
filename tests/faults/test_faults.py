"""Kills one small command at each call that changes its results; `make faults` does that to all, and more."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from types import ModuleType

import pytest

from data_prep import index_records
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.errors import run_verb
from tests.faults import planted, stopped, two_runs, unreadable
from tests.faults.attempts import Ended, Fault, Runner, build_shim
from tests.faults.checks import found_after_fault, found_after_rerun, found_in_message
from tests.faults.commands import COMMANDS
from tests.faults.contents import contents_of, differences
from tests.faults.plan import failures, kills
from tests.faults.planted import places
from tests.faults.run import print_report, was_met

INDEX = COMMANDS["index"]
WHOLE = {"out/train.idx": "0", "out/log.jsonl": "0"}


def test_every_verb_is_among_the_commands() -> None:
    from facekd.cli import VERBS

    words = [command.words for command in COMMANDS.values()]
    assert not [verb for verb in VERBS if not any(text.startswith(f"{verb} ") for text in words)]


@pytest.mark.slow
def test_a_command_killed_at_its_calls_is_repeated_to_the_same_bytes(tmp_path: Path) -> None:
    shim = build_shim(tmp_path)
    if shim is None:
        pytest.skip("needs Linux and cc")
    inputs = tmp_path / "inputs"
    with RecordPackWriter(inputs / "faces", 32) as writer:
        writer.add(0, b"\xff\xd8\xff", "a/1.jpg")
    assert run_verb(lambda: index_records.main([str(inputs / "faces"), "--output", str(tmp_path / "train.idx")])) == 0

    runner = Runner(shim, tmp_path / "runner", inputs)
    attempt = INDEX.start_in(tmp_path / "attempt", inputs)
    ended = runner.run(INDEX, attempt, Fault(), forked=False, limit=60)
    expected = contents_of(attempt)
    assert ended.status == 0 and (attempt / "out" / "train.idx").read_bytes() == (tmp_path / "train.idx").read_bytes()

    rename = next(number for number, call in enumerate(ended.calls, 1) if call[2].startswith("rename"))
    for fault in (Fault("group", rename), Fault("errors", rename - 2, 28)):
        attempt = INDEX.start_in(attempt, inputs)
        broken = runner.run(INDEX, attempt, fault, forked=False, limit=60)
        assert broken.status == (-9 if fault.how == "group" else 2)
        left = contents_of(attempt)
        assert not found_after_fault(INDEX, left, expected, {})
        assert fault.how == "group" or not found_in_message(broken, ["train.idx"])
        again = runner.run(INDEX, attempt, Fault(), forked=False, limit=60)
        assert not found_after_rerun(again, left, contents_of(attempt), expected)


def ended(status: int = 0, output: str = "") -> Ended:
    return Ended(status, output, [], [], 1.0)


def test_what_is_half_is_found() -> None:
    clean = COMMANDS["clean"]
    assert not found_after_fault(INDEX, {}, WHOLE, {}) and not found_after_fault(INDEX, WHOLE, WHOLE, {})
    assert found_after_fault(INDEX, WHOLE | {"out/train.idx": "1"}, WHOLE, {})
    assert found_after_fault(clean, {"out/train.rec": "0"}, {"out/train.rec": "0", "out/train.idx": "0"}, {})
    assert not found_after_fault(clean, {"out/train.idx": "0"}, {"out/train.rec": "0", "out/train.idx": "0"}, {})
    assert not found_after_fault(INDEX, {"out/log.jsonl": "1"}, WHOLE, {})  # it grows


def test_old_results_are_whole_or_gone() -> None:
    new, old = {"out/train.rec": "1", "out/train.idx": "1"}, {"out/train.rec": "0", "out/train.idx": "0"}
    clean = COMMANDS["clean"]
    assert not any(found_after_fault(clean, left, new, old) for left in (old, new, {}, {"out/train.idx": "0"}))
    assert found_after_fault(clean, {"out/train.rec": "0", "out/train.idx": "1"}, new, old)
    assert found_after_fault(clean, {"out/train.idx": "2"}, new, old)


def test_what_differs_after_the_second_run_is_found() -> None:
    assert not found_after_rerun(ended(), {}, WHOLE, WHOLE)
    assert found_after_rerun(ended(), {}, WHOLE | {"out/.train.1.tmp.idx": "0"}, WHOLE)
    assert found_after_rerun(ended(2, "error: out is there already; --force"), {}, WHOLE, WHOLE)
    assert not found_after_rerun(ended(2, "error: out is there already; --force"), WHOLE, WHOLE, WHOLE)
    assert found_after_rerun(dataclasses.replace(ended(), strays=["python"]), {}, WHOLE, WHOLE)


@pytest.mark.parametrize(
    ("status", "output", "is_good"),
    [
        (2, "error: no space left on the device while writing out/train.idx", True),
        (2, "error: something went wrong", False),
        (1, "Traceback (most recent call last)\nOSError: train.idx", False),
        (1, "error: no space left on the device while writing out/train.idx", False),
        (1, "error: train.idx: full\nTraceback (most recent call last)\nChildFailedError", True),  # torch's launcher
        (1, "Traceback (most recent call last)\nOSError: train.idx\nTraceback\nChildFailedError", False),
        (2, "error: train.idx: full\nTraceback (most recent call last)\nChildFailedError", False),
    ],
)
def test_a_message_names_the_file(status: int, output: str, is_good: bool) -> None:
    assert (not found_in_message(ended(status, output), ["train.idx"])) == is_good


def outcome(how: str, status: int, hit: str = "write out/a", found: list[str] | None = None) -> dict:
    return {"fault": {"how": how}, "status": status, "hit": hit, "forked": False, "found": found or []}


@pytest.mark.parametrize(
    ("outcomes", "is_good"),
    [
        ([], False),  # the command failed undisturbed, or its process died
        ([outcome("time", 0), outcome("error", 0, "never reached")], False),  # killed after its end, and no such call
        ([outcome("time", -9), outcome("group", 0)], True),
        ([outcome("error", 2), outcome("full", 0)], True),
        ([outcome("time", -9), outcome("full", 0, found=["status 0, but out/a: differs"])], False),
    ],
)
def test_a_command_that_no_fault_met_is_not_reported_as_tested(
    outcomes: list[dict], is_good: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "outcomes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in outcomes))
    assert print_report(tmp_path, ["index"]) == (not is_good)
    missed = sum(not was_met(one) for one in outcomes)
    all_of_them = capsys.readouterr().out.split("| all |")[1].split("|")
    assert int(all_of_them[4]) == missed and int(all_of_them[5]) == len(outcomes) - missed - int(all_of_them[6])


@pytest.mark.parametrize("check", [planted, stopped, two_runs, unreadable])
def test_a_name_of_nothing_ends_a_check(check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check.main(["--work", str(tmp_path), "train", "nothing"])
    assert "nothing is called nothing; there are" in capsys.readouterr().err


def test_a_signal_that_met_nobody_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopped, "run", lambda *_: (two_runs.Ended(0, ""), None, []))
    monkeypatch.setattr(stopped, "results_of", lambda _: WHOLE)
    scenario = stopped.Scenario(INDEX, "worker", signal.SIGKILL)
    assert "so nothing was tested" in stopped.check(scenario, tmp_path, tmp_path, WHOLE)
    monkeypatch.setattr(stopped, "run", lambda *_: (two_runs.Ended(0, ""), 1.0, []))
    assert stopped.check(scenario, tmp_path, tmp_path, WHOLE).startswith("ok: ")


def test_a_link_is_planted_in_each_kind_of_place() -> None:
    names = [
        "out/a.json",
        "out/b.json",
        "out/train/1.jpg",
        "out/train/2.jpg",
        "out/aside/no_face/1.jpg",
        "cache/c.json",
    ]
    assert places(names) == ["out/a.json", "out/aside/no_face/1.jpg", "out/train/1.jpg"]
    assert places([], ("a.json", "../model.onnx.facekd.json")) == ["model.onnx.facekd.json"]


@pytest.mark.parametrize("word", ["sendfile", "sendfile64", "copy_file_range"])
def test_a_disk_is_full_while_the_kernel_copies_a_file(word: str) -> None:
    calls = [["1", "1", "openat", "/out/a"], ["2", "1", word, "/out/aside/a"]]
    assert Fault("errors", 2, 28) in failures(calls, [], 2)


def test_times_and_paths_do_not_count(tmp_path: Path) -> None:
    for name, seconds in (("a", 1.5), ("b", 2.5)):
        (tmp_path / name).mkdir()
        text = f'{{"loss": 1.0, "seconds": {seconds}, "root": "{tmp_path / name}/x"}}\n'
        (tmp_path / name / "log.jsonl").write_text(text)
        (tmp_path / name / "data.bin").write_bytes(b"0")
    first, second = contents_of(tmp_path / "a"), contents_of(tmp_path / "b")
    assert not differences(first, second)
    (tmp_path / "b" / "data.bin").write_bytes(b"1")
    (tmp_path / "b" / "log.jsonl").write_text('{"loss": 2.0}\n')
    found = differences(contents_of(tmp_path / "b"), first)
    assert found == ["data.bin: differs", "log.jsonl: differs"]


def test_the_plan_aims_at_turns_and_meets_each_file() -> None:
    names = ["open64", "write", "write", "fsync", "rename", "unlink"]
    calls = [[str(number), "1", name, "/out/a" if number < 4 else "/out/b"] for number, name in enumerate(names, 1)]
    plan = kills(INDEX, calls, aimed=4, timed=2, seed=0)
    assert {4, 5, 6} <= {fault.at for fault in plan if fault.how == "group"} and len(plan) == 6
    assert plan == kills(INDEX, calls, aimed=4, timed=2, seed=0)
    assert plan[4:] != kills(INDEX, calls, aimed=4, timed=2, seed=1)[4:]
    kinds = {(fault.how, fault.where) for fault in failures(calls, [["1", "1", "read", "/x"]], 2)}
    assert kinds == {("errors", "attempt"), ("error", "attempt"), ("short", "attempt"), ("error", "inputs")}
