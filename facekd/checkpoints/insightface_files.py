"""Reads the files of InsightFace's arcface_torch, and joins the classifier that its processes saved in parts.

Each process of a training writes `checkpoint_gpu_RANK.pt`: the whole backbone, and its own rows of the classifier's
weight. Of C classes over W processes, rank r has C // W + (r < C % W) rows, in the order of the ranks. The files name
neither C nor W.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.checkpoints.contents import FORMAT
from facekd.checkpoints.file_kinds import OLD_TORCH_FILE, ONNX_FILE, TORCH_FILE, describe_file
from facekd.checkpoints.torch_files import read_torch_file
from facekd.errors import FacekdError, ModelError
from facekd.utils.foreign import some_of

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

# Prefixes that wrappers add to every name: distributed training, torch.compile.
PREFIXES = ("module.", "_orig_mod.")
CLASSIFIER = "state_dict_softmax_fc"
NAME_OF_RANK = re.compile(r"checkpoint_gpu_(\d{1,5})\.pt")


@dataclass(frozen=True)
class JoinedClassifier:
    """Holds the classifier of a training, or says why it cannot be put together.

    Attributes:
        weight_CD: (C, D) float32, the class centres; None where they are not all there.
        files: names of the files that it was joined from.
        problem: why it cannot be joined, with the files that are missing; empty if it can.
    """

    weight_CD: torch.Tensor | None = None
    files: list[str] = field(default_factory=list)
    problem: str = ""


def read_insightface_file(path: Path) -> Any:
    """Reads a torch file; only tensors and plain containers are unpickled.

    Raises:
        ModelError: it is not a torch file, holds code, or is a checkpoint of facekd.
    """
    # Only a torch file can be one.
    kind = describe_file(path)
    if kind not in (TORCH_FILE, OLD_TORCH_FILE, ""):
        advice = "; it needs no import: evaluate and cache-teacher take it as it is" if kind == ONNX_FILE else ""
        raise ModelError(
            f"{path}: is {kind}; expected the state dict of an InsightFace backbone (backbone.pth or model.pt){advice}"
        )

    remedy = "give the backbone.pth or model.pt of arcface_torch, and check that its download is complete"
    trusted = "; if you trust it, load it with the code that wrote it and save `model.state_dict()`"
    content = read_torch_file(path, "the state dict of an InsightFace backbone", ModelError, remedy, trusted)
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        raise ModelError(f"{path}: is already a facekd checkpoint; use it as it is")
    return content


def tensors_of(state: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a state dict under their plain names, without the prefixes of wrappers."""
    import torch

    plain = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    while prefix := next((p for p in PREFIXES if plain and all(name.startswith(p) for name in plain)), None):
        plain = {name.removeprefix(prefix): value for name, value in plain.items()}
    return plain


def join_classifier(path: Path, num_classes: int | None = None) -> JoinedClassifier | None:
    """Joins the classifier in a training checkpoint with the parts in the files of the other ranks beside it.

    Args:
        path: a file that arcface_torch wrote. Under any other name than `checkpoint_gpu_RANK.pt` it stands alone.
        num_classes: C, if it is known: then the last ranks are missed, too. Otherwise only gaps are.

    Returns:
        The classifier, or why it cannot be joined; None if the file has none.

    Raises:
        ModelError: the file cannot be read.
    """
    import torch

    # The part in the file itself, and the files of the other ranks.
    content = read_insightface_file(path)
    if not isinstance(content, Mapping) or CLASSIFIER not in content:
        return None
    own = _part_in(content)
    del content  # it is large
    if own is None:
        return JoinedClassifier(problem=f"its {CLASSIFIER} has no weight (C, D) of floating-point numbers")
    match = NAME_OF_RANK.fullmatch(path.name)
    if match is None:
        files = {0: path}
    else:
        named = ((NAME_OF_RANK.fullmatch(file.name), file) for file in path.parent.iterdir())
        files = {int(found[1]): file for found, file in named if found}
    rank = int(match[1]) if match else 0

    # Their parts, which must be of the same step.
    parts = {}
    for number, file in sorted(files.items()):
        try:
            part = own if number == rank else _part_in(read_insightface_file(file))
        except FacekdError:
            return JoinedClassifier(problem=f"{file.name} beside {path.name} cannot be read")
        if part is None or part[1:] != own[1:] or part[0].shape[1] != own[0].shape[1]:
            return JoinedClassifier(problem=f"{file.name} beside {path.name} is of another run or step")
        parts[number] = part[0].float()

    # All must be there, with the rows that their ranks should have.
    rows = {number: len(part) for number, part in parts.items()}
    missing = _missing_ranks(rows, num_classes)
    of_data = "" if num_classes is None else f" for the {num_classes:,} identities of the data"
    if missing is None:
        what = f"its parts have {some_of(rows.values())} rows, not those of the processes of one run{of_data}"
        return JoinedClassifier(problem=what)
    if missing:
        names = some_of([f"checkpoint_gpu_{number}.pt" for number in missing], most=16)
        return JoinedClassifier(problem=f"its parts in {names} are missing beside {path.name}{of_data}")
    weight_CD = torch.cat(list(parts.values()))
    if not bool(torch.isfinite(weight_CD).all()):
        return JoinedClassifier(problem="it holds NaN or infinity, so that training failed")
    return JoinedClassifier(weight_CD, [files[number].name for number in parts])


def _part_in(content: Any) -> tuple[torch.Tensor, Any, Any] | None:
    """Returns a file's rows of the classifier, its epoch and its step; None if it has no classifier."""
    state = content.get(CLASSIFIER) if isinstance(content, Mapping) else None
    weight = tensors_of(state).get("weight") if isinstance(state, Mapping) else None
    if weight is None or weight.ndim != 2 or not weight.numel() or not weight.is_floating_point():
        return None
    epoch, step = (value if type(value) is int else None for value in map(content.get, ("epoch", "global_step")))
    return weight, epoch, step


def _missing_ranks(rows: dict[int, int], num_classes: int | None) -> list[int] | None:
    """Returns the ranks whose rows are missing, from the rows of the others; None if these do not fit together."""
    # Without the number of classes, only gaps between the ranks can be seen.
    sizes = range(max(rows) + 1, max(num_classes or 0, max(rows) + 1) + 1)
    if num_classes is None:
        gaps = sorted(set(range(max(rows))) - rows.keys())
        if gaps:
            return gaps
        num_classes = sum(rows.values())
    for size in sizes:
        share, rest = divmod(num_classes, size)
        if all(count == share + (rank < rest) for rank, count in rows.items()):
            return sorted(set(range(size)) - rows.keys())
    return None
