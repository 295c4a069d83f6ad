"""Tests ranks and top-k accuracy against scikit-learn and argmax."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from facekd.errors import InputError
from facekd.verification.top_k_accuracy import top_k_accuracy, true_class_ranks


def test_top_k_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(500, 12)), generator.integers(0, 12, 500)
    ranks = true_class_ranks(scores, labels)
    for k in (1, 5):
        assert top_k_accuracy(ranks, 12)[k] == pytest.approx(
            top_k_accuracy_score(labels, scores, k=k, labels=np.arange(12))
        )
    assert top_k_accuracy(ranks, 5).keys() == {1}  # all five of five are no measurement
    assert true_class_ranks(np.zeros((0, 12)), []).shape == (0,)


def test_a_model_that_says_the_same_of_all_classes_is_not_always_right() -> None:
    labels = np.arange(6).repeat(3)
    ranks = true_class_ranks(np.zeros((18, 6)), labels)
    np.testing.assert_array_equal(ranks, labels)
    assert top_k_accuracy(ranks, 6)[1] == pytest.approx(1 / 6)
    scores = np.random.default_rng(1).integers(0, 3, (200, 6))  # many ties: first is what argmax says
    labels = np.random.default_rng(2).integers(0, 6, 200)
    np.testing.assert_array_equal(true_class_ranks(scores, labels) == 0, scores.argmax(1) == labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), [0], "do not fit labels"),
        (np.zeros((2, 3)), [0, 3], "labels run from 0 to 3"),
        (np.array([[0.0, np.nan]]), [0], "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(scores: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        true_class_ranks(scores, labels)
