"""Compares clusters with known identities: pairs, B-cubed, and normalised mutual information."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def agreement(clusters: NDArray[np.int64], identities: NDArray[np.int64]) -> dict[str, float]:
    """Returns how well clusters agree with identities.

    An image of noise counts as a cluster of its own; images of unknown identity are left out. Precision and recall of
    pairs: of all pairs in one cluster, the share of one identity, and the other way round. B-cubed (Bagga, Baldwin
    1998): the same from the point of view of each image, the mean over images; itself counts as one of its cluster. A
    measure without a pair behind it is NaN.

    Args:
        clusters: (N,), -1 for noise.
        identities: (N,), -1 for unknown.

    Returns:
        `images`, `identities`; `pairs_precision`, `pairs_recall`, `pairs_f`; `bcubed_precision`, `bcubed_recall`,
        `bcubed_f`; `nmi` (by scikit-learn, arithmetic mean); `purity_of_clusters`, the share of the images of clusters
        that are of the most frequent identity in theirs.
    """
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    # Noise becomes clusters of one image.
    is_known = identities >= 0
    clusters, identities = clusters[is_known], identities[is_known]
    is_noise = clusters < 0
    alone = clusters.copy()
    alone[is_noise] = clusters.max(initial=0) + 1 + np.arange(int(is_noise.sum()))

    # The numbers of images of each identity in each cluster give all the rest.
    table = contingency_matrix(identities, alone, sparse=True).tocoo()
    count = table.data.astype(np.float64)
    of_identity = np.asarray(table.sum(axis=1)).ravel().astype(np.float64)
    of_cluster = np.asarray(table.sum(axis=0)).ravel().astype(np.float64)
    pairs = _pairs(count)
    precision, recall = _ratio(pairs, _pairs(of_cluster)), _ratio(pairs, _pairs(of_identity))
    near = count * count
    total = float(len(identities))
    b_precision = _ratio(float((near / of_cluster[table.col]).sum()), total)
    b_recall = _ratio(float((near / of_identity[table.row]).sum()), total)
    most = np.zeros(len(of_cluster))
    np.maximum.at(most, table.col, count)
    is_cluster = np.ones(len(of_cluster), dtype=bool)
    is_cluster[len(of_cluster) - int(is_noise.sum()) :] = False  # those of noise have the highest numbers
    return {
        "images": len(identities),
        "identities": len(of_identity),
        "pairs_precision": precision,
        "pairs_recall": recall,
        "pairs_f": _harmonic(precision, recall),
        "bcubed_precision": b_precision,
        "bcubed_recall": b_recall,
        "bcubed_f": _harmonic(b_precision, b_recall),
        "nmi": float(normalized_mutual_info_score(identities, alone)),
        "purity_of_clusters": _ratio(float(most[is_cluster].sum()), float(of_cluster[is_cluster].sum())),
    }


def _pairs(counts: NDArray[np.float64]) -> float:
    return float((counts * (counts - 1) / 2).sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _harmonic(first: float, second: float) -> float:
    return _ratio(2 * first * second, first + second)
