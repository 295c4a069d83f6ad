"""Writes faces of people in the layout of a published set, with its lists."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.protocol_sets.faces import (
    AlignedFaces,
    Split,
    make_poor,
    make_small,
    put_mask_on,
    write_images,
)
from facekd.files.writing import write_text

FRAMES = 3  # images of a probe template of an IJB-S style set


@dataclass(frozen=True)
class Layout:
    """Holds what a layout is made of.

    Attributes:
        folder: where to write.
        faces: the images.
        split: who is known, and who is a stranger.
        probe_size: side in pixels of small or poor probes.
    """

    folder: Path
    faces: AlignedFaces
    split: Split
    probe_size: int

    def halves(self, who: int) -> tuple[list[int], list[int]]:
        """Returns the gallery images of a known person, and the probes: the larger half is the gallery's."""
        images = self.split.known[who]
        middle = (len(images) + 1) // 2
        return images[:middle], images[middle:]

    def small(self, image: int) -> bytes:
        """Returns an image in the size of probes."""
        return make_small(self.faces.read(image), self.probe_size)


def write_survface(layout: Layout) -> dict[str, int]:
    """Writes both test sets of SurvFace; names begin with the person's number, as there."""
    search, pairs = "Face_Identification_Test_Set", "Face_Verification_Test_Set"
    sides: dict[str, list[tuple[str, int]]] = {"gallery": [], "mated_probe": []}
    positive, first_of, images = [], [], {}
    for label, who in enumerate(layout.split.known, start=1):
        for side, own in zip(sides, layout.halves(who), strict=True):
            for image in own:
                name = f"{who + 1}_cam{1 + (side != 'gallery')}_{image}.jpg"
                images[name] = layout.small(image)
                sides[side].append((name, label))
        positive.append((sides["gallery"][-1][0], sides["mated_probe"][-1][0]))
        first_of.append(sides["gallery"][-1][0])
    negative = [(name, other[1]) for name, other in zip(first_of, positive[1:] + positive[:1], strict=True)]
    for side, own in sides.items():
        write_images(layout.folder / search / side, [(name, images[name]) for name, _ in own])
        _write_mat(
            layout.folder / search / f"{side}_img_ID_pairs.mat",
            {f"{side}_set": [[name] for name, _ in own], f"{side}_ids": [[label] for _, label in own]},
        )
    strangers = [(who, image) for who, own in layout.split.strangers.items() for image in own]
    unmated = [(f"{who + 1}_cam2_{image}.jpg", layout.small(image)) for who, image in strangers]
    write_images(layout.folder / search / "unmated_probe", unmated)
    for kind, listed in (("positive", positive), ("negative", negative)):
        _write_mat(layout.folder / pairs / f"{kind}_pairs_names.mat", {f"{kind}_pairs_names": listed})
    used = sorted({name for pair in positive + negative for name in pair})
    write_images(layout.folder / pairs / "verification_images", [(name, images[name]) for name in used])
    counts = {side: len(own) for side, own in sides.items()}
    return {**counts, "unmated_probe": len(unmated), "genuine_pairs": len(positive), "impostor_pairs": len(negative)}


def write_tinyface(layout: Layout) -> dict[str, int]:
    """Writes TinyFace's Testing_Set."""
    folder, counts = layout.folder / "Testing_Set", {}
    for part, (side, prefix, file) in enumerate(
        (
            ("Gallery_Match", "gallery", "gallery_match_img_ID_pairs.mat"),
            ("Probe", "probe", "probe_img_ID_pairs.mat"),
        )
    ):
        own = [(who, image) for who in layout.split.known for image in layout.halves(who)[part]]
        names = [f"{who + 1}_{image}.jpg" for who, image in own]
        write_images(folder / side, [(name, layout.small(image)) for name, (_, image) in zip(names, own, strict=True)])
        lists = {f"{prefix}_set": [[name] for name in names], f"{prefix}_ids": [[who + 1] for who, _ in own]}
        _write_mat(folder / file, lists)
        counts[side.lower()] = len(own)
    strangers = [image for own in layout.split.strangers.values() for image in own]
    write_images(folder / "Gallery_Distractor", [(f"{image}.jpg", layout.small(image)) for image in strangers])
    return {**counts, "gallery_distractor": len(strangers)}


def write_megaface(layout: Layout) -> dict[str, int]:
    """Writes the test pack of MegaFace, with empty lists of noisy images."""
    probes = [
        (f"Person_{who}/Person_{who}_{image}.jpg", image) for who, own in layout.split.known.items() for image in own
    ]
    strangers = [
        (f"{who % 1000:03d}/{who}/{image}.jpg", image) for who, own in layout.split.strangers.items() for image in own
    ]
    for name, own in (("facescrub", probes), ("megaface", strangers)):
        write_images(layout.folder / f"{name}_images", [(file, layout.faces.read(image)) for file, image in own])
        write_megaface_lists(layout.folder, name, [file for file, _ in own])
    return {"probes": len(probes), "distractors": len(strangers)}


def write_megaface_lists(folder: Path, name: str, files: list[str]) -> None:
    """Writes a list of images and an empty list of noisy ones."""
    write_text(folder / f"{name}_lst", "".join(f"{file}\n" for file in files))
    write_text(folder / f"{name}_noises.txt", "# none\n")


def write_ijbs(layout: Layout) -> dict[str, int]:
    """Writes an IJB-S style set: two galleries of different people, and probes of several poor frames each."""
    head, rows = "TEMPLATE_ID,SUBJECT_ID,FILENAME\n", {"gallery_G1": [], "gallery_G2": [], "probe_frames": []}
    template = 0
    for number, (who, own) in enumerate([*layout.split.known.items(), *layout.split.strangers.items()]):
        is_known = number < len(layout.split.known)
        if is_known:
            template += 1
            rows[f"gallery_G{1 + number % 2}"].append(f"{template},{who},still/{own[0]}.jpg\n")
            write_images(layout.folder / "images", [(f"still/{own[0]}.jpg", layout.faces.read(own[0]))])
        frames = own[1:] if is_known else own
        for start in range(0, len(frames), FRAMES):
            template += 1
            for image in frames[start : start + FRAMES]:
                rows["probe_frames"].append(f"{template},{who},video/{image}.jpg\n")
                poor = make_poor(layout.faces.read(image), layout.probe_size)
                write_images(layout.folder / "images", [(f"video/{image}.jpg", poor)])
    for name, lines in rows.items():
        path = layout.folder / "protocols" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        write_text(path, head + "".join(lines))
    return {name: len(lines) for name, lines in rows.items()}


def write_masked(layout: Layout) -> dict[str, int]:
    """Writes masked and unmasked images of the same people; the masks are painted."""
    counts = {}
    for part, side in enumerate(("unmasked", "masked")):
        own = [(who, image) for who in layout.split.known for image in layout.halves(who)[part]]
        files = []
        for who, image in own:
            content = layout.faces.read(image)
            files.append((f"{side}/{who:05d}/{image}.jpg", put_mask_on(content) if part else content))
        write_images(layout.folder, files)
        counts[side] = len(own)
    return counts


def write_xqlfw(layout: Layout) -> dict[str, int]:
    """Writes a cross-quality set like XQLFW: LFW's list of pairs, the second image of each pair a poor one."""
    known = list(layout.split.known)
    files = []
    for who in known:
        first, second = layout.split.known[who][:2]
        files.append((f"Person_{who}/Person_{who}_0001.jpg", layout.faces.read(first)))
        files.append((f"Person_{who}/Person_{who}_0002.jpg", make_poor(layout.faces.read(second), layout.probe_size)))
    write_images(layout.folder / "xqlfw_aligned_112", files)
    genuine = [f"Person_{who}\t1\t2\n" for who in known]
    impostor = [
        f"Person_{who}\t1\tPerson_{other}\t2\n" for who, other in zip(known, known[1:] + known[:1], strict=True)
    ]
    write_text(layout.folder / "xqlfw_pairs.txt", "".join([f"1\t{len(known)}\n", *genuine, *impostor]))
    return {"images": len(files), "pairs": 2 * len(known)}


LAYOUTS: dict[str, Callable[[Layout], dict[str, int]]] = {
    "survface": write_survface,
    "tinyface": write_tinyface,
    "megaface": write_megaface,
    "ijbs": write_ijbs,
    "masked": write_masked,
    "xqlfw": write_xqlfw,
}

# The files and folders at the top of all of them.
PARTS = (
    *("Face_Identification_Test_Set", "Face_Verification_Test_Set", "Testing_Set", "images", "protocols"),
    *(f"{name}_{part}" for name in ("facescrub", "megaface") for part in ("images", "lst", "noises.txt")),
    *("embeddings.npy", "unmasked", "masked", "xqlfw_aligned_112", "xqlfw_pairs.txt"),
)


def _write_mat(path: Path, lists: dict[str, list]) -> None:
    """Writes lists as a .mat file: names become a cell array, numbers a matrix."""
    from scipy.io import savemat  # here, because importing it takes a second

    arrays = {}
    for name, rows in lists.items():
        if isinstance(rows[0][0], str):
            cells = np.empty((len(rows), len(rows[0])), dtype=object)
            for row, values in enumerate(rows):
                cells[row] = values
            arrays[name] = cells
        else:
            arrays[name] = np.array(rows, np.int32)
    content = io.BytesIO()
    savemat(content, arrays)
    # The header says when it was written; equal options shall give equal bytes.
    whole = b"MATLAB 5.0 MAT-file, written by facekd".ljust(116) + content.getvalue()[116:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(whole)
