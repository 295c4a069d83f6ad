"""Mounts a tmpfs of a few bytes, to let commands run out of space."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PAGE = 4096


def can_mount(folder: Path) -> bool:
    """Tells whether this process may mount a tmpfs."""
    try:
        with SmallDisk(folder / "try"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class SmallDisk:
    """Is a mounted tmpfs, gone after the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=1g,mode=700", "facekd-faults", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
        return self

    def leave(self, free: int) -> None:
        """Changes the size so that `free` bytes can still be written, rounded down to pages."""
        status = os.statvfs(self.folder)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        size = max(PAGE, (used + free) // PAGE * PAGE)
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True, capture_output=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)
        self.folder.rmdir()
