"""facekd's record reader, writer and indexer beside mxnet 1.9.1's own, in one run on one machine.

mxnet needs a Python environment of its own (`make .venv-mxnet/.installed`); its half of the work runs there
(`records_mxnet_side.py`), in one process that is kept for the whole of the benchmark, and times itself. The two take
turns on the same files, in memory, so that whatever else the machine does falls on both, and before anything is timed
the bytes and labels they read are compared. Times are taken by the clock and of the processor: on a busy machine the
second kind says more.

- open: read the `.idx`; the first time, when facekd also writes its binary copy, and again, when that is there.
- scan: find the records of a `.rec` without its `.idx`, against a loop over all records, as mxnet's `rec2idx` does.
- read: records in random order, header unpacked, image bytes as they are: one by one; by batches of 128, whose images
  are views of the mapped file; and the same copied out of it.
- pack: encoded images to a new `.rec` and `.idx`. Unpack: the same to files.
- similarity: facekd's vectorised fit of five landmarks beside one face at a time by SVD; mxnet has no part in this.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
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

from data_prep import unpack_records
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack
from facekd.data.recordio.index import scan_records
from facekd.errors import FacekdError, run_verb
from facekd.images.alignment import similarity_transforms, template
from facekd.utils.files import write_json

MXNET_PYTHON = Path(".venv-mxnet/bin/python")
BATCH_SIZE = 128
Seconds = tuple[float, float]  # by the clock, of the processor


@dataclass
class Stage:
    """One line of the table: how many things are done in a turn, and the seconds each side took for them."""

    name: str
    count: int
    ours: list[Seconds] = field(default_factory=list)
    peer: list[Seconds] = field(default_factory=list)

    def ratios(self, kind: int) -> list[float]:
        return [peer[kind] / ours[kind] for ours, peer in zip(self.ours, self.peer, strict=True)]

    def rates(self, side: list[Seconds], kind: int) -> list[float]:
        return [self.count / seconds[kind] for seconds in side]


class MxnetSide:
    """The process that has mxnet."""

    def __init__(self, python: Path) -> None:
        if not python.exists():
            raise FacekdError(f"{python}: no environment with mxnet; `make .venv-mxnet/.installed` makes it")
        command = [str(python), "-W", "ignore", str(Path(__file__).with_name("records_mxnet_side.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, do: str, **request: Any) -> tuple[Seconds, Any]:
        """Run an action; returns its seconds and what it returned."""
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
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def timed(work: Callable[[], Any]) -> Seconds:
    """Seconds of some work of ours."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def open_anew(rec: Path) -> None:
    """As on the first day: without the binary copy of the index."""
    rec.with_name(f"{rec.stem}.facekd-index").unlink(missing_ok=True)
    RecordReader(rec).close()


def read_one_by_one(data: RecordPack, images: np.ndarray) -> None:
    for image in images.tolist():
        data.read_image(image)


def read_batches(data: RecordPack, images: np.ndarray, copy: bool) -> None:
    for start in range(0, len(images), BATCH_SIZE):
        encoded, _ = data.read_images(images[start : start + BATCH_SIZE])
        if copy:
            [bytes(image) for image in encoded]


def write_ours(rec: Path, images: list[bytes]) -> None:
    with RecordWriter(rec) as writer:
        for number, image in enumerate(images):
            writer.write(number, pack(Header(0, 1.0, number, 0), image))


def make_pack(folder: Path, num_images: int, least: int, most: int) -> Path:
    """Random bytes of `least` to `most` an image: nothing here looks inside."""
    generator = np.random.default_rng(0)
    content = generator.bytes(1 << 24)
    sizes = generator.integers(least, most, num_images)
    starts = generator.integers(0, len(content) - most, num_images)
    with RecordWriter(folder / "train.rec") as writer:
        for key, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
            writer.write(key, pack(Header(0, float(key // 20), key, 0), content[start : start + size]))
    return folder / "train.rec"


def link_pack(folder: Path, data: Path) -> Path:
    """The pack of someone under names in the scratch folder, where the binary copy of its index may come and go."""
    source = open_record_pack(data).reader.rec_path
    folder.mkdir()
    for suffix in (".rec", ".idx"):
        (folder / f"train{suffix}").symlink_to(source.with_suffix(suffix).resolve())
    return folder / "train.rec"


def main(argv: list[str] | None = None) -> int:
    """Parse, measure in turns, print and write."""
    parser = argparse.ArgumentParser(
        description="Compare RecordIO with mxnet's.",
        epilog="examples:\n  python benchmarks/records.py --json records.json\n"
        "  python benchmarks/records.py --data ms1mv3 --num-reads 50000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="record pack with .idx for all of it; random bytes where left out")
    parser.add_argument(
        "--num-lines", type=int, default=1_000_000, help="records of 100 bytes to open and scan (default: 1,000,000)"
    )
    parser.add_argument("--num-images", type=int, default=100_000, help="records of 4 to 7 kB to read (100,000)")
    parser.add_argument("--num-reads", type=int, default=20_000, help="of these, read in a turn (default: 20,000)")
    parser.add_argument("--num-writes", type=int, default=5_000, help="and packed and unpacked (default: 5,000)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--mxnet", type=Path, default=MXNET_PYTHON, help="Python that has mxnet 1.9.1")
    parser.add_argument("--scratch", type=Path, help="folder for the packs (default: that of the system, often /tmp)")
    parser.add_argument("--json", "--output", dest="json", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        stages = _measure(arguments, Path(scratch))
    _print(stages, arguments.turns)
    if arguments.json:
        write_json(arguments.json, _as_json(stages, arguments))
    return 0


def _measure(arguments: argparse.Namespace, scratch: Path) -> list[Stage]:
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
    if arguments.data:
        lines = faces = link_pack(scratch / "data", arguments.data)
    else:
        print("making packs of random bytes", file=sys.stderr)
        lines = make_pack(scratch / "lines", arguments.num_lines, 80, 120)
        faces = make_pack(scratch / "faces", arguments.num_images, 4000, 7000)
    data = open_record_pack(faces)
    data.labels()
    generator = np.random.default_rng(1)
    images = generator.permutation(data.num_images)[: arguments.num_reads]
    keys = data.image_keys[images].tolist()
    to_write = [data.read_image(image)[0] for image in images[: arguments.num_writes].tolist()]
    num_lines = len(RecordReader(lines))
    mxnet = MxnetSide(arguments.mxnet)
    _check_same(mxnet, data, images)
    landmarks = template() * 2 + generator.normal(0, 3, (2000, 5, 2))
    where = {"rec": faces, "idx": faces.with_suffix(".idx")}
    out = {side: scratch / side / "a.rec" for side in ("ours", "peer")}

    def peer_index() -> Seconds:
        return mxnet("index", rec=lines, idx=lines.with_suffix(".idx"))[0]

    def peer_read() -> Seconds:
        return mxnet("read", **where, keys=keys)[0]

    def peer_write() -> Seconds:
        written = {"rec": out["peer"], "idx": out["peer"].with_suffix(".idx")}
        source = {"source": where["rec"], "source_idx": where["idx"]}
        return mxnet("write", **written, **source, keys=keys[: len(to_write)])[0]

    def ours_unpack() -> Seconds:
        target = out["ours"].parent / "images"
        with contextlib.redirect_stdout(sys.stderr):
            return timed(lambda: unpack_records.main([str(out["ours"]), str(target), "--no-names"]))

    def peer_unpack() -> Seconds:
        target = out["peer"].parent / "images"
        there = {"rec": out["peer"], "idx": out["peer"].with_suffix(".idx")}
        return mxnet("extract", **there, keys=list(range(len(to_write))), folder=target)[0]

    Side = Callable[[], Seconds]
    work: list[tuple[Stage, Side, Side]] = [
        (Stage("open, the first time", num_lines), lambda: timed(lambda: open_anew(lines)), peer_index),
        (Stage("open again", num_lines), lambda: timed(lambda: RecordReader(lines).close()), peer_index),
        (
            Stage("scan without .idx", num_lines),
            lambda: timed(lambda: scan_records(lines)),
            lambda: mxnet("scan", rec=lines)[0],
        ),
        (Stage("read one by one", len(images)), lambda: timed(lambda: read_one_by_one(data, images)), peer_read),
        (Stage("read by the batch", len(images)), lambda: timed(lambda: read_batches(data, images, False)), peer_read),
        (Stage("the same, copied", len(images)), lambda: timed(lambda: read_batches(data, images, True)), peer_read),
        (Stage("pack", len(to_write)), lambda: timed(lambda: write_ours(out["ours"], to_write)), peer_write),
        (Stage("unpack", len(to_write)), ours_unpack, peer_unpack),
        (
            Stage("similarity", len(landmarks)),
            lambda: timed(lambda: similarity_transforms(landmarks)),
            lambda: timed(lambda: [_umeyama(face) for face in landmarks]),
        ),
    ]
    for turn in range(arguments.turns):
        print(f"turn {turn + 1} of {arguments.turns}", file=sys.stderr)
        for rec in out.values():
            shutil.rmtree(rec.parent, ignore_errors=True)
            rec.parent.mkdir()
        for stage, ours, peer in work:
            # Who goes first takes turns as well.
            for side, measure in ((stage.ours, ours), (stage.peer, peer))[:: -1 if turn % 2 else 1]:
                side.append(measure())
    mxnet.close()
    return [stage for stage, _, _ in work]


def _print(stages: list[Stage], turns: int) -> None:
    print(f"medians (lowest to highest of {turns} turns); processor: by seconds of the processor instead of the clock")
    print(f"{'':<21}{'facekd, 1/s':>14}{'peer, 1/s':>12}{'ratio':>28}{'processor':>28}")
    for stage in stages:
        rates = [statistics.median(stage.rates(side, 0)) for side in (stage.ours, stage.peer)]
        ratios = [_spread(stage.ratios(kind)) for kind in (0, 1)]
        print(f"{stage.name:<21}{rates[0]:>14,.0f}{rates[1]:>12,.0f}{ratios[0]:>28}{ratios[1]:>28}")


def _spread(values: list[float]) -> str:
    digits = 0 if max(values) >= 100 else 2
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _as_json(stages: list[Stage], arguments: argparse.Namespace) -> dict[str, Any]:
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
    machine = {"processors": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return {"settings": settings, "machine": machine, "seconds": ["clock", "processor"], "stages": results}


def _check_same(mxnet: MxnetSide, data: RecordPack, images: np.ndarray) -> None:
    """Both sides, and both of our ways, read the same labels and bytes."""
    ours, batch = hashlib.sha256(), hashlib.sha256()
    for image in images.tolist():
        content, label = data.read_image(image)
        ours.update(b"%d " % label + content)
    for encoded, label in zip(*data.read_images(images), strict=True):
        batch.update(b"%d " % label + bytes(encoded))
    rec, keys = data.reader.rec_path, data.image_keys[images].tolist()
    found = mxnet("digest", rec=rec, idx=rec.with_suffix(".idx"), keys=keys)[1]
    if not found == ours.hexdigest() == batch.hexdigest():
        raise FacekdError("the two sides read different bytes: nothing to compare")
    print(f"{len(keys):,} records read alike by both", file=sys.stderr)


def _umeyama(face: np.ndarray) -> np.ndarray:
    """One face at a time by SVD, as the field's aligners do."""
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
