"""The site: it builds without a warning (a broken link or anchor is one), and its pages fetch nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="pip install 'facekd[docs]'")
    pytest.importorskip("latex2mathml", reason="pip install 'facekd[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not done.returncode and "WARNING" not in done.stderr, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "overview.html", "howto/ms1mv3.html", "glossary.html"} <= {*pages}
    for name, html in pages.items():
        fetched = re.findall(r'<(?:script|img|iframe)[^>]* src="((?:https?:)?//[^"]*)"', html)
        fetched += re.findall(r'<link[^>]* href="((?:https?:)?//[^"]*)"', html)
        assert not fetched, f"{name} fetches {fetched}"
        assert "\\(" not in html or "arithmatex" not in html, f"{name} has a formula that was not drawn"
    assert "<math" in pages["method.html"]


@pytest.mark.slow
def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = set(re.findall(r": ([\w/]+\.md)$", navigation, flags=re.MULTILINE))
    assert pages <= listed and len(listed - pages) == len(PAGES)  # those beside `docs/`
