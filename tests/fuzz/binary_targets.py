"""Lists the readers of binary files: packs, caches, arrays, archives, checkpoints, images."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.inspection.identity_findings import load_embeddings
from data_prep.sources.image_sources import open_source
from evaluation.kept_arrays import read_kept, write_kept
from evaluation.sets.embedding_rows import NpyRows
from facekd.data.pair_packs.npz_file import write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack, decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.faces import Gallery, Origin, read_gallery, write_gallery
from facekd.faces.gallery import is_gallery
from facekd.faces.search.crops import FaceCrops
from facekd.images.decoding import decode_rgb
from facekd.images.preprocessing import Preprocessing
from tests.fuzz.target import Target


def encoded(suffix: str = ".jpg", size: int = 8) -> bytes:
    """Encodes a small picture."""
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def _kept_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.npy"
        write_kept(path, np.arange(12, dtype=np.float32).reshape(3, 4))
        return [path.read_bytes()]


def _check_kept(_: bytes, found: Any) -> None:
    """A damaged array is read as none, never as other values."""
    if found is not None:
        np.testing.assert_array_equal(found, np.arange(12, dtype=np.float32).reshape(3, 4))


def _bin_seeds() -> list[bytes]:
    images = [encoded(".png", 4) for _ in range(4)]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    forms: list[Any] = [
        (images, [True, False]),
        (arrays, np.array([True, False]).tolist()),
        (images, [np.True_, np.False_]),
    ]
    return [pickle.dumps(form, protocol) for form in forms for protocol in (2, 4)]


def _npz_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.npz"
        write_native_pair_pack(path, PairPack([encoded(".png", 4)] * 4, np.array([True, False])))
        return [path.read_bytes()]


def _gallery_seeds() -> list[bytes]:
    import tempfile

    faces = np.eye(3, dtype=np.float32), np.ones(3, np.float32), np.array(["a.jpg", "../b.jpg", "/c.rec#3"])
    places = (np.full(shape, np.nan, np.float32) for shape in ((3, 4), (3, 5, 2), (3,)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.npz"
        write_gallery(
            path, Gallery(*faces, np.array(["", "Ada", ""]), *places, Origin("m.onnx", "ab", Preprocessing()))
        )
        return [path.read_bytes()]


def _read_gallery(path: Path) -> Gallery:
    """Reads a gallery as `facekd search` does, which first looks whether the file is one."""
    is_gallery(path)
    return read_gallery(path)


def _check_gallery(_: bytes, gallery: Any) -> None:
    """Whatever its names are, no other image is opened than those below the folder, in which there is none."""
    crops = FaceCrops([Path("/nowhere")])
    assert all(crops.cut(gallery, row) is None for row in range(len(gallery)))
    assert {*crops.left_out} == {*gallery.names.tolist()}


def _read_pairs(path: Path) -> int:
    found = read_pair_pack(path)
    decode_images(found.images[:2], source=path)
    return len(found)


def _npy_seeds() -> list[bytes]:
    seeds = []
    for dtype in (np.float32, np.float16, np.float64):
        stream = io.BytesIO()
        np.save(stream, np.ones((4, 8), dtype))
        seeds.append(stream.getvalue())
    return seeds


def tar_seeds() -> list[bytes]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(2):
            for suffix, content in ((".jpg", encoded()), (".cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return [stream.getvalue()]


def _read_source(path: Path) -> int:
    source = open_source(path)
    return sum(len(source.read(image)) for image in range(min(len(source.labels), 20)))


TARGETS = [
    Target("pairs_bin", "pack.bin", _read_pairs, _bin_seeds),
    Target("pairs_npz", "pack.npz", _read_pairs, _npz_seeds),
    Target("gallery", "faces.npz", _read_gallery, _gallery_seeds, _check_gallery),
    Target("npy", "embeddings.npy", lambda path: load_embeddings(path, 4), _npy_seeds),
    Target("npy_rows", "embeddings.npy", lambda path: NpyRows(path, None, False, 4).read(0, 4), _npy_seeds),
    Target("npy_kept", "kept.npy", read_kept, _kept_seeds, _check_kept),
    Target("tar", "train.tar", _read_source, tar_seeds),
    Target(
        "jpeg",
        "a.jpg",
        lambda path: decode_rgb(path.read_bytes()),
        lambda: [encoded(), encoded(size=40)],
        is_named=False,
    ),
    Target(
        "png",
        "a.png",
        lambda path: decode_rgb(path.read_bytes()),
        lambda: [encoded(".png"), encoded(".bmp")],
        is_named=False,
    ),
]
