"""Faces cut out again: each is that of its own name, in files and in packs, and below the folders that may be read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.embedder import Preprocessing
from facekd.faces.gallery import Gallery, Origin
from facekd.faces.search.crops import FaceCrops

SIZE = 8


def gallery_of(names: list[str]) -> Gallery:
    unknown = np.full((len(names), 5, 2), np.nan, np.float32)
    return Gallery(
        embeddings=np.eye(len(names), dtype=np.float32),
        norms=np.ones(len(names), np.float32),
        names=np.array(names),
        people=np.array([""] * len(names)),
        boxes=unknown[:, 0].repeat(2, axis=1),
        landmarks=unknown,
        scores=unknown[:, 0, 0],
        origin=Origin("m.onnx", "ff", Preprocessing(image_size=SIZE)),
    )


def test_every_name_of_a_pack_has_its_own_face(tmp_path: Path) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    pack = tmp_path / "faces.bin"
    write_pair_pack(pack, [cv2.imencode(".png", face[..., ::-1])[1].tobytes() for face in faces], [True, False])
    names = [*(f"{pack}#{number}" for number in (3, 0, 2, 1)), f"{pack}#4", str(tmp_path / "gone.png")]
    gallery, crops = gallery_of(names), FaceCrops([tmp_path])
    found = [crops.cut(gallery, row) for row in range(len(names))]
    for face, number in zip(found, (3, 0, 2, 1), strict=False):
        np.testing.assert_array_equal(face, faces[number])
    assert found[4:] == [None, None] and not crops.left_out


def test_only_images_below_the_folders_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, secret = tmp_path / "own", tmp_path / "own secret"  # whose name begins as that of the folder
    for folder in (own, secret):
        folder.mkdir()
        cv2.imwrite(str(folder / "a#1.png"), np.zeros((SIZE, SIZE, 3), np.uint8))
        content = (folder / "a#1.png").read_bytes()
        write_pair_pack(folder / "p.bin", [content] * 4, [True, False])
    (own / "link.png").symlink_to(secret / "a#1.png")
    (own / "link.bin").symlink_to(secret / "p.bin")
    (own / "folder").symlink_to(secret)
    (own / "-").write_bytes(b"")  # a pack of this name would be a list on standard input
    monkeypatch.chdir(own)
    inside = ["a#1.png", str(own / "a#1.png"), "../own/a#1.png", "p.bin#0", f"{own}/p.bin#3"]
    outside = [str(secret / "a#1.png"), "../own secret/a#1.png", f"{secret}/p.bin#0", "link.png", "link.bin#1"]
    outside += ["folder/a#1.png", "folder/p.bin#0", "/proc/kmsg", "a\0b.png"]
    gone = ["b.png", "b.bin#0", "a#1.png#0", "-#0", "p.bin#x", "."]
    gallery = gallery_of([*inside, *outside, *gone])
    crops = FaceCrops([own])
    found = [crops.cut(gallery, row) is not None for row in range(len(gallery))]
    assert found == [True] * len(inside) + [False] * (len(outside) + len(gone))
    assert list(crops.left_out) == outside
    # A name that the user gave is opened wherever it is; the kernel's files never are, though they look regular.
    crops = FaceCrops([own], [outside[0], outside[2]])
    assert [crops.cut(gallery, row) is not None for row in range(5, 8)] == [True, False, True]
    crops = FaceCrops([Path("/")])
    assert crops.cut(gallery, len(inside) + outside.index("/proc/kmsg")) is None and not crops.left_out
