"""The page of groups from results that are a stranger's: as many groups and pictures as somebody looks at."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evaluation.groups import page
from facekd.errors import DataError
from facekd.pages.html import Picture
from facekd.results.schema import check_result
from tests.results_of_each_kind import people


def with_attribute(num_groups: int, num_points: int) -> dict[str, Any]:
    """Results of people with an attribute of so many groups, at so many thresholds."""
    result = people()
    attribute = copy.deepcopy(result["groups"]["attributes"][0])
    names, point = [f"group {number}" for number in range(num_groups)], attribute["points"][0]
    attribute["groups"] = [{**attribute["groups"][0], "name": name} for name in names]
    point["groups"] = [{**point["groups"][0], "group": name} for name in names]
    point["pairs"] = [{**point["pairs"][0], "first": name, "second": name} for name in names]
    attribute["points"] = [point] * num_points
    return {**result, "groups": {**result["groups"], "attributes": [attribute]}}


def test_more_groups_than_a_matrix_shows_are_refused(tmp_path: Path) -> None:
    check_result(tmp_path / "results.json", with_attribute(64, 1))
    with pytest.raises(DataError, match=r"groups\.attributes\[0\] has 65 groups, and at most 64 are compared"):
        check_result(tmp_path / "results.json", with_attribute(65, 1))


def test_of_very_many_pictures_the_first_are_drawn_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_heat_map", lambda *_: None)
    monkeypatch.setattr(page, "chart", lambda *_: Picture(b"", "a picture"))
    result = with_attribute(2, 20)
    result["groups"]["attributes"] *= 2
    check_result(tmp_path / "results.json", result)
    page.write_groups_page(tmp_path, result, "a title")
    text = (tmp_path / "groups.html").read_text()
    assert text.count("<img") == 32 and text.count("<h3>") == 40
    assert "The first pictures are drawn, and 8 more left out" in text
