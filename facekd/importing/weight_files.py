"""Reads the files that other trainers keep weights in: state dicts, bare or within a training checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.checkpoints.contents import FORMAT
from facekd.checkpoints.file_kinds import OLD_TORCH_FILE, ONNX_FILE, SAFETENSORS, TORCH_FILE, describe_file
from facekd.checkpoints.torch_files import read_torch_file
from facekd.errors import ModelError
from facekd.utils.foreign import reading, shown, some_of

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

# Keys under which trainers store the backbone in a larger file; "state_dict_backbone" is arcface_torch's.
WRAPPERS = ("state_dict_backbone", "state_dict", "backbone", "model")
# Prefixes that wrappers add to every name: distributed training, torch.compile, AdaFace's trainer, CVLface.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
MOST_PREFIXES = 16  # taken off; a name of a million takes the square of that
HEAD_PREFIX = "head."  # of the classifier beside the backbone, in AdaFace's checkpoints
FORMS = "the state dict of a face network (such as backbone.pth, model.pt, a .ckpt of AdaFace or a .safetensors file)"


@dataclass(frozen=True)
class WeightFile:
    """Holds the tensors of a backbone, and what else its file has.

    Attributes:
        state: the tensors by their plain names.
        others: names of the entries beside them, such as those of the optimiser and of a classifier.
        prefixes: what stood before all names.
    """

    state: dict[str, torch.Tensor]
    others: list[str]
    prefixes: tuple[str, ...]

    @property
    def is_of_cvlface(self) -> bool:
        """Tells whether CVLface wrote it, by its names."""
        return "net." in self.prefixes


def read_file(path: Path) -> Any:
    """Reads a torch file, from which only tensors and plain containers are unpickled, or a safetensors file.

    Raises:
        ModelError: it is neither, holds code, or is a checkpoint of facekd.
    """
    # Only these kinds can be one.
    kind = describe_file(path)
    if kind not in (TORCH_FILE, OLD_TORCH_FILE, SAFETENSORS, ""):
        advice = "; it needs no import: evaluate and cache-teacher take it as it is" if kind == ONNX_FILE else ""
        raise ModelError(f"{path}: is {kind}; expected {FORMS}{advice}")
    remedy = "give the file that the trainer wrote, and check that its download is complete"
    if kind == SAFETENSORS:
        with reading(path, "a safetensors file", ModelError, remedy):
            from safetensors.torch import load_file

            return load_file(path)

    trusted = (
        "; if you trust it, load it with the code that wrote it and save the tensors alone: "
        'torch.save(torch.load(FILE, weights_only=False)["state_dict"], "weights.pth"), or model.state_dict()'
    )
    content = read_torch_file(path, "the state dict of a face network", ModelError, remedy, trusted)
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        raise ModelError(f"{path}: is already a facekd checkpoint; use it as it is")
    return content


def read_weights(path: Path) -> WeightFile:
    """Reads the named tensors of a backbone from a bare state dict or a training checkpoint, wrapped or not.

    Raises:
        ModelError: the file cannot be read (see `read_file`), or has no state dict.
    """
    # A training checkpoint keeps the backbone under one of a few names.
    content = read_file(path)
    others: list[str] = []
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            others = [shown(name) for name in content if name != key]
            content = content[key]
            break
    named = _named_tensors(content) if isinstance(content, Mapping) else {}
    if not named:
        found = f"keys {some_of(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelError(
            f"{path}: expected a state dict (names to tensors), bare or under one of {', '.join(WRAPPERS)}, "
            f"found {found}"
        )

    # A classifier may stand beside the backbone, and wrappers add prefixes to its tensors.
    backbone = {name: value for name, value in named.items() if name.startswith("model.")}
    if backbone and all(name in backbone or name.startswith(HEAD_PREFIX) for name in named):
        others += [shown(name) for name in named if name not in backbone]
        named = backbone
    return WeightFile(*_without_prefixes(named, others))


def tensors_of(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a state dict under their plain names, without the prefixes of wrappers."""
    return _without_prefixes(_named_tensors(state), [])[0]


def _named_tensors(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    import torch

    return {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _without_prefixes(
    named: dict[str, torch.Tensor], others: list[str]
) -> tuple[dict[str, torch.Tensor], list[str], tuple[str, ...]]:
    prefixes: list[str] = []
    while len(prefixes) < MOST_PREFIXES and (
        prefix := next((p for p in PREFIXES if named and all(name.startswith(p) for name in named)), None)
    ):
        named = {name.removeprefix(prefix): value for name, value in named.items()}
        prefixes.append(prefix)
    return named, others, tuple(prefixes)
