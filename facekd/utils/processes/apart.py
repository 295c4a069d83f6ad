"""Runs a function in a process of its own, with limits, because a parser in C may crash or take all memory."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from facekd.errors import DataError, FacekdError
from facekd.utils.processes.children import START_MODULE, describe_end

MEGABYTES, SECONDS, SECONDS_IN_ALL = 4096, 120, 600
# For large files there are, besides, four bytes of memory a byte of theirs, and a second for every 20 MB.
MEMORY_BY_SIZE, BYTES_A_SECOND = 4, 20_000_000


def run_apart(module: str, name: str, paths: Sequence[str], expected: str, size: int = 0) -> Any:
    """Calls a function that reads files in another process; returns its result, which goes through JSON.

    Not through a pickle, because a file may have taken over the process that parsed it.

    Args:
        module, name: where the function is, and its name; it takes the paths, as text.
        paths: the files; messages name the first.
        expected: what a file should be, for the message.
        size: their bytes, if they may be large: the limits grow with it.

    Raises:
        DataError: the function raised a FacekdError, or its process crashed or went beyond its limits.
    """
    path, more_seconds = paths[0], size // BYTES_A_SECOND
    limits = (str(MEGABYTES + (MEMORY_BY_SIZE * size >> 20)), str(SECONDS + more_seconds))
    command = [*START_MODULE, __name__, module, name, *limits, *paths]
    # Threads of a linear algebra library would only reserve memory.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=SECONDS_IN_ALL + 5 * more_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{path}: cannot be read as {expected}: its parser has not ended after {error.timeout:.0f} s, "
            "as if it were stopped or the disk did not answer; run the same command again"
        ) from error
    try:
        result = json.loads(done.stdout)
    except ValueError:
        met = done.stderr.decode(errors="replace").strip().splitlines()
        why = describe_end(done.returncode) if done.returncode < 0 or not met else f"ended with {met[-1]}"
        raise DataError(
            f"{path}: cannot be read as {expected}: its parser {why}; the file is damaged, or made to do harm"
        ) from None
    if "error" in result:
        raise DataError(result["error"])
    return result["value"]


def _run_here(module: str, name: str, megabytes: str, seconds: str, *paths: str) -> None:
    """Limits this process, calls the function and prints its result."""
    import resource  # here: systems without it can still import this file

    memory, time = int(megabytes) << 20, int(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (time, time))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        result = {"value": getattr(importlib.import_module(module), name)(*paths)}
    except FacekdError as error:
        result = {"error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    _run_here(*sys.argv[1:])
