"""Cuts the faces of a gallery out of their photographs again, where those are still at their place."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from facekd.errors import FacekdError, is_device_failure
from facekd.faces.finding import ImageSource, cut_face
from facekd.faces.gallery import Gallery
from facekd.faces.image_inputs import Images, list_images
from facekd.images.decoding import decode_rgb
from facekd.images.image_files import read_image_file

PACK_SUFFIXES = (".rec", ".bin", ".npz")
CROP_SIDE, LARGEST_SIDE = 112, 224  # pixels: of what is cut out, and of what is shown whole


class FaceCrops:
    """Cuts out faces by the landmarks that a gallery holds; an aligned crop is shown as it is.

    Names are those that the gallery's images had when it was made, so that relative ones count from the same folder.
    A gallery may be a stranger's, and name any file: only those below some folders are opened, links followed.

    Args:
        roots: the folders.
        named: names of images that may be opened wherever they are, because the user named them.

    Attributes:
        left_out: the names that were not opened because they lie elsewhere, in the order in which they were met.
    """

    def __init__(self, roots: Sequence[Path], named: Collection[str] = ()) -> None:
        self.left_out: dict[str, None] = {}
        self._roots = [os.path.realpath(root) for root in roots]
        self._named = frozenset(named)
        self._packs: dict[str, tuple[Images, dict[str, int]] | None] = {}

    def cut(self, gallery: Gallery, row: int) -> np.ndarray | None:
        """Returns a face of a gallery, uint8 RGB (H, W, 3); None if its image is gone, left out or cannot be read.

        Raises:
            OSError: the disk fails.
        """
        try:
            pixels = self._read(str(gallery.names[row]))
        except FacekdError:
            return None
        except OSError as error:
            if is_device_failure(error):
                raise
            return None
        landmarks = gallery.landmarks[row]
        if pixels is None or not np.isfinite(landmarks).all():
            return None if pixels is None else _shrunk(pixels)
        return cut_face(pixels, landmarks.astype(np.float64), CROP_SIDE)[0]

    def _read(self, name: str) -> np.ndarray | None:
        """Returns the pixels of an image by its name in a gallery; None for one that is left out or not there."""
        if not self._may_open(name, name):
            return None
        if Path(name).is_file():
            return decode_rgb(read_image_file(Path(name)))
        source = self._read_from_pack(name)
        if source is None or isinstance(source, np.ndarray):
            return source
        return decode_rgb(source if isinstance(source, bytes) else read_image_file(Path(source)))

    def _read_from_pack(self, name: str) -> ImageSource | None:
        """Returns an image of a pack, named `FILE.rec#KEY` or `PACK.bin#NUMBER`; None if it is left out or gone."""
        pack = name.rpartition("#")[0]
        if not pack.lower().endswith(PACK_SUFFIXES) or not self._may_open(name, pack):
            return None
        if pack not in self._packs:
            self._packs[pack] = None
            if Path(pack).is_file():
                images = list_images([pack])
                self._packs[pack] = images, {name: index for index, name in enumerate(images.names)}
        opened = self._packs[pack]
        return opened[0].read(opened[1][name]) if opened and name in opened[1] else None

    def _may_open(self, name: str, file: str) -> bool:
        """Tells whether the file of an image may be opened; notes the name of one that may not."""
        if name in self._named:
            return True
        try:
            place = os.path.realpath(file)
        except (OSError, ValueError):  # a zero byte in the name
            place = ""
        is_inside = any(place == root or place.startswith(os.path.join(root, "")) for root in self._roots)  # noqa: PTH118
        if not is_inside:
            self.left_out[name] = None
        return is_inside


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """Returns an image that is not larger than a page has use for."""
    height, width = pixels.shape[:2]
    scale = LARGEST_SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return pixels if scale >= 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
