"""Foreign text in Markdown: a parser of CommonMark, which rich brings, must see nothing but that text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from facekd.pages.markdown import code, code_block, markdown_text
from facekd.pages.tables import Table
from facekd.utils.foreign import shown

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
KINDS = {"text", "code_inline", "text_special"}  # the last is an escaped sign
HOSTILE = (
    "<img src=http://a.example/x>",
    "![a](http://a.example/x)",
    "[safe](javascript:1)",
    "<http://a.example>",
    "a\n\n# owned",
    "# owned",
    "> owned",
    "- owned",
    "1. owned",
    "~~~ owned",
    "&lt;b&gt;",
    r"\[a\](b)",
    "``<b>`",
    "    code",
    r"\`<b>`",
    "*a* _b_ __c__ d_e",
    "\x1b]0;owned\x07",
)


def blocks(text: str) -> list[str]:
    return [token.type for token in PARSER.parse(text)]


def words(text: str) -> str:
    """Returns what a reader sees of a paragraph that holds text and code alone."""
    opening, inline, closing = PARSER.parse(text)
    assert (opening.type, closing.type) == ("paragraph_open", "paragraph_close")
    found = inline.children or []
    assert {token.type for token in found} <= KINDS
    return "".join(map(seen, found))


def seen(token: Token) -> str:
    return f"`{token.content}`" if token.type == "code_inline" else token.content


def check_is_seen(text: str) -> None:
    assert words(f"See {markdown_text(text)}.") == f"See {shown(text).lstrip()}."
    assert words(markdown_text(text)) == shown(text).lstrip()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_seen_as_it_is(text: str) -> None:
    check_is_seen(text)


@given(st.text("ab1 `*_[]()<>!&;#~|\\\n-+.=:/\x1b", min_size=1, max_size=40))
def test_any_text_is_seen_as_it_is(text: str) -> None:
    inline = PARSER.parse(f"See {markdown_text(text)}.")[1]
    assert {token.type for token in inline.children or []} <= KINDS
    assert set(blocks(f"- See {markdown_text(text)}")) == set(blocks("- See a"))
    assert blocks(f"x\n\n{markdown_text(text)}x") == blocks("x\n\nx")
    if line := markdown_text(text).strip():
        assert blocks(f"x\n\n{line}") == blocks("x\n\nx")
    # No line gives a later one an address.
    linked = PARSER.parse(f"{markdown_text(text)}\n\nSee [a][b]")
    assert {child.type for token in linked for child in token.children or []} <= KINDS


ORDINARY = (
    "Compare all with `facekd evaluate folder --x [Y]`; p < 0.001, cplfw_1.jpg, 95 % (−0.20 to +0.30), ~/a & b.",
    "mean [127.5, 127.5, 127.5], in [0, 1), 2 * 3 <= 6, C:\\data\\x_1.onnx, #12, -0.5",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_own_sentences_stay_as_they_are(text: str) -> None:
    assert markdown_text(text) == text


@pytest.mark.parametrize(
    "text", [*ORDINARY, "-0.5", "- 0.5", "-", "+1.25", "1.", "# of pairs", "[0, 1)", "> 0.9", ">= 3"]
)
def test_values_in_tables_stay_as_they_are(text: str) -> None:
    assert Table("", ["a"], [[text]]).to_markdown().splitlines()[-1] == f"| {text} |"


def test_addresses_for_later_links_are_text() -> None:
    for text in ("[a]: http://a.example", "[x] done", "---", "===", "- - -", "-", "+", "#", "1.", "2)"):
        check_is_seen(text)


@pytest.mark.parametrize("text", ["a", "facekd x `y` z", "```\n# owned\n```", "`", "``` ````", ""])
def test_commands_are_code_whatever_backticks_they_hold(text: str) -> None:
    line = shown(text)
    (block,) = PARSER.parse(code_block(text))
    assert (block.type, block.content) == ("fence", f"{line}\n")
    if text:
        (span,) = PARSER.parse(f"{code(text)}")[1].children or []
        assert (span.type, span.content) == ("code_inline", line)


def test_cells_of_a_table_are_text() -> None:
    rows = [[text, "|", "`a|b`"] for text in HOSTILE]
    tokens = PARSER.parse(Table("<b>", ["a", "b", "<c>"], rows).to_markdown())
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 1 + 3 * (1 + len(rows))
    assert {child.type for cell in cells for child in cell.children or []} <= KINDS
    found = ["".join(map(seen, cell.children or [])) for cell in cells[4::3]]
    assert found == [shown(text).lstrip() for text in HOSTILE]
