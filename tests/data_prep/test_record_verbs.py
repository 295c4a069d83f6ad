"""`facekd data pack`, `unpack`, `index` and `inspect`, run as a user runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import index_records, inspect_records, pack_records, unpack_records
from data_prep.inspection.contact_sheet import choose_images
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack, unpack
from facekd.images.decoding import decode_rgb

PEOPLE = {"Ada": 3, "Bob": 2, "Cyd": 4}
Run = Callable[..., tuple[int, str, str]]


def picture(seed: int, size: int = 112, suffix: str = ".jpg") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(suffix, smooth)[1].tobytes()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder of 9 pictures of 3 people, and things that are no pictures."""
    root = tmp_path / "faces"
    for person, count in PEOPLE.items():
        (root / person).mkdir(parents=True)
        for number in range(count):
            (root / person / f"{person}_{number}.jpg").write_bytes(picture(len(person) * 10 + number + ord(person[0])))
    (root / "Ada" / "notes.txt").write_text("not a picture")
    (root / "empty").mkdir()
    (root / "readme.txt").write_text("not a person")
    return root


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_pack_then_unpack_gives_the_files_back(faces: Path, tmp_path: Path, run: Run, layout: str) -> None:
    status, out, _ = run(pack_records.main, faces, tmp_path / "packed", "--layout", layout)
    assert status == 0 and "9 images of 3 identities" in out
    assert sorted(file.name for file in (tmp_path / "packed").iterdir()) == [
        "property", "train.idx", "train.lst", "train.rec",
    ]  # fmt: skip
    assert open_record_pack(tmp_path / "packed").labels().tolist() == [0] * 3 + [1] * 2 + [2] * 4
    status, out, _ = run(unpack_records.main, tmp_path / "packed", tmp_path / "unpacked")
    assert status == 0 and "9 images written" in out
    pictures = {name: content for name, content in files_below(faces).items() if name.endswith(".jpg")}
    assert files_below(tmp_path / "unpacked") == pictures
    (tmp_path / "unpacked" / "Bob" / "Bob_1.jpg").unlink()
    assert (
        "1 image written, 8 were there already"
        in run(unpack_records.main, tmp_path / "packed", tmp_path / "unpacked")[1]
    )
    assert files_below(tmp_path / "unpacked") == pictures


def test_unpacked_by_number_packs_to_the_same_labels(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    assert run(unpack_records.main, tmp_path / "packed", tmp_path / "numbered", "--no-names")[0] == 0
    assert sorted(files_below(tmp_path / "numbered"))[:4] == ["0/1.jpg", "0/2.jpg", "0/3.jpg", "1/4.jpg"]
    run(pack_records.main, tmp_path / "numbered", tmp_path / "again")
    assert (tmp_path / "again" / "train.rec").read_bytes() == (tmp_path / "packed" / "train.rec").read_bytes()


def test_pack_keeps_bytes_or_scales_as_asked(faces: Path, tmp_path: Path, run: Run) -> None:
    (faces / "Ada" / "Ada_1.jpg").write_bytes(picture(1, size=150))
    (faces / "Bob" / "png.png").write_bytes(picture(2, suffix=".png"))
    status, _, err = run(pack_records.main, faces, tmp_path / "packed")
    assert status == 2
    assert "Ada_1.jpg: the image is 150x150 and the data set 112x112" in err and "--resize" in err
    assert not list((tmp_path / "packed").iterdir())
    assert run(pack_records.main, faces, tmp_path / "packed", "--resize", "--quality", 90)[0] == 0
    data = open_record_pack(tmp_path / "packed")
    images = [data.read_image(number)[0] for number in range(10)]
    assert images[0] == (faces / "Ada" / "Ada_0.jpg").read_bytes()
    assert images[5] == picture(2, suffix=".png")
    assert {decode_rgb(image).shape for image in images} == {(112, 112, 3)}
    scaled = cv2.resize(decode_rgb(picture(1, size=150)), (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(decode_rgb(images[1]).astype(int) - scaled).mean() < 4  # not swapped, not shifted


def test_pack_meets_broken_images_by_the_policy(faces: Path, tmp_path: Path, run: Run) -> None:
    (faces / "Cyd" / "Cyd_0.jpg").write_bytes(picture(9)[:300])
    (faces / "Cyd" / "Cyd_1.jpg").write_bytes(b"")
    status, _, err = run(pack_records.main, faces, tmp_path / "packed")
    assert status == 2 and "Cyd_0.jpg" in err and "cut short" in err
    status, out, err = run(pack_records.main, faces, tmp_path / "packed", "--on-bad-record", "skip")
    assert status == 0 and "7 images of 3 identities" in out and out.rstrip().endswith("2 skipped")
    assert "Cyd_1.jpg: it holds no image bytes" in err
    assert open_record_pack(tmp_path / "packed").num_images == 7


def test_pack_does_not_replace_a_pack_unasked(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    before = files_below(tmp_path / "packed")
    status, _, err = run(pack_records.main, faces, tmp_path / "packed", "--layout", "im2rec")
    assert status == 2 and "is there already" in err and "--force" in err
    assert files_below(tmp_path / "packed") == before
    assert run(pack_records.main, faces, tmp_path / "packed", "--layout", "im2rec", "--force")[0] == 0
    assert open_record_pack(tmp_path / "packed").layout == "im2rec"


@pytest.mark.parametrize("kind", ["insightface", "im2rec", "im2rec with two labels"])
def test_pack_reads_both_kinds_of_list(faces: Path, tmp_path: Path, run: Run, kind: str) -> None:
    rows = [("Cyd/Cyd_2.jpg", 1), ("Ada/Ada_0.jpg", 0), ("Cyd/Cyd_0.jpg", 1)]
    formats = {
        "insightface": "1\t{0}\t{1}",
        "im2rec": "{2}\t{1}.000000\t{0}",
        "im2rec with two labels": "{2}\t{1}\t1\t{0}",
    }
    lst = tmp_path / "some.lst"
    lst.write_text("".join(formats[kind].format(*row, number) + "\n" for number, row in enumerate(rows)))
    assert run(pack_records.main, lst, tmp_path / "packed", "--root", faces, "--layout", "im2rec")[0] == 0
    data = open_record_pack(tmp_path / "packed")
    assert [data.read_image(number) for number in range(3)] == [
        ((faces / name).read_bytes(), label) for name, label in rows
    ]
    assert run(pack_records.main, lst, tmp_path / "grouped", "--root", faces)[0] == 0
    assert open_record_pack(tmp_path / "grouped").labels().tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tAda/Ada_0.jpg\n", "line 1: .* has 2 tab-separated columns; expected"),
        ("1\tAda/Ada_0.jpg\tx\n", "label 'x' of Ada/Ada_0.jpg is no whole number"),
        ("1\tAda/Ada_0.jpg\t0\n1\tAda/Ada_1.jpg\t2\n", "label 1 has no image; --renumber"),
        ("1\tAda/Eve.jpg\t0\n", "Eve.jpg: no such image, though it is listed"),
        ("\n", "lists no images"),
    ],
)
def test_pack_refuses_lists_that_say_nothing_clear(faces: Path, run: Run, text: str, message: str) -> None:
    (faces / "some.lst").write_text(text)
    status, _, err = run(pack_records.main, faces / "some.lst", faces.parent / "packed")
    assert status == 2 and re.search(message, err), err


def test_pack_of_records_points_to_unpack(tmp_path: Path, run: Run) -> None:
    (tmp_path / "train.rec").write_bytes(bytes(range(256)))
    status, _, err = run(pack_records.main, tmp_path / "train.rec", tmp_path / "packed")
    assert status == 2 and "train.rec: is RecordIO already; `facekd data unpack`" in err


def test_renumber_closes_gaps_in_order(faces: Path, tmp_path: Path, run: Run) -> None:
    (faces / "some.lst").write_text("1\tAda/Ada_0.jpg\t7\n1\tBob/Bob_0.jpg\t2\n1\tAda/Ada_1.jpg\t7\n")
    assert run(pack_records.main, faces / "some.lst", tmp_path / "packed", "--renumber", "--layout", "im2rec")[0] == 0
    assert open_record_pack(tmp_path / "packed").labels().tolist() == [1, 0, 1]


def test_unpack_stays_in_its_folder(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    lst = tmp_path / "packed" / "train.lst"
    lst.write_text(lst.read_text().replace("Ada/Ada_0.jpg", "../../outside.jpg"))
    status, _, err = run(unpack_records.main, tmp_path / "packed", tmp_path / "out", "--names")
    assert status == 2 and "leads out of the output folder" in err
    status, out, _ = run(unpack_records.main, tmp_path / "packed", tmp_path / "out")
    assert status == 0 and "files are named by label and key" in out
    assert not (tmp_path / "outside.jpg").exists() and len(files_below(tmp_path / "out")) == 9


def corrupt(folder: Path, key: int) -> int:
    with RecordReader(folder / "train.rec") as reader:
        offset = reader.offset_of(key)
    content = bytearray((folder / "train.rec").read_bytes())
    content[offset : offset + 4] = b"\0\0\0\0"
    (folder / "train.rec").write_bytes(content)
    return offset


def test_unpack_meets_corrupt_records_by_the_policy(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    offset = corrupt(tmp_path / "packed", 5)
    status, _, err = run(unpack_records.main, tmp_path / "packed", tmp_path / "out")
    assert status == 2 and f"record 5 at offset {offset:,}" in err
    status, out, err = run(unpack_records.main, tmp_path / "packed", tmp_path / "out", "--on-bad-record", "skip")
    assert status == 0 and out.rstrip().endswith("1 skipped") and f"record 5 at offset {offset:,}" in err
    assert len(files_below(tmp_path / "out")) == 8


def test_index_writes_what_was_lost(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    idx = tmp_path / "packed" / "train.idx"
    before = idx.read_bytes()
    assert run(index_records.main, tmp_path / "packed")[1].endswith("is there and right: 13 records\n")
    idx.unlink()
    assert run(index_records.main, tmp_path / "packed" / "train.rec")[:2] == (0, f"{idx}: 13 records\n")
    assert idx.read_bytes() == before
    idx.write_text("0\t0\n")
    status, _, err = run(index_records.main, tmp_path / "packed")
    assert status == 2 and "differs" in err and "--force" in err and idx.read_text() == "0\t0\n"
    assert run(index_records.main, tmp_path / "packed", "--force")[0] == 0
    assert idx.read_bytes() == before


def test_index_of_a_damaged_file_only_when_asked(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    corrupt(tmp_path / "packed", 5)
    idx = tmp_path / "packed" / "train.idx"
    idx.unlink()
    status, _, err = run(index_records.main, tmp_path / "packed")
    assert status == 2 and "is damaged: " in err and "12 records are whole" in err and not idx.exists()
    status, out, _ = run(index_records.main, tmp_path / "packed", "--on-bad-record", "skip")
    assert status == 0 and "12 records, 1 skipped" in out
    assert 5 not in RecordReader(tmp_path / "packed" / "train.rec").keys.tolist()


def test_inspect_tells_what_a_pack_is(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    status, out, _ = run(inspect_records.main, tmp_path / "packed")
    facts = dict(line.split(None, 1) for line in out.splitlines() if not line.startswith("image"))
    assert status == 0
    assert facts["records"] == "13: 9 images, 3 identity records, 1 header"
    assert (
        facts["identities"] == "3 of 3 classes have images"
        and facts["format"] == "JPEG"
        and facts["warnings"] == "none"
    )
    assert "images each  min 2, median 3, max 4" in out and "112x112" in out
    summary = json.loads(run(inspect_records.main, tmp_path / "packed", "--json")[1])
    assert (summary["layout"], summary["num_images"], summary["num_classes"]) == ("insightface", 9, 3)
    assert summary["images_per_identity"] == {"min": 2, "median": 3.0, "max": 4}
    assert summary["oddities"] == []


def test_inspect_finds_what_is_odd(tmp_path: Path, run: Run) -> None:
    images = [picture(number) for number in range(6)]
    images[2] = picture(2, size=64)
    images[3] = picture(3, suffix=".png")
    images[4] = images[0]
    images[5] = b"no image"
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key, (label, image) in enumerate(zip([0, 0, 1, 9, 1, 1], images, strict=True)):
            writer.write(key, pack(Header(0, label, key, 0), image))
    (tmp_path / "property").write_text("3,112,112\n")
    status, out, _ = run(inspect_records.main, tmp_path, "--check")
    assert status == 0
    for finding in (
        "1 image has a label of 3 or more (up to 9), out of range for 3 classes",
        "7 of 10 classes have no image (labels go up to 9)",
        "1 identity has a single image",
        "1 of 6 images looked at is unusable, first: ",
        "record 5 at offset",
        "images have different sizes",
        "images have different formats",
        "1 image is an exact copy of another, 1 of them under another label",
    ):
        assert finding in out, out
    status, _, err = run(inspect_records.main, tmp_path, "--on-bad-record", "fail")
    assert status == 2 and "1 of 6 images" in err


def test_inspect_checks_identity_records_against_labels(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    with RecordReader(tmp_path / "packed" / "train.rec") as reader:
        records = {key: reader.read(key) for key in reader.keys.tolist()}
    header, _ = unpack(records[10])
    records[10] = pack(header._replace(label=np.array([1, 6], np.float32)), b"")
    with RecordWriter(tmp_path / "packed" / "train.rec") as writer:
        for key, payload in records.items():
            writer.write(key, payload)
    out = run(inspect_records.main, tmp_path / "packed")[1]
    assert "1 identity record does not fit the labels of its images, first: record 10" in out


def test_inspect_describes_a_damaged_pack(faces: Path, tmp_path: Path, run: Run) -> None:
    run(pack_records.main, faces, tmp_path / "packed", "--layout", "im2rec")
    rec = tmp_path / "packed" / "train.rec"
    rec.write_bytes(rec.read_bytes()[:-6000])
    status, out, _ = run(inspect_records.main, tmp_path / "packed", "--sample", 9, tmp_path / "sheet.png")
    assert status == 0 and "truncated" in out
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


@pytest.mark.parametrize("order", ["issue", "option", "first"])
def test_the_contact_sheet_shows_the_images(faces: Path, tmp_path: Path, run: Run, order: str) -> None:
    run(pack_records.main, faces, tmp_path / "packed")
    sheet_path = tmp_path / "sheet.png"
    arguments = {
        "issue": (tmp_path / "packed", "--sample", 9, sheet_path),
        "option": (tmp_path / "packed", "--sample", 9, "--output", sheet_path),
        "first": ("--sample", 9, tmp_path / "packed", sheet_path),
    }[order]
    assert run(inspect_records.main, *arguments)[0] == 0
    sheet = cv2.cvtColor(cv2.imread(str(sheet_path)), cv2.COLOR_BGR2RGB)
    expected = [decode_rgb(content) for name, content in files_below(faces).items() if name.endswith(".jpg")]
    found = 0
    for image in expected:  # each is somewhere on the sheet, pixel for pixel
        match = cv2.matchTemplate(sheet, image, cv2.TM_SQDIFF)
        found += float(match.min()) < 1.0 * image.size
    assert found == 9


def test_the_contact_sheet_has_a_row_per_identity() -> None:
    labels = np.array([5, 1, 5, 1, 1, 2] * 10)
    rows = choose_images(labels, 20)
    assert sum(len(row) for row in rows) == 20
    assert all(len(set(labels[row])) == 1 and len(set(row)) == len(row) <= 8 for row in rows)
    assert choose_images(labels, 20) == rows != choose_images(labels, 20, seed=1)
    assert sorted(image for row in choose_images(labels[:6], 100) for image in row) == list(
        range(6)
    )  # no more than there are


@pytest.mark.parametrize("verb", [pack_records, unpack_records, index_records, inspect_records])
def test_help_shows_an_example(verb: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        verb.main(["--help"])  # type: ignore[attr-defined]
    out = capsys.readouterr().out
    assert info.value.code == 0 and "example" in out and "facekd data" in out


def test_the_real_pack_survives_unpacking_and_packing(
    real_data: Callable[[str], Path], tmp_path: Path, run: Run
) -> None:
    """Written by mxnet; ours, from its unpacked images, is the same to the last byte."""
    source = real_data("lfw_train")
    assert run(unpack_records.main, source, tmp_path / "images")[0] == 0
    assert run(pack_records.main, tmp_path / "images", tmp_path / "packed")[0] == 0
    for name in ("train.rec", "train.idx", "train.lst", "property"):
        assert (tmp_path / "packed" / name).read_bytes() == (source / name).read_bytes(), name
    summary = json.loads(run(inspect_records.main, tmp_path / "packed", "--json", "--check")[1])
    assert (summary["num_images"], summary["num_classes"], summary["oddities"]) == (3442, 336, [])


def test_the_kind_of_list_is_said_and_must_be_one(faces: Path, tmp_path: Path, run: Run) -> None:
    lst = tmp_path / "some.lst"
    lst.write_text("1\tAda/Ada_0.jpg\t0\n1\tBob/Bob_0.jpg\t1\n")
    assert "`aligned path label` (insightface)" in run(pack_records.main, lst, tmp_path / "a", "--root", faces)[2]
    lst.write_text("7\t0\tAda/Ada_0.jpg\n3\t1\tBob/Bob_0.jpg\n")
    arguments = (lst, tmp_path / "b", "--root", faces, "--layout", "im2rec")
    assert "`index label path` (im2rec)" in run(pack_records.main, *arguments)[2]
    assert RecordReader(tmp_path / "b" / "train.rec").keys.tolist() == [7, 3]
    lst.write_text("7\t0\tAda/Ada_0.jpg\n1\tBob/Bob_0.jpg\t1\n")
    status, _, err = run(pack_records.main, lst, tmp_path / "c", "--root", faces)
    assert status == 2 and "line 2: has the columns `aligned path label`" in err
