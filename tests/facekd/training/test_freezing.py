"""Tests what stays as it is: frozen parts, the backbone in the head's warm-up; and the backbone's own learning rate."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from facekd.backbones.building import BACKBONES, build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.data.config import open_training_data
from facekd.distributed import World
from facekd.errors import ConfigError
from facekd.training.config import TrainConfig
from facekd.training.logbook import Logbook
from facekd.training.loop import fit, make_run_loader, train
from facekd.training.recognizer import build_recognizer
from facekd.training.state import TrainingState, build_state
from facekd.training.train_step import train_step

ALONE = World(0, 1, torch.device("cpu"))
Configure = Callable[..., TrainConfig]


def before_and_after(config: TrainConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights and statistics of the backbone before the run, and after it."""
    recognizer = build_recognizer(config, ALONE, open_training_data(config.data))
    before = {name: value.clone() for name, value in recognizer.backbone.state_dict().items()}
    assert train(config, ALONE) == 0
    return before, load_checkpoint(config.output)["backbone"]


def changed(config: TrainConfig) -> set[str]:
    before, after = before_and_after(config)
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parts_stay_with_their_statistics(optimizer: str, tiny_config: Configure) -> None:
    names = changed(tiny_config(freeze="[stem,stage1]", optimizer__name=optimizer, images=36))
    assert not any(name.startswith(("layers.0.", "layers.1.", "layers.2.", "layers.3.")) for name in names)
    assert {name.split(".")[1] for name in names if name.startswith("layers.")} == {"4", "5", "6", "7"}
    assert any(name.startswith("conv_sep.") for name in names) and any(name.startswith("features.") for name in names)


def test_a_frozen_stem_keeps_its_position_embeddings(tiny_config: Configure) -> None:
    words = {"backbone__name": "vit_t", "backbone__mask_ratio": 0.2, "optimizer__name": "adamw"}
    names = changed(tiny_config(freeze="[stem,stage4]", images=24, schedule__warmup_images=0, **words))
    assert not any(name.startswith(("patch_embed", "pos_embed", "mask_token", "blocks.9")) for name in names)
    assert any(name.startswith("blocks.8.") for name in names) and any(name.startswith("feature.") for name in names)


@pytest.mark.parametrize("warmup", [0, 12])
def test_a_frozen_backbone_trains_the_classifier_alone(warmup: int, tiny_config: Configure, tmp_path: Path) -> None:
    parts = BACKBONES["mobilefacenet"].parts if warmup else ["backbone"]  # a warm-up beside the latter is refused
    config = tiny_config(freeze=f"[{','.join(parts)}]", images=36, head_warmup_images=warmup)
    assert changed(config) == set()
    fresh = build_recognizer(tiny_config(output=tmp_path / "other"), ALONE, open_training_data(config.data))
    assert not torch.equal(fresh.head.weight, load_checkpoint(config.output)["head"]["weight"])


def test_frozen_norms_keep_their_statistics_and_gains(tiny_config: Configure) -> None:
    config = tiny_config(freeze="[norms]", images=36)
    backbone = build_recognizer(config, ALONE, open_training_data(config.data)).backbone
    norms = {name for name, module in backbone.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)}
    names = {name.rpartition(".")[0] for name in changed(config)}
    assert not names & norms
    convolutions = {name for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    assert convolutions <= names


@pytest.mark.parametrize("name", [name for name, network in BACKBONES.items() if network.parts])
def test_the_parts_of_a_network_are_all_of_it(name: str) -> None:
    network = BACKBONES[name]
    size = network.fixed_embedding_size(name, 0.125) or 16
    backbone = build_backbone(name, embedding_size=size, image_size=32, width=0.125)
    parts = [
        parameter
        for paths in network.parts.values()
        for part in map(dict([*backbone.named_modules(), *backbone.named_parameters()]).__getitem__, paths)
        for parameter in (part.parameters() if isinstance(part, nn.Module) else [part])
    ]
    assert sorted(map(id, parts)) == sorted(map(id, backbone.parameters()))


def test_the_backbone_waits_for_the_classifier_to_warm_up(tiny_config: Configure) -> None:
    config = tiny_config(head_warmup_images=48, images=72, optimizer__weight_decay=0.1)
    dataset = open_training_data(config.data)
    state = build_state(config, ALONE, dataset, 72)
    seen: list[tuple[int, dict[str, torch.Tensor], torch.Tensor]] = []

    class Watch(Logbook):
        def advance(self, images_seen: int) -> None:
            weights = {name: value.clone() for name, value in state.recognizer.backbone.state_dict().items()}
            seen.append((images_seen, weights, state.recognizer.head.weight.detach().clone()))

    start = {name: value.clone() for name, value in state.recognizer.backbone.state_dict().items()}
    with Watch(state.folder, total_images=72, images_seen=0, trackers=(), active=True) as logbook:
        fit(state, logbook, ())
    for images, weights, _ in seen:
        is_same = all(torch.equal(weights[name], start[name]) for name in start)
        assert is_same == (images <= 48), images
    heads = [head for _, _, head in seen]
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(heads))


def test_every_parameter_of_the_backbone_has_a_gradient_in_the_warm_up(
    tiny_config: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DistributedDataParallel waits for all of them; in evaluation mode no token is left out, and none takes its place.
    words = {"backbone__name": "vit_t", "backbone__mask_ratio": 0.2, "optimizer__name": "adamw"}
    config = tiny_config(head_warmup_images=12, images=24, schedule__warmup_images=0, **words)
    state = build_state(config, ALONE, open_training_data(config.data), 24)
    without: list[str] = []

    def look(state: TrainingState) -> None:
        without.extend(name for name, p in state.recognizer.named_parameters() if p.requires_grad and p.grad is None)

    monkeypatch.setattr("facekd.training.train_step.drop_kept_gradients", look)
    train_step(state, next(iter(make_run_loader(state))), 0.1)
    assert not without


def test_a_warm_up_that_would_train_nothing_is_refused(tiny_config: Configure) -> None:
    config = tiny_config(head_warmup_images=12)
    dataset = open_training_data(config.data)
    recognizer = build_recognizer(config, ALONE, dataset)
    recognizer.head.requires_grad_(False)  # as that of `shared_head` is
    with pytest.raises(ConfigError, match="head_warmup_images trains what is beside the backbone"):
        build_state(config, ALONE, dataset, 120, recognizer)


def test_a_run_killed_in_the_warm_up_resumes_in_it(tiny_config: Configure, tmp_path: Path) -> None:
    words = {"head_warmup_images": 48, "images": 72, "checkpoint__keep": 9}
    whole, killed = tiny_config(**words, output=tmp_path / "whole"), tiny_config(**words)
    train(whole, ALONE)
    shutil.copytree(whole.output, killed.output)
    for path in list_checkpoints(Path(killed.output))[1:]:  # the first is from image 24
        path.unlink()
    train(killed, ALONE)
    one, other = load_checkpoint(whole.output), load_checkpoint(killed.output)
    for part in ("backbone", "head"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_the_backbone_may_learn_at_a_rate_of_its_own(tiny_config: Configure) -> None:
    def first_step(**words: object) -> tuple[TrainingState, dict[str, float]]:
        config = tiny_config(images=48, schedule__warmup_images=0, **words)
        state = build_state(config, ALONE, open_training_data(config.data), 48)
        before = {name: value.detach().clone() for name, value in state.recognizer.named_parameters()}
        train_step(state, next(iter(make_run_loader(state))), 0.1)
        moved = {
            name: float((value.detach() - before[name]).norm()) for name, value in state.recognizer.named_parameters()
        }
        return state, moved

    _, usual = first_step()
    state, slow = first_step(optimizer__backbone_lr_factor=0.25)
    assert {group["name"]: group["lr"] for group in state.optimizer.param_groups} == {"backbone": 0.025, "head": 0.1}
    for name, length in usual.items():
        assert slow[name] == pytest.approx(length * (0.25 if name.startswith("backbone.") else 1), rel=1e-2), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"freeze": "[stage9]"}, "freeze names stage9, and mobilefacenet has backbone, norms, stem, stage1, stage2"),
        (
            {"freeze": "[stem]", "backbone__name": "resnet50", "backbone__embedding_size": 2048, "backbone__width": 1},
            "resnet50 has backbone, norms$",
        ),
        ({"freeze": "[backbone]", "head_warmup_images": 12}, "have no effect on a backbone that is frozen"),
        ({"freeze": "[backbone]", "optimizer__backbone_lr_factor": 0.1}, "have no effect on a backbone that is frozen"),
        ({"optimizer__backbone_lr_factor": 0}, "optimizer.backbone_lr_factor = 0.0: give a number that is positive"),
        ({"head_warmup_images": -1}, "head_warmup_images must not be negative"),
        ({"head_warmup_images": 120}, "head_warmup_images = 120 leaves nothing of a run of 120 images to the backbone"),
    ],
)
def test_what_cannot_be_kept_is_refused(words: dict[str, object], message: str, tiny_config: Configure) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(**words), ALONE)
