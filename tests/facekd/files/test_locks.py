"""Checks locks of open files against real second processes, killed ones, and file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.files.locks import is_file_at, lock_open_file

HOLD_FILE = """
import sys
from facekd.files.locks import lock_open_file
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


def test_a_file_system_without_locks_is_worked_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
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
