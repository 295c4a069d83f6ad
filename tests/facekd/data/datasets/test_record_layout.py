"""What a header record says is compared with the records before it is believed: no image vanishes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from facekd.data.datasets.record_pack import open_record_pack
from facekd.errors import RecordError

Write = Callable[..., Path]
Rows = list[tuple[int, object, int | None]]


def insightface_rows(labels: list[int], header: list[float] | None = None) -> Rows:
    """Rows as InsightFace's face2rec2 writes them: an identity record for each run of equal labels, header last."""
    rows: Rows = [(key, [label, 1], key) for key, label in enumerate(labels, start=1)]
    first, key = len(labels) + 1, 1
    for number, (_, run) in enumerate(groupby(labels)):
        length = len(list(run))
        rows.append((first + number, [key, key + length], None))
        key += length
    return [*rows, (0, [first, first + len(rows) - len(labels)] if header is None else header, None)]


LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("labels", [[2, 5, 0.5], [1, 3], [0, 1], [9]])
def test_an_image_of_no_bytes_under_key_0_is_no_header(tmp_path: Path, write_records: Write, labels: list) -> None:
    rows: Rows = [(key, [key % 3, 5, 0.5], key) for key in range(1, 12)]
    folder = write_records(tmp_path / "im2rec", [(0, labels, None), *rows])
    with pytest.raises(RecordError, match=r"1 of 12 image records is unusable, first: .*record 0 .*holds no image"):
        open_record_pack(folder).labels()
    data = open_record_pack(folder, on_bad_record="skip")
    assert (data.layout, data.num_images) == ("im2rec", 12)
    assert data.labels().tolist() == [-1, *(key % 3 for key in range(1, 12))]
    assert any("1 of 12 image records is unusable" in warning for warning in data.warnings)


def test_images_appended_behind_the_identity_records_are_images(tmp_path: Path, write_records: Write) -> None:
    appended: Rows = [(16 + number, [3 + number // 4, 1], 100 + number) for number in range(8)]
    data = open_record_pack(write_records(tmp_path / "longer", insightface_rows(LABELS) + appended))
    assert (data.layout, data.num_images, data.num_classes) == ("insightface", 20, 5)
    assert data.labels().tolist() == [*LABELS, 3, 3, 3, 3, 4, 4, 4, 4]
    assert data.identity_keys.tolist() == [13, 14, 15]
    (warning,) = data.warnings
    assert warning.startswith("8 images have keys from 13 on, where the header record announces identity records")


def test_a_header_that_points_at_images_loses_none(tmp_path: Path, write_records: Write) -> None:
    data = open_record_pack(write_records(tmp_path / "low", insightface_rows(LABELS, header=[5, 8])))
    assert (data.layout, data.num_images, data.num_classes) == ("insightface", 12, 3)
    assert data.labels().tolist() == LABELS and data.identity_keys.tolist() == [13, 14, 15]
    assert any(warning.startswith("8 images have keys from 5 on") for warning in data.warnings)


@pytest.mark.parametrize("header", [[np.nan, 3], [0, 3], [13.5, 16], [13, 4]])
def test_a_header_without_a_range_is_refused_where_there_are_identity_records(
    tmp_path: Path, write_records: Write, header: list[float]
) -> None:
    folder = write_records(tmp_path / "pack", insightface_rows(LABELS, header))
    with pytest.raises(RecordError, match=r"header record \(key 0\) should give the first identity key, and says"):
        open_record_pack(folder)


def test_an_image_of_no_bytes_is_no_identity_where_the_header_is_lost(tmp_path: Path, write_records: Write) -> None:
    rows = insightface_rows(LABELS)
    rows[5] = (6, [1, 1], None)  # the image of record 6 has no bytes
    folder = write_records(tmp_path / "pack", rows)
    content = bytearray((folder / "train.rec").read_bytes())
    content[-40:] = bytes(40)  # the header record is overwritten
    (folder / "train.rec").write_bytes(content)
    data = open_record_pack(folder, on_bad_record="skip")
    assert data.identity_keys.tolist() == [13, 14, 15]
    assert data.labels()[:12].tolist() == [*LABELS[:5], -1, *LABELS[6:]]


def test_an_identity_record_for_each_run_is_noticed(tmp_path: Path, write_records: Write) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 8)).tolist()
    num_runs = len(list(groupby(labels)))
    data = open_record_pack(write_records(tmp_path / "runs", insightface_rows(labels)))
    assert data.num_classes == num_runs > 5
    (warning,) = data.class_warnings()
    assert warning.startswith(f"{num_runs} identity records stand for the images of 5 people, a record for each run")
    assert "--renumber" in warning
    grouped = open_record_pack(write_records(tmp_path / "grouped", insightface_rows(sorted(labels))))
    assert grouped.class_warnings() == grouped.warnings == []
    rows = [*insightface_rows([0, 0, 2, 2])[:-1], (7, [5, 5], None), (0, [5, 8], None)]  # nobody has label 1
    gap = open_record_pack(write_records(tmp_path / "gap", rows))
    assert gap.class_warnings()[0].startswith("1 of 3 classes has no image (labels go up to 2)")
