"""Counts the classes that have images: a label in a file is compared with what is there before it is believed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import FaceDataset
from facekd.errors import DataError
from facekd.utils.processes.children import launcher_number
from facekd.utils.wording import agreeing, counted

# In training a class takes about 6 kB: 512 float32 weights with their gradients and momenta. So many take 0.6 GB, and
# the 93,431 classes of MS1MV3 open with however few of its images.
ALWAYS_ALLOWED_CLASSES = 100_000
# Beyond that, so many for each image is a mistake: subject numbers as labels, or a damaged one. Of WebFace42M, the
# largest public set (2,059,906 classes), one shard in 20,000 still has more images than that asks for.
MAX_CLASSES_PER_IMAGE = 1_000


class ClassCounts(NamedTuple):
    """Holds how many images and classes there are.

    Attributes:
        num_images: number of images with a usable label.
        num_classes: number of classes, above every label.
        num_present: number of classes with at least one image.
        smallest: the smallest label; -1 if there is none.
        largest: the largest label; -1 if there is none.
    """

    num_images: int
    num_classes: int
    num_present: int
    smallest: int
    largest: int

    def __str__(self) -> str:
        labels = "no usable label" if self.largest < 0 else f"labels {self.smallest:,} to {self.largest:,}"
        have = agreeing(self.num_present, "has", "have")
        classes = f"{self.num_present:,} of {counted(self.num_classes, 'class')}"
        return f"{counted(self.num_images, 'image')}, {classes} {have} any, {labels}"

    @property
    def is_absurd(self) -> bool:
        """Whether memory for all classes makes no sense; see the two limits above."""
        return self.num_classes > max(ALWAYS_ALLOWED_CLASSES, MAX_CLASSES_PER_IMAGE * self.num_images)

    def check(self, name: str, remedy: str) -> None:
        """Refuses so many classes that memory for them makes no sense.

        Args:
            name: the data set, for the message.
            remedy: a sentence on what to do.

        Raises:
            DataError: see `is_absurd`.
        """
        if self.is_absurd:
            raise DataError(
                f"{name}: {self}: {counted(self.num_classes, 'class is', 'classes are')} too many for "
                f"{counted(self.num_images, 'image')}, so labels or the number of classes are wrong. {remedy}"
            )


def count_classes(labels: NDArray[np.int64], num_classes: int = 0) -> ClassCounts:
    """Counts the classes that have images; takes memory for the images, not for the classes.

    Args:
        labels: (N,), a negative one is not counted.
        num_classes: C, as a file announces it; the largest label plus one if that is more.
    """
    known = labels if not len(labels) or labels.min() >= 0 else labels[labels >= 0]
    if not len(known):
        return ClassCounts(0, num_classes, 0, -1, -1)
    largest = int(known.max())
    # Counting is faster than sorting, but takes memory for every label up to the largest.
    is_dense = largest <= 4 * len(known)
    num_present = np.count_nonzero(np.bincount(known)) if is_dense else len(np.unique(known))
    return ClassCounts(len(known), max(num_classes, largest + 1), int(num_present), int(known.min()), largest)


def warn_of_one_class(counts: ClassCounts, advice: Callable[[], str]) -> list[str]:
    """Returns a sentence if fewer than two classes have images, with advice on what to do; else an empty list."""
    if counts.num_present >= 2:
        return []
    return [f"all images have label {counts.largest}, and from a single class nothing can be learnt. {advice()}"]


def count_classes_of(dataset: FaceDataset) -> ClassCounts:
    """Counts the classes of a data set."""
    return count_classes(dataset.labels, dataset.num_classes)


def describe_contents(dataset: FaceDataset) -> str:
    """Returns in words how many images a data set has, and of how many classes."""
    return (
        str(count_classes_of(dataset)) if dataset.has_labels else f"{counted(len(dataset), 'image')}, labels not used"
    )


def require_two_classes(dataset: FaceDataset) -> None:
    """Refuses a data set to learn from in which fewer than two classes have images.

    The loss would be 0 from the first step on, which looks like success.

    Raises:
        DataError: all images have one label.
    """
    advice = getattr(dataset, "advice_on_one_class", lambda: "Add images of others")
    for problem in warn_of_one_class(count_classes_of(dataset), advice):
        raise DataError(f"{dataset.name}: {problem}")


def print_summary(dataset: FaceDataset) -> None:
    """Prints what is in a data set, and its warnings; of processes that run together only rank 0 does."""
    if launcher_number("RANK", 0) == 0:
        print_contents(dataset.name, describe_contents(dataset), dataset.warnings)


def print_contents(
    name: str | os.PathLike[str], counts: ClassCounts | str, warnings: Iterable[str], kind: str = ""
) -> None:
    """Prints what labelled images there are, and sentences about what is unusual, to the error stream.

    Args:
        name: the data set, as people know it.
        counts: its classes, or what it holds in words.
        warnings: sentences about what is unusual.
        kind: the format, in words.
    """
    print(f"data: {name}: {f'{kind}: ' if kind else ''}{counts}", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {name}: {warning}", file=sys.stderr)


def has_equal_classes(labels: NDArray[np.int64]) -> bool:
    """Tells whether labels (N,) are those of any set of the size: every class has as many images, in a regular order.

    The order is one class after the other, or one image of each in turn.
    """
    count = int(labels.max(initial=-1)) + 1
    if count < 1 or labels.min() < 0 or len(labels) % count:
        return False
    numbers = np.arange(count)
    each = len(labels) // count
    return np.array_equal(labels, np.repeat(numbers, each)) or np.array_equal(labels, np.tile(numbers, each))
