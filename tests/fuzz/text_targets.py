"""Lists the readers of text that users and strangers write: lists, tables, settings, logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.inspection.clean_lists import read_clean_lists
from data_prep.pairs.published_lists import read_pair_list
from data_prep.photographs.landmark_files import read_landmarks
from data_prep.sources.image_lists import read_lst
from data_prep.sources.image_sources import read_tsv
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from evaluation.results.page import read_result
from evaluation.sets.pair_set import read_subjects
from facekd.data.datasets.record_pack import read_property
from facekd.experiments.study_file import load_study
from facekd.training.logbook import read_log
from facekd.utils.resumable_file import ResumableFile
from tests.fuzz.target import Target

STUDY = b"""\
output: out
reference: alone
seeds: [0, 1]
packs: [{pairs: test.bin, names: test_pairs.txt}]
base: {data.train: 'synthetic:4x4', images: 16}
methods:
  alone: {verb: train}
  other: {verb: train, config: {head.margin: cosface}}
"""
FIVE_POINTS = "38.29 51.69 73.53 51.5 56.02 71.73 41.54 92.36 70.72 92.2"


def lines(*rows: str) -> list[bytes]:
    """Returns a seed of these lines, with and without carriage returns, and with a byte-order mark."""
    text = "\n".join(rows) + "\n"
    return [text.encode(), text.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + text.encode()]


def _journal(path: Path) -> list[tuple[int, str]]:
    """Opens a file in progress with this journal, and returns the entries it believes."""
    with (path.parent / ".train.rec.partial").open("wb") as stream:
        stream.write(bytes(64))
    file = ResumableFile(path.parent / "train.rec", {"verb": "pack"})
    try:
        entries = list(file.entries())
        assert all(0 <= end <= 64 for end, _ in entries)
        assert file.num_found == len(entries)
        return entries
    finally:
        file.abort()


def _check_pairs(content: bytes, result: Any) -> None:
    """Compares with Python's own parsing, a line at a time."""
    rows = [line.split() for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    first, second, is_same = result
    assert first.tolist() == [int(row[0]) for row in rows]
    assert second.tolist() == [int(row[1]) for row in rows]
    assert is_same.tolist() == [float(row[2]) == 1 for row in rows]


def _journal_seed() -> list[bytes]:
    head = {"format": "facekd-journal", "version": 1, "job": {"verb": "pack"}}
    return [json.dumps(head).encode() + b"\n16\t0 a\n32\t1 b\n48\t2 c\n"]


LST = lines("1\tann/1.jpg\t0", "1\tann/2.jpg\t0", "1\tbob/1.jpg\t1")
LST += lines("0\t0.0\tann/1.jpg", "1\t1.0\tbob/1.jpg")
PAIRS = [
    *lines("2\t1", "Ann\t1\t2", "Ann\t1\tBob\t1", "Bob\t1\t2", "Bob\t2\tAnn\t1"),
    *lines("Ann/1.jpg 1", "Ann/2.jpg 1", "Ann/1.jpg 0", "Bob/1.jpg 0"),
    *lines("Ann/1.jpg\tAnn/2.jpg\t1", "Ann/1.jpg\tBob/1.jpg\t0"),
]

TARGETS = [
    Target("lst", "train.lst", read_lst, lambda: LST),
    Target("tsv", "train.tsv", read_tsv, lambda: lines("path\tlabel", "a/1.jpg\t0", "b/1.jpg\t1")),
    Target(
        "clean_list",
        "clean.tsv",
        lambda path: read_clean_lists([path]),
        lambda: lines("# why", "drop\t5\t0.3", "drop-identity\t3", "merge\t4\t5"),
    ),
    Target("pair_list", "pairs.txt", read_pair_list, lambda: PAIRS),
    Target(
        "pair_names",
        "names.txt",
        lambda path: read_subjects(path, np.array([True, False]), "pack.bin"),
        lambda: lines("Ann/1.jpg\tAnn/2.jpg\t1", "Ann/1.jpg\tBob/1.jpg\t0"),
    ),
    Target(
        "landmarks", "landmarks.txt", read_landmarks, lambda: lines(f"a.jpg {FIVE_POINTS}", f"b.jpg {FIVE_POINTS} 0.9")
    ),
    Target("ijb_pairs", "pairs.txt", read_pairs, lambda: lines("1 2 1", "3 4 0", "188000 5 1"), _check_pairs),
    Target(
        "ijb_names",
        "names.txt",
        lambda path: read_named_numbers(path, 11, np.float32),
        lambda: lines(f"1.jpg {FIVE_POINTS} 0.98", f"2.jpg {FIVE_POINTS} 0.7"),
    ),
    Target(
        "ijb_subjects",
        "gallery.csv",
        read_template_subjects,
        lambda: lines("TEMPLATE_ID,SUBJECT_ID,FILENAME", "1,10,a.jpg", "2,11,b.jpg"),
    ),
    Target("property", "property", lambda path: read_property(path, []), lambda: lines("85742,112,112")),
    Target(
        "log",
        "log.jsonl",
        lambda path: read_log(path.parent, "train"),
        lambda: lines(
            '{"kind": "train", "images_seen": 12, "loss": 40.5}', '{"kind": "validation", "images_seen": 12}'
        ),
    ),
    Target(
        "results",
        "results.json",
        lambda path: read_result(path.parent),
        lambda: [b'{"format": "facekd-ijb", "version": 1, "tar": {"0.001": 0.5}}'],
    ),
    Target("study", "study.yaml", lambda path: load_study(path), lambda: [STUDY], copies=20, is_named=False),
    Target("journal", ".train.rec.journal", _journal, _journal_seed),
]
