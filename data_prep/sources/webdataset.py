"""Reads labelled images from WebDataset tars, and writes such tars; writing can be stopped and continued."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from data_prep.jobs.resuming import files_fingerprint
from data_prep.sources.encoded_images import suffix_of
from data_prep.sources.image_lists import check_label
from data_prep.sources.tar_members import list_members
from facekd.data.datasets.class_counts import count_classes
from facekd.data.datasets.record_pack import class_warnings
from facekd.errors import DataError
from facekd.files.reading import allow_open_files
from facekd.files.resumable_file import ResumableFile
from facekd.images.image_files import IMAGE_SUFFIXES
from facekd.utils.decimal_digits import whole_number
from facekd.utils.foreign import shown
from facekd.utils.progress import track
from facekd.utils.wording import agreeing, counted

LABEL_SUFFIXES = (".cls", ".json")
MAX_LABEL_BYTES = 1 << 20
LONGEST_NAME = 4096  # of a path on Linux


class TarPackWriter:
    """Writes a plain tar of samples `KEY.jpg`, `KEY.cls`, `KEY.json`; the same images always give the same bytes.

    It is a context manager like a `RecordPackWriter` with a job, and has the same attributes.
    """

    def __init__(self, path: Path, job: Mapping[str, Any], is_unchanged: Callable[[int, str], bool]) -> None:
        """Starts writing, or continues what an earlier run of the same job has left."""
        self.before_in_place: Callable[[], None] | None = None
        # Start again if one of its images has changed since.
        self._file = ResumableFile(path, job)
        found = [words.split("\t", 1) for _, words in self._file.entries()]
        if not all(is_unchanged(int(task), stamp) for task, stamp in track(found, "checking images written before")):
            found = []
            self._file.restart()
        self._num_images = self.num_found = len(found)
        self.next_task = int(found[-1][0]) + 1 if found else 0
        self._open()

    @property
    def num_images(self) -> int:
        return self._num_images

    @property
    def partial_path(self) -> Path:
        return self._file.partial_path

    @property
    def num_kept(self) -> int:
        return self._file.num_kept

    def restart(self) -> None:
        """Discards what an earlier run has written."""
        self._file.restart()
        self._num_images = self.num_found = self.next_task = 0
        self._open()

    def add(self, label: int, image_bytes: bytes, name: str, key: int, task: int, stamp: str) -> None:
        """Appends a sample; see `RecordPackWriter.add`."""
        stem = f"{key:09d}"
        self._add(f"{stem}{suffix_of(image_bytes)}", image_bytes)
        self._add(f"{stem}.cls", str(label).encode())
        self._add(f"{stem}.json", json.dumps({"label": label, "name": name}).encode())
        self._file.note(f"{task}\t{stamp}")
        self._num_images += 1
        self.next_task = task + 1

    def __enter__(self) -> TarPackWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None:
                self._archive.close()  # writes two blocks of zeros, and padding
                self._file.put_in_place(self.before_in_place)
        finally:
            self._file.abort()  # does nothing once the file is in place

    def _open(self) -> None:
        # tarfile asks the file for its position, so it pads the end as if it had written the whole file.
        self._archive = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._archive.addfile(member, io.BytesIO(content))
        self._archive.members.clear()  # tarfile keeps them for reading; millions would fill the memory


class TarSource:
    """Reads WebDataset tars: `KEY.jpg` with `KEY.cls` (the label as text), or with `label` and `name` in `KEY.json`."""

    kind = "WebDataset"

    def __init__(self, paths: list[Path]) -> None:
        labels: list[int] = []
        self._names: list[str] = []
        self._places: list[tuple[int, int, int]] = []  # file, offset, size
        self._files: list[int] = []
        self._paths = paths
        self._num_left_out, self._first_left_out = 0, ""
        allow_open_files(len(paths), str(paths[0].parent))
        for path in paths:
            self._index(path, labels)
        if not labels:
            raise DataError(f"{paths[0]}: holds no labelled images; expected members KEY.jpg with KEY.cls or KEY.json")
        self.labels = np.array(labels, dtype=np.int64)
        self.num_classes = int(self.labels.max()) + 1
        self.warnings: list[str] = []
        if self._num_left_out:
            what = (
                f"{self._num_left_out:,} of the labelled samples, which {agreeing(self._num_left_out, 'has', 'have')} "
                "no image that can be read"
            )
            self.warnings.append(f"left out: {what}, first {self._first_left_out}")

    def class_warnings(self) -> list[str]:
        counts = count_classes(self.labels, self.num_classes)
        path = self._paths[0] if len(self._paths) == 1 else self._paths[0].parent
        return class_warnings(counts, path, lambda: f"Look at {path}: are the labels right?")

    def read(self, image: int) -> bytes:
        file, offset, size = self._places[image]
        return os.pread(file, size, offset)

    def name(self, image: int) -> str:
        return self._names[image]

    def fingerprint(self) -> dict[str, Any]:
        return files_fingerprint(self._paths)

    def stamp(self, image: int) -> str:
        return ""

    def will_read(self, images: np.ndarray) -> None:
        for image in images.tolist():
            file, offset, size = self._places[image]
            os.posix_fadvise(file, offset, size, os.POSIX_FADV_WILLNEED)

    def _index(self, path: Path, labels: list[int]) -> None:
        """Finds the samples of one tar: members of a sample have one key and follow each other."""
        file = os.open(path, os.O_RDONLY)
        self._files.append(file)
        current = ""
        fields: dict[str, tuple[int, int]] = {}
        for member in list_members(path):
            # In WebDataset the key ends at the first dot of the file name.
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            key = f"{folder}/{stem}"
            if key != current:
                self._finish(path, current, fields, file, labels)
                current, fields = key, {}
            fields[f".{extension.lower()}"] = (member.offset, member.size)
        self._finish(path, current, fields, file, labels)

    def _finish(self, path: Path, key: str, fields: dict[str, tuple[int, int]], file: int, labels: list[int]) -> None:
        """Records a sample whose members are `fields`: where its image is, its label and its name."""
        image = next((place for name, place in fields.items() if name in IMAGE_SUFFIXES), None)
        where = f"{path}: sample {shown(key.lstrip('/'))}"
        if image is None:
            # A lone .json may be about the whole tar.
            if ".cls" in fields or (".json" in fields and len(fields) > 1):
                self._num_left_out += 1
                self._first_left_out = self._first_left_out or f"{where} ({shown(', '.join(fields))})"
            return
        if long := [name for name in LABEL_SUFFIXES if name in fields and fields[name][1] > MAX_LABEL_BYTES]:
            size = fields[long[0]][1]
            raise DataError(
                f"{where}: its {long[0]} has {counted(size, 'byte')}; a label takes at most {MAX_LABEL_BYTES:,}"
            )
        content = {name: os.pread(file, fields[name][1], fields[name][0]) for name in LABEL_SUFFIXES if name in fields}
        try:
            described = json.loads(content[".json"]) if ".json" in content else {}
            found = content[".cls"] if ".cls" in content else described["label"]
            label = whole_number(found) if isinstance(found, str | bytes) else int(found)
            if label is None or isinstance(found, bool) or (isinstance(found, float) and label != found):
                raise ValueError(found)  # 1.7 is nobody's label
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{where} has no label (a whole number in KEY.cls, or `label` in KEY.json)") from error
        labels.append(check_label(label, where))
        name = described.get("name", "") if isinstance(described, dict) else ""
        self._names.append(name if isinstance(name, str) and len(name) <= LONGEST_NAME else "")
        self._places.append((file, *image))

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)
