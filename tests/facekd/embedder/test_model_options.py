"""Commands mention a GPU that they leave alone, once, and nothing where there is none."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import save_checkpoint
from facekd.embedder.model_options import add_model_options, open_fastest_model, open_model
from facekd.utils import gpu_driver


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


@pytest.mark.parametrize(("is_there", "rank", "times"), [(True, "0", 1), (True, "1", 0), (False, "0", 0)])
@pytest.mark.parametrize("tries_batches", [True, False])
def test_a_gpu_that_is_left_alone_is_mentioned(
    is_there: bool,
    rank: str,
    times: int,
    tries_batches: bool,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "nvidiactl").touch()
    files = (str(tmp_path / "dxg"), str(tmp_path / "nvidiactl")) if is_there else (str(tmp_path / "dxg"),)
    monkeypatch.setattr(gpu_driver, "FILES", files)
    monkeypatch.setenv("RANK", rank)
    gpu_driver.mention_gpu.cache_clear()
    parser = argparse.ArgumentParser()
    add_model_options(parser, tries_batches)
    for _ in range(2):
        (open_fastest_model if tries_batches else open_model)(str(model), parser.parse_args(["--batch-size", "4"]))
    assert capsys.readouterr().err.count("this machine has a GPU: `--device cuda` takes that") == times
    gpu_driver.mention_gpu.cache_clear()


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:3"])
def test_a_model_runs_where_it_is_told_to(device: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_model_options(parser)
    assert parser.parse_args(["--device", device]).device == device
    # torch ends in a traceback at a leading zero, and takes 200 for -56.
    for word in (device + "x", "cuda:01", "cuda:200", "cuda:\u0663"):
        with pytest.raises(argparse.ArgumentError, match="cpu, cuda or cuda:N"):
            parser.parse_args(["--device", word])
