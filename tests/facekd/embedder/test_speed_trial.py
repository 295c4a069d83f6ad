"""The fastest batch size and number of threads are found by a trial; times are those of a clock of the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facekd.embedder import speed_trial
from facekd.embedder.speed_trial import find_fastest
from facekd.errors import ModelError
from facekd.images.preprocessing import Preprocessing


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Model:
    """Takes a time for each call and for each image, with some threads."""

    preprocessing = Preprocessing(image_size=2)
    embedding_size, normalized, fingerprint = 1, False, "abc"

    def __init__(
        self,
        clock: Clock,
        call: float,
        image: float,
        largest: int = 10**9,
        fixed: int | None = None,
        error: type[Exception] = ModelError,
    ) -> None:
        self.clock, self.call, self.image, self.largest, self.error = clock, call, image, largest, error
        self.has_fixed_batch, self.batch_size = fixed is not None, fixed or 64
        self.calls: list[int] = []

    def embed(self, images: np.ndarray) -> np.ndarray:
        assert len(images) <= self.batch_size
        self.calls.append(len(images))
        if len(images) > self.largest:
            raise self.error("the graph holds a fixed batch of 1 inside")
        self.clock.now += self.call + self.image * len(images)
        return np.zeros((len(images), 1), np.float32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed_trial, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("model", "batch_size"),
    [
        ({"call": 0.01, "image": 0.01}, 32),  # a call costs as much as an image
        ({"call": 0.0001, "image": 0.01}, 1),  # 1 % is not worth the memory
        ({"call": 0.001, "image": 0.01}, 8),
        ({"call": 1.0, "image": 9.0}, 1),  # too slow to try more
        ({"call": 0.01, "image": 0.01, "largest": 1}, 1),
        ({"call": 0.01, "image": 0.01, "largest": 8}, 8),  # onnxruntime has no memory for more
        ({"call": 0.01, "image": 0.01, "largest": 8, "error": torch.OutOfMemoryError}, 8),
        ({"call": 0.01, "image": 0.01, "fixed": 4}, 4),
        ({"call": 0.01, "image": 0.01, "fixed": 1}, 1),
    ],
)
def test_the_smallest_batch_that_is_clearly_fastest_is_chosen(clock: Clock, model: dict, batch_size: int) -> None:
    found, speed = find_fastest(lambda threads: Model(clock, **model))
    assert found.batch_size == speed.batch_size == batch_size  # type: ignore[attr-defined]
    assert speed.images_per_second == pytest.approx(batch_size / (model["call"] + model["image"] * batch_size))
    assert clock.now < (1.6 if model["image"] < 1 else 60)
    assert set(found.calls[1:]) <= {1, 8, 32} | {batch_size}  # type: ignore[attr-defined]


def test_the_number_of_threads_is_chosen_as_well(clock: Clock) -> None:
    models = {None: Model(clock, 0.001, 0.01), 2: Model(clock, 0.001, 0.008), 1: Model(clock, 0.001, 0.02)}
    found, speed = find_fastest(models.__getitem__, (None, 2, 1))
    assert found is models[2] and speed.threads == 2


def test_a_model_that_fails_on_one_image_is_refused(clock: Clock) -> None:
    with pytest.raises(ModelError, match="fixed batch"):
        find_fastest(lambda threads: Model(clock, 1, 1, largest=0))
    with pytest.raises(RuntimeError, match="fixed batch"):
        find_fastest(lambda threads: Model(clock, 0.01, 0.01, largest=8, error=RuntimeError))
