"""Measures how many images a second checkpoints embed in torch on a CPU, by how the network is written.

The modules as they are take turns with the same network in other forms: PReLU as s x + (1 - s) relu(x), weights in
channels_last, batch normalisations folded as `open_embedder` does. All run through `TorchEmbedder`, preprocessing
included, with random weights; speed is by the processor's time.

    python benchmarks/torch_forms.py                                        # MobileFaceNet and IR-ResNet-18
    python benchmarks/torch_forms.py --backbones mobilefacenet --batches 16 --turns 3
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import Table, ratios, report, spread, take_turns, timed
from torch import nn

from facekd.backbones.building import build_backbone
from facekd.embedder import Preprocessing, TorchEmbedder
from facekd.embedder.checks import largest_error
from facekd.errors import run_verb
from facekd.utils.wording import counted


class SplitPReLU(nn.Module):
    """Computes PReLU as s x + (1 - s) relu(x), of inputs (B, C, H, W)."""

    def __init__(self, slope_C: torch.Tensor) -> None:
        super().__init__()
        self.slope = nn.Buffer(slope_C.detach().view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).mul_(1 - self.slope).addcmul_(x, self.slope)


def split_prelu(module: nn.Module) -> nn.Module:
    """Replaces each PReLU in a module, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.PReLU):
            setattr(module, name, SplitPReLU(child.weight))
        else:
            split_prelu(child)
    return module


def make_forms(name: str, batch: int) -> dict[str, TorchEmbedder]:
    """Returns the same network in each form, with slopes and statistics as training leaves them: all different."""
    torch.manual_seed(0)
    plain = build_backbone(name, embedding_size=512, image_size=112).eval()
    for module in plain.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0, 0.5)
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    embedder = partial(TorchEmbedder, preprocessing=Preprocessing(), batch_size=batch)
    return {
        "as it is": embedder(plain),
        "PReLU split": embedder(split_prelu(copy.deepcopy(plain))),
        "weights channels_last": embedder(copy.deepcopy(plain).to(memory_format=torch.channels_last)),  # type: ignore[call-overload]
        "folded": embedder(plain, frozen=True),
    }


def speed(embedder: TorchEmbedder, images: np.ndarray, seconds: float) -> float:
    """Embeds images for some time and returns images per processor second."""
    calls = max(1, round(seconds / timed(lambda: embedder.embed(images))[1]))
    used = timed(lambda: [embedder.embed(images) for _ in range(calls)])[1]
    return calls * len(images) / used


def main() -> int:
    """Measures every backbone and batch, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=["mobilefacenet", "iresnet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement (default: 1)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, figures, head = [], {}, []
    for name in arguments.backbones:
        for batch in arguments.batches:
            images = np.random.default_rng(0).integers(0, 256, (batch, 112, 112, 3), dtype=np.uint8)
            forms = make_forms(name, batch)
            expected = forms["as it is"].embed(images)
            error = max(largest_error(form.embed(images), expected) for form in forms.values())
            sides: dict[str, Callable[[], float]] = {
                form: partial(speed, embedder, images, arguments.seconds) for form, embedder in forms.items()
            }
            found = take_turns(sides, arguments.turns)
            first, *others = forms
            gains = [spread(ratios(found[form], found[first])) for form in others]
            rows.append([name, str(batch), spread(found[first], 1), *gains, f"{error:.0e}"])
            figures[f"{name}, batch {batch}"] = found
            head = ["backbone", "batch", f"images/s {first}", *others, "largest error"]
    title = (
        "Images a processor second, and speed over it, 1 thread, median (lowest to highest) of "
        f"{counted(arguments.turns, 'turn')}"
    )
    report([Table(title, head, rows)], arguments.json, speeds=figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
