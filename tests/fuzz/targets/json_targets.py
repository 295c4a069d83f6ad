"""Lists the readers of JSON files that facekd writes: what is changed is a value, so that the file stays JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx

from data_prep.jobs.conversion_log import LOG_NAME, ConversionLog
from data_prep.layout_folder import SUMMARY, UNFINISHED, layout_folder
from facekd.data.datasets.cleaning import REPORT, labels_before_cleaning
from facekd.data.datasets.identity_map import sha256_of_labels
from facekd.data.datasets.record_pack import RecordPack
from facekd.embedder.onnx_models.file import OnnxFile
from facekd.embedder.sidecar import FORMAT, SUFFIX, VERSION, Sidecar, read_sidecar
from facekd.experiments.classifier_table import read_rebuilt
from facekd.experiments.command_runner import CompletedSteps, Step
from facekd.experiments.study import read_conditions
from facekd.faces.embedding import row_type
from facekd.faces.gallery_writer import GalleryWriter, ImageResult
from facekd.faces.image_inputs import ImageFiles
from facekd.files.reading import sealed, sha256_of_file, stamp_to_rename
from facekd.files.result_folder import start_results
from facekd.images.preprocessing import Preprocessing
from facekd.results.reading import read_result
from facekd.results.thresholds import MeasuredThresholds, read_thresholds
from facekd.teacher.cache import _Writer
from facekd.training.logbook.tracked_run import Entry, RunFacts, TrackedRun
from facekd.training.logbook.tracked_run import Outcome as TrackedOutcome
from tests.fuzz.target import Target
from tests.fuzz.targets.text_targets import sealed_journal
from tests.fuzz.targets.weight_targets import TEACHER_TRAILER
from tests.hostile_values import JSON_KINDS, changed_by
from tests.results_of_each_kind import pack, people, searches, templates

CONVERSION = {"job": {"verb": "convert"}, "finished": {"a.rec": {"stamp": "?", "images": 3, "skipped": 1}}}


def write_plain(path: Path, content: Any) -> None:
    """Writes JSON, as it is."""
    path.write_text(json.dumps(content), encoding="utf-8")


def leaves(
    name: str,
    file_name: str,
    make: Callable[[], list[Any]],
    read: Callable[[Path], Any],
    write: Callable[[Path, Any], Any] = write_plain,
    kinds: Mapping[str, Any] = JSON_KINDS,
    **more: Any,
) -> Target:
    """Returns a target whose bytes say which values of an object are changed, and into what.

    Args:
        name, file_name: see `Target`.
        make: makes sound objects; the first byte chooses one, and each two that follow change a value.
        read: gets the path of the changed object.
        write: writes an object to a path.
        kinds: the values that others give way to.
        more: see `Target`.
    """
    make = cache(make)

    def read_changed(path: Path) -> Any:
        choices = path.read_bytes() or b"\0"
        contents = make()
        write(path, changed_by(choices[1:], contents[choices[0] % len(contents)], kinds))
        return read(path)

    def seeds() -> list[bytes]:
        return [bytes([number]) for number in range(len(make()))]

    return Target(name, file_name, read_changed, seeds, max_len=9, **{"copies": 40, **more})


def _write_conversion(path: Path, content: dict[str, Any]) -> None:
    """Writes a log of a file that is there, sealed and with the right stamp, which damage would never leave."""
    (path.parent / "a.rec").write_bytes(bytes(8))
    stamp = stamp_to_rename((path.parent / "a.rec").stat())
    write_plain(path, sealed(json.loads(json.dumps(content).replace('"?"', json.dumps(stamp)))))


def _read_conversion(path: Path) -> tuple[int, int] | None:
    return ConversionLog(path.parent, {"verb": "convert"}).counts(path.parent / "a.rec")


def _check_conversion(choices: bytes, counts: tuple[int, int] | None) -> None:
    """Has the numbers of images that were written, and never such as no file has."""
    assert counts is None or all(type(count) is int and count >= 0 for count in counts), counts
    assert len(choices) > 2 or counts == (3, 1)


def _read_results(path: Path) -> tuple[dict[str, Any], MeasuredThresholds | None]:
    """Reads results, and their thresholds if they have any."""
    result = read_result(path.parent)
    return result, read_thresholds(path) if result.get("tar_at_far") else None


def _check_results(_: bytes, found: tuple[dict[str, Any], MeasuredThresholds | None]) -> None:
    """Has rates between 0 and 1 at every threshold."""
    read = found[1]
    if read is None:
        return
    for cosine in (-1.0, 0.3, 1.0, *read.threshold.tolist()):
        rates = read.rates_at(cosine)
        assert all(0 <= low <= high <= 1 for low, high in (rates.far, rates.tar)), rates


def _read_sidecar(path: Path) -> Sidecar | None:
    return read_sidecar(OnnxFile(path.with_name(path.name.removesuffix(SUFFIX)), onnx.ModelProto(), ()))


def _write_sidecar(path: Path, content: dict[str, Any]) -> None:
    """Writes a sidecar of the model that is there."""
    model = path.with_name(path.name.removesuffix(SUFFIX))
    model.write_bytes(b"model")
    write_plain(path, json.loads(json.dumps(content).replace('"?"', json.dumps(sha256_of_file(model)))))


def _read_steps(path: Path) -> bool:
    """Reads the completed steps, asks for one, and adds another."""
    done = CompletedSteps(path.parent)
    found = done.is_done(Step("b", ("train", "x"), path.parent, ("a",)))
    done.add(Step("c", ("train",), path.parent), 1.0)
    return found


class _Tracker(TrackedRun):
    name = "here"

    def start(self) -> str:
        return ""

    def log(self, entries: Sequence[Entry]) -> None: ...

    def finish(self, outcome: TrackedOutcome) -> None: ...


def _read_ids(path: Path) -> dict[str, str]:
    ids = _Tracker(RunFacts(path.parent, 1, {})).kept_ids("id", "project")
    assert all(isinstance(ids[key], str) for key in ("id", "project")[: 2 * len(ids)])
    return ids


def _read_unfinished(path: Path) -> set[str]:
    """Withdraws the results that a stopped run names: nobody else's file goes, whatever the mark says."""
    folder = path.parent / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("stranger", "out/mine.txt", "out/results.json", "out/part/results.json"):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_text("{}")
    path.replace(folder / ".results.json.unfinished")
    start_results(folder, ["report.html"])
    assert (path.parent / "stranger").exists() and (folder / "mine.txt").exists()
    return {file.name for file in folder.iterdir()}


def _read_layout(path: Path) -> bool:
    """Replaces a layout that was left unfinished: nobody else's file goes, whatever the mark says."""
    folder = path.parent / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("stranger", "out/mine.txt"):
        (path.parent / name).write_text("mine")
    path.replace(folder / UNFINISHED)
    try:
        with layout_folder(folder, True, "set", ["pairs.txt"]) as staged:
            write_plain(staged / SUMMARY, {"set": "own"})
    finally:
        assert (path.parent / "stranger").exists() and (folder / "mine.txt").exists()
    return (folder / SUMMARY).exists()


def _read_gallery_journal(path: Path) -> list[ImageResult]:
    """Goes on with a gallery of three images, of which the journal knows two, and says what became of them."""
    images = ImageFiles(["a.jpg", "b.jpg", "c.jpg"], ["", "", ""])
    content = json.loads(path.read_bytes())
    entries = [[entry.pop("end", 0), list(entry.values())] for entry in content.values() if isinstance(entry, dict)]
    job = {"verb": "embed", "images": images.fingerprint(), "embedding_size": 2}
    lines = [f"{end}\t{json.dumps(words)}".encode() for end, words in entries]
    path.with_name(".a.npz.rows.journal").write_bytes(sealed_journal(job, lines))
    path.with_name(".a.npz.rows.partial").write_bytes(bytes(row_type(2).itemsize * 2))
    with GalleryWriter(path.with_name("a.npz"), images, 2, {}) as writer:
        assert writer.counts() is not None and isinstance(writer.summary(), str)
        return writer.results


def _check_gallery_journal(choices: bytes, results: list[ImageResult]) -> None:
    assert all(
        isinstance(result.num_sure, int) and (result.reason is None) == (result.num_faces > 0) for result in results
    )
    assert len(choices) > 2 or [result.num_faces for result in results] == [2, 0]


def _read_progress(path: Path) -> int:
    """Goes on with a teacher cache, of which a row is written."""
    with path.with_name("a.cache.partial").open("w+b") as stream:
        stream.write(bytes(2 * 2 * TEACHER_TRAILER["teacher"]["embedding_size"]))
        stream.flush()
        describing = TEACHER_TRAILER["teacher"], TEACHER_TRAILER["data"]
        return _Writer(path.with_name("a.cache"), stream, *describing, 60.0).rows_done


def _read_cleaning(path: Path) -> np.ndarray | None:
    pack = SimpleNamespace(reader=SimpleNamespace(rec_path=path.with_name("train.rec")))
    pack = Mock(RecordPack, reader=pack.reader)
    dataset = SimpleNamespace(pack=pack, labels=np.array([0, 1, 1]), num_classes=2)
    return labels_before_cleaning(dataset, "old")  # pyright: ignore[reportArgumentType]


def _check_cleaning(_: bytes, labels: np.ndarray | None) -> None:
    assert labels is None or (labels.shape == (2,) and (labels >= 0).all())


SIDECAR = {
    "format": FORMAT,
    "version": VERSION,
    "sha256": "?",
    "preprocessing": asdict(Preprocessing(image_size=112)),
    "output": "y",
    "basis": "its own pack",
}
STEPS = {
    "a": {"command": ["facekd", "import"], "number": 1, "after": {}, "seconds": 1.5},
    "b": {"command": ["facekd", "train", "x"], "number": 2, "after": {"a": 1}, "seconds": 2.5, "unfinished": False},
}
GALLERY_ENTRIES = {
    "a": {"end": 2 * row_type(2).itemsize, "reason": None, "detail": None, "num_sure": 3},
    "b": {"end": 2 * row_type(2).itemsize, "reason": "no_face", "detail": "none at all", "num_sure": 0},
}
CONDITIONS = {"gpus": ["one"], "processor": "two", "jobs": 1, "threads": 2}
REBUILT = {"centres": {"means_correlation": 0.5, "dimension": 12.5, "means_dimension": 10}}
CLEANING = {
    "labels_sha256": sha256_of_labels(np.array([0, 1, 1])),
    "old_labels_sha256": "old",
    "old_label_of": [3, 7],
}

TARGETS = [
    leaves(
        "conversion_log", LOG_NAME, lambda: [CONVERSION], _read_conversion, _write_conversion, check=_check_conversion
    ),
    leaves(
        "results",
        "results.json",
        lambda: [people(), searches(), templates(), pack()],
        _read_results,
        check=_check_results,
    ),
    leaves("sidecar", f"m.onnx{SUFFIX}", lambda: [SIDECAR], _read_sidecar, _write_sidecar),
    leaves("steps", "steps.json", lambda: [{"steps": STEPS}], _read_steps),
    leaves("tracked_ids", "here_run.json", lambda: [{"id": "a", "project": "b"}], _read_ids),
    leaves("unfinished", "mark", lambda: [{"parts": ["part", "../stranger"]}], _read_unfinished),
    leaves("layout", "mark", lambda: [{"parts": ["pairs.txt", "../stranger"]}], _read_layout, is_named=False),
    leaves("rebuilt", "head.json", lambda: [REBUILT], lambda path: read_rebuilt(path.with_suffix(".pt"))),
    leaves(
        "teacher_progress",
        "a.cache.progress",
        lambda: [{"rows_done": 1, "trailer": {**TEACHER_TRAILER, "replaced": [0]}}],
        _read_progress,
        lambda path, content: write_plain(path, sealed(content)),
    ),
    leaves(
        "gallery_journal",
        "entries",
        lambda: [GALLERY_ENTRIES],
        _read_gallery_journal,
        check=_check_gallery_journal,
        is_named=False,
    ),
    leaves("conditions", "conditions.json", lambda: [CONDITIONS], read_conditions),
    leaves("cleaning", REPORT, lambda: [CLEANING], _read_cleaning, check=_check_cleaning),
]
