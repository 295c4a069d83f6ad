"""Tells the images of a record file from InsightFace's header and identity records, by looking at the records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from facekd.data.recordio import RecordReader
from facekd.data.recordio.format import EXACT_FLOAT32_INTEGERS, FRAME_SIZE, IMAGE_HEADER, unpack
from facekd.data.recordio.headers import read_headers
from facekd.errors import RecordError
from facekd.utils.wording import agreeing, counted

Layout = Literal["insightface", "im2rec"]
RANGE_RECORD = FRAME_SIZE + IMAGE_HEADER.size + 2 * 4  # bytes of a record of two labels and no image


@dataclass(frozen=True)
class RecordLayout:
    """Says what the rows of a record file are.

    Attributes:
        name: `"insightface"` or `"im2rec"`.
        image_rows: int64 (N,), rows of the images.
        identity_rows: int64 (C,), rows of InsightFace's identity records.
        declared_classes: number of identity records, or as many as the header record announces if there are none; None
            in the im2rec layout.
        num_appended: images that the header record counts among the identity records, or that lie behind those.
    """

    name: Layout
    image_rows: np.ndarray
    identity_rows: np.ndarray
    declared_classes: int | None
    num_appended: int = 0


def find_layout(reader: RecordReader, warnings: list[str]) -> RecordLayout:
    """Finds the layout of a record file.

    A header record is believed only where it gives a range of keys and some of the records from there on hold no image:
    im2rec packs have label arrays too, and may hold an image of no bytes under key 0. Every record with an image is an
    image, wherever it lies.

    Args:
        reader: reader of the file.
        warnings: receives sentences for people about what is unusual.

    Raises:
        RecordError: there are identity records, and the header record gives no range.
    """
    keys = np.asarray(reader.keys)
    every_row = np.arange(len(keys))
    images_only = RecordLayout("im2rec", every_row, every_row[:0], None)
    # Read the record under key 0: a header record has labels and no image.
    zeros = np.flatnonzero(keys == 0)
    if len(zeros) == 0:
        return images_only
    header_row = int(zeros[-1])
    try:
        header, image_bytes = unpack(reader.read_row(header_row))
    except RecordError as error:
        warnings.append(f"the record under key 0 cannot be read, so the layout is a guess: {error}")
        return _layout_without_header(reader, keys)
    if header.flag == 0 or image_bytes:
        return images_only
    bounds = np.asarray(header.label, dtype=np.float64)
    if not _is_range(bounds):
        if not _has_identities(reader, keys, header_row):
            return images_only
        raise RecordError(
            f"{reader.rec_path}: the header record (key 0) should give the first identity key, and says "
            f"{bounds.tolist()}",
            key=0,
        )

    # From the first identity key on, records without an image are identity records.
    first_identity = _first_identity_key(reader, keys, float(bounds[0]))
    is_behind = keys >= first_identity
    is_behind[header_row] = False
    behind = every_row[is_behind]
    has_image = _have_images(reader, keys, behind)
    if len(behind) and has_image.all():
        return images_only
    is_image = ~is_behind
    is_image[behind[has_image]] = True
    is_image[header_row] = False
    identity_rows = behind[~has_image]
    num_images, num_appended = int(is_image.sum()), int(has_image.sum())
    declared = _compare(bounds, first_identity, num_images, num_appended, len(identity_rows), warnings)
    if num_appended:
        warnings.append(_say_appended(num_appended, first_identity, reader.rec_path))
    return RecordLayout("insightface", every_row[is_image], identity_rows, declared, num_appended)


def _say_appended(count: int, first_identity: int, path: Path) -> str:
    """Says that images stand among the identity records, and how they are read."""
    return (
        f"{counted(count, 'image has a key', 'images have keys')} from {first_identity:,} on, where the header record "
        f"announces identity records; {agreeing(count, 'it is', 'they are')} read like all others, and the labels give "
        f"the number of classes (`facekd data convert {path} OUT` makes a pack with the right records)"
    )


def count_runs(reader: RecordReader, layout: RecordLayout) -> int:
    """Returns how many identity records give a range of keys with images in it, or 0 if float32 cannot say it.

    An identity has one such record. More of them than identities were written from a list that does not keep the images
    of a person together.
    """
    keys = np.asarray(reader.keys)
    image_keys, identities = keys[layout.image_rows], layout.identity_rows
    if len(identities) == 0 or image_keys.max() >= EXACT_FLOAT32_INTEGERS:
        return 0
    # A range with images starts with one of them; an empty range shares its start with the next.
    starts = read_headers(reader, np.asarray(reader.index.offsets)[identities], keys[identities]).labels
    return int(np.isin(np.unique(starts), image_keys).sum())


def _compare(
    bounds: np.ndarray,
    first_identity: int,
    num_images: int,
    num_appended: int,
    num_identities: int,
    warnings: list[str],
) -> int | None:
    """Compares with what the header record says, as far as float32 can say it; returns the number of classes."""
    declared = round(float(bounds[1]) - float(bounds[0])) if len(bounds) > 1 else num_identities
    is_exact = len(bounds) > 1 and bounds[1] <= EXACT_FLOAT32_INTEGERS
    if num_identities and declared != num_identities and is_exact:
        warnings.append(
            f"the header record announces {counted(declared, 'identity record')} and there "
            f"{agreeing(num_identities, 'is', 'are')} {num_identities:,}"
        )
    expected = first_identity - 1
    if num_images - num_appended != expected and bounds[0] < EXACT_FLOAT32_INTEGERS:
        warnings.append(
            f"the header record announces {counted(expected, 'image')} and there {agreeing(num_images, 'is', 'are')} "
            f"{num_images:,}"
        )
    return num_identities or declared or None


def _is_range(bounds: np.ndarray) -> bool:
    """Tells whether the labels of a header record can be a range of keys, `[first identity key, last + 1]`."""
    is_whole = bool(np.isfinite(bounds).all() and (bounds == np.floor(bounds)).all())
    return is_whole and bounds[0] >= 1 and (len(bounds) < 2 or bounds[1] >= bounds[0])


def _have_images(reader: RecordReader, keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns which rows, bool, hold an image. The index shows it of most: a record of two labels has 40 bytes."""
    offsets, extents = np.asarray(reader.index.offsets)[rows], np.asarray(reader.index.extents)[rows]
    has_image = np.zeros(len(rows), dtype=bool)
    is_unclear = (extents > RANGE_RECORD) | (extents <= 0)
    if is_unclear.any():
        headers = read_headers(reader, offsets[is_unclear], keys[rows[is_unclear]])
        has_image[is_unclear] = headers.is_readable & (headers.image_sizes > 0)
    return has_image


def _has_identities(reader: RecordReader, keys: np.ndarray, header_row: int) -> bool:
    """Tells whether records other than the header look like identity records, by the bytes that they take."""
    extents = np.asarray(reader.index.extents)
    rows = np.flatnonzero((extents > 0) & (extents <= RANGE_RECORD))
    rows = rows[rows != header_row]
    headers = read_headers(reader, np.asarray(reader.index.offsets)[rows], keys[rows])
    return bool((headers.is_empty & (headers.num_labels == 2) & (headers.labels >= 1)).any())


def _layout_without_header(reader: RecordReader, keys: np.ndarray) -> RecordLayout:
    """Finds the layout of a pack whose header record, written last, is lost: identity records follow all images."""
    headers = read_headers(reader, np.asarray(reader.index.offsets), keys)
    has_image = headers.is_readable & ~headers.is_empty
    last_image = keys[has_image].max() if has_image.any() else -1
    is_identity = headers.is_empty & (headers.num_labels == 2) & (keys > last_image)
    rows, identities = np.arange(len(keys)), int(is_identity.sum())
    return RecordLayout(
        "insightface" if identities else "im2rec", rows[~is_identity], rows[is_identity], identities or None
    )


def _first_identity_key(reader: RecordReader, keys: np.ndarray, announced: float) -> int:
    """Returns the key of the first identity record.

    The header gives it in float32, which is exact only up to 2^24. Above, the records nearby are looked at: an
    identity record holds no image.
    """
    if announced < EXACT_FLOAT32_INTEGERS:
        return int(announced)
    near = np.unique(keys[np.abs(keys - announced) <= np.spacing(np.float32(announced)) + 1])
    for key in near.tolist():
        if not unpack(reader.read_view(key))[1]:
            return key
    return int(announced)
