"""What was embedded is written, whichever images turn out to show faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.errors import DataError
from facekd.faces import Origin, read_gallery
from facekd.faces.embedding import EmbeddedFaces
from facekd.faces.finding import FoundFace, FoundFaces
from facekd.faces.gallery_writer import GalleryWriter
from facekd.faces.image_inputs import ImageFiles
from facekd.images.preprocessing import Preprocessing
from facekd.utils import text_arrays

FACE = FoundFace(np.zeros((8, 8, 3), np.uint8), np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 0.9)
SHORT, LONG, LONGEST = [f"{number}.jpg" for number in range(50)], ["x" * 100] * 60, "y" * 120


def embed(path: Path, names: list[str]) -> list[str]:
    """Makes a gallery of images of which those named `x...` show nobody; returns the names in it."""
    with GalleryWriter(path, ImageFiles(names, names), 2, {}) as writer:
        for index, name in enumerate(names):
            found = FoundFaces([], "no_face") if name.startswith("x") else FoundFaces([FACE], num_sure=1)
            writer.add(EmbeddedFaces(index, found, np.ones((len(found.faces), 2), np.float32)))
        writer.finish(Origin("m.onnx", "abc", Preprocessing(image_size=8)), "largest")
    return read_gallery(path).names.tolist()


def test_names_that_are_too_uneven_are_refused_before_anything_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_arrays, "FREE_BYTES", 0)
    with pytest.raises(DataError, match="the images: a name in it has 120 characters"):
        embed(tmp_path / "a.npz", [*SHORT, LONGEST])
    # With them, names of images without a face make the mean longer.
    assert embed(tmp_path / "b.npz", [*SHORT, *LONG, LONGEST]) == [*SHORT, LONGEST]
