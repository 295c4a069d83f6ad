"""Reads MegaFace's challenge 1 in the layout of InsightFace's test pack: FaceScrub probes among a million distractors.

Each probe is searched once for each other image of its person, which is alone in the gallery with the distractors. The
lists of noisy images name what is left out: InsightFace's own script instead replaces a noisy probe by a vector near
the centre of its person, so its numbers can differ a little.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluation.protocols.listed_set import Entries, ListedSet, check_names
from facekd.errors import DataError
from facekd.files.reading import read_text_file
from facekd.utils.foreign import some_of
from facekd.utils.text_arrays import text_array
from facekd.utils.wording import agreeing, counted

NUM_PROBES = 3_530  # before noisy images are left out
# The list, its folder of images, the list of noisy ones, and how many last parts of a line are the name.
PROBES = ("facescrub_lst", "facescrub_images", "facescrub_noises.txt", 2)
DISTRACTORS = ("megaface_lst", "megaface_images", "megaface_noises.txt", 3)


def load_megaface(root: Path) -> ListedSet:
    """Reads the lists.

    Args:
        root: the folder that holds facescrub_lst, megaface_lst, and their folders of images; the lists of noisy images
            may be absent.

    Raises:
        DataError: a list is missing, or names what is no image.
    """
    probes, noisy_probes, about_probes = _read(root, *PROBES)
    strangers, noisy_strangers, about_strangers = _read(root, *DISTRACTORS)
    names = [*probes, *strangers]
    subjects = text_array([name.split("/")[-2] for name in probes], root)
    kept = np.flatnonzero(~noisy_probes)
    entries = Entries(subjects[kept], kept, np.arange(len(kept)))
    people, images_each = np.unique(entries.subjects, return_counts=True)
    single = people[images_each < 2].tolist()
    remarks = [*about_probes, *about_strangers]
    if single:
        remarks.append(f"people with one image, which has no mate: {len(single):,}, the first {some_of(single)}")
    if len(probes) != NUM_PROBES:
        remarks.append(f"facescrub_lst has {counted(len(probes), 'image')}; the challenge has {NUM_PROBES:,}")
    return ListedSet(
        "megaface",
        root,
        names,
        {"distractors": entries},
        entries,
        len(probes) + np.flatnonzero(~noisy_strangers),
        leave_one_out=True,
        remarks=tuple(remarks),
    )


def _read(root: Path, file: str, folder: str, noises: str, parts: int) -> tuple[list[str], np.ndarray, list[str]]:
    """Returns the names of a list, which of them are noisy (n,), and remarks."""
    path = root / file
    if not path.is_file():
        raise DataError(f"{path}: is missing; expected facescrub_lst and megaface_lst of InsightFace's test pack")
    lines = [line.strip() for line in read_text_file(path, has_file_names=True).split("\n") if line.strip()]
    short = [line for line in lines if len(line.split("/")) < parts]
    if short or not lines:
        what = f"{counted(len(short), 'line')} with fewer folders" if lines else "no lines"
        raise DataError(
            f"{path}: has {what}; expected lines of {counted(parts, 'part')}, such as {'/'.join('abc'[:parts])}.jpg"
        )
    own = ["/".join(line.split("/")[-parts:]) for line in lines]
    check_names(path, own)

    # Noisy images are named by file for FaceScrub, and by folders and file for MegaFace.
    noisy, remarks = set(), []
    if (root / noises).is_file():
        text = read_text_file(root / noises, has_file_names=True)
        listed = [line.strip().split("\t")[-1] for line in text.split("\n") if line.strip() and line[0] != "#"]
        noisy = {"/".join(line.split("/")[-(parts if parts > 2 else 1) :]) for line in listed}
    else:
        remarks.append(f"{root / noises}: is not there, so noisy images are not left out")
    is_noisy = np.array([(name if parts > 2 else name.rpartition("/")[2]) in noisy for name in own])
    if noisy:
        num_noisy = int(is_noisy.sum())
        remarks.append(
            f"{noises}: {num_noisy:,} of its {counted(len(noisy), 'image')} {agreeing(num_noisy, 'is', 'are')} in "
            f"{file}, and left out"
        )
    return [f"{folder}/{name}" for name in own], is_noisy, remarks
