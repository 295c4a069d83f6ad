"""Files: written so that a reader sees the old content or the new, never half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it over `path` if the block succeeds, remove it if not.

    The rename is durable: the data is flushed to the device first, so that a power cut leaves one version whole.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers (numpy, OpenCV, onnx) choose the format by it.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # name the file the user asked for
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open `path` for writing bytes, atomically: see `atomic_path`."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_open(path) as stream:
        stream.write(text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write strict JSON atomically, indented for eyes; NaN and infinity are refused, for JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stamp_of(*paths: Path | None) -> tuple[int, ...]:
    """Returns sizes and modification times (ns) of files, which tell whether they have changed; zeros for None."""
    stamp: list[int] = []
    for path in paths:
        status = path.stat() if path is not None else None
        stamp += [status.st_size, status.st_mtime_ns] if status else [0, 0]
    return tuple(stamp)
