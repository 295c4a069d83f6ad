"""`facekd evaluate folder`: all pairs and closed-set identification, against loops over images."""

from __future__ import annotations

import csv
import hashlib
import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data_prep.pack_records import main as pack
from evaluation.compare_models import main as report
from evaluation.evaluate_folder import main
from evaluation.results.page import FILES
from evaluation.sets.face_folder import FaceFolder
from facekd.errors import FacekdError
from facekd.faces.gallery import Gallery, Origin, write_gallery
from facekd.images.preprocessing import Preprocessing
from facekd.verification import equal_error_rate, tar_at_far
from tests.evaluation.conftest import SIZE, quarters


def face(person: int, number: int, noise: float = 25) -> np.ndarray:
    """A patchwork as in the packs of the other tests, PNG-exact: uint8 RGB."""
    colors = np.random.default_rng([7, person]).uniform(60, 195, (2, 2, 3))
    colors = colors + np.random.default_rng([8, person, number]).normal(0, noise, (2, 2, 3))
    return np.clip(np.kron(colors, np.ones((SIZE // 2, SIZE // 2, 1))), 0, 255).astype(np.uint8)


def write(folder: Path, name: str, image: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), image[:, :, ::-1])


def embedding(image: np.ndarray, flip: bool = True) -> np.ndarray:
    plain = quarters(image[None])[0].astype(np.float64)
    value = plain + quarters(image[None, :, ::-1])[0] if flip else plain
    return value / np.linalg.norm(value)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_link_to_itself_is_nobodys_folder(tmp_path: Path) -> None:
    write(tmp_path, "Ada/1.png", face(0, 0))
    write(tmp_path.with_name(f"{tmp_path.name} elsewhere"), "Bob/1.png", face(1, 0))
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "linked").symlink_to(f"../{tmp_path.name} elsewhere/Bob")
    faces = FaceFolder(tmp_path, SIZE)
    assert faces.files == ["Ada/1.png", "linked/1.png"]
    assert faces.warnings == ["left out: 1 file that is not an image (itself)"]
    (tmp_path / "again").symlink_to("Ada")
    with pytest.raises(FacekdError, match="are one folder, by a link, and would be two identities"):
        FaceFolder(tmp_path, SIZE)


def test_what_is_not_read_is_said(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for person in range(2):
        for number in range(2):
            write(tmp_path / "people", f"{person}/{number}.png", face(person, number))
    (tmp_path / "people" / "0" / "notes.txt").write_text("x")
    arguments = ["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    note = f"{tmp_path / 'people'}: left out: 1 file that is not an image (0/notes.txt)"
    assert results(tmp_path / "out")["notes"] == [note]
    assert f"warning: {note}" in capsys.readouterr().out


def test_all_pairs_are_those_of_two_loops(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = {person: 1 + person % 4 for person in range(14)}
    for person, count in people.items():
        for number in range(count):
            write(tmp_path / "people", f"person {person}/{number}.png", face(person, number))
    out = tmp_path / "out"
    assert main(["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(out)]) == 0
    images = [(person, embedding(face(person, number))) for person, count in people.items() for number in range(count)]
    pairs = list(combinations(images, 2))
    scores = np.array([a @ b for (_, a), (_, b) in pairs])
    is_same = np.array([a == b for (a, _), (b, _) in pairs])
    result = results(out)
    assert (result["num_images"], result["num_people"]) == (len(images), 14)
    assert (result["num_genuine"], result["num_impostor"]) == (is_same.sum(), (~is_same).sum())
    assert result["auc"] == pytest.approx(roc_auc_score(is_same, scores), abs=1e-6)
    assert result["eer"] == pytest.approx(equal_error_rate(scores[is_same], scores[~is_same]), abs=1e-6)
    for point, expected in zip(
        result["tar_at_far"], tar_at_far(scores[is_same], scores[~is_same], (1e-1, 1e-2)), strict=False
    ):
        assert point["tar"] == expected.tar and point["interval"] == "subject bootstrap"
    assert result["bootstrap"]["num_subjects"] == 14
    assert result["tar_at_far"][-1]["tar"] is None
    printed = capsys.readouterr().out
    assert "14 people" in printed and "not measurable" in printed
    assert (out / "report.md").read_text().splitlines()[0] == "# quarters.onnx on people"
    page = (out / "report.html").read_text()
    assert page.count("<img") == 2  # ROC and DET, histograms
    threshold = result["tar_at_far"][0]["threshold"]
    for value in (f"{threshold:.4f}", "14 people", f"AUC {result['auc']:.6f}"):
        assert value in page
    for name in FILES:
        (out / name).unlink()
    assert report([str(out)]) == 0
    assert (out / "report.html").read_text() == page


def test_a_pack_gives_what_its_folder_gives(tmp_path: Path, model: Path) -> None:
    for person in range(12):
        for number in range(3):
            write(tmp_path / "people", f"{person:02}/{number}.png", face(person, number))
    assert pack([str(tmp_path / "people"), str(tmp_path / "pack"), "--size", str(SIZE), "--workers", "1"]) == 0
    for name in ("people", "pack"):
        arguments = ["--model", str(model), "--images", str(tmp_path / name), "--output", str(tmp_path / f"{name} out")]
        assert main([*arguments, "--images-per-person", "2", "--bootstrap", "100"]) == 0
    folder, packed = results(tmp_path / "people out"), results(tmp_path / "pack out")
    for key in ("num_images", "num_people", "eer", "auc", "tar_at_far", "set_sha256", "bootstrap", "protocol"):
        assert packed[key] == folder[key], key
    assert packed["num_images"] == 24
    draws = [np.load(tmp_path / f"{name} out" / "draws.npz") for name in ("people", "pack")]
    assert all(np.array_equal(draws[0][key], draws[1][key]) for key in ("fars", "eer", "tar"))
    assert draws[0]["eer"].shape == (100,) and draws[0]["tar"].shape == (2, 100)
    low, high = np.quantile(draws[0]["eer"], (0.025, 0.975))
    assert packed["eer_ci95"] == [low, high]


@pytest.mark.slow
def test_generated_people_need_no_files(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", str(model), "--bootstrap", "0", "--no-report", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--images", "synthetic:6x2:5"]) == 0
    found = results(tmp_path / "out")
    assert (found["images"], found["num_people"], found["num_genuine"]) == ("synthetic:6x2:5", 6, 6)
    assert main([*arguments, "--images", "synthetic:6x2:6"]) == 0
    assert results(tmp_path / "out")["set_sha256"] != found["set_sha256"]
    assert not (tmp_path / "out" / "draws.npz").exists()
    with pytest.raises(FacekdError, match="write synthetic:200x20"):
        main([*arguments, "--images", "synthetic:6"])
    with pytest.raises(FacekdError, match="make more than 250,000,000 pairs; --images-per-person"):
        main([*arguments, "--images", "synthetic:30000x1"])


@pytest.mark.slow
def test_a_map_shows_the_people_with_the_most_images_apart(tmp_path: Path, model: Path) -> None:
    for person, count in ((0, 6), (1, 2), (2, 30), (3, 6)):
        for number in range(count):
            write(tmp_path / "people", f"p{person}/{number:02d}.png", face(person, number, noise=3))
    words = ["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(tmp_path / "out")]
    assert main([*words, "--map", "3", "--bootstrap", "0"]) == 0
    assert results(tmp_path / "out")["map"] == {"people": ["p0", "p2", "p3"], "num_images": 6 + 25 + 6}
    with np.load(tmp_path / "out" / "curves.npz") as curves:
        person, places = curves["map_person"], np.stack([curves["map_x"], curves["map_y"]], axis=1)
    assert np.bincount(person).tolist() == [6, 25, 6]
    # Hardly different images of a person: the nearest point of each is one of the same person.
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag(np.full(len(places), np.inf))
    assert (person[distances.argmin(axis=1)] == person).all()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "p0, p2, p3" in page and "Images that lie together are alike to the model" in page
    assert main([*words, "--bootstrap", "0"]) == 0
    assert "map" not in results(tmp_path / "out") and "t-SNE" not in (tmp_path / "out" / "report.html").read_text()


def test_embeddings_by_name_are_of_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "given.npz", names=["a/1.png"], embeddings=np.ones((1, 3)))
    with pytest.raises(FacekdError, match=r"x\.rec: --embeddings go by the names of files, and a pack has none"):
        main(["--embeddings", str(tmp_path / "given.npz"), "--images", "x.rec", "--output", str(tmp_path / "out")])


def test_fewer_images_of_a_person(tmp_path: Path, model: Path) -> None:
    for person in range(3):
        for number in range(4):
            write(tmp_path / "people", f"{person}/{number}.png", face(person, number))
    arguments = ["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--images-per-person", "2"]) == 0
    assert (results(tmp_path / "out")["num_images"], results(tmp_path / "out")["num_genuine"]) == (6, 3)
    assert "only 3 subjects" in results(tmp_path / "out")["bootstrap"]["note"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """TinyFace's layout: file names begin with the person; the gallery has one or two images of each."""
    root = tmp_path / "tiny"
    for person in range(12):
        for number in range(1 + person % 2):
            write(root / "gallery", f"{person}_{number}.png", face(person, number, 45))
        for number in range(10, 13):
            write(root / "probe", f"{person}_{number}.png", face(person, number, 45))
    for person in range(100, 140):
        write(root / "distractors", f"{person}.png", face(person, 0, 45))
    return root


def test_identification_is_that_of_a_loop(tiny: Path, tmp_path: Path, model: Path) -> None:
    arguments = ["--model", str(model), "--images", str(tiny), "--output", str(tmp_path / "out"), "--no-flip"]
    assert main([*arguments, "--ranks", "1,3,200"]) == 0
    gallery = [(p, embedding(face(p, n, 45), False)) for p in range(12) for n in range(1 + p % 2)]
    gallery += [(p, embedding(face(p, 0, 45), False)) for p in range(100, 140)]
    ranks = []
    for person in range(12):
        for number in range(10, 13):
            probe = embedding(face(person, number, 45), False)
            order = sorted(gallery, key=lambda entry: -(entry[1] @ probe))
            ranks.append(1 + next(place for place, entry in enumerate(order) if entry[0] == person))
    result = results(tmp_path / "out")
    assert (result["num_gallery"], result["num_distractors"], result["num_probes"]) == (18, 40, 36)
    rates = {entry["rank"]: entry["rate"] for entry in result["rank"]}
    with (tmp_path / "out" / "results.csv").open() as stream:
        written = {
            float(row["target"]): float(row["value"]) for row in csv.DictReader(stream) if row["metric"] == "rank"
        }
    assert written == rates
    assert "40 distractors, 36 probes" in (tmp_path / "out" / "report.html").read_text()
    assert rates == {rank: pytest.approx(np.mean(np.array(ranks) <= rank)) for rank in (1, 3, 200)}
    assert rates[1] < rates[3] < rates[200] == 1  # the task is neither trivial nor hopeless
    assert result["protocol"]["kind"] == "identification"


def test_options_of_the_other_kind_of_evaluation_are_refused(tiny: Path, tmp_path: Path) -> None:
    write(tmp_path / "people", "0/0.png", face(0, 0, 45))
    for images, option, message in (
        (tiny, ["--fars", "0.5"], "--fars is about all pairs, and a folder with gallery/ and probe/ is searched"),
        (tmp_path / "people", ["--ranks", "3"], "--ranks is about a search"),
    ):
        np.savez(tmp_path / "x.npz", names=["0/0.png"], embeddings=np.ones((1, 3)))
        words = ["--embeddings", str(tmp_path / "x.npz"), "--images", str(images), "--output", str(tmp_path / "out")]
        with pytest.raises(FacekdError, match=message):
            main([*words, *option])


def test_a_second_run_does_not_need_the_model(tiny: Path, tmp_path: Path, model: Path) -> None:
    arguments = ["--model", str(model), "--images", str(tiny), "--output", str(tmp_path / "out")]
    main(arguments)
    files = sorted((tmp_path / "out" / "embeddings").iterdir())
    assert len(files) == 6  # three folders, plain and mirrored
    before = [file.stat().st_mtime_ns for file in files]
    main(arguments)
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.slow
def test_small_images_are_enlarged_where_asked(tmp_path: Path, model: Path) -> None:
    for person in range(2):
        for number in range(2):
            write(tmp_path / "people", f"{person}/{number}.png", face(person, number)[::2, ::2])
    arguments = ["--model", str(model), "--images", str(tmp_path / "people"), "--output", str(tmp_path / "out")]
    with pytest.raises(FacekdError, match=r"people/0/0\.png: images are 8 x 8, the model takes 16 x 16"):
        main(arguments)
    assert main([*arguments, "--resize"]) == 0
    found = results(tmp_path / "out")
    assert found["num_genuine"] == 2
    # A pack of the same images gives the same, to the bit.
    assert pack([str(tmp_path / "people"), str(tmp_path / "pack"), "--size", str(SIZE // 2), "--workers", "1"]) == 0
    arguments = ["--model", str(model), "--images", str(tmp_path / "pack"), "--output", str(tmp_path / "packed")]
    assert main([*arguments, "--resize"]) == 0
    packed = results(tmp_path / "packed")
    assert all(packed[key] == found[key] for key in ("eer", "eer_threshold", "tar_at_far"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no such folder"),
        (["a/notes.txt"], "holds no images"),
        (["a/1.png", "a/2.png"], "holds one person"),
        (["a/1.png", "b/2.png"], "holds one image of each person"),
        (["a/1.png", "b.png"], r"holds folders and image files \(b\.png\)"),
        (["a_1.png", "b.png"], r"1 of 2 names does not say who .* first b\.png"),
        (["gallery/a/1.png", "probe/a/2.png", "probe/b/1.png"], r"1 person of probe/ is not in gallery/, the first b"),
        (["a/1.png", "a/2.png", "b/broken.png"], r"b/broken\.png: .*do not decode"),
        (["a/1.png", "a/2.png", "b/grey.png"], r"b/grey\.png: its embedding has no direction"),
    ],
)
def test_what_cannot_be_evaluated(tmp_path: Path, model: Path, files: list[str], message: str) -> None:
    for number, name in enumerate(files):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("broken.png"):
            path.write_bytes(b"nothing")
        elif name.endswith(".png"):
            write(tmp_path / "images", name, face(number, 0))
        else:
            path.write_text("no image")
        if name.endswith("grey.png"):
            write(tmp_path / "images", name, np.full((SIZE, SIZE, 3), 127, np.uint8))
    extra = ["--mean", "127", "--std", "127.5"] if "grey" in message else []
    arguments = ["--model", str(model), "--images", str(tmp_path / "images"), "--output", str(tmp_path / "out")]
    with pytest.raises(FacekdError, match=message):
        main([*arguments, *extra])
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("extra", [["--ranks", "0"], ["--ranks", "x"], ["--fars", "2"], ["--bootstrap", "5"]])
def test_options_that_make_no_sense(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "m", "--images", "i", "--output", "o", *extra])
    assert "`facekd evaluate folder --help` lists the options" in capsys.readouterr().err


def test_equal_images_are_counted_by_whose_they_are(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = tmp_path / "people"
    for person in range(3):
        for number in range(2):
            write(people, f"{person}/{number}.png", face(person, number))
    write(people, "2/2.png", face(2, 1))
    write(people, "1/2.png", face(0, 1))
    assert main(["--model", str(model), "--images", str(people), "--output", str(tmp_path / "out")]) == 0
    found = results(tmp_path / "out")
    same, other = found["notes"]
    assert f"same person: 1, the first {people / '2/2.png'} as {people / '2/1.png'}; any model" in same
    assert f"somebody else: 1, the first {people / '1/2.png'} as {people / '0/1.png'}; one photograph" in other
    assert (found["num_genuine_people"], found["num_impostor_people_pairs"]) == (3, 3)
    assert "genuine pairs of 3 people" in (said := capsys.readouterr().out) and "of 3 pairs of people" in said


def test_a_probe_that_is_in_the_gallery_is_noted(tmp_path: Path, model: Path) -> None:
    for person in range(3):
        write(tmp_path / "set" / "gallery", f"{person}/1.png", face(person, 0))
        write(tmp_path / "set" / "probe", f"{person}/1.png", face(person, 0 if person == 1 else 1))
    assert main(["--model", str(model), "--images", str(tmp_path / "set"), "--output", str(tmp_path / "out")]) == 0
    [note] = results(tmp_path / "out")["notes"]
    assert "same person: 1," in note and "probe/1/1.png as " in note and "gallery/1/1.png" in note


def given(tmp_path: Path, images: Path, out: Path, names: list[str], plain: np.ndarray, *extra: str) -> dict:
    """Evaluates embeddings by name, and returns the results."""
    np.savez(tmp_path / "given.npz", names=np.array(names), embeddings=plain)
    arguments = ["--embeddings", str(tmp_path / "given.npz"), "--images", str(images), "--output", str(out)]
    assert main([*arguments, "--bootstrap", "0", "--no-report", *extra]) == 0
    return results(out)


def test_given_embeddings_give_what_the_model_gave(tmp_path: Path, model: Path) -> None:
    people = tmp_path / "people"
    for person in range(6):
        for number in range(3):
            write(people, f"{person}/{number}.png", face(person, number))
    arguments = ["--model", str(model), "--images", str(people), "--bootstrap", "0", "--output"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    kept = tmp_path / "out" / "embeddings"
    plain, mirrored = (np.load(next(kept.glob(f"*-{side}.npy"))) for side in ("plain", "mirrored"))
    names = FaceFolder(people, SIZE).files
    # In another order, and with a row that nobody asks for.
    order = np.random.default_rng(0).permutation(len(names))
    both = np.vstack([np.hstack([plain, mirrored])[order], np.ones((1, 24), np.float32)])
    listed = [*(names[row] for row in order), "nobody/1.png"]
    found = given(tmp_path, people, tmp_path / "given", listed, both, "--embeddings-flipped")
    expected = results(tmp_path / "out")
    for key in ("eer", "auc", "tar_at_far", "num_images", "num_people", "protocol"):
        assert found[key] == expected[key]
    digest = hashlib.sha256((tmp_path / "given.npz").read_bytes()).hexdigest()
    assert found["model"] is None and found["embeddings"]["sha256"] == digest
    assert main([*arguments, str(tmp_path / "out"), "--no-flip"]) == 0
    found = given(tmp_path, people, tmp_path / "given", names, plain, "--no-embeddings-flipped")
    assert found["protocol"] == results(tmp_path / "out")["protocol"] and found["protocol"]["flip"] is False
    assert found["tar_at_far"] == results(tmp_path / "out")["tar_at_far"]


def test_a_gallery_says_whether_the_mirror_images_are_in_its_embeddings(tmp_path: Path) -> None:
    names = [f"p{person}/{number}.png" for person in range(2) for number in range(2)]
    for name in names:
        write(tmp_path / "people", name, face(0, 0))
    rows, unknown = np.eye(4, 5, dtype=np.float32), np.full((4, 5, 2), np.nan, np.float32)
    texts = np.array(names), np.full(4, "")
    for flip in (False, True):
        origin = Origin("m.onnx", "fingerprint", Preprocessing(image_size=SIZE), flip=flip)
        arrays = (rows, np.ones(4, np.float32), *texts, unknown[:, :4, 0], unknown, unknown[:, 0, 0])
        write_gallery(tmp_path / "g.npz", Gallery(*arrays, origin))
        words = ["--embeddings", str(tmp_path / "g.npz"), "--images", str(tmp_path / "people"), "--bootstrap", "0"]
        assert main([*words, "--output", str(tmp_path / "out"), "--no-report"]) == 0
        protocol = results(tmp_path / "out")["protocol"]
        assert protocol["flip"] is flip and ("f(x) + f(mirrored x)" in protocol["text"]) == flip
    with pytest.raises(FacekdError, match=r"--no-flip: .*g\.npz was embedded with the mirror images"):
        main([*words, "--output", str(tmp_path / "out"), "--no-flip"])
    # Another program's array of that name says nothing, whatever it is.
    np.savez(tmp_path / "g.npz", names=texts[0], embeddings=rows, about=np.array({"model": "m"}))
    assert main([*words, "--output", str(tmp_path / "out"), "--no-report"]) == 0
    assert results(tmp_path / "out")["protocol"]["flip"] is False


def test_given_embeddings_are_searched_by_their_whole_names(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names, rows = [], []
    for person in range(5):
        center = generator.standard_normal(16)
        for folder in ("gallery", "probe"):
            write(tmp_path / "set", f"{folder}/{person}/1.png", face(person, 0))
            names.append(f"{folder}/{person}/1.png")
            rows.append(center + 0.1 * generator.standard_normal(16))
    found = given(tmp_path, tmp_path / "set", tmp_path / "out", names, np.array(rows), "--no-embeddings-flipped")
    assert found["rank"][0]["rate"] == 1 and found["num_probes"] == 5


@pytest.mark.parametrize("flags", [["--resize"], ["--mean", "0", "--std", "1"], ["--model", "m.onnx"]])
def test_options_of_a_model_are_refused_beside_given_embeddings(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--embeddings", "x.npz", "--images", "people", "--output", "out", *flags])
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": ["a/1.png"], "embeddings": np.ones((1, 3))}, "no embeddings of 1 of 2 images, the first a/2.png"),
        ({"names": ["a/1.png"] * 2, "embeddings": np.ones((2, 3))}, "names a/1.png twice"),
        ({"names": ["a/1.png"], "embeddings": np.ones((2, 3))}, "expected text .M,. and real numbers"),
        ({"names": [1, 2], "embeddings": np.ones((2, 3))}, "expected text"),
        ({"embeddings": np.ones((2, 3))}, "holds no names; write it by np.savez"),
    ],
)
def test_given_embeddings_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    for number in (1, 2):
        write(tmp_path / "people", f"a/{number}.png", face(0, number))
    np.savez(tmp_path / "given.npz", **arrays)
    with pytest.raises(FacekdError, match=message):
        main(["--embeddings", str(tmp_path / "given.npz"), "--images", str(tmp_path / "people"), "--output", "out"])


def test_quality_is_that_of_the_worse_image_of_each_pair(tmp_path: Path, model: Path, capsys) -> None:
    images = {f"p{person}/{number}.png": face(person, number, 60) for person in range(9) for number in range(3)}
    for name, image in images.items():
        write(tmp_path / "people", name, image)
    quality = np.random.default_rng(3).normal(size=27)
    np.save(tmp_path / "quality.npy", quality)
    words = [
        "--images",
        str(tmp_path / "people"),
        "--output",
        str(tmp_path / "out"),
        "--bootstrap",
        "0",
        "--fars",
        "0.1",
    ]
    main(["--model", str(model), *words, "--quality", str(tmp_path / "quality.npy")])
    result = results(tmp_path / "out")
    (curve,) = result["quality"]["curves"]
    rows = np.stack([embedding(image) for image in images.values()])
    pairs = [(a, b) for a, b in combinations(range(27), 2) if a // 3 == b // 3]
    lower = np.array([min(quality[a], quality[b]) for a, b in pairs])
    rejected = np.array([rows[a] @ rows[b] < curve["threshold"] for a, b in pairs])
    for share in (0, 25, 50):
        assert curve["fnmr_by_pairs"][share] == rejected[lower >= np.sort(lower)[int(share / 100 * 27)]].mean()
    assert "area to 20 %" in capsys.readouterr().out
    assert "Quality: error versus discard" in (tmp_path / "out" / "report.html").read_text()
    # Embeddings of `facekd embed` come with lengths and detector scores.
    kept = {"names": np.array(list(images)), "embeddings": rows.astype(np.float32)}
    np.savez(tmp_path / "kept.npz", **kept, scores=quality, norms=np.exp(quality))
    curves = []
    for kind in ("detector", "norm"):
        given = ["--embeddings", str(tmp_path / "kept.npz"), "--no-embeddings-flipped", "--quality", kind]
        main([*given, *words, "--no-report"])
        (found,) = results(tmp_path / "out")["quality"]["curves"]
        curves.append(found["fnmr_by_samples"])
    assert curves[0] == curves[1] == curve["fnmr_by_samples"]


def test_qualities_that_are_not_there_are_said(tmp_path: Path, model: Path) -> None:
    for person in range(2):
        for number in range(2):
            write(tmp_path / "people", f"p{person}/{number}.png", face(person, number))
    words = ["--images", str(tmp_path / "people"), "--output", str(tmp_path / "out"), "--bootstrap", "0"]
    with pytest.raises(FacekdError, match="aligned images come without scores of a detector"):
        main(["--model", str(model), *words, "--quality", "detector"])
    np.savez(tmp_path / "e.npz", names=[f"p{p}/{n}.png" for p in range(2) for n in range(2)], embeddings=np.eye(4))
    with pytest.raises(FacekdError, match="holds no scores of a detector"):
        main(["--embeddings", str(tmp_path / "e.npz"), "--no-embeddings-flipped", *words, "--quality", "detector"])
    np.save(tmp_path / "q.npy", np.array([1, 2, np.inf, 3]))
    with pytest.raises(FacekdError, match="1 of 4 qualities is no finite number, the first in row 2"):
        main(["--model", str(model), *words, "--quality", str(tmp_path / "q.npy")])
