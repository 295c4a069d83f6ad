"""Records which files of a conversion are finished, so that an interrupted one goes on with the next.

The file in progress resumes by itself (`facekd/utils/resumable_file.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.jobs.resuming import file_stamp
from facekd.utils.files import is_sealed, sealed, write_json

LOG_NAME = ".convert_progress.json"


class ConversionLog:
    """Keeps `.convert_progress.json` in the output folder, from the first finished file to the end of the conversion.

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
        if entry is None or entry["stamp"] != file_stamp(file) or not entry["stamp"]:
            return None
        return entry["images"], entry["skipped"]

    def add(self, file: Path, images: int, skipped: int) -> None:
        """Records that a file is finished."""
        self._finished[file.name] = {"stamp": file_stamp(file), "images": images, "skipped": skipped}
        write_json(self.path, sealed({"job": self._job, "finished": self._finished}))

    def remove(self) -> None:
        """Removes the log when the conversion is done."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            log = json.loads(self.path.read_bytes())
            return dict(log["finished"]) if is_sealed(log) and log["job"] == self._job else {}
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            return {}
