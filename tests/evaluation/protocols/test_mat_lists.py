"""Lists in .mat files: what is read of them, and that damaged or other ones end in a sentence."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from evaluation.protocols.mat_lists import named_ids, parse_mat_lists, read_mat_lists
from facekd.errors import DataError
from facekd.utils.processes import apart


def cells(names: list[list[str]]) -> np.ndarray:
    made = np.empty((len(names), len(names[0])), dtype=object)
    for row, own in enumerate(names):
        made[row] = own
    return made


def test_names_and_numbers_are_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    pairs = cells([["1_a.jpg", "1_b.jpg"], ["2_a.jpg", "3_a.jpg"]])
    savemat(path, {"pairs": pairs, "ids": np.array([[3.0], [4.0]]), "half": np.array([[0.5]])})
    (lists,) = read_mat_lists([path])
    assert lists == {"pairs": ["1_a.jpg", "1_b.jpg", "2_a.jpg", "3_a.jpg"], "ids": [3, 4]}


def test_what_is_no_list_ends_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    savemat(path, {"probe_set": cells([["1_0.jpg"]]), "other": np.array([[1]]), "two": np.array([[1, 2]])})
    (lists,) = parse_mat_lists(str(path))
    with pytest.raises(DataError, match=r"x\.mat: holds .*; expected the variables probe_set and probe_ids"):
        named_ids(path, lists, "probe_set", "probe_ids")
    with pytest.raises(DataError, match="1 probe_set and 2 two; expected one id a name"):
        named_ids(path, lists, "probe_set", "two")
    assert named_ids(path, lists, "probe_set", "other") == (["1_0.jpg"], ["1"])
    whole = path.read_bytes()
    for length in (0, 100, 130, 300, len(whole) - 9):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x.mat: is no whole .mat file of lists"):
            parse_mat_lists(str(path))
    with pytest.raises(DataError, match=r"y\.mat: is missing, one of the lists of the set"):
        read_mat_lists([tmp_path / "y.mat"])


def test_numbers_that_a_small_file_has_by_the_million_are_refused(tmp_path: Path) -> None:
    """Eight million zeros are eight kilobytes of a file, and took 114 MB of facekd's own process."""
    path = tmp_path / "x.mat"
    savemat(path, {"ids": np.zeros((1, 8_000_000), np.uint8)}, do_compression=True)
    assert path.stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"x\.mat: holds more than 1,000,000 values; the largest set has 153,428 names"):
        read_mat_lists([path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_texts_that_a_small_file_repeats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    savemat(path, {"names": np.full(20, "a" * 500_000, object)}, do_compression=True)
    with pytest.raises(
        DataError, match=r"x\.mat: cannot be read as a \.mat file of lists: its parser returns more than"
    ):
        read_mat_lists([path])


@pytest.mark.parametrize(
    "lists", [None, [], [{}, {}], [5], [{"a": 5}], [{"a": [1.5]}], [{"a": [[1]]}], [{"a": [None]}]]
)
def test_what_a_process_returns_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: object) -> None:
    """As of one that the file has taken over."""
    printed = json.dumps({"value": lists})
    monkeypatch.setattr(apart, "START_MODULE", ("/bin/sh", "-c", 'printf %s "$0"', printed))
    (tmp_path / "x.mat").touch()
    with pytest.raises(
        DataError, match=r"x\.mat: cannot be read as a .mat file of lists: its parser returned something"
    ):
        read_mat_lists([tmp_path / "x.mat"])
