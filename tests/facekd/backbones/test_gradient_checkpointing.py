"""Gradient checkpointing: the same numbers as without it, units computed twice, statistics moved once."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.distributed import World
from facekd.errors import ConfigError
from facekd.training.config import TrainConfig
from facekd.training.loop import train

ALONE = World(0, 1, torch.device("cpu"))
# With everything random that a network has, and a class of its units.
NETWORKS: dict[str, dict[str, Any]] = {
    "iresnet18": {"dropout": 0.3},
    "mobilefacenet": {"dropout": 0.3},
    "edgeface_xs": {"dropout": 0.3},
    "ghostfacenetv2_s1": {"dropout": 0.3},
    "vit_t": {"dropout": 0.3, "drop_path": 0.5, "mask_ratio": 0.3},
}


def pair(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    plain = build_backbone(name, embedding_size=16, image_size=32, width=0.125, **NETWORKS[name])
    thrifty = copy.deepcopy(plain)
    thrifty.gradient_checkpointing = True
    return plain, thrifty


def one_pass(backbone: nn.Module, frozen: str = "") -> dict[str, torch.Tensor]:
    """Embeddings, gradients and statistics of one pass in training."""
    backbone.train()
    for module_name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d) and frozen and module_name.startswith(frozen):
            module.eval().requires_grad_(False)
    torch.manual_seed(1)
    embedding = backbone(torch.randn(6, 3, 32, 32))
    embedding.mul(torch.randn(6, 16)).sum().backward()
    gradients = {f"grad {name}": p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return {"embedding": embedding, "next random number": torch.rand(1), **gradients, **dict(backbone.named_buffers())}


@pytest.mark.parametrize("frozen", ["", "layer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_bit_for_bit_what_it_is_without(name: str, frozen: str) -> None:
    plain, thrifty = pair(name)
    expected, found = one_pass(plain, frozen), one_pass(thrifty, frozen)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    counters = [value.item() for key, value in found.items() if key.endswith("num_batches_tracked")]
    assert set(counters) <= {1} | ({0} if any(key.startswith(frozen) for key in found if frozen) else set())


@pytest.mark.parametrize("name", NETWORKS)
def test_units_are_computed_twice_where_gradients_are_needed_and_once_elsewhere(name: str) -> None:
    _, thrifty = pair(name)
    calls: list[str] = []
    inside = {
        "iresnet18": "layer3.0.prelu",
        "mobilefacenet": "layers.3.layers.0",
        "edgeface_xs": "stages.1.blocks.2.norm",
        "ghostfacenetv2_s1": "units.5.layers.1.1",
        "vit_t": "blocks.5.mlp.fc1",
    }
    # Before the call: the second computation may end as soon as it has what was left out.
    thrifty.get_submodule(inside[name]).register_forward_pre_hook(lambda *_: calls.append(name))
    one_pass(thrifty)
    assert len(calls) == 2
    with torch.no_grad():
        thrifty(torch.randn(2, 3, 32, 32))
    assert len(calls) == 3
    # With the backbone in evaluation mode, as while the classifier warms up, gradients are still computed.
    thrifty.eval()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert len(calls) == 5


def test_an_error_in_the_second_computation_leaves_the_statistics_on() -> None:
    _, thrifty = pair("iresnet18")
    calls: list[int] = []

    def fail_later(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    thrifty.layer2[0].prelu.register_forward_pre_hook(fail_later)
    with pytest.raises(KeyboardInterrupt):
        one_pass(thrifty)
    for module in thrifty.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.momentum, module.num_batches_tracked.item()) == (0.1, 1)


def test_a_run_is_the_same_and_may_change_it_on_the_way(
    tiny_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    words = {"backbone__name": "iresnet18", "checkpoint__every_images": 12, "schedule__warmup_images": 0}
    plain = tiny_config(**words, images=24, output=tmp_path / "plain")
    mixed = tiny_config(**words, images=24, output=tmp_path / "mixed", backbone__gradient_checkpointing="true")
    assert train(plain, ALONE) == train(mixed, ALONE) == 0
    one, other = load_checkpoint(plain.output), load_checkpoint(mixed.output)
    for part in ("backbone", "head"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    # The second half again, without it.
    list_checkpoints(Path(mixed.output))[-1].unlink()
    assert train(dataclasses.replace(plain, output=mixed.output), ALONE) == 0
    again = load_checkpoint(mixed.output)
    assert all(torch.equal(one["backbone"][name], again["backbone"][name]) for name in one["backbone"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"backbone__name": "resnet20", "backbone__embedding_size": 8},
            "gradient_checkpointing: resnet20 has no units that can be computed again: leave it off",
        ),
        ({"compile": "true"}, "set backbone.gradient_checkpointing or compile"),
    ],
)
def test_where_it_does_not_work_it_is_refused(
    tiny_config: Callable[..., TrainConfig], words: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(backbone__gradient_checkpointing="true", **words)
