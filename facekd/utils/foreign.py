"""Guards what comes from strangers' files: text before a terminal shows it, and errors of libraries that parse bytes.

A file name, a key of a YAML file or the name of a class in a pickle may hold characters that move the cursor, colour
the terminal or turn the direction of writing, and may be megabytes long.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Collection, Iterator
from typing import Any

from facekd.errors import DataError, FacekdError
from facekd.utils.terminal import printable

LONGEST_NAME = 200
MAX_DIMENSIONS = 64  # of an array, as numpy has; the product of a million sizes takes minutes, of ten million hours


def shown(text: object, longest: int = LONGEST_NAME) -> str:
    """Returns foreign text as a terminal may show it: on one line, without control characters, and not too long."""
    try:
        whole = str(text)
    except RecursionError:  # lists in lists, nearly as deep as Python reads them
        whole = f"{type(text).__name__} nested too deeply"
    return printable(whole, longest, kept="")


def some_of(names: Collection[Any], most: int = 3) -> str:
    """Lists the first few of some names of a stranger's file, for messages; the more, the shorter each."""
    longest = min(LONGEST_NAME, 3 * LONGEST_NAME // most)
    listed = ", ".join(shown(name, longest) for name in itertools.islice(names, most))
    return listed + (", ..." if len(names) > most else "") if names else "none"


def leads_out(name: str) -> bool:
    """Tells whether a name in a list, with `/` between folders, leads out of the folder that it is joined to."""
    return name.startswith("/") or ".." in name.split("/")


@contextlib.contextmanager
def reading(
    path: str | os.PathLike[str], expected: str, error: type[FacekdError] = DataError, remedy: str = "fetch it again"
) -> Iterator[None]:
    """Turns whatever a library raises for damaged bytes into one line that names the file.

    Libraries that parse bytes raise anything: struct.error, zlib.error, IndexError, RecursionError, MemoryError. So
    only the parsing belongs in the block, not facekd's own work, whose exceptions are defects.

    Args:
        path: the file that is read.
        expected: what it should be, for the message: "a torch checkpoint".
        error: class of the error raised.
        remedy: what to do about a damaged file.

    Raises:
        FacekdError: of class `error`; those raised in the block pass through.
        OSError: the file cannot be opened; passes through if it names the file.
    """
    try:
        yield
    except FacekdError:
        raise
    except OSError as cause:
        if cause.filename is not None:
            raise
        raise error(_sentence(path, expected, cause, remedy)) from cause
    except (Exception, RecursionError, MemoryError) as cause:
        raise error(_sentence(path, expected, cause, remedy)) from cause


def _sentence(path: str | os.PathLike[str], expected: str, cause: BaseException, remedy: str) -> str:
    lines = str(cause).strip().splitlines()
    met = f"{type(cause).__name__}: {shown(lines[0])}" if lines else type(cause).__name__
    return f"{os.fspath(path)}: cannot be read as {expected} ({met}): it is damaged or of another kind; {remedy}"
