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
from facekd.utils.foreign import shown
from facekd.utils.processes.children import START_MODULE, describe_end

MEGABYTES, SECONDS, SECONDS_IN_ALL = 4096, 120, 600
# For large files there are, besides, four bytes of memory a byte of theirs, and a second for every 20 MB.
MEMORY_BY_SIZE, BYTES_A_SECOND = 4, 20_000_000
BEGUN = b"begun\n"  # what the process prints when the parser is about to get the file


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
    megabytes, seconds = MEGABYTES + (MEMORY_BY_SIZE * size >> 20), SECONDS + more_seconds
    command = [*START_MODULE, __name__, module, name, str(megabytes), str(seconds), *paths]
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
        result = json.loads(done.stdout.removeprefix(BEGUN))
    except ValueError:
        met = done.stderr.decode(errors="replace").strip().splitlines()
        why = describe_end(done.returncode) if done.returncode < 0 or not met else f"ended with {shown(met[-1])}"
        raise DataError(
            f"{path}: cannot be read as {expected}: its parser {why}; "
            f"{_cause(done.stdout.startswith(BEGUN), megabytes, seconds)}"
        ) from None
    if "error" in result:
        lower = _lower_limits(megabytes, seconds) if result["ran_out"] else ""
        raise DataError(result["error"] + (f"; or raise the limits of this shell ({lower})" if lower else ""))
    return result["value"]


def _cause(has_begun: bool, megabytes: int, seconds: int) -> str:
    """Says what may be behind a parser that failed, and what to do: the file, or limits of the shell below our own."""
    lower = _lower_limits(megabytes, seconds)
    if has_begun and not lower:
        return "the file is damaged, or made to do harm"
    remedy = f"raise the limits of this shell ({lower})" if lower else "see to the memory of this machine"
    if not has_begun:
        return f"that was before it got the file: {remedy}, and run the same command again"
    return f"{remedy}, and if it ends so again, the file is damaged, or made to do harm"


def _lower_limits(megabytes: int, seconds: int) -> str:
    """Names those limits of the shell that are below our own, as they were set."""
    limits = zip(_limits(megabytes, seconds).values(), "vt", (1024, 1), strict=True)
    return " and ".join(f"`ulimit -{letter} {limit // unit}`" for (limit, most), letter, unit in limits if limit < most)


def _limits(megabytes: int, seconds: int) -> dict[int, tuple[int, int]]:
    """Returns, for memory and processor time, the limit that the parser gets, and the one that it should have.

    The lower of what it should have and what the shell that facekd was started in allows.
    """
    import resource  # here: systems without it can still import this file

    found = {}
    for kind, wanted in ((resource.RLIMIT_AS, megabytes << 20), (resource.RLIMIT_CPU, seconds)):
        allowed = [limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY]
        found[kind] = min([wanted, *allowed]), wanted
    return found


def _run_here(module: str, name: str, megabytes: str, seconds: str, *paths: str) -> None:
    """Limits this process, calls the function and prints its result."""
    import resource

    for kind, (limit, _) in _limits(int(megabytes), int(seconds)).items():
        # At the hard limit of processor time the system kills, as it does without memory; at the soft one it says so.
        resource.setrlimit(kind, (max(1, limit - 1) if kind == resource.RLIMIT_CPU else limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    function = getattr(importlib.import_module(module), name)
    os.write(1, BEGUN)
    try:
        result = {"value": function(*paths)}
    except FacekdError as error:
        result = {"error": str(error), "ran_out": isinstance(error.__cause__, MemoryError)}
    print(json.dumps(result))


if __name__ == "__main__":
    _run_here(*sys.argv[1:])
