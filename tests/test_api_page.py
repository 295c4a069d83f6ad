"""The page about the Python calls: its reference is what the docstrings say,."""

from __future__ import annotations

import facekd
from tests.api_page import NAMES, PAGE, whole_page

RUN_ME = "python -m tests.api_page"


def test_the_reference_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == whole_page(), f"write it again: {RUN_ME}"


def test_every_public_name_is_on_the_page() -> None:
    assert {name for group in NAMES for name in group} == {*facekd.__all__} - {"__version__"}
