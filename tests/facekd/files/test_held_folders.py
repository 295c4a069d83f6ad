"""Checks that nothing is written into a folder that was deleted, moved or replaced under a command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facekd.errors import DataError
from facekd.files.held_folders import check_held, held_folder, make_folder
from facekd.files.output_lock import folder_lock
from facekd.files.resumable_file import ResumableFile
from facekd.files.temporaries import temporary_folder
from facekd.files.writing import atomic_open_together, naming, write_json, write_small_file


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replace(folder: Path) -> None:
    move(folder)
    folder.mkdir()


WRITERS = {
    "whole": lambda folder: write_json(folder / "checkpoints" / "a.json", {}),
    "small": lambda folder: write_small_file(str(folder / "person" / "1.jpg"), b"one"),
    "together": lambda folder: atomic_open_together(folder / "a.bin", {}).__enter__(),
    "resumable": lambda folder: ResumableFile(folder / "a.rec"),
    "folder": lambda folder: temporary_folder(folder / "set").__enter__(),
    "made": lambda folder: make_folder(folder / "new"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (delete, "was deleted while this command was writing into it; nothing more was written. Run the same command"),
        (move, "was moved to .*/moved while .* Move it back, and run"),
        (replace, "was moved to .*/moved while .* Move it back, and run"),
    ],
    ids=["deleted", "moved", "replaced"],
)
def test_nothing_is_written_where_the_folder_was(
    happens: Callable[[Path], None], said: str, write: Callable[[Path], object], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with folder_lock(folder, "command is at work"):
        write_json(folder / "before.json", {})
        happens(folder)
        with pytest.raises(DataError, match=f"^{folder}: {said}"):
            write(folder)
        assert not folder.exists() or not list(folder.iterdir())
        write_json(tmp_path / "elsewhere.json", {})  # other folders are no concern
    write_json(folder / "after.json", {})  # nor is the folder when the command has ended


def test_a_file_in_progress_that_is_gone_is_noticed_at_the_next_checkpoint(tmp_path: Path) -> None:
    file = ResumableFile(tmp_path / "out" / "a.rec", {"job": 1})
    file.write(b"one")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DataError, match=r"\.a\.rec\.partial: was deleted or moved while it was written"):
        file.checkpoint()
    file.abort()
    assert not (tmp_path / "out").exists()


def test_a_link_to_a_folder_may_not_lead_elsewhere_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    link = tmp_path / "out"
    link.symlink_to("a")
    with held_folder(link):
        check_held(link / "x")
        link.unlink()
        link.symlink_to("b")
        with pytest.raises(DataError, match=f"^{link}: was replaced by another"):
            check_held(link / "x")


def test_a_folder_is_made_although_another_process_has_just_removed_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(folder: str, exist_ok: bool) -> None:
        # mkdir found the other's folder; it was gone when makedirs looked what was there.
        made.append(folder)
        if len(made) == 1:
            raise FileExistsError(17, "File exists", folder)
        Path(folder).mkdir()

    monkeypatch.setattr("facekd.files.held_folders.os.makedirs", make)
    make_folder(tmp_path / "new")
    assert len(made) == 2 and (tmp_path / "new").is_dir()


@pytest.mark.parametrize("target", ["file", "nothing"])
def test_what_is_no_folder_stands_in_the_way_of_one(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "link")


def test_a_folder_that_goes_while_a_file_is_made_in_it_is_named(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "out", "command is at work"):
        write_json(tmp_path / "out" / "before.json", {})
        with pytest.raises(DataError, match="was deleted while this command"), naming(tmp_path / "out" / "a.jpg"):
            delete(tmp_path / "out")
            raise FileNotFoundError(2, "No such file or directory", "out/a.jpg.tmp")
