"""`facekd embed`, run as a user runs it, on painted faces, a generated detector and a network without weights."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.embedder import open_embedder
from facekd.errors import run_verb
from facekd.faces import Gallery, embed_faces, read_gallery
from facekd.faces.finding import FaceFinder
from facekd.files import resumable_file
from facekd.images.alignment import align
from facekd.images.preprocessing import mirror
from tests.painted_faces import PAINTED, paint
from tests.pooling_model import write_pooling_model

Run = Callable[..., tuple[int, str, str]]
SIZE = 32
ONE, LARGE, UNSURE = (3, 4, 255, 0), (11, 10, 204, 255), (3, 4, 51, 0)


def waves(*faces: tuple[int, int, int, int]) -> np.ndarray:
    image = paint(*faces)
    image[..., 1] = (np.arange(128) * 2)[:, None]
    return image


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scrfd: Path) -> Path:
    """Photographs of two people, aligned crops of others, a model and a detector."""
    monkeypatch.chdir(tmp_path)
    people = {"Ada/1.png": (ONE,), "Ada/2.png": (ONE, LARGE), "Bob/1.png": (LARGE,)}
    photos = {**people, "Bob/none.png": (), "odd.png": (UNSURE,)}
    for name, faces in photos.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), waves(*faces)[..., ::-1])
    (tmp_path / "photos" / "Bob" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    generator = np.random.default_rng(0)
    (tmp_path / "crops").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / "crops" / f"{number}.png"), generator.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    write_pooling_model(tmp_path / "m.onnx", SIZE, 8)
    (tmp_path / "d.onnx").symlink_to(scrfd)
    return tmp_path


ON_PHOTOS = ("photos", "--model", "m.onnx", "--detector", "d.onnx", "--detector-size", 128, "--batch-size", 2)
ON_CROPS = ("crops", "--model", "m.onnx", "--batch-size", 2)


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def test_photographs_become_a_gallery_and_a_report(here: Path, run: Run) -> None:
    status, text, _ = run(embed_faces.main, *ON_PHOTOS, "--faces", "all", "--output", "out/faces.npz")
    assert status == 0
    found = read_gallery(here / "out" / "faces.npz")
    names = ["photos/Ada/1.png", "photos/Ada/2.png", "photos/Ada/2.png", "photos/Bob/1.png"]
    assert found.names.tolist() == names and found.people.tolist() == ["Ada", "Ada", "Ada", "Bob"]
    centres = np.array([[24, 32], [24, 32], [88, 80], [88, 80]])
    np.testing.assert_allclose(found.landmarks, centres[:, None] + PAINTED, atol=0.1)
    crops = [
        align(waves(*faces), landmarks, SIZE)
        for faces, landmarks in zip([(ONE,), (ONE, LARGE), (ONE, LARGE), (LARGE,)], found.landmarks, strict=True)
    ]
    embedder = open_embedder("m.onnx")
    expected = embedder.embed(np.stack(crops))
    np.testing.assert_allclose(found.embeddings, unit(expected), atol=1e-6)
    np.testing.assert_allclose(found.norms, np.linalg.norm(expected, axis=1), rtol=1e-6)
    assert found.origin.fingerprint == embedder.fingerprint
    assert found.origin.detector == "d.onnx" and not found.origin.flip
    assert (here / "out" / "faces.report.tsv").read_text().splitlines() == [
        "# image\twhat\tdetail",
        "photos/Ada/2.png\tseveral_faces\t2 faces, all taken",
        "photos/Bob/broken.jpg\tunreadable\tits JPEG is cut short: no end marker in 8 bytes",
        "photos/Bob/none.png\tno_face\tno face found",
        "photos/odd.png\tlow_confidence\tthe best face has score 0.201",
    ]
    lines = text.splitlines()
    assert lines[0].startswith("out/faces.npz: 4 faces of 6 images (")
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "people 2 by subfolder, label or list, on 5 images",
        "without 1 no face found",
        "without 1 only faces below --min-score",
        "without 1 cannot be read or decoded",
        "note 1 image shows several faces; all of them were taken",
        "listed in out/faces.report.tsv",
    ]
    assert sorted(path.name for path in (here / "out").iterdir()) == ["faces.npz", "faces.report.tsv"]


def test_crops_are_embedded_as_they_are_with_their_mirror_images(here: Path, run: Run) -> None:
    assert run(embed_faces.main, *ON_CROPS, "--flip", "--output", "f.npz")[0] == 0
    found = read_gallery(here / "f.npz")
    images = np.stack([cv2.imread(f"crops/{number}.png", cv2.IMREAD_COLOR_RGB) for number in range(5)])
    embedder = open_embedder("m.onnx")
    expected = unit(embedder.embed(images) + embedder.embed(mirror(images)))
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)
    assert np.isnan(found.boxes).all() and np.isnan(found.scores).all() and not found.people.any()
    assert found.origin.flip and found.origin.detector is None


def test_paths_come_from_standard_input(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "list").write_text("crops/3.png\nabsent.png\ncrops/1.png\n")
    with (here / "list").open() as stream:
        kept = os.dup(0)
        os.dup2(stream.fileno(), 0)
        try:
            assert run(embed_faces.main, "-", *ON_CROPS[1:], "--output", "f.npz")[0] == 0
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert read_gallery(here / "f.npz").names.tolist() == ["crops/3.png", "crops/1.png"]
    assert "absent.png\tunreadable\tno such image" in (here / "f.report.tsv").read_text()


def test_a_stopped_run_goes_on(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_file, "CHECKPOINT_SECONDS", 0.0)
    arguments = (*ON_PHOTOS, "--workers", 1, "--faces", "all", "--output")
    assert run(embed_faces.main, *arguments, "whole.npz")[0] == 0
    original, seen = FaceFinder.find, list[str]()

    def fail_at(place: str) -> Callable[[FaceFinder, str], object]:
        def find(self: FaceFinder, image: str) -> object:
            seen.append(image)
            if image == place:
                raise OSError(5, "Input/output error", image)
            return original(self, image)

        return find

    monkeypatch.setattr(FaceFinder, "find", fail_at("photos/Bob/none.png"))
    status, _, error = run(embed_faces.main, *arguments, "f.npz")
    assert status == 2 and "4 images are embedded; run the same command again to go on" in error
    assert not (here / "f.npz").exists()
    seen.clear()
    monkeypatch.setattr(FaceFinder, "find", fail_at("nowhere"))
    status, _, error = run(embed_faces.main, *arguments, "f.npz")
    assert status == 0 and "f.npz: going on after 4 images embedded before" in error
    assert seen == ["photos/Bob/none.png", "photos/odd.png"]
    assert (here / "f.npz").read_bytes() == (here / "whole.npz").read_bytes()
    assert (here / "f.report.tsv").read_bytes() == (here / "whole.report.tsv").read_bytes()

    # Another choice of faces, or another photograph, is another job.
    monkeypatch.setattr(FaceFinder, "find", fail_at("photos/Bob/none.png"))
    assert run(embed_faces.main, *arguments, "g.npz")[0] == 2
    seen.clear()
    monkeypatch.setattr(FaceFinder, "find", fail_at("nowhere"))
    assert run(embed_faces.main, *ON_PHOTOS, "--workers", 1, "--output", "g.npz")[0] == 0
    assert len(seen) == 6 and len(read_gallery(here / "g.npz")) == 3
    assert not [path for path in here.iterdir() if path.name.startswith(".")]

    # What a stopped run has left allows no third one to replace the gallery that is there.
    before = (here / "g.npz").read_bytes()
    monkeypatch.setattr(FaceFinder, "find", fail_at("photos/Bob/none.png"))
    assert run(embed_faces.main, *arguments, "g.npz", "--force")[0] == 2
    monkeypatch.setattr(FaceFinder, "find", fail_at("nowhere"))
    status, _, error = run(embed_faces.main, *ON_PHOTOS, "--workers", 1, "--flip", "--output", "g.npz")
    assert status == 2 and "g.npz: is there already" in error and (here / "g.npz").read_bytes() == before
    assert "going on after 4 images" in run(embed_faces.main, *arguments, "g.npz", "--force")[2]

    # A photograph that was changed meanwhile is embedded again, with all others.
    monkeypatch.setattr(FaceFinder, "find", fail_at("photos/Bob/none.png"))
    assert run(embed_faces.main, *arguments, "h.npz")[0] == 2
    cv2.imwrite("photos/Ada/1.png", waves(LARGE)[..., ::-1])
    monkeypatch.setattr(FaceFinder, "find", fail_at("nowhere"))
    status, _, error = run(embed_faces.main, *arguments, "h.npz")
    assert status == 0 and "going on" not in error


@pytest.mark.parametrize(
    ("words", "output", "message"),
    [
        (ON_CROPS[1:], "f.npz", "give photographs, folders or packs to embed, or --list FILE"),
        (ON_CROPS, "f", "f: a gallery is a .npz file; give its name, such as --output faces.npz"),
        (ON_CROPS, "crops/f.npz", "crops/f.npz lies in crops, which is read"),
        (("--list", "f.report.tsv", *ON_CROPS[1:]), "f.npz", "f.report.tsv is a source itself"),
        (ON_CROPS, "there.npz", "there.npz: is there already; choose another name, or replace it by --force"),
        (("crops", "--model", "d.onnx"), "f.npz", "d.onnx: finds faces in photographs"),
        ((*ON_CROPS, "--detector", "m.onnx"), "f.npz", "m.onnx: is no face detector but returns one vector"),
        (("photos/Bob/none.png", *ON_PHOTOS[1:]), "f.npz", "no face in any of 1 image: 1 no face found. f.report.tsv"),
        (("photos", *ON_CROPS[1:]), "f.npz", "f.report.tsv says why, image by image; photographs need --detector"),
        (("m.onnx", *ON_CROPS[1:]), "f.npz", "m.onnx: is no image by its name"),
    ],
)
def test_what_cannot_be_embedded_is_said(
    here: Path, words: tuple, output: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "there.npz").touch()
    (here / "f.report.tsv").touch()
    try:
        status = run_verb(lambda: embed_faces.main([*map(str, words), "--output", output]))
    except SystemExit as stop:  # argparse's way to end
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err.splitlines()[-1]
    assert not (here / "f.npz").exists() and not list(here.glob(".*"))


def test_many_photographs_without_a_detector_end_soon(here: Path, run: Run) -> None:
    (here / "many").mkdir()
    for number in range(embed_faces.SIZES_TRIED + 50):
        (here / "many" / f"{number:03d}.png").hardlink_to(here / "photos" / "Ada" / "1.png")
    status, _, error = run(embed_faces.main, "many", *ON_CROPS[1:], "--output", "f.npz")
    assert status == 2
    expected = (
        r"none of the first 1\d\d images has the size that the model takes: many/000\.png is 128x128 pixels, expected "
        "32x32; photographs need --detector, and aligned crops of another size --resize"
    )
    assert re.search(expected, error)
    assert run(embed_faces.main, "many", *ON_CROPS[1:], "--resize", "--output", "f.npz")[0] == 0


def test_an_older_gallery_stays_where_there_is_no_face(here: Path, run: Run) -> None:
    (here / "f.npz").write_bytes(b"older")
    words = ("photos/Bob/none.png", *ON_PHOTOS[1:], "--force", "--output", "f.npz")
    assert run(embed_faces.main, *words)[0] == 2
    assert (here / "f.npz").read_bytes() == b"older"


def test_a_face_whose_embedding_is_zero_is_set_aside(here: Path, run: Run) -> None:
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    cv2.imwrite("crops/grey.png", grey)
    assert run(embed_faces.main, *ON_CROPS, "--mean", 128, "--std", 128, "--output", "f.npz")[0] == 0
    assert len(read_gallery("f.npz")) == 5
    assert "crops/grey.png\tno_direction\t" in (here / "f.report.tsv").read_text()


def test_real_people_are_told_apart(real_data: Callable[[str], Path], tmp_path: Path, run: Run) -> None:
    photos = real_data("photos")
    people = "Ariel_Sharon", "Hugo_Chavez"
    rows = [f"{path}\t{person}\n" for person in people for path in sorted((photos / person).iterdir())[:3]]
    (tmp_path / "list").write_text("".join(rows))
    model, detector = real_data("models/mobilefacenet_128_fixed_batch.onnx"), real_data("models/scrfd_2.5g_bnkps.onnx")
    words = ["--list", tmp_path / "list", "--model", model, "--detector", detector, "--detector-size", 320]
    words += ["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--batch-size", 1]
    status, *_ = run(embed_faces.main, *words, "--output", tmp_path / "f.npz")
    assert status == 0
    found: Gallery = read_gallery(tmp_path / "f.npz")
    cosines, same = found.embeddings @ found.embeddings.T, found.people[:, None] == found.people
    assert cosines[same].min() > 0.4 and cosines[~same].max() < 0.3
