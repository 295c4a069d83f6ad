"""Writes the files of an IJB-style set exactly as the release has them: see docs/formats.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.ijb_sets.plan import PROBE_ROLE, IjbPlan, Release
from facekd.files.held_folders import make_folder
from facekd.files.writing import atomic_open
from facekd.utils.progress import track

PAIR_LINES_CHUNK = 100_000


def write_metadata(folder: Path, plan: IjbPlan, target: Release, landmarks: np.ndarray, detector: np.ndarray) -> None:
    """Writes the `meta` folder of a set; row i of the plan is the image `{i + 1}.jpg`.

    Args:
        folder: the `meta` folder; made if it is missing.
        plan: content of the set.
        target: names of its files.
        landmarks: (M, 5, 2), in pixels of each row's loose crop.
        detector: (M,), the detector's score of each row.

    Raises:
        OSError: a file cannot be written.
    """
    # Which image belongs to which template and medium.
    make_folder(folder)
    template_ids = plan.template_ids[plan.templates].tolist()
    rows = zip(range(1, len(plan) + 1), template_ids, plan.media_ids.tolist(), strict=True)
    _write_lines(folder / f"{target.prefix}_face_tid_mid.txt", (f"{row}.jpg {tid} {mid}\n" for row, tid, mid in rows))

    # Landmarks and detector scores, then the pairs.
    points = zip(range(1, len(plan) + 1), landmarks.reshape(-1, 10).tolist(), detector.tolist(), strict=True)
    _write_lines(
        folder / f"{target.prefix}_name_5pts_score.txt",
        (f"{row}.jpg {' '.join(f'{value:.3f}' for value in xy)} {score:.6f}\n" for row, xy, score in points),
    )
    write_pairs(folder / f"{target.prefix}_template_pair_label.txt", plan)

    # Galleries and probes of the 1:N protocol.
    by_template = np.argsort(plan.template_ids[plan.templates], kind="stable")
    for role, name in enumerate((*(f"gallery_{gallery}" for gallery in target.galleries), "probe_mixed")):
        rows = by_template[plan.roles[plan.templates[by_template]] == role]
        _write_faces(folder / f"{target.prefix}_1N_{name}.csv", plan, rows)


def write_pairs(path: Path, plan: IjbPlan) -> None:
    """Writes the 1:1 list, one line `template template label` per pair."""

    def lines() -> Iterator[str]:
        starts = range(0, len(plan.pairs), PAIR_LINES_CHUNK)
        for start in track(starts, "writing pairs", len(plan.pairs), PAIR_LINES_CHUNK):
            some = slice(start, start + PAIR_LINES_CHUNK)
            first, second = plan.template_ids[plan.pairs[some]].T.tolist()
            same = plan.is_same[some].astype(np.int8).tolist()
            yield "".join([f"{a} {b} {label}\n" for a, b, label in zip(first, second, same, strict=True)])

    _write_lines(path, lines())


def _write_faces(path: Path, plan: IjbPlan, rows: np.ndarray) -> None:
    """Writes a gallery or the probes, one line per face."""
    templates = plan.templates[rows]
    columns = (plan.template_ids[templates], plan.subject_ids[templates], rows + 1, plan.media_ids[rows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["TEMPLATE_ID", "SUBJECT_ID", "FILENAME", "MEDIA_ID"])
    writer.writerows(
        (tid, subject, f"{row}.jpg", mid)
        for tid, subject, row, mid in zip(*(column.tolist() for column in columns), strict=True)
    )
    _write_lines(path, [text.getvalue()])


def _write_lines(path: Path, lines: Iterator[str] | list[str]) -> None:
    with atomic_open(path) as stream:
        for line in lines:
            stream.write(line.encode())


def count_templates(plan: IjbPlan) -> dict[str, int]:
    """Counts what the set holds, for its summary and for the terminal."""
    return {
        "images": len(plan),
        "media": len(np.unique(plan.media_ids)),
        "subjects": len(np.unique(plan.subject_ids)),
        "templates": len(plan.roles),
        "gallery_1": int((plan.roles == 0).sum()),
        "gallery_2": int((plan.roles == 1).sum()),
        "probes": int((plan.roles == PROBE_ROLE).sum()),
        "genuine": int(plan.is_same.sum()),
        "impostor": int((~plan.is_same).sum()),
    }
