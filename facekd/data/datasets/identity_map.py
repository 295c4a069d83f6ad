"""Computes fingerprints of a data set's labels and names, to check that two runs number the same people alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from facekd.data.datasets.face_dataset import FaceDataset


def labels_sha256(dataset: FaceDataset) -> str:
    """Returns a fingerprint of the labels in order; it depends neither on the place of the data nor on its parts."""
    labels = np.ascontiguousarray(_whole(dataset).labels, dtype="<i8")
    return hashlib.sha256(labels.tobytes()).hexdigest()


def identities_sha256(dataset: FaceDataset) -> str | None:
    """Returns a fingerprint of the names behind the labels; None for a pack, whose records hold numbers only."""
    names: list[str] | None = getattr(_whole(dataset), "identities", None)
    return None if names is None else hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _whole(dataset: FaceDataset) -> FaceDataset:
    """Returns the data set that a `SubsetDataset` is part of: holding out images does not renumber anybody."""
    return getattr(dataset, "whole", dataset)


def identity_map(dataset: FaceDataset) -> dict[str, str | None]:
    """Returns both fingerprints, as checkpoints record them."""
    return {"labels_sha256": labels_sha256(dataset), "identities_sha256": identities_sha256(dataset)}


def is_same_identity_map(recorded: Mapping[str, Any], dataset: FaceDataset) -> bool:
    """Returns whether a checkpoint recorded the fingerprints of this data set; names are compared if both have them."""
    own = identity_map(dataset)
    names = recorded.get("identities_sha256"), own["identities_sha256"]
    return recorded.get("labels_sha256") == own["labels_sha256"] and (None in names or names[0] == names[1])
