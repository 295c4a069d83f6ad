"""Tests that docs/benchmarks.md has a place for each benchmark, and that benchmarks import only what exists."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from facekd.errors import FacekdError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("facekd", "evaluation", "data_prep")


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import run_all  # type: ignore[import-not-found]

    yield run_all
    for name in ("run_all", "measuring"):
        sys.modules.pop(name, None)


def test_the_page_has_a_place_for_each_benchmark_and_each_benchmark_a_file(run_all):
    page = run_all.PAGE.read_text(encoding="utf-8")
    for benchmark in run_all.BENCHMARKS:
        assert f"<!-- bench:{benchmark.name} -->\n\nfound\n\n<!-- /bench -->" in run_all.put_into_page(
            page, benchmark.name, "found"
        )
        assert (ROOT / "benchmarks" / benchmark.words.split()[0]).is_file()
    assert page.count("<!-- bench:") == page.count("<!-- /bench -->") == len(run_all.BENCHMARKS)


def test_together_they_fit_in_the_time_that_is_promised(run_all):
    assert sum(benchmark.seconds for benchmark in run_all.BENCHMARKS) < 14 * 60


def test_only_what_stands_between_the_markers_is_replaced(run_all):
    page = "a\n<!-- bench:one -->\n\nold\n\n<!-- /bench -->\nb\n<!-- bench:two -->\nkept\n<!-- /bench -->\n"
    found = run_all.put_into_page(page, "one", r"new \1 table")
    assert found == page.replace("old", r"new \1 table")
    assert run_all.put_into_page(found, "one", "old") == page


@pytest.mark.parametrize(
    "page",
    [
        "no markers",
        "<!-- bench:one -->",
        "<!-- bench:one -->\n<!-- bench:two -->\n<!-- /bench -->",
        "<!-- bench:one --><!-- /bench -->\n<!-- bench:one --><!-- /bench -->",
    ],
)
def test_a_page_without_one_place_for_it_is_refused_before_anything_runs(run_all, page, tmp_path):
    file = tmp_path / "page.md"
    file.write_text(page)
    with pytest.raises(FacekdError, match=r"should hold one `<!-- bench:one -->`"):
        run_all.put_into_page(page, "one", "new")
    with pytest.raises(FacekdError, match=r"should hold one `<!-- bench:validation -->`"):
        run_all.main(["--only", "validation", "--page", str(file)])
    assert file.read_text() == page


@pytest.mark.slow
def test_what_fails_is_said_in_its_place(run_all, tmp_path):
    broken = run_all.Benchmark("validation", "validation.py --no-such-option", 1)
    content, is_fine = run_all.run(broken, tmp_path, 60.0)
    assert not is_fine
    assert content.startswith("`python benchmarks/validation.py --no-such-option` failed: ")
    assert "unrecognized arguments" in content
    assert run_all.run(broken, tmp_path, 0.0) == ("Left out: no time was left.", False)


def test_tables_are_shown_as_tables_and_anything_else_as_it_was_printed(run_all, tmp_path):
    found = tmp_path / "found.json"
    found.write_text('{"tables": [{"title": "Speed", "columns": ["a", "b"], "rows": [["1", "2"]]}]}')
    assert run_all.tables_of(found, "") == "Speed:\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    found.write_text('{"rows": []}')
    assert run_all.tables_of(found, "printed\n") == "```text\nprinted\n```"
    printed = "one\ntwo\n| a |\n|---|\n| 1 |\nend\n"
    assert run_all.tables_of(found, printed) == "one\n\ntwo\n\n| a |\n|---|\n| 1 |\n\nend"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_from_the_project_exists(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            module = importlib.import_module(node.module)
            for name in [alias.name for alias in node.names if not hasattr(module, alias.name)]:
                importlib.import_module(f"{node.module}.{name}")
