"""`facekd search`, run as a user runs it, on painted faces, crops and galleries, against a loop over all pairs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facekd.faces import Gallery, embed_faces, read_gallery, search_faces, write_gallery
from tests.measured_results import folder_result, write_result
from tests.painted_faces import paint
from tests.pooling_model import write_pooling_model

Run = Callable[..., tuple[int, str, str]]
SIZE = 32
MODEL = ("--model", "m.onnx", "--batch-size", 2)
ON_PHOTOS = (*MODEL, "--detector", "d.onnx", "--detector-size", 128)
PEOPLE = ("Ada", "Bob", "Cy")


def image_of(person: int, number: int) -> np.ndarray:
    """An aligned crop: the tiles that the person has, and a little noise."""
    tiles = np.random.default_rng(person).integers(60, 200, (4, 4, 3))
    noise = np.random.default_rng(100 * person + number).integers(-20, 20, (SIZE, SIZE, 3))
    return (tiles.repeat(8, 0).repeat(8, 1) + noise).astype(np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scrfd: Path, run: Run) -> Path:
    """A gallery of crops of three people, crops of two of them and of a stranger, a model and a detector."""
    monkeypatch.chdir(tmp_path)
    for person, name in enumerate(PEOPLE):
        for number in range(3):
            path = tmp_path / ("known" if number else "asked") / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image_of(person, number)[..., ::-1])
    shutil.rmtree("known/Cy")
    cv2.imwrite("known/loose.png", image_of(7, 0)[..., ::-1])
    write_pooling_model(tmp_path / "m.onnx", SIZE, 8)
    (tmp_path / "d.onnx").symlink_to(scrfd)
    assert run(embed_faces.main, "known", *MODEL, "--output", "faces.npz")[0] == 0
    return tmp_path


def unit_rows(gallery: Gallery) -> np.ndarray:
    rows = gallery.embeddings.astype(float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def found_in(path: str = "s.json") -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def test_a_gallery_whose_archive_is_damaged_is_named(here: Path, run: Run) -> None:
    content = bytearray(Path("faces.npz").read_bytes())
    content[content.index(b"PK\1\2") + 6] = 99  # the version of zip that a member needs
    Path("damaged.npz").write_bytes(content)
    status, _, error = run(search_faces.main, "damaged.npz", "--gallery", "faces.npz")
    assert status == 2 and error.startswith("error: damaged.npz: ") and error.count("\n") == 1


def test_the_matches_are_those_of_a_loop_and_one_for_each_person(here: Path, run: Run) -> None:
    status, text, error = run(search_faces.main, "asked", "--gallery", "faces.npz", *MODEL, "--output", "s.json")
    assert status == 0 and "3 faces searched for among 5 of 2 people in faces.npz" in text
    assert "a threshold to say" in error and "--images PEOPLE --no-flip --output" in error  # as the gallery is
    # The oracle: the probes' own embeddings, as `facekd embed` makes them.
    assert run(embed_faces.main, "asked", *MODEL, "--output", "asked.npz")[0] == 0
    gallery, probes = read_gallery("faces.npz"), read_gallery("asked.npz")
    cosines = unit_rows(probes) @ unit_rows(gallery).T
    for one, row in zip(found_in()["probes"], cosines, strict=True):
        order = np.argsort(-row)
        best = [int(next(face for face in order if gallery.people[face] == name)) for name in ("Ada", "Bob", "")]
        expected = sorted(best, key=lambda face: -row[face])
        assert [match["row"] for match in one["matches"]] == expected
        assert [match["cosine"] for match in one["matches"]] == pytest.approx(row[expected], abs=1e-9)
        assert [match["image"] for match in one["matches"]] == gallery.names[expected].tolist()
        assert {match["accepted"] for match in one["matches"]} == {None}
    # A gallery of the same probes gives the same, without a model; by faces, a person may come twice.
    words = ("asked.npz", "--gallery", "faces.npz", "--output", "t.json", "--page", "t.html")
    assert run(search_faces.main, *words)[0] == 0 and "--images PEOPLE --no-flip " in Path("t.html").read_text()
    assert found_in("t.json")["probes"] == found_in()["probes"] and found_in("t.json")["model"] is None
    words = ("asked.npz", "--gallery", "faces.npz", "--best-of", "face", "--top", 2, "--output", "f.json")
    assert run(search_faces.main, *words)[0] == 0
    assert [[match["person"] for match in one["matches"]] for one in found_in("f.json")["probes"]][:2] == [
        ["Ada", "Ada"],
        ["Bob", "Bob"],
    ]


def test_a_threshold_rejects_strangers_and_says_how_many_it_would_not(here: Path, run: Run) -> None:
    origin = read_gallery("faces.npz").origin
    model = {"path": "m.onnx", "fingerprint": origin.fingerprint}
    scores = np.array([0.9995, 0.9]), np.linspace(0, 0.999, 100)
    write_result(Path("r/results.json"), folder_result(*scores, (0.01,), model, flip=False))
    words = ("asked", "--gallery", "faces.npz", *MODEL, "--far", 0.01, "--top", 1, "--thresholds")
    status, text, _ = run(search_faces.main, *words, "r", "--output", "s.csv")
    assert status == 0 and "2 found; for 1 nobody reaches the threshold" in text
    # One impostor of a hundred is accepted, and each probe is compared with five faces.
    assert f"taken for somebody in {100 * (1 - 0.99**5):.3g} % (95 % interval" in text
    with (here / "s.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["person"], row["accepted"]) for row in rows[:2]] == [("Ada", "true"), ("Bob", "true")]
    assert rows[2]["accepted"] == "false" and rows[2]["probe"] == "asked/Cy/0.png" and rows[2]["left"] == ""
    for path, change in {"other": {"fingerprint": "x"}, "flip": {}}.items():
        result = folder_result(*scores, (0.01,), {**model, **change}, flip=path == "flip")
        write_result(Path(path, "results.json"), result)
        status, _, error = run(search_faces.main, *words, path)
        message = (
            "with another model (m.onnx), or other options, than"
            if path == "other"
            else "are without them; evaluate again"
        )
        assert status == 2 and message in error and "faces of faces.npz" in error


def test_photographs_are_searched_for_face_by_face_and_those_without_are_named(here: Path, run: Run) -> None:
    one, two = (3, 4, 255, 0), (11, 10, 204, 255)
    for name, faces in {"both.png": (one, two), "none.png": ()}.items():
        image = paint(*faces)
        image[..., 1] = (np.arange(128) * 2)[:, None]
        cv2.imwrite(name, image[..., ::-1])
    words = ("both.png", "none.png", "--gallery", "faces.npz", *ON_PHOTOS, "--faces", "all")
    status, text, error = run(search_faces.main, *words, "--output", "s.json", "--page", "s.html")
    assert status == 0 and "warning: none.png: no face found" in error
    assert "both.png [8,16 40,48]" in text and "both.png [56,48 120,112]" in text and "several faces" not in error
    found = found_in()
    assert [probe["box"] is not None for probe in found["probes"]] == [True, True]
    assert found["without_face"] == [{"image": "none.png", "reason": "no_face", "detail": None}]
    assert "1 image without a face" in (here / "s.html").read_text()
    status, text, error = run(search_faces.main, "both.png", "--gallery", "faces.npz", *ON_PHOTOS)
    assert status == 0 and "1 face searched for" in text
    assert "several faces on 1 image, the first both.png; of each the largest was searched for, --faces all" in error


def test_a_page_shows_the_faces_that_are_still_there(here: Path, run: Run) -> None:
    words = ("asked", "--gallery", "faces.npz", *MODEL, "--threshold", 0.999, "--top", 2)
    (here / "known" / "Bob" / "1.png").unlink()
    (here / "known" / "Bob" / "2.png").write_bytes(b"no image")
    assert run(search_faces.main, *words, "--page", "s.html", "--output", "s.json")[0] == 0
    page = (here / "s.html").read_text()
    num_gone = sum(match["person"] == "Bob" for probe in found_in()["probes"] for match in probe["matches"])
    assert num_gone and page.count("image not found") == num_gone
    assert page.count('src="data:image/jpeg;base64,') == 3 + 6 - num_gone
    assert page.count('class="accepted"') == page.count("<span>accepted</span>") == 2
    assert page.count('class="rejected"') == page.count("<span>below the threshold</span>") == 4
    # The same command replaces its own files, of whichever kind, and no file of anybody else.
    assert run(search_faces.main, *words, "--page", "s.html", "--output", "s.csv")[0] == 0
    assert run(search_faces.main, *words, "--page", "s.csv", "--output", "s.json")[0] == 0
    for name in ("other.html", "other.json"):
        (here / name).write_text("<!doctype html>")
        status, _, error = run(search_faces.main, *words, "--page" if "html" in name else "--output", name)
        assert status == 2 and f"{name}: is there already, and not from `facekd search`; choose" in error
        assert (here / name).read_text() == "<!doctype html>"


def test_a_page_shows_no_image_that_only_a_gallery_names_elsewhere(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    shutil.copy("known/loose.png", elsewhere / "private.png")
    shutil.copy("asked/Ada/0.png", elsewhere / "who.png")
    own = here / "own"
    own.mkdir()
    shutil.copy("m.onnx", own)
    monkeypatch.chdir(own)
    # A gallery of images elsewhere, and a photograph elsewhere that the user names.
    assert run(embed_faces.main, elsewhere / "private.png", *MODEL, "--output", "theirs.npz")[0] == 0
    words = (elsewhere / "who.png", "theirs.npz", "--gallery", "theirs.npz", *MODEL, "--page", "s.html")
    status, _, error = run(search_faces.main, *words)
    page = Path("s.html").read_text()
    said = "1 image is not shown, because a gallery may name any file and this one lies neither below its folder nor"
    assert status == 0 and said in page and f"note: {said}" in error and f"such as {elsewhere}/private.png" in error
    assert page.count('src="data:image/jpeg;base64,') == 1 and page.count("image not opened") == 3
    # The user trusts it.
    assert run(search_faces.main, *words, "--images-root", elsewhere)[0] == 0
    page = Path("s.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 4 and "not shown" not in page
    # A gallery beside its images.
    shutil.copy("theirs.npz", elsewhere)
    where = elsewhere / "theirs.npz"
    assert "not shown" not in run(search_faces.main, where, "--gallery", where, "--page", "s.html")[2]
    status, _, error = run(search_faces.main, *words[:-2], "--images-root", elsewhere)
    assert status == 2 and "--images-root says which images the page may show: give --page FILE, too" in error
    status, _, error = run(search_faces.main, *words, "--images-root", "gone")
    assert status == 2 and "gone: no such folder; --images-root takes one" in error


def test_faces_of_photographs_and_of_record_packs_are_cut_out_again(
    here: Path, run: Run, write_records: Callable[..., Path]
) -> None:
    image = paint((3, 4, 255, 0))
    cv2.imwrite("photo.png", image[..., ::-1])
    assert (
        run(
            embed_faces.main, write_records(here / "records", [(4, 3, 1)]) / "train.rec", *MODEL, "--output", "rec.npz"
        )[0]
        == 0
    )
    assert run(embed_faces.main, "photo.png", *ON_PHOTOS, "--output", "photo.npz")[0] == 0
    assert run(search_faces.main, "photo.npz", "--gallery", "rec.npz", "--page", "s.html")[0] == 0
    page = (here / "s.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 2 and "image not found" not in page
    assert "train.rec#4" in page


def write_variant(path: str, **changes: Any) -> None:
    gallery = read_gallery("faces.npz")
    write_gallery(path, replace(gallery, origin=replace(gallery.origin, **changes)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("other.npz --gallery faces.npz", "other.npz and faces.npz: were made by two models"),
        (
            "flipped.npz --gallery faces.npz",
            "flipped.npz: has embeddings with those of the mirror images, and",
        ),
        ("asked --gallery other.npz --model m.onnx", "other.npz: was made by another model"),
        ("asked --gallery faces.npz", "--model is needed to embed the probes"),
        ("asked --gallery m.onnx --model m.onnx", "m.onnx: cannot be read as a .npz"),
        ("asked --gallery gone.npz --model m.onnx", "gone.npz"),
        ("asked --gallery empty.npz --model m.onnx", "empty.npz: is no gallery, it lacks"),
        ("none.png --gallery faces.npz --model m.onnx", "none.png: of another size than the model takes, is 128x128"),
        (
            "none.png none2.png --gallery faces.npz --model m.onnx --detector d.onnx",
            "no face found, and 1 more image without",
        ),
        ("gone --gallery faces.npz --model m.onnx", "gone: no such file or folder"),
        ("faces.npz --gallery faces.npz --output s.txt", "s.txt: results are written as .json or .csv"),
        ("faces.npz --gallery faces.npz --page faces.npz", "faces.npz is a source itself"),
        ("asked --gallery faces.npz --model m.onnx --page asked/s.html", "asked/s.html lies in asked, which is read"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(here: Path, run: Run, words: str, message: str) -> None:
    write_variant("other.npz", fingerprint="x", model="o.onnx")
    write_variant("flipped.npz", flip=True)
    np.savez("empty.npz", embeddings=np.zeros((0, 4)))
    for name in ("none.png", "none2.png"):
        cv2.imwrite(name, paint())
    status, text, error = run(search_faces.main, *words.split())
    errors = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and not text and len(errors) == 1 and message in errors[0], error
    assert not any(file.endswith(("html", "txt", "lock")) for file in map(str, here.iterdir()))


@pytest.mark.slow  # a detector looks at 30 photographs
def test_photographs_of_real_people_find_their_people(
    tmp_path: Path, run: Run, real_data: Callable[[str], Path]
) -> None:
    model = ("--model", real_data("models/mobilefacenet_128_fixed_batch.onnx"), "--detector")
    model = (*model, real_data("models/scrfd_2.5g_bnkps.onnx"), "--mean", "123.675,116.28,103.53")
    model = (*model, "--std", "58.395,57.12,57.375", "--faces", "centre")
    people = sorted(real_data("photos").iterdir())
    for person in people:
        for number, photo in enumerate(sorted(person.iterdir())[:3]):
            copy = tmp_path / ("known" if number else "asked") / person.name / photo.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, copy)
    shutil.rmtree(tmp_path / "known" / people[0].name)
    assert run(embed_faces.main, tmp_path / "known", *model, "--output", tmp_path / "faces.npz")[0] == 0
    words = (tmp_path / "asked", "--gallery", tmp_path / "faces.npz", *model, "--threshold", 0.35)
    assert run(search_faces.main, *words, "--output", tmp_path / "s.json")[0] == 0
    probes = found_in(str(tmp_path / "s.json"))["probes"]
    best = [(probe["person"], probe["matches"][0]) for probe in probes]
    assert len(best) == 10 and not best[0][1]["accepted"]
    assert [person for person, match in best[1:] if not match["accepted"] or match["person"] != person] == []


def test_more_matches_than_people_are_no_error(here: Path, run: Run) -> None:
    status, text, _ = run(search_faces.main, "faces.npz", "--gallery", "faces.npz", "--top", 900, "--output", "s.json")
    assert status == 0 and "of each the nearest 3 people are listed" in text
    assert "5 probes are from images of the gallery, and find themselves there" in text
    assert [probe["matches"][0]["cosine"] for probe in found_in()["probes"]] == [1.0] * 5
