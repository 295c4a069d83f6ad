"""Checks that what is wrong with a list of images is said in a sentence, however long the list's own words are."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources.image_lists import read_lst
from data_prep.sources.image_sources import read_tsv
from facekd.errors import DataError

LONG = "x" * 5000


@pytest.mark.parametrize("text", [f"1\t{LONG}.jpg\t{LONG}", f"1\t{LONG}.jpg\t1e300", f"0\t{'9' * 300}\t{LONG}.jpg"])
def test_errors_of_a_list_are_short(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.lst"
    path.write_text(text + "\n")
    with pytest.raises(DataError, match=r"line 1.* label ") as caught:
        read_lst(path)
    assert len(str(caught.value)) < 1000


def test_errors_of_a_table_are_short(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(f"{LONG}.jpg\t{10**17}\n")
    with pytest.raises(DataError, match=r"has label 1000.*labels are whole numbers") as caught:
        read_tsv(path)
    assert len(str(caught.value)) < 1000
