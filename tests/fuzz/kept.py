"""Keeps a few of the inputs that fuzzing found, in `tests/fuzz/corpus/`: seeds of later runs, and read by the tests.

Of all inputs those stay that once broke a reader, and, the smallest first, those that take a step from line to line
of facekd that neither a seed nor a smaller one takes.
"""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

import data_prep
import evaluation
import facekd
from tests.fuzz.limits import TooMuchError, Watch
from tests.fuzz.target import Target, TargetRunner

FOLDER = Path(__file__).with_name("corpus")
LONGEST, MOST_BYTES = 2048, 5000  # of an input; of a target's archive
SECONDS = 60  # of the processor, for an input whose every line is noted
FOUND = "found-"  # begins the names of inputs that broke a reader once
OURS = tuple(str(Path(str(package.__file__)).parent) for package in (facekd, evaluation, data_prep))

Step = tuple[str, int, int]  # file, line, next line


def kept_inputs(name: str) -> list[bytes]:
    """Returns the inputs that are kept for a target, those that broke a reader once first."""
    return [content for _, content in sorted(_read(name).items())]


def keep(target: Target, findings: Path) -> tuple[int, int, list[str]]:
    """Chooses anew which inputs are kept for a target: from those kept so far, and from what fuzzing found.

    Args:
        target: the target.
        findings: the folder of what fuzzing found.

    Returns:
        How many inputs there were, how many are kept, and what is wrong with those that still break the reader.
    """
    # What there is. Inputs that broke the reader are kept because of that.
    paths = [*findings.glob(f"corpus/{target.name}/*"), *findings.glob(f"{target.name}-*")]
    contents = {_name(path.read_bytes(), path.parent == findings): path.read_bytes() for path in paths}
    contents = {
        name: content for name, content in {**contents, **_read(target.name)}.items() if len(content) <= LONGEST
    }

    # Those that go where no seed goes, and no smaller input.
    kept: dict[str, bytes] = {}
    broken: list[str] = []
    with TargetRunner(target) as runner, Watch(target.megabytes, SECONDS) as watch:
        steps: set[Step] = set()
        for seed in (*target.seeds(), *target.refused()):
            _steps_of(watch, runner, seed)  # what is done once, such as imports
            steps |= _steps_of(watch, runner, seed)
        for name, content in sorted(contents.items(), key=lambda entry: (entry[0][:6] != FOUND, len(entry[1]), entry)):
            try:
                taken = _steps_of(watch, runner, content)
            except (Exception, TooMuchError) as error:
                broken.append(f"{name}: {type(error).__name__}: {error}")
                continue
            if (name.startswith(FOUND) or taken - steps) and len(_zipped({**kept, name: content})) <= MOST_BYTES:
                kept[name] = content
                steps |= taken
    path = FOLDER / f"{target.name}.zip"
    if kept:
        FOLDER.mkdir(exist_ok=True)
        path.write_bytes(_zipped(kept))
    else:
        path.unlink(missing_ok=True)
    return len(contents), len(kept), broken


def _steps_of(watch: Watch, runner: TargetRunner, content: bytes) -> set[Step]:
    """Has a target read an input; returns the steps from line to line of facekd that it took."""
    steps: set[Step] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        file, last = frame.f_code.co_filename, 0
        if not file.startswith(OURS):
            return None

        def note(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                steps.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return note

        return note

    # What follows lines already, such as coverage, goes on afterwards.
    before, in_threads = sys.gettrace(), threading.gettrace()
    threading.settrace(enter)
    sys.settrace(enter)
    try:
        watch.run(runner.feed, content)
    finally:
        sys.settrace(before)
        threading.settrace(in_threads)  # pyright: ignore[reportArgumentType]
    return steps


def _name(content: bytes, has_broken: bool) -> str:
    return (FOUND if has_broken else "") + hashlib.sha1(content, usedforsecurity=False).hexdigest()[:12]


def _read(name: str) -> dict[str, bytes]:
    path = FOLDER / f"{name}.zip"
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def _zipped(contents: dict[str, bytes]) -> bytes:
    """Returns an archive that is the same for the same contents."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    return stream.getvalue()
