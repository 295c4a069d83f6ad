"""Writes a file over hours so that the same job can go on from what an interrupted run left.

Who resumes how: record packs, tars and the files of `data convert` are `ResumableFile`s, and
so are the rows of a gallery (`facekd/faces/gallery_writer`). These keep their own state:

    data_prep/jobs/conversion_log    which of several files are finished; each of them is a `ResumableFile`
    data_prep/photographs/align_log  the log is also a result for users: its settings are checked
    facekd/teacher/cache             rows of one size need only a count; those of another teacher are refused
    evaluation/ijb/face_embeddings   several processes fill rows of the same file in any order
    data_prep/unpack_records         millions of small files; `.unpack_progress.json` in the folder names the job
    data_prep/make_ijb_layout        starts anew; a mark in the folder says that what is there is no whole set
    data_prep/synthesize_faces       processes write parts, each a file, in any order; `settings.json` says of which set
    experiments/command_runner       steps are whole commands, each of which resumes by itself
    training                         checkpoints
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from facekd.errors import DataError, InUseError
from facekd.files.held_folders import check_held, make_folder
from facekd.files.locks import is_file_at, lock_open_file
from facekd.files.reading import require_regular_file, stamp_to_rename
from facekd.files.temporaries import TemporaryFile, hidden_name, open_own_descriptor, open_own_file, set_mode
from facekd.files.writing import mode_to_keep, replace_together

CHECKPOINT_BYTES = 16 << 20
CHECKPOINT_SECONDS = 2.0
JOURNAL_FORMAT, JOURNAL_VERSION = "facekd-journal", 2
LEFTOVERS = ("partial", "journal")  # the suffixes of what a stopped run may leave
FINISHED = "finished"  # begins the last line of a journal: stamp of the file that is about to get its name


class ResumableFile:
    """Holds a file in progress: its bytes in `.NAME.partial` and, if a job is named, its entries in `.NAME.journal`.

    The first line of the journal describes the job that writes the file. Each further line stands for an entry: where
    its bytes end, a note of the writer, and the CRC-32 of all lines so far. A line is written only after the bytes
    before it have reached the device, every few seconds or megabytes. So whatever ends a run, a kill, a full disk or a
    power cut, the journal never claims bytes that are not there; bytes beyond its last sound line are written again.

    Files that belong to this one (`companion`) get their names just before it does, and the journal goes last. So a
    file under its name has all of them, and a run that ends in between is finished by the same job.

    Attributes:
        path: name of the finished file.
        position: bytes written so far.
        num_found: number of entries found from an earlier run of this job.
        num_kept: after `abort`, number of entries that the same job can go on after.
    """

    def __init__(self, path: str | os.PathLike[str], job: Mapping[str, Any] | None = None) -> None:
        """Starts writing, or goes on after what an earlier run of the same job left.

        Args:
            path: file to create or replace; its folder is created.
            job: everything that decides what will be written, in plain values for JSON. A partial file of another job
                is overwritten. None keeps nothing of an interrupted run.

        Raises:
            InUseError: another process is writing this file.
            DataError: `path` is a device, a named pipe or a socket.
            OSError: the file cannot be written, or what is there may not be replaced.
        """
        self.path: Path = Path(path)
        mode_to_keep(self.path)  # refuses what cannot take the name at the end
        make_folder(self.path.parent)
        # Fixed names, so that what a killed run left is found, or overwritten, instead of filling the disk.
        self.partial_path: Path = self.path.with_name(hidden_name(self.path.name, ".partial"))
        self.journal_path: Path = journal_path(self.path)
        # Through JSON and back, so that it compares equal to what the journal holds.
        self._job = None if job is None else json.loads(json.dumps(job))
        self._companions: dict[Path, TemporaryFile] = {}
        self._stream: BinaryIO | None = self._open()
        # Find the entries of an earlier run, and cut off the bytes that belong to none.
        self.num_kept: int = 0
        self._is_broken = False
        self._pending: list[bytes] = []
        self._checksum = 0
        self.position: int
        self.num_found: int
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
        """Yields `(end, words)` of the entries found, in order: where in the file each ends, and its note."""
        if self.num_found:
            for end, words, _, _ in self._journal_lines(self.num_found):
                yield end, words.decode("utf-8", "surrogateescape")

    def restart(self) -> None:
        """Forgets what was found; writing starts from the beginning."""
        assert self._stream is not None
        self.position = self.num_found = self._num_journaled = self._journal_end = self._checksum = 0
        self._stream.truncate(0)
        self.journal_path.unlink(missing_ok=True)
        self._postpone()

    def write(self, content: bytes) -> int:
        """Appends bytes and returns their number, as streams do."""
        assert self._stream is not None
        try:
            self._stream.write(content)
        except OSError as error:
            raise self._broken(error) from error
        self.position += len(content)
        return len(content)

    def tell(self) -> int:
        """Returns the number of bytes written so far, including those of earlier runs."""
        return self.position

    def note(self, words: str) -> None:
        """Marks the bytes up to here as an entry; `words`, one line, come back from `entries` after a stop."""
        if self._job is None:
            return
        # Lines wait until their bytes are flushed, because flushing for each entry would be slow.
        assert "\n" not in words
        self._pending.append(f"{self.position}\t{words}\t".encode("utf-8", "surrogateescape"))
        if self.position >= self._next_bytes or time.monotonic() >= self._next_time:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Flushes the bytes to the device, then records their entries in the journal.

        Raises:
            DataError: the file, or its folder, was deleted or moved meanwhile.
            OSError: it cannot be written.
        """
        assert self._stream is not None
        self._require_there()
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            if self._job is not None and self._pending:
                self._append_to_journal()
        except OSError as error:
            raise self._broken(error) from error
        self._postpone()

    @contextlib.contextmanager
    def companion(self, path: Path) -> Iterator[BinaryIO]:
        """Opens a file that belongs to this one, for writing; `put_in_place` gives both their names.

        Args:
            path: its name, replaced if it is there.
        """
        self._require_there()
        try:
            staged = self._companions[path] = TemporaryFile(path, mode_to_keep(path))
            with open(staged.descriptor, "wb", closefd=False) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._is_broken = True
            error.filename = str(path)
            raise

    def put_in_place(self, before: Callable[[], None] | None = None) -> None:
        """Gives the finished file and its companions their names, durably; the file itself comes last.

        Args:
            before: called when everything is written and nothing has got its name.
        """
        assert self._stream is not None
        # From here on, the same job finds whatever is done and does the rest, wherever this run ends.
        self.checkpoint()
        try:
            if self._job is not None:
                self._pending.append(f"{FINISHED}\t{stamp_to_rename(os.fstat(self._stream.fileno()))}\t".encode())
                self._append_to_journal()
                self._num_journaled -= 1  # it is no entry
        except OSError as error:
            raise self._broken(error) from error
        if before is not None:
            before()
        try:
            set_mode(self._stream.fileno(), mode_to_keep(self.path))
            replace_together(self.path, self.partial_path, self._companions)
        except OSError as error:
            raise self._broken(error) from error
        # Delete the journal only now: until here, the same job could continue from it.
        stream, self._stream = self._stream, None
        stream.close()
        self._discard_companions()
        self._close_journal()
        self.journal_path.unlink(missing_ok=True)

    def abort(self) -> None:
        """Stops writing; keeps what took long to write (see `num_kept`) and removes the rest."""
        stream = self._stream
        if stream is None:
            return
        # Work that fits between two checkpoints is repeated in seconds; keeping it would leave clutter.
        if self._journal_end > 0:
            if not self._is_broken:
                with contextlib.suppress(OSError):
                    self.checkpoint()
            self.num_kept = self._num_journaled
        self._stream = None
        self._close_journal()
        self._discard_companions()
        if not self.num_kept:
            self.partial_path.unlink(missing_ok=True)
            self.journal_path.unlink(missing_ok=True)
        # Closing flushes the buffer, which fails again on a full disk and no longer matters.
        with contextlib.suppress(OSError):
            stream.close()

    def _open(self) -> BinaryIO:
        """Opens and locks the partial file.

        A file that got its name, but whose journal the run could not delete, becomes partial again. The end of the job
        is then done once more, with all that follows it.
        """
        is_unannounced = is_unfinished_result(self.path, self._job)
        stream = open_own_file(self.path if is_unannounced else self.partial_path, buffering=1 << 20)
        # Between opening and locking, another writer may have finished this very file and renamed it into place.
        if lock_open_file(stream):
            if is_unannounced and is_file_at(stream, self.path) and is_unfinished_result(self.path, self._job):
                self.path.replace(self.partial_path)
            if is_file_at(stream, self.partial_path):
                return stream
        stream.close()
        raise InUseError(f"another process is writing {self.path} (it holds {self.partial_path})")

    def _require_there(self) -> None:
        """Checks that what is written can still be found: by a later run, and at the end."""
        assert self._stream is not None
        try:
            check_held(self.path)
            if not is_file_at(self._stream, self.partial_path):
                raise DataError(
                    f"{self.partial_path}: was deleted or moved while it was written, or its folder was; nothing more "
                    "was written. Run the same command again"
                )
        except DataError:
            self._is_broken = True
            raise

    def _postpone(self) -> None:
        """Sets when the next checkpoint is due."""
        self._next_bytes = self.position + CHECKPOINT_BYTES
        self._next_time = time.monotonic() + CHECKPOINT_SECONDS

    def _broken(self, error: OSError) -> OSError:
        """Notes that writing has failed, and makes the error name the file that the user asked for."""
        self._is_broken = True
        error.filename = str(self.path)
        return error

    def _append_to_journal(self) -> None:
        """Writes the pending lines, after the first line if there is none yet; durable."""
        # Opened with the first line; what a cut line has left beyond the last whole one is removed.
        if self._journal_fd < 0:
            self._journal_fd = open_own_descriptor(self.journal_path, os.O_RDWR)
            os.ftruncate(self._journal_fd, self._journal_end)
            os.lseek(self._journal_fd, self._journal_end, os.SEEK_SET)
        found, checksum = [], self._checksum
        if self._journal_end == 0:
            found = [json.dumps(_head(self._job)).encode() + b"\n"]
            checksum = zlib.crc32(found[0])
        for line in self._pending:
            checksum = zlib.crc32(line, checksum)
            found.append(b"%s%08x\n" % (line, checksum))
        lines = b"".join(found)
        # A full disk may take part of the lines; os.write says how many bytes it took.
        left = memoryview(lines)
        while left:
            left = left[os.write(self._journal_fd, left) :]
        os.fsync(self._journal_fd)
        self._journal_end += len(lines)
        self._checksum = checksum
        self._num_journaled += len(self._pending)
        self._pending.clear()

    def _discard_companions(self) -> None:
        """Removes the companions that have not got their names."""
        for staged in self._companions.values():
            staged.discard()

    def _close_journal(self) -> None:
        if self._journal_fd >= 0:
            os.close(self._journal_fd)
            self._journal_fd = -1

    def _find(self) -> tuple[int, int, int]:
        """Returns where the entries of an earlier run of this job end, their number, and where their lines end."""
        assert self._stream is not None
        size = os.fstat(self._stream.fileno()).st_size
        position = count = journal_end = 0
        if self._job is None or size == 0:
            return 0, 0, 0
        for end, _, line_end, checksum in self._journal_lines():
            # Ends only grow and lie within the file; a line that says otherwise is damaged.
            if not position <= end <= size:
                break
            position, count, journal_end = end, count + 1, line_end
            self._checksum = checksum
        return position, count, journal_end

    def _journal_lines(self, limit: int | None = None) -> Iterator[tuple[int, bytes, int, int]]:
        """Yields `(end, words, where the line ends, checksum)` of each line up to the first that is cut or damaged.

        Yields nothing if the journal is of another job.
        """
        checksum = 0
        try:
            for number, (line, line_end) in enumerate(whole_lines(self.journal_path)):
                if limit is not None and number > limit:
                    return
                if number == 0:
                    if json.loads(line) != _head(self._job):
                        return
                    checksum = zlib.crc32(line)
                else:
                    content, signature = line[:-9], line[-9:-1]
                    checksum = zlib.crc32(content, checksum)
                    if signature != b"%08x" % checksum:
                        return
                    end, _, words = content[:-1].partition(b"\t")
                    yield int(end), words, line_end, checksum
        except (FileNotFoundError, ValueError, RecursionError):  # nothing after a damaged line is trusted
            return


def is_unfinished_result(path: Path, job: Mapping[str, Any] | None) -> bool:
    """Returns whether a run of this job gave `path` its name and was stopped before it deleted the journal."""
    try:
        with _opened_journal(path) as stream:
            head = stream.readline()
            stream.seek(-min(stream.seek(0, os.SEEK_END), 100), os.SEEK_END)
            last = stream.read()
        finished = f"\n{FINISHED}\t{stamp_to_rename(path.stat())}\t".encode()
        return last[:-9].endswith(finished) and json.loads(head) == json.loads(json.dumps(_head(job)))
    except (FileNotFoundError, ValueError, RecursionError):
        return False


def is_begun(path: Path, job: Mapping[str, Any] | None) -> bool:
    """Returns whether a run of this job was stopped before it had ended: its journal is there."""
    try:
        with _opened_journal(path) as stream:
            return json.loads(stream.readline()) == json.loads(json.dumps(_head(job)))
    except (FileNotFoundError, ValueError, RecursionError):
        return False


def discard(path: Path) -> None:
    """Removes what a stopped run left of a file.

    Raises:
        InUseError: another process is writing it.
    """
    ResumableFile(path).abort()


def forget_journal(path: Path) -> None:
    """Deletes the journal of a finished file that is recorded elsewhere, if a stopped run left it."""
    journal_path(path).unlink(missing_ok=True)


def journal_path(path: Path) -> Path:
    """Returns the name of the journal of a file in progress."""
    return path.with_name(hidden_name(path.name, ".journal"))


def _opened_journal(path: Path) -> BinaryIO:
    """Opens the journal of a file in progress; refuses a pipe or a device, as `whole_lines` does."""
    require_regular_file(journal_path(path))
    return journal_path(path).open("rb")


def _head(job: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"format": JOURNAL_FORMAT, "version": JOURNAL_VERSION, "job": job}


def whole_lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yields the lines of a log with the position where each ends; one that a killed run has cut short is left out.

    Raises:
        DataError: it is a pipe or a device, which nothing might ever come out of.
    """
    require_regular_file(path)
    end = 0
    with path.open("rb") as stream:
        for line in stream:
            end += len(line)
            if line.endswith(b"\n"):
                yield line, end
