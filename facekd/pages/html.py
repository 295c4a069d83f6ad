"""Renders the HTML pages that facekd writes: Jinja2 templates in one folder, each page a single file.

To add a page, put a template beside `templates/base.html.j2` that extends it, and call `write_page` with its values.
Every value is escaped: names of people, files and data sets may hold any characters. No template marks a value as safe.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.files.writing import write_text
from facekd.utils.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Picture:
    """Holds a picture that is stored inside the page, and the caption below it.

    Attributes:
        content: the bytes of a PNG or JPEG file.
        caption: plain text, shown below it.
        alt: what is in the picture, for those who do not see it; empty for the caption.
        is_chart: lines and numbers, which a dark display may show in light on dark; not so faces.
    """

    content: bytes
    caption: str
    alt: str = ""
    is_chart: bool = False

    @property
    def source(self) -> str:
        """Returns the data URL that an `<img>` shows."""
        kind = "jpeg" if self.content.startswith(b"\xff\xd8") else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


def render_page(template: str, **values: Any) -> str:
    """Renders a page.

    Args:
        template: the name of a page in the templates' folder, such as `study`.
        values: what the template shows; a value that it names and does not get is an error.
    """
    return _environment().get_template(f"{template}.html.j2").render(values)


def write_page(path: str | os.PathLike[str], template: str, **values: Any) -> None:
    """Renders a page and writes it atomically; see `render_page` for the arguments."""
    write_text(path, render_page(template, **values))


def _as_text(value: Any) -> Any:
    """Returns a value as a page shows it: names may hold what no text in UTF-8 can, or what turns its direction."""
    return printable(value, len(value)) if type(value) is str else value


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_as_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
