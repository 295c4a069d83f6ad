"""Calculates memory and hours of the training recipes in `configs/train/`; nothing in the table is measured on a GPU.

hours        images of the run over the median rate in a log that the authors published for the same network and
             batch (arcface_torch's logs; the GPUs are not named in them): no validation, no checkpoints
on one       eight times that for eight GPUs: one GPU exchanges nothing, so this is rather too long
backbone     weights, gradients and what the optimiser keeps, in float32, and a copy of the weights in 16 bits
head         the classes of one process, a chunk of scores, the embeddings of all processes
activations  tensors that autograd keeps for the backward pass, counted on a CPU under bfloat16 for 2 and for 4
             images and continued to the images of a GPU. Kernels' workspaces, the memory of CUDA itself (about half
             a GB) and what the allocator cannot use come on top: plan for a third more

python benchmarks/recipe_costs.py
python benchmarks/recipe_costs.py configs/train/glint360k_iresnet100_cosface.yaml
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch
from head_memory import head_bytes
from measuring import Table, report

from facekd.backbones import count_parameters
from facekd.commands.config_files import parse_config
from facekd.errors import run_verb
from facekd.training.config import TrainConfig
from facekd.training.recognizer import make_backbone

RECIPES = Path(__file__).resolve().parent.parent / "configs" / "train"
# Images a second: the median over the lines of a published log, and its name in the repository of arcface_torch's.
RATES = {
    "ms1mv3_iresnet100_arcface": (3407, "ms1mv3_r100"),
    "ms1mv3_iresnet50_arcface": (5552, "ms1mv3_r50"),
    "ms1mv3_mobilefacenet_0.45g_arcface": (10538, "ms1mv3_mbf"),
    "glint360k_iresnet100_cosface": (3157, "glint360k_cosface_r100_fp16_0.1"),
    "wf42m_iresnet50_cosface": (5971, "webface42m_r50_bs4k_pfc02"),
    "wf42m_iresnet100_cosface": (5452, "webface42m_r100_bs4k_pfc02"),
}
COLUMNS = (
    *("recipe", "GPUs", "images a GPU", "backbone, GB", "head, GB", "activations, GB", "together, GB"),
    *("images/s, published", "hours", "on one GPU"),
)


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs="*", help="default: all of configs/train/")
    parser.add_argument("--json", type=Path, help="file for the table as JSON")
    arguments = parser.parse_args(argv)
    recipes = arguments.recipes or sorted(RECIPES.glob("*.yaml"))
    table = Table("Calculated, not measured:", COLUMNS, [costs(path) for path in recipes])
    report([table], arguments.json)
    return 0


def costs(path: Path) -> list[str]:
    """Returns the row of a recipe; its header names identities, images and GPUs."""
    config = parse_config(TrainConfig, [str(path)], "facekd train", "")
    header = path.read_text(encoding="utf-8")
    classes, num_images = (
        int(number.replace(",", "")) for number in re.findall(r"\(([\d,]+) identities, ([\d,]+) images", header)[0]
    )
    found = re.search(r"# Hardware\s+(\d+) GPUs", header)
    gpus = int(found[1]) if found else 1
    each = config.global_batch_size // gpus

    # Memory.
    torch.manual_seed(0)
    backbone = make_backbone(config, None)
    buffers = 2 if config.optimizer.name == "adamw" else 1
    own = (2 + buffers) * 4 + 2  # bytes of a parameter
    parts = [
        count_parameters(backbone) * own,
        head_bytes(classes, gpus if config.head.sharded else 1, each, config.backbone.embedding_size, buffers),
        activation_bytes(backbone, config.data.image_size, each),
    ]

    # Time.
    rate, _ = RATES.get(path.stem, (None, ""))
    hours = config.epochs * num_images / rate / 3600 if rate and config.epochs else None
    return [
        f"`{path.stem}`",
        str(gpus),
        str(each),
        *(f"{part / 1e9:,.1f}" for part in [*parts, sum(parts)]),
        f"{rate:,}" if rate else "",
        f"{hours:,.1f}" if hours else "",
        f"{hours * gpus:,.0f}" if hours else "",
    ]


def activation_bytes(backbone: torch.nn.Module, image_size: int, images: int) -> float:
    """Returns the bytes that autograd keeps for a pass, by a straight line through two small passes."""
    small, large = (saved_bytes(backbone, image_size, count) for count in (2, 4))
    return small + (large - small) / 2 * (images - 2)


def saved_bytes(backbone: torch.nn.Module, image_size: int, images: int) -> int:
    """Counts the bytes that one pass keeps for the backward pass, each storage once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    backbone.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = backbone(torch.rand(images, 3, image_size, image_size))
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


if __name__ == "__main__":
    sys.exit(run_verb(main))
