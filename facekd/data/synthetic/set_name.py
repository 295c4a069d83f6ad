"""Reads the names of generated sets: `synthetic:PEOPLExIMAGES`, or `synthetic:PEOPLExIMAGES:SEED`."""

from __future__ import annotations

import re
from typing import NamedTuple

from facekd.errors import DataError
from facekd.utils.wording import counted

PREFIX = "synthetic:"
MAX_IMAGES = 10**8  # their labels take 800 MB
FORM = re.compile(PREFIX + r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*(?::\s*(\d{1,18}))?")


class GeneratedSet(NamedTuple):
    """Holds what a name asks for: numbers of people and of images of each, and the seed if it names one."""

    people: int
    images: int
    seed: int | None

    def seed_or(self, other: int) -> int:
        """Returns the seed that the name gives, else another."""
        return other if self.seed is None else self.seed


def read_set_name(name: str) -> GeneratedSet | None:
    """Returns the generated set that is named; None for what does not begin with `synthetic:`, such as a path.

    Raises:
        DataError: it begins so, and is no such name, or asks for more than `MAX_IMAGES`.
    """
    if not name.startswith(PREFIX):
        return None
    wanted = FORM.fullmatch(name)
    if wanted is None:
        raise DataError(f"{name}: for generated faces, write synthetic:200x20 or synthetic:200x20:SEED")
    people, images, seed = wanted.groups()
    if max(int(people), 1) * max(int(images), 1) > MAX_IMAGES:
        raise DataError(
            f"{name}: asks for {int(people):,} x {counted(int(images), 'image')}; at most {MAX_IMAGES:,} in all"
        )
    return GeneratedSet(int(people), int(images), None if seed is None else int(seed))
