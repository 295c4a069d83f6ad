"""Pages in headless Chromium: at the width of a phone and of a screen nothing sticks out, and numbers are on one line.

`CHROMIUM` names the browser; without it playwright takes the one that `playwright install chromium` has fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekd.pages.figures import SINGLE, RocLine, chart, draw_losses, draw_roc, new_figure
from facekd.pages.html import render_page
from facekd.pages.numbers import interval, interval_of_points, percent, points
from facekd.pages.tables import Table

pytestmark = pytest.mark.slow
LONG = "a_model_with_a_very_long_name_that_no_phone_shows_on_one_line_and_no_screen_either_because_it_goes_on.onnx " * 2
WIDTHS = 390, 1280
# How far the page is wider than the window, and how many cells of numbers are of more than one line.
MEASURE = """() => {
  const lines = cell => { const range = document.createRange(); range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size };
  return {
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


def wide_values() -> dict[str, Any]:
    """What a study with long names shows: more columns than a phone has room for."""
    head = ["method", "n", *(name for far in (1e-2, 1e-3, 1e-4) for name in (f"TAR % at FAR {far:g}", "to alone"))]
    cells = [f"{percent(0.91234)} ± 0.12", f"{points(-0.0123)} ({interval_of_points((-0.031, 0.012))}), p 0.012"]
    rows = [[name, "5", *cells * 3] for name in ("alone", LONG.strip())]
    figure, [axes] = new_figure(SINGLE)
    draw_roc(
        axes, [RocLine(f"{LONG}{number}", np.geomspace(1e-4, 1, 9), np.linspace(0.1, 1, 9)) for number in "abc"], ""
    )
    losses = draw_losses({LONG: [{"images_seen": seen, "loss": 1 / seen} for seen in (1, 10**6)]})
    mixed = Table("Who", ["", "what"], [["a", interval((0.9, 0.95))], ["b", LONG]])
    pack = {"name": LONG, "description": LONG, "table": Table("", head, rows), "pictures": [chart(figure, LONG)]}
    return {
        "title": LONG,
        "assumptions": [LONG],
        "packs": [pack],
        "classifiers": mixed,
        "losses": chart(losses, LONG),
        "notes": [f"{LONG} `{LONG}`"],
        "command": f"facekd study {LONG}",
        "next": [f"then `facekd report {LONG}`"],
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_no_number_wraps(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    (tmp_path / "page.html").write_text(render_page("study", **wide_values()))
    chromium = browser()
    page = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto((tmp_path / "page.html").as_uri())
    found = page.evaluate(MEASURE)
    chromium.close()
    assert found["overflow"] <= 0 and found["wrapped"] == 0
    assert found["numbers"] >= 14
    red = int(found["paper"].removeprefix("rgb(").split(",")[0])
    assert (red < 60) == (scheme == "dark")
