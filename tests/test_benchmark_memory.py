"""The memory that benchmarks report is that of the process they measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
MEGABYTE = 10**6


def test_the_peak_is_that_of_the_program_and_not_of_the_one_that_started_it() -> None:
    held = np.ones(400 * MEGABYTE, np.uint8)
    code = (
        "import sys, numpy; from measuring import peak_of_program as peak; before = peak(); "
        "numpy.ones(100 * 10**6, numpy.uint8); print(before, peak(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    before, after, has_torch = done.stdout.split()
    assert int(before) < 200 * MEGABYTE < held.nbytes
    assert 90 * MEGABYTE < int(after) - int(before) < 150 * MEGABYTE
    assert has_torch == "False"
