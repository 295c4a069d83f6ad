"""Faces cut out again: each is that of its own name, in files and in packs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.embedder import Preprocessing
from facekd.faces.gallery import Gallery, Origin
from facekd.faces.search.crops import FaceCrops

SIZE = 8


def test_every_name_of_a_pack_has_its_own_face(tmp_path: Path) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    pack = tmp_path / "faces.bin"
    write_pair_pack(pack, [cv2.imencode(".png", face[..., ::-1])[1].tobytes() for face in faces], [True, False])
    names = [*(f"{pack}#{number}" for number in (3, 0, 2, 1)), f"{pack}#4", str(tmp_path / "gone.png")]
    unknown = np.full((len(names), 5, 2), np.nan, np.float32)
    gallery = Gallery(
        embeddings=np.eye(len(names), dtype=np.float32),
        norms=np.ones(len(names), np.float32),
        names=np.array(names),
        people=np.array([""] * len(names)),
        boxes=unknown[:, 0].repeat(2, axis=1),
        landmarks=unknown,
        scores=unknown[:, 0, 0],
        origin=Origin("m.onnx", "ff", Preprocessing(image_size=SIZE)),
    )
    crops = FaceCrops()
    found = [crops.cut(gallery, row) for row in range(len(names))]
    for face, number in zip(found, (3, 0, 2, 1), strict=False):
        np.testing.assert_array_equal(face, faces[number])
    assert found[4:] == [None, None]
