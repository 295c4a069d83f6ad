"""Lists the images of what a user names: photographs, folders of them, record packs, verification packs, lists."""

from __future__ import annotations

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError
from facekd.faces.finding import ImageSource
from facekd.faces.gallery import is_gallery
from facekd.files.reading import read_text_file, require_regular_file, stamp_of
from facekd.images.image_files import explain_no_images, is_listed_name, list_nested
from facekd.utils.foreign import shown, some_of
from facekd.utils.wording import counted

STANDARD_INPUT = Path("/dev/stdin")
LONGEST_PATH = 4096  # characters; the system's own limit counts bytes, and a person has no longer name
EXPECTED = "a photograph, a folder of them, a .rec, a verification pack (.bin, .npz), or - for paths on standard input"


class Images(ABC):
    """Provides images one by one, with the name of each and who is on it.

    Attributes:
        names: N names, for people and to find the image again.
        people: N names or labels of people; empty where it is not known.
    """

    names: Sequence[str]
    people: Sequence[str]

    def __len__(self) -> int:
        """Returns the number of images N."""
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> ImageSource:
        """Returns image `index` as `FaceFinder.find` takes it.

        Raises:
            RecordError: its record is damaged.
            OSError: the disk fails.
        """

    @abstractmethod
    def identities(self) -> list[str]:
        """Returns N texts; images of one text are one image that was named twice."""

    @abstractmethod
    def stamps(self) -> Iterable[tuple[int, ...]]:
        """Yields numbers that change with the content of the files that the images come from."""

    def fingerprint(self) -> str:
        """Returns a digest of what the images are: of their names, people and files, not of their pixels."""
        digest = hashlib.sha256()
        for texts in (self.names, self.people):
            for text in texts:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        for stamp in self.stamps():
            digest.update(repr(stamp).encode())
        return digest.hexdigest()


class ImageFiles(Images):
    """Provides the images of files.

    Args:
        paths: the files, as a user names them.
        people: who is on each; empty where it is not known.
    """

    def __init__(self, paths: Sequence[str], people: Sequence[str]) -> None:
        self.names: Sequence[str] = list(paths)
        self.people: Sequence[str] = list(people)

    def read(self, index: int) -> ImageSource:
        """See `Images.read`."""
        return self.names[index]

    def identities(self) -> list[str]:
        """See `Images.identities`."""
        return [os.path.abspath(name) for name in self.names]  # noqa: PTH100 - `resolve` asks the disk for each

    def stamps(self) -> Iterable[tuple[int, ...]]:
        """See `Images.stamps`; a file that is not there has zeros."""
        for name in self.names:
            try:
                yield stamp_of(Path(name))
            except (OSError, ValueError):  # a zero byte in a line of a list
                yield stamp_of(None)


class RecordImages(Images):
    """Provides the images of a `.rec`; people are its labels.

    Attributes:
        path: the file, without links.
    """

    def __init__(self, path: Path) -> None:
        self._pack: RecordPack = open_record_pack(path, "skip")
        self.path: Path = self._pack.reader.rec_path.resolve()
        self.names: Sequence[str] = [f"{path}#{key}" for key in self._pack.image_keys.tolist()]
        self.people: Sequence[str] = [str(label) if label >= 0 else "" for label in self._pack.labels().tolist()]
        for warning in self._pack.warnings:
            print(f"warning: {path}: {warning}", file=sys.stderr)

    def read(self, index: int) -> ImageSource:
        """See `Images.read`."""
        return self._pack.read_image(index)[0]

    def identities(self) -> list[str]:
        """See `Images.identities`; keys of records may occur twice."""
        return [f"{self.path}#{number}" for number in range(len(self))]

    def stamps(self) -> Iterable[tuple[int, ...]]:
        """See `Images.stamps`."""
        yield stamp_of(self.path, self._pack.reader.index.source)


class PackImages(Images):
    """Provides the images of a verification pack, which does not say who is on them, or only for its pairs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        pack = read_pair_pack(path)
        self._images = pack.images
        self.names: Sequence[str] = [f"{path}#{number}" for number in range(len(pack.images))]
        self.people: Sequence[str] = (
            [""] * len(pack.images) if pack.subjects is None else pack.subjects.reshape(-1).tolist()
        )

    def read(self, index: int) -> ImageSource:
        """See `Images.read`."""
        return self._images[index]

    def identities(self) -> list[str]:
        """See `Images.identities`."""
        return [f"{self._path.resolve()}#{number}" for number in range(len(self))]

    def stamps(self) -> Iterable[tuple[int, ...]]:
        """See `Images.stamps`."""
        yield stamp_of(self._path)


class JoinedImages(Images):
    """Provides images of several inputs as one.

    Args:
        places: for each image its input and its number there.
    """

    def __init__(self, places: Sequence[tuple[Images, int]]) -> None:
        self._places = places
        self.names: Sequence[str] = [part.names[index] for part, index in places]
        self.people: Sequence[str] = [part.people[index] for part, index in places]

    def read(self, index: int) -> ImageSource:
        """See `Images.read`."""
        part, place = self._places[index]
        return part.read(place)

    def identities(self) -> list[str]:
        """See `Images.identities`."""
        known = {id(part): part.identities() for part, _ in self._places}
        return [known[id(part)][index] for part, index in self._places]

    def stamps(self) -> Iterable[tuple[int, ...]]:
        """See `Images.stamps`."""
        for part in {id(part): part for part, _ in self._places}.values():
            yield from part.stamps()


def list_images(words: Sequence[str], lists: Sequence[Path] = ()) -> Images:
    """Lists the images of all inputs, in the order in which they are named; one that is named twice is taken once.

    A person is the folder that an image lies in, if that is below a folder that was named; the label in a `.rec`, with
    the pack before it if there are several; or the second column of a list. What is left out, and how many are named
    twice, is said on standard error.

    Args:
        words: what the user named: photographs, folders, `.rec`, `.bin` and `.npz` packs, `-`.
        lists: text files with a path on each line, and perhaps a tab and a person.

    Raises:
        DataError: there is no such input, it is of another kind, or there are no images.
    """
    opened = {word: _open(word) for word in words}
    _tell_labels_apart(opened)
    _name_people_of_several_folders(opened)
    parts = [part for word in words for part in opened[word]] + [_read_list(path) for path in lists]
    seen: set[str] = set()
    places: list[tuple[Images, int]] = []
    for part in parts:
        for index, identity in enumerate(part.identities()):
            if identity not in seen:
                seen.add(identity)
                places.append((part, index))
    num_twice = sum(map(len, parts)) - len(places)
    if num_twice:
        print(
            f"{counted(num_twice, 'image is', 'images are')} named more than once; each is embedded once",
            file=sys.stderr,
        )
    return JoinedImages(places)


def _open(word: str) -> Sequence[Images]:
    """Lists the images of one input, which may be several packs."""
    if word == "-":
        return [_read_list(STANDARD_INPUT)]
    path = Path(word)
    if not path.exists():
        raise DataError(f"{word}: no such file or folder; expected {EXPECTED}")
    require_regular_file(path)
    if path.is_dir():
        packs = sorted(file for file in path.glob("*.rec") if not file.name.startswith("."))
        return [RecordImages(pack) for pack in packs] or [_list_folder(path)]
    suffix = path.suffix.lower()
    if suffix == ".rec":
        return [RecordImages(path)]
    if suffix == ".npz" and is_gallery(path):
        raise DataError(f"{word}: is a gallery, whose faces are embedded already; give images")
    if suffix in (".bin", ".npz"):
        return [PackImages(path)]
    if not is_listed_name(path.name):
        raise DataError(f"{word}: is no image by its name; expected {EXPECTED}")
    return [ImageFiles([word], [""])]


def _tell_labels_apart(opened: Mapping[str, Sequence[Images]]) -> None:
    """Puts its pack before each label if there are several packs, whose label 5 is not one person; shards are one."""
    packs = {word: [part for part in parts if isinstance(part, RecordImages)] for word, parts in opened.items()}
    if len({frozenset(part.path for part in parts) for parts in packs.values() if parts}) < 2:
        return
    for word, parts in packs.items():
        for part in parts:
            part.people = [f"{word}:{label}" if label else "" for label in part.people]


def _name_people_of_several_folders(opened: Mapping[str, Sequence[Images]]) -> None:
    """Warns of people whose images lie in several folders of one name, which may be two people's: 0001 of two sets."""
    folders_of: dict[str, dict[str, None]] = {}
    of_folders = [part for word, parts in opened.items() if Path(word).is_dir() for part in parts]
    for part in (part for part in of_folders if isinstance(part, ImageFiles)):
        for name, person in zip(part.names, part.people, strict=True):
            if person:
                folders_of.setdefault(person, {})[os.path.dirname(name)] = None  # noqa: PTH120
    several = {person: folders for person, folders in folders_of.items() if len(folders) > 1}
    if several:
        person, folders = next(iter(several.items()))
        print(
            f"warning: {counted(len(several), 'person has', 'people have')} images in several folders of one name, "
            f"which count as one person each: the first {shown(person)}, in {some_of(folders)}",
            file=sys.stderr,
        )


def _list_folder(folder: Path) -> ImageFiles:
    """Lists the images of a folder at any depth; a person is the folder that an image lies in, below this one."""
    found, left_out = list_nested(folder)
    if not found:
        raise DataError(f"{folder}: holds no images, neither do its subfolders{explain_no_images(left_out)}")
    for warning in left_out.warnings():
        print(f"warning: {folder}: {warning}", file=sys.stderr)
    return ImageFiles([str(folder / name) for name in found], [PurePosixPath(name).parent.name for name in found])


def _read_list(path: Path) -> ImageFiles:
    """Reads a list of paths, one a line, each perhaps with a tab and a person behind it."""
    what = "standard input" if path == STANDARD_INPUT else str(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; expected a list of paths, one a line (a folder is named without --list)")
    rows = [line.rstrip("\r").split("\t") for line in read_text_file(path, has_file_names=True).split("\n")]
    rows = [row for row in rows if row[0].strip()]
    if not rows:
        raise DataError(f"{what}: lists no images; expected a path on each line, and perhaps a tab and a person")
    if long := [text for row in rows for text in row if len(text) > LONGEST_PATH]:
        raise DataError(
            f"{what}: {shown(long[0], 60)} has {counted(len(long[0]), 'character')}, and a path at most "
            f"{LONGEST_PATH:,}; expected a path on each line, and perhaps a tab and a person"
        )
    odd = [row[0] for row in rows if len(row) > 2]
    if odd:
        raise DataError(
            f"{what}: {counted(len(odd), 'line has', 'lines have')} more than two columns, the first that of "
            f"{some_of(odd[:1])}; expected a path on each line, and perhaps a tab and a person"
        )
    return ImageFiles([row[0] for row in rows], [row[1].strip() if len(row) > 1 else "" for row in rows])
