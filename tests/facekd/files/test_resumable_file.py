"""Checks that what an interrupted run leaves is found by the same job and by no other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.jobs.conversion_log import ConversionLog
from facekd.errors import DataError, InUseError
from facekd.files import resumable_file
from facekd.files.array_file import open_arrays
from facekd.files.result_folder import start_results
from facekd.files.resumable_file import ResumableFile, is_begun, is_unfinished_result, whole_lines

JOB = {"source": "a", "sizes": [1, 2]}


@pytest.fixture(autouse=True)
def checkpoint_at_each_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_file, "CHECKPOINT_BYTES", 1)


def write_some(path: Path, contents: list[bytes], job: dict | None = JOB) -> ResumableFile:
    file = ResumableFile(path, job)
    for number, content in enumerate(contents):
        file.write(content)
        file.note(f"entry {number}\té\udcff")
    return file


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    file = write_some(tmp_path / "a.bin", [b"one", b"two"])
    assert names_in(tmp_path) == [".a.bin.journal", ".a.bin.partial"]
    file.put_in_place()
    assert names_in(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"onetwo"


def test_the_same_job_goes_on_after_the_last_entry(tmp_path: Path) -> None:
    first = write_some(tmp_path / "a.bin", [b"one", b"three"])
    first.write(b"half of an entry")
    first.abort()
    assert first.num_kept == 2
    again = ResumableFile(tmp_path / "a.bin", dict(reversed(JOB.items())))
    assert list(again.entries()) == [(3, "entry 0\té\udcff"), (8, "entry 1\té\udcff")]
    assert (again.num_found, again.position, again.tell()) == (2, 8, 8)
    again.write(b"end")
    again.note("entry 2")
    again.abort()
    last = ResumableFile(tmp_path / "a.bin", JOB)
    assert [end for end, _ in last.entries()] == [3, 8, 11]
    last.put_in_place()
    assert (tmp_path / "a.bin").read_bytes() == b"onethreeend"


def test_another_job_and_none_begin_anew(tmp_path: Path) -> None:
    for job in ({**JOB, "source": "b"}, None):
        write_some(tmp_path / "a.bin", [b"one"]).abort()
        other = ResumableFile(tmp_path / "a.bin", job)
        assert (other.num_found, other.position, list(other.entries())) == (0, 0, [])
        other.write(b"new")
        other.put_in_place()
        assert (tmp_path / "a.bin").read_bytes() == b"new"
        assert names_in(tmp_path) == ["a.bin"]


def test_a_restart_forgets(tmp_path: Path) -> None:
    write_some(tmp_path / "a.bin", [b"one", b"two"]).abort()
    again = ResumableFile(tmp_path / "a.bin", JOB)
    again.restart()
    again.write(b"new")
    again.note("entry 0")
    again.abort()
    assert list(ResumableFile(tmp_path / "a.bin", JOB).entries()) == [(3, "entry 0")]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[:-1], [3]),  # cut within a line
        (lambda content: content + b"8", [3, 6]),
        (lambda content: content + b"9\tunsigned\n", [3, 6]),
        (lambda content: content.replace(b"6\t", b"5\t"), [3]),
        (lambda content: content.replace(b"entry 0", b"entry 1"), []),
        (lambda content: content + b"x\tno number\n", [3, 6]),
        (lambda content: content.replace(b"facekd", b"facekx"), []),
        (lambda content: b"no JSON\n" + content, []),
        (lambda content: b"", []),
    ],
)
def test_a_damaged_journal_is_believed_as_far_as_it_goes(tmp_path: Path, damage, expected: list[int]) -> None:
    write_some(tmp_path / "a.bin", [b"one", b"two"]).abort()
    journal = tmp_path / ".a.bin.journal"
    journal.write_bytes(damage(journal.read_bytes()))
    again = ResumableFile(tmp_path / "a.bin", JOB)
    assert [end for end, _ in again.entries()] == expected
    again.write(b"end")
    again.note("last")
    again.put_in_place()
    assert (tmp_path / "a.bin").read_bytes() == b"onetwo"[: max(expected, default=0)] + b"end"


@pytest.mark.parametrize("line", [b"[" * 100_000, b"9" * 5000, b"\xff"])
def test_a_journal_that_others_have_written_is_not_believed(tmp_path: Path, line: bytes) -> None:
    (tmp_path / ".a.bin.partial").write_bytes(b"123")
    (tmp_path / "a.bin").write_bytes(b"456")
    (tmp_path / ".a.bin.journal").write_bytes(line + b"\n")
    assert not is_begun(tmp_path / "a.bin", JOB) and not is_unfinished_result(tmp_path / "a.bin", JOB)
    file = write_some(tmp_path / "a.bin", [b"one"])
    assert file.num_found == 0
    file.put_in_place()
    assert names_in(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"one"


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: is_begun(folder / "x", JOB),
        lambda folder: is_unfinished_result(folder / "x", JOB),
        lambda folder: next(whole_lines(folder / ".x.journal")),
        lambda folder: open_arrays(folder / ".x.journal"),
        lambda folder: ConversionLog(folder, {}),
        lambda folder: start_results(folder),
    ],
)
def test_a_pipe_in_the_place_of_what_a_run_has_left_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for name in (".x.journal", ".convert_progress.json", ".results.json.unfinished"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a named pipe"):
        read(tmp_path)


def test_a_journal_without_its_file_is_of_no_use(tmp_path: Path) -> None:
    write_some(tmp_path / "a.bin", [b"one", b"two"]).abort()
    (tmp_path / ".a.bin.partial").unlink()
    assert ResumableFile(tmp_path / "a.bin", JOB).num_found == 0


def test_what_took_no_time_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_file, "CHECKPOINT_BYTES", 1000)
    file = write_some(tmp_path / "a.bin", [b"one", b"two"])
    file.abort()
    assert file.num_kept == 0 and names_in(tmp_path) == []


def test_what_takes_long_is_noted_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_file, "CHECKPOINT_BYTES", 1000)
    monkeypatch.setattr(resumable_file, "CHECKPOINT_SECONDS", 0.0)
    file = write_some(tmp_path / "a.bin", [b"one", b"two"])
    file.abort()
    assert file.num_kept == ResumableFile(tmp_path / "a.bin", JOB).num_found == 2


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    first = write_some(tmp_path / "a.bin", [b"one"])
    with pytest.raises(InUseError, match=r"another process is writing .*a\.bin"):
        ResumableFile(tmp_path / "a.bin", JOB)
    first.put_in_place()
    assert (tmp_path / "a.bin").read_bytes() == b"one"
