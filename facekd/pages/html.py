"""Renders the HTML pages that facekd writes: Jinja2 templates in one folder, each page a single file.

To add a page, put a template beside `templates/base.html.j2` that extends it, and call `write_page` with its values.
Every value is escaped: names of people, files and data sets may hold any characters. No template marks a value as safe.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.files.writing import write_text
from facekd.utils.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment

PNG_START = b"\x89PNG\r\n\x1a\n"
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


def png_beside(path: Path) -> bytes | None:
    """Reads a picture that an earlier command left beside results, to put it into their page.

    The folder may be a stranger's, and the page may be given away: a link there could lead to any file of this machine.

    Returns:
        The bytes of the file; None if it is absent, a link, no regular file, or no PNG.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    # It may have been replaced in between.
    with os.fdopen(descriptor, "rb") as stream:
        is_png = stat.S_ISREG(os.fstat(descriptor).st_mode) and stream.read(len(PNG_START)) == PNG_START
        return PNG_START + stream.read() if is_png else None


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
    return printable(value, None) if type(value) is str else value


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
