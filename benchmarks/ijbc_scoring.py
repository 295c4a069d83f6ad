"""Measures IJB-C 1:1 scoring from cached embeddings to TAR@FAR: facekd beside the usual algorithm, stage by stage.

The usual algorithm, restated below, is that of published evaluation scripts: a loop over templates that searches all
rows for each, pairs gathered in batches of 100,000 and multiplied row by row, scikit-learn's `roc_curve`, and the point
nearest to each FAR. It reads the text files with pandas if that is installed, else with numpy. facekd does what `facekd
evaluate ijbc` does, including its checks of the data.

Each run is a process of its own with its own peak memory. Both ways must give the same TAR at every FAR under the
`insightface` rule, or nothing is reported. Starting Python and importing libraries is not timed. Processor time of all
threads is reported too: on a busy machine wall-clock time includes waiting, mostly of the way that uses all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_of_program

from data_prep.make_ijb_layout import main as make_ijb_layout
from facekd.errors import FacekdError, run_verb
from facekd.files.writing import write_json

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PAIRS_CHUNK = 100_000  # pairs that the usual way gathers at a time
PREFIX = "ijbc"
STAGES = ("parse", "check", "pool", "score", "measure", "write")
WAYS = ("facekd parsed", "facekd", "usual")


def run_usual(root: Path, seconds: dict[str, float]) -> dict[float, float]:
    """Runs the usual algorithm; returns TAR by FAR, and adds the seconds of each stage to `seconds`."""
    from sklearn.metrics import roc_curve
    from sklearn.preprocessing import normalize

    read = _text_reader()
    meta = root / "meta"
    with _timed(seconds, "parse"):
        faces = read(meta / f"{PREFIX}_face_tid_mid.txt", (1, 2), np.int64)
        templates, media = faces[:, 0], faces[:, 1]
        detector = read(meta / f"{PREFIX}_name_5pts_score.txt", (11,), np.float64)[:, 0].astype(np.float32)
        pairs = read(meta / f"{PREFIX}_template_pair_label.txt", (0, 1, 2), np.int64)
        first, second, label = pairs[:, 0], pairs[:, 1], pairs[:, 2]
    # Embeddings with their mirror images' added, weighted by detector score; a mean a medium, a sum a template.
    with _timed(seconds, "pool"):
        both = np.load(root / "embeddings.npy")
        size = both.shape[1] // 2
        embeddings = both[:, :size] + both[:, size:]
        embeddings = embeddings * detector[:, None]
        unique_templates = np.unique(templates)
        pooled = np.zeros((len(unique_templates), size))
        for row, template in enumerate(unique_templates):
            (chosen,) = np.where(templates == template)
            own, own_media = embeddings[chosen], media[chosen]
            means = [own[own_media == medium].mean(axis=0) for medium in np.unique(own_media)]
            pooled[row] = np.sum(means, axis=0)
        pooled = normalize(pooled)
    # Cosines of the pairs, in batches.
    with _timed(seconds, "score"):
        row_of = np.zeros(int(unique_templates.max()) + 1, np.int64)
        row_of[unique_templates] = np.arange(len(unique_templates))
        scores = np.zeros(len(first))
        for start in range(0, len(first), PAIRS_CHUNK):
            some = slice(start, start + PAIRS_CHUNK)
            scores[some] = np.sum(pooled[row_of[first[some]]] * pooled[row_of[second[some]]], axis=-1)
    # The point of the ROC curve nearest to each FAR.
    with _timed(seconds, "measure"):
        false_rate, true_rate, _ = roc_curve(label, scores)
        false_rate, true_rate = np.flipud(false_rate), np.flipud(true_rate)
        return {far: float(true_rate[np.argmin(np.abs(false_rate - far))]) for far in FARS}


def run_facekd(root: Path, seconds: dict[str, float]) -> dict[float, float]:
    """Does what `facekd evaluate ijbc --protocol 1:1 --rule insightface` does; returns TAR by FAR like `run_usual`."""
    from evaluation.ijb.metrics import score_protocol
    from evaluation.ijb.pooling import Faces, Pooling, pool_templates
    from evaluation.ijb.problems import find_problems, settle
    from evaluation.ijb.protocol import load_protocol
    from evaluation.sets.embedding_rows import NpyRows
    from facekd.verification.measures import measure_verification

    # Parse, check and pool; the binary copy of the text files is written in the background.
    background = ThreadPoolExecutor(1)
    with _timed(seconds, "parse"):
        protocol = load_protocol(root, "IJBC", background=background)
    with _timed(seconds, "check"):
        findings = find_problems(protocol, uses_images=False, uses_detection_scores=True)
        kept = settle(findings, "fail")
    with _timed(seconds, "pool"):
        rows = NpyRows(root / "embeddings.npy", None, True, protocol.num_listed)
        images = protocol.face_images
        faces = Faces(images, protocol.face_templates, protocol.face_media, protocol.detection_scores[images])
        [templates] = pool_templates(rows, faces, protocol.template_ids, [Pooling(True, True, True)])
    # Score and measure.
    with _timed(seconds, "score"):
        pairs = score_protocol(templates, protocol, kept, FARS, "insightface")
    with _timed(seconds, "measure"):
        measured = measure_verification(pairs.ranked, FARS, "insightface")
    with _timed(seconds, "write"):  # the rest of writing the binary copy, which ran in the background
        background.shutdown()
    return {point["far"]: point["tar"] for point in measured["tar_at_far"]}


def _text_reader() -> Callable[[Path, tuple[int, ...], Any], np.ndarray]:
    """Returns a function that reads columns of a text file."""
    try:
        import pandas  # type: ignore[import-not-found]
    except ImportError:
        return lambda path, columns, dtype: np.loadtxt(path, dtype, usecols=columns, ndmin=2)
    return lambda path, columns, dtype: pandas.read_csv(path, sep=" ", header=None, usecols=list(columns)).to_numpy(
        dtype
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the wall-clock and processor seconds of a `with` block to `seconds`."""
    start, spent = time.perf_counter(), time.process_time()
    yield
    seconds[stage] = time.perf_counter() - start
    seconds[f"{stage} cpu"] = time.process_time() - spent


def run_here(way: str, root: Path) -> dict[str, Any]:
    """Runs one way in this process; returns seconds by stage, TARs, and the peak memory of the process in bytes."""
    seconds: dict[str, float] = {}
    if way == "usual":
        import sklearn.metrics
        import sklearn.preprocessing  # noqa: F401

        _text_reader()
        tars = run_usual(root, seconds)
    else:
        import scipy.sparse
        import scipy.stats  # noqa: F401

        tars = run_facekd(root, seconds)
    total, processor = (sum(seconds.get(stage + kind, 0.0) for stage in STAGES) for kind in ("", " cpu"))
    return {
        "way": way,
        "seconds": seconds,
        "total": total,
        "processor": processor,
        "tar": list(tars.items()),
        "peak": peak_of_program(),
    }


def run_apart(way: str, root: Path) -> dict[str, Any]:
    """Runs one way in a process of its own."""
    cache = root / "meta" / f"{PREFIX}.facekd-protocol"
    if way == "facekd":
        cache.unlink(missing_ok=True)
    elif way == "facekd parsed" and not cache.exists():
        raise FacekdError(
            f"{cache}: does not exist although the text files were parsed; check that {cache.parent} is writable"
        )
    command = [sys.executable, __file__, "--root", str(root), "--way", way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise FacekdError(f"the {way} way ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def warm(root: Path) -> None:
    """Reads every file once, so that it is in the page cache whatever ran before."""
    for path in (root / "embeddings.npy", *(root / "meta").iterdir()):
        with path.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def compare(root: Path, turns: int) -> dict[str, Any]:
    """Runs the usual way once, as it takes minutes, and `turns` of facekd before it and after it.

    Raises:
        FacekdError: the two ways give different TARs.
    """
    order = ["facekd", *["facekd parsed"] * turns, "usual", "facekd", *["facekd parsed"] * turns]
    runs = []
    for way in order:
        warm(root)
        runs.append(run_apart(way, root))
        run = runs[-1]
        text = f"{way}: {run['total']:.2f} s, {run['processor']:.2f} s of processors, peak {run['peak'] / 1e9:.2f} GB"
        print(text, file=sys.stderr, flush=True)
    expected = next(run["tar"] for run in runs if run["way"] == "usual")
    for run in runs:
        # In a part of the set too few impostor pairs exist for the strictest FARs; facekd then gives None.
        if any(own not in (tar, None) for (_, own), (_, tar) in zip(run["tar"], expected, strict=True)):
            raise FacekdError(
                f"the two ways give different TARs, so their speed is not compared: {run['tar']} and {expected}"
            )
    measured = next(run["tar"] for run in runs if run["way"] == "facekd")
    return {"runs": runs, "tar": [[far, tar] for far, tar in measured if tar is not None]}


def summary(runs: list[dict[str, Any]]) -> list[str]:
    """Formats the table of docs/benchmarks.md: medians, and the range of the ratio."""
    own = {way: [run for run in runs if run["way"] == way] for way in WAYS}
    lines = ["| stage, s | facekd, parsed before | facekd, text files | the usual way |", "|---|---|---|---|"]
    for stage in STAGES:
        cells = [statistics.median(run["seconds"].get(stage, 0.0) for run in own[way]) for way in WAYS]
        lines.append(f"| {stage} | " + " | ".join(f"{cell:.2f}" if cell else "-" for cell in cells) + " |")

    # The sums and their ratios.
    totals = {way: [run["total"] for run in own[way]] for way in WAYS}
    lines.append("| **sum** | " + " | ".join(f"{statistics.median(totals[way]):.2f}" for way in WAYS) + " |")
    usual = statistics.median(totals["usual"])
    cells = []
    for way in WAYS[:2]:
        ratios = [usual / total for total in totals[way]]
        cells.append(f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f} in {len(ratios)})")
    lines.append(f"| times faster | {' | '.join(cells)} | 1 |")

    # Processor time and memory.
    processor = {way: statistics.median(run["processor"] for run in own[way]) for way in WAYS}
    lines.append("| processor seconds, all threads | " + " | ".join(f"{processor[way]:.1f}" for way in WAYS) + " |")
    lines.append("| times fewer | " + " | ".join(f"{processor['usual'] / processor[way]:.1f}" for way in WAYS) + " |")
    peaks = [max(run["peak"] for run in own[way]) / 1e9 for way in WAYS]
    lines.append("| peak memory, GB | " + " | ".join(f"{peak:.2f}" for peak in peaks) + " |")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description="Measures IJB-C scoring at full size, facekd beside the usual algorithm.",
        epilog="example:\n  python benchmarks/ijbc_scoring.py --turns 5 --output ijbc_scoring.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", type=Path, help="a set made by `facekd data make-ijb --full-size` (default: made here)"
    )
    parser.add_argument(
        "--fraction",
        type=float,
        default=1.0,
        help="size of the set made here, as a fraction of the full size (default 1)",
    )
    parser.add_argument(
        "--turns", type=int, default=3, help="turns of facekd before the usual way, and as many after it (default 3)"
    )
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.way:  # a process that `run_apart` started
        print(json.dumps(run_here(arguments.way, arguments.root)))
        return 0

    # Measure, with a generated set if none is given.
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.root
        if root is None:
            root = Path(scratch) / "set"
            make_ijb_layout(["--full-size", str(root), "--fraction", str(arguments.fraction)])
        found = compare(root, max(arguments.turns, 1))
    print("\n".join(summary(found["runs"])))
    print("same TAR by both: " + ", ".join(f"{100 * tar:.2f} % at {far:g}" for far, tar in found["tar"]))
    if arguments.output:
        write_json(arguments.output, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
