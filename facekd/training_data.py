"""The images of a run: those it is trained on, those held out of them, and the test images beside them."""

from __future__ import annotations

from typing import Literal

from facekd.data.datasets import FaceDataset, open_dataset
from facekd.data.datasets.subset_dataset import hold_out
from facekd.training.config import DataConfig


def open_training_data(data: DataConfig, which: Literal["train", "held_out", "test"] = "train") -> FaceDataset:
    """Open the images that the `data` section names, without those held out; or these; or the test images.

    Test images are never skipped: a bad one is an error whatever `on_bad_record` says.

    Raises:
        DatasetError: see `facekd.data.datasets.open_dataset`; also where nothing can be held out.
    """
    if which == "test":
        return open_dataset(data.train, data.image_size, resize=data.resize, center_crop=data.center_crop, split="test")
    dataset = open_dataset(data.train, data.image_size, data.on_bad_record, data.resize, data.center_crop)
    if which == "train":
        return hold_out(dataset, data.held_out)[0] if data.held_out else dataset
    return hold_out(dataset, data.held_out)[1]
