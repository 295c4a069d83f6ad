"""Writes labelled images as a WebDataset tar; a run that is stopped can be continued."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from data_prep.sources.encoded_images import suffix_of
from facekd.utils.progress import track
from facekd.utils.resumable_file import ResumableFile


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
