"""`facekd compare`, run as a user runs it, on painted faces and crops, with thresholds that an evaluation measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation import evaluate_folder
from facekd.embedder import open_embedder
from facekd.faces import FaceFinder, FaceRules, compare_faces, open_detector
from facekd.files.reading import sha256_of_file
from facekd.images.decoding import decode_rgb
from facekd.images.preprocessing import mirror
from tests.measured_results import folder_result, write_result
from tests.painted_faces import paint
from tests.pooling_model import write_pooling_model

Run = Callable[..., tuple[int, str, str]]
SIZE = 32
CROPS = ("a.png", "b.png", "--model", "m.onnx")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scrfd: Path) -> Path:
    """Two crops, photographs with one face, two and none, a model and a detector."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for name in "ab":
        cv2.imwrite(f"{name}.png", generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    for name, faces in {"one": 1, "two": 2, "none": 0}.items():
        image = paint((3, 4, 255, 0), (11, 10, 204, 255)) if faces == 2 else paint(*[(3, 4, 255, 0)] * faces)
        image[..., 1] = (np.arange(128) * 2)[:, None]
        cv2.imwrite(f"{name}.png", image[..., ::-1])
    write_pooling_model(tmp_path / "m.onnx", SIZE, 8)
    (tmp_path / "d.onnx").symlink_to(scrfd)
    return tmp_path


def cosine_of_crops(flip: bool = False) -> float:
    embedder = open_embedder("m.onnx")
    images = np.stack([decode_rgb(Path(f"{name}.png").read_bytes()) for name in "ab"])
    first, second = (embedder.embed(images) + (embedder.embed(mirror(images)) if flip else 0)).astype(float)
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def thresholds(path: str, cosine: float, flip: bool = False) -> Path:
    """Results of scores around a cosine: ten impostor pairs, of which two have it or more; one a FAR of 0.1 accepts."""
    model = {"path": "m.onnx", "sha256": sha256_of_file("m.onnx"), "fingerprint": open_embedder("m.onnx").fingerprint}
    model["preprocessing"] = asdict(open_embedder("m.onnx").preprocessing)  # pyright: ignore[reportArgumentType]
    impostor = cosine + np.array([0.01, 0.001, *(-0.01 * np.arange(1, 9))])
    return write_result(Path(path), folder_result(cosine + np.array([0.02, -0.02]), impostor, (0.5, 0.1), model, flip))


def test_without_a_threshold_there_is_a_cosine_and_no_decision(here: Path, run: Run) -> None:
    status, text, error = run(compare_faces.main, *CROPS, "--output", "c.json")
    found = json.loads((here / "c.json").read_text())
    assert status == 0 and text.splitlines() == [f"cosine {cosine_of_crops():.6f}", "written to c.json"]
    assert "a threshold to say, which an evaluation measures: `facekd evaluate folder --model m.onnx" in error
    assert "flip" not in error  # thresholds of either kind are taken as they are
    [pair] = found["pairs"]
    assert pair["cosine"] == pytest.approx(cosine_of_crops(), abs=1e-9)
    assert pair["same"] is None and pair["far"] is None and found["decision"] is None
    assert found["first"] == {
        "image": "a.png",
        "num_faces": 1,
        "faces": [{"box": None, "landmarks": None, "score": None}],
    }
    assert found["model"]["fingerprint"] == open_embedder("m.onnx").fingerprint and found["detector"] is None


@pytest.mark.parametrize("flip", [False, True])
def test_a_measured_threshold_decides_and_says_what_it_accepts(here: Path, run: Run, flip: bool) -> None:
    cosine = cosine_of_crops(flip)
    thresholds("r/results.json", cosine, flip)
    for far, words in [(0.5, "one person, at or above"), (0.1, "two people, below")]:
        options = ("--thresholds", "r", "--far", far, "--output", "c.json")
        status, text, _ = run(compare_faces.main, *CROPS, *options)
        assert status == 0 and f"cosine {cosine:.6f}\ntaken for {words} the threshold\n" in text
        # Two of ten impostor pairs reach the cosine: between the one and the five that the thresholds accept.
        assert "10 % to 50 % of impostor pairs and at least 50 % of genuine pairs reach this cosine" in text
        found = json.loads((here / "c.json").read_text())
        assert found["flip"] is flip and found["pairs"][0]["same"] is (far == 0.5)
        assert found["pairs"][0]["far"] == [0.1, 0.5] and found["decision"]["point"]["far"] == far
    assert "that of FAR 0.1 in r/results.json (people)" in text
    assert "it accepted 1 of 10 impostor pairs there, 10 % (95 % interval" in text


def test_the_rates_are_those_that_an_evaluation_counts(here: Path, run: Run) -> None:
    generator = np.random.default_rng(1)
    for person in range(4):
        (here / "people" / str(person)).mkdir(parents=True)
        face = generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        for number in range(3):
            noise = generator.integers(0, 120, face.shape, np.uint8)
            cv2.imwrite(f"people/{person}/{number}.png", cv2.addWeighted(face, 0.5, noise, 0.5, 0))
    options = ("--model", "m.onnx", "--images", "people", "--no-report", "--bootstrap", 0, "--fars", "0.5,0.1,0.05")
    assert run(evaluate_folder.main, *options, "--output", "r")[0] == 0
    threshold = json.loads((here / "r" / "results.json").read_text())["tar_at_far"][1]["threshold"]
    genuine, impostor = [], []
    for one in range(12):
        for other in range(one):
            names = [f"people/{image // 3}/{image % 3}.png" for image in (one, other)]
            words = (*names, "--model", "m.onnx", "--thresholds", "r", "--far", 0.1, "--output", "c.json")
            if one in (0, 1, 5, 11):
                assert run(compare_faces.main, *words)[0] == 0
                pair = json.loads((here / "c.json").read_text())["pairs"][0]
                assert pair["same"] is (pair["cosine"] >= threshold)
                (genuine if one // 3 == other // 3 else impostor).append(pair)
    # With curves.npz beside the results, every pair of the evaluation is between two neighbours of its own.
    assert genuine and all(pair["far"][1] - pair["far"][0] <= 2 / 54 for pair in [*genuine, *impostor])


def test_of_several_faces_one_is_taken_or_all_are_compared(here: Path, run: Run) -> None:
    photos = ("one.png", "two.png", "--model", "m.onnx", "--detector", "d.onnx", "--detector-size", 128)
    status, text, _ = run(compare_faces.main, *photos, "--output", "largest.json")
    assert status == 0 and "two.png: shows 2 faces; compared: the largest, --faces all takes each\ncosine" in text
    status, text, _ = run(compare_faces.main, *photos, "--faces", "all", "--threshold", 0.99, "--output", "all.json")
    assert status == 0 and "two.png: shows 2 faces; compared: 2\n" in text
    head, row = text.splitlines()[1:3]
    assert head.split() == ["two.png", "[8,16", "40,48]", "two.png", "[56,48", "120,112]"]
    found, largest = (json.loads((here / f"{name}.json").read_text()) for name in ("all", "largest"))
    finder = FaceFinder(SIZE, open_detector(Path("d.onnx")), FaceRules("all", detector_size=128))
    faces = [face.crop for name in ("one.png", "two.png") for face in finder.find(name).faces]
    rows = open_embedder("m.onnx").embed(np.stack(faces)).astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert [pair["cosine"] for pair in found["pairs"]] == pytest.approx((rows[0] @ rows[1:].T).tolist(), abs=1e-6)
    assert any(abs(pair["cosine"] - largest["pairs"][0]["cosine"]) < 1e-12 for pair in found["pairs"])
    cells = [f"{rows[0] @ other:.4f} {'one person' if rows[0] @ other >= 0.99 else 'different'}" for other in rows[1:]]
    assert row.split() == ["one.png", *" ".join(cells).split()]
    assert found["detector"]["sha256"] == sha256_of_file("d.onnx") and len(found["second"]["faces"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.png none.png --detector d.onnx", "none.png: no face found"),
        ("one.png one.png --detector d.onnx --detector-size 128 --min-face 60", "one.png: only faces smaller than"),
        (
            "a.png one.png",
            "one.png: of another size than the model takes: is 128x128 pixels, expected 32x32; photographs",
        ),
        ("a.png gone.png", "gone.png: no such file; expected an image"),
        ("a.png .", ".: is a folder; `facekd search` takes many images; expected an image"),
        ("a.png m.onnx", "m.onnx: cannot be read or decoded"),
        ("a.png b.png --thresholds r --far 0.1 --mean 9 --std 9", r"the same file \(m.onnx\), but otherwise \(mean"),
        (
            "a.png b.png --thresholds r --far 0.1 --flip",
            "without those of the mirror images, and these faces are with them",
        ),
        ("a.png b.png --thresholds r", r"no threshold for FAR 0.001; --far takes what it has: 0.5, 0.1"),
        ("a.png b.png --far 0.1", "--far chooses among measured thresholds: it needs --thresholds"),
        ("a.png b.png --thresholds r --threshold 0.1 --far 0.1", "it contradicts --threshold"),
        (
            "a.png b.png --output r/results.json",
            "r/results.json: is there already, and not from `facekd compare`; choose",
        ),
        ("a.png b.png --output a.png", "a.png is a source itself"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(here: Path, run: Run, words: str, message: str) -> None:
    thresholds("r/results.json", 0.5)
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    status, text, error = run(compare_faces.main, *words.split(), "--model", "m.onnx")
    errors = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and not text and len(errors) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(errors[0])
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
