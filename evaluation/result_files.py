"""Puts together and writes what an evaluation leaves in its output folder.

Every evaluation holds `lock_output` and calls `check_output` first. Once it has its numbers it calls
`start_evaluation`, writes its files, and ends with `finish_results`, which writes results.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import describe_software
from evaluation.shared_options import data_read, files_read
from facekd.commands.command_line import command_text
from facekd.commands.places import check_apart, require_own_results
from facekd.errors import DataError
from facekd.files.output_lock import folder_lock
from facekd.files.reading import read_json
from facekd.files.result_folder import MARK, start_results, was_stopped
from facekd.files.writing import atomic_open
from facekd.results.schema import FORMATS
from facekd.utils.foreign import shown

# Every file but results.json that some evaluation writes into its output folder; a new one must be named here.
FILES = (
    "scores.npy",
    "curves.npz",
    "draws.npz",
    "roc.png",
    "hardest_pairs.png",
    "quality.png",
    "table.md",
    "report.html",
    "report.md",
    "results.csv",
    "groups.html",
)


def make_result(
    kind: str,
    version: int,
    content: Mapping[str, Any],
    verb: str,
    argv: Sequence[str] | None,
    software: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the content of results.json: what was measured, between its format and how it was made.

    Args:
        kind: name of the format, such as "facekd-verification".
        version: version of the format.
        content: model, data, protocol and measures.
        verb: the command without its options, such as "evaluate lfw".
        argv: its options; None takes those of this process.
        software: versions of the libraries; None lists those of an evaluation of embeddings.
    """
    # Software and command come last, so that a reader sees the measures first.
    result = {
        "format": kind,
        "version": version,
        **content,
        "software": describe_software() if software is None else dict(software),
        "command": command_text(verb, argv),
    }
    return json.loads(json.dumps(result))  # a page made of it equals one made of the file: lists, no tuples


def lock_output(
    folder: Path, active: bool = True, arguments: argparse.Namespace | None = None
) -> AbstractContextManager[None]:
    """Locks an output folder for one evaluation or report, from before its results are looked at to the end.

    Args:
        folder: output folder; created if missing.
        active: False locks nothing: of several processes that embed together, only the main one locks.
        arguments: the parsed options of an evaluation, which name what it reads.

    Raises:
        InUseError: another process evaluates into the folder.
        DataError: the folder cannot be written to, overlaps with the data, or holds a file that is read and would be
            replaced.
    """
    if arguments is not None:
        check_apart(folder, *data_read(arguments), *files_read(arguments), names=(MARK, *FILES, "embeddings"))
    return folder_lock(folder, "evaluation or report is at work", active)


def check_output(folder: Path, parts: Sequence[str] = ()) -> None:
    """Refuses an output folder with files of something else than an evaluation, before hours of embedding.

    Args:
        folder: output folder of the evaluation, which need not exist.
        parts: names of the packs that will have a folder each in it.

    Raises:
        DataError: naming the file.
    """
    _earlier_results(folder)
    require_own_results(folder, FILES, "facekd evaluate")
    for part in parts:
        _earlier_results(folder / part)
        if not was_stopped(folder):  # what a stopped evaluation has left of a part bears no mark
            require_own_results(folder / part, FILES, "facekd evaluate")


def start_evaluation(folder: Path, parts: Sequence[str] = ()) -> None:
    """Withdraws the results of an earlier evaluation in a folder, and removes all its files but the embeddings.

    Args:
        folder: output folder of the evaluation; created if missing.
        parts: names of the packs that will have a folder each in it.

    Raises:
        DataError: the folder holds results of something else than an evaluation.
    """
    earlier = _earlier_results(folder)
    start_results(folder, FILES, [*parts, *_packs_of(earlier)])


def write_arrays(
    folder: Path,
    scores: np.ndarray | None = None,
    curves: Mapping[str, np.ndarray] | None = None,
    draws: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes scores.npy, curves.npz and draws.npz, where given; a file that would hold no array is left out."""
    if scores is not None:
        with atomic_open(folder / "scores.npy") as stream:
            np.save(stream, scores)
    for name, arrays in (("curves.npz", curves), ("draws.npz", draws)):
        if arrays:
            with atomic_open(folder / name) as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]


def _packs_of(result: dict[str, Any]) -> list[str]:
    """Returns the names of the packs that results of several are of; none of results that are damaged."""
    try:
        return [str(one["pair_set"]["name"]) for one in result.get("pair_sets", ())]
    except (KeyError, TypeError):
        return []


def _earlier_results(folder: Path) -> dict[str, Any]:
    """Returns what results.json of a folder says; nothing if there is none, or a damaged one."""
    try:
        found = read_json(folder / MARK, "the results of an evaluation")
    except (FileNotFoundError, DataError):
        return {}
    if found.get("format") not in FORMATS:
        kind = shown(found.get("format", "none given"))
        raise DataError(f"{folder / MARK}: is not of an evaluation (format: {kind}); choose another --output")
    return found
