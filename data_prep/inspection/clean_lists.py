"""Reads and writes lists of changes to a data set.

`facekd data inspect` writes the lists, people check them, and `facekd data clean` applies them. A list is tab-separated
text with one action in each line: `drop KEY ...`, `drop-identity LABEL ...` or `merge LABEL OTHER_LABEL ...`. The rest
of the line is evidence for people, and `#` starts a comment. Whoever disagrees with an action deletes its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facekd.errors import DataError
from facekd.utils.files import read_text_file, write_text

NUM_ARGUMENTS = {"drop": 1, "drop-identity": 1, "merge": 2}


@dataclass
class Changes:
    """Lists records to drop by key, identities to drop by label, and pairs of labels that are one person."""

    keys: set[int] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    merges: list[tuple[int, int]] = field(default_factory=list)


def write_clean_list(path: Path, comments: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a list: comments, then one action for each row."""
    lines = [f"# {comment}" for comment in comments] + ["\t".join(map(str, row)) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_clean_lists(paths: Sequence[Path]) -> Changes:
    """Reads lists; an action that several of them name is done once.

    Raises:
        DataError: a line is not an action.
        OSError: a list cannot be read.
    """
    changes = Changes()
    # Numbers behind the action are its arguments; everything after them is evidence and is not read.
    for path in paths:
        for number, line in enumerate(read_text_file(path).split("\n"), start=1):
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
