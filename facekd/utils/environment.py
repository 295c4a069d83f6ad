"""Reads environment variables, which may hold anything, and looks at the folder of compiled code."""

from __future__ import annotations

import contextlib
import os
import re
import stat
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


def why_not_compile_in(folder: Path) -> str | None:
    """Makes the folder in which torch keeps what it compiles; says why not, if another user may have put code there.

    torch runs the code and loads the pickles that it finds there. Every user of the machine knows the name,
    `/tmp/torchinductor_USER`, and may have made it before. TORCHINDUCTOR_CACHE_DIR moves most of it elsewhere, but not
    all: compiled headers stay.

    Returns:
        None if the folder is the user's, and nobody may write into it but the user's group.

    Raises:
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Of a link, both ends are looked at: it may lead to a larger disk.
    is_own = folder.is_dir() and {folder.lstat().st_uid, folder.stat().st_uid} == {os.geteuid()}
    if is_own and not folder.stat().st_mode & stat.S_IWOTH:
        return None
    why = "every user may write into it" if is_own else "it is not a folder of your own"
    return (
        f"torch keeps compiled code in {folder} and runs what it finds there, but {why}: remove it, or set TMPDIR to a "
        "folder that is yours alone"
    )
