"""Words what is counted: "1 image", "2,000 images", "0 people"."""

from __future__ import annotations


def counted(count: int | None, one: str, many: str = "") -> str:
    """Writes a number and what is counted, as `1 person`, `2,000 impostor pairs` or `an unknown number of classes`.

    Args:
        count: how many there are; None if that is not known.
        one: the name of a single one, such as `image`, or `image has` where a verb follows.
        many: the name of several; empty for the plural that `agreeing` makes.
    """
    if count is None:
        return f"an unknown number of {agreeing(0, one, many)}"
    return f"{count:,} {agreeing(count, one, many)}"


def agreeing(count: float, one: str, many: str = "") -> str:
    """Returns the form of a word that goes with a number: `image` or `is` with 1, `images` or `are` with all else.

    For numbers that are written in their own way, and for verbs: `1 of 3 images is`, `2 of 3 images are`.

    Args:
        count: the number, as it is shown.
        one: the form for a single one, such as `image`, `pair of people` or `is`.
        many: the form for several; empty for the plural of `one`, where what stands before ` of ` is counted.
    """
    return one if count == 1 else many or _plural_of(one)


def _plural_of(one: str) -> str:
    name, of, rest = one.partition(" of ")
    if name.endswith("person"):
        name = name.removesuffix("person") + "people"
    elif name.endswith("y") and name[-2:-1] not in "aeou":
        name = name.removesuffix("y") + "ies"
    else:
        name += "es" if name.endswith(("s", "x", "tch")) else "s"
    return name + of + rest
