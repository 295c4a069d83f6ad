"""A smaller network's weights are found again in a larger one that was made from it, channel by channel."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.backbones.weight_selection import select_weights
from facekd.errors import ModelError

OWN_SIZE = {"resnet20": 64, "wrn_16_2": 128}


def build(name: str, width: float = 1.0, image_size: int = 32, embedding_size: int = 16) -> Any:
    size = int(OWN_SIZE[name] * width) if name in OWN_SIZE else embedding_size
    return build_backbone(name, embedding_size=size, image_size=image_size, width=width)


def repeat_channels(small: torch.Tensor, shape: torch.Size, places: int = 1) -> torch.Tensor:
    """Naively: every output and input channel stands twice, one after the other, unless the shape has it once."""
    large = torch.full(shape, torch.nan)
    for row in range(shape[0]):
        if len(shape) == 1:
            large[row] = small[row * len(small) // shape[0]]
            continue
        from_row = row * small.shape[0] // shape[0]
        for column in range(shape[1]):
            channel, place = divmod(column, places)
            from_channel = channel * (small.shape[1] // places) // (shape[1] // places)
            large[row, column] = small[from_row, from_channel * places + place]
    return large


@pytest.mark.parametrize("name", ["mobilefacenet", "mobilefacenet_large", "iresnet18", "ir_18", "resnet20", "wrn_16_2"])
def test_a_network_made_of_repeated_channels_gives_back_the_one_it_was_made_of(name: str) -> None:
    torch.manual_seed(3)
    small, large = build(name, 0.125), build(name, 0.25)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter)
    wanted = small.state_dict()
    state = large.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            places = 4 if key == "fc.weight" else 1  # a map of 2 x 2 is flattened
            state[key] = repeat_channels(wanted[key], value.shape, places)
    large.load_state_dict(state)
    found = select_weights(build(name, 0.125), large)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    # The whole of a network is a part of it, too.
    assert all(torch.equal(value, state[key]) for key, value in select_weights(build(name, 0.25), large).items())


def test_the_first_units_of_each_stage_are_taken() -> None:
    large, small = build("iresnet34", 0.125), build("iresnet18", 0.125)
    found, expected = select_weights(small, large), large.state_dict()
    assert found.keys() == small.state_dict().keys() and "layer3.1.conv1.weight" in found
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


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
        (("iresnet18", 0.125), ("ir_18", 0.25), "which has no"),
        (("vit_t", 1.0), ("vit_s", 1.0), "vit_t is no part of it"),
    ],
)
def test_networks_that_are_no_part_are_refused(own: tuple, larger: tuple, message: str) -> None:
    sizes = {"image_size": 112, "embedding_size": 16}
    with torch.device("meta"):
        networks = [build(*one, **(sizes if "vit" in one[0] else {})) for one in (own, larger)]
    with pytest.raises(ModelError, match=message):
        select_weights(*networks)


@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet18"])
def test_another_image_size_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="images of another size need another shape"):
        select_weights(build(name, 0.125), build(name, 0.25, image_size=64))
