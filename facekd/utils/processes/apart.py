"""Runs a function in a process of its own, with limits, because a parser in C may crash or take all memory."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facekd.errors import DataError, FacekdError
from facekd.utils.foreign import shown
from facekd.utils.processes.children import START_MODULE, describe_end
from facekd.utils.wording import counted

MEGABYTES, SECONDS, SECONDS_IN_ALL = 4096, 120, 600
# For large files there are, besides, four bytes of memory a byte of theirs, and a second for every 20 MB.
MEMORY_BY_SIZE, BYTES_A_SECOND = 4, 20_000_000
# What it may print: what files hold by the hundred thousand, and more of large files, whose parts may be packed.
PRINTED, PRINTED_BY_SIZE = 8 << 20, 8
LAST_WORDS = 1 << 16  # bytes of standard error that are kept, the last
LONGEST_ERROR = 3000  # characters
SECONDS_FOR_THE_REST = 10  # after its end, for reading what it has printed
BEGUN = b"begun\n"  # what the process prints when the parser is about to get the file


def run_apart(
    module: str,
    name: str,
    paths: Sequence[str],
    expected: str,
    size: int = 0,
    is_right: Callable[[Any], bool] = lambda value: value is None,
) -> Any:
    """Calls a function that reads files in another process; returns its result, which goes through JSON.

    Not through a pickle, because a file may have taken over the process that parsed it. For the same reason no more is
    read of what it prints than files of this size can hold, and it is looked at before it is used.

    Args:
        module, name: where the function is, and its name; it takes the paths, as text.
        paths: the files; messages name the first.
        expected: what a file should be, for the message.
        size: their bytes, if they may be large: the limits of memory and time grow with it.
        is_right: tells whether a value, of any kind that JSON has, is of the kind that the function returns; by
            default it returns nothing.

    Raises:
        DataError: the function raised a FacekdError, or its process crashed, went beyond its limits, or printed
            something else than a result.
    """
    path, more_seconds = paths[0], size // BYTES_A_SECOND
    megabytes, seconds = MEGABYTES + (MEMORY_BY_SIZE * size >> 20), SECONDS + more_seconds
    command = [*START_MODULE, __name__, module, name, str(megabytes), str(seconds), *paths]
    most = PRINTED + PRINTED_BY_SIZE * sum(_size(file) for file in paths)
    try:
        ended = _run(command, most, SECONDS_IN_ALL + 5 * more_seconds)
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{path}: cannot be read as {expected}: its parser has not ended after {error.timeout:.0f} s, "
            "as if it were stopped or the disk did not answer; run the same command again"
        ) from error
    if len(ended.printed) > most:
        raise DataError(
            f"{path}: cannot be read as {expected}: its parser returns more than {counted(most, 'byte')}, and a file "
            "of this size holds less; the file is damaged, or made to do harm"
        )

    # Either it did not end well, or it printed what the function below prints.
    result = _from_json(ended.printed.removeprefix(BEGUN))
    if isinstance(result, dict) and isinstance(result.get("error"), str):
        lower = _lower_limits(megabytes, seconds) if result.get("ran_out") else ""
        told = shown(result["error"], LONGEST_ERROR)
        raise DataError(told + (f"; or raise the limits of this shell ({lower})" if lower else ""))
    if not isinstance(result, dict) or "value" not in result or not is_right(result["value"]):
        raise DataError(
            f"{path}: cannot be read as {expected}: its parser {ended.why()}; "
            f"{_cause(ended.printed.startswith(BEGUN), megabytes, seconds)}"
        )
    return result["value"]


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:  # the process says so
        return 0


@dataclass(frozen=True)
class _Ended:
    """Says how a process ended: its status, what it printed, and the end of what it said on standard error."""

    status: int
    printed: bytes
    said: bytes

    def why(self) -> str:
        """Returns a phrase for a process without a result."""
        if self.status < 0:
            return describe_end(self.status)
        met = self.said.decode(errors="replace").strip().splitlines()
        return f"ended with {shown(met[-1])}" if met and self.status else "returned something else than its result"


def _run(command: list[str], most: int, seconds: float) -> _Ended:
    """Runs a process, and kills it once it has printed more than `most` bytes, or not ended within `seconds`.

    Raises:
        TimeoutExpired: it has not ended.
    """
    # Threads of a linear algebra library would only reserve memory.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    printed, said = bytearray(), bytearray()

    def gather(stream: Any) -> None:
        with contextlib.suppress(ValueError):  # closed, where another process holds the other end
            while len(printed) <= most and (part := stream.read(1 << 16)):
                printed.extend(part)
        if len(printed) > most:
            process.kill()

    def gather_end(stream: Any) -> None:
        with contextlib.suppress(ValueError):
            while part := stream.read(1 << 16):
                said.extend(part)
                del said[:-LAST_WORDS]

    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # a stream that has a buffer cannot be closed while it is read
    ) as process:
        readers = [
            threading.Thread(target=gather, args=(process.stdout,), daemon=True),
            threading.Thread(target=gather_end, args=(process.stderr,), daemon=True),
        ]
        try:
            for reader in readers:
                reader.start()
            process.wait(seconds)
        except BaseException:
            process.kill()
            raise
        # Another process may hold its end of the pipes open for ever.
        for reader in readers:
            reader.join(SECONDS_FOR_THE_REST)
    return _Ended(process.returncode, bytes(printed), bytes(said))


def _from_json(content: bytes) -> Any:
    """Returns what a JSON text holds; None for one that holds nothing, and for one that Python cannot read."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits; deeply nested
        return None


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
