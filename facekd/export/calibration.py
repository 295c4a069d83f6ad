"""Reads the faces on which a network is calibrated, and others on which a variant is compared with float32."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekd.data.datasets.opening import open_dataset
from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError, ModelError
from facekd.export.options import LEAST_CALIBRATION, JudgingOptions
from facekd.images.preprocessing import fit_images
from facekd.utils.wording import agreeing, counted

HELD_OUT = 256  # faces at most that a variant is compared on
SHARE_HELD_OUT = 4  # of few faces at least every fourth
GENERATED = "synthetic:16x4"  # people x images, where no faces are given
GENERATED_NAME = "generated faces"
FLAT = 4.0  # standard deviation in grey levels; that of a face is 30 or more, and of a blurred one 10
PACKS = (".bin", ".npz")


@dataclass(frozen=True)
class Faces:
    """Holds faces to calibrate on and others to compare on.

    Attributes:
        source: where they come from, for people: the last part of the path.
        calibration: uint8 RGB (N, S, S, 3).
        held_out: uint8 RGB (M, S, S, 3); none of them is among `calibration`.
        warnings: sentences about what is odd with them.
    """

    source: str
    calibration: np.ndarray
    held_out: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def held_out_text(self) -> str:
        """Says what is compared on, as `8 other images of photos`."""
        if self.source == GENERATED_NAME:
            return counted(len(self.held_out), GENERATED_NAME.removesuffix("s"))
        other = "other " if len(self.calibration) else ""
        return counted(len(self.held_out), f"{other}image of {self.source}")


def generated_faces(image_size: int) -> Faces:
    """Renders a few faces to compare on, for want of photographs."""
    dataset = open_dataset(GENERATED, image_size)
    images = dataset.load(np.arange(len(dataset)))[0]
    return Faces(GENERATED_NAME, images[:0], images)


def read_faces(judging: JudgingOptions, image_size: int, is_calibrated: bool = True) -> Faces:
    """Reads faces from `judging.calibrate`, drawn evenly from all that is there, and holds some of them out.

    Args:
        judging: the source, and how many to calibrate on.
        image_size: S.
        is_calibrated: False holds all of them out, because nothing is calibrated.

    Raises:
        DataError: too few different faces, or pictures of one colour; or see `read_pair_pack` and `open_dataset`.
        ModelError: images of another size than the network's, if they are not to be scaled.
    """
    assert judging.calibrate is not None
    source = judging.calibrate
    wanted = judging.calibration_images if is_calibrated else 0
    images = _distinct(_some_images(source, wanted + HELD_OUT, image_size, judging.resize))
    if len(images) < LEAST_CALIBRATION:
        raise DataError(
            f"{source}: holds {counted(len(images), 'different face')}, and at least {LEAST_CALIBRATION} are needed: "
            "the ranges of fewer say little of others"
        )
    # Pictures that cannot be faces would stretch or shrink the ranges.
    num_flat = int((images.reshape(len(images), -1).std(axis=1) < FLAT).sum())
    if 2 * num_flat > len(images):
        raise DataError(
            f"{source}: {num_flat} of {counted(len(images), 'image')} {agreeing(num_flat, 'is', 'are')} of one "
            "colour, so these are no faces"
        )
    warnings = []
    if num_flat:
        warnings.append(
            f"{source}: {num_flat} of {counted(len(images), 'image')} "
            f"{agreeing(num_flat, 'is of one colour and shows', 'are of one colour and show')} no face"
        )
    # What is not calibrated on is held out, and of few faces a share.
    num_held_out = min(HELD_OUT, max(len(images) - wanted, len(images) // SHARE_HELD_OUT))
    order = np.random.default_rng(1).permutation(len(images))
    held_out, calibration = images[order[:num_held_out]], images[order[num_held_out:]][:wanted]
    if len(calibration) < wanted:
        warnings.append(f"{source}: has only {counted(len(calibration), 'face')} to calibrate on, not {wanted}")
    return Faces(Path(source).name, calibration, held_out, tuple(warnings))


def _some_images(source: Path | str, count: int, image_size: int, resize: bool) -> np.ndarray:
    """Returns at most `count` images of a pack, a .rec or a folder, uint8 RGB (N, S, S, 3)."""
    # A pack names an image once for each pair that it is in.
    if Path(source).suffix.lower() in PACKS and not Path(source).is_dir():
        encoded = list(dict.fromkeys(read_pair_pack(source).images))
        chosen = _evenly(len(encoded), count)
        images = decode_images([encoded[index] for index in chosen], source=source)
        try:
            return fit_images(images, image_size, resize)
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from error
    dataset = open_dataset(source, image_size, resize=resize, unlabelled=True)
    return dataset.load(_evenly(len(dataset), count))[0]


def _evenly(total: int, count: int) -> np.ndarray:
    """Returns `count` of the numbers below `total`, drawn the same way each time, ascending; or all."""
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def _distinct(images: np.ndarray) -> np.ndarray:
    """Leaves out images that are there already, so that none is both calibrated on and held out."""
    first = dict[bytes, int]()
    for place, digest in enumerate(fingerprints(images)):
        first.setdefault(digest, place)
    return images[sorted(first.values())]


def fingerprints(images: np.ndarray) -> list[bytes]:
    """Returns a hash of each image's pixels."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
