"""Fits the repository's Markdown into the site that mkdocs builds: files beside `docs/`, links out of it, formulas.

The same files are read in the repository, so their links are those of the repository.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Files beside `docs/` that are pages of the site, and the names that they have there.
TOP_PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LOG = logging.getLogger("mkdocs.hooks.facekd")  # warnings of loggers below `mkdocs` end a strict build
LINK = re.compile(r"\[([^][]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files beside `docs/` to the pages."""
    for name, page in TOP_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages; links to sources become plain text."""
    origin = {site: name for name, site in TOP_PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = os.path.normpath(PurePosixPath(origin).parent / target)
        if not (ROOT / path).exists():
            LOG.warning("%s links to %s, which does not exist", origin, path)
        place = TOP_PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None:
            return text
        return f"[{text}]({os.path.relpath(place, PurePosixPath(page.file.src_uri).parent)}{anchor})"

    # Code stays as it is.
    parts = re.split(r"(```.*?```|`[^`\n]*`(?!\]))", markdown, flags=re.DOTALL)
    return "".join(part if part.startswith("`") else LINK.sub(replace, part) for part in parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Writes formulas as MathML, which browsers draw without a script."""
    return FORMULA.sub(lambda match: _mathml(match[1], match[2]), html)


def _mathml(tag: str, formula: str) -> str:
    latex = formula.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    return convert(latex, display="block" if tag == "div" else "inline")
