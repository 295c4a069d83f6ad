"""Writing RecordIO files so that a `.rec` and its `.idx` appear whole, together, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from facekd.data.recordio.format import RecordError, frame
from facekd.data.recordio.idx_file import write_idx


class RecordWriter:
    """Writes a `.rec` file and its `.idx`; both appear under their names only when the writer is closed.

    As a context manager it closes at the end of the block, and on an exception removes what it wrote: the files
    that were there before stay as they were.
    """

    def __init__(self, rec_path: str | os.PathLike[str], idx_path: str | os.PathLike[str] | None = None) -> None:
        """Start writing.

        Args:
            rec_path: the `.rec` file to make or replace.
            idx_path: its index; by default beside it.

        Raises:
            RecordError: another process is writing this file.
        """
        self.rec_path = Path(rec_path)
        self.idx_path = Path(idx_path) if idx_path is not None else self.rec_path.with_suffix(".idx")
        self.rec_path.parent.mkdir(parents=True, exist_ok=True)
        # A fixed name: what a killed run left behind is overwritten by the next one instead of filling the disk.
        self._temporary = self.rec_path.with_name(f".{self.rec_path.name}.partial")
        self._stream: BinaryIO | None = self._temporary.open("ab", buffering=1 << 20)
        if not _lock(self._stream, self._temporary):
            self._stream.close()
            self._stream = None
            raise RecordError(f"another process is writing {self.rec_path} (it holds {self._temporary})")
        self._stream.truncate(0)
        self._position = 0
        self._offsets: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._offsets)

    def write(self, key: int, payload: bytes | memoryview) -> int:
        """Append a record.

        Args:
            key: whole number, 0 or more, not used before in this file.
            payload: what `pack` returned, or any bytes.

        Returns:
            The byte offset of the record.

        Raises:
            RecordError: the key is not usable, the payload is too long, or the writer is closed.
            OSError: the disk is full; the writer is then of no use but to be closed by its context.
        """
        if self._stream is None:
            raise RecordError(f"{self.rec_path}: the writer is closed")
        key = int(key)
        if key < 0 or key in self._offsets:
            problem = "is negative" if key < 0 else "has been written already"
            raise RecordError(f"{self.rec_path}: key {key} {problem}; keys are distinct whole numbers from 0", key=key)
        record = frame(payload)
        offset = self._position
        try:
            self._stream.write(record)
        except OSError as error:
            raise _naming(error, self.rec_path) from error
        self._offsets[key] = offset
        self._position += len(record)
        return offset

    def close(self) -> None:
        """Finish both files and put them in place."""
        if self._stream is None:
            return
        stream = self._stream
        try:
            stream.flush()
            os.fsync(stream.fileno())
            # A stop between these steps leaves a .rec without .idx, which can be read, never an .idx of another file.
            keys = np.fromiter(self._offsets.keys(), dtype=np.int64, count=len(self._offsets))
            offsets = np.fromiter(self._offsets.values(), dtype=np.int64, count=len(self._offsets))
            staged = self.idx_path.with_name(f".{self.idx_path.name}.partial")
            write_idx(staged, keys, offsets)
            self.idx_path.unlink(missing_ok=True)
            self._temporary.replace(self.rec_path)
            staged.replace(self.idx_path)
            self._stream = None
            stream.close()
        except OSError as error:
            self.abort()
            raise _naming(error, self.rec_path) from error

    def abort(self) -> None:
        """Remove what was written; files of the same names from before are left as they are."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._temporary.unlink(missing_ok=True)
        self.idx_path.with_name(f".{self.idx_path.name}.partial").unlink(missing_ok=True)
        # Closing flushes the buffer, which fails again on a full disk, and no longer matters.
        with contextlib.suppress(OSError):
            stream.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _lock(stream: BinaryIO, path: Path) -> bool:
    """Take `path`, open as `stream`, for this process; False where another one has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    # The other writer may have finished, and renamed this very file into place, since it was opened here.
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _naming(error: OSError, path: Path) -> OSError:
    error.filename = str(path)
    return error
