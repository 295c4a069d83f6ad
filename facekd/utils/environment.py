"""Reads environment variables, which may hold anything, and sets those that keep libraries out of shared folders."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

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


def cache_folder() -> Path:
    """Returns the user's folder for what facekd keeps and can make again; it may be absent."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(home, "facekd")


def keep_compiled_code_private() -> None:
    """Has torch keep what it compiles in a folder of the user, unless TORCHINDUCTOR_CACHE_DIR names one.

    By itself it takes `/tmp/torchinductor_USER`, whose name any user of the machine knows and may have made before, and
    runs the code and loads the pickles that it finds there.
    """
    variable = "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(variable):
        return
    folder = cache_folder() / "torchinductor"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK):
            os.environ[variable] = str(folder.absolute())
            return
    import tempfile  # every command imports this file, and few compile

    os.environ[variable] = tempfile.mkdtemp(prefix="facekd-")  # for this run and the processes that it starts
