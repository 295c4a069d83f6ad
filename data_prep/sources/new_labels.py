"""Gives the images of several sources new labels: one source after the other, or together, with or without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.sources.image_sources import ImageSource
from facekd.data.datasets.class_counts import count_classes


@dataclass(frozen=True)
class NewLabels:
    """Holds the new labels of the images of all sources.

    Attributes:
        labels: int64 (N,), in the order of the sources; -1 for an image without a usable label.
        num_classes: number of classes in all.
        first: the new label of each source's first class.
        old: for each source, the old label of each new one, from `first` on; None if the numbers were kept.
    """

    labels: np.ndarray
    num_classes: int
    first: list[int]
    old: list[np.ndarray] | None

    def described(self) -> list[dict[str, Any]]:
        """Returns what a report says of the labels of each source."""
        old = [{}] * len(self.first) if self.old is None else [{"old_label_of": known.tolist()} for known in self.old]
        return [{"first_label": first, **more} for first, more in zip(self.first, old, strict=True)]


def combine_labels(sources: Sequence[ImageSource], same_labels: bool, renumber: bool) -> NewLabels:
    """Combines the labels of several sources.

    Args:
        sources: the sources, at least one.
        same_labels: whether a label is one person in all sources; else the labels of each source follow those of the
            one before.
        renumber: whether to make the labels consecutive, in their order.
    """
    parts = [source.labels for source in sources]
    sizes = [count_classes(source.labels, source.num_classes).num_classes for source in sources]
    # An image without a label keeps -1: reading it is refused, or skipped.
    old = None
    if renumber:
        old = [np.unique(part[part >= 0]) for part in parts]
        if same_labels:
            old = [np.unique(np.concatenate(old))] * len(parts)
        parts = [np.where(part >= 0, np.searchsorted(known, part), -1) for part, known in zip(parts, old, strict=True)]
        sizes = [len(known) for known in old]
    if same_labels:
        return NewLabels(np.concatenate(parts), max(sizes), [0] * len(parts), old)
    first = [sum(sizes[:number]) for number in range(len(sizes))]
    shifted = [np.where(part >= 0, part + start, -1) for part, start in zip(parts, first, strict=True)]
    return NewLabels(np.concatenate(shifted), sum(sizes), first, old)
