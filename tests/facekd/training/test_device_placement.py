"""Where tensors lie in training on a GPU, without one: torch's fake tensors have a device and a shape, and no values.

An operation on tensors of two devices raises, and so does reading a value back, for which a GPU would be waited for.
torch's engine for gradients asks the driver, so the backward pass of the classes is called by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from facekd.backbones.building import build_backbone
from facekd.distillation.contrastive import ContrastiveDistillation, ContrastiveSettings
from facekd.distillation.weights import LossWeights
from facekd.distributed import World
from facekd.head import chunked_loss
from facekd.head.chunked_softmax import ChunkedLosses
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.images.model_input import _row_constants, to_model_input
from facekd.labels import labels_known_below
from facekd.training.distilling.distiller import Distiller, Objective, StudentParts, TeacherParts
from facekd.training.recognizer import Recognizer

GPU = torch.device("cuda", 0)
ALONE = World(0, 1, torch.device("cpu"))
CLASSES = 40


def to_fake_gpu(module: nn.Module, mode: FakeTensorMode) -> None:
    """Does what `Module.to` does, which cannot exchange real parameters for fake ones."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                moved = mode.from_tensor(value).detach().to(GPU)
                part._parameters[name] = nn.Parameter(moved, requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = mode.from_tensor(value).to(GPU)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, tuple[int, ...]]]]:
    """Passes over the classes, with the shape of their losses; autocast as on a machine with a GPU."""
    found: list[tuple[Any, tuple[int, ...]]] = []

    class Watched:
        @staticmethod
        def apply(*inputs: Any) -> torch.Tensor:
            losses = ChunkedLosses.apply(*inputs)
            assert isinstance(losses, torch.Tensor)
            found.append((losses.grad_fn, tuple(losses.shape)))
            return losses

    monkeypatch.setattr(chunked_loss, "ChunkedLosses", Watched)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.autograd, "grad", lambda _, value: (torch.ones_like(value),))  # the slope of a margin
    _row_constants.cache_clear()
    yield found
    _row_constants.cache_clear()


def run_backward(passes: list[tuple[Any, tuple[int, ...]]]) -> None:
    assert passes
    for context, shape in passes:
        _, *gradients = ChunkedLosses.backward(context, torch.zeros(shape).to(GPU))
        for gradient, value in zip(gradients, context.saved_tensors, strict=False):
            assert gradient is None or (gradient.device, gradient.shape) == (GPU, value.shape)


@pytest.mark.parametrize(
    "head",
    [
        {"margin": "adaface", "sharded": True, "product": "autocast"},
        {"margin": "curricularface", "sub_centers": 2},
        pytest.param({"margin": "magface"}, marks=pytest.mark.slow),
        pytest.param({"margin": "elastic_arcface"}, marks=pytest.mark.slow),
    ],
)
def test_training_computes_on_the_gpu_alone(head: dict[str, Any], passes: list[tuple[Any, tuple[int, ...]]]) -> None:
    classifier = build_classifier(HeadConfig(margin_value=None, **head), 16, CLASSES, ALONE)
    recognizer = Recognizer(build_backbone("mobilefacenet", embedding_size=16, image_size=32, width=0.125), classifier)
    with FakeTensorMode() as mode:
        to_fake_gpu(recognizer, mode)
        pixels, flip = torch.zeros(8, 32, 32, 3, dtype=torch.uint8).to(GPU), torch.zeros(8, dtype=torch.bool).to(GPU)
        images, labels = to_model_input(pixels, flip), torch.zeros(8, dtype=torch.int64).to(GPU)
        with labels_known_below(CLASSES), torch.autocast("cuda", dtype=torch.float16):
            loss = recognizer(images, labels)
        assert (loss.device, loss.dtype) == (GPU, torch.float32)
        run_backward(passes)


@pytest.mark.parametrize(
    "losses",
    [("kl", "dkd_others", "th_ce", "th_dist_intra", "crd"), pytest.param(("adadistill", "sp"), marks=pytest.mark.slow)],
)
def test_distillation_computes_on_the_gpu_alone(
    losses: tuple[str, ...], passes: list[tuple[Any, tuple[int, ...]]]
) -> None:
    backbone = build_backbone("mobilefacenet", embedding_size=16, image_size=32, width=0.125)
    own, taught = build_classifier(HeadConfig(), 16, CLASSES), build_classifier(HeadConfig(), 24, CLASSES)
    memory = ContrastiveDistillation(16, 24, 50, settings=ContrastiveSettings(num_negatives=7))
    weights = LossWeights(**dict.fromkeys(losses, 1.0))
    distiller = Distiller(
        StudentParts(backbone, own, nn.Linear(16, 24, bias=False)),
        TeacherParts(taught.requires_grad_(False), None),
        Objective(weights),
        lambda positions: positions.numpy(),
        contrastive=memory if "crd" in losses else None,
    )
    with FakeTensorMode() as mode:
        to_fake_gpu(distiller, mode)
        images, labels = torch.zeros(8, 3, 32, 32).to(GPU), torch.zeros(8, dtype=torch.int64).to(GPU)
        indices, teacher = torch.arange(8).to(GPU), torch.zeros(8, 24).to(GPU)
        with labels_known_below(CLASSES), torch.autocast("cuda", dtype=torch.float16):
            found = distiller(images, labels, indices, indices + 3, teacher)
        assert (found.device, found.dtype, len(found)) == (GPU, torch.float32, 1 + len(weights.active))
        run_backward(passes)
