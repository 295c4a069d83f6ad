"""The classes of a data set are counted before they are believed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd.data.config import DataConfig, open_training_data
from facekd.data.datasets import open_dataset, print_summary
from facekd.data.datasets.class_counts import ClassCounts, count_classes
from facekd.errors import DataError, RecordError

Write = Callable[..., Path]


def test_counts_are_those_of_a_set() -> None:
    labels = np.random.default_rng(0).integers(-1, 50, 60)
    known = [label for label in labels.tolist() if label >= 0]
    expected = (len(known), 80, len(set(known)), min(known), max(known))
    assert count_classes(labels, 80) == expected
    assert count_classes(labels, 3).num_classes == max(known) + 1  # whatever a file announces
    assert str(count_classes(np.array([7, 1003, 7]))) == "3 images, 2 of 1,004 classes have any, labels 7 to 1,003"
    assert str(count_classes(np.array([-1]), 5)) == "0 images, 0 of 5 classes have any, no usable label"


def test_a_large_label_takes_no_memory() -> None:
    tracemalloc.start()
    assert count_classes(np.array([3, 1 << 50, 3])).num_present == 2
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("num_images", "num_classes", "is_absurd"),
    [
        (2, 93_431, False),  # a few images of MS1MV3
        (12, 250_001, True),
        (8, 3_000_001, True),
        (2_100, 2_059_906, False),  # a shard in 20,000 of WebFace42M
    ],
)
def test_how_many_classes_are_too_many(num_images: int, num_classes: int, is_absurd: bool) -> None:
    assert ClassCounts(num_images, num_classes, 2, 0, num_classes - 1).is_absurd is is_absurd


def test_labels_that_make_no_sense_are_refused_before_memory_is_taken(tmp_path: Path, write_records: Write) -> None:
    folder = write_records(tmp_path / "ids", [(key, (7, 1003, 250_000)[key % 3], key) for key in range(12)])
    with pytest.raises(DataError, match=r"12 images, 3 of 250,001 classes have any, labels 7 to 250,000: .*--renumber"):
        open_dataset(folder, 32)
    rows = [(key, key % 2, key) for key in range(8)]
    folder = write_records(tmp_path / "property", rows, "4000000000,32,32\n")
    with pytest.raises(DataError, match=r"4,000,000,000 classes are too many for 8 images.*`property`"):
        open_dataset(folder, 32)


@pytest.mark.parametrize("label", [1e20, 2e9, float(1 << 24)])
def test_a_label_that_float32_rounds_is_no_label(tmp_path: Path, write_records: Write, label: float) -> None:
    rows = [(key, label if key == 3 else key % 2, key) for key in range(6)]
    folder = write_records(tmp_path / "pack", rows)
    with pytest.raises(RecordError, match=r"1 of 6 image records .*record 3 .*whole numbers from 0 to 16,777,215"):
        open_dataset(folder, 32)
    dataset = open_dataset(folder, 32, on_bad_record="skip")
    assert (len(dataset), dataset.num_classes) == (5, 2)
    assert any("1 of 6 image records is unusable" in warning for warning in dataset.warnings)


def test_part_of_a_larger_set_opens_with_a_warning(
    tmp_path: Path, write_records: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(key, 40 + key % 3, key) for key in range(6)]
    dataset = open_dataset(write_records(tmp_path / "part", rows, "93431,32,32\n"), 32)
    assert dataset.num_classes == 93_431
    print_summary(dataset)
    printed = capsys.readouterr().err
    assert "part: 6 images, 3 of 93,431 classes have any, labels 40 to 42" in printed
    assert "93,428 of 93,431 classes have no image (labels go up to 42, and `property`" in printed


def test_one_class_is_nothing_to_train_on(tmp_path: Path, write_records: Write) -> None:
    folder = write_records(tmp_path / "pack", [(key, 0, key) for key in range(4)])
    for path in (str(folder), "synthetic:1x4"):
        with pytest.raises(DataError, match=r"all images have label 0, and from a single class nothing can be learnt"):
            open_training_data(DataConfig(train=path, image_size=32))
    (folder / "list.txt").write_text("".join(f"{key}\tperson {key // 2}/{key}.jpg\n" for key in range(4)))
    with pytest.raises(DataError, match=r"list.txt seems to say who .* --labels-from .*list.txt"):
        open_training_data(DataConfig(train=str(folder), image_size=32))
    assert len(open_dataset(folder, 32)) == 4  # it can be looked at, with a warning
    (tmp_path / "folders" / "Ada").mkdir(parents=True)
    (tmp_path / "folders" / "Ada" / "1.jpg").write_bytes(open_dataset(folder, 32).read_encoded(0)[0])  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"should hold one subfolder for each person, and holds Ada only"):
        open_training_data(DataConfig(train=str(tmp_path / "folders"), image_size=32))
