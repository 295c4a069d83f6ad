"""Groups embeddings into clusters by HDBSCAN, and says which images belong to none.

Embeddings are scaled to length 1, where squared Euclidean distances are 2 - 2 cos, so that the nearest by one are the
nearest by the other. HDBSCAN: Campello, Moulavi, Sander, "Density-Based Clustering Based on Hierarchical Density
Estimates" (2013), by scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facekd.errors import DataError
from facekd.utils.wording import counted

NOISE = -1


@dataclass(frozen=True)
class Clusters:
    """Holds the cluster of each image.

    Attributes:
        labels: int64 (N,), numbers from 0 in the order of the first image of each cluster; -1 for noise.
        coherence: float32 (C,), the mean cosine of a cluster's images to its centre.
    """

    labels: NDArray[np.int64]
    coherence: NDArray[np.float32]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Returns the number of images of each cluster, (C,)."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.coherence))


def cluster(
    units: NDArray[np.float32], min_size: int, min_samples: int, min_cosine: float | None, workers: int
) -> Clusters:
    """Groups embeddings.

    Args:
        units: (N, E), at length 1.
        min_size: least number of images of a cluster, 2 or more.
        min_samples: neighbours, the image itself included, by which density is measured; more makes more noise.
        min_cosine: groups that come as near to each other as this cosine are one cluster; None leaves that to density.
        workers: threads.

    Raises:
        DataError: there are too few images, no cluster, or a single one.
    """
    if len(units) < max(min_size, min_samples, 2):
        raise DataError(
            f"{counted(len(units), 'image is', 'images are')} fewer than a cluster needs (--min-size {min_size}, "
            f"--min-samples {min_samples})"
        )
    from sklearn.cluster import HDBSCAN

    clusterer = HDBSCAN(
        min_cluster_size=min_size,
        min_samples=min_samples,
        cluster_selection_epsilon=0.0 if min_cosine is None else float(np.sqrt(max(0.0, 2 - 2 * min_cosine))),
        n_jobs=workers,
        copy=False,  # pyright: ignore[reportArgumentType]
    )
    found = np.asarray(clusterer.fit(units.astype(np.float64)).labels_, dtype=np.int64)

    # Number the clusters by their first images, and say how near their images are to their centres.
    numbers, first = np.unique(found[found >= 0], return_index=True)
    rank = np.empty(len(numbers) + 1, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(numbers))
    rank[-1] = NOISE
    labels = rank[found]
    if len(numbers) < 2:
        raise DataError(_why_useless(len(numbers), int((labels >= 0).sum()), len(labels)))
    sums = np.zeros((len(numbers), units.shape[1]))
    clustered = labels >= 0
    np.add.at(sums, labels[clustered], units[clustered])
    # The mean cosine of unit vectors to the direction of their sum is the length of their mean.
    coherence = np.linalg.norm(sums, axis=1) / np.bincount(labels[clustered])
    return Clusters(labels, coherence.astype(np.float32))


def _why_useless(num_clusters: int, num_clustered: int, count: int) -> str:
    if not num_clusters:
        return (
            f"no clusters among {counted(count, 'image')}: lower --min-size or --min-samples; if even 2 finds none, "
            "everybody is there once, or the model or its preprocessing is wrong"
        )
    return (
        f"one cluster of {num_clustered:,} of {counted(count, 'image')}, from which no classifier learns: raise "
        "--min-cosine or lower --min-size; if that does not help, the images are of one person, or the model or its "
        "preprocessing is wrong"
    )
