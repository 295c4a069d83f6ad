"""Draws some of the faces in a data set, one row for each identity, so that wrong labels can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from facekd.data.datasets.record_pack import RecordPack
from facekd.errors import ImageError, RecordError
from facekd.files.writing import atomic_open
from facekd.images.decoding import decode_rgb
from facekd.images.encoding import encode_png
from facekd.utils.wording import counted

TILE = 112
PER_ROW = 8
CAPTION_HEIGHT = 14
MARGIN_WIDTH = 104
GAP = 4
BACKGROUND, INK, FAINT, ALARM = (255, 255, 255), (40, 40, 40), (110, 110, 110), (200, 30, 30)


def choose_images(labels: np.ndarray, num_images: int, seed: int = 0) -> list[list[int]]:
    """Picks about `num_images` images, in rows of up to 8 images of one identity.

    Args:
        labels: int64 (N,); negative for images without a usable label, which get rows of their own.
        num_images: how many to pick; fewer where the data set has fewer.
        seed: random seed of the choice.

    Returns:
        Rows of image numbers; the last row may be shortened so that the total is `num_images`.
    """
    generator = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    groups = np.split(order, bounds)
    rows: list[list[int]] = []
    remaining = num_images
    for group in generator.permutation(len(groups)).tolist():
        if remaining <= 0:
            break
        members = groups[group]
        size = min(len(members), PER_ROW, remaining)
        rows.append(sorted(generator.choice(members, size, replace=False).tolist()))
        remaining -= size
    return rows


class Guest(NamedTuple):
    """Describes an image from elsewhere that is shown in a row of images of the pack."""

    encoded: bytes
    caption: str


Row = Sequence[int | Guest]


def draw_contact_sheet(pack: RecordPack, rows: Sequence[Row]) -> np.ndarray:
    """Draws images of a pack with their keys below them, beside the label of each row: uint8 RGB (H, W, 3).

    Args:
        pack: the data set.
        rows: numbers of images of the pack, at least one in each row, and guests.
    """
    labels = pack.labels()
    num_columns = max(len(row) for row in rows)
    cell = TILE + GAP
    height = GAP + len(rows) * (cell + CAPTION_HEIGHT)
    sheet = np.full((height, MARGIN_WIDTH + num_columns * cell + GAP, 3), BACKGROUND, dtype=np.uint8)
    for row_number, row in enumerate(rows):
        top = GAP + row_number * (cell + CAPTION_HEIGHT)
        label = int(labels[next(image for image in row if isinstance(image, int))])
        count = int((labels == label).sum())
        _write(sheet, f"label {label}" if label >= 0 else "no label", 6, top + 52, INK, 0.45)
        _write(sheet, counted(count, "image"), 6, top + 70, FAINT, 0.38)
        for column, image in enumerate(row):
            left = MARGIN_WIDTH + column * cell
            caption = image.caption if isinstance(image, Guest) else f"key {pack.image_keys[image]}"
            sheet[top : top + TILE, left : left + TILE] = _tile(pack, image)
            _write(sheet, caption, left + 1, top + TILE + 11, FAINT, 0.36)
    return sheet


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes uint8 RGB (H, W, 3) as a PNG, atomically."""
    with atomic_open(path) as stream:
        stream.write(encode_png(image))


def _tile(pack: RecordPack, image: int | Guest) -> np.ndarray:
    """Fits an image into a square without changing its proportions; one that cannot be decoded becomes a note."""
    tile = np.full((TILE, TILE, 3), 225, dtype=np.uint8)
    try:
        pixels = decode_rgb(image.encoded if isinstance(image, Guest) else pack.read_image(image)[0])
    except (RecordError, ImageError):
        _write(tile, "unreadable", 20, TILE // 2, ALARM, 0.42)
        return tile
    height, width = pixels.shape[:2]
    scale = TILE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size != (width, height):
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (TILE - size[1]) // 2, (TILE - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = pixels
    return tile


def _write(image: np.ndarray, text: str, x: int, y: int, color: tuple[int, int, int], scale: float) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
