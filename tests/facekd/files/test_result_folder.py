"""Results that replace others: what is removed, what stays, and what a stop leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facekd.files.result_folder import finish_results, is_unfinished, start_results

FILES = ("scores", "page")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(name)


def test_old_files_go_and_those_of_others_stay(tmp_path: Path) -> None:
    start_results(tmp_path, FILES)
    fill(tmp_path, *FILES, "mine.txt")
    finish_results(tmp_path, {"run": 1})
    start_results(tmp_path, FILES)
    assert is_unfinished(tmp_path) and set(content(tmp_path)) == {"mine.txt", ".results.json.unfinished"}
    fill(tmp_path, "scores")
    finish_results(tmp_path, {"run": 2})
    assert not is_unfinished(tmp_path)
    assert content(tmp_path) == {"mine.txt": "mine.txt", "scores": "scores", "results.json": '{\n  "run": 2\n}\n'}


def test_a_folder_without_results_loses_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "page")
    fill(tmp_path / "a", "page")
    start_results(tmp_path, FILES, ["a"])
    finish_results(tmp_path, {})
    assert set(content(tmp_path)) == {"page", "a/page", "results.json"}


def test_parts_go_even_after_several_stops(tmp_path: Path) -> None:
    start_results(tmp_path, FILES, ["a", "b"])
    for name in ("a", "b"):
        start_results(tmp_path / name, FILES)
        fill(tmp_path / name, *FILES)
        finish_results(tmp_path / name, {"part": name})
    fill(tmp_path / "b", "mine.txt")
    fill(tmp_path / "outside", "results.json", "page")
    # Stopped there; another run of other parts is stopped at once.
    start_results(tmp_path, FILES, ["c", "../outside", "outside/.."])
    assert set(content(tmp_path)) - {".results.json.unfinished"} == {
        "b/mine.txt",
        "outside/results.json",
        "outside/page",
    }
    assert not (tmp_path / "a").exists()
    assert json.loads((tmp_path / ".results.json.unfinished").read_text()) == {"parts": ["a", "b", "c"]}


def test_another_mark_is_other_results(tmp_path: Path) -> None:
    start_results(tmp_path, FILES)
    fill(tmp_path, "page")
    finish_results(tmp_path, {})
    start_results(tmp_path, ("comparison",), mark="comparison.json")
    assert not is_unfinished(tmp_path) and is_unfinished(tmp_path, "comparison.json")
    assert (tmp_path / "results.json").exists() and (tmp_path / "page").exists()


@pytest.mark.parametrize(
    "content",
    [
        '{"parts": ["' + "x" * 300 + '", "\\u0000"]}',
        '{"parts": [".."]}',
        '{"parts": ["", "."]}',
        '{"parts": ["../other", "/etc"]}',
        "[" * 100_000,
        '{"parts": 5}',
    ],
)
def test_a_file_from_elsewhere_cannot_name_what_lies_outside(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "scores.npy").write_text("ours")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/.results.json.unfinished").write_text(content)
    start_results(tmp_path / "inner", ["scores.npy"])
    assert is_unfinished(tmp_path / "inner")
    assert (tmp_path / "results.json").read_text() == "{}"
    assert (tmp_path / "scores.npy").read_text() == "ours"
