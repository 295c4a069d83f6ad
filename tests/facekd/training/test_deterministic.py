"""Tests `deterministic`: what it sets in torch during a run, and what it says of operators that it forbids."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.errors import TrainingError
from facekd.training.config import TrainConfig
from facekd.training.loop import run_training
from facekd.training.recognizer import Recognizer, build_recognizer

Configure = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def no_setting_of_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "removed, and brought back after the test")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def settings() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    mode = torch.get_deterministic_debug_mode()
    compiled = getattr(torch._inductor.config, "deterministic", mode > 0)  # not in every torch
    return mode, cudnn.deterministic, cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG"), compiled


def run(config: TrainConfig, make_recognizer: Callable[..., Recognizer] = build_recognizer) -> list[tuple[object, ...]]:
    seen = []
    assert run_training(config, "facekd train", make_recognizer, None, lambda *_: seen.append(settings())) == 0
    return seen


def test_it_is_in_force_during_the_run_alone_and_recorded(
    tiny_config: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)  # as facekd sets it for a GPU
    before = settings()
    constant = {"schedule__name": "constant", "schedule__warmup_images": 0}
    config = tiny_config(images=12, deterministic="true", **constant)
    assert run(config) == [(2, True, False, ":4096:8", True)]
    assert (*settings()[:3], settings()[4]) == (*before[:3], before[4])
    assert load_checkpoint(config.output)["config"]["deterministic"] is True
    assert "fp32 on cpu, deterministic kernels" in capsys.readouterr().err
    # A run may go on without it, and then nothing is touched.
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG")
    assert run(tiny_config(images=24, **constant)) == [before]
    assert "deterministic" not in capsys.readouterr().err


def test_an_operator_without_a_deterministic_kernel_is_named(tiny_config: Configure) -> None:
    def put() -> None:
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))

    def with_put(*arguments: Any) -> Recognizer:
        recognizer = build_recognizer(*arguments)
        recognizer.backbone.register_forward_hook(lambda *_: put())
        return recognizer

    with pytest.raises(
        TrainingError,
        match=r"^with --deterministic true, torch refuses a kernel: put_ does not have a deterministic implementation.*"
        r"leave --deterministic out",
    ):
        run(tiny_config(images=12, schedule__warmup_images=0, deterministic="true"), with_put)
    assert torch.get_deterministic_debug_mode() == 0
