"""Lists of what to do to a data set: written by `facekd data inspect`, read by humans, applied by `facekd data clean`.

Tab-separated text, an action a line: `drop KEY ...`, `drop-identity LABEL ...`, `merge LABEL OTHER_LABEL ...`. What
follows is evidence for humans; `#` starts a comment. Taking a line out is how a human disagrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facekd.errors import DataError
from facekd.utils.files import write_text

NUM_ARGUMENTS = {"drop": 1, "drop-identity": 1, "merge": 2}


@dataclass
class Changes:
    """Keys of records to drop, labels to drop, and pairs of labels that are one person."""

    keys: set[int] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    merges: list[tuple[int, int]] = field(default_factory=list)


def write_clean_list(path: Path, comments: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a list: comments, then an action a row."""
    lines = [f"# {comment}" for comment in comments] + ["\t".join(map(str, row)) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_clean_lists(paths: Sequence[Path]) -> Changes:
    """Read lists; what several of them say is done once.

    Raises:
        DataError: a line that is no action.
        OSError: a list cannot be read.
    """
    changes = Changes()
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            action, *rest = line.strip().split("\t")
            count = NUM_ARGUMENTS.get(action)
            if count is None or len(rest) < count or not all(value.isdecimal() for value in rest[:count]):
                raise DataError(
                    f"{path}, line {number}: {line[:80]!r}; expected drop KEY, drop-identity LABEL or merge LABEL "
                    "LABEL, parted by tabs"
                )
            values = [int(value) for value in rest[:count]]
            if action == "drop":
                changes.keys.add(values[0])
            elif action == "drop-identity":
                changes.labels.add(values[0])
            else:
                changes.merges.append((values[0], values[1]))
    return changes
