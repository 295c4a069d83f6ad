"""Checks locks against real second processes, killed ones, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.errors import FacekdError, InUseError
from facekd.utils.locks import folder_lock, is_file_at, lock_open_file

HOLD_FOLDER = """
import os, sys, time
from pathlib import Path
from facekd.utils.locks import folder_lock
with folder_lock(Path(sys.argv[1]), "study is at work"):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        os.close(1)
        time.sleep(5)  # a worker that outlives the process that was killed
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_FILE = """
import sys
from facekd.utils.locks import lock_open_file
with open(sys.argv[1], "ab") as stream:
    assert lock_open_file(stream)
    print("held", flush=True)
    sys.stdin.read()
"""


def start_holder(script: str, *words: str) -> subprocess.Popen[bytes]:
    """Starts a second process and returns when it holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.communicate(b"", timeout=60)


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"  # is created
    process = start_holder(HOLD_FOLDER, str(folder))
    message = rf"{folder}: another study is at work in this folder; choose another --output"
    with pytest.raises(InUseError, match=message), folder_lock(folder, "study is at work"):
        pass
    end(process)
    with folder_lock(folder, "study is at work"):
        pass


@pytest.mark.parametrize("words", [[], ["fork"]])
def test_the_lock_ends_with_a_killed_process_though_a_forked_one_lives_on(tmp_path: Path, words: list[str]) -> None:
    process = start_holder(HOLD_FOLDER, str(tmp_path), *words)
    process.kill()
    end(process)
    with folder_lock(tmp_path, "study is at work"):
        pass


def test_one_process_may_lock_again_but_not_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with folder_lock(tmp_path, "study is at work"), pytest.raises(FacekdError, match="another study is at work"):
            folder_lock(tmp_path, "study is at work").__enter__()


def test_processes_that_are_not_the_main_one_take_no_lock(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "process is training"), folder_lock(tmp_path, "process is training", active=False):
        pass
    with folder_lock(tmp_path / "absent", "process is training", active=False):
        assert not (tmp_path / "absent").exists()


def test_a_folder_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), folder_lock(tmp_path / "file", "study is at work"):
        pass


def test_a_file_system_without_locks_is_worked_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with folder_lock(tmp_path, "study is at work"):
        pass
    with (tmp_path / "rows").open("ab") as stream:
        assert lock_open_file(stream)


def test_an_open_file_is_locked_against_others_and_freed_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    process = start_holder(HOLD_FILE, str(path))
    with path.open("ab") as stream:
        assert not lock_open_file(stream)
        process.kill()
        end(process)
        assert lock_open_file(stream)


def test_a_file_renamed_or_removed_under_a_stream_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with path.open("ab") as stream:
        assert is_file_at(stream, path)
        path.rename(tmp_path / "done")
        assert not is_file_at(stream, path)
        path.touch()
        assert not is_file_at(stream, path) and is_file_at(stream, tmp_path / "done")
