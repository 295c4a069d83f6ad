"""Counted things: one is single, all else is several."""

from __future__ import annotations

import pytest

from facekd.utils.wording import counted


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (1, ("image",), "1 image"),
        (0, ("image",), "0 images"),
        (2000, ("impostor pair",), "2,000 impostor pairs"),
        (1, ("person",), "1 person"),
        (2, ("person",), "2 people"),
        (3, ("identity",), "3 identities"),
        (1, ("image has", "images have"), "1 image has"),
        (4, ("image has", "images have"), "4 images have"),
    ],
)
def test_one_is_single_and_all_else_is_several(count: int, words: tuple[str, ...], expected: str) -> None:
    assert counted(count, *words) == expected
