"""Reads and writes lists of changes to a data set.

`facekd data inspect` writes the lists, people check them, and `facekd data clean` applies them. A list is tab-separated
text with one action in each line: `drop KEY ...`, `drop-identity LABEL ...` or `merge LABEL OTHER_LABEL ...`. The rest
of the line is evidence for people, and `#` starts a comment. Whoever disagrees with an action deletes its line.

Keys and labels mean other images in another pack. So a list of `facekd data inspect` has a comment `# pack: ...` that
says for which it was made, by a digest of all keys and labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.jobs.resuming import digest_of
from facekd.data.datasets.record_pack import RecordPack
from facekd.errors import DataError
from facekd.files.reading import read_text_file
from facekd.files.writing import write_text
from facekd.utils.foreign import shown
from facekd.utils.terminal import on_one_line

PACK_MARK = "# pack:"
NUMBER = re.compile(r"\d{1,18}", re.ASCII)
NUM_ARGUMENTS = {"drop": 1, "drop-identity": 1, "merge": 2}


@dataclass
class Changes:
    """Lists records to drop by key, identities to drop by label, and pairs of labels that are one person.

    Attributes:
        keys, labels, merges: what to change.
        made_for: the lists that say which pack they were made for, with its description.
    """

    keys: set[int] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    merges: list[tuple[int, int]] = field(default_factory=list)
    made_for: list[tuple[Path, str]] = field(default_factory=list)

    def check_pack(self, keys: np.ndarray, labels: np.ndarray, where: Path) -> None:
        """Refuses lists that were made for another pack than that with these keys and labels, int64 (N,).

        Raises:
            DataError: a list says that it was made for another.
        """
        here = describe_pack(keys, labels)
        for path, there in self.made_for:
            if there != here:
                raise DataError(
                    f"{path}: was made for another pack ({there}) than {where} ({here}), where its keys and labels "
                    f"mean other images; make the list again by `facekd data inspect`, or delete its line `{PACK_MARK}`"
                )


def describe_pack(keys: np.ndarray, labels: np.ndarray) -> str:
    """Returns words that tell packs apart by the keys and labels of their images, int64 (N,)."""
    return f"{len(keys)} images, keys and labels {digest_of((keys, labels))[:16]}"


def write_clean_list(path: Path, pack: RecordPack, comments: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a list for a pack: comments, then one action for each row."""
    lines = [f"# {on_one_line(comment)}" for comment in comments]  # a name in it could be an action
    lines.append(f"{PACK_MARK} {describe_pack(pack.image_keys, pack.labels())}")
    lines += ["\t".join(on_one_line(str(value)) for value in row) for row in rows]
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
            if line.startswith(PACK_MARK):
                changes.made_for.append((path, line.removeprefix(PACK_MARK).strip()))
            if not line.strip() or line.startswith("#"):
                continue
            action, *rest = line.strip().split("\t")
            count = NUM_ARGUMENTS.get(action)
            if count is None or len(rest) < count or not all(NUMBER.fullmatch(value) for value in rest[:count]):
                raise DataError(
                    f"{path}, line {number}: '{shown(line, 80)}'; expected drop KEY, drop-identity LABEL or merge "
                    "LABEL LABEL, parted by tabs"
                )
            values = [int(value) for value in rest[:count]]
            if action == "drop":
                changes.keys.add(values[0])
            elif action == "drop-identity":
                changes.labels.add(values[0])
            else:
                changes.merges.append((values[0], values[1]))
    return changes
