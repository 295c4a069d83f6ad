"""Errors written for people, and the one place that turns them into an exit status.

Raise the `FacekdError` below that fits for anything the user can mend: say which file, which record or key, what was
expected, what was found, and what to do. There is one class for each thing that a caller might want to catch apart.
Anything else that escapes is a defect of facekd and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

SECONDS_FOR_THE_FIRST = float(os.environ.get("FACEKD_SECONDS_FOR_THE_FIRST", 2.0))


class FacekdError(Exception):
    """A problem with the input, the configuration or the machine, worded for the person at the terminal."""


class ConfigError(FacekdError):
    """A configuration key or option that does not exist, a value that cannot be, or two that contradict each other."""


class InputError(FacekdError, ValueError):
    """Arrays, tensors or numbers given to a function that do not fit it: shapes, types, ranges."""


class DataError(FacekdError):
    """A data set, pack, list or results file that is missing, damaged, or not what it was taken for."""


class RecordError(FacekdError):
    """A `.rec` or `.idx` file that is damaged or cut short, or a record that does not exist in it.

    Attributes:
        key: the record's key, where one record is to blame.
        offset: its byte offset in the `.rec` file, where known.
    """

    def __init__(self, message: str, key: int | None = None, offset: int | None = None) -> None:
        super().__init__(message, key, offset)
        self.key = key
        self.offset = offset

    def __str__(self) -> str:
        return self.args[0]


class ImageError(FacekdError):
    """An image that cannot be decoded, has the wrong size, or has landmarks that do not fit a face."""


class ImageSizeError(ImageError):
    """A sound image whose size is not the one asked for: resizing would help."""


class ModelError(FacekdError):
    """A model that cannot be built, read, exported or run."""


class CheckpointError(FacekdError):
    """A checkpoint that is missing, damaged, or of another kind than asked for."""


class TeacherError(FacekdError):
    """A teacher, or a cache of its embeddings, that does not fit the student or its data."""


class TrainingError(FacekdError):
    """A training run, or a command started by another, that cannot start or go on."""


class InUseError(FacekdError):
    """A folder or file that another process is using."""


def run_verb(main: Callable[[], int | None]) -> int:
    """Run the `main` of a verb; print the errors people can mend in one line instead of a traceback.

    Returns:
        The exit status: what `main` returned (None is 0), 2 for a `FacekdError` or an operating-system error,
        130 after Ctrl-C.
    """
    try:
        return main() or 0
    except FacekdError as error:
        _report(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141  # the reader of our output went away (`facekd ... | head`): nothing to report
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _report(
                f"no space left on the device while writing {error.filename or 'a file'}; "
                "earlier results are intact, free some space and run the same command again"
            )
        elif isinstance(error, FileExistsError | NotADirectoryError) and (file := _file_in_the_way(error.filename)):
            _report(f"{file} is a file, and a folder is needed there: give another name, or move the file away")
        elif error.filename is not None:
            _report(f"{error.strerror}: {error.filename}")
        else:
            raise
    return 2


def _file_in_the_way(path: str | bytes | None) -> Path | None:
    """The first file on the way from the root to `path`: what keeps a folder from being made."""
    if not path:
        return None
    place = Path(os.fsdecode(path))
    return next((part for part in (*reversed(place.parents), place) if part.is_file()), None)


def _report(message: str) -> None:
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        # Processes that train together mostly fail alike. The launcher ends the others once the first has failed: those
        # that wait here for a moment leave the word to it, and one whose trouble is its own has it afterwards.
        time.sleep(SECONDS_FOR_THE_FIRST)
    rank = int(os.environ.get("RANK", 0))
    print(f"error: {f'(rank {rank}) ' if rank else ''}{message}", file=sys.stderr, flush=True)
