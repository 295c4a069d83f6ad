"""Which image has which label and which label is who, as fingerprints: data sets that agree share their identities."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from facekd.data.datasets.face_dataset import FaceDataset


def labels_sha256(dataset: FaceDataset) -> str:
    """Fingerprint of which image has which label: equal for the same data wherever it lies, or part of the same."""
    labels = np.ascontiguousarray(_whole(dataset).labels, dtype="<i8")
    return hashlib.sha256(labels.tobytes()).hexdigest()


def identities_sha256(dataset: FaceDataset) -> str | None:
    """Fingerprint of who each label is, by name; None for a pack, whose records carry numbers only."""
    names: list[str] | None = getattr(_whole(dataset), "identities", None)
    return None if names is None else hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _whole(dataset: FaceDataset) -> FaceDataset:
    """What a `SubsetDataset` is a part of: holding out images changes neither who is who nor by which number."""
    return getattr(dataset, "whole", dataset)


def identity_map(dataset: FaceDataset) -> dict[str, str | None]:
    """Both fingerprints, as checkpoints record them."""
    return {"labels_sha256": labels_sha256(dataset), "identities_sha256": identities_sha256(dataset)}


def is_same_identity_map(recorded: Mapping[str, Any], dataset: FaceDataset) -> bool:
    """Whether what a checkpoint recorded is this data set's; names count where both have them."""
    own = identity_map(dataset)
    names = recorded.get("identities_sha256"), own["identities_sha256"]
    return recorded.get("labels_sha256") == own["labels_sha256"] and (None in names or names[0] == names[1])
