"""Holds a verification protocol whose images are files that lists name, each in many pairs: RFW and BFW."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from evaluation.groups.group_file import GroupFile
from evaluation.sets.pair_set import PairSet
from facekd.data.pair_packs.pair_pack import decode_images
from facekd.errors import DataError, InputError
from facekd.files.reading import is_listed_file, sha256_of_file
from facekd.images.image_files import read_named_image
from facekd.utils.foreign import some_of
from facekd.utils.text_arrays import text_array
from facekd.utils.wording import agreeing, counted
from facekd.verification.kfold import FoldKind, choose_folds
from facekd.verification.scores import unit_rows

PAIRS_CHUNK = 1 << 15  # pairs scored together


class FileImages:
    """Provides the images of M files, read when they are needed.

    Args:
        name: the set, for progress.
        files: the files.
    """

    def __init__(self, name: str, files: Sequence[Path]) -> None:
        self.name = name
        self.files = files

    @property
    def images(self) -> Sequence[bytes]:
        """Returns the contents of the files, each read when it is asked for."""
        return _Contents(self.files)

    @cached_property
    def digests(self) -> list[bytes]:
        """Returns a digest of the content of each file.

        Raises:
            DataError: one is no regular file.
        """
        return [bytes.fromhex(sha256_of_file(file)) for file in self.files]

    def decode(self, start: int, stop: int) -> np.ndarray:
        """Decodes images `start` to `stop`: uint8 RGB (B, H, W, 3)."""
        return self.decode_some(range(start, stop))

    def decode_some(self, numbers: Sequence[int]) -> np.ndarray:
        """Decodes images by their numbers: uint8 RGB (B, H, W, 3).

        Raises:
            ImageError: one cannot be read.
            DataError: one does not decode or has another size.
        """
        decoded = [
            decode_images([read_named_image(self.files[number])], first_image=number, source=self.files[number])[0]
            for number in numbers
        ]
        odd = [row for row, image in enumerate(decoded) if image.shape != decoded[0].shape]
        if odd:
            first, other = self.files[numbers[0]], self.files[numbers[odd[0]]]
            raise DataError(
                f"{other}: is {decoded[odd[0]].shape[1]} x {decoded[odd[0]].shape[0]} pixels, and {first} "
                f"{decoded[0].shape[1]} x {decoded[0].shape[0]}; give aligned faces of one size (`facekd data align`)"
            )
        return np.stack(decoded)


class _Contents(Sequence[bytes]):
    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:  # type: ignore[override]
        if isinstance(index, slice):
            return _Contents(self._files[index])
        return read_named_image(self._files[index])


@dataclass(frozen=True)
class FilePairs(PairSet):
    """Holds N pairs of M image files, and the groups of the people on them; see `PairSet`.

    Attributes:
        files: the M images; `images` are theirs.
        image_of: int64 (2N,), the number of each image of the pairs.
        groups: the groups that the set itself gives, by `person`.
    """

    files: FileImages = field(default_factory=lambda: FileImages("", []))
    image_of: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    groups: GroupFile | None = None

    @property
    def embedded(self) -> FileImages:
        """See `PairSet.embedded`: each file is embedded once."""
        return self.files

    @property
    def places(self) -> np.ndarray:
        """See `PairSet.places`."""
        return self.image_of

    def decode(self, start: int, stop: int) -> np.ndarray:
        """See `PairSet.decode`."""
        return self.files.decode_some(self.image_of[start:stop].tolist())

    def cosines(self, embeddings: np.ndarray) -> np.ndarray:
        """See `PairSet.cosines`; in pieces, since an image is in many pairs."""

        def refuse(rows: np.ndarray) -> DataError:
            return DataError(
                f"{self.files.files[int(rows[0])]}: its embedding has no direction (all zeros, or not finite), as "
                f"{agreeing(rows.size - 1, 'has', 'have')} {rows.size - 1:,} more: the model is broken or its "
                "preprocessing wrong"
            )

        rows = unit_rows(embeddings.astype(np.float64), refuse)
        first, second = self.image_of[0::2], self.image_of[1::2]
        scores = np.empty(len(first))
        for start in range(0, len(first), PAIRS_CHUNK):
            some = slice(start, start + PAIRS_CHUNK)
            scores[some] = np.einsum("nd,nd->n", rows[first[some]], rows[second[some]])
        return np.clip(scores, -1.0, 1.0)


@dataclass
class ListedPairs:
    """Collects the pairs of a set line by line.

    Attributes:
        names: the image of each side, two a pair: a path below the folder of images.
        subjects: the person on it.
        is_same: the label of each pair.
        folds: the fold of each pair, from 0.
    """

    names: list[str] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    is_same: list[bool] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)

    def add(self, names: tuple[str, str], subjects: tuple[str, str], fold: int) -> None:
        """Adds a pair; it is genuine if both subjects are one."""
        self.names += names
        self.subjects += subjects
        self.is_same.append(subjects[0] == subjects[1])
        self.folds.append(fold)

    def to_set(
        self,
        path: Path,
        images: Path,
        lists: Sequence[Path],
        groups: GroupFile,
        warnings: Sequence[str],
        folds: int,
        fold_kind: FoldKind,
    ) -> FilePairs:
        """Returns the set, after looking for its images.

        Args:
            path: what `--pairs` named.
            images: the folder of the images.
            lists: the files that name the pairs.
            groups: the groups of the people.
            warnings: sentences about what is unusual in the lists.
            folds, fold_kind: see `choose_folds`.

        Raises:
            DataError: images are missing, naming the first; or all pairs are of one kind.
            InputError: there are too few pairs for the folds.
        """
        is_same = np.array(self.is_same)
        if not is_same.any() or is_same.all():
            raise DataError(f"{path}: all {counted(len(is_same), 'pair is', 'pairs are')} of one kind; both are needed")
        numbers: dict[str, int] = {}
        image_of = np.array([numbers.setdefault(name, len(numbers)) for name in self.names])
        found = [(images / name) for name in numbers]
        missing = [name for name, file in zip(numbers, found, strict=True) if not is_listed_file(file)]
        if missing:
            raise DataError(
                f"{path}: {len(missing):,} of the {counted(len(numbers), 'image')} that its pairs name "
                f"{agreeing(len(missing), 'is', 'are')} missing in {images}: {some_of(missing)}"
            )
        try:
            chosen = choose_folds(is_same, folds, np.unique(self.folds, return_inverse=True)[1], fold_kind)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        files = FileImages(path.stem, found)
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in lists))
        for content in files.digests:
            digest.update(content)
        return FilePairs(
            path.stem,
            path,
            files.images,
            is_same,
            chosen.fold_of,
            text_array(self.subjects, path).reshape(-1, 2),
            chosen.kind,
            tuple(f"{path}: {warning}" for warning in (*chosen.warnings, *warnings)),
            digest.hexdigest(),
            self.names,
            files,
            image_of,
            groups,
        )
