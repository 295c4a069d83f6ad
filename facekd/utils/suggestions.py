"""Finds what a mistyped word was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Returns the known word most like `word`, taking `-` and `_` for the same; None if none is like it."""
    spelled = {name.replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.replace("-", "_"), spelled, n=1, cutoff=cutoff)
    return spelled[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean WORD?` with the known word most like `word`, or nothing."""
    close = nearest(word, known)
    return f"; did you mean {close}?" if close else ""
