"""Defines verification packs, writes them as `.bin` (pickled `(encoded images, is_same)`), and checks and decodes them.

The packs in use (LFW, CFP-FP, AgeDB-30, ...) are Python pickles, which can run code. `unpickler` reads them without
running any: it knows no classes but a few inert stand-ins. Images 2i and 2i + 1 are pair i. The order of the pairs
defines the folds (contiguous tenths) and is kept.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from facekd.data.pair_packs.unpickler import ArrayStandIn
from facekd.errors import DataError, ImageError
from facekd.files.writing import opened
from facekd.images.decoding import decode_rgb
from facekd.utils.wording import agreeing, counted


@dataclass(frozen=True)
class PairPack:
    """Holds N pairs of encoded images.

    Attributes:
        images: 2N encoded images (JPEG or PNG bytes); pair i is images 2i and 2i + 1.
        is_same: bool (N,), whether the two images of a pair show one person.
        subjects: str (N, 2), the people on the images of each pair; None for a `.bin`, which does not say.
        fold_of: int64 (N,), the fold of each pair, from 0; None for a `.bin`, whose folds are contiguous tenths.
    """

    images: list[bytes]
    is_same: np.ndarray
    subjects: np.ndarray | None = None
    fold_of: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns the number of pairs N."""
        return len(self.is_same)


def write_pair_pack(
    target: str | os.PathLike[str] | BinaryIO,
    images: Sequence[bytes | np.ndarray],
    is_same: Sequence[bool] | np.ndarray,
) -> None:
    """Writes a verification pack that InsightFace's readers and `read_pair_pack` load, atomically.

    Args:
        target: the `.bin` file; an old one is replaced when the new one is complete. Or a stream.
        images: 2N encoded images, bytes or uint8 arrays (n,) / (n, 1); pair i is images 2i and 2i + 1.
        is_same: N booleans (or 0 / 1).

    Raises:
        DataError: the counts do not match, or an image is empty or is not bytes.
    """
    pack = validate_pairs((list(images), list(is_same)), str(target))
    with opened(target) as stream:
        # Protocol 4 stores bytes as they are, and any Python 3 reads it.
        pickle.dump((pack.images, pack.is_same.tolist()), stream, protocol=4)


def decode_images(
    images: Sequence[bytes | np.ndarray], first_image: int = 0, source: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """Decodes images into one array.

    Args:
        images: B encoded images (JPEG, PNG, ...), for instance a slice of `PairPack.images`.
        first_image: number of `images[0]` in its pack, for error messages about a slice.
        source: path of the pack, for error messages.

    Returns:
        uint8 (B, H, W, 3), RGB.

    Raises:
        DataError: an image does not decode, or has another size than the first; the message names image and pair.
    """
    if not len(images):
        raise DataError(f"{source or 'verification pack'}: no images to decode")
    # The first image decides the size of the batch.
    batch: np.ndarray | None = None
    for i, image in enumerate(images):
        where = f"{source or 'verification pack'}: image {first_image + i} (pair {(first_image + i) // 2})"
        try:
            decoded = decode_rgb(_as_bytes(image, where))
        except ImageError as error:
            raise DataError(f"{where}: {error}; fetch or rebuild the pack") from error
        if batch is None:
            batch = np.empty((len(images), *decoded.shape), np.uint8)
        elif decoded.shape != batch.shape[1:]:
            height, width = batch.shape[1:3]
            raise DataError(
                f"{where} is {decoded.shape[1]}x{decoded.shape[0]} pixels, the first of its batch {width}x{height}; "
                "all images of a pack must have one size: align or resize them alike and rebuild it"
            )
        batch[i] = decoded
    assert batch is not None
    return batch


def validate_pairs(loaded: Any, where: str, most_bytes: int | None = None) -> PairPack:
    """Turns `(images, is_same)`, as read from a file, into a `PairPack`, and raises if something is wrong with them.

    Args:
        loaded: the two lists; an image that occurs several times as one object stays one object.
        where: name of the file, for messages.
        most_bytes: limit for the size of the images, counting each object once; None sets no limit.

    Raises:
        DataError: they are not two lists of matching lengths, of encoded images and of true or false.
    """
    # Two images for each label.
    if not isinstance(loaded, tuple | list) or len(loaded) != 2:
        raise DataError(f"{where}: expected a pair (images, is_same), found {_describe(loaded)}")
    images, is_same = (
        _as_sequence(part, name, where) for part, name in zip(loaded, ("images", "is_same"), strict=True)
    )
    if not images:
        raise DataError(f"{where}: holds no images")
    if len(images) % 2:
        raise DataError(
            f"{where}: holds {counted(len(images), 'image')}, an odd number; pair i is images 2i and 2i + 1"
        )
    if len(is_same) != len(images) // 2:
        raise DataError(
            f"{where}: holds {counted(len(images), 'image')}, so {counted(len(images) // 2, 'pair')}, but "
            f"{counted(len(is_same), 'label')}"
        )
    # Labels.
    labels = np.empty(len(is_same), np.bool_)
    for i, label in enumerate(is_same):
        if not isinstance(label, bool | int | np.bool_ | np.integer) or label not in (0, 1):
            raise DataError(f"{where}: label of pair {i} is {_describe(label)}; expected true or false")
        labels[i] = bool(label)
    # Images. A small file can name the same content many times, so their total is limited.
    encoded: list[bytes] = []
    measured: set[int] = set()
    num_bytes = 0
    for i, image in enumerate(images):
        encoded.append(_as_bytes(image, f"{where}: image {i} (pair {i // 2})"))
        if most_bytes is not None and id(encoded[-1]) not in measured:
            measured.add(id(encoded[-1]))
            num_bytes += len(encoded[-1])
            if num_bytes > most_bytes:
                raise DataError(
                    f"{where}: its first {i + 1:,} of {counted(len(images), 'image')} "
                    f"{agreeing(i + 1, 'takes', 'take')} {counted(num_bytes, 'byte')}, more than the {most_bytes:,} "
                    "of the file: it names the same content many times, to exhaust the memory"
                )
    return PairPack(encoded, labels)


def _as_sequence(part: Any, name: str, where: str) -> Sequence[Any]:
    part = _resolved(part, f"{where}: {name}")
    if isinstance(part, np.ndarray) and part.ndim in (1, 2) and part.size == len(part):
        return part.reshape(-1).tolist()
    if isinstance(part, tuple | list):
        return part
    raise DataError(f"{where}: {name} is {_describe(part)}; expected a list")


def _as_bytes(image: Any, where: str) -> bytes:
    """Returns an encoded image, given as bytes or as an array of them, as bytes."""
    if isinstance(image, ArrayStandIn) and isinstance(image.content, bytes):
        held = image.content
        array = _resolved(image, where)
        # Take the bytes of the file themselves: an array that is named many times is then not copied many times.
        image = held if isinstance(array, np.ndarray) and _is_encoded(array) else array
    image = _resolved(image, where)
    if isinstance(image, np.ndarray):
        if not _is_encoded(image):
            raise DataError(
                f"{where} is a {image.dtype} array of shape {image.shape}; expected encoded bytes, uint8 (n,) or (n, 1)"
            )
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray | memoryview):
        raise DataError(f"{where} is {_describe(image)}; expected the bytes of a JPEG or PNG")
    if not len(image):
        raise DataError(f"{where} is empty")
    return image if isinstance(image, bytes) else bytes(image)


def _is_encoded(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.size == max(array.shape, default=0)


def _resolved(value: Any, where: str) -> Any:
    """Turns a stand-in for an array into the array, or into a list of objects; returns anything else as it is."""
    if not isinstance(value, ArrayStandIn):
        return value
    try:
        return value.resolve()
    except Exception as error:  # its parts may be anything
        raise DataError(f"{where} is a damaged numpy array ({error}); fetch the pack again") from error


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {value.shape}"
    size = f" of {len(value):,}" if isinstance(value, tuple | list | bytes | str | dict) else ""
    text = f" {value}" if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63) else ""
    return f"{type(value).__name__}{size}{text}"
