"""Finds by a short trial how many images to give a model at once, and how many threads it should have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from facekd.embedder.interface import Embedder
from facekd.errors import ModelError, is_gpu_memory_full

CPU_BATCHES, GPU_BATCHES = (1, 8, 32), (16, 64, 256)
TRIAL_SECONDS = 1.0
IMAGES_FIRST = 4  # enough to see whether images of a batch disturb each other
CLEARLY_FASTER = 1.03  # how much faster a larger batch must be to be worth its memory and delay


@dataclass(frozen=True)
class Speed:
    """Holds what a trial has measured.

    Attributes:
        batch_size: images per call of the model.
        threads: threads of the model; None for its default.
        images_per_second: in a loop over one batch, images already decoded.
    """

    batch_size: int
    threads: int | None
    images_per_second: float


def find_fastest(
    open_with: Callable[[int | None], Embedder],
    thread_counts: Sequence[int | None] = (None,),
    device: str = "cpu",
    seconds: float = TRIAL_SECONDS,
) -> tuple[Embedder, Speed]:
    """Opens a model with the number of threads, and gives it the batch size, that embed the fastest.

    Args:
        open_with: opens the model with a number of threads; None means its default.
        thread_counts: those to try.
        device: where it runs.
        seconds: time for all measurements, beyond a call of each kind.

    Returns:
        The model, and what was measured with these.

    Raises:
        ModelError: it cannot be opened or fails.
    """
    found: list[tuple[Any, Speed]] = []
    for threads in thread_counts:
        embedder: Any = open_with(threads)
        is_fixed = getattr(embedder, "has_fixed_batch", False)
        batches = (embedder.batch_size,) if is_fixed else CPU_BATCHES if device == "cpu" else GPU_BATCHES
        found += [(embedder, Speed(*one)) for one in _measure(embedder, batches, threads, seconds / len(thread_counts))]
    best = found[0]
    for candidate in found[1:]:
        if candidate[1].images_per_second > CLEARLY_FASTER * best[1].images_per_second:
            best = candidate
    embedder, speed = best
    embedder.batch_size = speed.batch_size
    return embedder, speed


def _measure(
    embedder: Any, batches: tuple[int, ...], threads: int | None, seconds: float
) -> list[tuple[int, int | None, float]]:
    """Returns (batch size, threads, images a second) for each size that the time allows, the smallest first."""
    # The first call is slow, and checks that the images of a batch do not disturb each other.
    size = embedder.preprocessing.image_size
    embedder.batch_size = batches[-1]
    images = np.random.default_rng(0).integers(0, 256, (_at_once(embedder), size, size, 3), np.uint8)
    try:
        embedder.embed(images[:IMAGES_FIRST])
    except ModelError:  # the graph holds a batch of 1 inside, or mixes images; or else this fails as well
        if len(batches) == 1:
            raise
        embedder.batch_size, batches = 1, (1,)
        embedder.embed(images[:1])

    # The shortest call of each size: other programs only lengthen one.
    if hasattr(embedder, "expect_many"):
        embedder.expect_many()
    calls = _at_once(embedder) // embedder.batch_size
    measured, each = list[tuple[int, int | None, float]](), 0.0
    for batch_size in batches:
        if measured and each * batch_size * calls > seconds:  # so slow a model gains nothing by larger batches
            break
        embedder.batch_size = batch_size
        count = _at_once(embedder)
        end, times = time.perf_counter() + seconds / len(batches), list[float]()
        try:
            while not times or time.perf_counter() < end:
                start = time.perf_counter()
                embedder.embed(images[:count])
                times.append(time.perf_counter() - start)
        except (ModelError, RuntimeError) as error:
            if measured and (isinstance(error, ModelError) or is_gpu_memory_full(error)):
                break  # what fits is found
            raise
        each = min(times) / count
        measured.append((batch_size, threads, 1 / each))
    return measured


def _at_once(embedder: Any) -> int:
    """Returns how many images the model should be given, which may be several calls that run side by side."""
    return getattr(embedder, "images_at_once", embedder.batch_size)
