"""Checks that everything a mark stands for is flushed before the mark, as the system is told it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from facekd.files.result_folder import finish_results, start_results
from facekd.files.syncing import sync_file_system, sync_folder, sync_tree


def watch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(str(Path(f"/proc/self/fd/{file}").readlink())))
    return synced


def test_every_file_and_folder_of_a_tree_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    files = [tmp_path / "1", tmp_path / "a" / "2", tmp_path / "a" / "b" / "3"]
    for file in files:
        file.write_bytes(b"x")
    synced = watch(monkeypatch)
    sync_tree(tmp_path)
    assert sorted(synced) == sorted(map(str, [tmp_path, tmp_path / "a", tmp_path / "a" / "b", *files]))


def test_a_withdrawn_mark_is_gone_for_good_before_new_files_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_results(tmp_path, {"schema": 1})
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: there.append((tmp_path / "results.json").exists()))
    start_results(tmp_path)
    assert there[0] and not there[-1]


def test_a_file_system_that_does_not_flush_folders_is_no_error_and_a_failing_device_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_file_system(tmp_path)
    for number, is_error in ((errno.EINVAL, False), (errno.EIO, True)):

        def fail(_file: int, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        if not is_error:
            sync_folder(tmp_path)
            continue
        with pytest.raises(OSError) as caught:
            sync_folder(tmp_path)
        assert caught.value.filename == str(tmp_path)
