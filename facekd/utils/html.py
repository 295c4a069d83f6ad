"""One HTML page that needs no other file: text, tables, and pictures inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } img { max-width: 100% } figcaption { color: #555; font-size: 14px }
figure { margin: 1.5rem 0 } code { background: #f3f3f3; padding: 0 .2rem } small { color: #555; white-space: nowrap }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page; `parts` are HTML already, the title is text."""
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    return f"{head}<h1>{html.escape(title)}</h1>{''.join(parts)}"


def picture(png: bytes, caption: str) -> str:
    """A picture with its caption (HTML)."""
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def to_png(figure: Figure) -> bytes:
    """A matplotlib figure as the bytes of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
