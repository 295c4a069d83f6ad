"""A gallery comes back as it was written, and what is none is refused in a sentence."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.faces import Gallery, Origin, check_same_model, read_gallery, write_gallery
from facekd.faces.gallery import is_gallery
from facekd.images.preprocessing import Preprocessing
from tests.no_waiting import failing_if_it_waits

ARRAYS = ("embeddings", "norms", "names", "people", "boxes", "landmarks", "scores")


@dataclass
class Model:
    fingerprint: str
    preprocessing: Preprocessing


def gallery(count: int = 3, size: int = 4) -> Gallery:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(count, size)).astype(np.float32)
    boxes, landmarks, scores = np.ones((count, 4)), np.ones((count, 5, 2)), np.ones(count)
    for array in (boxes, landmarks, scores):
        array[0] = np.nan
    return Gallery(
        embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        np.full(count, 7, np.float32),
        np.array([f"Zoë/{number}\udce9.jpg" for number in range(count)]),
        np.array(["Zoë", *[""] * (count - 1)]),
        *(array.astype(np.float32) for array in (boxes, landmarks, scores)),
        Origin("m.onnx", "abc", Preprocessing(image_size=32), True, "d.onnx", "def"),
    )


def test_a_gallery_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = gallery()
    write_gallery(tmp_path / "faces.npz", written)
    found = read_gallery(tmp_path / "faces.npz")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
        assert getattr(found, name).dtype == getattr(written, name).dtype
    assert found.origin == written.origin and len(found) == 3
    with np.load(tmp_path / "faces.npz") as arrays:  # what others read it by
        assert arrays["names"][0] == "Zoë/0\udce9.jpg"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": 2 * gallery().embeddings}, "embeddings of face 0: expected unit length, found"),
        ({"embeddings": np.full((3, 4), np.nan, np.float32)}, "embeddings of face 0: expected unit length, found nan"),
        ({"embeddings": np.zeros((0, 4), np.float32)}, "expected real numbers (N, D) of at least one face"),
        ({"norms": np.array([1, 0, 1], np.float32)}, "norms of face 1: expected a length above 0, found 0"),
        ({"norms": np.ones(2, np.float32)}, "norms are float32 (2,); expected real numbers (3,)"),
        ({"names": np.array([1, 2, 3])}, "names are int64 (3,); expected text (3,)"),
        ({"people": np.array(["a"])}, "people are <U1 (1,); expected text (3,)"),
        ({"boxes": np.array([[1, 1, 2, np.nan]] * 3, np.float32)}, "boxes of face 0: expected numbers, or none"),
        ({"landmarks": np.full((3, 5, 2), np.inf, np.float32)}, "landmarks of face 0: expected numbers, or none"),
        ({"scores": np.array(["a", "b", "c"])}, "scores are <U1 (3,); expected real numbers"),
    ],
)
def test_arrays_that_are_no_gallerys_are_refused(changes: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    with pytest.raises(DataError) as refusal:
        write_gallery(path, replace(gallery(), **changes))
    assert message in str(refusal.value) and str(path) in str(refusal.value) and not path.exists()
    write_gallery(path, gallery())
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, **changes})
    with pytest.raises(DataError) as refusal:
        read_gallery(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("facekd-faces", "other", "is no gallery (it says other)"),
        ('"version": 1', '"version": 9', "is a gallery of version 9; this facekd reads version 1"),
        ('"model": "m.onnx"', '"model": 3', "values of other kinds"),
        ('"flip": true', '"flip": "yes"', "values of other kinds"),
        ('"fingerprint"', '"finger"', "cannot be read as a gallery of faces (KeyError"),
        ('"color": "rgb"', '"color": "red"', "color is 'red'"),
        ("{", "[", "cannot be read as a gallery of faces (JSONDecodeError"),
    ],
)
def test_a_description_that_is_no_gallerys_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    write_gallery(path, gallery())
    with np.load(path) as arrays:
        about = str(arrays["about"])
        assert old in about
        np.savez(path, **{**arrays, "about": np.array(about.replace(old, new))})
    with pytest.raises(DataError) as refusal:
        read_gallery(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", names=np.array(["a"]))
    with pytest.raises(DataError, match=r"other\.npz: is no gallery, it lacks about, boxes, embeddings"):
        read_gallery(tmp_path / "other.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy: is one array"):
        read_gallery(tmp_path / "one.npy")
    with pytest.raises(DataError, match="is a folder; expected a gallery"):
        read_gallery(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    for read in (read_gallery, is_gallery):
        with failing_if_it_waits(), pytest.raises(DataError, match=r"pipe\.npz: is a named pipe"):
            read(tmp_path / "pipe.npz")


def test_a_gallery_of_another_model_is_refused() -> None:
    kept = gallery()
    check_same_model(kept, Model("abc", kept.origin.preprocessing), "f.npz")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"f\.npz: was made by another model, m\.onnx, or .*color was rgb, now bgr"):
        check_same_model(kept, Model("x", Preprocessing(image_size=32, color="bgr")), "f.npz")  # type: ignore[arg-type]
