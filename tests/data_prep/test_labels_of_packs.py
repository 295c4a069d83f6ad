"""What the data verbs say of the labels of a pack, and how they mend them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import clean_records, convert_records, inspect_records, make_ijb_layout, pack_records, unpack_records
from facekd.data.datasets.record_pack import open_record_pack

Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
NUMBERS = (7, 1003, 250_000)  # subject numbers, not labels


@pytest.fixture
def numbered(tmp_path: Path, write_records: Write) -> Path:
    """A pack of 12 images of 3 people whose labels are subject numbers."""
    return write_records(tmp_path / "numbered", [(key, NUMBERS[key % 3], key) for key in range(12)])


def test_every_verb_says_what_is_in_a_pack(numbered: Path, tmp_path: Path, run: Run) -> None:
    said = "12 images, 3 of 250,001 classes have any, labels 7 to 250,000"
    warned = "249,998 of 250,001 classes have no image"
    drop = tmp_path / "drop.tsv"
    drop.write_text("drop\t0\n")
    status, out, err = run(unpack_records.main, numbered, tmp_path / "unpacked")
    assert status == 0 and said in err and warned in err and "12 images written" in out
    status, out, err = run(clean_records.main, numbered, tmp_path / "clean", "--apply", drop)
    assert status == 0 and said in err and warned in err and "11 images of 3 identities" in out  # consecutive again
    status, out, _ = run(inspect_records.main, numbered)
    assert status == 0 and warned in out and "3 of 250,001 classes have images" in out
    status, _, err = run(convert_records.main, numbered, tmp_path / "converted")
    assert status == 2 and said in err and "250,001 classes are too many for 12 images" in err and "--renumber" in err
    assert not (tmp_path / "converted" / "train.rec").exists()


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_convert_makes_labels_consecutive(numbered: Path, tmp_path: Path, run: Run, layout: str) -> None:
    status, out, err = run(convert_records.main, numbered, tmp_path / "out", "--renumber", "--layout", layout)
    assert status == 0 and "12 images of 3 identities" in out and "warning" not in err
    data = open_record_pack(tmp_path / "out")
    images = {data.read_image(number) for number in range(12)}
    old = open_record_pack(numbered)
    assert images == {(old.read_image(number)[0], number % 3) for number in range(12)}
    assert (data.num_classes, data.warnings, data.class_warnings()) == (3, [], [])
    assert data.property == {"num_classes": 3, "height": 32, "width": 32}
    (source,) = json.loads((tmp_path / "out" / "convert_report.json").read_text())["sources"]
    assert (source["first_label"], source["old_label_of"]) == (0, list(NUMBERS))


def test_several_packs_are_renumbered_apart_or_together(
    numbered: Path, tmp_path: Path, run: Run, write_records: Write
) -> None:
    other = write_records(tmp_path / "other", [(key, (7, 9)[key % 2], 50 + key) for key in range(4)])
    apart, together = tmp_path / "apart", tmp_path / "together"
    assert run(convert_records.main, numbered, other, apart, "--renumber", "--layout", "im2rec")[0] == 0
    labels = [key % 3 for key in range(12)]
    assert open_record_pack(apart).labels().tolist() == [*labels, 3, 4, 3, 4]
    arguments = (numbered, other, together, "--renumber", "--same-labels", "--layout", "im2rec")
    assert run(convert_records.main, *arguments)[0] == 0
    expected = [{0: 0, 1: 2, 2: 3}[label] for label in labels] + [0, 1, 0, 1]  # 7, 9, 1003, 250000
    assert open_record_pack(together).labels().tolist() == expected
    for source in json.loads((together / "convert_report.json").read_text())["sources"]:
        assert (source["first_label"], source["old_label_of"]) == (0, [7, 9, 1003, 250_000])


def test_a_pack_of_runs_is_grouped(tmp_path: Path, run: Run, write_records: Write) -> None:
    rows: list = [(key + 1, [key % 2, 1], key) for key in range(6)]
    rows += [(7 + number, [number + 1, number + 2], None) for number in range(6)]
    pack = write_records(tmp_path / "runs", [*rows, (0, [7, 13], None)])
    status, _, err = run(convert_records.main, pack, tmp_path / "plain")
    assert status == 0 and "6 identity records stand for the images of 2 people, a record for each run" in err
    status, out, _ = run(convert_records.main, pack, tmp_path / "grouped", "--renumber")
    assert status == 0 and "6 images of 2 identities" in out
    data = open_record_pack(tmp_path / "grouped")
    assert (data.labels().tolist(), data.num_classes) == ([0, 0, 0, 1, 1, 1], 2)
    assert (data.warnings, data.class_warnings()) == ([], [])


def test_the_warnings_of_training_are_printed_by_the_data_verbs(tmp_path: Path, run: Run, write_records: Write) -> None:
    rows: list = [(key + 1, [key // 3, 1], key) for key in range(6)]
    rows += [(7, [1, 4], None), (8, [4, 7], None), (0, [7, 9], None)]
    longer = write_records(tmp_path / "longer", [*rows, (9, [2, 1], 90), (10, [2, 1], 91)], "2,32,32\n")
    drop = tmp_path / "drop.tsv"
    drop.write_text("drop\t9\n")
    for verb, arguments in (
        (convert_records.main, (longer, tmp_path / "converted")),
        (unpack_records.main, (longer, tmp_path / "unpacked")),
        (clean_records.main, (longer, tmp_path / "clean", "--apply", drop)),
        (make_ijb_layout.main, (longer, tmp_path / "ijb")),
    ):
        status, _, err = run(verb, *arguments)
        assert status == 0 and "2 images have keys from 7 on, where the header record announces" in err, err
    data = open_record_pack(tmp_path / "converted")
    assert (data.labels().tolist(), data.num_classes, data.warnings) == ([0, 0, 0, 1, 1, 1, 2, 2], 3, [])


def test_convert_skips_and_counts_an_image_of_no_bytes(tmp_path: Path, run: Run, write_records: Write) -> None:
    rows = [(key, [2 + key % 3, 5, 0.5], None if key == 0 else key) for key in range(12)]
    pack = write_records(tmp_path / "im2rec", rows, "5,32,32\n")
    status, _, err = run(convert_records.main, pack, tmp_path / "out")
    assert status == 2 and "1 of 12 image records is unusable" in err and "record 0 at offset 0" in err
    status, out, err = run(convert_records.main, pack, tmp_path / "out", "--on-bad-record", "skip", "--renumber")
    assert status == 0 and "11 images of 3 identities, 1 skipped" in out
    assert "11 images, 3 of 5 classes have any" in err
    assert open_record_pack(tmp_path / "out").labels().tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_people_named_only_in_a_list(tmp_path: Path, run: Run, write_records: Write) -> None:
    pack = write_records(tmp_path / "dcface", [(key, 0, key) for key in range(8)])
    people = ["Zoe", "Ada", "Ada", "Zoe", "Bob", "Zoe", "Bob", "Ada"]
    # Some lines write the folder otherwise.
    lines = [f"{key}\t{'./set//' if key > 4 else 'set/'}{person}/{key}.jpg\t0" for key, person in enumerate(people)]
    listed = pack / "list.txt"
    listed.write_text("\n".join(lines[::-1]) + "\n8\tset/Eve/8.jpg\t0\n", encoding="utf-8-sig")
    status, out, _ = run(inspect_records.main, pack)
    assert status == 0 and "all images have label 0" in out and f"--labels-from {listed}" in out
    status, _, err = run(convert_records.main, pack, tmp_path / "plain")
    assert status == 0 and "warning" in err and "from a single class nothing can be learnt" in err
    status, out, err = run(convert_records.main, pack, tmp_path / "out", "--labels-from", listed)
    assert status == 0 and "8 images of 3 identities" in out and "warning" not in err
    data, old = open_record_pack(tmp_path / "out"), open_record_pack(pack)
    order = np.argsort(people, kind="stable").tolist()
    expected = [(old.read_image(image)[0], ["Ada", "Bob", "Zoe"].index(people[image])) for image in order]
    assert [data.read_image(image) for image in range(8)] == expected
    assert (tmp_path / "out" / "train.lst").read_text().splitlines()[0] == "1\tset/Ada/1.jpg\t0"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\ta/0.jpg\n", "has no line for 1 of the 2 images of .*train.rec, first record 1"),
        ("0\ta/0.jpg\n1\t1.jpg\n", "line 2: .*expected `key folder/image`"),
        ("a/0.jpg\t0\n", "line 1: .*expected `key folder/image`"),
        ("0\ta/0.jpg\n1\ta/1.jpg\n0\tb/0.jpg\n", "line 3: record 0 is b/0.jpg, and a/0.jpg in a line before"),
    ],
)
def test_a_list_that_does_not_say_who_is_who_is_refused(
    tmp_path: Path, run: Run, write_records: Write, lines: str, message: str
) -> None:
    pack = write_records(tmp_path / "pack", [(0, 0, 0), (1, 0, 1)])
    (pack / "list.txt").write_text(lines)
    status, _, err = run(convert_records.main, pack, tmp_path / "out", "--labels-from", pack / "list.txt")
    (error,) = [line for line in err.splitlines() if line.startswith("error")]
    assert status == 2 and re.search(message, error), error


def test_pack_says_what_a_list_holds(tmp_path: Path, run: Run, write_records: Write) -> None:
    source = write_records(tmp_path / "source", [(key, NUMBERS[key % 3], key) for key in range(6)])
    run(unpack_records.main, source, tmp_path / "faces")
    names = sorted(str(path.relative_to(tmp_path / "faces")) for path in (tmp_path / "faces").rglob("*.jpg"))
    lst = tmp_path / "faces" / "train.lst"
    lst.write_text("".join(f"1\t{name}\t{int(name.split('/')[0])}\n" for name in names))
    status, _, err = run(pack_records.main, lst, tmp_path / "packed", "--size", 32)
    assert status == 2 and "6 images, 3 of 250,001 classes have any, labels 7 to 250,000" in err and "--renumber" in err
    assert run(pack_records.main, lst, tmp_path / "packed", "--size", 32, "--renumber")[0] == 0
    assert open_record_pack(tmp_path / "packed").labels().tolist() == [0, 0, 1, 1, 2, 2]
    lst.write_text("".join(f"1\t{name}\t0\n" for name in names))
    status, _, err = run(pack_records.main, lst, tmp_path / "one", "--size", 32)
    assert status == 0 and "from a single class nothing can be learnt" in err
    lst.write_text(f"1\t{names[0]}\t9007199254740993\n")
    status, _, err = run(pack_records.main, lst, tmp_path / "huge", "--size", 32, "--renumber")
    assert status == 2 and "labels are whole numbers from 0 to 9007199254740991" in err


def test_convert_says_that_a_list_does_not_fit_its_pack_and_names_images_itself(
    tmp_path: Path, run: Run, write_records: Write
) -> None:
    pack = write_records(tmp_path / "pack", [(key, key // 3, key) for key in range(6)])
    (pack / "train.lst").write_text("0\t0\tada/1.jpg\n1\t0\tada/2.jpg\n")
    status, out, err = run(convert_records.main, pack, tmp_path / "out", "--layout", "im2rec")
    assert status == 0 and "6 images of 2 identities" in out
    assert "train.lst lists 2 images and the pack has 6; so its names are not used" in err
    assert "ada" not in (tmp_path / "out" / "train.lst").read_text()
