"""facekd's own verification pack: what is written is read, and nothing else is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.data.pair_packs.npz_file import parse_native_pair_pack, write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError

IMAGES = [b"one", b"PK\x03\x04two", b"\0\0", b"4"]
PACK = PairPack(IMAGES, np.array([True, False]), np.array([["a", "a"], ["a", "bé"]]), np.array([0, 1]))


@given(st.lists(st.tuples(st.binary(min_size=1), st.binary(min_size=1), st.booleans()), min_size=1, max_size=5))
def test_a_round_trip_keeps_everything(pairs: list[tuple[bytes, bytes, bool]]) -> None:
    images = [image for first, second, _ in pairs for image in (first, second)]
    is_same = np.array([same for *_, same in pairs])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        write_native_pair_pack(path, PairPack(images, is_same))
        pack = read_pair_pack(path)
    assert pack.images == images and pack.is_same.tolist() == is_same.tolist()
    assert pack.subjects is None and pack.fold_of is None


def test_subjects_and_folds_are_kept(tmp_path: Path) -> None:
    write_native_pair_pack(tmp_path / "x.npz", PACK)
    pack = read_pair_pack(tmp_path / "x.npz")
    assert pack.subjects is not None and pack.subjects.tolist() == [["a", "a"], ["a", "bé"]]
    assert pack.fold_of is not None and pack.fold_of.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("other")}, "not of verification pairs"),
        ({"version": np.array(2)}, "version 2"),
        ({"version": np.array((1, 2), dtype="i4,i4")}, r"version \(1, 2\)"),
        ({"version": np.array([1])}, r"version \[1\]"),
        ({"version": np.array("1")}, "version 1;"),
        ({"format": np.array(["facekd-pair-pack"])}, "not of verification pairs"),
        ({"format": np.array(b"facekd-pair-pack")}, "not of verification pairs"),
        ({"is_same": np.array([[True, False]])}, r"is_same is an array bool \(1, 2\)"),
        ({"is_same": np.array(True)}, r"is_same is an array bool \(\); expected a list"),
        ({"is_same": np.array([(1, 0), (0, 1)], "i4,i4")}, "label of pair 0 is tuple"),
        ({"offsets": np.array([0, 2**63 - 1, -2, 12, 13])}, "offsets do not fit"),
        ({"offsets": np.array([0, 3, 2, 12, 13])}, "offsets do not fit"),
        ({"offsets": np.array([0.0, 3, 10, 12, 13])}, "offsets do not fit"),
        ({"is_same": np.array([True])}, "4 images, so 2 pairs, but 1 label"),
        ({"is_same": np.array([2, 0])}, "label of pair 0"),
        ({"fold_of": np.array([0, 2])}, "without gaps"),
        ({"fold_of": np.array([0, 1 << 45])}, "without gaps"),  # more numbers than there is memory
        ({"subjects": np.array([["a", "b"]])}, "subjects has shape"),
        (
            {"subjects": np.array([["a", "a"], ["b", "b"]])},
            "1 of its 2 labels contradicts its subjects: the first, pair 1, labelled impostor, compares b with b",
        ),
        ({"is_same": np.array([True, None], dtype=object)}, "cannot be read as a pack"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    write_native_pair_pack(tmp_path / "x.npz", PACK)
    with np.load(tmp_path / "x.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "y.npz", **{**arrays, **change})
    with pytest.raises(DataError, match=message):
        read_pair_pack(tmp_path / "y.npz")


def test_a_column_of_labels_is_read_and_compared_row_by_row(tmp_path: Path) -> None:
    write_native_pair_pack(tmp_path / "x.npz", PACK)
    with np.load(tmp_path / "x.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "y.npz", **{**arrays, "is_same": arrays["is_same"][:, None]})
    pack = read_pair_pack(tmp_path / "y.npz")
    assert pack.is_same.tolist() == [True, False] and pack.subjects is not None
    with pytest.raises(DataError, match="1 of its 2 labels contradicts its subjects: the first, pair 0"):
        np.savez(tmp_path / "y.npz", **{**arrays, "is_same": np.array([[0], [0]])})
        read_pair_pack(tmp_path / "y.npz")


def test_the_names_in_a_contradiction_are_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pair 0, labelled impostor, compares x{30} \.\.\. ") as caught:
        write_native_pair_pack(
            tmp_path / "x.npz", PairPack(IMAGES[:2], np.array([False]), np.array([["x" * 9000] * 2]))
        )
    assert len(str(caught.value)) < 1000


def test_damage_is_found_anywhere(tmp_path: Path) -> None:
    write_native_pair_pack(tmp_path / "x.npz", PACK)
    content = (tmp_path / "x.npz").read_bytes()
    for cut in range(4, len(content), 97):
        with pytest.raises(DataError):
            parse_native_pair_pack(content[:cut], "x")


def test_writing_checks_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="odd number"):
        write_native_pair_pack(tmp_path / "x.npz", PairPack(IMAGES[:3], np.array([True])))
    with pytest.raises(DataError, match="fold_of has shape"):
        write_native_pair_pack(tmp_path / "x.npz", PairPack(IMAGES, np.array([True, False]), None, np.array([0])))
    assert not list(tmp_path.iterdir())


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pack.npz"
    np.savez_compressed(path, data=np.zeros(200 << 20, np.uint8))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"pack\.npz: unpacks to 209,7[\d,]+ bytes, .*to exhaust the memory"):
        read_pair_pack(path)
