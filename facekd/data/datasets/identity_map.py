"""Computes fingerprints of a data set: of its labels, of the names behind them, and of its images.

Labels and names show that two runs number the same people alike; images, that a run goes on with those it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.encoded_dataset import EncodedDataset
from facekd.data.datasets.face_dataset import FaceDataset
from facekd.data.datasets.generated_dataset import SyntheticDataset
from facekd.errors import RecordError, is_device_failure

# Enough to notice another alignment, compression or order; few enough to read in a second from a network disk.
IMAGES_IN_FINGERPRINT = 256


def labels_sha256(dataset: FaceDataset) -> str:
    """Returns a fingerprint of the labels in order; it depends neither on the place of the data nor on its parts."""
    return sha256_of_labels(_whole(dataset).labels)


def sha256_of_labels(labels: NDArray[np.int64]) -> str:
    """Returns a fingerprint of labels (N,) in order; see `labels_sha256`."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def identities_of(dataset: FaceDataset) -> list[str] | None:
    """Returns the names behind the labels, in order; None for a pack, whose records hold numbers only."""
    return getattr(_whole(dataset), "identities", None)


def identities_sha256(dataset: FaceDataset) -> str | None:
    """Returns a fingerprint of the names behind the labels; None for a pack, whose records hold numbers only."""
    names = identities_of(dataset)
    return None if names is None else hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def images_sha256(dataset: FaceDataset) -> str:
    """Computes a fingerprint of the images, which changes with photos, crops and compression, not with labels or place.

    It covers the encoded bytes of up to 256 images spread evenly over the data set, first and last included, so a few
    changed images among millions can go unnoticed. A folder and a pack of the same files have the same fingerprint.
    Images without encoded bytes count by their pixels.
    """
    dataset = _whole(dataset)
    count = len(dataset)
    digest = hashlib.sha256(str(count).encode())
    for index in np.unique(np.linspace(0, count - 1, IMAGES_IN_FINGERPRINT).round().astype(np.int64)).tolist():
        if isinstance(dataset, EncodedDataset):
            try:
                content = dataset.read_encoded(index)[0]
            except (RecordError, OSError) as error:
                if is_device_failure(error):
                    raise
                content = b"unreadable"  # `load` decides whether this is an error
        else:
            content = dataset.load(np.array([index]))[0].tobytes()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def stored_images_sha256(dataset: FaceDataset) -> str | None:
    """Returns `images_sha256`; None for generated faces, which CPUs may render unlike, and which names tell apart."""
    return None if isinstance(_whole(dataset), SyntheticDataset) else images_sha256(dataset)


def _whole(dataset: FaceDataset) -> FaceDataset:
    """Returns the data set that a `SubsetDataset` is part of: holding out images does not renumber anybody."""
    return getattr(dataset, "whole", dataset)


def identity_map(dataset: FaceDataset) -> dict[str, str | None]:
    """Returns both fingerprints, as checkpoints record them."""
    return {"labels_sha256": labels_sha256(dataset), "identities_sha256": identities_sha256(dataset)}


def people_fields(dataset: FaceDataset) -> dict[str, Any]:
    """Returns the fields of a checkpoint that say whose classes its classifier has: both fingerprints and the names."""
    return {**identity_map(dataset), "identities": identities_of(dataset)}


def is_same_identity_map(recorded: Mapping[str, Any], dataset: FaceDataset) -> bool:
    """Returns whether a checkpoint recorded the fingerprints of this data set; names are compared if both have them."""
    own = identity_map(dataset)
    names = recorded.get("identities_sha256"), own["identities_sha256"]
    return recorded.get("labels_sha256") == own["labels_sha256"] and (None in names or names[0] == names[1])
