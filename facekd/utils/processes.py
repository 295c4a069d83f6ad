"""A process that another started ends when that one does, however it does: after `kill -9` nothing trains on unseen.

The parent holds one end of a pipe, and the child has the other for its standard input. Nothing is ever written there;
the system closes the parent's end with the parent, and whoever reads finds the end of the input. Processes that a
launcher starts inherit it, and so end as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import IO

VARIABLE = "FACEKD_ENDS_WITH_STDIN"


def start_tied(
    command: list[str], environment: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start a facekd command that is told to stop, as by SIGTERM, when this process is gone.

    Args:
        command: one that runs `python -m facekd`, or that starts processes which do, with its standard input.
        environment: of the command.
        output: what it prints goes there; None lets it print where we do.
    """
    tied = {**environment, VARIABLE: "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=tied)


def end_with_parent() -> None:
    """Stop when the parent is gone, if it has started this process by `start_tied`: a training saves first."""
    # Not for the commands that this one starts, whose standard input is something else.
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()


def _stop_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def end_with_pool() -> None:
    """End at once when the process is gone that this worker works for; for the workers of a pool that are spawned.

    They wait for work on a pipe of which each of them holds both ends, so they would never learn of it.
    """
    from multiprocessing import parent_process  # here: every command imports this file

    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
