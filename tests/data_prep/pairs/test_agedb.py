"""AgeDB as it is handed out: who is on an image in its file name, and the pairs of the protocol in a `.mat`.

Neither images nor protocol can be had freely, so both are imitated; the structure is that which public readers of the
protocol rely on (see `agedb_pairs`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from data_prep import convert_records, make_pair_set, pack_records, unpack_records
from data_prep.pairs.agedb import read_agedb_protocol
from data_prep.pairs.published_lists import read_pair_list
from data_prep.sources.image_lists import list_folder
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError
from facekd.utils.processes import apart

Run = Callable[..., tuple[int, str, str]]
NAMES = [f"{number}_{who}_{age}_f" for number, (who, age) in enumerate([("Maria", 35), ("Zoe", 61), ("Ada", 4)] * 4)]
NAMES[7] = "7_Zoe_La_Grande_18_f"


def picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (32, 32)))[1].tobytes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "AgeDB").mkdir()
    for seed, name in enumerate(NAMES):
        (tmp_path / "AgeDB" / f"{name}.jpg").write_bytes(picture(seed))
    return tmp_path / "AgeDB"


def test_people_are_told_by_the_names_of_files(photos: Path, tmp_path: Path, run: Run) -> None:
    assert run(pack_records.main, photos, tmp_path / "pack", "--size", 32)[0] == 0
    data = open_record_pack(tmp_path / "pack")
    expected = [*["Ada"] * 4, *["Maria"] * 4, *["Zoe"] * 3, "Zoe_La_Grande"]
    people = sorted(set(expected))
    assert [people[label] for label in data.labels().tolist()] == expected
    assert run(unpack_records.main, tmp_path / "pack", tmp_path / "back")[0] == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()} == {
        file.name: file.read_bytes() for file in photos.iterdir()
    }
    assert run(convert_records.main, photos, tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "train.rec").read_bytes() == (tmp_path / "pack" / "train.rec").read_bytes()


def test_a_folder_of_other_names_is_none(photos: Path) -> None:
    (photos / "Maria_35.jpg").write_bytes(picture(0))
    with pytest.raises(DataError, match=r"one subfolder of images .* or images named as AgeDB's"):
        list_folder(photos)


def test_drawn_pairs_know_the_people(photos: Path, tmp_path: Path, run: Run) -> None:
    (photos / f"{NAMES[7]}.jpg").rename(photos / "7_Zoe_18_f.jpg")
    status, out, _ = run(make_pair_set.main, photos, tmp_path / "p.npz", "--sample", "all", "--folds", 2, "--size", 32)
    assert status == 0 and "of 3 people" in out
    pack = read_pair_pack(tmp_path / "p.npz")
    assert pack.subjects is not None
    assert set(pack.subjects.ravel()) == {"Ada", "Maria", "Zoe"}
    assert ((pack.subjects[:, 0] == pack.subjects[:, 1]) == pack.is_same).all()


def face(name: object, age: int) -> np.ndarray:
    return np.array([[(np.array([name]), np.array([[age]]))]], dtype=[("name", object), ("age", object)])


def fold(pairs: list[tuple[str, str, int]]) -> np.ndarray:
    faces = np.empty((2, len(pairs)), dtype=object)
    for column, pair in enumerate(pairs):
        for row in (0, 1):
            faces[row, column] = face(pair[row], 30 * row + 5)
    labels = np.array([[label for _, _, label in pairs]], dtype=np.int16)
    return np.array([[(faces, labels)]], dtype=[("data", object), ("labels", object)])


def protocol(path: Path, folds: list[np.ndarray]) -> Path:
    splits = np.empty((len(folds), 1), dtype=object)
    for number, one in enumerate(folds):
        splits[number, 0] = one
    savemat(path, {"splits": splits})
    return path


FOLDS = [
    [("Maria_x_0_5_f", "Maria_x_1_35_f", 1), ("Maria_x_0_5_f", "Zoe_y_2_35_f", -1)],
    [("Zoe_y_2_5_f", "Zoe_y_3_35_f", 1), ("Ada_z_4_5_f", "Maria_x_1_35_f", -1), ("Ada_z_4_5_f", "Ada_z_5_35_f", 1)],
]


def test_the_protocol_is_read(tmp_path: Path) -> None:
    pairs = read_pair_list(protocol(tmp_path / "04_FINAL_protocol_30_years.mat", [fold(pairs) for pairs in FOLDS]))
    assert pairs.layout == "agedb"
    assert pairs.names == [pair[:2] for one in FOLDS for pair in one]
    assert pairs.is_same.tolist() == [True, False, True, False, True]
    assert pairs.fold_of is not None and pairs.fold_of.tolist() == [0, 0, 1, 1, 1]
    assert pairs.subjects is not None and pairs.subjects[1] == ("Maria", "Zoe")


def test_the_protocol_becomes_a_pack(tmp_path: Path, run: Run) -> None:
    (tmp_path / "03_Protocol_Images").mkdir()
    for seed, name in enumerate(sorted({name for one in FOLDS for pair in one for name in pair[:2]})):
        (tmp_path / "03_Protocol_Images" / f"{name}.jpg").write_bytes(picture(seed))
    path = protocol(tmp_path / "a.mat", [fold(pairs) for pairs in FOLDS])
    out = tmp_path / "agedb_30.npz"
    status, said, err = run(make_pair_set.main, tmp_path / "03_Protocol_Images", out, "--pairs", path, "--size", 32)
    assert (
        status == 0 and "5 pairs of 3 people, 3 genuine of 3 people, 2 impostor of 2 pairs of people, 2 folds" in said
    ), err
    pack = read_pair_pack(out)
    assert pack.images[2] == (tmp_path / "03_Protocol_Images" / "Maria_x_0_5_f.jpg").read_bytes()
    assert pack.fold_of is not None and pack.fold_of.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (
            [fold([("Maria_x_0_5_f", "Zoe_y_1_35_f", 1)])],
            "1 of 1 label contradicts the names, first that of Maria_x_0_5_f",
        ),
        ([fold([("Maria_x_0_5_f", "Maria_x_1_35_f", 2)])], "fold 1 is no fold of AgeDB"),
        ([np.zeros((2, 3))], "fold 1 is no fold of AgeDB .*in place of a struct"),
        ([fold([("", "Zoe_y_1_35_f", -1)])], "fold 1 is no fold of AgeDB .*without a name"),
        ([], "holds no pairs"),
    ],
)
def test_another_structure_is_refused(tmp_path: Path, folds: list[np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pair_list(protocol(tmp_path / "a.mat", folds))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = protocol(tmp_path / "a.mat", [fold(pairs) for pairs in FOLDS])
    content = path.read_bytes()
    for length in (0, 3, 100, len(content) // 2, len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.mat"):
            read_pair_list(path)
    savemat(path, {"others": np.zeros(3)})
    with pytest.raises(DataError, match="is no protocol of AgeDB: expected `splits`"):
        read_pair_list(path)
    with pytest.raises(FileNotFoundError):
        read_pair_list(tmp_path / "absent.mat")


@pytest.mark.parametrize(
    "rows", [None, {}, [5], [["a", "b", True]], [["a", "b", 1, 0]], [["a", "b", True, -1]], [["a", "b", True, 10**30]]]
)
def test_what_a_process_returns_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: object) -> None:
    """As of one that the protocol has taken over."""
    printed = json.dumps({"value": rows})
    monkeypatch.setattr(apart, "START_MODULE", ("/bin/sh", "-c", 'printf %s "$0"', printed))
    (tmp_path / "x.mat").touch()
    with pytest.raises(DataError, match=r"x\.mat: cannot be read as a protocol of AgeDB: its parser returned"):
        read_agedb_protocol(tmp_path / "x.mat")
