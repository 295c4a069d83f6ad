"""Functions in a process of their own, which may end in any way, or be taken over by the file that it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from facekd.errors import DataError
from facekd.utils.processes import apart
from facekd.utils.processes.apart import run_apart

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
    call = lambda name: run_apart("parsers_for_a_test", name, ["f.mat"], "a protocol", 0, has_path)  # noqa: E731
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
    code += "print(run('parsers_for_a_test', 'tell', ['f.mat'], 'a protocol', 0, bool))\n"
    code += "run('parsers_for_a_test', 'hoard', ['f.mat'], 'a protocol')\n"
    words = ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "{'path': 'f.mat'}\n"
    assert f"its parser ended with MemoryError; raise the limits of this shell (`ulimit {limit}`)" in done.stderr


def test_what_fails_before_the_parser_has_the_file_is_not_blamed_on_the_file():
    with pytest.raises(DataError, match=r"^f\.mat: .*No module named 'absent'; that was before it got the file: see"):
        run_apart("absent", "tell", ["f.mat"], "a protocol")


def has_path(value: Any) -> bool:
    return isinstance(value, dict) and value.get("path") == "f.mat"


@pytest.fixture
def call_as(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a function in a process that does what a shell is told instead."""

    def call(script: str, content: str = "", path: str = "f.mat") -> Any:
        monkeypatch.setattr(apart, "START_MODULE", ("/bin/sh", "-c", script, content))
        return run_apart("a_module", "a_function", [path], "a protocol", is_right=has_path)

    return call


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "5",
        "null",
        "[]",
        "NaN",
        '"error"',
        "{",
        "{}",
        '{"valve": {"path": "f.mat"}}',
        '{"value": null}',
        '{"value": 5}',
        '{"value": {"path": "other"}}',
        '{"error": [1]}',
        '{"error": null}',
        "[" * 90_000,
        '{"value": ' + "[" * 500 + "]" * 500 + "}",
        '{"value": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:30],
)
def test_whatever_a_process_prints_that_is_no_result_ends_in_a_sentence(call_as: Any, printed: str) -> None:
    """As one does that a file has taken over."""
    with pytest.raises(DataError) as caught:
        call_as('printf "begun\n%s" "$0"', printed)
    assert str(caught.value) == (
        "f.mat: cannot be read as a protocol: its parser returned something else than its result; the file is damaged, "
        "or made to do harm"
    )


def test_a_result_is_read_after_whatever_was_said_on_standard_error(call_as: Any) -> None:
    script = 'yes warning | head -c 3000000 >&2; printf "begun\n%s" "$0"'
    assert call_as(script, '{"value": {"path": "f.mat"}}') == {"path": "f.mat"}


def test_a_process_that_prints_without_end_is_killed(call_as: Any, tmp_path: Path) -> None:
    (tmp_path / "f.mat").write_bytes(bytes(1000))
    with pytest.raises(DataError, match=r"f\.mat: .* its parser returns more than 8,396,608 bytes, and a file of this"):
        call_as("exec yes", path=str(tmp_path / "f.mat"))


def test_what_a_large_file_holds_may_be_printed(call_as: Any, tmp_path: Path) -> None:
    path = tmp_path / "f.mat"
    path.write_bytes(bytes(1 << 20))
    script = (
        """printf 'begun\n{"value": {"path": "f.mat", "rest": "'; yes | head -c 16000000 | tr -d '\\n'; printf '"}}'"""
    )
    assert len(call_as(script, path=str(path))["rest"]) == 8_000_000


def test_an_error_of_megabytes_is_cut_and_escaped(call_as: Any) -> None:
    with pytest.raises(DataError) as caught:
        call_as('printf "begun\n%s" "$0"', json.dumps({"error": "f.mat: \x1b[31m" + "x" * 100_000}))
    assert str(caught.value).startswith("f.mat: \\x1b[31mxxx") and len(str(caught.value)) < 4000


def test_a_process_that_leaves_another_behind_is_not_waited_for(call_as: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS_FOR_THE_REST", 0.3)
    script = 'sleep 3 & printf "begun\n%s" "$0"'
    assert call_as(script, '{"value": {"path": "f.mat"}}') == {"path": "f.mat"}


def test_a_process_that_does_not_end_is_given_up(call_as: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS_IN_ALL", 0.2)
    with pytest.raises(DataError, match=r"f\.mat: .*: its parser has not ended after 0 s, as if it were stopped"):
        call_as("exec sleep 30")
