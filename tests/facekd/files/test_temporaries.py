"""Checks that temporaries of killed processes are removed, and those of others never."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.files import temporaries
from facekd.files.temporaries import TemporaryFile, hidden_name, open_own_file, temporary_folder
from facekd.files.writing import write_json, write_small_file

WRITER = """
import sys
from pathlib import Path
from facekd.files.writing import atomic_open
from facekd.files.temporaries import TemporaryFile, temporary_folder
folder = Path(sys.argv[1])
small = TemporaryFile(folder / "1.jpg")
with atomic_open(folder / "a.json") as stream, temporary_folder(folder / "set") as staged:
    stream.write(b"half"), stream.flush()
    (staged / "image").write_bytes(b"image")
    print("writing", flush=True)
    sys.stdin.read()
"""
DAY = temporaries.SECONDS_UNTIL_LEFT


@pytest.fixture(autouse=True)
def is_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process look for leftovers again, as a new one does."""
    monkeypatch.setattr(temporaries, "_swept", set())


def start_writer(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    return process


def hidden_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def leave(folder: Path, name: str = "a.json", age: float = 0.0, host: str | None = None) -> Path:
    """Leaves a temporary that no process holds, `age` seconds old."""
    temporary = TemporaryFile(folder / name)
    os.close(temporary.descriptor)
    path = Path(temporary.path)
    if host is not None:
        path = path.rename(path.with_name(path.name.replace(temporaries._host(), host)))
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    process = start_writer(tmp_path)
    names = hidden_in(tmp_path)
    assert len(names) == 3
    write_json(tmp_path / "b.json", {})
    assert hidden_in(tmp_path) == names
    process.send_signal(signal.SIGKILL)
    process.communicate()
    temporaries._swept.clear()
    write_small_file(str(tmp_path / "2.jpg"), b"two")
    assert hidden_in(tmp_path) == []


def test_a_temporary_folder_is_empty_and_leaves_nothing(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "set") as staged:
        assert list(staged.iterdir()) == []
        (staged / "image").write_bytes(b"image")
        staged.rename(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path / "other") as staged:
        (staged / "image").write_bytes(b"image")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_nobody_can_predict_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "victim").write_text("old")
    tokens = [f"{2:012x}", f"{1:012x}", f"{1:012x}"]
    monkeypatch.setattr(temporaries.secrets, "token_hex", lambda _: tokens.pop())
    (tmp_path / temporaries._name_for("a.json")).symlink_to(tmp_path / "victim")  # a guess that comes true
    write_json(tmp_path / "a.json", {})
    assert not tokens and (tmp_path / "victim").read_text() == "old"
    monkeypatch.undo()
    assert len({TemporaryFile(tmp_path / "a").path for _ in range(9)}) == 9


@pytest.mark.parametrize(
    ("host", "age", "is_removed"),
    [(None, 0.0, True), (None, -2 * DAY, True), ("0" * 8, 0.5 * DAY, False), ("0" * 8, 1.1 * DAY, True)],
    ids=["just left", "from the future", "of another machine", "of another machine, old"],
)
def test_a_leftover_of_another_machine_stays_for_a_day(
    tmp_path: Path, host: str | None, age: float, is_removed: bool
) -> None:
    left = leave(tmp_path, age=age, host=host)
    temporaries._swept.clear()
    write_json(tmp_path / "b.json", {})
    assert left.exists() is not is_removed


@pytest.mark.parametrize(("age", "is_removed"), [(0.5 * DAY, False), (1.1 * DAY, True)])
def test_without_locks_a_leftover_stays_for_a_day(
    tmp_path: Path, age: float, is_removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = leave(tmp_path, age=age)
    temporaries._swept.clear()
    write_json(tmp_path / "b.json", {})
    assert left.exists() is not is_removed


def test_what_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = f"{temporaries._host()}-{1:012x}"
    others = [f".a.{digits}.tmp", f".b.{digits}.tmp.json", f".c.{digits}.tmp"]
    (tmp_path / "victim").write_text("old")
    (tmp_path / others[0]).symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / others[1])
    (tmp_path / others[2]).hardlink_to(tmp_path / "victim")
    others += [".a.4711.tmp.json", f"visible.{digits}.tmp", ".swp", f".x{digits}.tmp", f".x.{digits}.tmp.json.bak"]
    for name in others[3:]:
        (tmp_path / name).write_text("of another program")
    write_json(tmp_path / "b.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "b.json", "victim"])
    left = leave(tmp_path)
    temporaries._swept.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # the file belongs to somebody else
    write_json(tmp_path / "b.json", {})
    assert left.exists()


def test_a_new_file_that_a_search_for_leftovers_has_locked_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = os.open, []

    def open_and_be_seen(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        if flags & os.O_EXCL and not opened:
            opened.append((path, real(path, os.O_RDWR)))
            fcntl.flock(opened[0][1], fcntl.LOCK_EX)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_be_seen)
    temporary = TemporaryFile(tmp_path / "a")
    assert temporary.path != opened[0][0]
    temporary.discard()


def test_a_link_or_a_pipe_under_a_name_that_anybody_can_predict_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match="remove it") as caught:
            open_own_file(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    with open_own_file(tmp_path / "log") as stream:
        stream.write(b"one\n")
    assert (tmp_path / "log").read_bytes() == b"one\n" and (tmp_path / "victim").read_text() == "old"


def test_a_hard_link_to_a_file_of_somebody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("of somebody else")
    (tmp_path / "log").hardlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"another name \(a hard link\) lies where facekd writes.*log"):
        open_own_file(tmp_path / "log")
    assert (tmp_path / "victim").read_text() == "of somebody else"


def test_hidden_names_are_found_again_and_never_too_long() -> None:
    assert hidden_name("train.rec", ".partial") == ".train.rec.partial"
    long = ["n" * 250 + end for end in ("a", "b")]
    names = [hidden_name(name, ".partial") for name in long]
    assert names == [hidden_name(name, ".partial") for name in long] and len(set(names)) == 2
    assert all(len(name) == 255 and name.endswith(".partial") for name in names)
