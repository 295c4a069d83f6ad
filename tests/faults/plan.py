"""Chooses at which calls and moments of a command something goes wrong, from a record of its undisturbed run."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence

from tests.faults.attempts import Fault
from tests.faults.commands import Command

# Between these, a result changes from absent or old to new; the other calls fill files that have no name yet.
TURNS = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat", "fsync", "ftruncate64")
SPACE = (
    "write",
    "pwrite64",
    "writev",
    "sendfile",
    "sendfile64",
    "copy_file_range",
    "open",
    "open64",
    "openat",
    "openat64",
    "mkdir",
    "ftruncate64",
    "fopen",
    "fopen64",
)


def kills(command: Command, calls: list[list[str]], aimed: int, timed: int, seed: int) -> list[Fault]:
    """Returns SIGKILLs: at calls that turn results from old to new, at other calls, and at random times.

    Args:
        command: the command.
        calls: those of an undisturbed run, see `Ended.calls`.
        aimed, timed: the most kills of each kind.
        seed: random seed of the choice.
    """
    turns = [number for number, call in enumerate(calls, 1) if call[2] in TURNS]
    others = [number for number, call in enumerate(calls, 1) if call[2] not in TURNS]
    # Three quarters at turns, if there are as many; evenly spread, the first and the last included.
    at = _spread(turns, max(aimed * 3 // 4, aimed - len(others)))
    at = sorted(at + _spread(others, aimed - len(at)))
    is_many = command.processes > 1 or command.expensive
    faults = [Fault("self" if is_many and place % 2 else "group", number) for place, number in enumerate(at)]
    generator = random.Random(f"{seed} {command.name}")
    return faults + [Fault("time", generator.randrange(10, 1000)) for _ in range(timed)]


def failures(calls: list[list[str]], reads: list[list[str]], count: int) -> list[Fault]:
    """Returns failing writes and reads: a disk that is full from a call on, a device that fails once, a short write.

    Args:
        calls: calls of an undisturbed run that change files.
        reads: its calls that read inputs.
        count: the most faults of each kind.
    """
    if not count:
        return []
    space = [number for number, call in enumerate(calls, 1) if call[2] in SPACE]
    writes = [number for number, call in enumerate(calls, 1) if call[2].startswith(("write", "pwrite"))]
    turns = [number for number, call in enumerate(calls, 1) if call[2] in ("fsync", "rename")]
    return [
        *(Fault("errors", number, errno.ENOSPC) for number in _one_of_each(space, calls, count)),
        *(Fault("error", number, errno.EIO) for number in _one_of_each(writes, calls, count)),
        *(Fault("error", number, errno.EIO) for number in _spread(turns, max(1, count // 2))),
        *(Fault("short", number) for number in _one_of_each(writes, calls, max(1, count // 2))),
        *(
            Fault("error", number, errno.EIO, "inputs")
            for number in _one_of_each(range(1, len(reads) + 1), reads, max(1, count // 2))
        ),
    ]


def _one_of_each(numbers: Sequence[int], calls: list[list[str]], count: int) -> list[int]:
    """Chooses calls so that each file is met once before any is met twice."""
    by_path: dict[str, int] = {}
    for number in numbers:
        by_path.setdefault(calls[number - 1][3], number)
    return _spread(sorted(by_path.values()), count)


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """Chooses up to `count` of the numbers, evenly, the first and the last among them."""
    if count <= 0 or len(numbers) <= count:
        return list(numbers) if count > 0 else []
    if count == 1:
        return [numbers[-1]]
    return sorted({numbers[round(place * (len(numbers) - 1) / (count - 1))] for place in range(count)})
