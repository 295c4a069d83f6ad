"""Faces are embedded in batches across images, and come back image by image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.errors import ModelError, RecordError
from facekd.faces.embedding import embed_in_order
from facekd.faces.finding import FaceFinder, FoundFace, FoundFaces
from facekd.faces.image_inputs import Images
from facekd.images.preprocessing import Preprocessing, mirror

NOWHERE = np.full(4, np.nan, np.float32)


class Model:
    """Embeds an image as its first row's red, and notes the sizes of batches."""

    preprocessing = Preprocessing(image_size=2)
    embedding_size, normalized, fingerprint = 2, False, "abc"

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.sizes = batch_size, list[int]()

    def embed(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        if (images == 255).any():
            raise ModelError("m.onnx: fails")
        return images[:, 0, :, 0].astype(np.float32)


class Numbers(Images):
    """Provides images that hold a number of faces each; None cannot be read."""

    def __init__(self, counts: list[int | None]) -> None:
        self.names = [f"{number}.jpg" for number in range(len(counts))]
        self.people = [""] * len(counts)
        self.counts = counts

    def read(self, index: int) -> bytes:
        if self.counts[index] is None:
            raise RecordError("x.rec: record 3 is damaged")
        return bytes([index])

    def identities(self) -> list[str]:
        return list(self.names)

    def stamps(self) -> Iterable[tuple[int, ...]]:
        return ()


class Finder(FaceFinder):
    def __init__(self, counts: list[int | None]) -> None:
        super().__init__(2)
        self.counts = counts

    def find(self, image: object) -> FoundFaces:
        assert isinstance(image, bytes)
        crops = [crop_of(image[0], number) for number in range(self.counts[image[0]] or 0)]
        faces = [FoundFace(crop, NOWHERE, np.zeros((5, 2), np.float32), 0.5) for crop in crops]
        return FoundFaces(faces, None if faces else "no_face")


def crop_of(image: int, number: int) -> np.ndarray:
    return np.array([[image, number], [7, 7]], np.uint8)[..., None].repeat(3, 2)


@settings(max_examples=40)
@given(st.lists(st.none() | st.integers(0, 5), max_size=20), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_every_face_gets_its_own_embedding(counts: list[int | None], batch_size: int, flip: bool, start: int) -> None:
    model, plain = Model(batch_size), Model(1)
    indices = range(min(start, len(counts)), len(counts))
    with embed_in_order(model, Finder(counts), Numbers(counts), indices, flip, workers=2) as results:
        found = list(results)
    assert [one.index for one in found] == list(indices)
    for one in found:
        count = counts[one.index]
        crops = np.array([crop_of(one.index, number) for number in range(count or 0)], np.uint8).reshape(-1, 2, 2, 3)
        expected = plain.embed(crops) + (plain.embed(mirror(crops)) if flip else 0)
        np.testing.assert_array_equal(one.embeddings, expected)
        assert one.found.reason == ("unreadable" if count is None else None if count else "no_face")
    # Whole batches but for the last.
    times = 2 if flip else 1
    sizes = model.sizes[::times]
    assert sum(sizes) == sum(counts[index] or 0 for index in indices)
    assert all(size == batch_size for size in sizes[:-1])


def test_a_model_that_fails_names_an_image() -> None:
    class Bright(Finder):
        def find(self, image: object) -> FoundFaces:
            found = super().find(image)
            for face in found.faces:
                face.crop[:] = 255
            return found

    with (
        embed_in_order(Model(2), Bright([0, 1, 1]), Numbers([0, 1, 1]), range(3)) as results,
        pytest.raises(ModelError, match=r"m\.onnx: fails \(at 1\.jpg or one of the next images\)"),
    ):
        list(results)
