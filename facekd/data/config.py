"""Defines the `data:` section of a training config and opens the training set that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facekd.commands.config_files import path_field
from facekd.data.datasets import FaceDataset, open_dataset
from facekd.data.datasets.class_counts import require_two_classes
from facekd.data.datasets.subset_dataset import hold_out
from facekd.data.loading.block_shuffle import BlockShuffle
from facekd.data.loading.orders import BlockOrder, FullShuffle, Order, PeopleShuffle
from facekd.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Defines the training images.

    Args:
        train: path of the training images: a folder with train.rec, a .rec file, a folder with one folder of images per
            identity or class (or with such folders as train/ and val/), CIFAR's folder; or `synthetic:200x20` for 200
            generated identities with 20 images each.
        image_size: height and width of the images in pixels.
        mean: value subtracted from each RGB channel, in units of 0..255; written into every exported model.
        std: value that each channel is divided by, in the same units.
        resize: whether to scale images of another size to `image_size` instead of refusing them.
        center_crop: for classification: take from images of any size the square in the middle, this share of the
            shorter side (0.875 is usual), scaled to `image_size`; in training, `augmentation.resized_crop` takes a
            random box instead. 0 refuses images of another size.
        held_out: share of each class that is not trained on, but used to choose the best checkpoint; the same images
            for every seed.
        unlabelled: whether to do without labels, for `facekd distill` with losses on embeddings alone: of a folder of
            image files, those at any depth are taken, whoever they show; labels of records are not used.
        workers: loader processes per rank, at most one per core; 0 decodes in the training process.
        shuffle: `full`: any image may follow any other. `sequential`, for packs on network or spinning disks: blocks of
            neighbouring records are read together and shuffled, and then the images within a window of blocks.
        shuffle_block: for `sequential`: neighbouring images in a block.
        shuffle_window: for `sequential`: blocks in a window; two windows should fit in the page cache.
        images_each: P-K sampling: K images of a person are read one after the other, so that a batch has
            global_batch_size / K people; every person comes as often as the others, however many images there are. 0
            shuffles the images.
        on_bad_record: `fail` stops at an image that cannot be decoded; `skip` uses the next one and counts.
        accept_changed: whether a resumed run may go on with other images under the same labels, such as the same ones
            encoded anew; otherwise that is an error.
    """

    train: str = path_field()
    image_size: int = 112
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    resize: bool = False
    center_crop: float = 0.0
    held_out: float = 0.0
    unlabelled: bool = False
    workers: int = 4
    shuffle: Literal["full", "sequential"] = "full"
    shuffle_block: int = 1024
    shuffle_window: int = 64
    images_each: int = 0
    on_bad_record: Literal["fail", "skip"] = "fail"
    accept_changed: bool = False

    def __post_init__(self) -> None:
        # The block shuffle checks its two numbers.
        BlockShuffle(self.shuffle_block, self.shuffle_window)
        if self.images_each < 0:
            raise ConfigError(f"data.images_each must not be negative ({self.images_each}); 0 shuffles the images")
        if self.images_each and self.shuffle == "sequential":
            raise ConfigError("data.images_each reads images from all over the pack, and data.shuffle is sequential")
        if self.unlabelled and (self.images_each or self.held_out):
            takes = "images_each takes images of one person" if self.images_each else "held_out takes a share of each"
            raise ConfigError(f"data.{takes}, and with data.unlabelled nobody is known: remove one of them")
        unused = [key for key in ("shuffle_block", "shuffle_window") if getattr(self, key) != getattr(DataConfig, key)]
        if unused and self.shuffle != "sequential":
            raise ConfigError(
                f"data.{unused[0]} has no effect unless data.shuffle is sequential: set that or remove it"
            )

    def make_order(self, dataset: FaceDataset, seed: int) -> Order:
        """Returns the order in which a run reads the images of a data set."""
        if self.images_each:
            return PeopleShuffle(dataset.labels, seed, self.images_each)
        if self.shuffle == "sequential":
            return BlockOrder(len(dataset), seed, BlockShuffle(self.shuffle_block, self.shuffle_window))
        return FullShuffle(len(dataset), seed)


def open_training_data(data: DataConfig, which: Literal["train", "held_out", "test"] = "train") -> FaceDataset:
    """Opens the training images of the `data` section without those held out, or those held out, or the test images.

    Test images are never skipped: a bad one is an error whatever `on_bad_record` says.

    Raises:
        DataError: as `facekd.data.datasets.open_dataset`; fewer than two classes to train on; or nothing can be held
            out.
    """
    if which == "test":
        return open_dataset(data.train, data.image_size, resize=data.resize, center_crop=data.center_crop, split="test")
    dataset = open_dataset(
        data.train, data.image_size, data.on_bad_record, data.resize, data.center_crop, unlabelled=data.unlabelled
    )
    if data.unlabelled:
        return dataset
    if which == "train":
        require_two_classes(dataset)
        if not data.held_out:
            return dataset
    # An image of the other part must not stand in for a bad one: it would be trained on and measured.
    part = hold_out(dataset, data.held_out)[which == "held_out"]
    part.keep_stand_ins_inside()
    return part
