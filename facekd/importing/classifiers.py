"""Joins the classifier of a training from the parts that its processes saved, or takes that of AdaFace's trainer.

Each process of arcface_torch has its own rows of the classifier's weight: of C classes over W processes, rank r has
C // W + (r < C % W), in the order of the ranks. The files name neither C nor W. Over the years they were

    checkpoint_gpu_RANK.pt        since 2022, within a training checkpoint that has the backbone, too
    softmax_fc_gpu_RANK.pt        in 2022, beside model.pt
    rank_RANK_softmax_weight.pt   in 2021, beside backbone.pth
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from facekd.errors import FacekdError
from facekd.importing.weight_files import HEAD_PREFIX, read_file, tensors_of
from facekd.utils.foreign import some_of
from facekd.utils.wording import counted

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

NAMES = ("checkpoint_gpu_{}.pt", "softmax_fc_gpu_{}.pt", "rank_{}_softmax_weight.pt")
CLASSIFIER = "state_dict_softmax_fc"
WEIGHTS = ("weight", "weight_activated")  # the second where no classes were sampled, in one version of 2022
ADAFACE_WEIGHT = f"{HEAD_PREFIX}kernel"  # (D, C)
ADAFACE_STATISTICS = {"norm_mean": f"{HEAD_PREFIX}batch_mean", "norm_std": f"{HEAD_PREFIX}batch_std"}


@dataclass(frozen=True)
class JoinedClassifier:
    """Holds the classifier of a training, or says why it cannot be put together.

    Attributes:
        weight_CD: (C, D) float32, the class centres; None where they are not all there.
        files: names of the files that it was joined from.
        problem: why it cannot be joined, with the files that are missing; empty if it can.
        statistics: AdaFace's running mean and deviation of norms, as facekd names them.
    """

    weight_CD: torch.Tensor | None = None
    files: list[str] = field(default_factory=list)
    problem: str = ""
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """Holds a file's rows of the classifier, and its epoch and step where it says them."""

    weight: torch.Tensor
    epoch: int | None = None
    step: int | None = None
    statistics: dict[str, torch.Tensor] = field(default_factory=dict)


def is_classifier_file(path: Path) -> bool:
    """Tells by its name whether a file holds a part of a classifier and no backbone."""
    return any(_pattern_of(pattern).fullmatch(path.name) for pattern in NAMES[1:])


def classifier_files_beside(path: Path) -> list[str]:
    """Lists the files beside a backbone that hold parts of a classifier, in the order of the ranks."""
    return [file.name for pattern in NAMES for file in _files_of_ranks(path.parent, pattern).values()]


def join_classifier(path: Path, num_classes: int | None = None, must_have: bool = False) -> JoinedClassifier | None:
    """Joins the classifier in a file with the parts in the files of the other ranks beside it.

    Args:
        path: a file that a trainer wrote. Under any other name than those of `NAMES` it stands alone.
        num_classes: C, if it is known: then the last ranks are missed, too. Otherwise only gaps are.
        must_have: whether `path` was named as a file of the classifier: one without is then a problem.

    Returns:
        The classifier, or why it cannot be joined; None if the file is none of a classifier.

    Raises:
        ModelError: the file cannot be read.
    """
    # The part in the file itself, and the files of the other ranks.
    content = read_file(path)
    if not must_have and not _has_classifier(content):
        return None
    own = _part_in(content)
    del content  # it is large
    if own is None:
        return JoinedClassifier(problem=f"{path.name} has no weight (C, D) of a classifier, of floating-point numbers")
    rank, files = 0, {0: path}
    for pattern in NAMES:
        if match := _pattern_of(pattern).fullmatch(path.name):
            rank, files = int(match[1]), _files_of_ranks(path.parent, pattern)
            break

    # Their parts, which must be of the same step.
    parts: dict[int, _Part] = {}
    for number, file in files.items():
        try:
            part = own if number == rank else _part_in(read_file(file))
        except FacekdError:
            return JoinedClassifier(problem=f"{file.name} beside {path.name} cannot be read")
        if part is None or (part.epoch, part.step, part.weight.shape[1]) != (own.epoch, own.step, own.weight.shape[1]):
            return JoinedClassifier(problem=f"{file.name} beside {path.name} is of another run or step")
        parts[number] = part
    return _joined(path, files, parts, num_classes)


def _joined(path: Path, files: dict[int, Path], parts: dict[int, _Part], num_classes: int | None) -> JoinedClassifier:
    """Puts the parts together, if all are there with the rows that their ranks should have."""
    import torch

    # Which ranks are missing.
    rows = {number: len(part.weight) for number, part in parts.items()}
    missing = _missing_ranks(rows, num_classes)
    of_data = "" if num_classes is None else f" for the {counted(num_classes, 'identity')} of the data"
    if missing is None:
        what = f"its parts have {some_of(rows.values())} rows, not those of the processes of one run{of_data}"
        return JoinedClassifier(problem=what)
    if missing:
        pattern = next(pattern for pattern in NAMES if _pattern_of(pattern).fullmatch(path.name))
        names = some_of([pattern.format(number) for number in missing], most=16)
        return JoinedClassifier(problem=f"its parts in {names} are missing beside {path.name}{of_data}")

    # The rows in the order of the ranks.
    weight_CD = torch.cat([part.weight.float() for part in parts.values()])
    statistics = parts[min(parts)].statistics
    if not all(bool(torch.isfinite(value).all()) for value in (weight_CD, *statistics.values())):
        return JoinedClassifier(problem="it holds NaN or infinity, so that training failed")
    return JoinedClassifier(weight_CD, [files[number].name for number in parts], statistics=statistics)


def _pattern_of(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{\}", r"(\d{1,5})"))


def _files_of_ranks(folder: Path, name: str) -> dict[int, Path]:
    """Lists the files of a folder that have this name, by the rank in it, from 0 on."""
    matches = ((_pattern_of(name).fullmatch(file.name), file) for file in folder.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in matches if match))


def _has_classifier(content: Any) -> bool:
    """Tells whether a file of a backbone has a classifier beside it."""
    if not isinstance(content, Mapping):
        return False
    state = content.get("state_dict")
    return CLASSIFIER in content or (isinstance(state, Mapping) and ADAFACE_WEIGHT in state)


def _part_in(content: Any) -> _Part | None:
    """Returns what a file has of a classifier; None if that is no weight (C, D)."""
    import torch

    # AdaFace's trainer has one classifier, with a column for each class.
    found: Mapping[Any, Any] = content if isinstance(content, Mapping) else {"weight": content}
    state = found.get("state_dict")
    if isinstance(state, Mapping) and ADAFACE_WEIGHT in state:
        kernel = state[ADAFACE_WEIGHT]
        statistics = {
            own: value.float().reshape(())
            for own, name in ADAFACE_STATISTICS.items()
            if isinstance(value := state.get(name), torch.Tensor) and value.numel() == 1 and value.is_floating_point()
        }
        return _Part(kernel.T, statistics=statistics) if _is_weight(kernel) else None

    # Those of arcface_torch are state dicts, within a checkpoint or bare; the oldest are the weight alone.
    state = found.get(CLASSIFIER, found)
    tensors = tensors_of(state) if isinstance(state, Mapping) else {}
    weight = next((tensors[name] for name in WEIGHTS if name in tensors), None)
    if not _is_weight(weight):
        return None
    epoch, step = (value if type(value) is int else None for value in map(found.get, ("epoch", "global_step")))
    return _Part(weight, epoch, step)


def _is_weight(value: Any) -> TypeGuard[torch.Tensor]:
    import torch

    return isinstance(value, torch.Tensor) and value.ndim == 2 and value.numel() > 0 and value.is_floating_point()


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
