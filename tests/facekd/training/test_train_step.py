"""One update: labels are checked once, on the host, and no pass reads anything back from the device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from facekd.commands.config_files import parse_config
from facekd.data.config import open_training_data
from facekd.data.datasets import open_dataset
from facekd.distributed import World
from facekd.errors import InputError, TrainingError
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.distilling.distiller import Distiller
from facekd.training.loop import make_run_loader
from facekd.training.recognizer import build_recognizer
from facekd.training.resume import save_state
from facekd.training.state import TrainingState, build_state
from facekd.training.train_step import train_step

ALONE = World(0, 1, torch.device("cpu"))
HEADS = [
    *(
        ("--head.margin", "arcface"),
        ("--head.margin", "none", "--head.margin_value", "null"),
        ("--head.sharded", "true"),
    ),
    ("--head.margin", "adaface", "--head.gradient", "straight_through"),
    ("--head.kind", "linear", "--head.scale", "64", "--head.margin_value", "null"),
]
LOSSES = [
    ("--share", "0.5", "--loss.kl", "1"),
    ("--loss.ce", "0", "--loss.arcdistill", "1"),
    ("--loss.ce", "0", "--loss.adadistill", "1"),
    ("--loss.ce", "0", "--loss.crd", "1"),
]
# A training and a distillation whose values are likeliest to be looked at on the way; the others take as long.
CASES = [
    case if "adaface" in case or "--share" in case else pytest.param(case, marks=pytest.mark.slow)
    for case in (*HEADS, *LOSSES)
]


class ReadsBack(TorchDispatchMode):
    """Counts values that Python reads out of tensors: each makes the host wait where the tensor is on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.count += func in waits
        return func(*args, **(kwargs or {}))


def make_state(arguments: list[str], folder: Path, words: Sequence[str]) -> TrainingState:
    """Of a training, or of a distillation where `words` name losses."""
    train_config = parse_config(TrainConfig, [*arguments, "--output", str(folder / "teacher")], "", "")
    dataset = open_dataset(train_config.data.train, 32)
    if words in HEADS:
        return build_state(parse_config(TrainConfig, [*arguments, *words], "", ""), ALONE, dataset, 120)
    teacher = save_state(build_state(train_config, ALONE, dataset, 120))
    config = parse_config(DistillConfig, [*arguments, *words, "--teacher.model", str(teacher)], "", "")
    return build_state(config, ALONE, dataset, 120, build_distiller(config, ALONE, dataset))


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_passes_read_nothing_back(words: Sequence[str], tiny_arguments: list[str], tmp_path: Path) -> None:
    counts = []
    for size in (12, 3):
        state = make_state([*tiny_arguments, "--batch_size_per_rank", str(size)], tmp_path, words)
        batch = next(iter(make_run_loader(state)))
        with ReadsBack() as reads:
            train_step(state, batch, 0.01)
        counts.append(reads.count)
    assert counts[0] == counts[1]  # in one pass as in four


@pytest.mark.parametrize("label", [-1, 6])
@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_a_label_of_no_class_stops_before_the_weights_move(
    words: Sequence[str], label: int, tiny_arguments: list[str], tmp_path: Path
) -> None:
    state = make_state([*tiny_arguments, "--batch_size_per_rank", "3"], tmp_path, words)
    before = {name: value.clone() for name, value in state.recognizer.state_dict().items()}
    batch = next(iter(make_run_loader(state)))
    batch.labels[7] = label
    with pytest.raises(InputError, match=rf"label {label} at position 7 of the batch is outside \[0, 6\)"):
        train_step(state, batch, 0.01)
    assert all(torch.equal(value, before[name]) for name, value in state.recognizer.state_dict().items())


@pytest.mark.parametrize("index", [-1, 42])
def test_an_image_that_crd_does_not_remember_stops_before_the_weights_move(
    index: int, tiny_arguments: list[str], tmp_path: Path
) -> None:
    state = make_state([*tiny_arguments, "--batch_size_per_rank", "3"], tmp_path, LOSSES[-1])
    recognizer = state.recognizer
    assert isinstance(recognizer, Distiller)
    indices_of = recognizer._indices_of
    recognizer._indices_of = lambda positions: np.where(np.arange(len(positions)) == 7, index, indices_of(positions))
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    with pytest.raises(InputError, match=rf"image index {index} is outside \[0, 42\)"):
        train_step(state, next(iter(make_run_loader(state))), 0.01)
    assert all(torch.equal(value, before[name]) for name, value in recognizer.state_dict().items())


def test_a_step_takes_the_images_that_were_sent_ahead(tiny_arguments: list[str], tmp_path: Path) -> None:
    found = []
    for is_sent in (False, True):
        state = make_state([*tiny_arguments, "--batch_size_per_rank", "5"], tmp_path, HEADS[0])
        batch = next(iter(make_run_loader(state)))
        if is_sent:
            sent = (batch.images.clone(), batch.flip.clone())
            batch = batch._replace(images=torch.zeros_like(batch.images), on_device=sent)
        found.append(train_step(state, batch, 0.01)[0])
    assert found[0] == found[1]


class WithASpareLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3 * 32 * 32, 16)
        self.spare = nn.Linear(16, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.used(images.flatten(1))


def test_a_parameter_for_whose_gradient_others_would_wait_is_named(tmp_path: Path) -> None:
    words = ["--data.train", "synthetic:6x6:1", "--data.image_size", "32", "--data.workers", "0", "--device", "cpu"]
    words += ["--backbone.name", "module", "--backbone.embedding_size", "16", "--global_batch_size", "12"]
    config = parse_config(TrainConfig, [*words, "--images", "24", "--output", str(tmp_path)], "", "")
    dataset, world = open_training_data(config.data), World(0, 2, ALONE.device)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the first of two, for itself
    try:
        state = build_state(config, world, dataset, 24, build_recognizer(config, world, dataset, WithASpareLayer()))
        with pytest.raises(
            TrainingError, match=r"2 parameters .* \(backbone\.module\.spare\.weight, .*spare\.bias\), and"
        ):
            train_step(state, next(iter(make_run_loader(state))), 0.1)
    finally:
        dist.destroy_process_group()
