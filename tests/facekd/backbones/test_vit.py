"""Vision transformers against a naive restatement; masking, stochastic depth, weight decay, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facekd.backbones import ProjectedBackbone, fold_projection
from facekd.backbones.backbone import drop_path
from facekd.backbones.building import build_backbone
from facekd.errors import ModelError
from facekd.training.optim import parameter_groups


def thin(**options: Any) -> Any:
    torch.manual_seed(0)
    return build_backbone("vit_t", **{"embedding_size": 16, "image_size": 64, "width": 0.125} | options)


def test_the_embedding_is_that_of_the_formulas() -> None:
    """Dosovitskiy et al. 2021, equations 1 to 3, head by head, on patches cut by hand."""
    backbone = thin().eval().double()
    weights = {name: value.double() for name, value in backbone.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    kernel = weights["patch_embed.proj.weight"].flatten(1)
    corners = [(9 * row, 9 * column) for row in range(7) for column in range(7)]
    patches = torch.stack([images[:, :, y : y + 9, x : x + 9].flatten(1) for y, x in corners], 1)
    x = patches @ kernel.T + weights["patch_embed.proj.bias"] + weights["pos_embed"]
    channels = x.shape[-1]
    for block in (f"blocks.{number}" for number in range(12)):
        query, key, value = (norm(x, f"{block}.norm1") @ weights[f"{block}.attn.qkv.weight"].T).split(channels, -1)
        size = channels // 8
        heads = []
        for part in (slice(size * head, size * (head + 1)) for head in range(8)):
            scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
            heads.append(scores.softmax(-1) @ value[..., part])
        x = x + F.linear(torch.cat(heads, -1), *(weights[f"{block}.attn.proj.{kind}"] for kind in ("weight", "bias")))
        hidden = F.linear(norm(x, f"{block}.norm2"), *(weights[f"{block}.mlp.fc1.{k}"] for k in ("weight", "bias")))
        x = x + F.linear(hidden.clamp(0, 6), *(weights[f"{block}.mlp.fc2.{kind}"] for kind in ("weight", "bias")))
    flat = norm(x, "norm").flatten(1)
    # Statistics of a fresh normalisation: mean 0, variance 1.
    middle = flat @ weights["feature.0.weight"].T / (1 + 2e-5) ** 0.5
    expected = middle @ weights["feature.2.weight"].T / (1 + 2e-5) ** 0.5
    torch.testing.assert_close(backbone(images), expected)


def test_masked_places_hold_the_mask_token_and_the_others_their_tokens() -> None:
    backbone = thin(mask_ratio=0.3)
    assert backbone.mask_token.requires_grad and not thin().mask_token.requires_grad
    seen: dict[str, torch.Tensor] = {}
    backbone.blocks[0].register_forward_hook(lambda _, inputs, __: seen.__setitem__("in", inputs[0]))
    backbone.norm.register_forward_hook(lambda _, __, output: seen.__setitem__("out", output))
    backbone.feature.register_forward_hook(lambda _, inputs, __: seen.__setitem__("flat", inputs[0]))
    images = torch.randn(3, 3, 64, 64)
    backbone(images).square().sum().backward()
    assert seen["in"].shape[1] == 34  # int(0.7 * 49)
    assert backbone.mask_token.grad.abs().sum() > 0

    # Each image has its own 15 masked places; the others hold the last block's tokens of the patches that lie there.
    places = seen["flat"].unflatten(1, (49, -1))
    is_masked = (places == backbone.mask_token).all(-1)
    assert is_masked.sum(1).tolist() == [15, 15, 15]
    assert not torch.equal(is_masked[0], is_masked[1])
    tokens = backbone.patch_embed(images) + backbone.pos_embed
    for image in range(3):
        for place in (~is_masked[image]).nonzero().flatten().tolist():
            where = (seen["in"][image] == tokens[image, place]).all(-1).nonzero().item()
            torch.testing.assert_close(places[image, place], seen["out"][image, where])

    # In evaluation all patches are looked at.
    backbone.eval()(images)
    assert seen["in"].shape[1] == 49


def test_stochastic_depth_leaves_whole_images_out_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    branch = torch.ones(4000, 2, 3)
    kept = drop_path(branch, 0.25, training=True)
    assert kept.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert (kept == kept[:, :1, :1]).all()
    assert kept.mean().item() == pytest.approx(1, abs=0.05)
    assert drop_path(branch, 0.25, training=False) is branch

    # The rate grows from block to block.
    rates = [block.drop_path_rate for block in thin(drop_path=0.11).blocks]
    assert rates == pytest.approx([0.01 * number for number in range(12)])
    assert (thin(drop_path=0.9).train()(torch.randn(4, 3, 64, 64)) - thin()(torch.randn(4, 3, 64, 64))).abs().max() > 0


def test_a_projection_folds_into_the_last_of_its_linear_layers() -> None:
    backbone, folded = thin(), thin(embedding_size=8)
    for _ in range(2):
        backbone(torch.randn(6, 3, 64, 64))
    projection = nn.Linear(16, 8, bias=False)
    images = torch.randn(3, 3, 64, 64)
    expected = ProjectedBackbone(backbone, projection).eval()(images)
    found = fold_projection(backbone, projection.weight.detach(), folded).eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_positions_are_not_decayed_where_norms_and_biases_are_not() -> None:
    backbone = thin(mask_ratio=0.1)
    groups = parameter_groups({"backbone": backbone}, 0.1, decay_norm_and_bias=False)
    undecayed = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    names = {name for name, parameter in backbone.named_parameters() if id(parameter) in undecayed}
    assert {"pos_embed", "mask_token", "norm.weight", "blocks.0.mlp.fc1.bias"} <= names
    assert not any(name.endswith(("qkv.weight", "fc1.weight", "patch_embed.proj.weight")) for name in names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "vit_t", "image_size": 27}, r"at least 32 for vit_t \(its patches have 9 pixels\), not 27"),
        ({"name": "vit_t", "mask_ratio": 1.0}, r"backbone.mask_ratio must be in \[0, 1\), not 1.0"),
        ({"name": "vit_t", "drop_path": -0.1}, r"backbone.drop_path must be in \[0, 1\), not -0.1"),
        ({"name": "iresnet18", "mask_ratio": 0.1}, "mask_ratio = 0.1: iresnet18 has no mask_ratio, so leave it at 0"),
        ({"name": "mobilefacenet", "drop_path": 0.1}, "drop_path = 0.1: mobilefacenet has no drop_path"),
    ],
)
def test_what_does_not_suit_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_backbone(**arguments)
