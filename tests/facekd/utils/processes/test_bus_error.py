"""Checks that a process which reads a mapped file beyond its new end says so, whichever thread reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import os, sys, threading, zlib
import numpy as np
from facekd.errors import run_verb

def main():
    mapped = np.memmap(sys.argv[1], np.uint8, "r")
    os.truncate(sys.argv[1], 0)
    thread = threading.Thread(target=zlib.crc32, args=[mapped])  # without Python's lock
    thread.start() if sys.argv[2] == "thread" else mapped.sum()
    thread.join()

sys.exit(run_verb(main))
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_mapped_file_that_becomes_shorter_ends_the_command_in_a_sentence(where: str, tmp_path: Path) -> None:
    (tmp_path / "mapped").write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", READ, str(tmp_path / "mapped"), where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: the system ended this process by SIGBUS: a file that it was reading became shorter")
