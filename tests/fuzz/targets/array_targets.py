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
from evaluation.sets.qualities import read_named_array, read_quality
from facekd.data.pair_packs.npz_file import write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack
from facekd.errors import DataError
from facekd.experiments.studies.comparison import read_draws
from facekd.faces import Gallery, Origin, read_gallery, write_gallery
from facekd.faces.gallery import is_gallery
from facekd.faces.search.crops import FaceCrops
from facekd.files.npy_files import NPY_START
from facekd.images.preprocessing import Preprocessing
from facekd.results.kept_scores import read_scores
from facekd.results.reading import read_curves
from facekd.training.logbook import centre_maps
from facekd.verification.measures import verification_curves
from facekd.verification.ranked_scores import RankedScores
from tests.fuzz.target import Target
from tests.fuzz.targets.binary_targets import encoded, read_pairs
from tests.fuzz.targets.json_targets import leaves
from tests.results_of_each_kind import people


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
    boxes, landmarks, scores = (np.full(shape, np.nan, np.float32) for shape in ((3, 4), (3, 5, 2), (3,)))
    origin = Origin("m.onnx", "ab", Preprocessing())
    write_gallery(stream, Gallery(*faces, np.array(["", "Ada", ""]), boxes, landmarks, scores, origin))
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
    # np.load itself takes no archive behind other bytes; what it opens an archive with does, as zipfile does.
    with np.lib.npyio.NpzFile(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
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


def _curves() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)  # the scores of `people`
    scores = generator.normal(0.6, 0.2, 20).clip(-1, 1), generator.normal(0, 0.2, 40).clip(-1, 1)
    return [{**verification_curves(RankedScores(*scores))}]


def _read_quality(path: Path) -> tuple[np.ndarray, Any]:
    """Reads the first of the arrays as a file of qualities, and another as that of a gallery."""
    qualities = read_quality(str(path.with_name("quality.npy")), 3, "the images")[0]
    return qualities, read_named_array(str(path), "norms", np.arange(3), "lengths of embeddings")


def _write_quality(path: Path, content: dict[str, Any]) -> None:
    np.save(path.with_name("quality.npy"), content.get("quality", np.ones(0)))
    np.savez(path, **content)


def _check_finite(_: bytes, found: Any) -> None:
    """Has finite numbers and nothing else."""
    arrays = found.values() if isinstance(found, dict) else found if isinstance(found, tuple) else (found,)
    assert all(array.dtype.kind in "fiu" and np.isfinite(array).all() for array in arrays)


def _read_draws(path: Path) -> tuple[np.ndarray, ...] | None:
    points = [{"far": 0.1, "tar": 0.5}, {"far": 0.01, "tar": 0.25}]
    about = {"resampled": "subjects", "replicates": 4, "num_subjects": 3}
    draws = read_draws(path.parent, {"bootstrap": about, "tar_at_far": points, "eer": 0.0})
    return None if draws is None else (draws.eer, *draws.tar.values())


# Arrays of every kind and shape, with every odd number in them.
ARRAYS = {
    "nothing": np.ones(0),
    "scalar": np.array(1.0),
    "rows": np.ones((2, 3)),
    "long": np.ones(5000),
    "whole": np.arange(3),
    "unsigned": np.arange(4, dtype=np.uint8),
    "half": np.full(4, 0.5, np.float16),
    "complex": np.ones(3, np.complex64),
    "switches": np.ones(3, bool),
    "nan": np.full(4, np.nan),
    "infinite": np.array([0.5, np.inf, 0.5]),
    "huge": np.full(3, 1e308),
    "below": np.full(4, -1.0),
    "longdouble": np.ones(4, np.longdouble),
    "texts": np.array(["a", "b", "c"]),
    "bytes": np.array([b"a", b"b", b"c"]),
    "dates": np.array(["2026-01-01"] * 3, "datetime64[D]"),
    "fields": np.zeros(3, [("a", "f4"), ("b", "i4")]),
    "objects": np.array([None, 1, "a"], object),
    "missing": ...,
}
CENTRES = {"classes": np.arange(3), "rows": np.eye(3, dtype=np.float32), "means": np.full((3, 3), 0.5, np.float32)}
DRAWS = {"eer": np.array([0.1, 0.2, 0.1, 0.3]), "fars": np.array([0.1, 0.01]), "tar": np.full((2, 4), 0.5)}
QUALITIES = {"quality": np.array([0.5, 1, 2]), "norms": np.array([1.0, 2, 3]), "names": np.array(["a", "b", "c"])}


def _changed(*arguments: Any, **more: Any) -> Target:
    """Returns a target whose arrays give way to others."""
    return leaves(*arguments, kinds=ARRAYS, **more)


def _write_npz(path: Path, content: dict[str, Any]) -> None:
    np.savez(path, **content)


TARGETS = [
    _changed(
        "curves",
        "curves.npz",
        _curves,
        lambda path: read_curves(path.parent, people()),
        _write_npz,
        check=_check_finite,
    ),
    _changed("draws", "draws.npz", lambda: [DRAWS], _read_draws, _write_npz, check=_check_finite),
    _changed("centre_maps", "centres.npz", lambda: [CENTRES], centre_maps._read, _write_npz, check=_check_finite),
    _changed(
        "qualities",
        "norms.npz",
        lambda: [QUALITIES],
        _read_quality,
        _write_quality,
        check=_check_finite,
        is_named=False,
    ),
    _changed(
        "scores",
        "scores.npy",
        lambda: [{"scores": np.array([0.5, -0.25])}],
        lambda path: read_scores(path.parent),
        lambda path, content: np.save(path, content.get("scores", np.ones(0))),
    ),
    Target("npy", "embeddings.npy", _read_npy, _npy_seeds),
    Target(
        "npy_kept",
        "kept.npy",
        _read_kept,
        lambda: [_saved(np.arange(12, dtype=np.float32).reshape(3, 4))],
        _check_kept,
    ),
    Target("pairs_npz", "pack.npz", *PAIRS, copies=60),
    Target("gallery", "faces.npz", *GALLERY, check_gallery, copies=60),
    Target("given_members", "given.npz", *GIVEN, copies=80),
    # That of the three whose archive itself is damaged.
    Target(
        "given_npz",
        "given.npz",
        _read_given,
        lambda: [_given(names, save) for names in GIVEN_NAMES for save in (np.savez, np.savez_compressed)],
    ),
]
