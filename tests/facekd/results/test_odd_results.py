"""Puts something else at every place of results of each kind: whoever reads them says what is wrong, or shows them."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from evaluation.compare_models import summary_table
from evaluation.groups.page import differentials_table, own_table, pairs_table, rates_table
from evaluation.results.evaluated import Evaluated, check_comparable, load_results
from evaluation.results.page import write_report
from evaluation.results.quality import quality_table
from evaluation.results.search_tables import search_table
from evaluation.results.standard_summary import standard_table
from evaluation.results.tables import (
    folds_table,
    identification_table,
    protocols_table,
    rank_table,
    summary_of,
    to_csv,
    verification_table,
)
from evaluation.results.transferred import transferred_table
from facekd.errors import DataError
from facekd.pages import figures
from facekd.results.schema import check_result
from facekd.verification.measures import verification_curves
from facekd.verification.ranked_scores import RankedScores
from tests.measured_results import folder_result
from tests.results_of_each_kind import QUALITY, pack, people, searches, templates

VALUES = ("x", -1, 10**400, [], {"a": "b"}, [None], {}, 2**70, "a\0b", 0.5, True)


def changed(value: Any, few: int, number: int = 0) -> Iterator[tuple[str, Any]]:
    """Yields the value with something else at one of its places, and the name of that place.

    Each place is left out, is null, and gets the next few of `VALUES`.
    """
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value[:1]))
    for key, inner in items:
        at = copy.copy(value)
        number += few
        for odd in (None, *((VALUES * 2)[(number + turn) % len(VALUES)] for turn in range(few))):
            at[key] = odd
            yield str(key), at
        if isinstance(value, dict):
            yield str(key), {other: item for other, item in items if other != key}
        if isinstance(inner, dict | list):
            for place, part in changed(inner, few, number):
                at[key] = part
                yield f"{key}.{place}", at


def show(result: dict[str, Any], compared: list[Evaluated]) -> None:
    """Does with a result what pages, tables and comparisons do, `compared` being those that it is compared with."""
    tables: tuple[Callable[[dict[str, Any]], Any], ...] = (folds_table, identification_table, rank_table, quality_table)
    tables += (protocols_table, transferred_table, standard_table, search_table, summary_of, to_csv)
    for show_one in tables:
        show_one(result)
    if result.get("tar_at_far"):
        verification_table(result)
    for attribute in (result.get("groups") or {}).get("attributes", ()):
        for point in attribute["points"]:
            for table in (own_table, differentials_table, pairs_table):
                table(point)
            rates_table(attribute, point, "fmr")
    for other in compared:
        both = [other, replace(other, result=result)]
        check_comparable(both)
        summary_table(both)


@pytest.mark.parametrize("few", [2, pytest.param(len(VALUES), marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [pack, people, searches, templates])
def test_a_result_with_anything_else_in_it_is_refused_by_a_sentence_or_shown(
    make: Callable[[], dict[str, Any]], few: int, tmp_path: Path
) -> None:
    base, place, refused, num_shown = make(), tmp_path / "results.json", set(), 0
    place.write_text(json.dumps(base))
    compared = load_results(str(tmp_path)) if base["format"] != "facekd-folder" else []
    show(base, compared)
    for where, result in changed(base, few):
        if where in ("format", "version"):
            continue
        try:
            check_result(place, result)
            show(result, compared)
            num_shown += 1
        except DataError as error:
            refused.add(where)
            # Results that can be read, and not compared, are named by their folder.
            assert str(tmp_path) in str(error) and "\n" not in str(error), where
        except Exception as error:
            raise AssertionError(f"{where}: {error!r}") from error
    assert len(refused) > 50 and num_shown > 50


def with_a_list_twice_as_long(value: Any) -> Iterator[Any]:
    """Yields the value with one of its lists repeated, for each list in it."""
    if isinstance(value, list) and value:
        yield value + value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        for changed_part in with_a_list_twice_as_long(inner):
            at = copy.copy(value)
            at[key] = changed_part
            yield at


@pytest.mark.parametrize("make", [pack, pytest.param(people, marks=pytest.mark.slow), searches, templates])
def test_lists_that_no_longer_fit_together_are_refused_or_shown(
    make: Callable[[], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "to_png", lambda _: b"")  # what takes the time
    num_tried = 0
    for result in with_a_list_twice_as_long(make()):
        num_tried += 1
        with contextlib.suppress(DataError):
            write_report(tmp_path, result)
    assert num_tried > 5


def test_of_very_many_curves_and_thresholds_the_first_are_drawn_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def count(name: str, draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words, **options: (drawn.append(name), draw(*words, **options))[1]

    monkeypatch.setattr(figures, "to_png", lambda _: b"")  # what takes the time
    for name in ("axvline", "axhline", "errorbar"):
        monkeypatch.setattr(Axes, name, count(name, getattr(Axes, name)))
    generator = np.random.default_rng(0)
    scores = generator.normal(0.6, 0.2, 20).clip(-1, 1), generator.normal(0, 0.2, 40).clip(-1, 1)
    result = folder_result(*scores, [0.5 + number / 100 for number in range(40)])
    first = result["tar_at_far"][0]
    first["ci95"] = [first["tar"] + 1e-12, 1]  # a hair beside it
    result["quality"] = {**QUALITY, "curves": QUALITY["curves"] * 40}
    (tmp_path / "results.json").write_text(json.dumps(result))
    np.savez(tmp_path / "curves.npz", **verification_curves(RankedScores(*scores)))  # pyright: ignore
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    # Thresholds in one panel, points of the ROC, and the line of each curve in both panels of the quality.
    assert [drawn.count(name) for name in ("axvline", "errorbar", "axhline")] == [32, 32, 64]
    assert "Of 40 thresholds the first 32 are drawn." in page and "Of 40 curves the first 32 are drawn." in page
