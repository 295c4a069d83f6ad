"""Lists the readers of text that users and strangers write: lists, tables, settings, logs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.inspection.clean_lists import read_clean_lists
from data_prep.pairs.published_lists import read_pair_list
from data_prep.photographs.align_log import AlignLog, Alignment
from data_prep.photographs.landmark_files import read_landmarks
from data_prep.sources.image_lists import labels_from_key_list, read_lst
from data_prep.sources.image_sources import read_tsv
from evaluation.groups.group_file import GroupFile, read_groups
from evaluation.groups.race_layouts import load_race_layout
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from evaluation.protocols.ijbs import read_table
from evaluation.protocols.listed_set import Entries, ListedSet
from evaluation.protocols.megaface import load_megaface
from evaluation.sets.pair_set import read_subjects
from facekd.commands.yaml_files import MAX_VALUES, read_yaml
from facekd.data.datasets.record_pack import open_record_pack, read_property
from facekd.experiments.studies.config import Method, Pack, Study
from facekd.experiments.studies.external import read_external
from facekd.experiments.studies.file import load_study
from facekd.files.reading import read_text_file
from facekd.files.resumable_file import ResumableFile
from facekd.importing.adaface_command import read_command, translate_adaface
from facekd.importing.arcface_config import translate_arcface
from facekd.importing.python_config import read_python_config
from facekd.results.reading import read_result
from facekd.results.thresholds import MeasuredThresholds, read_thresholds
from facekd.training.logbook import read_log
from facekd.training.logbook.log_file import is_number
from tests.fuzz.record_targets import rec_seeds
from tests.fuzz.target import Target
from tests.measured_results import folder_result

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
PYTHON_CONFIG = (
    "from easydict import EasyDict as edict",
    "config = edict()",
    "config.margin_list = (1.0, 0.0, 0.4)",
    "config.rec = 'faces'",
    "config.num_image = 30 * 10000",
    "config.num_epoch = 20",
    "config.warmup_epoch = config.num_epoch // 10",
    "config.lr = -(-0.1) + 1",
)
FIVE_POINTS = "38.29 51.69 73.53 51.5 56.02 71.73 41.54 92.36 70.72 92.2"


BFW_OTHERS = (("f/a/2.jpg", 1), ("m/b/1.jpg", 0))


def _bfw_images(folder: Path) -> None:
    for name in ("f/a/1.jpg", *(other for other, _ in BFW_OTHERS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _check_groups(_: bytes, file: GroupFile) -> None:
    assert all(group and name in file.names for groups in file.attributes.values() for name, group in groups.items())


def _check_entries(_: bytes, entries: Entries) -> None:
    assert np.array_equal(np.unique(entries.of_entry), np.arange(len(entries)))
    assert len(entries.images) == len(entries.of_entry) and (entries.images >= 0).all()


def _check_megaface(_: bytes, listed: ListedSet) -> None:
    assert not any(".." in name.split("/") or name.startswith("/") for name in listed.names)
    assert listed.used().max() < len(listed.names)


def _read_others(path: Path) -> object:
    """Reads a file of another program's results for a study on one pack."""
    method = Method("theirs", "", "", {}, (), True, "", "", {}, results=str(path))
    study = Study(path.parent, "", (0,), "", {}, (), (Pack("test.bin"),), {}, {"theirs": method})
    return read_external(study, method, None)


def _thresholds_seed() -> list[bytes]:
    result = folder_result(np.array([0.4, 0.6, 0.7]), np.linspace(-0.3, 0.5, 20), (0.5, 0.1, 0.01))
    return [json.dumps(result).encode()]


def _check_thresholds(_: bytes, read: MeasuredThresholds) -> None:
    for cosine in (-1.0, 0.3, 1.0, *read.threshold.tolist()):
        rates = read.rates_at(cosine)
        assert all(0 <= low <= high <= 1 for low, high in (rates.far, rates.tar)), rates


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


def _check_log(_: bytes, entries: Any) -> None:
    """Curves can show the numbers: neither they nor their differences are infinite."""
    numbers = [float(value) for entry in entries for value in entry.values() if is_number(value)]
    assert not numbers or math.isfinite(max(numbers) - min(numbers))


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


def _check_yaml(_: bytes, result: Any) -> None:
    """Walks through all values, those that aliases repeat each time: there must be few."""
    left, count = [result], 0
    while left:
        value = left.pop()
        count += 1
        assert count <= 2 * MAX_VALUES
        if isinstance(value, dict | list):
            left += [*value, *value.values()] if isinstance(value, dict) else value


def _read_key_list(path: Path) -> Any:
    labels, names = labels_from_key_list(open_record_pack(path.with_name("train.rec"), "fail"), path)
    return labels.tolist(), names


def _check_key_list(content: bytes, result: Any) -> None:
    """Has the people of two records alike exactly where their folders are."""
    labels, names = result
    text = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    words = [line.split("\t") for line in text.split("\n") if line.strip()]
    path_of = {int(row[0]): row[1] for row in words}
    assert (len(labels) == 4 and not names) or names == [path_of[key] for key in range(4)]


def _align_log(path: Path) -> dict[str, Alignment]:
    with AlignLog(path.parent, {"size": 112}) as log:
        return log.entries


def _check_align_log(_: bytes, entries: Any) -> None:
    """Damage may cost entries, and leaves none of other kinds."""
    for name, entry in entries.items():
        assert isinstance(name, str) and isinstance(entry.stamp, list)
        assert all(isinstance(text, str | None) for text in (entry.crop, entry.reason, entry.detail))
        np.array(entry.landmarks or [0], np.float64), np.array(entry.box or [0], np.float64)


def _align_seed() -> list[bytes]:
    rows = [
        {"settings": {"size": 112}},
        {"photo": "a.jpg", "stamp": [1, 2, 3], "crop": "a.png", "landmarks": [1.5] * 10, "score": 0.9, "num_faces": 1},
        {"photo": "b.jpg", "stamp": [1, 2, 3], "reason": "no_face", "box": [1, 2, 3, 4]},
    ]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


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
    Target(
        "ijbs_table",
        "gallery_G1.csv",
        lambda path: read_table(path, {}),
        lambda: lines("TEMPLATE_ID,SUBJECT_ID,FILENAME", "1,10,a.jpg", '2,11,"b, c.jpg"', "2,11,d.jpg"),
        _check_entries,
    ),
    Target(
        "megaface_list",
        "facescrub_lst",
        lambda path: load_megaface(path.parent),
        lambda: lines("Ann/Ann_1.jpg", "Ann/Ann_2.jpg", "x/facescrub_images/Bob/Bob_1.png"),
        _check_megaface,
        lambda folder: (folder / "megaface_lst").write_text("a/b/1.jpg\n") and None,
    ),
    Target("property", "property", lambda path: read_property(path, []), lambda: lines("85742,112,112")),
    Target(
        "log",
        "log.jsonl",
        lambda path: read_log(path.parent, "train"),
        lambda: lines(
            '{"kind": "train", "images_seen": 12, "loss": 40.5}',
            '{"kind": "train", "images_seen": 24, "loss": -1e308, "lr": 1e308}',
            '{"kind": "validation", "images_seen": 12}',
        ),
        _check_log,
    ),
    Target(
        "results",
        "results.json",
        lambda path: read_result(path.parent),
        lambda: [b'{"format": "facekd-ijb", "version": 1, "tar": {"0.001": 0.5}}'],
    ),
    Target("groups", "groups.csv", read_groups, lambda: lines("person,sex,region", "ann,f,a", "bob,m,"), _check_groups),
    Target(
        "bfw_table",
        "bfw.csv",
        lambda path: load_race_layout(path, None, 2, "auto"),
        lambda: lines(
            "fold,p1,p2,label,att1,att2,g1,g2",
            *(f"{fold},f/a/1.jpg,{other},{label},f,{other[0]},F,F" for fold in (1, 2) for other, label in BFW_OTHERS),
        ),
        prepare=_bfw_images,
    ),
    Target("thresholds", "results.json", read_thresholds, _thresholds_seed, _check_thresholds),
    Target(
        "python_config",
        "config.py",
        lambda path: translate_arcface(read_python_config(path), path),
        lambda: lines(*PYTHON_CONFIG),
    ),
    Target(
        "command_line",
        "run.sh",
        lambda path: translate_adaface(read_command(read_text_file(path), str(path)), str(path)),
        lambda: lines("python main.py --arch ir_50 \\", "  --lr 0.1 --gpus 2 --lr_milestones 8,12 --use_16bit"),
    ),
    Target("study", "study.yaml", lambda path: load_study(path), lambda: [STUDY], copies=20, is_named=False),
    Target("others_results", "theirs.json", _read_others, lambda: [b'{"test": {"eer": [0.03, 1], "tar@0.01": [0.9]}}']),
    Target(
        "yaml",
        "c.yaml",
        read_yaml,
        lambda: [
            STUDY,
            b"a: &a {x: 1, y: [2, 1e-4, *b]}\n".replace(b"*b", b"'[1, 2]'") + b"b: {<<: *a, x: [*a, *a]}\n",
        ],
        _check_yaml,
    ),
    Target(
        "key_list",
        "list.txt",
        _read_key_list,
        lambda: lines("0\tann/1.jpg", "1\tbob/1.jpg\tx", "2\tann/2.jpg", "3\tbob/2.jpg", "4\tcid/1.jpg"),
        _check_key_list,
        prepare=lambda folder: (folder / "train.rec").write_bytes(rec_seeds()[0]) and None,
    ),
    Target("align_log", "align_log.jsonl", _align_log, _align_seed, _check_align_log, is_named=False),
    Target("journal", ".train.rec.journal", _journal, _journal_seed),
]
