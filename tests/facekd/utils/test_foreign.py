"""Foreign text on a terminal, and errors of libraries that parse foreign bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekd.errors import DataError, ModelError, run_verb
from facekd.files.npy_files import read_npy, read_npz
from facekd.utils.foreign import reading, shown
from facekd.utils.processes.apart import run_apart
from facekd.utils.terminal import printable


@given(st.text())
def test_what_is_shown_is_one_line_that_a_terminal_does_not_obey(text):
    assert shown(text).isprintable()
    if text.isprintable() and len(text) <= 200:  # longer ones are cut
        assert shown(text) == text


def test_a_long_text_is_cut_in_the_middle():
    assert printable("a" * 3000 + "b" * 3000, 100) == f"{'a' * 50} ... (5,900 more characters) ... {'b' * 50}"


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


CRASHES = """
import ctypes, json, sys
from facekd.errors import DataError
def crash(path): ctypes.string_at(0)
def hoard(path): return len(bytearray(20 << 30))
def refuse(path): raise DataError(path + ": no")
def tell(path): return {"path": path}
"""


def test_a_parser_that_crashes_or_hoards_ends_in_a_sentence(tmp_path: Path, monkeypatch):
    (tmp_path / "parsers_for_a_test.py").write_text(CRASHES)
    monkeypatch.syspath_prepend(str(tmp_path))
    call = lambda name: run_apart("parsers_for_a_test", name, ["f.mat"], "a protocol")  # noqa: E731
    assert call("tell") == json.loads('{"path": "f.mat"}')
    with pytest.raises(DataError, match=r"f\.mat: cannot be read as a protocol: its parser was ended by SIGSEGV"):
        call("crash")
    with pytest.raises(DataError, match="its parser ended with MemoryError"):
        call("hoard")
    with pytest.raises(DataError, match=r"^f\.mat: no$"):
        call("refuse")


@pytest.mark.parametrize("limit", ["-v 3000000", "-t 100"])
def test_a_parser_reads_sound_files_under_limits_of_the_shell_and_names_them_where_they_are_too_low(
    limit: str, tmp_path: Path
):
    (tmp_path / "parsers_for_a_test.py").write_text(CRASHES)
    code = "from facekd.utils.processes.apart import run_apart as run\n"
    code += "print(run('parsers_for_a_test', 'tell', ['f.mat'], 'a protocol'))\n"
    code += "run('parsers_for_a_test', 'hoard', ['f.mat'], 'a protocol')\n"
    words = ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "{'path': 'f.mat'}\n"
    assert f"its parser ended with MemoryError; raise the limits of this shell (`ulimit {limit}`)" in done.stderr


def test_what_fails_before_the_parser_has_the_file_is_not_blamed_on_the_file():
    with pytest.raises(DataError, match=r"^f\.mat: .*No module named 'absent'; that was before it got the file: see"):
        run_apart("absent", "tell", ["f.mat"], "a protocol")
