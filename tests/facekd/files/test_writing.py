"""Checks that files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facekd.errors import DataError, TrainingError
from facekd.files.reading import encoding_hint, is_sealed, read_json, read_text_file, sealed, sha256_of_file, stamp_of
from facekd.files.resumable_file import ResumableFile
from facekd.files.writing import atomic_open, atomic_open_together, atomic_path, write_json, write_small_file
from facekd.utils.foreign import shown


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_open(path) as stream:
        stream.write(b"half of the new")
        stream.flush()
        assert path.read_bytes() == b"old"
        raise ZeroDivisionError
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_folders_are_made_and_the_suffix_stays(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "a.npy") as temporary:
        assert temporary.suffix == ".npy"
        temporary.write_bytes(b"x")
    assert (tmp_path / "new" / "a.npy").read_bytes() == b"x"


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where a folder is wanted")
    with pytest.raises(OSError) as raised, atomic_open(tmp_path / "folder" / "a"):
        pass
    assert "folder" in str(raised.value.filename)


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"far": 1e-6, "tar": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"far": 1e-6, "tar": None}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"name": "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}", "tar": None, "fars": [1e-6, 1]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "a result", keys=("name", "tar")) == value
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json", "a result")


def test_what_is_nested_too_deeply_to_be_written_is_not_sealed_and_can_be_shown() -> None:
    assert is_sealed(sealed({"a": [[1]]})) and shown([[1]]) == "[[1]]"
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert not is_sealed({"a": nested, "crc32": 0})
    assert shown(nested) == "list nested too deeply"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is not JSON"),
        (b'{"steps": [', "is not JSON"),
        (b'{"steps": "\xff"}', "is not JSON: 'utf-8' codec can't decode"),
        (b'{"steps": ' + b"[" * 200_000, "is not JSON: maximum recursion depth"),
        (b'["steps"]', "expected a JSON object, found list"),
        (b'{"done": []}', "it lacks steps"),
    ],
    ids=["empty", "cut short", "bad UTF-8", "nested too deeply", "no object", "key missing"],
)
def test_a_damaged_json_file_is_named_with_what_was_expected_and_what_to_do(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "steps.json"
    path.write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        read_json(path, "a list of steps", "start anew", ("steps",), TrainingError)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged, not a list of steps ({found}") and message.endswith("; start anew")
    with pytest.raises(DataError, match="delete it and run the same command again"):
        read_json(path, "a list of steps", keys=("steps",))


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_small_files_are_whole_or_absent_and_name_the_file_the_user_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "new" / "person" / "1.jpg"  # the folders are created
    for content in (b"one", b"two"):
        write_small_file(str(path), content)
        assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == ["1.jpg"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        write_small_file(str(tmp_path / "file" / "1.jpg"), b"one")
    assert caught.value.filename == str(tmp_path / "file" / "1.jpg")


def test_permissions_are_those_of_the_umask_or_of_the_file_replaced(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("opened", "whole", "small", "together", "beside", "partial.rec")}
    previous = os.umask(0o027)
    try:
        for _ in range(2):
            write_json(paths["whole"], {})
            write_small_file(str(paths["small"]), b"one")
            with atomic_open_together(paths["together"], {paths["beside"]: True}):
                pass
            ResumableFile(paths["partial.rec"]).put_in_place()
            paths["opened"].write_bytes(b"")  # what Python's own `open` does
            assert len({path.stat().st_mode for path in paths.values()}) == 1
            for path in paths.values():
                path.chmod(0o604)
        assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o604}
    finally:
        os.umask(previous)


WRITERS = {
    "whole": lambda path: write_json(path, {"new": 1}),
    "by path": lambda path: _write_by_path(path),
    "small": lambda path: write_small_file(str(path), b"new"),
    "together": lambda path: _write_together(path),
    "resumable": lambda path: ResumableFile(path).put_in_place(),
}


def _write_by_path(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")


def test_files_written_together_name_the_main_one_when_the_disk_is_full(tmp_path: Path) -> None:
    main = tmp_path / "main.npz"
    with pytest.raises(OSError) as met, atomic_open_together(main, {tmp_path / "beside": True}):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write to any of them: it names no file
    assert met.value.filename == str(main) and not list(tmp_path.iterdir())


def _write_together(path: Path) -> None:
    with atomic_open_together(path, {path.with_name("beside"): True}) as streams:
        streams[path].write(b"new")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path, write: Callable[[Path], None]) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out" / "a.json"
    target.parent.mkdir()
    victim.write_text("old")
    target.symlink_to(victim)
    write(target)
    assert victim.read_text() == "old" and target.is_file() and not target.is_symlink()


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_no_plain_file_is_refused_and_stays(tmp_path: Path, write: Callable[[Path], None]) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for place in (pipe, Path("/dev/null"), Path("/dev/stdout"), Path("/proc/self/fd/1")):
        with pytest.raises(DataError, match=f"^{place}: is no plain file"):
            write(place)
    with pytest.raises(IsADirectoryError) as caught:
        write(folder)
    assert caught.value.filename == str(folder)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_that_may_not_be_written_is_not_replaced(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("kept")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda name, _: Path(name).stat().st_mode & 0o222 != 0)  # root may do all
    with pytest.raises(PermissionError) as caught:
        write(path)
    assert caught.value.filename == str(path) and path.read_text() == "kept"


@pytest.mark.parametrize(
    "name", ["n" * 250 + ".json", "n." + "s" * 253, "\N{GREEK SMALL LETTER ALPHA}" * 127, "\udcff.a"]
)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_names_may_be_as_long_as_the_file_system_allows_and_any_bytes(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    write(tmp_path / name)
    assert (tmp_path / name).is_file()


def test_content_and_name_are_on_the_device_when_a_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "new" / "run" / "a.json", []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: events.append(str(Path(f"/proc/self/fd/{file}").readlink())))
    monkeypatch.setattr(os, "replace", lambda source, target: (events.append("rename"), replace(source, target)))
    write_json(path, {})
    written, renamed, *folders = events
    assert ".tmp" in written and renamed == "rename"
    assert folders == [str(path.parent), str(path.parent.parent), str(tmp_path)]  # two of them are new


def test_a_stamp_tells_a_replaced_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    before = stamp_of(path, None)
    assert before == stamp_of(path, None) and len(before) == 6
    other.write_bytes(b"two")
    os.utime(other, ns=(before[1], before[1]))  # as `cp -p`, `rsync -t` and `tar x` restore it
    other.replace(path)
    assert path.stat().st_mtime_ns == before[1] and stamp_of(path, None) != before
    again = stamp_of(path)
    path.write_bytes(b"six")
    os.utime(path, ns=(before[1], before[1]))
    assert stamp_of(path) != again


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_are_read_in_the_encoding_that_they_announce(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("é\u2028\x85\r\nb\rc\n".encode(encoding))
    assert read_text_file(tmp_path / "a.txt") == "é\u2028\x85\nb\nc\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n\xfc\n", "a.txt: is not UTF-8 at line 3; convert it, such as by `iconv -f LATIN1"),
        (b"\xef\xbb\xbfa\n\xfc", "is not UTF-8 at line 2"),
        ("a\nb\n".encode("utf-16-le"), "is not text: line 1 has a zero byte; if it is UTF-16, .*UTF-16LE"),
        ("a\nb".encode("utf-16") + b"\n", "begins as UTF-16 and is not that at line 2"),
        (b"\xff\xfe\xff", "begins as UTF-16 and is not that at line 1"),
    ],
)
def test_other_texts_are_refused_with_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text_file(tmp_path / "a.txt")


def test_names_of_files_may_be_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfM\xfcller.jpg\n")
    text = read_text_file(tmp_path / "a.txt", has_file_names=True)
    assert os.fsencode(text) == b"M\xfcller.jpg\n"
    assert "iconv" in encoding_hint(text) and encoding_hint("Müller.jpg") == ""
