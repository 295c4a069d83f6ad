"""Checks that files and folders appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from facekd.errors import DataError, TrainingError
from facekd.utils.files import (
    atomic_open,
    atomic_path,
    encoding_hint,
    read_json,
    read_text_file,
    sha256_of_file,
    staged_folder,
    stamp_of,
    write_json,
    write_small_file,
)


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


def test_a_staged_folder_starts_empty_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / ".set.partial" / "of a killed run").mkdir(parents=True)
    with staged_folder(tmp_path / "set") as staged:
        assert staged.parent == tmp_path and list(staged.iterdir()) == []
        (staged / "image").write_bytes(b"image")
        staged.rename(tmp_path / "set")
    assert [file.name for file in tmp_path.iterdir()] == ["set"]
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "other") as staged:
        (staged / "image").write_bytes(b"image")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


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
