"""Lists the readers of arrays: `.npy` files, and packs, galleries and embeddings in `.npz` archives."""

from __future__ import annotations

import contextlib
import functools
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.inspection.identity_findings import load_embeddings
from evaluation.kept_arrays import END_MARK, _checksum
from evaluation.sets.embedding_cache import _read_cached
from evaluation.sets.embedding_rows import NpyRows
from evaluation.sets.given_embeddings import read_named_embeddings
from facekd.data.pair_packs.npz_file import write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack
from facekd.errors import DataError
from facekd.faces import Gallery, Origin, read_gallery, write_gallery
from facekd.faces.gallery import is_gallery
from facekd.faces.search.crops import FaceCrops
from facekd.files.npy_files import NPY_START
from facekd.images.preprocessing import Preprocessing
from tests.fuzz.binary_targets import encoded, read_pairs
from tests.fuzz.target import Target


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npy_seeds() -> list[bytes]:
    """Returns rows of equal numbers, rows whose halves agree, and one of infinite numbers beside zeros."""
    halves = np.random.default_rng(0).normal(size=(4, 8))
    arrays = [np.ones((4, 8), dtype) for dtype in (np.float32, np.float16, np.float64)]
    arrays += [np.concatenate([halves, halves], axis=1), np.asfortranarray(halves), np.ones((4, 8), np.float32)]
    arrays[-1][0] = [np.inf] * 4 + [0] * 4
    return [_saved(array) for array in arrays]


def _read_npy(path: Path) -> np.ndarray:
    """Reads rows whole and in part, as one embedding and as two; numpy's own reader finds the same."""
    rows = NpyRows(path, None, False, 4)
    expected = np.load(path, allow_pickle=False)
    np.testing.assert_array_equal(rows.read(0, 4)[0], expected)
    np.testing.assert_array_equal(rows.read(1, 3)[0], expected[1:3])
    for holds_flipped in (True, None):
        with contextlib.suppress(DataError):
            parts = NpyRows(path, None, holds_flipped, 4).read(0, 4)
            found = np.concatenate([part for part in parts if part is not None], axis=1)
            np.testing.assert_array_equal(found, expected)
    with contextlib.suppress(DataError):
        np.testing.assert_array_equal(load_embeddings(path, 4), expected.astype(np.float32))
    return expected


def _read_kept(path: Path) -> np.ndarray | None:
    """Reads an array behind which the mark and the right checksum stand."""
    content = path.read_bytes()
    path.write_bytes(content + END_MARK + _checksum(path, content))
    return _read_cached(path, (3, 4))


def _check_kept(content: bytes, found: np.ndarray | None) -> None:
    if found is not None:
        assert found.shape == (3, 4) and found.dtype == np.float32
        np.testing.assert_array_equal(found, np.load(io.BytesIO(content), allow_pickle=False))


def _members(content: bytes) -> tuple[tuple[str, ...], bytes]:
    """Returns the names of the members of an archive, and their contents one after the other."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return tuple(archive.namelist()), b"".join(archive.read(name) for name in archive.namelist())


def _of_members(write: Callable[[], bytes], read: Callable[[Path], Any]) -> tuple[Any, Any]:
    """Returns a reader of the members of an archive, and their seeds: damage in a zip is seldom more than a wrong CRC.

    Args:
        write: returns an archive.
        read: reads one; the reader returned puts members into an archive whose checksums are right.
    """

    def read_members(path: Path) -> Any:
        parts = path.read_bytes().split(NPY_START)[1:]
        with zipfile.ZipFile(path, "w") as archive:
            for name, part in zip(_members(write())[0], parts, strict=False):
                archive.writestr(name, NPY_START + part)
        return read(path)

    return read_members, lambda: [_members(write())[1]]


@functools.cache
def _pairs() -> bytes:
    stream = io.BytesIO()
    subjects = np.array([["ann", "ann"], ["ann", "bob"]])
    pack = PairPack([encoded(".png", 4)] * 4, np.array([True, False]), subjects, np.array([0, 1]))
    write_native_pair_pack(stream, pack)
    return stream.getvalue()


@functools.cache
def gallery_file() -> bytes:
    stream = io.BytesIO()
    faces = np.eye(3, dtype=np.float32), np.ones(3, np.float32), np.array(["a.jpg", "../b.jpg", "/c.rec#3"])
    places = (np.full(shape, np.nan, np.float32) for shape in ((3, 4), (3, 5, 2), (3,)))
    write_gallery(stream, Gallery(*faces, np.array(["", "Ada", ""]), *places, Origin("m.onnx", "ab", Preprocessing())))
    return stream.getvalue()


def read_gallery_as_search(path: Path) -> Gallery:
    """Reads a gallery as `facekd search` does, which first looks whether the file is one."""
    is_gallery(path)
    return read_gallery(path)


def check_gallery(_: bytes, gallery: Any) -> None:
    """Whatever its names are, no other image is opened than those below the folder, in which there is none."""
    crops = FaceCrops([Path("/nowhere")])
    assert all(crops.cut(gallery, row) is None for row in range(len(gallery)))
    assert {*crops.left_out} == {*gallery.names.tolist()}


@functools.cache
def _given(names: Any = ("a/1.jpg", "b/1.jpg"), save: Callable[..., None] = np.savez) -> bytes:
    stream = io.BytesIO()
    save(stream, names=np.array(names), embeddings=np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))
    return stream.getvalue()


def _read_given(path: Path) -> Any:
    """Reads embeddings by name, as one for each image and as two; numpy's own reader finds the same."""
    given, places = read_named_embeddings(path, False)
    with np.load(path, allow_pickle=False) as archive:
        names, expected = archive["names"], archive["embeddings"]
    assert len(names) == len(places) and sorted(places.values()) == list(range(len(places)))
    assert all(isinstance(name, str) for name in places)
    np.testing.assert_array_equal(given.compared(None)[0], expected)
    for holds_flipped in (True, None):
        with contextlib.suppress(DataError):
            other, _ = read_named_embeddings(path, holds_flipped)
            parts = [part for part in (other.plain, other.mirrored) if part is not None]
            np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)
    return given, places


GIVEN_NAMES = (("a/1.jpg", "b/1.jpg"), (b"a/1.jpg", b"\xff/1.jpg"))
PAIRS, GALLERY, GIVEN = (
    _of_members(_pairs, read_pairs),
    _of_members(gallery_file, read_gallery_as_search),
    _of_members(_given, _read_given),
)

TARGETS = [
    Target("npy", "embeddings.npy", _read_npy, _npy_seeds),
    Target(
        "npy_kept",
        "kept.npy",
        _read_kept,
        lambda: [_saved(np.arange(12, dtype=np.float32).reshape(3, 4))],
        _check_kept,
    ),
    Target("pairs_npz", "pack.npz", *PAIRS),
    Target("gallery", "faces.npz", *GALLERY, check_gallery),
    Target("given_members", "given.npz", *GIVEN),
    # That of the three whose archive itself is damaged.
    Target(
        "given_npz",
        "given.npz",
        _read_given,
        lambda: [_given(names, save) for names in GIVEN_NAMES for save in (np.savez, np.savez_compressed)],
    ),
]
