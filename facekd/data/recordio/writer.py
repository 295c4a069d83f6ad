"""Writes RecordIO files so that a `.rec` and its `.idx` appear together and complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from facekd.data.recordio.format import frame
from facekd.data.recordio.idx_file import write_idx_lines
from facekd.errors import RecordError
from facekd.files.resumable_file import ResumableFile


class RecordWriter:
    """Writes a `.rec` file and its `.idx`; both get their names when the writer is closed.

    As a context manager it closes at the end of the block. On an exception it removes what it wrote, and files that
    were there before stay. With a job, it keeps what took more than a few seconds instead, and continues from there
    when the same job is started again (`ResumableFile`).
    """

    def __init__(
        self,
        rec_path: str | os.PathLike[str],
        idx_path: str | os.PathLike[str] | None = None,
        job: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts writing, or continues an earlier run.

        Args:
            rec_path: the `.rec` file to make or replace.
            idx_path: its index; by default beside it.
            job: everything that decides what will be written; None keeps nothing of a run that is stopped.

        Raises:
            InUseError: another process is writing this file.
        """
        self.rec_path: Path = Path(rec_path)
        self.idx_path: Path = Path(idx_path) if idx_path is not None else self.rec_path.with_suffix(".idx")
        self._file = ResumableFile(self.rec_path, job)
        # Records of an earlier run of this job lie one after the other from the start of the file.
        self._offsets: dict[int, int] = {}
        self._is_noting = True
        start = 0
        for end, words in self._file.entries():
            self._offsets[int(words.partition("\t")[0])] = start
            start = end

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def partial_path(self) -> Path:
        """The file that holds the records until the writer is closed."""
        return self._file.partial_path

    @property
    def num_kept(self) -> int:
        """After `abort`, the number of records kept for the same job to continue from."""
        return self._file.num_kept

    def found(self) -> Iterator[tuple[int, str]]:
        """Yields `(key, note)` of the records of an earlier run of this job, in order."""
        for _, words in self._file.entries():
            key, _, note = words.partition("\t")
            yield int(key), note

    def restart(self) -> None:
        """Discards the records that were found."""
        self._file.restart()
        self._is_noting = True
        self._offsets.clear()

    def write(self, key: int, payload: bytes | memoryview, note: str | None = "") -> int:
        """Appends a record.

        Args:
            key: whole number, 0 or more, not used before in this file.
            payload: what `pack` returned, or any bytes.
            note: a line that `found` yields if the run is stopped and continued. None means that this record and those
                after it will then be written again.

        Returns:
            The byte offset of the record.

        Raises:
            RecordError: the key is not usable, the payload is too long, or the writer is closed.
            OSError: the disk is full; the writer can then only be closed by its context.
        """
        if not self._file.is_open:
            raise RecordError(f"{self.rec_path}: the writer is closed")
        key = int(key)
        if key < 0 or key in self._offsets:
            problem = "is negative" if key < 0 else "has been written already"
            raise RecordError(f"{self.rec_path}: key {key} {problem}; keys are distinct whole numbers from 0", key=key)
        # Write it, and note it for a run that continues this one.
        record = frame(payload)
        offset = self._file.position
        self._file.write(record)
        self._offsets[key] = offset
        if note is None:
            self._is_noting = False
        if self._is_noting:
            self._file.note(f"{key}\t{note}")
        return offset

    def add_file(self, path: Path, content: bytes) -> None:
        """Adds a file that belongs to the records: it gets its name when they do."""
        with self._file.companion(path) as stream:
            stream.write(content)

    def close(self, before: Callable[[], None] | None = None) -> None:
        """Finishes all files and puts them in place, the `.rec` last.

        Args:
            before: called when everything is written and nothing is in place.
        """
        if not self._file.is_open:
            return
        try:
            keys = np.fromiter(self._offsets.keys(), dtype=np.int64, count=len(self._offsets))
            offsets = np.fromiter(self._offsets.values(), dtype=np.int64, count=len(self._offsets))
            with self._file.companion(self.idx_path) as stream:
                write_idx_lines(stream, keys, offsets)
            self._file.put_in_place(before)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                error.filename = str(self.rec_path)
            raise

    def abort(self) -> None:
        """Stops writing; earlier files of the same names stay."""
        self._file.abort()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
