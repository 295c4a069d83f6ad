"""The picture of who resembles whom, from the cosines that a run keeps."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.errors import DataError
from facekd.files.npy_files import read_npz
from facekd.training.logbook.centre_maps import FILE, draw_centre_maps, write_centre_maps


def families(count: int) -> np.ndarray:
    """Centres of classes that are of two kinds by turns."""
    generator = np.random.default_rng(0)
    return (-1.0) ** np.arange(count)[:, None] + 0.2 * generator.normal(size=(count, 8))


def test_what_is_kept_is_the_cosines_of_classes_evenly_spread(tmp_path: Path) -> None:
    rows, means = families(79), 3 * families(79)[:, ::-1]
    write_centre_maps(tmp_path, np.arange(100, 179), {"rows": rows, "means": means})
    kept = read_npz(tmp_path / FILE, "")
    assert kept["classes"].tolist() == list(range(100, 179, 2))  # 40 of them
    for i in (0, 7, 39):
        for j in (0, 3, 39):
            one, other = rows[2 * i], rows[2 * j]
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            assert kept["rows"][i, j] == pytest.approx(cosine, abs=1e-6)
    assert np.diag(kept["means"]) == pytest.approx(np.ones(40))


def test_classes_of_a_kind_stand_together_in_the_picture(tmp_path: Path) -> None:
    write_centre_maps(tmp_path, np.arange(20), {"rows": families(20), "means": families(20)})
    picture = draw_centre_maps(tmp_path)
    assert picture is not None and "20 classes" in picture.caption and "rows of the classifier" in picture.alt
    # Down a column of the first map its colour changes once, from one kind to the other, not nineteen times.
    pixels = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR).astype(int)
    height, width = pixels.shape[:2]
    column = pixels[int(0.2 * height) : int(0.8 * height), int(0.15 * width)]
    is_alike = column[:, 2] > column[:, 0]  # orange, or violet
    assert np.abs(np.diff(is_alike.astype(int))).sum() == 1


def test_a_run_without_maps_has_no_picture_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert draw_centre_maps(tmp_path) is None
    write_centre_maps(tmp_path, np.arange(2), {"rows": families(2), "means": families(2)})
    assert draw_centre_maps(tmp_path) is None  # two classes show nothing
    for wrong in (
        {"rows": np.ones((3, 3))},
        {"rows": np.ones((3, 3)), "means": np.ones((3, 4))},
        {"rows": np.full((3, 3), np.nan), "means": np.ones((3, 3))},
        {"rows": np.ones((3, 3), int), "means": np.ones((3, 3))},
        {"rows": np.ones((41, 41)), "means": np.ones((41, 41))},
        {"rows": np.ones((3, 3)), "means": np.full((3, 3), 1e308)},  # matplotlib has no scale for these
    ):
        np.savez(tmp_path / FILE, **wrong)
        with pytest.raises(DataError, match=r"centres\.npz: damaged: .* delete it"):
            draw_centre_maps(tmp_path)
