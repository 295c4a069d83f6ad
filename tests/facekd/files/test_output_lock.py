"""Checks the locks of outputs against real second processes, killed ones, and file systems without locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest

from data_prep import make_pair_set
from facekd.errors import DataError, FacekdError, InUseError
from facekd.files.output_lock import file_lock, folder_lock
from facekd.importing import import_config
from tests.facekd.files.test_locks import end, start_holder

HOLD_FOLDER = """
import os, sys, time
from pathlib import Path
from facekd.files.output_lock import folder_lock
with folder_lock(Path(sys.argv[1]), "study is at work"):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        os.close(1)
        time.sleep(5)  # a worker that outlives the process that was killed
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"  # is created
    process = start_holder(HOLD_FOLDER, str(folder))
    message = (
        rf"{folder}: another study is at work in this folder \(process {process.pid}\); wait until it has ended, or "
        "choose another place"
    )
    with pytest.raises(InUseError, match=message), folder_lock(folder, "study is at work"):
        pass
    end(process)
    with folder_lock(folder, "study is at work"):
        pass
    assert not folder.parent.exists()  # it was created for the lock, and nothing was written into it


def test_a_deleted_current_folder_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    config = tmp_path / "c.py"
    config.write_text("config.network = 'r50'\n")
    (tmp_path / "faces").mkdir()
    (tmp_path / "gone").mkdir()
    with monkeypatch.context() as inside:
        inside.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(FileNotFoundError), file_lock(Path("model.onnx")):
            pass
        relative = [
            run(import_config.main, config, "--output", "o.yaml"),
            run(make_pair_set.main, tmp_path / "faces", "p.bin", "--sample", 20),
            run(import_config.main, "c.py", "--output", tmp_path / "o.yaml"),
        ]
        absolute = run(import_config.main, tmp_path / "absent.py", "--output", tmp_path / "o.yaml")
        # Torch is imported afresh: its MKL would end the process.
        inside.delitem(sys.modules, "torch", raising=False)
        relative.append(run(lambda _: import_module("torch")))
    for status, _, err in relative:
        assert status == 2 and err == "error: the current folder was deleted; change into another one (`cd`)\n"
    assert absolute[0] == 2 and "No such file" in absolute[2] and "current folder" not in absolute[2]


def test_the_lock_of_a_file_lies_beside_it_and_names_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.onnx"
    with file_lock(path):
        lock = tmp_path / "new" / ".model.onnx.lock"
        lock.write_text("12 node-7\n")
        with pytest.raises(InUseError, match=r"model.onnx: .* \(process 12 on node-7\); wait"), file_lock(path):
            pass
        lock.write_bytes(b"\x1b[2J of another program")
        with pytest.raises(InUseError, match=r"model.onnx: another command writes this file; wait"), file_lock(path):
            pass
        path.touch()
        with file_lock(path.with_name("other.onnx")):
            assert lock.exists()
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


def test_many_processes_that_lock_and_remove_one_lock_never_hold_it_together(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(200):
            with contextlib.suppress(InUseError), folder_lock(tmp_path / "run", "study is at work"):
                mark = os.open(tmp_path / "run" / "mark", os.O_CREAT | os.O_EXCL)  # fails if another is here
                os.close(mark)
                (tmp_path / "run" / "mark").unlink()

    processes = [get_context("fork").Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_lock_with_another_name_is_replaced_once_it_is_free(tmp_path: Path) -> None:
    """`cp -al` of a folder in which a command is at work gives its lock a second name."""
    folders = [tmp_path / "run", tmp_path / "copy"]
    process = start_holder(HOLD_FOLDER, str(folders[0]))
    folders[1].mkdir()
    (folders[1] / ".lock").hardlink_to(folders[0] / ".lock")
    for folder in folders:
        with (
            pytest.raises(InUseError, match=rf"process {process.pid}\); wait"),
            folder_lock(folder, "study is at work"),
        ):
            pass
    process.kill()
    end(process)
    said = (folders[1] / ".lock").read_text()
    with folder_lock(folders[0], "study is at work"):
        assert (folders[1] / ".lock").read_text() == said  # and the file of somebody, of which it was another name
    with folder_lock(folders[1], "study is at work"):
        pass
    assert not any((folder / ".lock").exists() for folder in folders)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    message = rf"model.onnx: cannot be written \({os.strerror(code)}: .*\); choose another"
    with pytest.raises(DataError, match=message), file_lock(tmp_path / "model.onnx"):
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


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(OSError, match="a link or a device lies where"), folder_lock(tmp_path, "study is at work"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_folder_that_is_to_be_filled_and_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "set" or mode != os.W_OK)  # root may do all
    with pytest.raises(DataError, match="set: is a folder that cannot be written"), file_lock(tmp_path / "set"):
        pass
