"""Defines a set of listed images with their roles: galleries, probes, distractors and pairs.

Shapes: N images, n entries (templates) of a gallery or of the probes, F images of entries, P pairs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from facekd.errors import DataError, FacekdError, ImageError
from facekd.images.decoding import decode_rgb
from facekd.images.image_files import LeftOut, is_image_name, read_folder, read_image_file
from facekd.images.preprocessing import fit_images
from facekd.utils.foreign import leads_out, shown, some_of
from facekd.utils.text_arrays import text_array
from facekd.utils.wording import agreeing, counted

NOBODY = "/"  # begins the name of a subject who is not known; no name of a folder or list has it


@dataclass(frozen=True)
class Entries:
    """Holds the entries of a gallery, or the probes: an entry is one image, or several that are pooled.

    Attributes:
        subjects: text (n,) whose each entry is; one that begins with `NOBODY` is of a stranger.
        images: int64 (F,) the images, entry by entry.
        of_entry: int64 (F,) the entry of each image, ascending.
    """

    subjects: np.ndarray
    images: np.ndarray
    of_entry: np.ndarray

    def __len__(self) -> int:
        return len(self.subjects)

    @classmethod
    def single(cls, subjects: Sequence[str], first: int) -> Entries:
        """Returns entries of one image each, the images numbered on from `first`."""
        numbers = np.arange(len(subjects))
        return cls(text_array(subjects, "the lists of the set"), first + numbers, numbers)

    def without(self, is_lost: np.ndarray) -> Entries:
        """Returns the entries without some images (N,); those left without any are left out."""
        kept = ~is_lost[self.images]
        left, of_entry = np.unique(self.of_entry[kept], return_inverse=True)
        return Entries(self.subjects[left], self.images[kept], of_entry.reshape(-1))


NO_ENTRIES = Entries(np.zeros(0, np.str_), np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class ImagePairs:
    """Holds pairs of images: (P,) each; `subjects` is (P, 2), text or whole numbers."""

    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray
    subjects: np.ndarray

    def without(self, is_lost: np.ndarray) -> ImagePairs:
        """Returns the pairs of which no image (N,) is lost."""
        kept = ~(is_lost[self.first] | is_lost[self.second])
        return ImagePairs(self.first[kept], self.second[kept], self.is_same[kept], self.subjects[kept])


@dataclass(frozen=True)
class ListedSet:
    """Holds a set: its images by name, and what they are for.

    Attributes:
        kind: name of the protocol.
        root: the folder that image names begin at.
        names: of the N images, below the root, with `/` between folders.
        galleries: galleries by name, each searched with all probes.
        probes: the probes.
        distractors: int64 (d,) images of strangers, added to each gallery.
        pairs: pairs for 1:1 verification, or None.
        leave_one_out: whether the probes are also each other's mates, one at a time, among the distractors alone.
        published: counts that the set is known to have, by name.
        remarks: sentences about what the lists are unusual in.
    """

    kind: str
    root: Path
    names: list[str]
    galleries: dict[str, Entries] = field(default_factory=dict)
    probes: Entries = NO_ENTRIES
    distractors: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: ImagePairs | None = None
    leave_one_out: bool = False
    published: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Counts the images, entries and subjects in each role."""
        known = [subject for subject in np.unique(self.probes.subjects).tolist() if not subject.startswith(NOBODY)]
        found = {"num_images": len(self.names)}
        for name, gallery in self.galleries.items():
            label = "" if len(self.galleries) == 1 else f"_{name}"
            found[f"num_gallery{label}"] = len(gallery)
            found[f"num_gallery_subjects{label}"] = len(np.unique(gallery.subjects))
        if self.galleries:
            found |= {
                "num_probes": len(self.probes),
                "num_probe_subjects": len(known),
                "num_distractors": len(self.distractors),
            }
        if self.pairs is not None:
            found |= {
                "num_genuine_pairs": int(self.pairs.is_same.sum()),
                "num_impostor_pairs": int((~self.pairs.is_same).sum()),
            }
        return found

    def fingerprint(self) -> str:
        """Returns a digest of the lists: of the names, the roles and the pairs."""
        digest = hashlib.sha256("\n".join([self.kind, *self.names]).encode(errors="surrogateescape"))
        for entries in (*self.galleries.values(), self.probes):
            digest.update("\n".join(entries.subjects.tolist()).encode(errors="surrogateescape"))
            digest.update(entries.images.tobytes() + entries.of_entry.tobytes())
        digest.update(self.distractors.tobytes())
        if self.pairs is not None:
            digest.update(self.pairs.first.tobytes() + self.pairs.second.tobytes() + self.pairs.is_same.tobytes())
        return digest.hexdigest()

    def used(self) -> np.ndarray:
        """Returns the images that some role needs, ascending."""
        roles = [self.probes.images, self.distractors, *(gallery.images for gallery in self.galleries.values())]
        if self.pairs is not None:
            roles += [self.pairs.first, self.pairs.second]
        return np.unique(np.concatenate(roles))

    def without(self, is_lost: np.ndarray) -> ListedSet:
        """Returns the set without some images (N,) in any role; the names stay, so that numbers do."""
        return replace(
            self,
            galleries={name: gallery.without(is_lost) for name, gallery in self.galleries.items()},
            probes=self.probes.without(is_lost),
            distractors=self.distractors[~is_lost[self.distractors]],
            pairs=None if self.pairs is None else self.pairs.without(is_lost),
        )

    def losses(self, is_lost: np.ndarray) -> dict[str, int]:
        """Counts the images that are lost in each role: failures to acquire, in the words of ISO/IEC 19795-1."""
        galleries = [gallery.images for gallery in self.galleries.values()]
        roles = {"gallery": np.concatenate(galleries) if galleries else np.zeros(0, np.int64)}
        roles |= {"probe": self.probes.images, "distractor": self.distractors}
        if self.pairs is not None:
            roles["pair"] = np.concatenate([self.pairs.first, self.pairs.second])
        return {role: int(is_lost[np.unique(images)].sum()) for role, images in roles.items() if len(images)}


class ListedFaces:
    """Provides the images of a set to `FaceEmbeddings`: aligned faces, read when they are needed.

    Args:
        listed: the set.
        resize: whether to scale images of another size instead of refusing them.
    """

    def __init__(self, listed: ListedSet, resize: bool) -> None:
        self._listed, self._resize = listed, resize
        names = hashlib.sha256("\n".join(listed.names).encode(errors="surrogateescape")).hexdigest()
        self.fingerprint = f"{names} {'resized' if resize else 'as they are'}"
        self.num_listed = len(listed.names)

    def image_name(self, image: int) -> str:
        """Returns the name of an image, below the root."""
        return shown(self._listed.names[image])

    def image_path(self, image: int) -> Path:
        """Returns the file of an image."""
        return self._listed.root / self._listed.names[image]

    def read_face(self, image: int, size: int) -> np.ndarray:
        """Reads an image: uint8 RGB (size, size, 3).

        Raises:
            ImageError: it cannot be read or decoded, or has another size.
            OSError: the disk fails.
        """
        pixels = decode_rgb(read_image_file(self.image_path(image)))
        try:
            return fit_images(pixels[None], size, self._resize)[0]
        except FacekdError as error:
            raise ImageError(str(error)) from error


def check_names(path: Path, names: Sequence[str]) -> None:
    """Refuses names of images that are no images or lead out of the folder.

    Raises:
        DataError: naming the list and the first of them.
    """
    bad = [name for name in names if not is_image_name(name) or leads_out(name)]
    if bad:
        raise DataError(
            f"{path}: {len(bad):,} of {counted(len(names), 'name')} "
            f"{agreeing(len(bad), 'is not of an image', 'are not of images')} below the folder, the first "
            f"{shown(bad[0])}"
        )
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise DataError(f"{path}: lists {shown(twice)} twice; each image has one line")


def check_mates(path: Path, probes: Sequence[str], gallery: Sequence[str], why: str) -> None:
    """Refuses probes of people who are not in the gallery.

    Args:
        path: the list of probes, for messages.
        probes, gallery: the identities.
        why: ends the message, such as "mated probes have a mate there".

    Raises:
        DataError: naming the list and the first of them.
    """
    absent = sorted({*probes} - {*gallery})
    if absent:
        raise DataError(
            f"{path}: {len(absent):,} of its identities {agreeing(len(absent), 'is', 'are')} not in the gallery, the "
            f"first {shown(absent[0])}; {why}"
        )


def images_in(folder: Path) -> list[str]:
    """Returns the names of the images in a folder, sorted; none if there is no folder."""
    return read_folder(folder, LeftOut())[0] if folder.is_dir() else []


def find_missing(listed: ListedSet) -> np.ndarray:
    """Tells which images that some role needs are not there: bool (N,). Folders are listed once each."""
    is_missing = np.zeros(len(listed.names), bool)
    inside: dict[str, set[str]] = {}
    for image in listed.used().tolist():
        folder, _, file = listed.names[image].rpartition("/")
        if folder not in inside:
            try:
                inside[folder] = {*os.listdir(listed.root / folder)}  # noqa: PTH208 - a million names, and no paths
            except OSError:
                inside[folder] = set()
        is_missing[image] = file not in inside[folder]
    return is_missing


def refuse_missing(listed: ListedSet, is_missing: np.ndarray) -> None:
    """Refuses a set of which images are missing, with their counts by role.

    Raises:
        DataError: naming the first ones.
    """
    if is_missing.any():
        numbers = np.flatnonzero(is_missing)
        by_role = ", ".join(f"{count:,} {role}" for role, count in listed.losses(is_missing).items() if count)
        raise DataError(
            f"{listed.root}: {len(numbers):,} of {counted(len(listed.used()), 'listed image')} "
            f"{agreeing(len(numbers), 'is', 'are')} missing ({by_role}), the first "
            f"{some_of([listed.names[number] for number in numbers[:4].tolist()])}; unpack the set again, or leave "
            "them out by --on-missing drop"
        )
