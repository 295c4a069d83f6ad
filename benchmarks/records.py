"""Measures facekd's record reader, writer and indexer beside mxnet 1.9.1's on the same machine.

mxnet needs a Python environment of its own (`make .venv-mxnet/.installed`). Its side runs there in one process
(`records_mxnet_side.py`), which times itself. The two take turns on the same files in memory, so that other load on the
machine falls on both. The bytes and labels they read are compared before anything is timed. Processor time is reported
beside wall-clock time and is more reliable on a busy machine.

- open: read the `.idx`; the first time, when facekd also writes its binary copy, and again from that copy.
- scan: find the records of a `.rec` without its `.idx`, beside a loop over all records as in mxnet's `rec2idx`.
- read: records in random order with their headers unpacked and images still encoded: one by one; by batches of 128,
  whose images are views of the mapped file; and the same, copied out of it.
- pack: encoded images to a new `.rec` and `.idx`. Unpack: the same to files.
- similarity: facekd's vectorised fit of five landmarks beside an SVD for each face in numpy, without mxnet.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from measuring import MXNET_PYTHON, Seconds, machine, spread

from data_prep import unpack_records
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack
from facekd.data.recordio.index import scan_records
from facekd.errors import FacekdError, run_verb
from facekd.files.writing import write_json
from facekd.images.alignment import similarity_transforms, template
from facekd.utils.wording import counted

BATCH_SIZE = 128


@dataclass
class Stage:
    """Holds one row of the table: the number of items in a turn, and the seconds of each side by turn."""

    name: str
    count: int
    ours: list[Seconds] = field(default_factory=list)
    peer: list[Seconds] = field(default_factory=list)

    def ratios(self, kind: int) -> list[float]:
        """Returns how many times faster facekd is, by turn; `kind` 0 is wall-clock time, 1 processor time."""
        return [peer[kind] / ours[kind] for ours, peer in zip(self.ours, self.peer, strict=True)]

    def rates(self, side: list[Seconds], kind: int) -> list[float]:
        """Returns the items a second of a side, by turn."""
        return [self.count / seconds[kind] for seconds in side]


Work = tuple[Stage, Callable[[], Seconds], Callable[[], Seconds]]  # a row, facekd's side, the peer's


class MxnetSide:
    """Starts the process that has mxnet, and sends it requests."""

    def __init__(self, python: Path) -> None:
        if not python.exists():
            raise FacekdError(
                f"{python} does not exist; create the environment with mxnet by `make .venv-mxnet/.installed`"
            )
        command = [str(python), "-W", "ignore", str(Path(__file__).with_name("records_mxnet_side.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, do: str, **request: Any) -> tuple[Seconds, Any]:
        """Runs an action; returns its seconds and its result."""
        assert self._process.stdin is not None and self._process.stdout is not None
        request = {name: str(value) if isinstance(value, Path) else value for name, value in request.items()}
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FacekdError("the process with mxnet ended; what it printed is above")
        answer = json.loads(line)
        return tuple(answer["seconds"]), answer["result"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def timed(work: Callable[[], Any]) -> Seconds:
    """Runs work in this process; returns its wall-clock and processor seconds, without those of children."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def open_anew(rec: Path) -> None:
    """Opens a pack without the binary copy of its index, as the first time."""
    rec.with_name(f"{rec.stem}.facekd-index").unlink(missing_ok=True)
    RecordReader(rec).close()


def read_one_by_one(data: RecordPack, images: np.ndarray) -> None:
    """Reads the images with these numbers, each by a call."""
    for image in images.tolist():
        data.read_image(image)


def read_batches(data: RecordPack, images: np.ndarray, copy: bool) -> None:
    """Reads the images with these numbers by batches, and copies them out of the mapped file if asked."""
    for start in range(0, len(images), BATCH_SIZE):
        encoded, _ = data.read_images(images[start : start + BATCH_SIZE])
        if copy:
            [bytes(image) for image in encoded]


def write_ours(rec: Path, images: list[bytes]) -> None:
    """Writes encoded images to a new `.rec` and `.idx` by facekd."""
    with RecordWriter(rec) as writer:
        for number, image in enumerate(images):
            writer.write(number, pack(Header(0, 1.0, number, 0), image))


def make_pack(folder: Path, num_images: int, least: int, most: int) -> Path:
    """Writes a pack of `least` to `most` random bytes an image, which nothing here decodes."""
    generator = np.random.default_rng(0)
    content = generator.bytes(1 << 24)
    sizes = generator.integers(least, most, num_images)
    starts = generator.integers(0, len(content) - most, num_images)
    with RecordWriter(folder / "train.rec") as writer:
        for key, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
            writer.write(key, pack(Header(0, float(key // 20), key, 0), content[start : start + size]))
    return folder / "train.rec"


def link_pack(folder: Path, data: Path) -> Path:
    """Links a given pack into the scratch folder, so that the binary copy of its index is written and deleted there."""
    source = open_record_pack(data).reader.rec_path
    folder.mkdir()
    for suffix in (".rec", ".idx"):
        (folder / f"train{suffix}").symlink_to(source.with_suffix(suffix).resolve())
    return folder / "train.rec"


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description="Measures facekd's RecordIO beside mxnet's.",
        epilog="examples:\n  python benchmarks/records.py --json records.json\n"
        "  python benchmarks/records.py --data ms1mv3 --num-reads 50000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="record pack with .idx to use for everything (default: random bytes)")
    parser.add_argument(
        "--num-lines", type=int, default=1_000_000, help="records of 100 bytes to open and scan (default: 1,000,000)"
    )
    parser.add_argument("--num-images", type=int, default=100_000, help="records of 4 to 7 kB to read (100,000)")
    parser.add_argument(
        "--num-reads", type=int, default=20_000, help="of these, records read in a turn (default: 20,000)"
    )
    parser.add_argument(
        "--num-writes", type=int, default=5_000, help="of these, records packed and unpacked in a turn (default: 5,000)"
    )
    parser.add_argument("--turns", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument(
        "--mxnet", type=Path, default=MXNET_PYTHON, help="Python that has mxnet 1.9.1 (default: %(default)s)"
    )
    parser.add_argument("--scratch", type=Path, help="folder for the packs (default: the system's, often /tmp)")
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)

    # Measure, print and write.
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        stages = _measure(arguments, Path(scratch))
    _print(stages, arguments.turns)
    if arguments.json:
        write_json(arguments.json, _as_json(stages, arguments))
    return 0


def _measure(arguments: argparse.Namespace, scratch: Path) -> list[Stage]:
    """Makes the packs, compares what both sides read, and runs all stages in turns."""
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")

    # The packs: records of 100 bytes to open and scan, records as large as faces to read.
    if arguments.data:
        lines = faces = link_pack(scratch / "data", arguments.data)
    else:
        print("making packs of random bytes", file=sys.stderr)
        lines = make_pack(scratch / "lines", arguments.num_lines, 80, 120)
        faces = make_pack(scratch / "faces", arguments.num_images, 4000, 7000)
    data = open_record_pack(faces)
    data.labels()
    images = np.random.default_rng(1).permutation(data.num_images)[: arguments.num_reads]

    # Both sides take turns, and which of them goes first changes every turn.
    mxnet = MxnetSide(arguments.mxnet)
    _check_same(mxnet, data, images)
    written = {side: scratch / side / "a.rec" for side in ("ours", "peer")}
    work = [
        *_index_work(mxnet, lines),
        *_read_work(mxnet, data, images),
        *_write_work(mxnet, data, images[: arguments.num_writes], written),
        _similarity_work(),
    ]
    for turn in range(arguments.turns):
        print(f"turn {turn + 1} of {arguments.turns}", file=sys.stderr)
        for rec in written.values():
            shutil.rmtree(rec.parent, ignore_errors=True)
            rec.parent.mkdir()
        for stage, ours, peer in work:
            for side, measure in ((stage.ours, ours), (stage.peer, peer))[:: -1 if turn % 2 else 1]:
                side.append(measure())
    mxnet.close()
    return [stage for stage, _, _ in work]


def _index_work(mxnet: MxnetSide, lines: Path) -> list[Work]:
    """Lists the stages that open a pack and find its records."""
    count = len(RecordReader(lines))

    def peer_open() -> Seconds:
        return mxnet("index", rec=lines, idx=lines.with_suffix(".idx"))[0]

    def peer_scan() -> Seconds:
        return mxnet("scan", rec=lines)[0]

    return [
        (Stage("open, the first time", count), lambda: timed(lambda: open_anew(lines)), peer_open),
        (Stage("open again", count), lambda: timed(lambda: RecordReader(lines).close()), peer_open),
        (Stage("scan without .idx", count), lambda: timed(lambda: scan_records(lines)), peer_scan),
    ]


def _read_work(mxnet: MxnetSide, data: RecordPack, images: np.ndarray) -> list[Work]:
    """Lists the stages that read records in random order."""
    rec, keys = data.reader.rec_path, data.image_keys[images].tolist()

    def peer_read() -> Seconds:
        return mxnet("read", rec=rec, idx=rec.with_suffix(".idx"), keys=keys)[0]

    return [
        (Stage("read one by one", len(images)), lambda: timed(lambda: read_one_by_one(data, images)), peer_read),
        (Stage("read by the batch", len(images)), lambda: timed(lambda: read_batches(data, images, False)), peer_read),
        (Stage("the same, copied", len(images)), lambda: timed(lambda: read_batches(data, images, True)), peer_read),
    ]


def _write_work(mxnet: MxnetSide, data: RecordPack, images: np.ndarray, written: dict[str, Path]) -> list[Work]:
    """Lists the stages that pack encoded images, and unpack what was just packed."""
    rec, keys = data.reader.rec_path, data.image_keys[images].tolist()
    encoded = [data.read_image(image)[0] for image in images.tolist()]
    ours, peer = written["ours"], {"rec": written["peer"], "idx": written["peer"].with_suffix(".idx")}

    def peer_pack() -> Seconds:
        return mxnet("write", **peer, source=rec, source_idx=rec.with_suffix(".idx"), keys=keys)[0]

    def ours_unpack() -> Seconds:
        with contextlib.redirect_stdout(sys.stderr):
            return timed(lambda: unpack_records.main([str(ours), str(ours.parent / "images"), "--no-names"]))

    def peer_unpack() -> Seconds:
        return mxnet("extract", **peer, keys=list(range(len(keys))), folder=written["peer"].parent / "images")[0]

    return [
        (Stage("pack", len(keys)), lambda: timed(lambda: write_ours(ours, encoded)), peer_pack),
        (Stage("unpack", len(keys)), ours_unpack, peer_unpack),
    ]


def _similarity_work() -> Work:
    """Returns the stage that fits the landmarks of 2,000 faces."""
    landmarks = template() * 2 + np.random.default_rng(1).normal(0, 3, (2000, 5, 2))
    return (
        Stage("similarity", len(landmarks)),
        lambda: timed(lambda: similarity_transforms(landmarks)),
        lambda: timed(lambda: [_umeyama(face) for face in landmarks]),
    )


def _print(stages: list[Stage], turns: int) -> None:
    """Prints the table."""
    print(
        f"medians (lowest to highest of {counted(turns, 'turn')}); processor: ratio of processor times instead of "
        "wall-clock times"
    )
    print(f"{'':<21}{'facekd, 1/s':>14}{'peer, 1/s':>12}{'ratio':>28}{'processor':>28}")
    for stage in stages:
        rates = [statistics.median(stage.rates(side, 0)) for side in (stage.ours, stage.peer)]
        ratios = [spread(stage.ratios(kind), 0 if max(stage.ratios(kind)) >= 100 else 2) for kind in (0, 1)]
        print(f"{stage.name:<21}{rates[0]:>14,.0f}{rates[1]:>12,.0f}{ratios[0]:>28}{ratios[1]:>28}")


def _as_json(stages: list[Stage], arguments: argparse.Namespace) -> dict[str, Any]:
    """Collects the settings, the machine and the figures of all stages."""
    results = {}
    for stage in stages:
        ratios = {"ratio": stage.ratios(0), "processor_ratio": stage.ratios(1)}
        results[stage.name] = {
            "count": stage.count,
            "facekd_s": [list(seconds) for seconds in stage.ours],
            "peer_s": [list(seconds) for seconds in stage.peer],
            **{
                name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
                for name, values in ratios.items()
            },
        }
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return {"settings": settings, "machine": machine(), "seconds": ["clock", "processor"], "stages": results}


def _check_same(mxnet: MxnetSide, data: RecordPack, images: np.ndarray) -> None:
    """Checks that mxnet and both of facekd's ways to read give the same labels and bytes."""
    ours, batch = hashlib.sha256(), hashlib.sha256()
    for image in images.tolist():
        content, label = data.read_image(image)
        ours.update(b"%d " % label + content)
    for encoded, label in zip(*data.read_images(images), strict=True):
        batch.update(b"%d " % label + bytes(encoded))
    rec, keys = data.reader.rec_path, data.image_keys[images].tolist()
    found = mxnet("digest", rec=rec, idx=rec.with_suffix(".idx"), keys=keys)[1]
    if not found == ours.hexdigest() == batch.hexdigest():
        raise FacekdError("the two sides read different bytes, so their speed is not compared")
    print(f"{counted(len(keys), 'record')} compared: both sides read the same", file=sys.stderr)


def _umeyama(face: np.ndarray) -> np.ndarray:
    """Fits one face by SVD, as the usual aligners do (Umeyama 1991)."""
    target = template()
    source_mean, target_mean = face.mean(axis=0), target.mean(axis=0)
    a, b = face - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (singular * sign).sum() / a.var(axis=0).sum()
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
