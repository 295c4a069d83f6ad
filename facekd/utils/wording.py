"""Words what is counted: "1 image", "2,000 images", "0 people"."""

from __future__ import annotations

IRREGULAR = {"person": "people", "identity": "identities", "class": "classes", "pair of people": "pairs of people"}


def counted(count: int, one: str, many: str = "") -> str:
    """Writes a number and what is counted, as `1 person` or `2,000 impostor pairs`.

    Args:
        count: how many there are.
        one: the name of a single one, such as `image`, or `image has` where a verb follows.
        many: the name of several; empty for the plural that English or `IRREGULAR` has.
    """
    return f"{count:,} {one if count == 1 else many or IRREGULAR.get(one, one + 's')}"
