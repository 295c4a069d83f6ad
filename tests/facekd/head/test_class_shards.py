"""Compares heads that two or three ranks share with whole ones; the ranks are threads, their exchanges simulated.

tests/distributed/test_sharded_heads.py does the same, and more, with processes and gloo.
"""

from __future__ import annotations

import pytest
import torch

from facekd.distributed import ALONE, World
from facekd.head.config import HeadConfig
from tests.distributed.shards import CONFIGS, ROWS, Example, compare, compare_comparisons, compare_sampled
from tests.facekd.head.thread_world import run_ranks

DOUBLE = torch.float64


def examples(size: int, config: HeadConfig, num_classes: int, rows: int) -> list[Example]:
    """Makes the same example for each rank, here because threads share one generator of random numbers."""
    return [Example(World(r, size, ALONE.device), config, num_classes, rows, DOUBLE) for r in range(size)]


@pytest.mark.parametrize("num_classes", [2, 23])  # 2 leave the third rank without classes
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_losses_and_gradients_are_those_of_a_whole_head(
    config: HeadConfig, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = examples(3, config, num_classes, ROWS)
    run_ranks(3, monkeypatch, lambda world: compare(world, made[world.rank], ROWS, 1e-9, 3))


@pytest.mark.parametrize("num_classes", [4, 23])
def test_comparisons_are_those_of_a_whole_head(num_classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = examples(2, CONFIGS[1], num_classes, ROWS)
    run_ranks(2, monkeypatch, lambda world: compare_comparisons(world, made[world.rank], ROWS, 3))


@pytest.mark.parametrize(("num_classes", "sub_centers"), [(2, 1), (40, 1), (5, 2)])
def test_steps_of_drawn_classes_are_those_of_a_head_with_these_alone(
    num_classes: int, sub_centers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = HeadConfig(scale=16.0, sharded=True, sample_rate=0.3, sub_centers=sub_centers)
    made = examples(2, config, num_classes, 2 * ROWS)
    run_ranks(2, monkeypatch, lambda world: compare_sampled(world, made[world.rank], 2 * ROWS, 2))
