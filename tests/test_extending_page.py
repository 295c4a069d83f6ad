"""Checks docs/extending.md: every file and every name that the page mentions exists where the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# One touch point: a list item, or a paragraph.
TOUCH_POINTS = [point for point in re.split(r"\n(?=- |\n)", PAGE) if "`" in point]
IS_PATH = re.compile(r"[\w.-]+(/[\w.-]*)+")
IS_NAME = re.compile(r"_*[A-Za-z]\w+(_*)")
REQUESTS = (
    "margin", "backbone", "distillation loss", "evaluation set", "field to checkpoints", "option", "record format",
    "figure", "schedule", "TAR",
)  # fmt: skip


def quoted(point: str) -> list[str]:
    return re.findall(r"`([^`]+)`", point)


@pytest.mark.parametrize("path", sorted({word for word in quoted(PAGE) if IS_PATH.fullmatch(word)}))
def test_the_files_it_mentions_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("point", TOUCH_POINTS, ids=lambda point: point.strip()[:40])
def test_the_names_it_mentions_stand_in_the_files_beside_them(point: str) -> None:
    paths = [word for word in quoted(point) if IS_PATH.fullmatch(word)]
    files = [
        file for path in paths for file in ([ROOT / path] if (ROOT / path).is_file() else (ROOT / path).rglob("*.py"))
    ]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    names = [word for word in quoted(point) if IS_NAME.fullmatch(word) and not (ROOT / word).exists()]
    for name in names:
        assert files and re.search(rf"\b{name}\b", source), (
            f"{name} is not in {', '.join(paths) or 'any file named there'}"
        )


@pytest.mark.parametrize("request_word", REQUESTS)
def test_each_request_has_at_most_five_touch_points(request_word: str) -> None:
    sections = [text for text in PAGE.split("\n## ")[1:] if request_word in text.splitlines()[0]]
    assert len(sections) == 1
    points = [line for line in sections[0].splitlines() if line.startswith("- ")]
    assert 1 <= len(points) <= 5
