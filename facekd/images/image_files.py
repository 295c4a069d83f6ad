"""Lists the image files of a folder. Every command that reads folders lists them here, by one rule:

- A file is an image if its name ends in one of `IMAGE_SUFFIXES`, in upper or lower case. Whether it decodes shows when
  it is read. A link that leads nowhere, or to itself, is an image that cannot be read if it is named like one.
- Names that begin with a dot are hidden and left out: `.DS_Store`, `.ipynb_checkpoints`, `._1.jpg`.
- Links to folders are followed. `list_by_folder` refuses two names for one folder; `list_nested` enters it once, so
  that loops of links end.
- The order is that of the names, folder by folder.
- Whatever is left out is counted and named in a `LeftOut`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from facekd.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
MAX_EXAMPLES = 3  # names in a message for each reason


class Reason(Enum):
    """Says why a name is left out, for one name and for several."""

    NOT_AN_IMAGE = "file that is not an image", "files that are not images"
    HIDDEN = "hidden file or folder", "hidden files and folders"
    OUTSIDE = "image outside the folders", "images outside the folders"
    TOO_DEEP = "folder inside a folder", "folders inside folders"
    EMPTY = "folder without images", "folders without images"
    SEEN_BEFORE = "link to a folder listed already", "links to folders listed already"


class LeftOut:
    """Counts what a listing leaves out, and keeps the first names for each reason."""

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self._examples: dict[Reason, list[str]] = defaultdict(list)

    def add(self, reason: Reason, name: str) -> None:
        """Notes a name, relative to the folder listed."""
        self._counts[reason] += 1
        if len(self._examples[reason]) < MAX_EXAMPLES:
            self._examples[reason].append(name)

    def warnings(self) -> list[str]:
        """Returns one sentence that counts and names what was left out; an empty list if nothing was."""
        parts = []
        for reason in Reason:
            if count := self._counts[reason]:
                names = ", ".join(self._examples[reason]) + (", ..." if count > MAX_EXAMPLES else "")
                parts.append(f"{count:,} {reason.value[count > 1]} ({names})")
        # Names need not be Unicode, and the sentence goes to terminals and into JSON.
        return [f"left out: {', '.join(parts)}".encode("utf-8", "backslashreplace").decode()] if parts else []


@dataclass(frozen=True)
class ImageFolders:
    """Holds the names of the images in the folders of a folder.

    Attributes:
        outside: names of the images that lie directly in it, sorted.
        by_folder: names of the images in each of its folders, sorted; empty for a folder without images.
        left_out: everything else in it and in its folders.
    """

    outside: list[str]
    by_folder: dict[str, list[str]]
    left_out: LeftOut


def is_image_name(name: str) -> bool:
    """Returns whether a file of this name is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def list_by_folder(root: Path) -> ImageFolders:
    """Lists the images in the folders of `root` (usually one per person), and those directly in it.

    Raises:
        DataError: two of the folders are one, by a link, and would be two people with the same images.
        OSError: a folder cannot be read.
    """
    left_out = LeftOut()
    outside, folders = read_folder(root, left_out)
    by_folder: dict[str, list[str]] = {}
    seen: dict[tuple[int, int], str] = {}
    for folder in folders:
        by_folder[folder], deeper = read_folder(root / folder, left_out, f"{folder}/")
        for name in deeper:
            left_out.add(Reason.TOO_DEEP, f"{folder}/{name}")
        # An empty folder names no person, so two links to one do no harm.
        other = seen.setdefault(_identity(root / folder), folder) if by_folder[folder] else folder
        if other != folder:
            raise DataError(
                f"{root / folder} and {root / other} are one folder, by a link, and would be two identities with the "
                "same images; remove the link"
            )
    return ImageFolders(outside, by_folder, left_out)


def list_nested(root: Path) -> tuple[list[str], LeftOut]:
    """Lists the images at any depth below `root`, and what was left out.

    Returns:
        Names relative to `root` with `/` between folders, sorted folder by folder.

    Raises:
        OSError: a folder cannot be read.
    """
    left_out = LeftOut()
    seen: set[tuple[int, int]] = set()

    def entries(prefix: str) -> Iterator[tuple[str, bool]]:
        """Yields the images and folders of a folder in one order, each with whether it is a folder."""
        images, folders = read_folder(root / prefix, left_out, prefix)
        yield from sorted([(prefix + name, False) for name in images] + [(prefix + name, True) for name in folders])

    # A stack rather than recursion: folders may be nested deeper than Python's calls.
    found = []
    seen.add(_identity(root))
    open_folders = [entries("")]
    while open_folders:
        name, is_a_folder = next(open_folders[-1], ("", False))
        if not name:
            open_folders.pop()
        elif not is_a_folder:
            found.append(name)
        elif (identity := _identity(root / name)) in seen:
            left_out.add(Reason.SEEN_BEFORE, name)
        else:
            seen.add(identity)
            open_folders.append(entries(f"{name}/"))
    return found, left_out


def read_folder(folder: Path, left_out: LeftOut, prefix: str = "") -> tuple[list[str], list[str]]:
    """Returns the names of the images and of the folders directly in a folder, each sorted.

    Args:
        folder: the folder.
        left_out: notes what is neither, or hidden.
        prefix: stands before the names that are noted.

    Raises:
        OSError: it cannot be read.
    """
    images, folders, hidden, others = [], [], [], []
    # Known without asking the disk again for each file, which matters for millions of them.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                hidden.append(entry.name)
            elif _is_folder(entry):
                folders.append(entry.name)
            elif is_image_name(entry.name):
                images.append(entry.name)
            else:
                others.append(entry.name)
    # The order of a folder on disk is arbitrary; that of the examples in a message is not.
    for reason, names in ((Reason.HIDDEN, hidden), (Reason.NOT_AN_IMAGE, others)):
        for name in sorted(names):
            left_out.add(reason, prefix + name)
    return sorted(images), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder or a link to one; a link to nowhere, or to itself, is neither."""
    try:
        return entry.is_dir()
    except OSError:  # raised for a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """Returns device and inode: equal for two names of one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino
