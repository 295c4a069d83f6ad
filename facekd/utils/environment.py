"""Reads numbers from environment variables, which may hold anything."""

from __future__ import annotations

import os
import re

LARGEST_NUMBER = 10**9
# What OpenCV takes as a limit on images: a number, perhaps with one of these behind it. Anything else, and an empty
# variable, ends the process as soon as OpenCV is imported.
OPENCV_LIMITS = tuple(f"OPENCV_IO_MAX_IMAGE_{of}" for of in ("PIXELS", "WIDTH", "HEIGHT"))
OPENCV_UNITS = {"": 1, **dict.fromkeys(("KB", "Kb", "kb"), 1 << 10), **dict.fromkeys(("MB", "Mb", "mb"), 1 << 20)}


def number_from_environment(name: str, default: float, kind: type[int] | type[float] = int) -> float:
    """Returns the number in an environment variable; `default` if it is unset or empty.

    Args:
        name: the variable.
        default: see above.
        kind: `int` for whole numbers alone.

    Raises:
        ValueError: it holds something else, or a number beyond a thousand million; the message is a sentence.
    """
    text = os.environ.get(name)
    if not text:
        return default
    try:
        number = kind(text)
        if abs(number) <= LARGEST_NUMBER:  # what is no number at all, nan, is not
            return number
    except ValueError:
        pass
    what = "a whole number" if kind is int else "a number"
    raise ValueError(f"the environment variable {name} should be {what}, and is {text[:40]!r}: unset it")


def opencv_limit(name: str, default: int) -> int:
    """Returns a limit on images as OpenCV reads it from the environment; `default` if it is unset.

    Raises:
        ValueError: it is none that OpenCV takes; the message is a sentence.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    found = re.fullmatch(r"([0-9]{1,18})([A-Za-z]*)", text)
    if found is None or found[2] not in OPENCV_UNITS:
        raise ValueError(
            f"the environment variable {name} should be a number such as 1000000000 or 1000MB, and is {text[:40]!r}, "
            "at which OpenCV would end the process: set it so, or unset it"
        )
    return int(found[1]) * OPENCV_UNITS[found[2]]
