"""Tests what a cleaned pack says of the labels that its people had before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import clean_records, pack_records
from facekd.data.datasets import open_dataset
from facekd.data.datasets.cleaning import labels_before_cleaning
from facekd.data.datasets.identity_map import labels_sha256
from facekd.errors import DataError


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_a_cleaned_pack_says_which_labels_its_people_had(layout: str, tiny_faces: Path, tmp_path: Path) -> None:
    words = [str(tiny_faces), str(tmp_path / "pack"), "--size", "32", "--workers", "1", "--layout", layout]
    assert pack_records.main(words) == 0
    (tmp_path / "list.tsv").write_text("drop-identity\t1\nmerge\t2\t4\n")
    words = [str(tmp_path / "pack"), str(tmp_path / "clean"), "--apply", str(tmp_path / "list.tsv")]
    assert clean_records.main(words) == 0
    before = labels_sha256(open_dataset(tmp_path / "pack", 32))
    clean = open_dataset(tmp_path / "clean", 32)
    found = labels_before_cleaning(clean, before)
    assert found is not None and found.tolist() == [0, 2, 3, 5]

    # It was not made from other data, and its report says nothing of another pack.
    assert labels_before_cleaning(clean, labels_sha256(clean)) is None and labels_before_cleaning(clean, None) is None
    shutil.copy(tmp_path / "clean" / "clean_report.json", tmp_path / "pack")
    assert labels_before_cleaning(open_dataset(tmp_path / "pack", 32), before) is None
    assert labels_before_cleaning(open_dataset(tiny_faces, 32), before) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda report: report | {"old_label_of": [0, -1]},
            r"clean_report.json: damaged: its 'old_label_of\[1\]' is",
        ),
        (
            lambda report: report | {"old_label_of": "0"},
            "damaged: its 'old_label_of' is '0', expected a list",
        ),
        (lambda report: [], "clean_report.json: "),
    ],
)
def test_a_damaged_report_is_said(
    edit: Callable[[dict], object], message: str, tiny_faces: Path, tmp_path: Path
) -> None:
    assert pack_records.main([str(tiny_faces), str(tmp_path / "pack"), "--size", "32", "--workers", "1"]) == 0
    report = {"labels_sha256": "a", "old_labels_sha256": "b", "old_label_of": [0]}
    (tmp_path / "pack" / "clean_report.json").write_text(json.dumps(edit(report)))
    with pytest.raises(DataError, match=message):
        labels_before_cleaning(open_dataset(tmp_path / "pack", 32), "b")


def test_the_report_of_an_older_facekd_says_nothing(tiny_faces: Path, tmp_path: Path) -> None:
    assert pack_records.main([str(tiny_faces), str(tmp_path / "pack"), "--size", "32", "--workers", "1"]) == 0
    (tmp_path / "pack" / "clean_report.json").write_text('{"old_label_of": [0, 1]}')
    assert labels_before_cleaning(open_dataset(tmp_path / "pack", 32), "b") is None
