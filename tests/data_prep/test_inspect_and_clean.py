"""Findings of `facekd data inspect` on data with planted faults, and `facekd data clean`, which mends them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import clean_records, inspect_records, pack_records
from data_prep.inspection.clean_lists import read_clean_lists
from data_prep.inspection.contact_sheet import GAP, MARGIN_WIDTH, TILE, Guest, draw_contact_sheet
from data_prep.inspection.identity_findings import find_centres, find_merges, find_outliers, find_overlap
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.errors import DataError
from facekd.images.decoding import decode_rgb
from tests.pooling_model import write_pooling_model

Run = Callable[..., tuple[int, str, str]]
SIZE = 48


def faces_of(people: np.ndarray, seed: int, spread: float = 0.5) -> np.ndarray:
    """Embeddings of these people: unit directions of 64 values, with noise of a length of `spread`."""
    directions = np.random.default_rng(7).normal(size=(1000, SIZE))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = np.random.default_rng(seed).normal(size=(len(people), SIZE)) * spread / np.sqrt(SIZE)
    return (directions[people] + noise) * 3


def test_planted_wrong_labels_come_first() -> None:
    people = np.repeat(np.arange(40), 8)
    labels = people.copy()
    wrong = [3, 77, 150, 201]
    labels[wrong] = (labels[wrong] + 11) % 40
    outliers = find_outliers(find_centres(faces_of(people, 0), labels))
    assert sorted(outlier.image for outlier in outliers[:4]) == wrong and len(outliers) < 8
    for outlier in outliers[:4]:
        assert outlier.other_label == people[outlier.image] and outlier.other_cosine > outlier.own_cosine


def test_a_person_under_two_labels_is_found() -> None:
    people = np.repeat(np.arange(40), 8)
    labels = people.copy()
    labels[20:24] = 90  # half of the images of person 2
    merges, limit = find_merges(find_centres(faces_of(people, 0), labels))
    assert [pair[:2] for pair in merges] == [(2, 90)] and merges[0][2] > limit
    assert find_merges(find_centres(faces_of(people, 0), people))[0] == []


def test_overlap_is_found_where_it_is_planted_and_nowhere_else() -> None:
    found = find_centres(faces_of(np.repeat(np.arange(60), 8), 0), np.repeat(np.arange(60), 8))
    strangers = np.repeat(np.arange(100, 160), 4)
    overlaps, _ = find_overlap(found, faces_of(strangers, 1))
    assert sum(len(overlap.images) for overlap in overlaps) <= 3
    planted = strangers.copy()
    planted[8:16] = np.repeat([5, 33], 4)
    overlaps, _ = find_overlap(found, faces_of(planted, 1))
    assert {(o.label, tuple(o.images)) for o in overlaps[:2]} == {(5, (8, 9, 10, 11)), (33, (12, 13, 14, 15))}


def test_embeddings_that_do_not_belong_are_refused() -> None:
    labels = np.repeat(np.arange(3), 4)
    good = faces_of(labels, 0)
    with pytest.raises(DataError, match="do not fit 12 images"):
        find_centres(good[:11], labels)
    bad = good.copy()
    bad[5, 0] = np.nan
    with pytest.raises(DataError, match="first that of image 5"):
        find_centres(bad, labels)
    with pytest.raises(DataError, match="two models"):
        find_overlap(find_centres(good, labels), good[:, :9])
    with pytest.raises(DataError, match="fewer than two"):
        find_centres(good, np.zeros(12, dtype=np.int64))


def picture(seed: int) -> np.ndarray:
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8), (112, 112))


@pytest.fixture
def faulty(tmp_path: Path, run: Run) -> tuple[Path, np.ndarray]:
    """20 identities of 6 images under labels 0..19: image 9 mislabelled, 19 is person 18, image 40 a copy of 30."""
    people = np.repeat(np.arange(20), 6)
    people[9] = 7
    people[114:] = 18
    for image in range(120):
        folder = tmp_path / "faces" / f"p{image // 6:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 60 if image == 40 else 95]
        pixels = picture(30 if image == 40 else image)
        (folder / f"{image:03d}.jpg").write_bytes(cv2.imencode(".jpg", pixels, quality)[1].tobytes())
    assert run(pack_records.main, tmp_path / "faces", tmp_path / "pack")[0] == 0
    embeddings = faces_of(people, 3).astype(np.float32)
    np.save(tmp_path / "pack.npy", embeddings)
    return tmp_path / "pack", people


def test_an_image_of_the_evaluation_is_drawn_beside_the_identity(faulty: tuple[Path, np.ndarray]) -> None:
    pack = open_record_pack(faulty[0])
    guest = cv2.imencode(".png", picture(700))[1].tobytes()
    sheet = draw_contact_sheet(pack, [[Guest(guest, "evaluation, 3"), 12, 13]])
    shown = sheet[GAP : GAP + TILE, MARGIN_WIDTH:]
    for column, encoded in enumerate((guest, pack.read_image(12)[0], pack.read_image(13)[0])):
        left = column * (TILE + GAP)
        np.testing.assert_array_equal(shown[:, left : left + TILE], decode_rgb(encoded))
    without = draw_contact_sheet(pack, [[12, 13]])
    np.testing.assert_array_equal(sheet[:, :MARGIN_WIDTH], without[:, :MARGIN_WIDTH])  # the label is the pack's


def test_the_page_and_the_lists_and_the_cleaning(faulty: tuple[Path, np.ndarray], tmp_path: Path, run: Run) -> None:
    pack, _ = faulty
    strangers = np.repeat(np.arange(200, 210), 2)
    strangers[:2] = 4
    write_pair_pack(tmp_path / "eval.bin", [cv2.imencode(".jpg", picture(500 + i))[1].tobytes() for i in range(20)],
                    [True] * 10)  # fmt: skip
    np.save(tmp_path / "eval.npy", faces_of(strangers, 4).astype(np.float32))
    look = tmp_path / "look"
    status, text, _ = run(
        inspect_records.main, pack, "--report", look / "index.html", "--embeddings", tmp_path / "pack.npy",
        "--against", tmp_path / "eval.bin", "--against-embeddings", tmp_path / "eval.npy",
    )  # fmt: skip
    assert status == 0 and "near duplicates:" in text and "1 pair:" in text
    page = (look / "index.html").read_text()
    for heading in (
        "Distributions",
        "Near duplicates",
        "Likely mislabelled",
        "Likely one person",
        "Overlap",
        "At random",
    ):
        assert f">{heading}</h2>" in page
    assert page.count("data:image/png;base64,") >= 9 and "120 of 120 images measured" in page
    with pytest.MonkeyPatch.context() as patch:  # of a large pack some images are looked at
        patch.setattr(inspect_records, "MAX_MEASURED", 60)
        few = run(inspect_records.main, pack, "--report", tmp_path / "few" / "index.html")[1]
        among = "among 60 of 120 images (--check looks among all)"
        assert f"0 pairs {among}" in few or f"1 pair {among}" in few
        assert all(f" {among}" in (tmp_path / "few" / name).read_text() for name in ("index.html", "duplicates.tsv"))
        assert among not in run(inspect_records.main, pack, "--lists", tmp_path / "all", "--check")[1]
    rows = {
        name: [line.split("\t") for line in (look / f"{name}.tsv").read_text().splitlines() if line[0] != "#"]
        for name in ("duplicates", "outliers", "merge", "overlap")
    }
    assert [row[:3] for row in rows["duplicates"]] == [["drop", "41", "31"]]  # keys are numbers and one
    assert rows["outliers"][0][:3] == ["drop", "10", "1"] and rows["outliers"][0][4] == "7"
    assert [row[:3] for row in rows["merge"]] == [["merge", "18", "19"]]
    assert rows["overlap"][0][:3] == ["drop-identity", "4", "2"] and rows["overlap"][0][4] == "0,1"

    before = {file.name: file.read_bytes() for file in pack.iterdir()}
    (look / "outliers.tsv").write_text("# looked at\ndrop\t10\tnot Ada\n")
    lists = [look / f"{name}.tsv" for name in rows]
    status, text, _ = run(clean_records.main, pack, tmp_path / "clean", "--apply", *lists)
    assert status == 0 and "112 images of 18 identities; 8 images dropped, 1 identity merged" in text
    clean, old = open_record_pack(tmp_path / "clean"), open_record_pack(pack)
    kept = [i for i in range(120) if i not in (9, 40) and i // 6 != 4]
    expected = [(i, 18 if i // 6 == 19 else i // 6) for i in kept]
    numbers = {label: number for number, label in enumerate(sorted({label for _, label in expected}))}
    assert [clean.read_image(n) for n in range(clean.num_images)] == [
        (old.read_image(i)[0], numbers[label]) for i, label in expected
    ]
    assert {file.name: file.read_bytes() for file in pack.iterdir()} == before
    report = json.loads((tmp_path / "clean" / "clean_report.json").read_text())
    assert report["old_label_of"] == sorted(numbers)
    assert (tmp_path / "clean" / "train.lst").read_text().startswith("1\tp00/000.jpg\t0\n")

    # In the cleaned pack, the same keys and labels are others.
    status, _, err = run(clean_records.main, tmp_path / "clean", tmp_path / "twice", "--apply", look / "merge.tsv")
    assert status == 2 and "merge.tsv: was made for another pack (120 images, keys and labels" in err
    assert f"than {tmp_path / 'clean'} (112 images" in err and not (tmp_path / "twice").exists()
    shutil.copytree(pack, tmp_path / "copy")
    assert run(clean_records.main, tmp_path / "copy", tmp_path / "of_copy", "--apply", look / "merge.tsv")[0] == 0


def test_cleaning_refuses_what_does_not_belong(faulty: tuple[Path, np.ndarray], tmp_path: Path, run: Run) -> None:
    pack, _ = faulty
    lst = tmp_path / "list.tsv"
    for text, message in (
        ("drop\t999\n", "1 key of the lists is no image"),
        ("merge\t1\t50\n", "labels up to 19 only"),
        ("".join(f"drop-identity\t{label}\n" for label in range(20)), "leave no image"),
        ("drop 5\n", "line 1: 'drop 5'"),
        ("remove\t5\n", "line 1"),
        ("merge\t5\n", "line 1"),
    ):
        lst.write_text(text)
        status, _, err = run(clean_records.main, pack, tmp_path / "clean", "--apply", lst)
        assert status == 2 and message in err, err
        assert not (tmp_path / "clean" / "train.rec").exists()
    lst.write_text("drop\t5\n")
    status, _, err = run(clean_records.main, pack, pack, "--apply", lst, "--force")
    assert status == 2 and "never touched" in err
    with pytest.raises(DataError):
        read_clean_lists([_write(tmp_path / "x.tsv", "drop\t-1\n")])


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--embeddings", "x.npy"), "need --report"),
        (("--report", "x.html", "--against", "y.bin"), "--against needs"),
        (("--report", "x.html", "--model", "a", "--embeddings", "b"), "one of the two"),
        (("--output", "page.html"), "page.html: the sample is drawn as a PNG, so name a .png file"),
    ],
)
def test_unclear_questions_are_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        inspect_records.main(["pack", *arguments])
    assert message in capsys.readouterr().err


def test_a_model_finds_a_wrong_label_and_a_person_of_the_evaluation_beside_an_image_that_does_not_decode(
    tmp_path: Path, run: Run
) -> None:
    def photo(person: int, number: int) -> bytes:
        noise = np.random.default_rng(1000 * person + number).normal(0, 20, (112, 112, 3))
        return cv2.imencode(".jpg", np.clip(picture(person) + noise, 0, 255).astype(np.uint8))[1].tobytes()

    faces = tmp_path / "faces"
    for label in range(8):
        (faces / f"p{label}").mkdir(parents=True)
        for number in range(5):
            shown = 6 if (label, number) == (2, 1) else label
            (faces / f"p{label}" / f"{number}.jpg").write_bytes(photo(shown, number))
    assert run(pack_records.main, faces, tmp_path / "pack")[0] == 0
    rec = bytearray((tmp_path / "pack" / "train.rec").read_bytes())
    start = rec.find(b"\xff\xd8", len(rec) // 2)
    rec[start + 2 : start + 60] = bytes(58)
    (tmp_path / "pack" / "train.rec").write_bytes(rec)
    guests = [photo(person, 9) for person in (100, 101, 3, 3, 102, 103)]
    write_pair_pack(tmp_path / "eval.bin", guests, [False, True, False])
    write_pooling_model(tmp_path / "model.onnx", 112, tile=14)
    status, text, _ = run(
        inspect_records.main, tmp_path / "pack", "--lists", tmp_path / "lists", "--model", tmp_path / "model.onnx",
        "--against", tmp_path / "eval.bin",
    )  # fmt: skip
    assert status == 0 and "1 of 40 images looked at is unusable" in text
    assert (tmp_path / "lists" / "outliers.tsv").read_text().splitlines()[-1].split("\t")[:3] == ["drop", "12", "2"]
    rows = [line for line in (tmp_path / "lists" / "overlap.tsv").read_text().splitlines() if line[0] != "#"]
    overlap = rows[0].split("\t")
    assert overlap[:3] == ["drop-identity", "3", "2"] and overlap[4] == "2,3"
    # With embeddings made elsewhere there is nothing to embed the evaluation with.
    np.save(tmp_path / "pack.npy", faces_of(np.repeat(np.arange(8), 5), 0))
    status, _, err = run(
        inspect_records.main, tmp_path / "pack", "--lists", tmp_path / "lists", "--embeddings", tmp_path / "pack.npy",
        "--against", tmp_path / "eval.bin",
    )  # fmt: skip
    assert status == 2 and "--against needs --model, or --against-embeddings beside --embeddings" in err


def test_without_one_clear_identity_the_limit_for_strangers_is_asked_for() -> None:
    labels = np.repeat(np.arange(2), 4)
    found = find_centres(np.tile(faces_of(np.zeros(1, np.int64), 0), (8, 1)), labels)  # two labels of one person
    with pytest.raises(DataError, match=r"no identity is clear enough .* give the limit by hand"):
        find_overlap(found, faces_of(labels, 1))
    assert len(find_overlap(found, faces_of(np.zeros(3, np.int64), 1), 0.5)[0]) == 1


def test_embeddings_of_another_length_are_refused(faulty: tuple[Path, np.ndarray], tmp_path: Path, run: Run) -> None:
    pack, _ = faulty
    np.save(tmp_path / "short.npy", np.zeros((5, 8), np.float32))
    status, _, err = run(inspect_records.main, pack, "--lists", tmp_path / "l", "--embeddings", tmp_path / "short.npy")
    assert status == 2 and "short.npy: holds float32 (5, 8); expected floats (120, E)" in err
    (tmp_path / "text.npy").write_text("no array")
    status, _, err = run(inspect_records.main, pack, "--lists", tmp_path / "l", "--embeddings", tmp_path / "text.npy")
    assert status == 2 and "text.npy" in err
    huge = faces_of(np.arange(120), 0)
    huge[[4, 8]] = 1e300
    np.save(tmp_path / "huge.npy", huge)
    status, _, err = run(inspect_records.main, pack, "--lists", tmp_path / "l", "--embeddings", tmp_path / "huge.npy")
    assert status == 2 and "huge.npy: the embeddings of 2 images are not finite, first row 4" in err
