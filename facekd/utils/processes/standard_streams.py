"""Gives a process the standard streams that it was started without.

With one of them closed (`2>&-` in a shell, or a program that starts facekd so), the next file that is opened gets its
number: what a library prints goes into a data file, and `-` reads that file instead of standard input.
"""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Opens the null device at each of the descriptors 0, 1 and 2 that is closed, for the processes started here too.

    `sys.stdout` stays None, by which `run_verb` knows that nobody could read a result.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    # Without a stream for errors, `print` would write them to standard output.
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
