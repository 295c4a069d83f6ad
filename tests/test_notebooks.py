"""The notebooks run from top to bottom, with small numbers in their parameters' cell."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.images.encoding import encode_png
from tests.pooling_model import write_pooling_model

NOTEBOOKS = Path(__file__).resolve().parents[1] / "examples" / "notebooks"


def run_notebook(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Runs the cells as Jupyter would, where `!` begins a command with expressions in braces; returns the variables."""
    variables: dict[str, Any] = {"__name__": "__main__", "_run": run_command}
    for cell in json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"], "outputs are not kept in the repository"
        lines = "".join(cell["source"]).splitlines()
        code = "\n".join(f"_run(f{line[1:]!r})" if line.startswith("!") else line for line in lines)
        exec(code, variables)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= variables.keys()
            variables |= parameters
    return variables


def run_command(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "facekd"
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parents[1]))
    matplotlib.use("Agg")


@pytest.mark.slow
def test_a_model_is_trained_and_judged_on_generated_faces() -> None:
    small = {"PEOPLE": 12, "TEST_PEOPLE": 40, "IMAGES": 480, "WIDTH": 0.125}
    variables = run_notebook("train_and_judge.ipynb", small)
    assert variables["run"].is_complete and Path("model.onnx").exists()
    assert variables["results"].values["num_pairs"] == len(variables["scores"])


def test_a_model_of_somebody_is_judged() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (400, 32, 32, 3)).astype(np.uint8)
    images[1::4] = np.clip(images[0::4] + generator.normal(0, 60, images[0::4].shape), 0, 255)
    write_pair_pack("lfw.bin", [encode_png(image) for image in images], [True, False] * 100)
    write_pooling_model(Path("model.onnx"), 32, 8)
    variables = run_notebook("judge_an_onnx.ipynb", {"FAR": 0.01})
    assert Path("model.onnx.facekd.json").exists()
    assert variables["cosine"] >= variables["threshold"]
