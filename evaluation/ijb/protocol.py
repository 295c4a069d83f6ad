"""Reads an IJB-B / IJB-C style protocol: the text files of a release as validated arrays, parsed once. No maths.

Everything is joined by name and id, never by row: the image lists of a release should agree line by line, and if they
did not, nobody would notice. Layout: docs/formats.md. Shapes: N images listed, F faces, T templates, P pairs.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ijb.image_names import require_inside
from evaluation.ijb.template_rows import TemplateRows, distinct_ids
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from facekd.errors import DataError
from facekd.files.array_cache import load_cached, save_cached
from facekd.files.reading import sha256_of_file, stamp_of
from facekd.files.unchanged import unchanged
from facekd.images.alignment import align
from facekd.images.decoding import decode_rgb
from facekd.images.image_files import read_image_file
from facekd.utils.foreign import shown
from facekd.utils.text_arrays import require_even_arrays
from facekd.utils.wording import agreeing, counted

__all__ = ["TARGETS", "DataError", "IjbProtocol", "SubjectTemplates", "Target", "load_protocol"]

CACHE_VERSION = 3


@dataclass(frozen=True)
class Target:
    """Names a set, its files and galleries, and the counts of the published set."""

    name: str  # IJB-C
    prefix: str  # of the file names
    galleries: tuple[str, str]
    counts: Mapping[str, int]


TARGETS = {
    "IJBB": Target(
        "IJB-B",
        "ijbb",
        ("S1", "S2"),
        {
            "num_images": 227_630,
            "num_templates": 12_115,
            "num_pairs": 8_010_270,
            "num_genuine": 10_270,
            "num_impostor": 8_000_000,
            "num_gallery_subjects": 1_845,
            "num_probes": 10_270,
        },
    ),
    "IJBC": Target(
        "IJB-C",
        "ijbc",
        ("G1", "G2"),
        {
            "num_images": 469_375,
            "num_templates": 23_124,
            "num_pairs": 15_658_489,
            "num_genuine": 19_557,
            "num_impostor": 15_638_932,
            "num_gallery_G1": 1_772,
            "num_gallery_G2": 1_759,
            "num_probes": 19_593,
        },
    ),
}


@dataclass(frozen=True)
class SubjectTemplates:
    """Holds the templates of a gallery, or the probes, each once; `templates` are rows of `template_ids`."""

    templates: np.ndarray  # int32 (n,)
    subjects: np.ndarray  # int64 (n,)

    def __len__(self) -> int:
        return len(self.templates)


@dataclass(frozen=True)
class IjbProtocol:
    """Holds the joined files of a release. A face is a row of the template list; several may show one image.

    Attributes:
        target: key of `TARGETS`.
        root: the folder that holds `meta` and `loose_crop`.
        fingerprint: hex digest over the content of the text files.
        image_names: bytes (N + missing,): the names of `*_name_5pts_score.txt` in its order, which is also that of
            ready embeddings, followed by the images that only the template list names.
        num_listed: number of listed images N.
        landmarks: float32 (N, 5, 2), pixels of the loose crop.
        detection_scores: float64 (N,).
        face_images: int32 (F,) rows of `image_names`; -1 if a name has several lines and the right one is unknown.
        face_templates: int32 (F,) rows of `template_ids`.
        face_media: int64 (F,) media ids.
        template_ids: int64 (T,) ascending: all ids in any file, including those without a face.
        pair_first, pair_second: (P,) rows of `template_ids`, in the order of the pair file.
        is_same: bool (P,).
        in_pairs: bool (T,): which templates the pair file names.
        galleries: galleries by name; empty without 1:N files.
        probes: probes of the 1:N files.
        remarks: sentences about what the join found, for the report.
    """

    target: str
    root: Path
    fingerprint: str
    image_names: np.ndarray
    num_listed: int
    landmarks: np.ndarray
    detection_scores: np.ndarray
    face_images: np.ndarray
    face_templates: np.ndarray
    face_media: np.ndarray
    template_ids: np.ndarray
    pair_first: np.ndarray
    pair_second: np.ndarray
    is_same: np.ndarray
    in_pairs: np.ndarray
    galleries: dict[str, SubjectTemplates] = field(default_factory=dict)
    probes: SubjectTemplates | None = None
    remarks: tuple[str, ...] = ()

    @property
    def num_faces(self) -> int:
        """Returns the number of faces F."""
        return len(self.face_images)

    @property
    def num_pairs(self) -> int:
        """Returns the number of pairs P."""
        return len(self.is_same)

    def image_name(self, image: int) -> str:
        """Returns the name of an image as written in the lists."""
        return self.image_names[image].decode(errors="surrogateescape")

    def image_path(self, image: int) -> Path:
        """Returns the file of an image, in `loose_crop`."""
        return self.root / "loose_crop" / self.image_name(image)

    def read_face(self, image: int, size: int) -> np.ndarray:
        """Reads an image and aligns it: uint8 RGB (size, size, 3).

        Raises:
            ImageError: it cannot be read, decoded or aligned.
            OSError: the disk fails.
        """
        return align(decode_rgb(read_image_file(self.image_path(image))), self.landmarks[image], size)


def protocol_files(root: str | os.PathLike[str], target: str) -> dict[str, Path]:
    """Returns the text files of a release by role: `faces`, `points`, `pairs`, and, if present, `probes` and galleries.

    Raises:
        DataError: the folder, its `meta`, or one of the three 1:1 lists is missing; or some of the 1:N files are.
    """
    if target not in TARGETS:
        raise DataError(f"{root}: there is no set called '{shown(target)}'; expected one of {', '.join(TARGETS)}")
    root, prefix = Path(root), TARGETS[target].prefix
    meta = root / "meta"
    if not meta.is_dir():
        inside = [child.name for child in sorted(root.iterdir()) if (child / "meta").is_dir()] if root.is_dir() else []
        hint = f"; it is in {root / inside[0]}, give that" if inside else ""
        found = "there is no such folder" if not root.exists() else f"{root} holds no folder `meta`"
        raise DataError(f"--root {root}: expected the folder that holds `meta` and `loose_crop`; {found}{hint}")
    # The three lists of 1:1 are needed.
    needed = {
        "faces": meta / f"{prefix}_face_tid_mid.txt",
        "points": meta / f"{prefix}_name_5pts_score.txt",
        "pairs": meta / f"{prefix}_template_pair_label.txt",
    }
    for path in needed.values():
        if not path.is_file():
            others = [key for key, other in TARGETS.items() if any(meta.glob(f"{other.prefix}_*")) and key != target]
            hint = f"; the files here are those of --target {others[0]}" if others else ""
            raise DataError(f"{path}: is missing, one of the three lists of every release{hint}")
    # The 1:N files may be absent, but only all together.
    names = {name: meta / f"{prefix}_1N_gallery_{name}.csv" for name in TARGETS[target].galleries}
    names["probes"] = meta / f"{prefix}_1N_probe_mixed.csv"
    present = {role: path for role, path in names.items() if path.is_file()}
    if present and len(present) < len(names):
        missing = next(path for role, path in names.items() if role not in present)
        raise DataError(f"{missing}: is missing while other 1:N files are there; add it, or move those away")
    return {**needed, **present}


def load_protocol(
    root: str | os.PathLike[str],
    target: str = "IJBC",
    use_cache: bool = True,
    background: Executor | None = None,
    may_write: bool = True,
) -> IjbProtocol:
    """Reads a release from its binary copy if that is up to date, else from the text files, and then makes the copy.

    Args:
        root: the folder that holds `meta`.
        target: key of `TARGETS`.
        use_cache: whether to read and write the binary copy.
        background: writes the copy, if given, while the caller goes on.
        may_write: whether to make the copy where there is none; False where only a stranger's results name the folder.

    Raises:
        DataError: see `protocol_files`; a line that cannot be read, naming it; a template that a 1:N file gives to
            two subjects.
    """
    # The copy is valid while the text files have the stamps recorded in it.
    files = protocol_files(root, target)
    cache = Path(root) / "meta" / f"{TARGETS[target].prefix}.facekd-protocol"
    source = {"version": CACHE_VERSION, **{role: stamp_of(path) for role, path in sorted(files.items())}}
    if use_cache and (found := load_cached(cache, source)) is not None:
        return _from_arrays(Path(root), target, *found)
    # Otherwise read the text files, and save the copy now or in the background.
    about, arrays = _parse(files)
    if use_cache and may_write and background is not None:
        background.submit(_save_cache, cache, source, about, arrays)
    elif use_cache and may_write:
        _save_cache(cache, source, about, arrays)
    return _from_arrays(Path(root), target, about, arrays)


def _parse(files: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    # Read the two long lists here, while another thread reads the short ones and hashes all.
    with unchanged(*files.values()), ThreadPoolExecutor(1) as background:
        others = [role for role in files if role not in ("faces", "points", "pairs")]
        rows = {role: background.submit(read_template_subjects, files[role]) for role in others}
        hashes = {role: background.submit(sha256_of_file, path) for role, path in sorted(files.items())}
        listed, values = read_named_numbers(files["points"], 11, np.float64)
        face_names, ids = read_named_numbers(files["faces"], 2, np.int64)
        first, second, is_same = read_pairs(files["pairs"])
    for role, own in (("points", listed), ("faces", face_names)):
        require_inside(own, files[role])
    # Images: the template list names them, the list of landmarks describes them.
    arrays: dict[str, np.ndarray] = {}
    images, names, remarks = _join_names(listed, values, face_names, files["faces"])
    arrays["image_names"] = names
    arrays["landmarks"] = values[:, :10].astype(np.float32).reshape(-1, 5, 2)
    arrays["detection_scores"] = values[:, 10].copy()
    arrays["face_images"] = images.astype(np.int32)
    arrays["face_media"] = ids[:, 1].copy()
    tables = {role: _once_each(*found.result(), files[role]) for role, found in rows.items()}

    # Templates: ids of all files become rows of one ascending list.
    in_pairs = distinct_ids([first, second])
    lookup = TemplateRows(distinct_ids([ids[:, 0], in_pairs, *(table[0] for table in tables.values())]))
    arrays["template_ids"] = lookup.ids
    arrays["face_templates"] = lookup.rows_of(ids[:, 0]).astype(np.int32)
    arrays["pair_first"] = lookup.rows_of(first)
    arrays["pair_second"] = lookup.rows_of(second)
    arrays["is_same"] = is_same
    arrays["in_pairs"] = np.isin(lookup.ids, in_pairs)
    for role, (templates, subjects) in tables.items():
        arrays[f"{role}/templates"] = lookup.rows_of(templates).astype(np.int32)
        arrays[f"{role}/subjects"] = subjects
    digest = hashlib.sha256()
    for role, found in hashes.items():
        digest.update(f"{role} {found.result()}\n".encode())
    return {"fingerprint": digest.hexdigest(), "num_listed": len(listed), "remarks": remarks}, arrays


def _join_names(
    listed: np.ndarray, values: np.ndarray, face_names: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns (image of each face, names of all images, remarks); `path` is for messages."""
    remarks: list[str] = []
    order = np.argsort(listed, kind="stable")
    known = listed[order]
    repeated = bool((known[1:] == known[:-1]).any())
    if not repeated and np.array_equal(listed, face_names):  # as releases are: the lists agree line by line
        return np.arange(len(listed)), listed, remarks
    require_even_arrays([listed, face_names], path)
    # How many listed lines each face's name has, and the first of them.
    left = np.searchsorted(known, face_names, "left")
    count = np.searchsorted(known, face_names, "right") - left
    images = np.where(count > 0, order[np.minimum(left, len(order) - 1)], -1)
    # Names that are not listed come behind those that are.
    names = listed
    absent = np.flatnonzero(count == 0)
    if absent.size:
        unlisted, position = np.unique(face_names[absent], return_inverse=True)
        images[absent] = len(listed) + position
        names = np.concatenate([listed, unlisted])
    if repeated:
        remarks += _tell_repeated_names(listed, values, face_names, order, left, count, images)
    unused = len(listed) - np.unique(images[(images >= 0) & (images < len(listed))]).size
    if unused:
        remarks.append(
            f"{unused:,} of {counted(len(listed), 'image')} "
            f"{agreeing(unused, 'is listed with landmarks but belongs', 'are listed with landmarks but belong')} to "
            "no template"
        )
    return images, names, remarks


def _tell_repeated_names(
    listed: np.ndarray,
    values: np.ndarray,
    face_names: np.ndarray,
    order: np.ndarray,
    left: np.ndarray,
    count: np.ndarray,
    images: np.ndarray,
) -> list[str]:
    """Decides, in `images`, which line a face means if its name has several; returns remarks on what was done."""
    # The faces name by name; a stranger's list may repeat every name.
    several = np.flatnonzero(count > 1)
    if not several.size:
        return []
    several = several[np.argsort(face_names[several], kind="stable")]
    begins = np.flatnonzero(face_names[several[1:]] != face_names[several[:-1]]) + 1
    alike = by_turn = unclear = 0
    for faces in np.split(several, begins):
        lines = order[left[faces[0]] : left[faces[0]] + count[faces[0]]]
        if (values[lines] == values[lines[0]]).all():
            alike += 1  # `images` holds the first line already
        elif len(faces) == len(lines):
            images[faces] = lines  # several faces in one image: the k-th face means the k-th line
            by_turn += 1
        else:
            images[faces] = -1
            unclear += 1
    remarks = []
    if alike:
        remarks.append(
            f"{counted(alike, 'name has', 'names have')} several equal lines of landmarks; the first was taken"
        )
    if by_turn:
        remarks.append(
            f"{counted(by_turn, 'name has', 'names have')} several lines of landmarks, and as many faces: joined in "
            "their order"
        )
    if unclear:
        remarks.append(
            f"{counted(unclear, 'name has', 'names have')} several lines of landmarks, and another number of faces"
        )
    return remarks


def _once_each(templates: np.ndarray, subjects: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reduces one row for each face to one for each template, and checks that a template has one subject."""
    known, first, inverse = np.unique(templates, return_index=True, return_inverse=True)
    subject_of = subjects[first]
    odd = np.flatnonzero(subject_of[inverse] != subjects)
    if odd.size:
        row = int(odd[0])
        raise DataError(
            f"{path}: template {templates[row]} is given to subject {subject_of[inverse[row]]} and to subject "
            f"{subjects[row]} (row {row + 1}); a template shows one person"
        )
    return known, subject_of


def _from_arrays(root: Path, target: str, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> IjbProtocol:
    # Names with a slash belong to galleries and probes.
    tables = {
        name.split("/")[0]: SubjectTemplates(array, arrays[name.replace("/templates", "/subjects")])
        for name, array in arrays.items()
        if name.endswith("/templates")
    }
    plain = {name: array for name, array in arrays.items() if "/" not in name}
    return IjbProtocol(
        target=target,
        root=root.resolve(),
        fingerprint=about["fingerprint"],
        num_listed=about["num_listed"],
        galleries={name: tables[name] for name in TARGETS[target].galleries if name in tables},
        probes=tables.get("probes"),
        remarks=tuple(about["remarks"]),
        **plain,
    )


def _save_cache(
    cache: Path, source: Mapping[str, Any], about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    if not save_cached(cache, source, arrays, about):
        print(f"no place for the binary copy of the text files ({cache}); the next run parses again", file=sys.stderr)
