"""A smaller network is found again in a larger one that computes the same, made of it by repeating channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from facekd.backbones.backbone import Backbone
from facekd.backbones.building import build_backbone
from facekd.backbones.weight_selection import select_weights
from facekd.errors import ModelError

OWN_SIZE = {"resnet8": 64, "resnet20": 64, "resnet8x4": 256, "wrn_16_2": 128, "wrn_40_1": 64, "wrn_40_2": 128}


def build(name: str, width: float = 1.0, image_size: int = 32, embedding_size: int = 16) -> Any:
    size = int(OWN_SIZE[name] * width) if name in OWN_SIZE else embedding_size
    return build_backbone(name, embedding_size=size, image_size=image_size, width=width)


def randomize(network: nn.Module) -> None:
    """Draws every number of a network, its running statistics too, so that no two channels are alike."""
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.3)


def repeated(row: int, count: int, of: int, block: int) -> int:
    """Returns which of `count` channels channel `row` of `of` repeats: blocks of neighbours stand several times."""
    if count % block or of % block:
        block = 1
    return row // block * count // of * block + row % block


def widen(small: Backbone, large: Backbone, block: int) -> None:
    """Writes a function-preserving copy into the wider network: repeated channels, inputs divided by the repeats."""
    wanted, state = small.state_dict(), large.state_dict()
    grouped = {name for name, one in small.named_modules() if isinstance(one, nn.Conv2d) and one.groups > 1}
    for name, value in state.items():
        given = wanted[name]
        if not value.is_floating_point():
            continue
        rows = [repeated(row, len(given), len(value), block) for row in range(len(value))]
        if value.ndim == 1:
            value.copy_(given[rows])
            continue
        places = 4 if name == "fc.weight" else 1  # a map of 2 x 2 is flattened
        channels, own = value.shape[1] // places, given.shape[1] // places
        columns, factor = [*range(channels)], 1.0
        if name.rpartition(".")[0] not in grouped:
            columns, factor = [repeated(channel, own, channels, block) for channel in columns], own / channels
        value.copy_(
            given[rows][:, [channel * places + place for channel in columns for place in range(places)]] * factor
        )


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("mobilefacenet", 1),
        ("mobilefacenet_0.45g", 2),  # groups of two channels in its stem
        pytest.param("mobilefacenet_large", 1, marks=pytest.mark.slow),
        ("iresnet18", 1),
        ("ir_18", 1),
        ("resnet20", 1),
        ("wrn_16_2", 1),
    ],
)
def test_a_network_is_found_in_a_wider_one_that_computes_the_same(name: str, block: int) -> None:
    torch.manual_seed(3)
    small, large = build(name, 0.125).eval(), build(name, 0.25).eval()
    randomize(small)
    widen(small, large, block)
    # The wiring of channels: otherwise the wider one would compute something else.
    images = torch.randn(2, 3, 32, 32)
    expected, computed = small(images), large(images)
    share = computed.shape[1] // expected.shape[1]
    torch.testing.assert_close(computed[:, ::share], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    # What is selected is what was repeated: columns of the wider network have a part of the value.
    found, wanted = select_weights(build(name, 0.125), large), small.state_dict()
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        wider = large.state_dict()[key]
        is_divided = value.ndim > 1 and value.shape[1] < wider.shape[1]
        factor = value.shape[1] / wider.shape[1] if is_divided else 1
        torch.testing.assert_close(value, (wanted[key] * factor).to(value.dtype))
    # The whole of a network is a part of it, too.
    whole = large.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in select_weights(build(name, 0.25), large).items())


@pytest.mark.parametrize(("own", "larger"), [("iresnet18", "iresnet34"), ("resnet8", "resnet20")])
def test_the_first_units_of_each_stage_are_taken(own: str, larger: str) -> None:
    torch.manual_seed(4)
    small, large = build(own, 0.125).eval(), build(larger, 0.125).eval()
    randomize(large)
    names = small.state_dict().keys()
    last_norms = {"iresnet34": "bn3", "resnet20": "bn2"}
    for name, value in large.state_dict().items():
        if name not in names and last_norms[larger] in name.split("."):  # the units that are left out add nothing
            value.fill_(1) if "var" in name else value.zero_()
    found = select_weights(small, large)
    small.load_state_dict(found)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(small(images), large(images), rtol=1e-4, atol=1e-4)


def test_the_paper_s_network_is_a_part_of_the_one_with_a_doubled_trunk() -> None:
    large, small = build("mobilefacenet_0.45g", 0.25), build("mobilefacenet", 0.25)
    found, whole = select_weights(small, large), large.state_dict()
    # A depthwise convolution for each group: its first output, and the weight of its first input.
    name = "layers.1.layers.0.weight"
    assert torch.equal(found[name][:, 0], whole[name][::2, 0])
    assert torch.equal(found["layers.0.layers.0.weight"], whole["layers.0.layers.0.weight"][::2])


def test_widths_that_do_not_divide_take_evenly_spaced_channels() -> None:
    large, small = build("mobilefacenet", 0.625), build("mobilefacenet", 0.375)  # stems of 40 and 24 channels
    name, found = next(iter(select_weights(small, large).items()))  # the first convolution
    expected = large.state_dict()[name]
    chosen = [next(row for row in range(40) if torch.equal(expected[row], one)) for one in found]
    assert chosen == [row * 40 // 24 for row in range(24)]
    assert len(set(chosen)) == 24 and chosen[0] == 0 and chosen[-1] >= 38


@pytest.mark.parametrize(
    ("own", "larger", "message"),
    [
        (
            ("mobilefacenet", 0.25),
            ("mobilefacenet", 0.125),
            "of width 0.25 is no part of .* 0.125, whose .* is smaller",
        ),
        (("iresnet34", 0.125), ("iresnet18", 0.125), "iresnet34 .* no part of iresnet18 .*, which has no layer1.2"),
        (("mobilefacenet", 0.125), ("iresnet18", 0.125), "mobilefacenet is no part of it: weights are selected within"),
        # Shortcuts that only the larger one has: channels would be added that do not belong together.
        (("ir_18", 0.125), ("iresnet18", 0.125), r"whose layer1\.0\.downsample\.0\.weight it lacks"),
        (("wrn_40_1", 1.0), ("wrn_40_2", 1.0), "whose .*shortcut.* it lacks"),
        (("resnet8", 1.0), ("resnet8x4", 1.0), "whose .*downsample.* it lacks"),
        (("mobilefacenet", 0.5), ("mobilefacenet_0.45g", 0.375), "other groups of channels"),
        (("vit_t", 1.0), ("vit_s", 1.0), "vit_t is no part of it"),
    ],
)
def test_networks_that_are_no_part_are_refused(own: tuple, larger: tuple, message: str) -> None:
    sizes = {"image_size": 112, "embedding_size": 16}
    with torch.device("meta"):
        networks = [build(*one, **(sizes if "vit" in one[0] else {})) for one in (own, larger)]
    with pytest.raises(ModelError, match=message):
        select_weights(*networks)


@pytest.mark.parametrize("sizes", [(32, 64), (64, 32)])
@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18", "resnet20"])
def test_another_image_size_is_refused(name: str, sizes: tuple[int, int]) -> None:
    networks = [build(name, width, image_size=size) for width, size in zip((0.125, 0.25), sizes, strict=True)]
    with pytest.raises(ModelError, match=f"they take images of {sizes[0]} and of {sizes[1]} pixels"):
        select_weights(*networks)
