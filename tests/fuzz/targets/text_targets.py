"""Lists the readers of settings, logs and journals; lists have files of their own."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.photographs.align_log import REASONS, AlignLog, Alignment
from facekd.commands.config_files import SHIPPED_CONFIGS, parse_config
from facekd.commands.plain_configs import to_yaml
from facekd.commands.yaml_files import MAX_VALUES, read_yaml
from facekd.errors import FacekdError
from facekd.experiments.studies.config import Method, Pack, Study
from facekd.experiments.studies.external import read_external
from facekd.experiments.studies.file import load_study
from facekd.files.reading import read_text_file
from facekd.files.resumable_file import JOURNAL_FORMAT, JOURNAL_VERSION, ResumableFile
from facekd.importing.adaface_command import read_command, translate_adaface
from facekd.importing.arcface_config import translate_arcface
from facekd.importing.python_config import read_python_config
from facekd.training.config.distill_config import DistillConfig
from facekd.training.config.train_config import TrainConfig
from facekd.training.logbook import read_log
from facekd.training.logbook.log_file import is_number
from tests.fuzz.target import Target, lines

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


JSON_WORDS = ('{"', '": ', "[[", "]]", "null", "true", "NaN", "-Infinity", "1e999", r"\u0000", r"\ud800", "\t0 a\n")
YAML_WORDS = (
    *JSON_WORDS,
    "&a ",
    "*a",
    "<<: *a",
    "- ",
    ": ",
    "!!python/",
    "!!int ",
    "0x1F",
    "1_0",
    ".inf",
    "~",
    "|\n",
    "---\n",
    "%YAML",
)
PYTHON_WORDS = (
    "config.",
    "edict()",
    "import ",
    "from ",
    "range(",
    "lambda x: x",
    "**",
    "//",
    "**9",
    "[0] * 9",
    "@",
    "exec(",
    "f'{1}'",
)


def _read_others(path: Path) -> object:
    """Reads a file of another program's results for a study on one pack."""
    method = Method("theirs", "", "", {}, (), True, "", "", {}, results=str(path))
    study = Study(path.parent, "", (0,), "", {}, (), (Pack("test.bin"),), {}, {"theirs": method})
    return read_external(study, method, None)


def _config_reader(config_class: type, prog: str) -> Callable[[Path], Any]:
    """Returns a reader of a configuration, which is written as a run folder holds it and must come back as it is."""

    def read(path: Path) -> Any:
        config = parse_config(config_class, [str(path)], prog, "")
        again = path.with_name("again.yaml")
        again.write_text(to_yaml(config), encoding="utf-8")
        try:
            found = parse_config(config_class, [str(again)], prog, "")
        except FacekdError as error:
            raise AssertionError(f"not read back: {error}: {again.read_text()}") from error
        assert found == config, f"{found} instead of {config}"
        return config

    return read


def _journal(path: Path) -> list[tuple[int, str]]:
    """Opens a file in progress with a journal of these lines, sealed, and returns the entries it believes."""
    path.write_bytes(sealed_journal({"verb": "pack"}, path.read_bytes().split(b"\n")))
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


def sealed_journal(job: dict[str, Any], lines: list[bytes]) -> bytes:
    """Returns a journal of these lines with right checksums, which damage would never leave."""
    found = json.dumps({"format": JOURNAL_FORMAT, "version": JOURNAL_VERSION, "job": job}).encode() + b"\n"
    checksum = zlib.crc32(found)
    for line in lines:
        checksum = zlib.crc32(line + b"\t", checksum)
        found += line + b"\t%08x\n" % checksum
    return found


def _check_journal(content: bytes, entries: list[tuple[int, str]]) -> None:
    """Believes the first lines, in whose order the file grows."""
    rows = content.split(b"\n")[: len(entries)]
    words = [row.partition(b"\t")[2].decode("utf-8", "surrogateescape") for row in rows]
    assert words == [words for _, words in entries]
    assert [end for end, _ in entries] == sorted(int(row.partition(b"\t")[0]) for row in rows)
    assert content != JOURNAL or len(entries) == 3


JOURNAL = b"16\t0 a\n32\t1 b\n48\t2 c"


def _check_yaml(_: bytes, result: Any) -> None:
    """Walks through all values, those that aliases repeat each time: there must be few."""
    left, count = [result], 0
    while left:
        value = left.pop()
        count += 1
        assert count <= 2 * MAX_VALUES
        if isinstance(value, dict | list):
            left += [*value, *value.values()] if isinstance(value, dict) else value


def _align_log(path: Path) -> dict[str, Alignment]:
    with AlignLog(path.parent, {"size": 112}) as log:
        return log.entries


def _check_align_log(_: bytes, entries: Any) -> None:
    """Damage may cost entries, and leaves none of other kinds."""
    for name, entry in entries.items():
        assert isinstance(name, str) and isinstance(entry.stamp, list)
        assert all(isinstance(text, str | None) for text in (entry.crop, entry.detail))
        assert entry.reason is None if entry.crop is not None else entry.reason in REASONS
        np.array(entry.landmarks or [0], np.float64), np.array(entry.box or [0], np.float64)


def _align_seed() -> list[bytes]:
    rows = [
        {"settings": {"size": 112}},
        {"photo": "a.jpg", "stamp": [1, 2, 3], "crop": "a.png", "landmarks": [1.5] * 10, "score": 0.9, "num_faces": 1},
        {"photo": "b.jpg", "stamp": [1, 2, 3], "reason": "no_face", "box": [1, 2, 3, 4]},
    ]
    return ["".join(json.dumps(row) + "\n" for row in rows).encode()]


TARGETS = [
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
        words=JSON_WORDS,
    ),
    Target(
        "python_config",
        "config.py",
        lambda path: translate_arcface(read_python_config(path), path),
        lambda: lines(*PYTHON_CONFIG),
        words=PYTHON_WORDS,
    ),
    Target(
        "command_line",
        "run.sh",
        lambda path: translate_adaface(read_command(read_text_file(path), str(path)), str(path)),
        lambda: lines("python main.py --arch ir_50 \\", "  --lr 0.1 --gpus 2 --lr_milestones 8,12 --use_16bit"),
        words=("--", "\\\n", "'", '"', "$(", "`", "main.py", "--arch=", "&&", "#", "--head", "adaface"),
    ),
    Target(
        "study",
        "study.yaml",
        lambda path: load_study(path),
        lambda: [STUDY],
        copies=20,
        is_named=False,
        words=(*YAML_WORDS, "methods", "packs", "config", "seeds"),
    ),
    Target(
        "train_config",
        "train.yaml",
        _config_reader(TrainConfig, "facekd train"),
        lambda: [(SHIPPED_CONFIGS / "debug.yaml").read_bytes()],
        copies=10,
        is_named=False,
        words=(*YAML_WORDS, "head:", "  scale: ", "data:", "train: [", "plugins"),
    ),
    Target(
        "distill_config",
        "distill.yaml",
        _config_reader(DistillConfig, "facekd distill"),
        lambda: [(SHIPPED_CONFIGS / "distill" / "ms1mv3_sh_kd.yaml").read_bytes()],
        copies=10,
        is_named=False,
        words=(*YAML_WORDS, "teacher:", "  model: ", "loss:", "teachers:"),
    ),
    Target(
        "yaml",
        "c.yaml",
        read_yaml,
        lambda: [
            STUDY,
            b"a: &a {x: 1, y: [2, 1e-4, *b]}\n".replace(b"*b", b"'[1, 2]'") + b"b: {<<: *a, x: [*a, *a]}\n",
        ],
        _check_yaml,
        words=YAML_WORDS,
    ),
    Target(
        "others_results",
        "theirs.json",
        _read_others,
        lambda: [b'{"test": {"eer": [0.03, 1], "tar@0.01": [0.9]}}'],
        words=JSON_WORDS,
    ),
    Target("align_log", "align_log.jsonl", _align_log, _align_seed, _check_align_log, is_named=False, words=JSON_WORDS),
    Target("journal", ".train.rec.journal", _journal, lambda: [JOURNAL], _check_journal),
]
