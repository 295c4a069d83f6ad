"""`--score-norm` of the evaluate verbs, against a loop; and cohorts that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.evaluate_folder import main as folder
from evaluation.evaluate_ijbc import main as ijbc
from evaluation.evaluate_lfw import main as lfw
from evaluation.sets.cohort import read_cohort
from facekd.errors import DataError, FacekdError
from facekd.faces.gallery import Gallery, Origin, write_gallery
from facekd.images.preprocessing import Preprocessing
from facekd.results.thresholds import read_thresholds
from facekd.verification import far_threshold
from tests.evaluation.conftest import make_pack
from tests.evaluation.ijb_layout import make_layout

SIZE = 8


def write_cohort(path: Path, size: int = SIZE, people: str = "stranger") -> np.ndarray:
    rows = np.random.default_rng(9).normal(size=(25, size)).astype(np.float32)
    names = np.array([f"{people}{number}/0.jpg" for number in range(25)])
    np.savez(path, names=names, embeddings=rows)
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def s_norm(first: np.ndarray, second: np.ndarray, cohort: np.ndarray) -> float:
    score, sides = first @ second, [cohort @ one for one in (first, second)]
    return float(np.mean([(score - side.mean()) / side.std() for side in sides]))


def read(out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def pack_words(tmp_path: Path) -> tuple[list[str], np.ndarray]:
    """A pack of 40 pairs whose embeddings stand in a file, unit rows."""
    pack = make_pack(tmp_path)
    rows = np.random.default_rng(1).normal(size=(80, SIZE))
    rows[1::4] = rows[0::4] + 0.5 * rows[1::4]
    np.save(tmp_path / "x.npy", rows)
    words = ["--pairs", str(pack), "--embeddings", str(tmp_path / "x.npy"), "--no-embeddings-flipped", "--no-pictures"]
    more = ["--output", str(tmp_path / "out"), "--bootstrap", "0", "--fars", "0.1", "--cohort", str(tmp_path / "c.npz")]
    return [*words, *more], rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_scores_of_a_pack_are_normalised(tmp_path: Path) -> None:
    words, rows = pack_words(tmp_path)
    cohort = write_cohort(tmp_path / "c.npz")
    assert lfw([*words, "--score-norm", "s"]) == 0
    result = read(tmp_path / "out")
    expected = [s_norm(rows[2 * pair], rows[2 * pair + 1], cohort) for pair in range(40)]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "scores.npy"), expected, atol=1e-6)
    assert result["protocol"]["score"] == "s-norm" and "S norm by 25 images of c.npz" in result["protocol"]["text"]
    assert result["score_norm"]["num_people"] == 25
    assert "whether it contains people of the set is not known: pairs names nobody" in " ".join(result["notes"])
    # Its thresholds are no cosines: nobody may deploy them as such.
    with pytest.raises(DataError, match="nobody can tell whether they fit"):
        read_thresholds(tmp_path / "out")
    # The adaptive norm with all of the cohort is the same; the Z norm is that of the first image.
    assert lfw([*words, "--score-norm", "as", "--cohort-top", "25"]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out" / "scores.npy"), expected, atol=1e-6)
    assert lfw([*words, "--score-norm", "z"]) == 0
    first = [(rows[2 * pair] @ rows[2 * pair + 1] - (cohort @ rows[2 * pair]).mean()) for pair in range(40)]
    first = [value / (cohort @ rows[2 * pair]).std() for pair, value in enumerate(first)]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "scores.npy"), first, atol=1e-6)


def test_all_pairs_of_a_folder_are_normalised(tmp_path: Path) -> None:
    generator, names, rows = np.random.default_rng(2), [], []
    for person in range(12):
        centre = generator.normal(size=SIZE)
        for number in range(3):
            names.append(f"p{person:02d}/{number}.jpg")
            rows.append(centre + 0.7 * generator.normal(size=SIZE))
            (tmp_path / "people" / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "people" / names[-1]).write_bytes(names[-1].encode())
    np.savez(tmp_path / "x.npz", names=np.array(names), embeddings=np.array(rows))
    (tmp_path / "g.csv").write_text(
        "person,kind\n" + "\n".join(f"p{person:02d},{'ab'[person % 2]}" for person in range(12))
    )
    cohort, unit = write_cohort(tmp_path / "c.npz"), np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    words = ["--embeddings", str(tmp_path / "x.npz"), "--images", str(tmp_path / "people"), "--no-embeddings-flipped"]
    more = ["--cohort", str(tmp_path / "c.npz"), "--score-norm", "s", "--fars", "0.05", "--bootstrap", "100"]
    assert (
        folder([*words, *more, "--groups", str(tmp_path / "g.csv"), "--output", str(tmp_path / "out"), "--no-report"])
        == 0
    )
    result = read(tmp_path / "out")
    pairs = [(i, j) for i in range(36) for j in range(i + 1, 36)]
    scores = np.array([s_norm(unit[i], unit[j], cohort) for i, j in pairs])
    is_same = np.array([i // 3 == j // 3 for i, j in pairs])
    [point] = result["tar_at_far"]
    threshold = far_threshold(scores[~is_same], 0.05)
    assert point["threshold"] == pytest.approx(threshold, abs=1e-9) and point["interval"] == "subject bootstrap"
    assert point["tar"] == pytest.approx((scores[is_same] >= threshold).mean())  # type: ignore[operator]
    assert result["num_impostor"] == (~is_same).sum() and result["num_genuine_people"] == 12
    [measured] = result["groups"]["attributes"][0]["points"]
    kinds = np.array([(i // 3 % 2) + (j // 3 % 2) for i, j in pairs])
    errors = [pair["fmr"]["errors"] for pair in measured["pairs"]]
    accepted = scores >= point["threshold"] + 1e-12  # it lies just above a score, which a loop may round otherwise
    assert errors == [int((accepted & ~is_same & (kinds == kind)).sum()) for kind in range(3)]


def test_templates_are_normalised(tmp_path: Path) -> None:
    layout = make_layout(0)
    root = layout.write(tmp_path / "set")
    write_cohort(tmp_path / "c.npz", layout.plain.shape[1])
    words = ["--embeddings", str(root / "embeddings.npy"), "--embeddings-flipped", "--root", str(root), "--no-report"]
    more = ["--bootstrap", "0", "--fars", "0.1", "--output", str(tmp_path / "out")]
    assert ijbc([*words, *more, "--protocol", "1:1"]) == 0
    cosines = np.load(tmp_path / "out" / "scores.npy")
    norm = ["--score-norm", "as", "--cohort", str(tmp_path / "c.npz"), "--cohort-top", "5"]
    with pytest.raises(FacekdError, match="--score-norm is about 1:1 comparisons: give --protocol 1:1"):
        ijbc([*words, *more, *norm])
    assert ijbc([*words, *more, *norm, "--protocol", "1:1"]) == 0
    normalised, result = np.load(tmp_path / "out" / "scores.npy"), read(tmp_path / "out")
    assert result["score_norm"]["top"] == 5 and result["protocol"]["score"] == "as-norm"
    assert np.isfinite(normalised).all() and 0.5 < np.corrcoef(cosines, normalised)[0, 1] < 1


def test_cohorts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    words, rows = pack_words(tmp_path)
    named = [*words, "--names", str(tmp_path / "pairs.txt"), "--score-norm", "s"]
    write_cohort(tmp_path / "c.npz", people="person_")
    with pytest.raises(DataError, match="19 of its 25 people are in pairs, too: person_0, person_10"):
        lfw(named)
    text = (tmp_path / "pairs.txt").read_text()
    (tmp_path / "accents.txt").write_text(text.replace("person_", "pe\u0301rson_"))
    write_cohort(tmp_path / "c.npz", people="p\u00e9rson_")
    with pytest.raises(DataError, match="19 of its 25 people are in pairs, too"):
        lfw([*named, "--names", str(tmp_path / "accents.txt")])
    write_cohort(tmp_path / "c.npz", people="")
    assert lfw(named) == 0
    assert "is not known: they go by numbers in the cohort, and by names in pairs" in " ".join(
        read(tmp_path / "out")["notes"]
    )
    write_cohort(tmp_path / "c.npz", SIZE + 1)
    with pytest.raises(DataError, match="embeddings have 8 values, and those of the cohort 9"):
        lfw(named)
    np.savez(tmp_path / "c.npz", names=np.array(["x/1", "y/1"]), embeddings=np.stack([rows[7], rows[7] + 0.1]))
    with pytest.raises(DataError, match=r"1 image of the set has an embedding that is in the cohort, .* image 7"):
        lfw(named)
    np.savez(tmp_path / "c.npz", names=np.array(["x/1", "y/1"]), embeddings=np.zeros((2, SIZE)))
    with pytest.raises(DataError, match="embedding 0 has no direction"):
        lfw(named)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score-norm", "s"], "--score-norm needs a --cohort"),
        (["--cohort", "c.npz"], "--score-norm needs a --cohort"),
        (["--score-norm", "s", "--cohort", "c.npz", "--cohort-top", "9"], "--cohort-top is about --score-norm as"),
        (["--score-norm", "s", "--cohort", "c.npz", "--thresholds-from", "x"], "--thresholds-from has thresholds of"),
    ],
)
def test_options_that_contradict_each_other(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lfw(["--model", "m.onnx", "--pairs", "x.bin", "--output", "out", *words])
    assert message in capsys.readouterr().err


def test_a_gallery_says_whose_model_and_people_it_has(tmp_path: Path, model: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    unknown = np.full((5, 5, 2), np.nan, np.float32)
    people = np.array(["a", "", "b", "b", ""])
    origin = Origin("m.onnx", "another", Preprocessing(image_size=16), flip=True)
    arrays = (
        rows,
        np.ones(5, np.float32),
        np.array(list("vwxyz")),
        people,
        unknown[:, :4, 0],
        unknown,
        unknown[:, 0, 0],
    )
    write_gallery(tmp_path / "c.npz", Gallery(*arrays, origin))
    cohort = read_cohort(tmp_path / "c.npz")
    assert cohort.people == {"a", "b"} and cohort.fingerprint == "another" and cohort.flip is True
    words = ["--model", str(model), "--pairs", str(make_pack(tmp_path)), "--output", str(tmp_path / "out")]
    with pytest.raises(DataError, match="was embedded by another model, or with another preprocessing"):
        lfw([*words, "--score-norm", "s", "--cohort", str(tmp_path / "c.npz"), "--no-pictures"])
    given = [*pack_words(tmp_path)[0], "--score-norm", "s"]
    with pytest.raises(DataError, match="was embedded with the mirror images, and the set is not"):
        lfw(given)
