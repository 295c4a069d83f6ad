"""Reads folders of aligned faces as images with a person each, when they are needed.

There is either one folder of images for each person, or, as in TinyFace, image files whose names begin with the person:
`12_1.jpg` shows person 12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np

from facekd.errors import DataError, FacekdError, ImageError
from facekd.images.decoding import decode_rgb
from facekd.images.image_files import Reason, list_by_folder, read_image_file, read_named_image
from facekd.images.preprocessing import fit_images
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted


class FaceFolder:
    """Provides the images of a folder and who is in them.

    Args:
        folder: folder of the images.
        image_size: image size S of the model.
        resize: whether to scale images of another size instead of refusing them.
        at_most: number of images to take of each person, in order of their names; None for all.
        nobody: whether the images show unknown people, as distractors do; names are then ignored and may be anything.

    Attributes:
        warnings: a sentence about what in the folder is not read, if anything.

    Raises:
        DataError: no images, or files whose names do not say who is in them.
    """

    def __init__(
        self, folder: Path, image_size: int, resize: bool = False, at_most: int | None = None, nobody: bool = False
    ) -> None:
        self.name = folder.name
        self._folder, self._size, self._resize = folder, image_size, resize
        if not folder.is_dir():
            raise DataError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; expected one of images")
        found, self.warnings = _list(folder, nobody)
        # The images person by person, in order of the names.
        kept: dict[str, list[str]] = {}
        for person, file in found:
            kept.setdefault(person, []).append(file)
        if at_most is not None and not nobody:
            kept = {person: files[:at_most] for person, files in kept.items()}
        self.files = [file for files in kept.values() for file in files]
        self.people = np.array([person for person, files in kept.items() for _ in files])
        self.images: Sequence[bytes] = _Files(folder, self.files)

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digests(self) -> list[bytes]:
        """Returns a digest of the content of each file."""
        return [hashlib.sha256(image).digest() for image in self.images]

    def describe(self, number: int) -> str:
        """Returns the path of an image, for messages."""
        return str(self._folder / self.files[number])

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop`: uint8 RGB (B, S, S, 3).

        Raises:
            ImageError: an image cannot be read or decoded, or has another size; the message names it.
        """
        batch = np.empty((stop - start, self._size, self._size, 3), np.uint8)
        for row, file in enumerate(self.files[start:stop]):
            try:
                image = decode_rgb(read_image_file(self._folder / file))
                batch[row] = fit_images(image[None], self._size, self._resize)[0]
            except FacekdError as error:
                raise ImageError(f"{self._folder / file}: {error}") from error
        return batch


class _Files(Sequence[bytes]):
    """Reads the contents of files at each access: folders may be larger than memory."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return read_named_image(self._folder / self._names[index])


def _list(folder: Path, nobody: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns (person, file below the folder) in order of the names, and what was left out.

    `nobody` gives each image a person of its own.
    """
    # Images in the folder itself, and images in a folder for each person; empty folders are reported.
    listing = list_by_folder(folder)
    loose = listing.outside
    nested = [(person, f"{person}/{file}") for person, files in listing.by_folder.items() for file in files]
    if not loose and not nested:
        raise DataError(
            f"{folder}: holds no images; expected one folder of them for each person, or files "
            f" called PERSON_NUMBER.jpg{listing.explain()}"
        )
    for person, files in listing.by_folder.items():
        if not files:
            listing.left_out.add(Reason.EMPTY, person)
    if nobody:
        return [(file, file) for file in (*loose, *(file for _, file in nested))], listing.left_out.warnings()
    warnings = listing.warnings()
    # One of the two layouts, never both.
    if loose and nested:
        raise DataError(
            f"{folder}: holds folders and image files ({shown(loose[0])}); give either one folder per person, or files "
            "called PERSON_NUMBER.jpg"
        )
    if nested:
        return nested, warnings
    # Names say who is in an image: PERSON_NUMBER.jpg.
    unnamed = [file for file in loose if not Path(file).stem.rpartition("_")[0]]
    if unnamed:
        raise DataError(
            f"{folder}: {len(unnamed):,} of {counted(len(loose), 'name')} {agreeing(len(unnamed), 'does', 'do')} not "
            f"say who is in the image, the first {shown(unnamed[0])}; expected one folder per person, or "
            "PERSON_NUMBER.jpg"
        )
    return [(Path(file).stem.rpartition("_")[0], file) for file in loose], warnings
