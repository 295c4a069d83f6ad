"""A machine's GPU that a command leaves alone is mentioned, and nothing where there is none."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.embedder.model_options import add_model_options, open_fastest_model, open_model
from facekd.utils.processes import children


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    architecture = {"name": "mobilefacenet", "embedding_size": 8, "image_size": 32, "width": 0.125}
    content = {
        "config": {"backbone": architecture},
        "preprocessing": {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"},
        "backbone": build_backbone(**architecture).state_dict(),
    }
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(path, content)
    return path


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("tries_batches", [True, False])
def test_a_gpu_that_is_left_alone_is_mentioned(
    is_there: bool,
    tries_batches: bool,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "nvidiactl").touch()
    files = (str(tmp_path / "dxg"), str(tmp_path / "nvidiactl")) if is_there else (str(tmp_path / "dxg"),)
    monkeypatch.setattr(children, "GPU_FILES", files)
    parser = argparse.ArgumentParser()
    add_model_options(parser, tries_batches)
    (open_fastest_model if tries_batches else open_model)(str(model), parser.parse_args(["--batch-size", "4"]))
    said = capsys.readouterr().err
    assert ("runs on the CPU; `--device cuda` takes the GPU" in said) == is_there
