"""Files that take hours to write: what a stopped run leaves is marked as partial, and the same job goes on from it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from facekd.errors import InUseError
from facekd.utils.locks import is_file_at, lock_open_file

CHECKPOINT_BYTES = 16 << 20
CHECKPOINT_SECONDS = 2.0
JOURNAL_FORMAT, JOURNAL_VERSION = "facekd-journal", 1


class PartialFile:
    """A file on its way: its bytes in `.NAME.partial`, and where a job is named, what they are in `.NAME.journal`.

    The first line of the journal says which job writes the file; then there is a line for each entry: where its bytes
    end, and words of whoever wrote it. A line is written only when the bytes before have reached the device, every few
    seconds or megabytes. Whatever ends a run, a kill, a full disk or a power cut, the journal claims nothing that is
    not there, and what lies beyond its last line is written again.

    Attributes:
        path: the file in the end.
        position: bytes written so far.
        num_found: entries of an earlier run of this job.
        num_kept: after `abort`, how many entries the same job can go on after.
    """

    def __init__(self, path: str | os.PathLike[str], job: Mapping[str, Any] | None = None) -> None:
        """Start, or go on.

        Args:
            path: the file to make or replace; its folder is made.
            job: all that decides what will be written, for JSON. A partial file of another job is written over. None:
                nothing is kept.

        Raises:
            InUseError: another process is writing this file.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Fixed names: what a killed run left behind is found, or written over, instead of filling the disk.
        self.partial_path = self.path.with_name(f".{self.path.name}.partial")
        self.journal_path = self.path.with_name(f".{self.path.name}.journal")
        self._job = None if job is None else json.loads(json.dumps(job))
        self._stream: BinaryIO | None = self.partial_path.open("ab", buffering=1 << 20)
        # Between opening and locking, another writer may have finished this very file and renamed it into place.
        if not (lock_open_file(self._stream) and is_file_at(self._stream, self.partial_path)):
            self._stream.close()
            self._stream = None
            raise InUseError(f"another process is writing {self.path} (it holds {self.partial_path})")
        self.num_kept = 0
        self._is_broken = False
        self._pending: list[bytes] = []
        self.position, self.num_found, self._journal_end = self._find()
        self._num_journaled = self.num_found
        self._journal_fd = -1
        self._stream.truncate(self.position)
        if self.num_found == 0:
            self.journal_path.unlink(missing_ok=True)
        self._postpone()

    @property
    def is_open(self) -> bool:
        return self._stream is not None

    def entries(self) -> Iterator[tuple[int, str]]:
        """`(end, words)` of the entries found, in order: where in the file each ends, and what was noted."""
        if self.num_found:
            for end, words, _ in self._journal_lines(self.num_found):
                yield end, words.decode("utf-8", "surrogateescape")

    def restart(self) -> None:
        """Forget what was found, and write from the beginning."""
        assert self._stream is not None
        self.position = self.num_found = self._num_journaled = self._journal_end = 0
        self._stream.truncate(0)
        self.journal_path.unlink(missing_ok=True)
        self._postpone()

    def write(self, content: bytes) -> int:
        """Append bytes; returns how many, as streams do."""
        assert self._stream is not None
        try:
            self._stream.write(content)
        except OSError as error:
            raise self._broken(error) from error
        self.position += len(content)
        return len(content)

    def tell(self) -> int:
        """Bytes written so far, also by earlier runs."""
        return self.position

    def note(self, words: str) -> None:
        """Say that the bytes up to here are an entry; one line, which `entries` gives back after a stop."""
        if self._job is None:
            return
        assert "\n" not in words
        self._pending.append(f"{self.position}\t{words}\n".encode("utf-8", "surrogateescape"))
        if self.position >= self._next_bytes or time.monotonic() >= self._next_time:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Bring what was written to the device, and then say so in the journal."""
        assert self._stream is not None
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            if self._job is not None and self._pending:
                self._append_to_journal()
        except OSError as error:
            raise self._broken(error) from error
        self._postpone()

    def put_in_place(self) -> None:
        """Rename the file, whole now, to its name; durable."""
        assert self._stream is not None
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self.partial_path.replace(self.path)
        except OSError as error:
            raise self._broken(error) from error
        stream, self._stream = self._stream, None
        stream.close()
        self._close_journal()
        self.journal_path.unlink(missing_ok=True)

    def abort(self) -> None:
        """Stop: keep what took a while (see `num_kept`), remove the rest."""
        stream = self._stream
        if stream is None:
            return
        # What fits between two checkpoints is done again in seconds, and a file that lies about would be clutter.
        if self._journal_end > 0:
            if not self._is_broken:
                with contextlib.suppress(OSError):
                    self.checkpoint()
            self.num_kept = self._num_journaled
        self._stream = None
        self._close_journal()
        if not self.num_kept:
            self.partial_path.unlink(missing_ok=True)
            self.journal_path.unlink(missing_ok=True)
        # Closing flushes the buffer, which fails again on a full disk, and no longer matters.
        with contextlib.suppress(OSError):
            stream.close()

    def _postpone(self) -> None:
        self._next_bytes = self.position + CHECKPOINT_BYTES
        self._next_time = time.monotonic() + CHECKPOINT_SECONDS

    def _broken(self, error: OSError) -> OSError:
        self._is_broken = True
        error.filename = str(self.path)
        return error

    def _append_to_journal(self) -> None:
        if self._journal_fd < 0:
            self._journal_fd = os.open(self.journal_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._journal_fd, self._journal_end)
            os.lseek(self._journal_fd, self._journal_end, os.SEEK_SET)
        lines = b"".join(self._pending)
        if self._journal_end == 0:
            head = {"format": JOURNAL_FORMAT, "version": JOURNAL_VERSION, "job": self._job}
            lines = json.dumps(head).encode() + b"\n" + lines
        left = memoryview(lines)
        while left:
            left = left[os.write(self._journal_fd, left) :]
        os.fsync(self._journal_fd)
        self._journal_end += len(lines)
        self._num_journaled += len(self._pending)
        self._pending.clear()

    def _close_journal(self) -> None:
        if self._journal_fd >= 0:
            os.close(self._journal_fd)
            self._journal_fd = -1

    def _find(self) -> tuple[int, int, int]:
        """Where the entries of an earlier run of this job end, how many they are, and where their lines end."""
        assert self._stream is not None
        size = os.fstat(self._stream.fileno()).st_size
        position = count = journal_end = 0
        if self._job is None or size == 0:
            return 0, 0, 0
        for end, _, line_end in self._journal_lines():
            if not position <= end <= size:
                break
            position, count, journal_end = end, count + 1, line_end
        return position, count, journal_end

    def _journal_lines(self, limit: int | None = None) -> Iterator[tuple[int, bytes, int]]:
        """`(end, words, where the line ends)` of each whole line; nothing where the journal is of another job."""
        try:
            stream = self.journal_path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            line_end = 0
            for number, line in enumerate(stream):
                line_end += len(line)
                if not line.endswith(b"\n") or (limit is not None and number > limit):
                    return
                try:
                    if number == 0:
                        head = json.loads(line)
                        expected = {"format": JOURNAL_FORMAT, "version": JOURNAL_VERSION, "job": self._job}
                        if head != expected:
                            return
                    else:
                        end, _, words = line[:-1].partition(b"\t")
                        yield int(end), words, line_end
                except ValueError:
                    return
