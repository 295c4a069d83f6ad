"""Parameter groups, optimisers and moving averages; learning rates are in test_learning_rate.py."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from facekd.errors import ConfigError
from facekd.training.optim import (
    OptimizerConfig,
    build_optimizer,
    ema_decay,
    ema_update,
    parameter_groups,
    set_learning_rate,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 2))


# ---- parameter groups ------------------------------------------------------------------------------------------------


def test_by_default_everything_decays():
    backbone, head = network(), nn.Linear(2, 5)
    groups = parameter_groups({"backbone": backbone, "head": head}, 5e-4)
    assert [(group["name"], group["weight_decay"], len(group["params"])) for group in groups] == [
        ("backbone", 5e-4, 7),
        ("head", 5e-4, 2),
    ]


def test_norms_biases_and_slopes_may_be_left_undecayed():
    backbone = network()
    groups = parameter_groups({"backbone": backbone}, 5e-4, decay_norm_and_bias=False)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    found = {group["name"]: (group["weight_decay"], {names[id(p)] for p in group["params"]}) for group in groups}
    assert found == {
        "backbone": (5e-4, {"0.weight", "4.weight"}),
        "backbone (no decay)": (0.0, {"0.bias", "1.weight", "1.bias", "2.weight", "4.bias"}),
    }


def test_a_norm_over_planes_is_a_norm():
    module = nn.Sequential(nn.LayerNorm((4, 3, 3)), nn.Conv2d(4, 4, 3, bias=False))
    groups = parameter_groups({"net": module}, 0.1, decay_norm_and_bias=False)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 2)]


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
def test_every_trained_parameter_once_shared_and_frozen_ones_included(decay_norm_and_bias):
    backbone, head, teacher_head = network(), nn.Linear(2, 5), nn.Linear(2, 5).requires_grad_(False)
    backbone[1].weight.requires_grad_(False)
    modules = {"backbone": backbone, "head": head, "shared": nn.ModuleList([head]), "teacher": teacher_head}
    groups = parameter_groups(modules, 5e-4, decay_norm_and_bias=decay_norm_and_bias)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    expected = [p for module in (backbone, head) for p in module.parameters() if p.requires_grad]
    assert sorted(found) == sorted(map(id, expected))
    assert not any("shared" in group["name"] or "teacher" in group["name"] for group in groups)
    assert all(group["params"] for group in groups)


def test_nothing_to_train():
    with pytest.raises(ConfigError, match=r"nothing to train.*backbone"):
        parameter_groups({"backbone": network().requires_grad_(False)}, 5e-4)


def test_lr_scales():
    groups = parameter_groups({"backbone": network(), "head": nn.Linear(2, 5)}, 0.0, lr_scales={"head": 10.0})
    optimizer = build_optimizer(OptimizerConfig(), groups)
    set_learning_rate(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.2])
    with pytest.raises(ConfigError, match=r"lr scales for heda.*backbone"):
        parameter_groups({"backbone": network()}, 0.0, lr_scales={"heda": 1.0})


# ---- optimisers ------------------------------------------------------------------------------------------------------


def train(optimizer, module, steps, lr=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        set_learning_rate(optimizer, lr)
        optimizer.zero_grad()
        module(torch.randn(6, 3, 3, 3, generator=generator)).square().sum().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (OptimizerConfig(), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4)),
        (
            OptimizerConfig(nesterov=True, momentum=0.8, weight_decay=0.0),
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
        ),
        (
            OptimizerConfig(name="adamw", betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1),
        ),
    ],
)
@pytest.mark.parametrize("implementation", ["fused", "foreach", "loop"])
def test_steps_are_those_of_torch(config, reference, implementation):
    # Nothing normalised: a bias before it has a gradient of rounding errors alone, which AdamW makes whole steps of.
    ours = nn.Sequential(nn.Flatten(), nn.Linear(27, 5), nn.PReLU(), nn.Linear(5, 2))
    theirs = copy.deepcopy(ours)
    config = replace(config, implementation=implementation)
    groups = parameter_groups({"backbone": ours}, config.weight_decay)
    found = train(build_optimizer(config, groups), ours, 5)
    expected = train(reference(theirs.parameters()), theirs, 5)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("implementation", ["fused", "foreach", "loop"])
def test_the_implementation_is_the_one_asked_for(name, implementation):
    groups = parameter_groups({"net": nn.Linear(3, 2)}, 0.1)
    defaults = build_optimizer(OptimizerConfig(name=name, implementation=implementation), groups).defaults
    assert bool(defaults["fused"]) == (implementation == "fused")
    assert bool(defaults["foreach"]) == (implementation == "foreach")


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_first_step_that_overflows_leaves_no_trace_in_the_fused_form(name):
    ends = []
    for overflows in (0, 1):
        torch.manual_seed(0)
        module = nn.Linear(300, 200)
        groups = parameter_groups({"module": module}, weight_decay=0.1)
        optimizer = build_optimizer(OptimizerConfig(name=name, implementation="fused"), groups)
        set_learning_rate(optimizer, 0.1)
        junk = [torch.full_like(module.weight, 1e30) for _ in range(8)]  # for what the memory may hold
        for overflow in [*[1.0] * overflows, 0.0]:
            junk.clear()
            module(torch.ones(4, 300)).square().mean().backward()
            optimizer.found_inf = torch.tensor(overflow)  # as a GradScaler would
            optimizer.step()
            optimizer.zero_grad()
        ends.append(module.weight.detach())
    torch.testing.assert_close(*ends)


def test_an_implementation_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\.implementation"):
        OptimizerConfig(implementation="apex")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_reaches_the_decayed_only(name):
    module = network()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    config = OptimizerConfig(name=name, weight_decay=0.1, momentum=0.0)
    optimizer = build_optimizer(config, parameter_groups({"net": module}, 0.1, decay_norm_and_bias=False))
    set_learning_rate(optimizer, 0.5)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, parameter in zip(before, module.parameters(), strict=True):
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), old * factor)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_forgotten_learning_rate_is_noticed(name):
    module = network()
    optimizer = build_optimizer(OptimizerConfig(name=name), parameter_groups({"net": module}, 0.0))
    module(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    assert all(parameter.isnan().all() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimizer_goes_on_where_it_was(name, tmp_path):
    config = OptimizerConfig(name=name)

    def build(module):
        return build_optimizer(config, parameter_groups({"net": module}, 5e-4, decay_norm_and_bias=False))

    module = network()
    optimizer = build(module)
    train(optimizer, module, 3)
    torch.save({"model": module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    expected = train(optimizer, module, 3, seed=1)

    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    twin = network()
    twin.load_state_dict(saved["model"])
    restored = build(twin)
    restored.load_state_dict(saved["optimizer"])
    for found, wanted in zip(train(restored, twin, 3, seed=1), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "adam"}, "optimizer.name = 'adam': choose one of sgd, adamw"),
        ({"momentum": 1.0}, "optimizer.momentum = 1.0"),
        ({"weight_decay": -1e-4}, "optimizer.weight_decay"),
        ({"weight_decay": math.nan}, "optimizer.weight_decay"),
        ({"eps": 0.0}, "optimizer.eps"),
        ({"betas": (0.9, 1.0)}, "optimizer.betas"),
        ({"nesterov": True, "momentum": 0.0}, "optimizer.nesterov"),
        ({"nesterov": True, "name": "adamw"}, "optimizer.nesterov"),
    ],
)
def test_optimizers_that_contradict_themselves(values, message):
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**values)


# ---- the moving average of weights -----------------------------------------------------------------------------------


def test_ema_is_the_weighted_mean_of_tensors_and_buffers():
    module = network()
    average = copy.deepcopy(module)
    before = {name: value.clone() for name, value in average.state_dict().items()}
    module(torch.randn(8, 3, 3, 3))  # moves the statistics of the batch normalisation
    train(torch.optim.SGD(module.parameters(), lr=0.05), module, 2)
    ema_update(average, module, 0.75)
    for name, value in average.state_dict().items():
        new = module.state_dict()[name]
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * new)
        else:
            assert torch.equal(value, new)
    assert not torch.equal(average[1].running_mean, before["1.running_mean"])
    assert average[1].num_batches_tracked == 3


def test_ema_of_another_dtype_keeps_it():
    module, average = network().bfloat16(), network().float()
    ema_update(average, module, 0.0)
    assert all(parameter.dtype == torch.float32 for parameter in average.parameters())
    for parameter, wanted in zip(average.parameters(), module.parameters(), strict=True):
        assert torch.equal(parameter, wanted.float())


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ema_at_the_ends(decay):
    module, average = nn.Linear(3, 3), nn.Linear(3, 3)
    wanted = copy.deepcopy(module if decay == 0 else average)
    ema_update(average, module, decay)
    assert torch.equal(average.weight, wanted.weight)
    assert all(parameter.requires_grad for parameter in average.parameters())


@given(batch=st.integers(1, 2000), parts=st.integers(2, 10), half_life=st.floats(1, 1e7))
def test_half_life_is_independent_of_the_batch_size(batch, parts, half_life):
    whole = ema_decay(batch * parts, half_life)
    assert ema_decay(batch, half_life) ** parts == pytest.approx(whole, rel=1e-9)
    assert ema_decay(batch, batch) == 0.5


def test_ema_starts_as_the_plain_mean_and_forgets_the_first_weights():
    module, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    values = [3.0, -1.0, 5.0, 9.0]
    for step, value in enumerate(values):
        module.weight.data.fill_(value)
        ema_update(average, module, ema_decay(32, 1e9, images_seen=32 * step))
        assert average.weight.item() == pytest.approx(sum(values[: step + 1]) / (step + 1))
    assert ema_decay(32, 64, images_seen=10**9) == ema_decay(32, 64)


def test_what_an_ema_refuses():
    with pytest.raises(ConfigError, match=r"only one of them has 0\.bias"):
        ema_update(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2, bias=False)), 0.5)
    with pytest.raises(ConfigError, match=r"decay = 1\.5"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2), 1.5)
    with pytest.raises(ConfigError, match="half-life of 0"):
        ema_decay(32, 0)
