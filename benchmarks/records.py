"""Records a second of facekd's reader, writer and indexer beside mxnet 1.9.1's own, in one run on one machine.

mxnet needs a Python environment of its own (`make .venv-mxnet/.installed`); its half of the work runs there, in one
process that is kept for the whole of the benchmark, and times itself. The two take turns on the same file, so that
whatever else the machine does falls on both, and before anything is timed the bytes they read are compared.

- open and index: read the `.idx`.
- scan: find the records of a `.rec` without its `.idx`, against a loop over all records, as mxnet's `rec2idx` does.
- read at random: records in random order, header unpacked, image bytes as they are.
- pack: the same encoded images to a new `.rec` and `.idx`.
- unpack: all records to files.
- similarity: facekd's vectorised fit of five landmarks beside one face at a time by SVD; mxnet has no part in this.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import unpack_records
from facekd.alignment import similarity_transforms, template
from facekd.data.record_pack import open_record_pack
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack, unpack
from facekd.data.recordio.index import scan_records
from facekd.errors import FacekdError, run_verb
from facekd.files import write_json

MXNET_PYTHON = Path(".venv-mxnet/bin/python")
# The other half. It imports nothing of facekd; a request a line on standard input, an answer a line on standard output.
MXNET_SIDE = """
import hashlib, json, os, sys, time
import numpy as np
np.bool = bool  # an alias mxnet 1.9.1 still uses
from mxnet import recordio

def index(rec, idx):
    recordio.MXIndexedRecordIO(idx, rec, "r").close()

def scan(rec):
    reader = recordio.MXRecordIO(rec, "r")
    count = 0
    while reader.read() is not None:
        count += 1
    reader.close()
    return count

def read(rec, idx, keys, digest):
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    start = time.perf_counter()
    if digest:
        found = hashlib.sha256()
        for key in keys:
            found.update(recordio.unpack(reader.read_idx(key))[1])
        return found.hexdigest()
    for key in keys:
        recordio.unpack(reader.read_idx(key))
    return time.perf_counter() - start

def write(rec, idx, source, source_idx, keys):
    reader = recordio.MXIndexedRecordIO(source_idx, source, "r")
    images = [recordio.unpack(reader.read_idx(key)) for key in keys]
    start = time.perf_counter()
    writer = recordio.MXIndexedRecordIO(idx, rec, "w")
    for number, (header, image) in enumerate(images):
        writer.write_idx(number, recordio.pack(recordio.IRHeader(0, 1.0, number, 0), image))
    writer.close()
    return time.perf_counter() - start

def extract(rec, idx, keys, folder):
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    for key in keys:
        header, image = recordio.unpack(reader.read_idx(key))
        name = os.path.join(folder, str(int(np.atleast_1d(header.label)[0])))
        os.makedirs(name, exist_ok=True)
        with open(os.path.join(name, "%d.jpg" % key), "wb") as stream:
            stream.write(image)

for line in sys.stdin:
    request = json.loads(line)
    action = globals()[request.pop("do")]
    start = time.perf_counter()
    result = action(**request)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "result": result}), flush=True)
"""


class MxnetSide:
    """The process that has mxnet."""

    def __init__(self, python: Path) -> None:
        if not python.exists():
            raise FacekdError(f"{python}: no environment with mxnet; `make .venv-mxnet/.installed` makes it")
        command = [str(python), "-W", "ignore", "-c", MXNET_SIDE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, do: str, **request: Any) -> tuple[float, Any]:
        """Run an action; returns seconds and what it returned."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FacekdError("the process with mxnet ended; what it printed is above")
        answer = json.loads(line)
        return answer["seconds"], answer["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_ours(rec: Path, keys: list[int]) -> float:
    with RecordReader(rec) as reader:
        start = time.perf_counter()
        for key in keys:
            unpack(reader.read(key))
        return time.perf_counter() - start


def write_ours(rec: Path, images: list[bytes]) -> float:
    start = time.perf_counter()
    with RecordWriter(rec) as writer:
        for number, image in enumerate(images):
            writer.write(number, pack(Header(0, 1.0, number, 0), image))
    return time.perf_counter() - start


def make_pack(folder: Path, num_images: int) -> Path:
    """Random bytes of the size of face JPEGs: nothing here looks inside."""
    generator = np.random.default_rng(0)
    with RecordWriter(folder / "train.rec") as writer:
        for key in range(num_images):
            image = b"\xff\xd8\xff" + generator.bytes(int(generator.integers(2500, 6000)))
            writer.write(key, pack(Header(0, float(key // 20), key, 0), image))
    return folder / "train.rec"


def main(argv: list[str] | None = None) -> int:
    """Parse, measure in turns, print and write."""
    parser = argparse.ArgumentParser(
        description="Compare RecordIO with mxnet's.",
        epilog="example:\n  python benchmarks/records.py --data ms1mv3 --num-reads 50000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="record pack with .idx; random bytes where it is left out")
    parser.add_argument("--num-images", type=int, default=20_000, help="records of random bytes (default: 20,000)")
    parser.add_argument("--num-reads", type=int, default=5_000, help="records a turn reads, packs, unpacks (5,000)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--mxnet", type=Path, default=MXNET_PYTHON, help="Python that has mxnet 1.9.1")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        results = _measure(arguments, Path(scratch))
    for name, (ours, theirs, count) in results.items():
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        rates = count / statistics.median(ours), count / statistics.median(theirs)
        print(
            f"{name:<16} facekd {rates[0]:>12,.0f}/s, peer {rates[1]:>10,.0f}/s; "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} turns)"
        )
    if arguments.output:
        write_json(
            arguments.output, {name: {"facekd_s": o, "peer_s": t, "n": n} for name, (o, t, n) in results.items()}
        )
    return 0


Times = tuple[list[float], list[float], int]


def _measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Times]:
    rec = arguments.data or make_pack(scratch, arguments.num_images)
    data = open_record_pack(rec)
    rec, idx = data.reader.rec_path, data.reader.rec_path.with_suffix(".idx")
    generator = np.random.default_rng(1)
    count = min(arguments.num_reads, data.num_images)
    keys = generator.choice(data.image_keys, count, replace=False).tolist()
    images = [unpack(data.reader.read(key))[1] for key in keys]
    num_records = len(data.reader)
    results: dict[str, Times] = {
        "open and index": ([], [], num_records),
        "scan": ([], [], num_records),
        "read at random": ([], [], count),
        "pack": ([], [], count),
        "unpack": ([], [], data.num_images),
        "similarity": ([], [], 2000),
    }
    mxnet = MxnetSide(arguments.mxnet)
    _check_same(mxnet, data, rec, idx, keys)
    faces = template() * 2 + generator.normal(0, 3, (2000, 5, 2))
    for turn in range(arguments.turns):
        out = scratch / f"turn{turn}"
        for name in ("ours", "theirs"):
            (out / name).mkdir(parents=True)
        ours, theirs, _ = results["open and index"]
        ours.append(timed(lambda: RecordReader(rec).close()))
        theirs.append(mxnet("index", rec=str(rec), idx=str(idx))[0])
        ours, theirs, _ = results["scan"]
        ours.append(timed(lambda: scan_records(rec)))
        theirs.append(mxnet("scan", rec=str(rec))[0])
        ours, theirs, _ = results["read at random"]
        ours.append(read_ours(rec, keys))
        theirs.append(mxnet("read", rec=str(rec), idx=str(idx), keys=keys, digest=False)[1])
        ours, theirs, _ = results["pack"]
        ours.append(write_ours(out / "ours" / "a.rec", images))
        there = {"rec": str(out / "theirs" / "a.rec"), "idx": str(out / "theirs" / "a.idx")}
        theirs.append(mxnet("write", source=str(rec), source_idx=str(idx), keys=keys, **there)[1])
        ours, theirs, _ = results["unpack"]
        target = str(out / "ours" / "images")
        ours.append(timed(lambda: unpack_records.main([str(rec), target, "--no-names"])))  # noqa: B023
        everything = data.image_keys.tolist()
        theirs.append(
            mxnet("extract", rec=str(rec), idx=str(idx), keys=everything, folder=str(out / "theirs" / "i"))[0]
        )
        ours, theirs, _ = results["similarity"]
        ours.append(timed(lambda: similarity_transforms(faces)))
        theirs.append(timed(lambda: [_umeyama(face) for face in faces]))
    mxnet.close()
    return results


def _check_same(mxnet: MxnetSide, data: Any, rec: Path, idx: Path, keys: list[int]) -> None:
    ours = hashlib.sha256()
    for key in keys:
        ours.update(unpack(data.reader.read(key))[1])
    if mxnet("read", rec=str(rec), idx=str(idx), keys=keys, digest=True)[1] != ours.hexdigest():
        raise FacekdError("the two sides read different bytes: nothing to compare")
    print(f"{rec}: {len(data.reader):,} records; {len(keys):,} read alike by both", file=sys.stderr)


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
