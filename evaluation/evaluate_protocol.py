"""Verb `facekd evaluate protocol`: evaluates a model by a published protocol: SurvFace, TinyFace, MegaFace and others.

Also `python evaluation/evaluate_protocol.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.ijb.embed import add_embedding_options, embed_listed
from evaluation.protocols.kinds import KINDS, Kind
from evaluation.protocols.listed_set import ListedFaces, ListedSet, find_missing, refuse_missing
from evaluation.protocols.measuring import measure_set
from evaluation.protocols.set_embeddings import SetEmbeddings
from evaluation.result_files import check_output, lock_output, make_result, start_evaluation, write_arrays
from evaluation.results.page import write_report
from evaluation.results.search_tables import print_protocol_results
from evaluation.sets.embedding_rows import NpyRows
from evaluation.shared_options import (
    add_flip_option,
    add_halves_option,
    add_metric_options,
    add_model_option,
    add_output_option,
    add_report_switch,
    check_halves_option,
    check_metric_options,
    embedding_text,
    refuse_preprocessing,
)
from facekd.commands.command_line import COUNT, FAR_LIST, CommandParser, comma_separated
from facekd.embedder.model_options import add_model_options
from facekd.errors import DataError, run_verb
from facekd.files.result_folder import finish_results
from facekd.results.schema import PROTOCOL_FORMAT
from facekd.utils.processes.children import launcher_number
from facekd.utils.wording import agreeing, counted
from facekd.verification.intervals.proportions import wilson_interval

RESULT_VERSION = 1
EXAMPLE = (
    """\
examples:
  facekd evaluate protocol tinyface --root tinyface --model model.onnx --resize --output runs/tinyface
  facekd evaluate protocol survface --root QMUL-SurvFace --model model.onnx --resize --output runs/survface
  facekd evaluate protocol megaface --root megaface_testpack --model model.onnx --distractors 100000 --output runs/mega

  embeddings made elsewhere, a row for each listed image: galleries, probes, distractors, in the order of the lists:
  facekd evaluate protocol megaface --root testpack --embeddings rows.npy --output runs/mega

sets, and what --root holds:
"""
    + "\n".join(f"  {name:<10} {kind.layout}" for name, kind in KINDS.items())
    + """

`facekd data make-protocol` writes each layout from generated or labelled faces. XQLFW, CALFW, CPLFW and other lists of
pairs: `facekd data make-pairs FOLDER x.bin --pairs pairs.txt`, then `facekd evaluate lfw --pairs x.bin`.

writes to DIR:
  results.json         every number (its keys: docs/results.md)
  scores.npy           one cosine per pair, where the set lists pairs
  curves.npz           CMC, DIR, ROC
  report.html, report.md, results.csv
  embeddings/          the same command resumes after an interruption
"""
)


def main(argv: list[str] | None = None) -> int:
    """Parses and evaluates."""
    arguments = _parse(argv)
    is_main = launcher_number("RANK", 0) == 0
    with lock_output(Path(arguments.output), is_main, arguments):
        check_output(Path(arguments.output))
        return _evaluate(arguments, argv)


def _evaluate(arguments: argparse.Namespace, argv: list[str] | None) -> int:
    """Reads, embeds, searches, measures, writes and prints."""
    kind, root, start = KINDS[arguments.kind], Path(arguments.root), time.perf_counter()
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file' if root.exists() else 'no such folder'}; expected {kind.layout}")
    whole = kind.load(root)
    listed = _first_distractors(whole, arguments.distractors)
    rows, source, is_lost = _open_embeddings(arguments, listed)
    if rows is None:  # another process of this run goes on
        return 0
    flip = rows.has_flipped and arguments.flip is not False
    kept, read_at = listed.without(is_lost), time.perf_counter()
    results, scores, curves = measure_set(kept, kind, SetEmbeddings(kept, rows, flip), arguments)
    notes = [*listed.remarks, *_notes_on_counts(whole), *results.pop("notes")]

    # Write, then print the same.
    content = {
        **source,
        "dataset": {
            "root": str(root.resolve()),
            "target": arguments.kind,
            "published": kind.title if _is_published(whole) else None,
            "fingerprint": listed.fingerprint(),
            **kept.counts(),
        },
        "protocol": _describe_protocol(arguments, kind, kept, flip),
        "failures": _describe_losses(listed, is_lost),
        **results,
        "notes": notes,
        "seconds": {"embed": round(read_at - start, 3), "search": round(time.perf_counter() - read_at, 3)},
    }
    output = Path(arguments.output)
    result = make_result(PROTOCOL_FORMAT, RESULT_VERSION, content, "evaluate protocol", argv)
    start_evaluation(output)
    write_arrays(output, scores, curves)
    if arguments.report:
        write_report(output, result)
    finish_results(output, result)
    print_protocol_results(result)
    print(f"\nwritten to {output}")
    return 0


def _first_distractors(listed: ListedSet, count: int | None) -> ListedSet:
    """Returns the set with the first distractors only; None for all."""
    if count is None:
        return listed
    if count > len(listed.distractors):
        raise DataError(f"--distractors {count:,}: {listed.root} has {len(listed.distractors):,}")
    return replace(listed, distractors=listed.distractors[:count])


def _open_embeddings(
    arguments: argparse.Namespace, listed: ListedSet
) -> tuple[NpyRows | None, dict[str, Any], np.ndarray]:
    """Returns the embeddings, their entries in results.json, and which images are lost (N,)."""
    if arguments.embeddings is not None:
        rows = NpyRows(
            arguments.embeddings,
            None,
            arguments.embeddings_flipped,
            len(listed.names),
            "one for each listed image: galleries, probes, distractors, in the order of the lists",
        )
        about = {
            "path": str(Path(arguments.embeddings).resolve()),
            "shape": list(rows.shape),
            "dtype": str(rows.dtype),
            "embedding_size": rows.embedding_size,
        }
        return rows, {"model": None, "embeddings": about}, np.zeros(len(listed.names), bool)
    # Images that are not there are refused before hours of embedding.
    is_lost = find_missing(listed)
    if arguments.on_missing == "fail":
        refuse_missing(listed, is_lost)
    wanted = listed.used()
    wanted = wanted[~is_lost[wanted]]
    faces = ListedFaces(listed, bool(arguments.resize))
    found = embed_listed(arguments, faces, wanted, arguments.flip is not False)
    unreadable, reasons = found.unreadable, found.reasons
    if found.rows is not None and unreadable.size:
        if arguments.on_missing == "fail":
            raise DataError(
                f"{listed.root}: {counted(len(unreadable), 'image')} cannot be used ({reasons}); mend them, or leave "
                "them out by --on-missing drop"
            )
        print(
            f"{listed.root}: {counted(len(unreadable), 'image')} cannot be used and "
            f"{agreeing(len(unreadable), 'is', 'are')} left out: {reasons}",
            file=sys.stderr,
        )
        is_lost[unreadable] = True
    return found.rows, {"model": found.model, "embeddings": None}, is_lost


def _is_published(listed: ListedSet) -> bool:
    counts = listed.counts()
    return bool(listed.published) and all(counts.get(name) == count for name, count in listed.published.items())


def _notes_on_counts(listed: ListedSet) -> list[str]:
    """Returns a sentence about counts that are not those of the release; none if the set claims none."""
    counts = listed.counts()
    other = [
        f"{name.removeprefix('num_').replace('_', ' ')} {counts.get(name, 0):,} instead of {count:,}"
        for name, count in listed.published.items()
        if counts.get(name) != count
    ]
    return [f"this is not the whole release: {', '.join(other)}"] if other else []


def _describe_losses(listed: ListedSet, is_lost: np.ndarray) -> dict[str, Any]:
    """Counts the images that gave no embedding by role, with the rate and its interval."""
    lost, wanted = int(is_lost.sum()), len(listed.used())
    interval = list(wilson_interval(lost, wanted))
    return {"num_images": lost, "rate": lost / wanted, "ci95": interval, "by_role": listed.losses(is_lost)}


def _describe_protocol(arguments: argparse.Namespace, kind: Kind, listed: ListedSet, flip: bool) -> dict[str, Any]:
    parts = []
    if listed.galleries:
        parts.append(f"identification: {kind.text}")
        if kind.within > 1:
            parts.append(f"in the open set found means among the first {kind.within}")
    if listed.pairs is not None:
        parts.append("1:1 pairs by the exact rule")
    if listed.leave_one_out:
        parts.append("1:1 of each two images of a person, and of each probe with each distractor, by the exact rule")
    return {
        "text": f"cosine of {embedding_text(flip)}; {'; '.join(parts)}",
        "kind": arguments.kind,
        "flip": flip,
        "within": kind.within,
        "resize": bool(arguments.resize),
        "seed": arguments.seed,
    }


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd evaluate protocol",
        description="Evaluates a model by a published protocol: open-set and closed-set identification, and pairs.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # The set, and the model or its embeddings.
    add("kind", choices=tuple(KINDS), help="the protocol")
    add("--root", required=True, metavar="DIR", help="folder of the set")
    source = parser.add_mutually_exclusive_group(required=True)
    add_model_option(source, required=False)
    source.add_argument("--embeddings", metavar="FILE.npy", help="or embeddings made elsewhere, (N, D) or (N, 2D)")
    add_output_option(parser)
    add_flip_option(parser)
    add_halves_option(parser)
    add("--on-missing", choices=("fail", "drop"), default="fail", help="if images cannot be used: stop (default), or "
        "leave them out and count them")  # fmt: skip
    # What is measured.
    add("--distractors", type=COUNT, metavar="N", help="search among the first N distractors (default: all)")
    add("--ranks", type=comma_separated(COUNT, "1,5,20"), metavar="N,N", help="ranks to report (default: 1,5,20)")
    add("--fpirs", type=FAR_LIST, metavar="F,F", help="FPIRs of the open set (default: 0.01,0.1,0.2,0.3)")
    add_metric_options(parser)
    add_report_switch(parser)
    add_embedding_options(parser)
    add_model_options(parser)
    parser.set_defaults(flip=None)
    arguments = parser.parse_args(argv)
    # What a parser cannot express: combinations, and defaults of the set.
    check_halves_option(parser, arguments, arguments.embeddings is not None)
    check_metric_options(parser, arguments)
    if arguments.embeddings is not None:
        refuse_preprocessing(parser, arguments)
    kind = KINDS[arguments.kind]
    arguments.ranks = arguments.ranks or kind.ranks
    arguments.fpirs = arguments.fpirs or kind.fpirs
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
