"""Records which files of a conversion are finished, so that an interrupted one goes on with the next.

The file in progress resumes by itself (`facekd/files/resumable_file.py`). A file is recorded just before it gets its
name, by a stamp that renaming keeps. So the log is there before the first file is, and until the last one, the
report and all else are there: files under their names are no result yet while it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from facekd.errors import DataError
from facekd.files.reading import is_sealed, require_regular_file, sealed, stamp_to_rename
from facekd.files.writing import write_json

LOG_NAME = ".convert_progress.json"
REPORT_NAME, REPORT_FORMAT = "convert_report.json", "facekd-conversion"


class ConversionLog:
    """Keeps `.convert_progress.json` in the output folder, from before the first file is there to the very end.

    Args:
        folder: the output folder.
        job: everything that decides what is written, in plain values for JSON; a log of another job is replaced.
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.path = folder / LOG_NAME
        self._job = json.loads(json.dumps(job))
        self._finished: dict[str, dict[str, Any]] = self._load()

    def counts(self, file: Path) -> tuple[int, int] | None:
        """Returns the numbers of images and skipped images of a file that an earlier run finished, or None."""
        # A file that was changed or removed since is written again.
        entry = self._finished.get(file.name)
        if entry is None or not file.is_file() or entry["stamp"] != stamp_to_rename(file.stat()):
            return None
        return entry["images"], entry["skipped"]

    def add(self, file: Path, partial: Path, images: int, skipped: int) -> None:
        """Records that a file is finished, still called `partial`; withdraws the report of the files it replaces."""
        self._finished[file.name] = {"stamp": stamp_to_rename(partial.stat()), "images": images, "skipped": skipped}
        write_json(self.path, sealed({"job": self._job, "finished": self._finished}))
        self.path.with_name(REPORT_NAME).unlink(missing_ok=True)

    @staticmethod
    def refuse_unfinished(folder: Path) -> None:
        """Refuses a folder of files that a stopped conversion left, because some are missing.

        Raises:
            DataError: the log of a conversion is there.
        """
        if (folder / LOG_NAME).exists():
            raise DataError(
                f"{folder} holds a part of what a conversion was to write there; run that `facekd data convert` again, "
                f"which goes on (or delete {folder / LOG_NAME} to use the files as they are)"
            )

    def remove(self) -> None:
        """Removes the log when the conversion is done."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> dict[str, dict[str, Any]]:
        require_regular_file(self.path)
        try:
            log = json.loads(self.path.read_bytes())
            if not is_sealed(log) or log["job"] != self._job:
                return {}
            return {
                name: {"stamp": entry["stamp"], "images": entry["images"], "skipped": entry["skipped"]}
                for name, entry in log["finished"].items()
                if all(type(entry[key]) is int and entry[key] >= 0 for key in ("images", "skipped"))
            }
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return {}
