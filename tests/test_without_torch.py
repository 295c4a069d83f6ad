"""Data commands and evaluations of ONNX models run where torch is not installed; the others say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facekd.utils.requirements import PACKAGES
from tests.pooling_model import write_pooling_model

ROOT = Path(__file__).resolve().parent.parent
NOT_THERE = [package.module for package in PACKAGES.values() if package.needs_torch]
# Runs the lines of standard input as commands, in a process that finds no torch.
CODE = """
import sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Refusal())
from facekd.cli import main
for line in sys.stdin:
    status = main(line.split())
    print(f"{line.strip()} -> {status}", file=sys.stderr)
"""
LANDMARKS = "".join(f"0000000/{n:05}.jpg\t10\t14\t22\t14\t16\t20\t12\t25\t20\t25\n" for n in range(4))
SMALL = "--size 32 --workers 0"
FIRST = [
    f"data synthesize --identities 4 --images-per-identity 4 --test-identities 20 --pairs 20 {SMALL} --output faces",
    "evaluate lfw --model m.onnx --pairs faces/test.bin --folds 2 --bootstrap 100 --no-pictures --output lfw",
]
OTHERS = [
    f"data synthesize --identities 4 --images-per-identity 4 --pairs 0 --layout folders {SMALL} --output more",
    "data inspect faces --report look/index.html --model m.onnx --workers 1 --threads 1",
    "data convert faces converted --shards 2 --workers 1",
    "data clean faces cleaned --apply drop.tsv",
    "data unpack faces folders",
    "data pack folders packed --size 32 --workers 1",
    "data index packed --force",
    "data make-pairs folders pairs.bin --sample 4 --folds 2 --size 32 --workers 1",
    "data make-ijb folders ijb --image-size 32 --workers 1",
    "data make-protocol ijbs folders ijbs --strangers 0",
    "data align folders aligned --landmarks landmarks.tsv --workers 1",
    "describe m.onnx",
    "models",
    "embed folders faces/test.bin --model m.onnx --resize --workers 1 --threads 1 --output embedded.npz",
    "search folders --gallery embedded.npz --model m.onnx --resize --threads 1 --output found.csv",
    "compare folders/0000000/00000.jpg folders/0000001/00000.jpg --model m.onnx --resize --threads 1",
    "evaluate folder --model m.onnx --images folders --resize --bootstrap 100 --threads 1 --output folder",
    "threshold folder --fmr 0.1",
    "evaluate robustness --model m.onnx --pairs faces/test.bin --folds 2 --degradations jpeg --output bad",
    "evaluate ijbc --model m.onnx --root ijb --resize --workers 1 --threads 1 --bootstrap 100 --output ijbc "
    "--thresholds-from folder",
    "evaluate protocol ijbs --root ijbs --model m.onnx --resize --workers 1 --threads 1 --bootstrap 0 --output o",
    "report ijbc",
]
NEED_TORCH = [
    "train configs/debug.yaml --output run",
    "export run --output x.onnx",
    "evaluate lfw --model checkpoint.pt --pairs faces/test.bin --output no",
]


def run(folder: Path, lines: list[str]) -> list[str]:
    """Runs commands without torch; returns what they print to standard error."""
    write_pooling_model(folder / "m.onnx", 32, 8)
    (folder / "drop.tsv").write_text("drop\t2\n")
    (folder / "landmarks.tsv").write_text(LANDMARKS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    given = {"input": "\n".join(lines), "cwd": folder, "env": environment}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *NOT_THERE], capture_output=True, text=True, check=False, **given
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_an_evaluation_runs_and_a_training_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04")
    said = run(tmp_path, [*FIRST, *NEED_TORCH])
    assert [line[-5:] for line in said if "->" in line] == [" -> 0"] * 2 + [" -> 2"] * 3
    errors = [line for line in said if line.startswith("error: ")]
    assert len(errors) == 3 and all("pip install torch torchvision jsonargparse tens" in e for e in errors)


@pytest.mark.slow
def test_every_data_command_and_evaluation_runs(tmp_path: Path) -> None:
    said = run(tmp_path, [*FIRST, *OTHERS])
    assert [line for line in said if "->" in line] == [f"{line} -> 0" for line in (*FIRST, *OTHERS)]
