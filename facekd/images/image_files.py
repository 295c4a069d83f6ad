"""Lists the image files of a folder, and reads them. Every command that reads folders lists them here, by one rule:

- A file is an image if its name ends in one of `IMAGE_SUFFIXES`, in upper or lower case. Whether it decodes shows when
  it is read. A link that leads nowhere, or to itself, is an image that cannot be read if it is named like one. A pipe,
  a socket or a device is left out, whatever its name.
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
from typing import Literal

from facekd.errors import DataError, ImageError, is_device_failure
from facekd.files.reading import encoding_hint, require_regular_file
from facekd.images.heif import AVIF_SUFFIXES, HEIC_SUFFIXES, READABLE_SUFFIXES, REMEDY
from facekd.utils.alike_names import warn_of_alike
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing

# What the decoder reads; formats whose pixels are floating-point numbers are not among them.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2", ".j2k"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
    *READABLE_SUFFIXES,
)
UNREADABLE_SUFFIXES = tuple({*HEIC_SUFFIXES, *AVIF_SUFFIXES} - {*READABLE_SUFFIXES})
MAX_EXAMPLES = 3  # names in a message for each reason
MAX_COUNTED = 100_000  # images in folders that are too deep; a message needs no more


class Reason(Enum):
    """Says why a name is left out, for one name and for several."""

    NOT_AN_IMAGE = "file that is not an image", "files that are not images"
    NO_SUFFIX = "file whose name has no suffix", "files whose names have no suffix"
    UNREADABLE = f"HEIC or AVIF image, which {REMEDY} reads", f"HEIC or AVIF images, which {REMEDY} reads"
    SPECIAL = "pipe, socket or device", "pipes, sockets and devices"
    HIDDEN = "hidden file or folder", "hidden files and folders"
    OUTSIDE = "image outside the folders", "images outside the folders"
    TOO_DEEP = "folder inside a folder", "folders inside folders"
    EMPTY = "folder without images", "folders without images"
    SEEN_BEFORE = "link to a folder listed already", "links to folders listed already"


class LeftOut:
    """Counts what a listing leaves out, and keeps the first names for each reason.

    Attributes:
        images_too_deep: number of images in folders inside folders, up to `MAX_COUNTED`.
    """

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self._examples: dict[Reason, list[str]] = defaultdict(list)
        self.images_too_deep = 0

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
                names = ", ".join(map(shown, self._examples[reason])) + (", ..." if count > MAX_EXAMPLES else "")
                what = reason.value[count > 1]
                if reason is Reason.TOO_DEEP and self.images_too_deep:
                    what += f", with {_count_text(self.images_too_deep)} in {'them' if count > 1 else 'it'}"
                parts.append(f"{count:,} {what} ({names})")
        advice = "; move images up into the folder of their person, or give the folder whose subfolders are the people"
        advice = advice if self.images_too_deep else ""
        return [f"left out: {', '.join(parts)}{advice}"] if parts else []


@dataclass(frozen=True)
class ImageFolders:
    """Holds the names of the images in the folders of a folder.

    Attributes:
        root: the folder.
        outside: names of the images that lie directly in it, sorted.
        by_folder: names of the images in each of its folders, sorted; empty for a folder without images.
        left_out: everything else in it and in its folders.
    """

    root: Path
    outside: list[str]
    by_folder: dict[str, list[str]]
    left_out: LeftOut

    def warnings(self) -> list[str]:
        """Returns sentences about what was left out, and folders that may be one person's under two names."""
        people = [folder for folder, files in self.by_folder.items() if files]
        return [*self.left_out.warnings(), *warn_of_alike(people, "folders")]

    def explain(self) -> str:
        """Returns what is there in place of folders with images, to be put behind an error: `; ...`."""
        # Folders of people one level deeper, or more.
        parents = {} if any(self.by_folder.values()) else _parents_of_people(self.root)
        if parents:
            found = [
                f"{shown(parent)} has {people:,} {'folder' if people == 1 else 'folders'} with {_count_text(images)}"
                for parent, (people, images) in list(parents.items())[:MAX_EXAMPLES]
            ]
            more = ", ..." if len(parents) > MAX_EXAMPLES else ""
            return (
                f"; its images lie deeper: {', '.join(found)}{more}; give the folder whose subfolders are the people, "
                "or move the images up"
            )
        # Images of one person, or no image at all.
        if self.outside and not any(self.by_folder.values()):
            return f"; it holds {_count_text(len(self.outside))} itself, such as {shown(self.outside[0])}"
        return explain_no_images(self.left_out)


def explain_no_images(left_out: LeftOut) -> str:
    """Returns which files are images, and what was left out, to be put behind an error that there are none."""
    return "".join(f"; {part}" for part in (f"images end in {', '.join(IMAGE_SUFFIXES)}", *left_out.warnings()))


def is_image_name(name: str) -> bool:
    """Returns whether a file of this name is an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_listed_name(name: str) -> bool:
    """Returns whether a listing takes an image of this name: it ends like an image's, and no part of it is hidden.

    Args:
        name: path below the folder to be listed, with `/` between folders and without `..`.
    """
    is_hidden = any(part.startswith(".") and part != "." for part in name.split("/"))
    return not is_hidden and name.lower().endswith((*IMAGE_SUFFIXES, *UNREADABLE_SUFFIXES))


def read_image_file(path: Path) -> bytes:
    """Reads the bytes of one of many image files.

    Raises:
        ImageError: it is missing or cannot be read, and the others still can; the message does not name it.
        OSError: the disk fails.
    """
    try:
        require_regular_file(path)
        return path.read_bytes()
    except DataError as error:
        raise ImageError(error.without_name(path)) from error
    except FileNotFoundError as error:
        raise ImageError(f"no such image, though it is listed{encoding_hint(str(path))}") from error
    except OSError as error:  # a link to itself, no permission
        if is_device_failure(error):
            raise
        raise ImageError(str(error.strerror)) from error


def read_named_image(path: Path) -> bytes:
    """Reads the bytes of an image file; see `read_image_file`, but the message names the file."""
    try:
        return read_image_file(path)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


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
            if not (root / folder / name).is_symlink():
                most = MAX_COUNTED - left_out.images_too_deep
                left_out.images_too_deep += sum(count for _, count in _images_below(root / folder / name, most))
        # An empty folder names no person, so two links to one do no harm.
        other = seen.setdefault(_identity(root / folder), folder) if by_folder[folder] else folder
        if other != folder:
            raise DataError(
                f"{root / folder} and {root / other} are one folder, by a link, and would be two identities with the "
                "same images; remove the link"
            )
    return ImageFolders(root, outside, by_folder, left_out)


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
    images, folders = [], []
    others: list[tuple[Reason, str]] = []
    # Known without asking the disk again for each file, which matters for millions of them.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                others.append((Reason.HIDDEN, entry.name))
            elif (kind := _kind_of(entry)) == "folder":
                folders.append(entry.name)
            elif kind == "special":
                others.append((Reason.SPECIAL, entry.name))
            elif is_image_name(entry.name):
                images.append(entry.name)
            elif entry.name.lower().endswith(UNREADABLE_SUFFIXES):
                others.append((Reason.UNREADABLE, entry.name))
            else:
                has_no_suffix = kind == "file" and "." not in entry.name
                others.append((Reason.NO_SUFFIX if has_no_suffix else Reason.NOT_AN_IMAGE, entry.name))
    # The order of a folder on disk is arbitrary; that of the examples in a message is not.
    for reason, name in sorted(others, key=lambda other: other[1]):
        left_out.add(reason, prefix + name)
    return sorted(images), sorted(folders)


def _kind_of(entry: os.DirEntry[str]) -> Literal["folder", "file", "special", "broken"]:
    """Returns what an entry, or what it links to, is; a link to nowhere, or to itself, is broken.

    "special" is a pipe, a socket or a device: opening it could wait for ever.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        entry.stat()
    except OSError:
        return "broken"
    return "special"


def _images_below(root: Path, most: int) -> Iterator[tuple[str, int]]:
    """Yields the folders below `root`, itself included, that hold images, and their number, until `most` are met.

    Links are not followed. The counts add up to `most` at most.
    """
    for place, folders, files in os.walk(root):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        count = min(most, sum(is_image_name(file) and not file.startswith(".") for file in files))
        if not most:
            return
        if count:
            yield place, count
            most -= count


def _parents_of_people(root: Path) -> dict[str, tuple[int, int]]:
    """Returns, for each folder below `root` whose folders hold images, the number of these folders and images."""
    found: dict[str, tuple[int, int]] = {}
    for place, count in _images_below(root, MAX_COUNTED):
        parent = os.path.dirname(place)  # noqa: PTH120
        if Path(place) != root and Path(parent) != root:
            people, images = found.get(parent, (0, 0))
            found[parent] = people + 1, images + count
    return found


def _count_text(images: int) -> str:
    more = " or more" if images >= MAX_COUNTED else ""
    return f"{images:,}{more} {agreeing(images, 'image')}"


def _identity(folder: Path) -> tuple[int, int]:
    """Returns device and inode: equal for two names of one folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino
