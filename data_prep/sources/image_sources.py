"""Reads labelled images from all usual formats through one interface: number in, encoded bytes out.

The formats are record packs, shards of a record pack, WebDataset tars, folders of images, `.lst` files, CVLface's
`train.tsv`, and Parquet or arrow files as model hubs store them (those need the optional package pyarrow).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np

from data_prep.jobs.conversion_log import ConversionLog
from data_prep.jobs.resuming import digest_of, file_stamp, files_fingerprint
from data_prep.sources.image_lists import (
    ListedImage,
    check_one_label,
    labels_from_key_list,
    list_folder,
    names_from_lst,
    number_labels,
    read_lst,
)
from data_prep.sources.webdataset import TarSource
from facekd.data.datasets.class_counts import count_classes
from facekd.data.datasets.record_pack import RecordPack, class_warnings, open_record_pack
from facekd.data.datasets.sharded_records import ShardedRecords, find_shards
from facekd.errors import DataError, is_device_failure
from facekd.files.reading import read_text_file, require_regular_file
from facekd.utils.foreign import shown


class ImageSource(Protocol):
    """Gives N labelled images; several threads may read at once.

    Attributes:
        kind: the format, in words.
        labels: int64 (N,), from 0; -1 for a record without a usable label, which `read` refuses.
        num_classes: number of identities.
        warnings: sentences for people about what is unusual.
    """

    kind: str
    labels: np.ndarray
    num_classes: int
    warnings: list[str]

    def class_warnings(self) -> list[str]:
        """Returns sentences about classes without images, or a single class."""
        ...

    def read(self, image: int) -> bytes:
        """Returns the encoded bytes of an image; raises a `FacekdError` that names it if it cannot be read."""
        ...

    def name(self, image: int) -> str:
        """Returns its name as IDENTITY/FILE, or an empty string if it has none."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Returns a description as JSON that differs for other images, and if one of the files has changed."""
        ...

    def stamp(self, image: int) -> str:
        """Returns a stamp that differs if the image has changed, or an empty string if images have no own files."""
        ...

    def will_read(self, images: np.ndarray) -> None:
        """Requests images, int64 (B,), from the disk in the background, if that helps."""
        ...


def open_source(
    path: Path,
    root: Path | None = None,
    on_bad_record: Literal["fail", "skip"] = "fail",
    labels_from: Path | None = None,
) -> ImageSource:
    """Opens labelled images; the suffix of a file, or the content of a folder, decides the format.

    Args:
        path: a file or folder.
        root: folder that names in an `.lst` or `train.tsv` are relative to; by default that of the list.
        on_bad_record: see `open_record_pack`.
        labels_from: a list that says who is on the image of each record of a pack; see `read_key_list`.

    Raises:
        DataError: there is nothing at `path`, nothing of a known format, or no single pack for `labels_from`.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    require_regular_file(path)
    if labels_from is not None:
        if find_shards(path) or not (path.suffix.lower() == ".rec" or any(path.glob("*.rec"))):
            raise DataError(f"{path}: is no single record pack, and a list of labels goes with the records of one")
        return ListLabelledSource(open_record_pack(path, on_bad_record), labels_from)
    # A file.
    suffix = path.suffix.lower() if path.is_file() else ""
    if suffix == ".tar":
        return TarSource([path])
    if suffix in (".parquet", ".arrow"):
        from data_prep.sources.table_sources import TableSource  # pyarrow is optional

        return TableSource([path])
    if suffix == ".lst":
        return ListSource(root or path.parent, check_one_label(read_lst(path), path), ".lst")
    if suffix == ".tsv":
        return ListSource(root or path.parent, check_one_label(read_tsv(path), path), "train.tsv")
    if suffix == ".rec":
        return RecordSource(open_record_pack(path, on_bad_record))
    if suffix:
        raise DataError(f"{path}: expected .rec, .tar, .lst, .tsv, .parquet or .arrow, or a folder")
    # A folder: the first of these that it holds.
    if find_shards(path):
        return ShardSource(ShardedRecords(path, on_bad_record))
    if any(path.glob("*.rec")):
        return RecordSource(open_record_pack(path, on_bad_record))
    if (path / "train.tsv").is_file():
        tsv = path / "train.tsv"
        return ListSource(root or path, check_one_label(read_tsv(tsv), tsv), "train.tsv")
    tars = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
    if tars:
        ConversionLog.refuse_unfinished(path)
        return TarSource(tars)
    tables = _find_tables(path)
    if tables:
        from data_prep.sources.table_sources import TableSource

        return TableSource(tables)
    return ListSource(path, list_folder(path), "folder of images")


def _find_tables(folder: Path) -> list[Path]:
    """Finds Parquet and arrow files below a folder in one pass: it may hold millions of images."""
    return sorted(
        Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if name.endswith((".parquet", ".arrow"))
    )


class RecordSource:
    """Reads a record pack; names come from the `.lst` beside it, if it fits."""

    def __init__(self, pack: RecordPack) -> None:
        self.kind = f"record pack ({pack.layout})"
        self.pack = pack
        self.labels = pack.labels()
        self.num_classes = pack.num_classes
        self._names, misfits = _names_of(pack)
        self.warnings = [*pack.warnings, *misfits]

    def class_warnings(self) -> list[str]:
        return self.pack.class_warnings()

    def read(self, image: int) -> bytes:
        return self.pack.read_image(image)[0]

    def name(self, image: int) -> str:
        return self._names[image] if self._names else ""

    def fingerprint(self) -> dict[str, Any]:
        return files_fingerprint(_files_of(self.pack))

    def stamp(self, image: int) -> str:
        return ""

    def will_read(self, images: np.ndarray) -> None:
        self.pack.will_read(images)


class ListLabelledSource(RecordSource):
    """Reads a record pack in which a text file beside it, not the records, says who is on which image."""

    def __init__(self, pack: RecordPack, list_path: Path) -> None:
        super().__init__(pack)
        self.kind = f"{self.kind}, labels from {list_path}"
        self.labels, self._names = labels_from_key_list(pack, list_path)
        self.warnings = pack.warnings  # what the `.lst` says is not used
        self.num_classes = int(self.labels.max()) + 1
        self._list_path = list_path

    def class_warnings(self) -> list[str]:
        return _class_warnings(self, self._list_path)

    def fingerprint(self) -> dict[str, Any]:
        return files_fingerprint([*_files_of(self.pack), self._list_path])


class ShardSource:
    """Reads the shards of one record pack."""

    kind = "shards of records"

    def __init__(self, records: ShardedRecords) -> None:
        self.records = records
        self.labels = records.labels()
        self.num_classes = records.num_classes
        named = [_names_of(pack) for pack in records.packs]
        self._names = [names for names, _ in named]
        self.warnings = [*records.warnings, *(misfit for _, misfits in named for misfit in misfits)]

    def class_warnings(self) -> list[str]:
        return self.records.class_warnings()

    def read(self, image: int) -> bytes:
        return self.records.read_image(image)[0]

    def name(self, image: int) -> str:
        shard, number = self.records.locate(image)
        names = self._names[shard]
        return names[number] if names else ""

    def fingerprint(self) -> dict[str, Any]:
        return files_fingerprint([file for pack in self.records.packs for file in _files_of(pack)])

    def stamp(self, image: int) -> str:
        return ""

    def will_read(self, images: np.ndarray) -> None:
        self.records.will_read(images)


class ListSource:
    """Reads image files named by a list or found in a folder."""

    def __init__(self, root: Path, images: list[ListedImage], kind: str) -> None:
        self.kind = kind
        self.root = root
        self._images = images
        self.labels = np.array([image.label for image in images], dtype=np.int64)
        self.num_classes = int(self.labels.max()) + 1
        self.warnings: list[str] = []

    def class_warnings(self) -> list[str]:
        return _class_warnings(self, self.root)

    def read(self, image: int) -> bytes:
        path = self.root / self._images[image].name
        require_regular_file(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            if is_device_failure(error):
                raise
            raise DataError(f"{path}: {error.strerror}") from error
        if not content:
            raise DataError(f"{path}: the file is empty")
        return content

    def name(self, image: int) -> str:
        return self._images[image].name

    def fingerprint(self) -> dict[str, Any]:
        names = digest_of(os.fsencode(image.name) + b"\n" for image in self._images)
        return {"root": os.fsencode(self.root.resolve()).hex(), "names": names}

    def stamp(self, image: int) -> str:
        return file_stamp(self.root / self._images[image].name)

    def will_read(self, images: np.ndarray) -> None:
        pass  # each file would have to be opened, which the reading threads do


def read_tsv(path: Path) -> list[ListedImage]:
    """Reads the images of a `train.tsv`: `path<tab>label`, or `number<tab>path<tab>label`, with or without titles.

    Labels may be names of people; they are numbered in sorted order.

    Raises:
        DataError: a line has another form.
    """
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(read_text_file(path, has_file_names=True).split("\n"), start=1):
        columns = line.rstrip("\r").split("\t")
        if columns == [""]:
            continue
        if len(columns) not in (2, 3):
            raise DataError(f"{path}, line {number}: {line[:80]!r}; expected `path label` or `number path label`")
        if number == 1 and columns[-1].strip().lower() in ("label", "id", "identity"):
            continue
        name, label = columns[-2], columns[-1].strip()
        if not name or not label:
            raise DataError(f"{path}, line {number}: {line[:80]!r} lacks the image or the label")
        rows.append((name, label))
    if not rows:
        raise DataError(f"{path} lists no images")
    number_of = number_labels({label: name for name, label in reversed(rows)}, lambda name: f"{path}: {shown(name)}")
    return [ListedImage(name, number_of[label]) for name, label in rows]


def _class_warnings(source: ImageSource, path: Path) -> list[str]:
    counts = count_classes(source.labels, source.num_classes)
    return class_warnings(counts, path, lambda: f"Look at {path}: are the labels right?")


def _files_of(pack: RecordPack) -> list[Path]:
    rec = pack.reader.rec_path
    return [rec, rec.with_suffix(".idx"), rec.with_suffix(".lst")]


def _names_of(pack: RecordPack) -> tuple[list[str], list[str]]:
    """Returns names of a pack's images from the `.lst` beside it, and a warning if there is one that does not fit."""
    try:
        return names_from_lst(pack, pack.reader.rec_path.with_suffix(".lst")), []
    except FileNotFoundError:
        return [], []
    except DataError as misfit:
        return [], [f"{misfit}; so its names are not used, and images are named by label and number"]


def default_name(label: int, number: int, suffix: str) -> str:
    """Returns a name for an image that has none."""
    return str(PurePosixPath(f"{label:07d}") / f"{number:08d}{suffix}")
