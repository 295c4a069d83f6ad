"""Reads embeddings that were made elsewhere, for models that do not run here: of a pack in order, of a folder by name.

Shapes: M images, D embedding values. A row holds one embedding, or that of the image and then that of its mirror image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.sets.embedding_rows import NpyRows, halves_agree
from facekd.errors import DataError, InputError
from facekd.faces.gallery import holds_mirror_images
from facekd.files.npy_files import read_npz
from facekd.files.reading import sha256_of_file
from facekd.files.unchanged import unchanged
from facekd.utils.foreign import shown
from facekd.utils.wording import counted


@dataclass(frozen=True)
class GivenEmbeddings:
    """Holds embeddings (M, D), those of the mirror images if there are any, and their entry in results.json.

    `has_mirror_inside` says that they are added already, as in a gallery of `facekd embed --flip`.
    """

    plain: np.ndarray
    mirrored: np.ndarray | None
    about: dict[str, Any]
    has_mirror_inside: bool = False

    def compared(self, flip: bool | None, rows: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, bool]:
        """Returns the embeddings to compare, and whether those of the mirror images are added.

        Args:
            flip: whether to add them; None adds them if there are any.
            rows: which rows, in which order; by default all.

        Raises:
            InputError: they are to be added, and there are none; or not, and they are inside.
        """
        if self.has_mirror_inside:
            if flip is False:
                raise InputError(
                    f"--no-flip: {self.about['path']} was embedded with the mirror images; embed again with --no-flip"
                )
            return self.plain[rows], True
        if flip and self.mirrored is None:
            raise InputError(
                f"--flip: {self.about['path']} holds no embeddings of mirror images; leave --flip out, or give rows of "
                "both, with --embeddings-flipped"
            )
        # Added as they are after a model has run here, so that equal embeddings give equal results.
        if self.mirrored is None or flip is False:
            return self.plain[rows], False
        return self.plain[rows] + self.mirrored[rows], True


def read_embeddings_of_pack(
    path: str | os.PathLike[str], holds_flipped: bool | None, num_images: int
) -> GivenEmbeddings:
    """Reads a .npy of one row for each image of a pack: rows 2i and 2i + 1 are the images of pair i.

    Args:
        path: the file.
        holds_flipped: whether rows are (plain, mirrored); None decides by whether the halves agree.
        num_images: number of images of the pack.

    Raises:
        DataError: not a .npy file of numbers, another number of rows, or halves that are not clear.
    """
    with unchanged(path):
        rows = NpyRows(path, None, holds_flipped, num_images, "one for each image of the pack, those of pair 0 first")
        plain, mirrored = rows.read(0, num_images)
        return _given(Path(path), plain, mirrored, rows.shape, rows.dtype)


def read_named_embeddings(
    path: str | os.PathLike[str], holds_flipped: bool | None
) -> tuple[GivenEmbeddings, dict[str, int]]:
    """Reads a .npz of `names`, text (M,), and `embeddings`, (M, D) or (M, 2D).

    Args:
        path: the file.
        holds_flipped: as for `read_embeddings_of_pack`.

    Returns:
        The embeddings, and the row of each name.

    Raises:
        DataError: not such a file, a name that is there twice, or halves that are not clear.
    """
    with unchanged(path):
        return _read_named(Path(path), holds_flipped)


def _read_named(path: Path, holds_flipped: bool | None) -> tuple[GivenEmbeddings, dict[str, int]]:
    remedy = "write it by np.savez(path, names=..., embeddings=...)"
    arrays = read_npz(path, remedy, ("names", "embeddings"))
    if missing := {"names", "embeddings"} - arrays.keys():
        raise DataError(f"{path}: holds no {' and no '.join(sorted(missing))}; {remedy}")
    names, rows = arrays["names"], arrays["embeddings"]
    # One name for each row.
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape or names.shape != rows.shape[:1]:
        raise DataError(
            f"{path}: names have shape {names.shape}, and embeddings {rows.dtype} {rows.shape}; expected text (M,) and "
            "real numbers (M, D)"
        )
    if names.dtype.kind not in "US":
        raise DataError(f"{path}: names are {names.dtype}; expected text, the file of each image below --images")
    listed = [os.fsdecode(name) for name in names.tolist()]  # names of files are any bytes
    places = {name: row for row, name in enumerate(listed)}
    if len(places) < len(listed):
        twice = next(name for row, name in enumerate(listed) if places[name] != row)
        raise DataError(f"{path}: names {shown(twice)} twice; give each image once")
    # One embedding in a row, or two.
    width = rows.shape[1]
    if holds_flipped is None:
        holds_flipped = width % 2 == 0 and halves_agree(rows, path)
    if holds_flipped and width % 2:
        raise DataError(f"{path}: rows of {counted(width, 'value')} cannot be two embeddings of equal size")
    half = width // 2 if holds_flipped else width
    mirrored = rows[:, half:] if holds_flipped else None
    given = _given(path, rows[:, :half], mirrored, rows.shape, rows.dtype)
    is_inside = mirrored is None and holds_mirror_images(path)
    return replace(given, has_mirror_inside=is_inside), places


def rows_by_name(places: dict[str, int], wanted: Sequence[str], path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the row of each image.

    Raises:
        DataError: images without a row, naming the first.
    """
    lacking = [name for name in wanted if name not in places]
    if lacking:
        raise DataError(
            f"{path}: has no embeddings of {len(lacking):,} of {counted(len(wanted), 'image')}, the first "
            f"{shown(lacking[0])}; names are the files below --images, such as PERSON/IMAGE.jpg"
        )
    return np.array([places[name] for name in wanted])


def _given(
    path: Path, plain: np.ndarray, mirrored: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> GivenEmbeddings:
    about = {
        "path": str(path.resolve()),
        "sha256": sha256_of_file(path),
        "shape": list(shape),
        "dtype": str(dtype),
        "holds": "plain" if mirrored is None else "plain+flipped",
        "embedding_size": plain.shape[1],
    }
    # Half precision would be lost in the sum.
    exact = np.float32 if dtype == np.float16 else dtype
    both = (None if some is None else np.asarray(some, exact) for some in (plain, mirrored))
    first, second = both
    assert first is not None
    return GivenEmbeddings(first, second, about)
