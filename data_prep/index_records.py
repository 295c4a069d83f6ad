"""Verb `facekd data index`: writes the missing `.idx` of a `.rec` file by scanning it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from data_prep.jobs.bad_records import NUM_SHOWN, add_bad_record_option
from facekd.commands.command_line import CommandParser
from facekd.commands.places import check_apart
from facekd.data.datasets.record_pack import find_rec
from facekd.data.recordio.idx_file import parse_idx, write_idx
from facekd.data.recordio.index import scan_records
from facekd.errors import RecordError, run_verb
from facekd.files.output_lock import file_lock
from facekd.utils.wording import counted


def main(argv: list[str] | None = None) -> int:
    """Parses, and writes the index of a `.rec` file; returns the exit status."""
    parser = CommandParser(
        prog="facekd data index",
        description="Scans a RecordIO file and writes its index, one line `key offset` per record.",
        example="example:\n  facekd data index ms1mv3/train.rec        # writes ms1mv3/train.idx",
    )
    parser.add_argument("rec", type=Path, metavar="REC", help="the .rec file, or a folder that holds one")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the index (default: beside REC, .idx)")
    parser.add_argument("--force", action="store_true", help="replace an existing .idx that differs")
    add_bad_record_option(parser)
    arguments = parser.parse_args(argv)

    # An index that is there is only compared, which needs no place to write.
    rec_path = find_rec(arguments.rec)
    idx_path: Path = arguments.output or rec_path.with_suffix(".idx")
    check_apart(idx_path, rec_path)
    with file_lock(idx_path, active=arguments.force or not idx_path.exists()):
        return _index(arguments, rec_path, idx_path)


def _index(arguments: argparse.Namespace, rec_path: Path, idx_path: Path) -> int:
    """Scans the file and writes its index, or compares the one that is there."""
    # Damaged parts stop the verb or are left out.
    keys, offsets, damage = scan_records(rec_path)
    if damage and arguments.on_bad_record == "fail":
        raise RecordError(
            f"{rec_path} is damaged: {damage[0]}{f', and {len(damage) - 1:,} more' if len(damage) > 1 else ''}; "
            f"{counted(len(keys), 'record is', 'records are')} whole. Index those by --on-bad-record skip, or copy "
            "the file again"
        )
    for sentence in damage[:NUM_SHOWN]:
        print(f"skipped: {rec_path}: {sentence}", file=sys.stderr)

    # An index that is there is kept if it is right.
    if idx_path.exists() and not arguments.force:
        if _is_same_index(idx_path, keys, offsets):
            print(f"{idx_path} is there and right: {counted(len(keys), 'record')}")
            return 0
        raise RecordError(f"{idx_path} is there and differs from what the scan found; replace it by --force")
    write_idx(idx_path, keys, offsets)
    skipped = f", {len(damage):,} skipped" if damage else ""
    print(f"{idx_path}: {counted(len(keys), 'record')}{skipped}")
    return 0


def _is_same_index(idx_path: Path, keys: np.ndarray, offsets: np.ndarray) -> bool:
    try:
        existing_keys, existing_offsets = parse_idx(idx_path)
    except RecordError:
        return False
    # Rows may be in any order: compare them as pairs.
    mine, theirs = np.lexsort((offsets, keys)), np.lexsort((existing_offsets, existing_keys))
    return np.array_equal(keys[mine], existing_keys[theirs]) and np.array_equal(offsets[mine], existing_offsets[theirs])


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
