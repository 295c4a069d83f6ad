"""Foreign text on a terminal, and errors of libraries that parse foreign bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import DataError, ModelError, run_verb
from facekd.files.npy_files import read_npy, read_npz
from facekd.utils.foreign import reading, shown
from facekd.utils.terminal import printable


@given(st.text())
def test_what_is_shown_is_one_line_that_a_terminal_does_not_obey(text):
    assert shown(text).isprintable()
    if text.isprintable() and len(text) <= 200:  # longer ones are cut
        assert shown(text) == text


def test_a_long_text_is_cut_in_the_middle():
    assert printable("a" * 3000 + "b" * 3000, 100) == f"{'a' * 50} ... (5,900 more characters) ... {'b' * 50}"


@given(st.text(max_size=60).map(lambda text: text * 40), st.integers(10, 300))
def test_what_is_cut_is_short_however_its_characters_are_written(text, longest):
    found = printable(text, longest, kept="")
    assert len(found) <= longest + len(" ... (2,400 more characters) ... ")
    whole = printable(text, None, kept="")
    assert found == whole or (
        len(whole) > longest
        and whole.startswith(found.partition(" ... (")[0])
        and whole.endswith(found.rpartition(") ... ")[2])
    )


def test_an_error_of_a_verb_shows_control_characters_as_escapes(capsys):
    def main() -> int:
        raise DataError("x\x1b[31mred\u202e.rec: no such pack")

    assert run_verb(main) == 2
    assert capsys.readouterr().err == "error: x\\x1b[31mred\\u202e.rec: no such pack\n"


@pytest.mark.parametrize(
    "cause", [KeyError("a"), RecursionError(), MemoryError(), ValueError("odd\nlines"), OSError("x")]
)
def test_whatever_a_parser_raises_names_the_file(cause):
    with (
        pytest.raises(
            ModelError, match=r"^m\.bin: cannot be read as a model \(\w+.*\): it is damaged.*; fetch it again"
        ),
        reading("m.bin", "a model", ModelError),
    ):
        raise cause


def test_errors_that_name_the_file_already_pass_through(tmp_path: Path):
    with pytest.raises(FileNotFoundError), reading("m.bin", "a model"):
        (tmp_path / "absent").read_bytes()
    with pytest.raises(DataError, match=r"^as it is$"), reading("m.bin", "a model"):
        raise DataError("as it is")


def test_arrays_and_archives_are_not_taken_for_each_other(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(3))
    np.savez(tmp_path / "b.npz", x=np.arange(3))
    assert read_npy(tmp_path / "a.npy", "").tolist() == read_npz(tmp_path / "b.npz", "")["x"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"b\.npz: is an archive"):
        read_npy(tmp_path / "b.npz", "")
    with pytest.raises(DataError, match=r"a\.npy: is one array"):
        read_npz(tmp_path / "a.npy", "")
