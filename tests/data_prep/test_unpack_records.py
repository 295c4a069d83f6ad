"""`facekd data unpack`: folders are the people of the labels, and files are those of this pack."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep import convert_records, pack_records, unpack_records
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.data.recordio import Header, RecordWriter, pack

Run = Callable[..., tuple[int, str, str]]
JPEG = b"\xff\xd8\xff"
Rows = list[tuple[int, str]]  # label and name
DATES: Rows = [(who, f"{day}/{who}_0.jpg") for who in range(3) for day in ("2017-05-30", "2017-06-01")]


def write_pack(folder: Path, rows: Rows, content: bytes = b"one") -> Path:
    with RecordPackWriter(folder, 32) as writer:
        for number, (label, name) in enumerate(rows):
            writer.add(label, JPEG + content + b"%04d" % number, name)
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_folders_that_are_dates_are_not_people(tmp_path: Path, run: Run) -> None:
    source = write_pack(tmp_path / "pack", DATES)
    status, out, _ = run(unpack_records.main, source, tmp_path / "images")
    assert status == 0
    assert "note: files are named by label and key, because in train.lst label 0 has images in '2017-05-30' and" in out
    assert sorted(files_below(tmp_path / "images")) == [
        "0/1.jpg",
        "0/2.jpg",
        "1/3.jpg",
        "1/4.jpg",
        "2/5.jpg",
        "2/6.jpg",
    ]
    status, out, err = run(unpack_records.main, source, tmp_path / "named", "--names")
    assert status == 2 and "no names for the images from" in err and "which would be two people" in err
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize("verb", [unpack_records, convert_records])
def test_a_list_of_names_that_cannot_be_read_is_no_missing_one(tmp_path: Path, run: Run, verb: Any) -> None:
    source = write_pack(tmp_path / "pack", [(0, "a/1.jpg"), (1, "b/1.jpg")])
    (source / "train.lst").unlink()
    (source / "train.lst").mkdir()  # it cannot be read even by the superuser
    status, _, err = run(verb.main, source, tmp_path / "out")
    assert status == 2 and "pack/train.lst" in err
    assert not (tmp_path / "out" / "0").exists() and not (tmp_path / "out" / "train.rec").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, "a/1.jpg"), (1, "a/2.jpg")], "'a' holds images of labels 0 and 1, so it is no person"),
        ([(0, "a/1.jpg"), (1, "./a//2.jpg")], "'a' holds images of labels 0 and 1"),
        ([(0, "a/1.jpg"), (0, "b/1.jpg")], "label 0 has images in 'a' and 'b', which would be two people"),
        ([(0, "a/1.jpg"), (1, "2.jpg")], "'2.jpg' lies in no folder"),
        ([(0, "1.jpg"), (1, "2.jpg")], "'1.jpg' lies in no folder"),
        ([(0, "0_Ada_30_f.jpg"), (1, "1_Ada_31_f.jpg")], "'Ada' holds images of labels 0 and 1"),
        ([(0, "a/1.jpg"), (0, "./a/1.jpg")], "lists some names twice"),
        ([(0, "a/1.jpg"), (1, "b/1")], "'b/1' is hidden or does not end like an image"),
        ([(0, "a/1.jpg"), (1, "b/1.npy")], "'b/1.npy' is hidden or does not end like an image"),
        ([(0, "a/1.jpg"), (1, ".b/1.jpg")], "'.b/1.jpg' is hidden or does not end like an image"),
    ],
)
def test_names_are_used_where_folders_are_the_people(tmp_path: Path, run: Run, rows: Rows, message: str) -> None:
    source = write_pack(tmp_path / "pack", rows)
    status, out, _ = run(unpack_records.main, source, tmp_path / "images")
    assert status == 0 and message in out
    labels = [int(name.partition("/")[0]) for name in sorted(files_below(tmp_path / "images"))]
    assert labels == [label for label, _ in rows]


@pytest.mark.parametrize("name", ["b/1.JPG", "./b/1.png", "b/c/1.heic"])
def test_names_that_listings_take_are_kept(tmp_path: Path, run: Run, name: str) -> None:
    source = write_pack(tmp_path / "pack", [(0, "a/1.jpg"), (1, name)])
    status, out, _ = run(unpack_records.main, source, tmp_path / "images")
    assert status == 0 and "note" not in out and (tmp_path / "images" / name).is_file()


def test_packed_again_three_people_are_three(tmp_path: Path, run: Run, real_data: Callable[[str], Path]) -> None:
    # An image of LFW under the names of a list whose folders are dates.
    image = open_record_pack(real_data("lfw_train")).read_image(0)[0]
    with RecordPackWriter(tmp_path / "pack", 112) as writer:
        for label, name in DATES:
            writer.add(label, image, name)
    assert run(unpack_records.main, tmp_path / "pack", tmp_path / "images")[0] == 0
    assert run(pack_records.main, tmp_path / "images", tmp_path / "again")[0] == 0
    assert open_record_pack(tmp_path / "again").labels().tolist() == [0, 0, 1, 1, 2, 2]


def test_a_key_that_occurs_twice_names_no_two_images(tmp_path: Path, run: Run) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in range(3):
            writer.write(key, pack(Header(0, 0, key, 0), JPEG + b"%d" % key))
    idx = tmp_path / "train.idx"
    idx.write_text(idx.read_text().replace("2\t", "1\t"))
    assert run(unpack_records.main, tmp_path / "train.rec", tmp_path / "images")[0] == 0
    assert files_below(tmp_path / "images") == {f"0/{number}.jpg": JPEG + b"%d" % number for number in range(3)}


def test_images_of_another_pack_are_never_taken_for_these(tmp_path: Path, run: Run) -> None:
    one = write_pack(tmp_path / "one", DATES)
    other = write_pack(tmp_path / "other", DATES, b"other")
    same_size = write_pack(tmp_path / "same size", DATES, b"two")
    out = tmp_path / "out"
    assert run(unpack_records.main, one, out)[0] == 0
    before = files_below(out)
    for source in (other, same_size):
        status, _, err = run(unpack_records.main, source, out, "--no-names")
        assert status == 2 and "is there and is not that image of" in err and "--force" in err
        assert files_below(out) == before
    status, text, _ = run(unpack_records.main, same_size, out, "--force", "--no-names")
    assert status == 0 and "6 images written" in text and "already" not in text
    assert set(files_below(out).values()) == {JPEG + b"two%04d" % number for number in range(6)}


def test_a_folder_of_other_things_is_refused(tmp_path: Path, run: Run) -> None:
    source = write_pack(tmp_path / "one", DATES)
    (tmp_path / "out" / "9").mkdir(parents=True)
    (tmp_path / "out" / "9" / "9.jpg").write_bytes(JPEG)
    status, _, err = run(unpack_records.main, source, tmp_path / "out")
    assert status == 2 and "holds 1 file that is not of" in err
    assert list(files_below(tmp_path / "out")) == ["9/9.jpg"]
    assert run(unpack_records.main, source, tmp_path / "out", "--force")[0] == 0
    assert len(files_below(tmp_path / "out")) == 7


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    write, left = unpack_records.write_small_file, [count]

    def interrupted(path: str, content: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(unpack_records, "write_small_file", interrupted)


def test_the_same_job_goes_on_without_reading_what_it_left(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_pack(tmp_path / "one", DATES), tmp_path / "out"
    stop_after(monkeypatch, 4)
    assert run(unpack_records.main, source, out)[0] == 130
    assert (out / ".unpack_progress.json").is_file()
    monkeypatch.undo()
    for file in out.glob("*/*"):
        os.chmod(file, 0)  # noqa: PTH101 - nobody has to read it
    monkeypatch.setattr(Path, "read_bytes", refuse_images(Path.read_bytes))
    status, text, _ = run(unpack_records.main, source, out)
    assert status == 0 and "2 images written, 4 were there already" in text
    monkeypatch.undo()
    for file in out.glob("*/*"):
        os.chmod(file, 0o600)  # noqa: PTH101
    assert run(unpack_records.main, source, tmp_path / "whole")[0] == 0
    assert files_below(out) == files_below(tmp_path / "whole")


def refuse_images(read: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    def read_bytes(path: Path) -> bytes:
        assert path.suffix != ".jpg"
        return read(path)

    return read_bytes


def test_what_another_job_left_is_compared(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_pack(tmp_path / "one", DATES), tmp_path / "out"
    same_size = write_pack(tmp_path / "same size", DATES, b"two")
    stop_after(monkeypatch, 4)
    assert run(unpack_records.main, source, out)[0] == 130
    monkeypatch.undo()
    assert run(unpack_records.main, same_size, out)[0] == 2
    # The first job still goes on; so does one whose progress is lost, after a comparison.
    assert "4 were there already" in run(unpack_records.main, source, out)[1]
    (out / "1" / "3.jpg").unlink(missing_ok=True)
    (out / "2" / "6.jpg").unlink(missing_ok=True)
    assert "written, " in run(unpack_records.main, source, out)[1]
    assert len(files_below(out)) == 6
