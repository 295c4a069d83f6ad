"""Lists of a protocol in which one name is so long that an array of all would exhaust the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.protocols import survface
from evaluation.protocols.ijbs import load_ijbs
from evaluation.sets.pair_set import read_subjects
from facekd.errors import DataError
from facekd.utils import text_arrays

LONG, COUNT = "7" * 3000, 2000


@pytest.fixture(autouse=True)
def little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_arrays, "FREE_BYTES", 1 << 20)


def test_names_of_a_pack(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("a/1\ta/2\t1\n" * COUNT + f"{LONG[:250]}/1\t{LONG[:250]}/2\t1\n")
    with pytest.raises(DataError, match=r"names\.txt: a name in it has 250 characters, and .* 4,002 names"):
        read_subjects(path, np.ones(COUNT + 1, bool), "pack.bin")


def test_pairs_of_survface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / survface.VERIFICATION).mkdir()
    names = [f"1_{number}.jpg" for number in range(2 * COUNT)]
    lists = [{"positive_pairs_names": names}, {"negative_pairs_names": ["2_a.jpg", f"{LONG}_a.jpg"]}]
    monkeypatch.setattr(survface, "read_mat_lists", lambda _: lists)
    with pytest.raises(DataError, match=r"Test_Set: a name in it has 3,000 characters, and .* 4,002 names"):
        survface.load_survface(tmp_path)


def test_tables_that_are_small_by_themselves(tmp_path: Path) -> None:
    head = "TEMPLATE_ID,SUBJECT_ID,FILENAME"
    rows = [f"{number},1,{number}.jpg" for number in range(COUNT)]
    for name, own in (("gallery_G1", rows), ("probe_a", rows), ("probe_b", [f"1,{LONG},b.jpg"])):
        (tmp_path / "protocols").mkdir(exist_ok=True)
        (tmp_path / "protocols" / f"{name}.csv").write_text("\n".join([head, *own]))
    with pytest.raises(DataError, match=r"a name in it has 3,000 characters, and .* 2,001 names"):
        load_ijbs(tmp_path)
