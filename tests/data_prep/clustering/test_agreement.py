"""The agreement of clusters with identities equals its definition, counted pair by pair and image by image."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.clustering.agreement import agreement

LABELS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=2, max_size=14)


@given(LABELS)
def test_pairs_and_b_cubed_are_what_their_definitions_count(both: list[tuple[int, int]]) -> None:
    found = agreement(np.array([c for c, _ in both]), np.array([i for _, i in both]))
    # Noise becomes clusters of one; images of unknown identity are left out.
    known = [(c if c >= 0 else -2 - n, i) for n, (c, i) in enumerate(both) if i >= 0]
    pairs = list(combinations(known, 2))
    together = sum(a[0] == b[0] for a, b in pairs)
    same = sum(a[1] == b[1] for a, b in pairs)
    right = sum(a == b for a, b in pairs)
    assert found["images"] == len(known)
    assert found["pairs_precision"] == pytest.approx(right / together if together else np.nan, nan_ok=True)
    assert found["pairs_recall"] == pytest.approx(right / same if same else np.nan, nan_ok=True)
    if known:
        shares = [[(a == b, a[0] == b[0], a[1] == b[1]) for b in known] for a in known]
        precision = np.mean([sum(right for right, _, _ in row) / sum(c for _, c, _ in row) for row in shares])
        recall = np.mean([sum(right for right, _, _ in row) / sum(i for _, _, i in row) for row in shares])
        assert found["bcubed_precision"] == pytest.approx(precision)
        assert found["bcubed_recall"] == pytest.approx(recall)
        assert found["bcubed_f"] == pytest.approx(2 * precision * recall / (precision + recall))
    clustered = [(c, i) for c, i in known if c >= 0]
    most = sum(max(clustered.count((c, i)) for i in range(4)) for c in {c for c, _ in clustered})
    purity = most / len(clustered) if clustered else np.nan
    assert found["purity_of_clusters"] == pytest.approx(purity, nan_ok=True)


def test_perfect_clusters_agree_under_other_numbers() -> None:
    found = agreement(np.array([2, 2, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 2]))
    assert {name: value for name, value in found.items() if name not in ("images", "identities")} == {
        name: pytest.approx(1.0) for name in found if name not in ("images", "identities")
    }
