"""Defines the errors meant for users, and turns them into messages and exit statuses in one place.

Raise a `FacekdError` for anything the user can fix. Its message says which file, record or key is concerned, what was
expected, what was found, and what to do. Each class stands for something that a caller may want to catch separately.
Any other exception that escapes is a defect of facekd and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from facekd.utils.environment import number_from_environment
from facekd.utils.processes.bus_error import explain_bus_errors
from facekd.utils.processes.current_folder import why_not_torch_here
from facekd.utils.processes.standard_streams import open_closed_streams
from facekd.utils.processes.stopping import StopSignal, interrupted_by_signals, outliving_the_terminal
from facekd.utils.requirements import explain_missing
from facekd.utils.terminal import printable, printable_streams

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
GONE = "the current folder was deleted; change into another one (`cd`)"
_DEVICE_FAILS = (errno.EIO, errno.EROFS, errno.ESTALE, errno.EFBIG, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO)
SECONDS_FOR_THE_FIRST, MOST_SECONDS_FOR_THE_FIRST = 2.0, 3600.0


class FacekdError(Exception):
    """Reports a problem with the input, the configuration or the machine to the person at the terminal.

    Each argument is one line of the message, and nearly always there is one. A message may hold names and texts of
    strangers' files, so within a line everything that would begin another, or that a terminal would obey, is written
    as an escape: only facekd itself makes lines.
    """

    @property
    def lines(self) -> tuple[str, ...]:
        """Returns the lines of the message, as a terminal may show them."""
        return tuple(printable(str(line), kept="") for line in self.args)

    def without_name(self, name: str | os.PathLike[str]) -> str:
        """Returns the message without the name of a file that it begins with, to be put behind that name elsewhere."""
        return printable(str(self.args[0]).removeprefix(f"{os.fspath(name)}: "), kept="")

    def __str__(self) -> str:
        return "\n".join(self.lines)


class ConfigError(FacekdError):
    """Reports a key or option that does not exist, an impossible value, or two values that contradict each other."""


class InputError(FacekdError, ValueError):
    """Reports arrays, tensors or numbers whose shape, type or range does not fit the function they were given to."""


class DataError(FacekdError):
    """Reports a data set, pack, list or results file that is missing, damaged, or of another kind than expected."""


class RecordError(FacekdError):
    """Reports a `.rec` or `.idx` file that is damaged or cut short, or a record or image of a set that is not read.

    Attributes:
        key: the record's key, if a single record is at fault.
        offset: its byte offset in the `.rec` file, if known.
    """

    def __init__(self, message: str, key: int | None = None, offset: int | None = None) -> None:
        super().__init__(message, key, offset)
        self.key = key
        self.offset = offset

    @property
    def lines(self) -> tuple[str, ...]:
        """Returns the line of the message; key and offset stand in it."""
        return (printable(str(self.args[0]), kept=""),)


class ImageError(FacekdError):
    """Reports an image that cannot be decoded, has the wrong size, or has landmarks that do not fit a face."""


class ImageSizeError(ImageError):
    """Reports a sound image of another size than asked for; resizing would help."""


class ModelError(FacekdError):
    """Reports a model that cannot be built, read, exported or run."""


class CheckpointError(FacekdError):
    """Reports a checkpoint that is missing, damaged, or of another kind than asked for."""


class TeacherError(FacekdError):
    """Reports a teacher, or a cache of its embeddings, that does not fit the student or its data."""


class TrainingError(FacekdError):
    """Reports a training run, or a command started by another, that cannot start or continue."""


class WorkerError(FacekdError):
    """Reports a process that worked for this one and was killed, or that has not answered for very long."""


class InUseError(FacekdError):
    """Reports a folder or file that another process is using."""


def run_verb(main: Callable[[], int | None]) -> int:
    """Runs the `main` of a verb and prints errors that users can fix in one line instead of a traceback.

    Returns:
        The exit status: what `main` returned (0 for None); 2 for a `FacekdError` or an operating-system error; 130
        after Ctrl-C, 143 after SIGTERM, 129 after a hang-up; 141 if the reader of our output has gone. What could not
        be printed to standard output is an operating-system error, too.
    """
    open_closed_streams()
    rank = _rank("RANK")
    explain_bus_errors(f"error: {f'(rank {rank}) ' if rank else ''}")
    with outliving_the_terminal(), printable_streams(), interrupted_by_signals():
        try:
            with _without_torch_where_it_does_harm():
                return _status_of(main)
        except KeyboardInterrupt as error:  # while an error was told, or waited for another process to tell its own
            return _status_of_stop(error)


@contextlib.contextmanager
def _without_torch_where_it_does_harm() -> Iterator[None]:
    sys.meta_path.insert(0, _NoTorch)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.meta_path.remove(_NoTorch)  # type: ignore[arg-type]


def _status_of(main: Callable[[], int | None]) -> int:
    try:
        return _run_and_print(main)
    except FacekdError as error:
        missing = _missing_behind(error)
        _report(*((missing,) if missing else error.lines))
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return _status_of_stop(error)
    except BrokenPipeError:
        return 141  # the reader of our output has gone (`facekd ... | head`): nothing to report
    except ModuleNotFoundError as error:
        missing = _missing_behind(error)
        if missing is None:
            raise
        _report(missing)
    except RuntimeError as error:
        if not is_gpu_memory_full(error):
            raise
        said = str(error).partition(" Of the allocated memory")[0]
        _report(f"give fewer images at once (--batch-size), or end what else runs on the GPU: {said}")
    except OSError as error:
        # Operating-system errors that name a file, or whose cause is known, are the user's to fix as well.
        if isinstance(error, FileNotFoundError) and _lies_in_a_deleted_folder(error.filename):
            _report(GONE)
            return 2
        file = _with_a_name(error.filename or file_at_fault(error))
        if error.errno in NO_SPACE:
            _report(
                f"no space left on the device while writing {file or 'a file'}; "
                "free some space and run the same command again"
            )
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            _report(f"more files would be open at the same time than the system allows ({error}); see `ulimit -n`")
        elif isinstance(error, FileExistsError | NotADirectoryError) and (way := _file_in_the_way(error.filename)):
            _report(f"{way} is a file, and a folder is needed there: give another name, or move the file away")
        elif error.filename is not None:
            _report(f"{error.strerror}: {file}")
        elif is_device_failure(error):
            _report(
                f"{error.strerror} while reading or writing {file or 'a file'}: look at the disk or the network mount, "
                "then run the same command again"
            )
        else:
            raise
    return 2


def _run_and_print(main: Callable[[], int | None]) -> int:
    """Runs the `main` of a verb, and writes what it has printed and what still waits.

    Raises:
        FacekdError: standard output is closed; the verb has not begun then.
        OSError: of the verb; or standard output takes no more, which the error names.
    """
    if sys.stdout is None:
        raise FacekdError("standard output is closed, so nothing could be printed: send it to a file, or to /dev/null")
    try:
        return main() or 0
    finally:
        if sys.exc_info()[0] in (None, SystemExit):  # the end of the verb, or of its help
            sys.stdout.flush()


def _status_of_stop(error: KeyboardInterrupt) -> int:
    return 128 + (error.number if isinstance(error, StopSignal) else signal.SIGINT)


def _missing_behind(error: BaseException | None) -> str | None:
    """Says which required package is missing, if that is behind an error, such as that of a parser of configs."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (missing := explain_missing(error.name)):
            return missing
        error = error.__cause__ or error.__context__
    return None


def _with_a_name(file: str | bytes | int | None) -> str | bytes | int | None:
    """Returns the whole path of a folder that was given as `.` or `..`, which says little in a message."""
    if isinstance(file, str) and file.rstrip("/").rpartition("/")[2] in ("", ".", ".."):
        return str(Path(file).resolve())
    return file


def _lies_in_a_deleted_folder(file: object) -> bool:
    """Tells whether a file that was not found is named relative to a current folder that is gone, or is that folder."""
    if isinstance(file, str | bytes | os.PathLike) and os.path.isabs(file):  # noqa: PTH117 - may be bytes
        return False
    return _is_current_folder_deleted()


def _is_current_folder_deleted() -> bool:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return True
    except OSError:  # a network mount that is gone, which is another matter
        return False
    return False


class _NoTorch:
    """Refuses to import torch in a folder that was deleted, where its MKL ends the process at once.

    And in one with a library that it would run code of: it looks for the driver of NVIDIA in the current folder, too.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name != "torch":
            return
        if _is_current_folder_deleted():
            raise FacekdError(GONE)
        if (why := why_not_torch_here()) is not None:
            raise FacekdError(why)


def is_device_failure(error: BaseException) -> bool:
    """Tells whether a disk or a network mount fails, rather than a file being bad, missing or forbidden.

    What can do without a bad image must not do without one that the device does not give today: the same command would
    have another result tomorrow.
    """
    return isinstance(error, OSError) and error.errno in _DEVICE_FAILS


def is_gpu_memory_full(error: BaseException) -> bool:
    """Tells whether an error is torch's about the memory of a GPU; by its name, as most errors come without torch."""
    return isinstance(error, RuntimeError) and type(error).__name__ == "OutOfMemoryError"


def file_at_fault(error: OSError) -> str | None:
    """Returns the name of the file that was being read or written; the system's errors name it on opening alone.

    It is that of the innermost open file among the variables of the functions that the error has passed, or of the path
    that pathlib has opened by itself.
    """
    found, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        names = [getattr(value, "name", None) for value in frame.f_locals.values() if isinstance(value, io.IOBase)]
        if str(frame.f_globals.get("__name__")).startswith("pathlib"):
            names += [str(value) for value in frame.f_locals.values() if isinstance(value, Path)]
        found = next((name for name in reversed(names) if isinstance(name, str)), found)
        trace = trace.tb_next
    return found


def _file_in_the_way(path: str | bytes | None) -> Path | None:
    """Returns the first parent of `path` that is a file, so that no folder can be created there."""
    if not path:
        return None
    place = Path(os.fsdecode(path))
    return next((part for part in (*reversed(place.parents), place) if part.exists() and not part.is_dir()), None)


def _report(*lines: str) -> None:
    """Prints an error, usually of one line, with the rank it comes from, if several processes run together."""
    message = "\n".join(printable(line, kept="") for line in lines)
    if _rank("LOCAL_RANK") > 0:
        # Processes that train together usually fail alike, and the launcher ends all once the first has failed. By
        # waiting, the others let the first report alone; a process with an error of its own reports it afterwards.
        time.sleep(_seconds_for_the_first())
    rank = _rank("RANK")
    print(f"error: {f'(rank {rank}) ' if rank else ''}{message}", file=sys.stderr, flush=True)


def _rank(variable: str) -> int:
    """Returns a rank that the launcher set in the environment; 0 for none, or for what is no rank."""
    try:
        return max(0, int(number_from_environment(variable, 0)))
    except ValueError:
        return 0


def _seconds_for_the_first() -> float:
    """Returns how long others wait for the first error; a variable that holds no such time is not heeded."""
    try:
        wanted = number_from_environment("FACEKD_SECONDS_FOR_THE_FIRST", SECONDS_FOR_THE_FIRST, float)
    except ValueError:
        return SECONDS_FOR_THE_FIRST
    return min(max(0.0, wanted), MOST_SECONDS_FOR_THE_FIRST)
