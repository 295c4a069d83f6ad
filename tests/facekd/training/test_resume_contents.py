"""Resuming from a checkpoint whose fields were changed: a run goes on from it, or a sentence says what is wrong."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.data.datasets import open_dataset
from facekd.distributed import ALONE
from facekd.errors import CheckpointError, FacekdError
from facekd.training.config import TrainConfig
from facekd.training.resume import restore_latest, save_state
from facekd.training.state import TrainingState, build_state
from tests.hostile_values import KINDS, changed, check_ends_in_a_sentence, places


@pytest.fixture
def state(tiny_config: Callable[..., TrainConfig]) -> TrainingState:
    """A run of which a checkpoint was saved, as after its first steps."""
    config = tiny_config(ema_half_life_images=100)
    state = build_state(config, ALONE, open_dataset(config.data.train, 32), 120)
    for parameter in state.optimizer.param_groups[0]["params"][:1]:
        state.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    state.images_seen, state.losses_since_log, state.bad_records = 24, [[1.0], [2.0]], ["a"]
    save_state(state)
    return state


@pytest.mark.slow
def test_values_of_other_kinds_end_in_a_sentence(state: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    path = restore_latest(state)
    assert path is not None
    content = load_checkpoint(path)
    content["backbone"] = dict(itertools.islice(content["backbone"].items(), 2))  # too many places
    content["ema"], content["training"]["ema"] = content["backbone"], content["backbone"]
    found: dict[str, Any] = {}
    monkeypatch.setattr("facekd.checkpoints.checkpoint.read_torch_file", lambda *_, **__: found)
    names = itertools.cycle(sorted(KINDS))
    for place in places(content):
        if place[0] == "config" and len(place) > 2:
            continue  # they are compared alike
        kind = next(names)
        found = copy.copy(changed(content, place, KINDS[kind]))
        check_ends_in_a_sentence(lambda _: restore_latest(state), path.parent.parent, f"{kind} at {place}")


UNFIT: list[tuple[tuple[Any, ...], Any, str]] = [
    (
        ("training", "optimizer", "state", 0, "momentum_buffer"),
        torch.ones(2),
        "momentum_buffer for tensor 0 is not",
    ),
    (("training", "optimizer", "state", 0), {"exp_avg": torch.ones(2)}, "has exp_avg for tensor 0, expected mom"),
    (("training", "optimizer", "state", 10**6), {}, "has buffers for tensor 1000000, and there are"),
    (("training", "optimizer", "param_groups"), [], "its optimiser trains other tensors"),
    (("training", "losses_since_log"), [[1.0], [2.0, 3.0]], "has not 1 loss for each step"),
    (
        ("training", "losses_since_log"),
        [[1.0], 2.0],
        r"its 'training.losses_since_log\[1\]' is 2.0, expected a list",
    ),
    (("training", "images_seen"), -1, "its 'training.images_seen' is -1, expected a number 0 or more"),
    (("training", "ema", "more"), torch.ones(2), r"moving average does not fit .*unexpected \(more\)"),
    (("config", "optimizer"), 3, "optimizer was 3, now"),
    (("config", "schedule", "lr"), "much", "schedule.lr was much, now 0.05|config.schedule"),
    (("head", "weight"), torch.ones(6, 16, dtype=torch.int64), "weight is int64, expected float32"),
]


@pytest.mark.slow
def test_what_does_not_fit_the_run_is_named(state: TrainingState) -> None:
    path = restore_latest(state)
    assert path is not None
    content = load_checkpoint(path)
    for place, value, message in UNFIT:
        save_checkpoint(path, changed(content, place, value))
        with pytest.raises(CheckpointError, match=message):
            restore_latest(state)


def test_extras_reach_neither_backbone_nor_head(state: TrainingState) -> None:
    path = restore_latest(state)
    assert path is not None
    before = {name: value.clone() for name, value in state.recognizer.state_dict().items()}
    others = {name: torch.zeros_like(value) for name, value in before.items()}
    save_checkpoint(path, changed(load_checkpoint(path), ("training", "extras"), others))
    restore_latest(state)
    torch.testing.assert_close(state.recognizer.state_dict(), before, rtol=0, atol=0)


def test_a_scaler_is_restored_whole_or_refused(state: TrainingState) -> None:
    path = restore_latest(state)
    assert path is not None
    state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    with pytest.raises(FacekdError, match=r"its scaler has none, expected scale, growth_factor"):
        restore_latest(state)
    scaler = {"scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 5, "_growth_tracker": 2}
    save_checkpoint(path, changed(load_checkpoint(path), ("training", "scaler"), scaler))
    restore_latest(state)
    assert state.scaler.state_dict() == scaler
    save_checkpoint(path, changed(load_checkpoint(path), ("training", "scaler", "scale"), "large"))
    with pytest.raises(FacekdError, match=r"its 'training\.scaler\.scale' is 'large', expected a number"):
        restore_latest(state)
