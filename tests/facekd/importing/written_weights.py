"""State dicts of other trainers' networks by names and shapes, and their embeddings, restated naively.

`state_dict_of_*` lists names and shapes the way the classes of arcface_torch and AdaFace produce them;
`embed_by_names_*` computes the embedding from such a dict with functional calls alone. Neither uses facekd's modules.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]

IRESNET_UNITS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}
ADAFACE_UNITS = {
    "ir_18": (2, 2, 2, 2),
    "ir_34": (3, 4, 6, 3),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
}
MBF_LARGE = {"blocks": (8, 12, 4), "scale": 4, "stem_units": 2}


def bn(name: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def state_dict_of_iresnet(units: tuple[int, ...], embedding_size=512, image_size=112, scale=1.0) -> Shapes:
    stages = [int(c * scale) for c in (64, 128, 256, 512)]
    shapes: Shapes = {"conv1.weight": (stages[0], 3, 3, 3)} | bn("bn1", stages[0]) | {"prelu.weight": (stages[0],)}
    inputs = stages[0]
    for stage, (outputs, count) in enumerate(zip(stages, units, strict=True), start=1):
        for unit in range(count):
            at = f"layer{stage}.{unit}"
            shapes |= bn(f"{at}.bn1", inputs) | {f"{at}.conv1.weight": (outputs, inputs, 3, 3)}
            shapes |= bn(f"{at}.bn2", outputs) | {f"{at}.prelu.weight": (outputs,)}
            shapes |= {f"{at}.conv2.weight": (outputs, outputs, 3, 3)} | bn(f"{at}.bn3", outputs)
            if unit == 0:
                shapes |= {f"{at}.downsample.0.weight": (outputs, inputs, 1, 1)} | bn(f"{at}.downsample.1", outputs)
            inputs = outputs
    shapes |= bn("bn2", inputs)
    shapes |= {"fc.weight": (embedding_size, inputs * (image_size // 16) ** 2), "fc.bias": (embedding_size,)}
    return shapes | bn("features", embedding_size)


def block(name: str, outputs: int, inputs_per_group: int, kernel: int, prelu: bool) -> Shapes:
    shapes: Shapes = {f"{name}.layers.0.weight": (outputs, inputs_per_group, kernel, kernel)}
    shapes |= bn(f"{name}.layers.1", outputs)
    return shapes | ({f"{name}.layers.2.weight": (outputs,)} if prelu else {})


def unit(name: str, inputs: int, outputs: int, inner: int) -> Shapes:
    shapes = block(f"{name}.layers.0", inner, inputs, 1, True) | block(f"{name}.layers.1", inner, 1, 3, True)
    return shapes | block(f"{name}.layers.2", outputs, inner, 1, False)


def state_dict_of_mbf(embedding_size=512, image_size=112, blocks=(4, 6, 2), scale=2, stem_units=0) -> Shapes:
    narrow, wide = 64 * scale, 128 * scale
    shapes = block("layers.0", narrow, 3, 3, True)
    shapes |= {} if stem_units else block("layers.1", narrow, narrow // 64, 3, True)
    for i in range(stem_units):
        shapes |= unit(f"layers.1.layers.{i}", narrow, narrow, 128)
    shapes |= unit("layers.2", narrow, narrow, 128)
    for i in range(blocks[0]):
        shapes |= unit(f"layers.3.layers.{i}", narrow, narrow, 128)
    shapes |= unit("layers.4", narrow, wide, 256)
    for i in range(blocks[1]):
        shapes |= unit(f"layers.5.layers.{i}", wide, wide, 256)
    shapes |= unit("layers.6", wide, wide, 512)
    for i in range(blocks[2]):
        shapes |= unit(f"layers.7.layers.{i}", wide, wide, 256)
    shapes |= block("conv_sep", 512, wide, 1, True)
    shapes |= block("features.layers.0", 512, 1, image_size // 16, False)
    return shapes | {"features.layers.2.weight": (embedding_size, 512)} | bn("features.layers.3", embedding_size)


def state_dict_of_adaface(units: tuple[int, ...], embedding_size=512, image_size=112, scale=1.0) -> Shapes:
    """`Backbone` of AdaFace's net.py, which CVLface has as well."""
    stages = [int(c * scale) for c in (64, 128, 256, 512)]
    shapes: Shapes = {"input_layer.0.weight": (stages[0], 3, 3, 3)} | bn("input_layer.1", stages[0])
    shapes |= {"input_layer.2.weight": (stages[0],)} | bn("output_layer.0", stages[-1])
    shapes |= {"output_layer.3.weight": (embedding_size, stages[-1] * (image_size // 16) ** 2)}
    shapes |= {"output_layer.3.bias": (embedding_size,)}
    shapes |= {f"output_layer.4.{part}": (embedding_size,) for part in ("running_mean", "running_var")}
    shapes |= {"output_layer.4.num_batches_tracked": ()}
    inputs, number = stages[0], 0
    for outputs, count in zip(stages, units, strict=True):
        for _ in range(count):
            at = f"body.{number}"
            if inputs != outputs:
                shapes |= {f"{at}.shortcut_layer.0.weight": (outputs, inputs, 1, 1)}
                shapes |= bn(f"{at}.shortcut_layer.1", outputs)
            shapes |= bn(f"{at}.res_layer.0", inputs) | {f"{at}.res_layer.1.weight": (outputs, inputs, 3, 3)}
            shapes |= bn(f"{at}.res_layer.2", outputs) | {f"{at}.res_layer.3.weight": (outputs,)}
            shapes |= {f"{at}.res_layer.4.weight": (outputs, outputs, 3, 3)} | bn(f"{at}.res_layer.5", outputs)
            inputs, number = outputs, number + 1
    return shapes


def state_dict_of_vit(channels=256, blocks=12, embedding_size=512, patches=144, patch=9) -> Shapes:
    shapes: Shapes = {"mask_token": (1, 1, channels), "pos_embed": (1, patches, channels)}
    shapes |= linear("patch_embed.proj", channels, 3, patch, patch)
    for at in (f"blocks.{number}" for number in range(blocks)):
        for norm in (f"{at}.norm1", f"{at}.norm2"):
            shapes |= {f"{norm}.weight": (channels,), f"{norm}.bias": (channels,)}
        shapes |= {f"{at}.attn.qkv.weight": (3 * channels, channels)} | linear(f"{at}.attn.proj", channels, channels)
        shapes |= linear(f"{at}.mlp.fc1", 4 * channels, channels) | linear(f"{at}.mlp.fc2", channels, 4 * channels)
    shapes |= {"norm.weight": (channels,), "norm.bias": (channels,)}
    shapes |= {"feature.0.weight": (channels, channels * patches)} | bn("feature.1", channels)
    return shapes | {"feature.2.weight": (embedding_size, channels)} | bn("feature.3", embedding_size)


def linear(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def fill(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Values of the size that trained weights have, so that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000)
        elif len(shape) > 1:
            state[name] = noise * (2 / noise[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            state[name] = 1 + noise.square()
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * noise
        elif f"{name.removesuffix('weight')}running_var" in shapes:
            state[name] = 1 + 0.1 * noise  # a normalisation's gain
        else:
            state[name] = 0.25 + 0.1 * noise  # a PReLU's slopes
    return state


def normalise(state, name: str, x: torch.Tensor) -> torch.Tensor:
    parts = (state.get(f"{name}.{part}") for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def embed_by_names_iresnet(state, units, images: torch.Tensor) -> torch.Tensor:
    x = F.prelu(normalise(state, "bn1", F.conv2d(images, state["conv1.weight"], padding=1)), state["prelu.weight"])
    for stage, count in enumerate(units, start=1):
        for index in range(count):
            at, stride = f"layer{stage}.{index}", 2 if index == 0 else 1
            y = F.conv2d(normalise(state, f"{at}.bn1", x), state[f"{at}.conv1.weight"], padding=1)
            y = F.prelu(normalise(state, f"{at}.bn2", y), state[f"{at}.prelu.weight"])
            y = normalise(state, f"{at}.bn3", F.conv2d(y, state[f"{at}.conv2.weight"], stride=stride, padding=1))
            if index == 0:
                x = F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=2)
                x = normalise(state, f"{at}.downsample.1", x)
            x = x + y
    x = normalise(state, "bn2", x).flatten(1)
    return normalise(state, "features", F.linear(x, state["fc.weight"], state["fc.bias"]))


def embed_by_names_mbf(state, images: torch.Tensor) -> torch.Tensor:
    def conv_block(name, x, stride=1, groups=1, padding=0):
        x = F.conv2d(x, state[f"{name}.layers.0.weight"], stride=stride, padding=padding, groups=groups)
        x = normalise(state, f"{name}.layers.1", x)
        slopes = state.get(f"{name}.layers.2.weight")
        return x if slopes is None else F.prelu(x, slopes)

    def inverted(name, x, stride):
        y = conv_block(f"{name}.layers.0", x)
        y = conv_block(f"{name}.layers.1", y, stride=stride, groups=y.shape[1], padding=1)
        return conv_block(f"{name}.layers.2", y)

    x = conv_block("layers.0", images, stride=2, padding=1)
    if "layers.1.layers.0.weight" in state:
        x = conv_block("layers.1", x, groups=64, padding=1)
    for strided, stack in ((None, 1), (2, 3), (4, 5), (6, 7)):
        x = x if strided is None else inverted(f"layers.{strided}", x, 2)
        for index in range(sum(f"layers.{stack}.layers.{i}.layers.0.layers.0.weight" in state for i in range(99))):
            x = x + inverted(f"layers.{stack}.layers.{index}", x, 1)
    x = conv_block("conv_sep", x)
    x = conv_block("features.layers.0", x, groups=512).flatten(1)
    return normalise(state, "features.layers.3", F.linear(x, state["features.layers.2.weight"]))


def embed_by_names_adaface(state, units, images: torch.Tensor) -> torch.Tensor:
    x = F.conv2d(images, state["input_layer.0.weight"], padding=1)
    x, number = F.prelu(normalise(state, "input_layer.1", x), state["input_layer.2.weight"]), 0
    for count in units:
        for index in range(count):
            at, stride = f"body.{number}", 2 if index == 0 else 1
            y = F.conv2d(normalise(state, f"{at}.res_layer.0", x), state[f"{at}.res_layer.1.weight"], padding=1)
            y = F.prelu(normalise(state, f"{at}.res_layer.2", y), state[f"{at}.res_layer.3.weight"])
            y = F.conv2d(y, state[f"{at}.res_layer.4.weight"], stride=stride, padding=1)
            if f"{at}.shortcut_layer.0.weight" in state:
                x = F.conv2d(x, state[f"{at}.shortcut_layer.0.weight"], stride=stride)
                x = normalise(state, f"{at}.shortcut_layer.1", x)
            x, number = x[:, :, :: x.shape[2] // y.shape[2], :: x.shape[3] // y.shape[3]], number + 1
            x = x + normalise(state, f"{at}.res_layer.5", y)
    x = normalise(state, "output_layer.0", x).flatten(1)
    x = F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"])
    return normalise(state, "output_layer.4", x)


def save(path: Path, content) -> Path:
    torch.save(content, path)
    return path


def small_iresnet(**sizes) -> dict[str, torch.Tensor]:
    """An r18 that takes little time: an eighth of the channels, 32 pixels."""
    return fill(
        state_dict_of_iresnet(
            IRESNET_UNITS["iresnet18"], **({"embedding_size": 16, "image_size": 32, "scale": 0.125} | sizes)
        )
    )


def small_adaface(**sizes) -> dict[str, torch.Tensor]:
    """An ir_18 that takes little time: an eighth of the channels, 32 pixels."""
    shapes = {"embedding_size": 16, "image_size": 32, "scale": 0.125} | sizes
    return fill(state_dict_of_adaface(ADAFACE_UNITS["ir_18"], **shapes))
