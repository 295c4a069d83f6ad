"""Finds names that people take for one: equal but for case, or for how their accents are stored."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted


def composed(name: str) -> str:
    """Returns a name with each accent in its letter (Unicode NFC); macOS may store them apart (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def warn_of_alike(names: Collection[str], what: str) -> list[str]:
    """Returns a sentence about names that differ in case or in how accents are stored alone; an empty list if none do.

    Args:
        names: the names, each once.
        what: what they name, such as "folders".
    """
    first_of: dict[str, str] = {}
    alike = [(first, name) for name in names if (first := first_of.setdefault(composed(name).casefold(), name)) != name]
    if not alike:
        return []
    one, other = alike[0]
    how = "only in case" if composed(one) != composed(other) else "only in how accents are stored (Unicode NFC and NFD)"
    more = (
        f"; so {agreeing(len(alike) - 1, 'does', 'do')} {counted(len(alike) - 1, 'more pair')}"
        if len(alike) > 1
        else ""
    )
    return [f"{what} {shown(one)} and {shown(other)} differ {how}, and count as two{more}"]
