"""Names and reads the .npy files in which embeddings are kept, so that a damaged or foreign one is made again."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np


def name_of(parts: Iterable[bytes]) -> str:
    """Returns the digest under which embeddings are kept, over everything they depend on."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def read_if_whole(file: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray | None:
    """Reads an array; returns None where there is no file, or an unreadable one, which is printed."""
    try:
        return np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        print(f"{file}: unreadable ({error}); embedding again", file=sys.stderr)
        return None
