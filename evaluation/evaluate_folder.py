"""Judge a model on folders of aligned faces: all pairs 1:1, or closed-set identification as TinyFace has it.

A user action: `facekd evaluate folder`, or `python evaluation/evaluate_folder.py`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from evaluation.measures import add_intervals, measure_verification, verification_curves
from evaluation.metric_options import add_metric_options, check_metric_options
from evaluation.provenance import describe_model, describe_software, find_model
from evaluation.results.page import FOLDER_FORMAT, write_report
from evaluation.results.tables import rank_table, summary_of, verification_table
from evaluation.sets.embedding_cache import embed_pair_set
from evaluation.sets.face_folder import FaceFolder
from facekd.embedder.model_options import add_model_options, open_model
from facekd.errors import DataError, run_verb
from facekd.utils.command_line import CommandParser
from facekd.utils.files import atomic_open, write_json
from facekd.verification.identification import search
from facekd.verification.proportions import wilson_interval
from facekd.verification.ranked_scores import RankedScores

RESULT_VERSION = 1
MOST_PAIRS = 100_000_000  # 14,000 images: scores, labels and people of as many pairs take 2 GB
DEFAULT_RANKS = (1, 5, 10, 20)
ROWS_AT_ONCE = 1024
EXAMPLE = """\
examples:
  all pairs of the images of a folder, PEOPLE/PERSON/*.jpg:
  facekd evaluate folder --model model.onnx --images PEOPLE --output runs/people

  closed-set identification: gallery/ and probe/, one folder a person or PERSON_NUMBER.jpg, and distractors/ of anybody:
  facekd evaluate folder --model model.onnx --images TINYFACE --resize --output runs/tinyface

Where the folder holds gallery/ and probe/ it is identification, else all pairs. Faces must be aligned
(`facekd data align`); --resize enlarges small ones. DIR/results.json (its keys: docs/results.md), curves.npz;
report.html, report.md and results.csv, which `facekd report DIR` makes again; embeddings are kept in DIR/embeddings.
"""


def main(argv: list[str] | None = None) -> int:
    """Parse, list, embed, compare, write, print."""
    arguments = _parse(argv)
    root = Path(arguments.images)
    is_search = (root / "gallery").is_dir() and (root / "probe").is_dir()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    model_file = find_model(arguments.model)
    embedder = open_model(model_file, arguments)
    size = embedder.preprocessing.image_size
    cache = Path(arguments.output) / "embeddings" if arguments.cache else None

    notes: list[str] = []

    def embed(folder: Path, nobody: bool = False) -> tuple[FaceFolder, np.ndarray]:
        faces = FaceFolder(folder, size, arguments.resize, arguments.images_per_person, nobody)
        notes.extend(f"{folder}: {warning}" for warning in faces.warnings)
        if not is_search and len(faces) * (len(faces) - 1) // 2 > MOST_PAIRS:
            raise DataError(
                f"{folder}: {len(faces):,} images make more than {MOST_PAIRS:,} pairs; --images-per-person takes fewer"
            )
        return faces, _unit(embed_pair_set(embedder, faces, arguments.flip, cache), faces, folder)

    embedding = "f(x) + f(mirrored x)" if arguments.flip else "f(x)"
    if is_search:
        found, curves = _identify(root, embed, arguments.ranks), {}
        text = (
            f"closed-set identification, cosine of {embedding}; a probe counts at the rank of its person's best image"
        )
    else:
        found, curves = _verify(*embed(root), arguments)
        text = f"all pairs, cosine of {embedding}, TAR@FAR by the exact rule"
    result = {
        "format": FOLDER_FORMAT,
        "version": RESULT_VERSION,
        "model": describe_model(model_file, embedder),
        "images": str(root.resolve()),
        "protocol": {"text": text, "kind": "identification" if is_search else "all pairs", "flip": arguments.flip},
        **found,
        "notes": notes,
        "software": describe_software(),
        "command": shlex.join(["facekd", "evaluate", "folder", *(sys.argv[1:] if argv is None else argv)]),
    }
    output = Path(arguments.output)
    with atomic_open(output / "curves.npz") as stream:
        np.savez(stream, **curves)  # type: ignore[arg-type]
    write_json(output / "results.json", result)
    if arguments.report:
        write_report(output)
    console = Console(soft_wrap=True)
    console.print(f"\n[bold]{root.name}[/bold]: {text}\n{summary_of(result)}", highlight=False)
    table = rank_table(result) or verification_table(result)
    console.print(table.to_markdown(), markup=False, highlight=False)
    for note in notes:
        console.print(f"warning: {note}", markup=False, highlight=False)
    print(f"written to {arguments.output}")
    return 0


def all_pairs(embeddings: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of different images, once.

    Args:
        embeddings: float64 (N, D) of unit length.
        people: (N,).

    Returns:
        scores float64 (P,), is_same bool (P,), and int32 (P,) codes of the two people; pairs in the order
        (0, 1), (0, 2) ... (1, 2) ...
    """
    codes = np.unique(people, return_inverse=True)[1].astype(np.int32)
    count = len(embeddings)
    scores = np.empty(count * (count - 1) // 2)
    first, second = (np.empty(len(scores), np.int32) for _ in range(2))
    place = 0
    for start in range(0, count, ROWS_AT_ONCE):
        block = embeddings[start : start + ROWS_AT_ONCE] @ embeddings[start:].T
        for row in range(len(block)):
            own = block[row, row + 1 :]
            some = slice(place, place + len(own))
            scores[some] = own
            first[some], second[some] = codes[start + row], codes[start + row + 1 :]
            place += len(own)
    return np.clip(scores, -1.0, 1.0, out=scores), first == second, first, second


def _verify(
    faces: FaceFolder, embeddings: np.ndarray, arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    scores, is_same, first, second = all_pairs(embeddings, faces.people)
    if not is_same.any() or is_same.all():
        kind = "one person" if is_same.all() else "one image of each person"
        raise DataError(
            f"{arguments.images}: holds {kind}; pairs of one and of two people are needed, so at least two people, one "
            "of them with two images"
        )
    ranked = RankedScores(scores[is_same], scores[~is_same])
    found = {
        "num_images": len(faces),
        "num_people": len(np.unique(faces.people)),
        **measure_verification(ranked, arguments.fars, "exact"),
    }
    if arguments.bootstrap:
        add_intervals(found, ranked, scores, is_same, (first, second), arguments.bootstrap, arguments.seed)
    return found, verification_curves(ranked)


def _identify(root: Path, embed: Any, ranks: Sequence[int]) -> dict[str, Any]:
    gallery, gallery_embeddings = embed(root / "gallery")
    probes, probe_embeddings = embed(root / "probe")
    people = gallery.people.tolist()
    num_distractors = 0
    if (root / "distractors").is_dir():
        distractors, more = embed(root / "distractors", nobody=True)
        num_distractors = len(distractors)
        gallery_embeddings = np.concatenate([gallery_embeddings, more])
        # A name with a slash is nobody's: a distractor cannot be taken for a person of the gallery.
        people += [f"/{file}" for file in distractors.files]
    lacking = sorted(set(probes.people.tolist()) - set(people))
    if lacking:
        raise DataError(
            f"{root}: {len(lacking):,} people of probe/ are not in gallery/, the first {lacking[0]}; in closed-set "
            "identification everybody is: move them, or add their gallery images"
        )
    result = search(gallery_embeddings, np.array(people), probe_embeddings, probes.people, root.name)
    hits = [int((result.mate_ranks <= rank).sum()) for rank in ranks]
    return {
        "num_gallery": len(gallery),
        "num_people": len(np.unique(gallery.people)),
        "num_distractors": num_distractors,
        "num_probes": len(probes),
        "rank": [
            {"rank": rank, "rate": count / len(probes), "ci95": list(wilson_interval(count, len(probes)))}
            for rank, count in zip(ranks, hits, strict=True)
        ],
    }


def _unit(embeddings: np.ndarray, faces: FaceFolder, folder: Path) -> np.ndarray:
    values = embeddings.astype(np.float64)
    norms = np.linalg.norm(values, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if bad.size:
        raise DataError(
            f"{folder / faces.files[bad[0]]}: its embedding has no direction (all zeros, or not finite), as have "
            f"{bad.size - 1:,} more: the model is broken or its preprocessing wrong"
        )
    return values / norms[:, None]


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd evaluate folder",
        description="Judge a model on folders of aligned faces: all pairs, or identification (gallery/, probe/).",
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="FILE", help="an ONNX file, anyone's, a facekd checkpoint, or a run's folder")
    add("--images", required=True, metavar="DIR", help="the folder")
    add("--output", required=True, metavar="DIR", help="folder for the results; made where it is missing")
    add("--flip", action=argparse.BooleanOptionalAction, default=True, help="add the mirror image's embedding")
    add("--images-per-person", type=int, metavar="N", help="the first N of each person (default: all)")
    add("--ranks", type=_ranks, default=DEFAULT_RANKS, metavar="N,N", help="ranks (default: 1,5,10,20)")
    add_metric_options(parser)
    add("--report", action=argparse.BooleanOptionalAction, default=True, help="write report.html, .md and results.csv")
    add("--cache", action=argparse.BooleanOptionalAction, default=True, help="keep embeddings for another run")
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.images_per_person is not None and arguments.images_per_person < 1:
        parser.error("--images-per-person: give at least 1")
    check_metric_options(parser, arguments)
    return arguments


def _ranks(text: str) -> tuple[int, ...]:
    try:
        ranks = tuple(int(part) for part in text.split(","))
    except ValueError:
        ranks = (0,)
    if min(ranks) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ranks such as 1,5,10")
    return ranks


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
