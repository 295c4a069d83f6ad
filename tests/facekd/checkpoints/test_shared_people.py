"""A classifier is taken for that of the data where labels show it, and with a warning where they cannot."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facekd.checkpoints.checkpoint import write_checkpoint
from facekd.checkpoints.contents import Checkpoint
from facekd.checkpoints.shared_head import find_same_people, load_shared_head, read_classifier
from facekd.data.datasets import FaceDataset, open_dataset
from facekd.data.datasets.class_counts import has_equal_classes
from facekd.data.datasets.identity_map import images_sha256, people_fields
from facekd.data.datasets.record_pack_writer import RecordPackWriter


def make_pack(folder: Path, counts: list[int], seed: int) -> FaceDataset:
    generator = np.random.default_rng(seed)
    with RecordPackWriter(folder, 32) as writer:
        for label in np.repeat(np.arange(len(counts)), counts).tolist():
            image = generator.integers(0, 256, (32, 32, 3), np.uint8)
            writer.add(label, cv2.imencode(".png", image)[1].tobytes())
    return open_dataset(str(folder), 32)


def make_head(path: Path, dataset: FaceDataset) -> Path:
    head = {"weight": torch.ones(dataset.num_classes, 4)}
    about = {"num_classes": dataset.num_classes, "images_sha256": images_sha256(dataset), **people_fields(dataset)}
    write_checkpoint(path, Checkpoint(head=head, **about))
    return path


@pytest.mark.parametrize(
    ("counts", "seed", "is_warned"),
    [([2, 2, 2], 0, False), ([2, 2, 2], 1, True), ([2, 3, 1], 1, False)],
    ids=["the same images", "other images", "counts tell people apart"],
)
def test_people_that_nothing_tells_apart_are_warned_of(
    counts: list[int], seed: int, is_warned: bool, tmp_path: Path
) -> None:
    head = make_head(tmp_path / "head.pt", make_pack(tmp_path / "there", counts, 0))
    here = make_pack(tmp_path / "here", counts, seed)
    for take in (lambda: load_shared_head(head, here), lambda: find_same_people(*read_classifier(head), here)):
        before = len(here.warnings)
        take()
        found = here.warnings[before:]
        assert len(found) == is_warned and all("whether class n is the same person" in words for words in found)


@pytest.mark.parametrize(("names", "is_warned"), [(["00", "01", "02"], True), (["ann", "bob", "eve"], False)])
def test_people_found_by_numbers_are_warned_of(names: list[str], is_warned: bool, tmp_path: Path) -> None:
    def make(folder: str, people: list[str], seed: int) -> FaceDataset:
        generator = np.random.default_rng(seed)
        for name in people:
            (tmp_path / folder / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / folder / name / "1.png"), generator.integers(0, 256, (32, 32, 3), np.uint8))
        return open_dataset(str(tmp_path / folder), 32)

    head = make_head(tmp_path / "head.pt", make("there", names, 0))
    if not is_warned:  # accents as macOS may store them make nobody another person
        accents = make_head(tmp_path / "accents.pt", make("composed", ["Jos\u00e9", "ann"], 0))
        assert find_same_people(*read_classifier(accents), make("apart", ["Jose\u0301", "ann"], 1)).tolist() == [0, 1]
    same, fewer, all_of_them = make("same", names, 0), make("fewer", names[1:], 1), make("all", names, 1)
    for here, rows, expected in ((same, [0, 1, 2], False), (fewer, [1, 2], True), (all_of_them, [0, 1, 2], True)):
        before = len(here.warnings)
        assert find_same_people(*read_classifier(head), here).tolist() == rows
        assert bool([words for words in here.warnings[before:] if "number" in words]) == (expected and is_warned)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 1, 1], True),
        ([0, 1, 0, 1], True),
        ([0, 1, 1, 0], False),
        ([0, 0, 1], False),
        ([0, 0, 0, 2, 2, 2], False),
        ([-1, 0, 0, 1], False),
        ([], False),
    ],
)
def test_equal_classes(labels: list[int], expected: bool) -> None:
    assert has_equal_classes(np.array(labels, np.int64)) == expected
