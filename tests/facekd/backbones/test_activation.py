"""facekd's PReLU against torch's: values, gradients, second gradients, autocast, exported graphs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facekd.backbones.activation import PReLU


def pair_of(channels: int, dtype: torch.dtype = torch.float64) -> tuple[PReLU, nn.PReLU]:
    ours, torchs = PReLU(channels).to(dtype), nn.PReLU(channels).to(dtype)
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(-0.5, 1.5, channels))  # negative and above one as well
        torchs.weight.copy_(ours.weight)
    return ours, torchs


def values_and_gradients(module: nn.PReLU, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = module(x)
    module.zero_grad()
    output.backward(grad)
    assert x.grad is not None
    assert module.weight.grad is not None
    return [output.detach(), x.grad, module.weight.grad.clone()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(layout):
    torch.manual_seed(0)
    ours, torchs = pair_of(5)
    x = torch.randn(3, 5, 4, 6, dtype=torch.float64).contiguous(memory_format=layout)
    x[0, 0] = 0.0  # the kink: both take the slope's side
    grad = torch.randn_like(x)
    for own, expected in zip(values_and_gradients(ours, x, grad), values_and_gradients(torchs, x, grad), strict=True):
        torch.testing.assert_close(own, expected)


def test_flat_inputs_work_as_well():
    torch.manual_seed(0)
    ours, torchs = pair_of(5)
    x, grad = torch.randn(2, 7, 5, dtype=torch.float64)
    for own, expected in zip(values_and_gradients(ours, x, grad), values_and_gradients(torchs, x, grad), strict=True):
        torch.testing.assert_close(own, expected)


def test_gradients_are_exact_to_the_second_order():
    torch.manual_seed(0)
    ours, _ = pair_of(3)
    # Away from the kink, where no finite difference exists.
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    x = (x + 0.1 * x.sign()).requires_grad_()
    function = lambda x, slope: torch.func.functional_call(ours, {"weight": slope}, (x,))  # noqa: E731
    slope = ours.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (x, slope))
    assert torch.autograd.gradgradcheck(function, (x, slope))


def test_autocast_keeps_16_bits_and_gives_the_slope_32():
    torch.manual_seed(0)
    ours, torchs = pair_of(4, torch.float32)
    x = torch.randn(8, 4, 8, 8).bfloat16()
    grad = torch.randn_like(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own, expected = values_and_gradients(ours, x, grad), values_and_gradients(torchs, x, grad)
    assert [value.dtype for value in own] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for ours_value, torchs_value in zip(own, expected, strict=True):
        torch.testing.assert_close(ours_value, torchs_value, rtol=2e-2, atol=0.1)


def test_frozen_slope_and_no_grad():
    torch.manual_seed(0)
    ours, torchs = pair_of(4)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torchs(x))
    ours.weight.requires_grad_(False)
    x.requires_grad_()
    ours(x).sum().backward()
    assert ours.weight.grad is None
    torch.testing.assert_close(x.grad, torch.where(x > 0, 1.0, ours.weight.view(-1, 1, 1)))


def test_an_exported_graph_holds_plain_prelu():
    ours, _ = pair_of(4, torch.float32)
    program = torch.export.export(ours, (torch.randn(2, 4, 3, 3),))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["aten.prelu.default"]
