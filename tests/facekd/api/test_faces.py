"""`facekd.load_model`, `embed`, `faces`, `detect` and `similarity`, as a program calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import facekd
from facekd.embedder import open_embedder
from facekd.errors import DataError, InputError, ModelError
from facekd.images.preprocessing import mirror
from tests.painted_faces import paint
from tests.pooling_model import write_pooling_model

SIZE = 32
ONE, LARGE = (3, 4, 255, 0), (11, 10, 204, 255)
CROPS = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_pooling_model(tmp_path / "m.onnx", SIZE, 8)


def test_all_names_are_there_and_importing_facekd_imports_neither_torch_nor_onnxruntime() -> None:
    assert all(getattr(facekd, name) is not None for name in facekd.__all__)
    code = "import facekd, sys; print({'torch', 'onnxruntime', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("flip", [False, True])
def test_files_folders_and_pixels_give_the_same_embeddings(model: Path, tmp_path: Path, flip: bool) -> None:
    (tmp_path / "crops").mkdir()
    paths = [tmp_path / "crops" / f"{number}.png" for number in range(len(CROPS))]
    for path, crop in zip(paths, CROPS, strict=True):
        cv2.imwrite(str(path), crop[..., ::-1])
    opened = facekd.load_model(model, threads=1)
    plain = open_embedder(model)
    expected = unit(plain.embed(CROPS) + (plain.embed(mirror(CROPS)) if flip else 0))
    for images in (CROPS, list(CROPS), paths, [str(paths[0]), *CROPS[1:]], tmp_path / "crops"):
        found = opened.embed(images, flip=flip)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert opened.embed(CROPS[0], flip=flip).shape == (1, opened.embedding_size)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", 3])
def test_a_device_that_is_none_is_refused_whatever_the_model(device: str, model: Path, tmp_path: Path) -> None:
    for path in (model, tmp_path / "run"):
        with pytest.raises(ModelError, match=f"device is '{device}'; expected cpu, cuda or cuda:N"):
            facekd.load_model(path, device=device)


def test_photographs_are_searched_for_faces(model: Path, tmp_path: Path, scrfd: Path) -> None:
    both = paint(ONE, LARGE)
    both[..., 1] = (np.arange(128) * 2)[:, None]
    opened = facekd.load_model(model, detector=scrfd, detector_size=128)
    faces = opened.faces([both, np.zeros_like(both)])
    assert [face.image for face in faces] == [0, 0]
    largest = max(faces, key=lambda face: face.box[2] - face.box[0])
    np.testing.assert_array_equal(opened.embed(both)[0], largest.embedding)
    detected = facekd.detect(both, scrfd, image_size=SIZE, detector_size=128)
    assert [face.box.tolist() for face in detected] == [face.box.tolist() for face in faces]
    np.testing.assert_array_equal(detected[0].crop, faces[0].crop)
    with pytest.raises(DataError, match=r"1 image has no embedding: array 1 \(no face found\)"):
        opened.embed([both, np.zeros_like(both)])


def test_what_cannot_be_embedded_is_named(model: Path, tmp_path: Path) -> None:
    opened = facekd.load_model(model)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 images .*bad\.png.*array 1 \(is 8x8 pixels, expected 32x32\)"):
        opened.embed([tmp_path / "bad.png", CROPS[0, :8, :8]])
    with pytest.raises(DataError, match=r"missing\.png: no such file"):
        opened.embed([tmp_path / "missing.png"])
    with pytest.raises(DataError, match="no images were given"):
        opened.embed([])
    with pytest.raises(InputError, match=r"uint8 RGB .*found 3"):
        opened.embed([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="float64"):
        opened.embed(CROPS / 255)
    for odd in (None, 5, b"bytes"):
        with pytest.raises(InputError, match="images are a path, uint8 RGB pixels or a list of these; found"):
            opened.embed(odd)  # type: ignore[arg-type]


def test_values_out_of_range_are_refused(model: Path, scrfd: Path) -> None:
    opened = facekd.load_model(model)
    for options, message in (
        ({"which": "biggest"}, "which is 'biggest': expected all, largest, centre, score"),
        ({"min_score": 7}, "min_score is 7: expected 0 to 1"),
        ({"min_score": float("nan")}, "min_score is nan"),
    ):
        with pytest.raises(InputError, match=message):
            opened.faces(CROPS, **options)  # type: ignore[arg-type]
    for options in ({"image_size": 0}, {"detector_size": -5}, {"detector_size": 10**9}):
        [(name, value)] = options.items()
        with pytest.raises(InputError, match=f"{name} is {value}: expected "):
            facekd.detect(CROPS[0], scrfd, **options)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="threads is -1: expected at least 1"):
        facekd.load_model(model, threads=-1)


def test_similarity_is_the_cosine(model: Path) -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(3, 7)), generator.normal(size=(4, 7))
    expected = [[a @ b / np.sqrt((a @ a) * (b @ b)) for b in second] for a in first]
    np.testing.assert_allclose(facekd.similarity(first, second), expected, rtol=1e-12)
    np.testing.assert_allclose(facekd.similarity(first[0], second), expected[0], rtol=1e-12)
    assert facekd.similarity(first[0], second[1]) == pytest.approx(expected[0][1])
    for bad in (np.zeros(7), np.full(7, np.nan), np.ones(6)):
        with pytest.raises(InputError, match="embedding"):
            facekd.similarity(first, bad)
    for odd in ("text", first + 0j, first > 0, ["1"] * 7):
        with pytest.raises(InputError, match="embeddings are numbers"):
            facekd.similarity(first, odd)  # type: ignore[arg-type]
    # Squares that overflow or vanish, and equal embeddings.
    for scale in (1e200, 1e-200):
        np.testing.assert_allclose(facekd.similarity(first * scale, second), expected, rtol=1e-12)
    assert np.diag(facekd.similarity(first, first * 3)).max() <= 1
    np.testing.assert_array_equal(facekd.similarity(first.astype(object), second), facekd.similarity(first, second))
    with pytest.raises(InputError, match="images are a path, uint8 RGB pixels"):
        facekd.load_model(model).embed(np.array(1.0))
