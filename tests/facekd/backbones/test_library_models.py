"""Networks of timm as backbones: against timm itself, trained, loaded and exported; refusals with and without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facekd.backbones import count_parameters
from facekd.backbones.building import build_backbone
from facekd.checkpoints.models import load_backbone, plan_backbone
from facekd.distributed import World
from facekd.embedder import open_embedder
from facekd.errors import ConfigError, ModelError
from facekd.export.export_onnx import main as export
from facekd.training.config import TrainConfig
from facekd.training.loop import train
from facekd.training.optim import parameter_groups

SMALL = "timm:mobilenetv4_conv_small_035"


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm")


def build(name: str, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build_backbone(name, **{"embedding_size": 16, "image_size": 64} | arguments)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "mobilenetv4_conv_small_035"])
def test_the_embedding_is_that_of_the_features_behind_the_layers_of_a_face_network(timm: Any, name: str) -> None:
    backbone = build(f"timm:{name}").eval()
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(backbone.network.state_dict())
    images = torch.randn(2, 3, 64, 64)
    expected = theirs(images) @ backbone.fc.weight.T / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(backbone(images), expected)
    assert count_parameters(backbone) == count_parameters(theirs) + backbone.fc.weight.numel() + 2 * 16


def test_weights_follow_the_seed_whether_or_not_the_name_was_checked_before(timm: Any) -> None:
    first, second = build("timm:mobilenetv4_conv_small_050"), build("timm:mobilenetv4_conv_small_050")
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_a_transformer_is_built_for_the_size_and_its_positions_are_not_decayed(timm: Any) -> None:
    backbone = build("timm:vit_tiny_patch16_224")
    assert backbone.network.pos_embed.shape[1] == 17  # 16 patches and the class token
    groups = parameter_groups({"backbone": backbone}, 0.1, decay_norm_and_bias=False)
    undecayed = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    assert {id(backbone.network.pos_embed), id(backbone.network.cls_token)} <= undecayed
    assert id(backbone.network.patch_embed.proj.weight) not in undecayed


def test_it_trains_and_loads_again(timm: Any, tiny_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    words = {"backbone__name": SMALL, "backbone__width": 1, "images": 24, "schedule__warmup_images": 0}
    config = tiny_config(**words)
    assert train(config, World(0, 1, torch.device("cpu"))) == 0
    backbone: Any
    backbone, _ = load_backbone(config.output)
    assert (backbone.name, backbone.embedding_size, backbone.image_size) == (SMALL, 16, 32)
    plan = plan_backbone({"name": SMALL, "embedding_size": 16, "image_size": 32})
    assert all(value.is_meta for value in plan.state_dict().values())
    assert plan.state_dict().keys() == backbone.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "mobilenetv4_conv_small_035", "vit_tiny_patch16_224"])
def test_it_exports(timm: Any, name: str, tiny_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    words = {"backbone__name": f"timm:{name}", "backbone__width": 1, "images": 24, "schedule__warmup_images": 0}
    config = tiny_config(**words)
    assert train(config, World(0, 1, torch.device("cpu"))) == 0
    assert export([config.output, "--output", str(tmp_path / "model.onnx")]) == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    expected, found = (open_embedder(path).embed(images) for path in (config.output, str(tmp_path / "model.onnx")))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("timm:mobilenetv4_conv_smal", {}, "unknown to timm: did you mean 'timm:mobilenetv4_conv_small'"),
        ("timm:", {}, "backbone.name 'timm:' is unknown to timm"),
        ("timm:hf-hub:someone/network", {}, "'timm:hf-hub:someone/network' is unknown to timm"),
        ("timm:local-dir:/tmp/network", {}, "'timm:local-dir:/tmp/network' is unknown to timm"),
        ("timm:mobilenetv4_conv_small.e2400_r224_in1k", {}, "leave '.e2400_r224_in1k' off"),
        ("timm:maxvit_tiny_rw_224", {"image_size": 112}, "maxvit_tiny_rw_224 cannot take images of 112 pixels: "),
        (SMALL, {"image_size": 31}, "at least 32 for timm:mobilenetv4_conv_small_035"),
        (SMALL, {"width": 0.5}, "comes in one width"),
        (SMALL, {"drop_path": 0.1}, "has no drop_path"),
    ],
)
def test_what_does_not_suit_is_refused(timm: Any, name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(name, **arguments)


def test_without_timm_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Callable[..., TrainConfig]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"backbone timm:resnet18 needs timm: pip install 'facekd\[timm\]'"):
        tiny_config(backbone__name="timm:resnet18", backbone__width=1)


def test_a_package_that_timm_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ModelError, match=r"cannot be imported \(No module named 'a_package_that_is_not_there'\)"):
        build("timm:resnet18")
