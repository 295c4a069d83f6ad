"""Finds the labels that the people of a pack had before `facekd data clean` numbered them anew.

The verb leaves a report beside the pack. It counts only if its fingerprints are those of the labels of both packs.
"""

from __future__ import annotations

from typing import Annotated, TypedDict

import numpy as np
from numpy.typing import NDArray

from facekd.data.datasets.face_dataset import FaceDataset
from facekd.data.datasets.identity_map import labels_sha256
from facekd.data.datasets.record_pack import RecordPack
from facekd.errors import DataError
from facekd.files.reading import read_json
from facekd.utils.typed_values import Range, find_fault

REPORT, REPORT_FORMAT = "clean_report.json", "facekd-cleaning"
KEYS = ("labels_sha256", "old_labels_sha256", "old_label_of")


class _Report(TypedDict):
    labels_sha256: str | None
    old_labels_sha256: str
    old_label_of: list[Annotated[int, Range(0)]]


def labels_before_cleaning(dataset: FaceDataset, before_sha256: str | None) -> NDArray[np.int64] | None:
    """Returns for each class (C,) of a cleaned pack its label in the pack that it was made from.

    Args:
        dataset: the data, which may be a cleaned pack.
        before_sha256: `labels_sha256` of the data before; None if it is not known.

    Returns:
        The old labels; None where the data was not made from that by `facekd data clean`, or by one that did not record
        this, or skipped records.

    Raises:
        DataError: the report beside the pack is damaged.
    """
    pack = getattr(getattr(dataset, "whole", dataset), "pack", None)
    if before_sha256 is None or not isinstance(pack, RecordPack):
        return None
    path = pack.reader.rec_path.with_name(REPORT)
    remedy = "delete it, or clean the pack again"
    try:
        report = read_json(path, "the report of a cleaning", remedy, (), DataError)
    except FileNotFoundError:
        return None
    if not report.keys() >= {*KEYS}:
        return None
    if fault := find_fault(report, _Report):
        raise DataError(f"{path}: damaged: {fault}; {remedy}")
    if report["labels_sha256"] != labels_sha256(dataset) or report["old_labels_sha256"] != before_sha256:
        return None
    if len(report["old_label_of"]) != dataset.num_classes:
        return None
    return np.array(report["old_label_of"], dtype=np.int64)
