"""Pages: values are escaped on every one of them, and a value that a template lacks is an error."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from facekd.pages.html import TEMPLATES, Picture, render_page, write_page
from facekd.pages.tables import Table

HOSTILE = """<script>alert("1")</script> 'quoted' "twice" & <img src=x onerror=alert(2)>"""
TEMPLATE_NAMES = sorted({file.name.removesuffix(".html.j2") for file in TEMPLATES.iterdir()} - {"base", "parts"})
WITH_ASSUMPTIONS = [name for name in TEMPLATE_NAMES if "assumptions" in (TEMPLATES / f"{name}.html.j2").read_text()]
Values = dict[str, dict[str, Any]]


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


def test_every_template_of_a_page_is_tried(page_values: Values) -> None:
    assert set(TEMPLATE_NAMES) == set(page_values)


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_hostile_names_are_text_on_every_page(template: str, page_values: Values) -> None:
    page = Tags(render_page(template, **page_values[template]))
    assert not page.open
    assert not {"script", "a", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    source = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    plain, chart = {"alt": HOSTILE, "src": source}, {"class": "chart", "alt": f"chart of {HOSTILE}", "src": source}
    assert images and all(one in (plain, chart) for one in images)
    assert page.text.count(HOSTILE) >= 6  # the title twice, and the others as they were given


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_a_page_fits_a_phone_and_a_dark_display_and_needs_no_other_file(template: str, page_values: Values) -> None:
    text = render_page(template, **page_values[template])
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert "http" not in text and "@import" not in text and "url(" not in text
    page = Tags(text)
    assert page.tags[0] == ("html", {"lang": "en"}) and text.startswith("<!doctype html>")
    tables = [place for place, (tag, _) in enumerate(page.tags) if tag == "table"]
    assert tables and all(page.tags[place - 1] == ("div", {"class": "table", "tabindex": "0"}) for place in tables)
    images = [place for place, (tag, _) in enumerate(page.tags) if tag == "img"]
    assert images and all(page.tags[place - 1] == ("div", {"class": "picture", "tabindex": "0"}) for place in images)
    assert re.search(r"\.table, \.picture \{ overflow-x: auto", text)  # they scroll, and not the page


@pytest.mark.parametrize("template", TEMPLATE_NAMES)
def test_every_page_says_what_to_type_next(template: str, page_values: Values) -> None:
    text = render_page(template, **{**page_values[template], "next": ["then `facekd <next>`"]})
    assert text.rindex("<h2>Next</h2>") < text.index("<li>then <code>facekd &lt;next&gt;</code></li>")
    with pytest.raises(TemplateError, match="'next' is undefined"):
        render_page(template, **{name: value for name, value in page_values[template].items() if name != "next"})


@pytest.mark.parametrize("template", WITH_ASSUMPTIONS)
def test_what_was_assumed_stands_above_everything_else(template: str, page_values: Values) -> None:
    text = render_page(template, **{**page_values[template], "assumptions": ["m.onnx: mean assumed"]})
    assert text.index("</h1>") < text.index("m.onnx: mean assumed") < text.index('<div class="table"')
    assert 'class="banner"' not in render_page(template, **{**page_values[template], "assumptions": []})


def test_commands_in_captions_are_set_as_code(page_values: Values) -> None:
    picture = Picture(b"\x89PNG", "share those: `facekd rebuild-head <x>`", alt="alt")
    text = render_page("training", **{**page_values["training"], "pictures": [picture]})
    assert "<figcaption>share those: <code>facekd rebuild-head &lt;x&gt;</code></figcaption>" in text


def test_a_number_among_sentences_does_not_wrap(page_values: Values) -> None:
    rows = [["a", "1.25 (0.50 to 2.00)"], ["b", "nothing was measured"]]
    text = render_page("pipeline", **{**page_values["pipeline"], "stages": Table("", ["", "what"], rows)})
    assert '<td class="text value">1.25 (0.50 to 2.00)</td>' in text
    assert '<td class="text">nothing was measured</td>' in text
    assert "td.number, td.value { white-space: nowrap }" in text


def test_a_value_that_the_template_lacks_is_an_error_and_leaves_the_old_page(
    tmp_path: Path, page_values: Values
) -> None:
    write_page(tmp_path / "page.html", "quickstart", **page_values["quickstart"])
    before = (tmp_path / "page.html").read_bytes()
    without = {name: value for name, value in page_values["quickstart"].items() if name != "reasons"}
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
