"""Arrays of texts: as numpy makes them, but not where one long name would take the memory of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.protocols.ijbs import read_table
from facekd.errors import DataError
from facekd.utils import text_arrays
from facekd.utils.text_arrays import join_text_arrays, require_even_arrays, require_even_lengths, text_array


@given(st.lists(st.text(alphabet="ab\u00e9\U0001f600", max_size=9), max_size=9))
def test_an_array_holds_its_texts(texts: list[str]) -> None:
    made = text_array(texts, "a list")
    assert made.tolist() == texts and made.dtype.kind == "U"


def test_one_long_name_among_many_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "b" * 3000
    assert len(text_array(["a"] * 1000 + [long], "a list")) == 1001  # little memory
    assert not text_array([], "a list").size
    with pytest.raises(DataError, match=r"^a\.txt: a name in it has 3,000 characters, and .* 0\.4 GB: shorten bbb"):
        text_array(["a"] * 30_000 + [long], "a.txt")
    monkeypatch.setattr(text_arrays, "FREE_BYTES", 1 << 20)
    assert text_array(["c" * 3000] * 100, "a list").nbytes == 4 * 3000 * 100  # much, which the names take themselves
    # Short names count as 16 bytes, so that names of 80 characters are never too long.
    assert text_array(["a"] * 100_000 + ["b" * 80], "a list").nbytes == 4 * 80 * 100_001
    with pytest.raises(DataError, match="has 94 characters"):
        text_array(["a"] * 100_000 + ["b" * 94], "a list")


def test_arrays_take_at_most_twenty_times_the_room_of_their_names() -> None:
    with pytest.raises(DataError, match=r"a name in it has 1,020 characters, .* 1,000,001 names .* 4\.1 GB"):
        require_even_lengths(["abc"] * 1_000_000 + ["x" * 1020], "a list")


def test_joined_arrays_have_the_texts_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [np.array(["a", "\u00e9\U0001f600"]), np.zeros(0, np.str_), np.array(["long name"])]
    assert join_text_arrays(parts, "a list").tolist() == ["a", "\u00e9\U0001f600", "long name"]
    assert not join_text_arrays(parts[1:2], "a list").size
    monkeypatch.setattr(text_arrays, "FREE_BYTES", 1 << 20)
    # Each is small, and the entries of one would get the room of the other.
    many, one = np.array(["a"] * 10_000), np.array(["b" * 3000])
    with pytest.raises(DataError, match=r"^a\.txt: a name in it has 3,000 characters, and .* 10,001 names"):
        join_text_arrays([many, one], "a.txt")
    with pytest.raises(DataError, match="a name in it has 3,000 characters"):
        require_even_arrays([many.astype(np.bytes_), np.array([b"b\xff" * 1500])], "a.txt")


def test_a_table_with_a_long_name_cannot_exhaust_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "gallery_G1.csv"
    rows = [f"{number},{'b' * 100_000 if number == 7 else number},a.jpg" for number in range(1000)]
    path.write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME", *rows]))
    with pytest.raises(DataError, match=r"gallery_G1\.csv: a name in it has 100,000 characters"):
        read_table(path, {})
