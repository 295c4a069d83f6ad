"""Arrays of texts: as numpy makes them, but not where one long name would take the memory of all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.protocols.ijbs import read_table
from facekd.errors import DataError
from facekd.utils import text_arrays
from facekd.utils.text_arrays import text_array


@given(st.lists(st.text(alphabet="ab\u00e9\U0001f600", max_size=9), max_size=9))
def test_an_array_holds_its_texts(texts: list[str]) -> None:
    made = text_array(texts, "a list")
    assert made.tolist() == texts and made.dtype.kind == "U"


def test_one_long_name_among_many_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "b" * 3000
    assert len(text_array(["a"] * 1000 + [long], "a list")) == 1001  # little memory
    with pytest.raises(DataError, match=r"^a\.txt: a name in it has 3,000 characters, and .* 0\.4 GB: shorten bbb"):
        text_array(["a"] * 30_000 + [long], "a.txt")
    monkeypatch.setattr(text_arrays, "FREE_BYTES", 1 << 20)
    assert text_array(["c" * 3000] * 100, "a list").nbytes == 4 * 3000 * 100  # much, which the names take themselves


def test_a_table_with_a_long_name_cannot_exhaust_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "gallery_G1.csv"
    rows = [f"{number},{'b' * 100_000 if number == 7 else number},a.jpg" for number in range(1000)]
    path.write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME", *rows]))
    with pytest.raises(DataError, match=r"gallery_G1\.csv: a name in it has 100,000 characters"):
        read_table(path, {})
