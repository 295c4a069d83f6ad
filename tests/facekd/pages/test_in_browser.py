"""Pages in headless Chromium: at the width of a phone and of a screen nothing sticks out, and numbers are on one line.

`CHROMIUM` names the browser; without it playwright takes the one that `playwright install chromium` has fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekd.pages.figures import SINGLE, RocLine, chart, draw_roc, new_figure
from facekd.pages.html import TEMPLATES, Picture, render_page
from facekd.pages.numbers import interval, interval_of_points, percent, points
from facekd.pages.tables import Table

pytestmark = pytest.mark.slow
LONG = "a_model_with_a_very_long_name_that_no_phone_shows_on_one_line_and_no_screen_either_because_it_goes_on.onnx " * 2
TEMPLATE_NAMES = sorted({file.name.removesuffix(".html.j2") for file in TEMPLATES.iterdir()} - {"base", "parts"})
# How far the page is wider than the window, and how many cells of numbers are of more than one line.
MEASURE = """() => {
  const lines = cell => { const range = document.createRange(); range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size };
  return {
    height: document.documentElement.scrollHeight,
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    wrapped: [...document.querySelectorAll("td.number, td.value")].filter(cell => lines(cell) > 1).length,
    numbers: document.querySelectorAll("td.number, td.value").length,
    paper: getComputedStyle(document.body).backgroundColor,
  }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    with playwright.sync_playwright() as found:
        executable = os.environ.get("CHROMIUM") or found.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip(f"no Chromium at {executable}: name one by CHROMIUM, or `playwright install chromium`")
        arguments = ["--no-sandbox", "--headless=shell", "--disable-gpu", "--no-zygote", "--single-process"]
        # A browser of one process ends with its page, so each page gets its own.
        yield lambda: found.chromium.launch(executable_path=executable, args=arguments)


def wide(value: Any) -> Any:
    """Puts long names, real charts and tables with more columns than a phone has room for in the place of others."""
    if isinstance(value, dict):
        return {key: wide(each) for key, each in value.items()}
    if isinstance(value, list):
        return [wide(each) for each in value]
    if isinstance(value, Picture):
        return wide_chart()
    if isinstance(value, Table):
        return wide_table()
    return LONG if isinstance(value, str) else value


def wide_table() -> Table:
    """What a study with long names shows, and a column of sentences with a number among them."""
    head = [
        "method",
        "n",
        *(name for far in (1e-2, 1e-3, 1e-4) for name in (f"TAR % at FAR {far:g}", "to alone")),
        "what",
    ]
    cells = [f"{percent(0.91234)} ± 0.12", f"{points(-0.0123)} ({interval_of_points((-0.031, 0.012))}), p 0.012"]
    rows = [[name, "5", *cells * 3] for name in ("alone", LONG.strip())]
    return Table("", ["method", "n", *head, "what"], [[*rows[0], interval((0.9, 0.95))], [*rows[1], LONG]])


@cache
def wide_chart() -> Picture:
    """A chart whose legend has long names."""
    figure, [axes] = new_figure(SINGLE)
    lines = [RocLine(f"{LONG}{number}", np.geomspace(1e-4, 1, 9), np.linspace(0.1, 1, 9)) for number in "abc"]
    draw_roc(axes, lines, "")
    return chart(figure, LONG)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_nothing_sticks_out_and_no_number_wraps(
    browser: Any, tmp_path: Path, page_values: dict[str, Any], template: str, width: int, scheme: str
) -> None:
    (tmp_path / "page.html").write_text(render_page(template, **wide(page_values[template])))
    chromium = browser()
    page = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    found = page.evaluate(MEASURE)
    chromium.close()
    assert found["overflow"] <= 0 and found["wrapped"] == 0
    assert found["numbers"] >= 14 and found["height"] > 844
    red = int(found["paper"].removeprefix("rgb(").split(",")[0])
    assert (red < 60) == (scheme == "dark")
