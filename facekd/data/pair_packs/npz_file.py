"""Reads and writes facekd's own verification packs, `.npz`, which hold subjects and folds and need no pickle.

A pack is a zip archive of numpy arrays: `format`, `version`, `data` (all encoded images, one after the other),
`offsets` (2N + 1: where each begins, and where the last ends), `is_same`, and, if they are known, `fold_of` and
`subjects`.
"""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np

from facekd.data.pair_packs.pair_pack import PairPack, validate_pairs
from facekd.data.pair_packs.people import contradicted_labels, describe_contradiction
from facekd.errors import DataError
from facekd.files.npy_files import unpack_npz
from facekd.files.writing import opened
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import agreeing, counted

FORMAT, VERSION = "facekd-pair-pack", 1
MAX_UNPACKED_RATIO = 4  # encoded images do not get smaller in a zip
NEEDED, OPTIONAL = ("format", "version", "data", "offsets", "is_same"), ("fold_of", "subjects")


def write_native_pair_pack(target: str | os.PathLike[str] | BinaryIO, pack: PairPack) -> None:
    """Writes a verification pack as `.npz`, atomically.

    Args:
        target: the file, or a stream.
        pack: the pairs; `fold_of` and `subjects` may be None.

    Raises:
        DataError: the counts do not fit together, or an image is empty.
    """
    checked = validate_pairs((pack.images, list(pack.is_same)), str(target))
    arrays = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION),
        "data": np.frombuffer(b"".join(checked.images), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, checked.images)], dtype=np.int64),
        "is_same": checked.is_same,
    }
    if pack.fold_of is not None:
        arrays["fold_of"] = np.asarray(pack.fold_of, dtype=np.int64)
    if pack.subjects is not None:
        arrays["subjects"] = np.asarray(pack.subjects, dtype=np.str_)
    _check_shapes(arrays, checked.is_same, str(target))
    with opened(target) as stream:
        np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]


def parse_native_pair_pack(content: bytes, where: str) -> PairPack:
    """Reads a pack from the bytes of an `.npz`.

    Args:
        content: the whole file.
        where: name of the file, for messages.

    Raises:
        DataError: it is another archive, damaged, or of a later version, its arrays do not fit together, or its labels
            contradict its subjects.
    """
    # Unpack the arrays.
    with reading(where, "a pack of facekd"):
        arrays = unpack_npz(io.BytesIO(content), where, MAX_UNPACKED_RATIO, (*NEEDED, *OPTIONAL))
    # It must be a pack of this version; each of the two is one value.
    named = arrays.get("format", np.empty(0))
    if {*NEEDED} - arrays.keys() or named.shape or named.dtype.kind != "U" or named.item() != FORMAT:
        raise DataError(f"{where}: is an archive, but not of verification pairs; expected {FORMAT}")
    version = arrays["version"]
    if version.shape or version.dtype.kind not in "iu" or version.item() != VERSION:
        raise DataError(f"{where}: is a pack of version {shown(version, 60)}; this facekd reads version {VERSION}")
    # Cut the bytes into images.
    data, offsets = arrays["data"], arrays["offsets"]
    is_sound = data.dtype == np.uint8 and data.ndim == 1 and offsets.dtype == np.int64 and offsets.ndim == 1
    if (
        not is_sound
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != len(data)
        or (offsets[1:] < offsets[:-1]).any()
    ):
        raise DataError(f"{where}: its offsets do not fit its {counted(data.size, 'byte')} of images; make it again")
    raw = data.tobytes()
    images = [raw[start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    # Its labels, (N,) or a column (N, 1), and what else it says of the pairs.
    pack = validate_pairs((images, arrays["is_same"]), where)
    _check_shapes(arrays, pack.is_same, where)
    return PairPack(pack.images, pack.is_same, arrays.get("subjects"), arrays.get("fold_of"))


def _check_shapes(arrays: dict[str, np.ndarray], is_same: np.ndarray, where: str) -> None:
    """Raises unless folds and subjects, if there are any, fit the pairs and their labels."""
    num_pairs = len(is_same)
    for name, shape, kind in (("fold_of", (num_pairs,), "i"), ("subjects", (num_pairs, 2), "U")):
        array = arrays.get(name)
        if array is not None and (array.shape != shape or array.dtype.kind != kind):
            raise DataError(f"{where}: {name} has shape {array.shape} and type {array.dtype}; expected {shape}")
    subjects = arrays.get("subjects")
    if subjects is not None and (odd := contradicted_labels(subjects, is_same)).size:
        raise DataError(
            f"{where}: {odd.size:,} of its {counted(num_pairs, 'label')} "
            f"{agreeing(odd.size, 'contradicts', 'contradict')} its subjects: the first, "
            f"{describe_contradiction(subjects, is_same, int(odd[0]))}; correct the label or the name"
        )
    folds = arrays.get("fold_of")
    distinct = np.unique([] if folds is None else folds)
    if not np.array_equal(distinct, np.arange(len(distinct))):
        raise DataError(f"{where}: its folds are {distinct.tolist()[:9]}; expected 0, 1, 2, ... without gaps")
