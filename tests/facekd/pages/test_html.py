"""Pages: values are escaped on every one of them, and a value that a template lacks is an error."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import TemplateError

from facekd.pages.html import TEMPLATES, Picture, render_page, write_page
from facekd.pages.tables import Table

HOSTILE = """<script>alert("1")</script> 'quoted' "twice" & <img src=x onerror=alert(2)>"""
HOSTILE_TABLE = Table(HOSTILE, ["", HOSTILE], [[HOSTILE, HOSTILE], ["number", "1"]])
HOSTILE_PICTURE = Picture(b"\x89PNG", HOSTILE)
HOSTILE_CHART = Picture(b"\x89PNG", HOSTILE, alt=f"chart of {HOSTILE}", is_chart=True)
NEXT = [f"then `facekd {HOSTILE}`"]

# By template: what each page needs, with a hostile name wherever it shows one.
VALUES = {
    "evaluation": {
        "title": HOSTILE,
        "protocol": HOSTILE,
        "summary": HOSTILE,
        "notes": [HOSTILE],
        "tables": [HOSTILE_TABLE],
        "titles": {"verification": HOSTILE, "data": HOSTILE},
        "compared": HOSTILE,
        "pictures": {HOSTILE: [HOSTILE_PICTURE]},
        "worst": {"strips": {}, "table": HOSTILE_TABLE, "why_no_images": HOSTILE},
        "max_images": 6,
        "reasons": [HOSTILE],
        "command": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
    },
    "packs": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "accuracy": HOSTILE_TABLE,
        "protocols": [HOSTILE],
        "pictures": [HOSTILE_PICTURE],
        "command": HOSTILE,
        "next": NEXT,
    },
    "comparison": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "sets": [
            {
                "title": HOSTILE,
                "protocol": HOSTILE,
                "summary": HOSTILE_TABLE,
                "pictures": [HOSTILE_PICTURE],
                "differences": [HOSTILE_TABLE],
                "about": HOSTILE,
            }
        ],
    },
    "groups": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "protocol": HOSTILE,
        "source": HOSTILE,
        "attributes": [
            {
                "name": HOSTILE,
                "notes": [HOSTILE],
                "points": [
                    {
                        "heading": HOSTILE,
                        "rates": [HOSTILE_TABLE],
                        "own": HOSTILE_TABLE,
                        "differentials": HOSTILE_TABLE,
                        "pairs": HOSTILE_TABLE,
                        "picture": HOSTILE_PICTURE,
                    }
                ],
            },
            {"name": HOSTILE, "notes": [], "points": []},
        ],
        "command": HOSTILE,
    },
    "inspection": {
        "title": HOSTILE,
        "next": NEXT,
        "facts": HOSTILE_TABLE,
        "distributions": HOSTILE_TABLE,
        "histograms": HOSTILE_PICTURE,
        "duplicates": HOSTILE_TABLE,
        "duplicate_sheets": [HOSTILE_PICTURE],
        "findings": [{"title": HOSTILE, "explanation": HOSTILE, "sheet": HOSTILE_PICTURE}],
        "extremes": [HOSTILE_PICTURE],
        "random_sheet": HOSTILE_PICTURE,
    },
    "clustering": {
        "title": HOSTILE,
        "next": NEXT,
        "facts": HOSTILE_TABLE,
        "histogram": HOSTILE_PICTURE,
        "sheets": [HOSTILE_PICTURE],
    },
    "robustness": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "protocol": HOSTILE,
        "notes": [HOSTILE],
        "summary": HOSTILE_TABLE,
        "about_curves": HOSTILE,
        "parts_of_page": [
            {
                "title": HOSTILE,
                "about": HOSTILE,
                "faces": [HOSTILE_PICTURE],
                "curves": [HOSTILE_PICTURE],
                "table": HOSTILE_TABLE,
            }
        ],
        "controls": HOSTILE_TABLE,
        "command": HOSTILE,
    },
    "search": {
        "title": HOSTILE,
        "next": NEXT,
        "sentences": [HOSTILE],
        "has_threshold": True,
        "probes": [
            {
                "title": HOSTILE,
                "faces": [
                    {"kind": "probe", "caption": HOSTILE, "picture": HOSTILE_PICTURE, "lines": [HOSTILE]},
                    {"kind": "accepted", "caption": HOSTILE, "picture": None, "lines": []},
                ],
            }
        ],
        "gone": "gone",
        "numbers": HOSTILE_TABLE,
        "without": HOSTILE_TABLE,
    },
    "quickstart": {
        "title": HOSTILE,
        "next": NEXT,
        "results": HOSTILE_TABLE,
        "reasons": [HOSTILE],
        "classifiers": HOSTILE_TABLE,
        "pictures": [HOSTILE_PICTURE],
    },
    "study": {
        "title": HOSTILE,
        "assumptions": [HOSTILE],
        "next": NEXT,
        "packs": [
            {"name": HOSTILE, "description": HOSTILE, "table": HOSTILE_TABLE, "pictures": [HOSTILE_PICTURE]},
        ],
        "classifiers": HOSTILE_TABLE,
        "losses": HOSTILE_CHART,
        "notes": [HOSTILE],
        "command": HOSTILE,
    },
    "training": {
        "title": HOSTILE,
        "next": NEXT,
        "facts": HOSTILE_TABLE,
        "notes": [HOSTILE],
        "validation": HOSTILE_TABLE,
        "pictures": [HOSTILE_CHART],
    },
    "pipeline": {
        "title": HOSTILE,
        "next": NEXT,
        "stages": HOSTILE_TABLE,
        "classifiers": HOSTILE_TABLE,
        "notes": [HOSTILE],
        "losses": HOSTILE_CHART,
    },
}


class Tags(HTMLParser):
    """Collects what a browser would see: tags with their attributes, text, and tags that are left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_every_template_of_a_page_is_tried() -> None:
    pages = {file.name.removesuffix(".html.j2") for file in TEMPLATES.iterdir()} - {"base", "parts"}
    assert pages == set(VALUES)


@pytest.mark.parametrize("template", VALUES)
def test_hostile_names_are_text_on_every_page(template: str) -> None:
    page = Tags(render_page(template, **VALUES[template]))
    assert not page.open
    assert not {"script", "a", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    source = "data:image/png;base64," + base64.b64encode(HOSTILE_PICTURE.content).decode()
    plain, chart = {"alt": HOSTILE, "src": source}, {"class": "chart", "alt": f"chart of {HOSTILE}", "src": source}
    assert images and all(one in (plain, chart) for one in images)
    assert page.text.count(HOSTILE) >= 6  # the title twice, and the others as they were given


@pytest.mark.parametrize("template", VALUES)
def test_a_page_fits_a_phone_and_a_dark_display_and_needs_no_other_file(template: str) -> None:
    text = render_page(template, **VALUES[template])
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert "http" not in text and "@import" not in text and "url(" not in text
    page = Tags(text)
    assert page.tags[0] == ("html", {"lang": "en"}) and text.startswith("<!doctype html>")
    tables = [place for place, (tag, _) in enumerate(page.tags) if tag == "table"]
    assert tables and all(page.tags[place - 1] == ("div", {"class": "table", "tabindex": "0"}) for place in tables)
    images = [place for place, (tag, _) in enumerate(page.tags) if tag == "img"]
    assert images and all(page.tags[place - 1] == ("div", {"class": "picture", "tabindex": "0"}) for place in images)
    assert re.search(r"\.table, \.picture \{ overflow-x: auto", text)  # they scroll, and not the page


@pytest.mark.parametrize("template", VALUES)
def test_every_page_says_what_to_type_next(template: str) -> None:
    text = render_page(template, **{**VALUES[template], "next": ["then `facekd <next>`"]})
    assert text.rindex("<h2>Next</h2>") < text.index("<li>then <code>facekd &lt;next&gt;</code></li>")
    with pytest.raises(TemplateError, match="'next' is undefined"):
        render_page(template, **{name: value for name, value in VALUES[template].items() if name != "next"})


@pytest.mark.parametrize("template", [name for name in VALUES if "assumptions" in VALUES[name]])
def test_what_was_assumed_stands_above_everything_else(template: str) -> None:
    text = render_page(template, **{**VALUES[template], "assumptions": ["m.onnx: mean assumed"]})
    assert text.index("</h1>") < text.index("m.onnx: mean assumed") < text.index('<div class="table"')
    assert 'class="banner"' not in render_page(template, **{**VALUES[template], "assumptions": []})


def test_a_number_among_sentences_does_not_wrap() -> None:
    rows = [["a", "1.25 (0.50 to 2.00)"], ["b", "nothing was measured"]]
    text = render_page("pipeline", **{**VALUES["pipeline"], "stages": Table("", ["", "what"], rows)})
    assert '<td class="text value">1.25 (0.50 to 2.00)</td>' in text
    assert '<td class="text">nothing was measured</td>' in text
    assert "td.number, td.value { white-space: nowrap }" in text


def test_a_value_that_the_template_lacks_is_an_error_and_leaves_the_old_page(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "quickstart", **VALUES["quickstart"])
    before = (tmp_path / "page.html").read_bytes()
    without = {name: value for name, value in VALUES["quickstart"].items() if name != "reasons"}
    with pytest.raises(TemplateError, match="'reasons' is undefined"):
        write_page(tmp_path / "page.html", "quickstart", **without)
    assert (tmp_path / "page.html").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_no_template_marks_a_value_as_safe() -> None:
    for file in TEMPLATES.iterdir():
        text = file.read_text()
        assert "safe" not in text and "autoescape" not in text, file.name


def test_names_that_no_utf8_holds_and_that_turn_the_text_are_escaped(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "comparison", title="a\udcff\u202e<b>\x1b[31m", sets=[], assumptions=[], next=[])
    assert "<h1>a\\udcff\\u202e&lt;b&gt;\\x1b[31m</h1>" in (tmp_path / "page.html").read_text()
