"""Verb `facekd data synthesize`: generates faces: training shards, and a verification pack of other people."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np

from facekd.commands.command_line import COUNT, JPEG_QUALITY, PROCESSES, SEED, CommandParser, whole_number
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.data.synthetic import MIN_SIZE, render_faces
from facekd.data.synthetic.groups import MIN_PEOPLE, groups_as_csv
from facekd.data.synthetic.pairs import PairPlan, plan_pairs
from facekd.errors import DataError, run_verb
from facekd.files.array_file import open_arrays, save_arrays
from facekd.files.output_lock import folder_lock
from facekd.files.reading import read_json, sha256_of_file
from facekd.files.syncing import sync_file_system
from facekd.files.temporaries import temporary_folder
from facekd.files.writing import atomic_open, write_json, write_text
from facekd.images.encoding import encode_jpeg, encode_png
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.ordered_work import by_processes
from facekd.utils.progress import track
from facekd.utils.typed_values import find_fault
from facekd.utils.wording import counted

PART_SIZE = 1000  # images rendered between two points from which a killed run can resume
# Test people are numbered from here: no training set, however large, contains one, and a seed always gives the same.
FIRST_TEST_IDENTITY = 1 << 40
SUMMARY = "synthesis.json"
RECORD_FILES = ("train.rec", "train.idx", "train.lst", "property")
TEST_FILES = ("test.bin", "test_pairs.txt")
GROUP_FILES = ("groups.csv", "test_groups.csv")
CONTACT_SHEET = "contact_sheet.png"
FILES = (SUMMARY, *RECORD_FILES, *TEST_FILES, *GROUP_FILES, CONTACT_SHEET)  # the summary first
RENDERER = 1  # raised when the same numbers would give other images

EXAMPLE = """example:
  facekd data synthesize --identities 200 --images-per-identity 20 --output generated
  facekd data inspect generated
  facekd data synthesize --identities 1000 --images-per-identity 30 --size 64 --seed 7 --output generated64
  facekd data synthesize --identities 64 --images-per-identity 6 --groups --output groups
  facekd evaluate folder --images groups --groups groups/groups.csv --model m.onnx --output results

Writes to the output folder
  train.rec, .idx, .lst, property   training shards in InsightFace's layout (--layout folders: train/IDENTITY/IMAGE.jpg)
  test.bin, test_pairs.txt          verification pack of ten folds of other people, and the list of who is compared
  contact_sheet.png                 some of the training images
  groups.csv, test_groups.csv       with --groups: the groups of the people of either (docs/results.md)
  synthesis.json                    the options, counts, and the hash of every file
The same options give the same bytes. After a stop, run the same command again: it resumes."""


@dataclass(frozen=True)
class Settings:
    """Holds everything that determines the bytes of a generated set."""

    identities: int
    images_per_identity: int
    size: int
    seed: int
    test_identities: int
    test_images_per_identity: int
    pairs: int
    layout: str
    quality: int
    renderer: int = RENDERER
    groups: bool = False


def main(argv: list[str] | None = None) -> int:
    """Generates a set, or goes on with one, and prints what it holds."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    settings = Settings(
        identities=arguments.identities,
        images_per_identity=arguments.images_per_identity,
        size=arguments.size,
        seed=arguments.seed,
        test_identities=arguments.test_identities if arguments.pairs else 0,
        test_images_per_identity=arguments.test_images_per_identity if arguments.pairs else 0,
        pairs=arguments.pairs,
        layout=arguments.layout,
        quality=arguments.quality,
        groups=arguments.groups,
    )
    summary = synthesize(settings, arguments.output, arguments.workers, arguments.overwrite)
    train, test = summary["train"], summary["test"]
    print(
        f"{arguments.output}: {counted(train['images'], 'training image')} of "
        f"{counted(train['identities'], 'person')}, {counted(test['pairs'], 'test pair')} of "
        f"{counted(test['identities'], 'other')}, {settings.size} pixels"
    )
    return 0


def synthesize(
    settings: Settings, output: str | os.PathLike[str], workers: int | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Generates a set, or goes on with one; one that is there already is kept.

    Args:
        settings: what to generate.
        output: folder to write to.
        workers: processes that render; None takes one per processor, 0 only this one. The bytes are the same.
        overwrite: replace another generated set in the folder.

    Returns:
        The content of `synthesis.json`.

    Raises:
        DataError: the settings cannot be met, or the folder holds something else.
        OSError: the files cannot be written; what was rendered is kept for the next attempt.
    """
    folder = Path(output)
    if settings.groups and settings.identities < MIN_PEOPLE:
        raise DataError(f"--groups needs {MIN_PEOPLE} people, one of each kind: raise --identities")
    plan = None
    if settings.pairs:
        plan = plan_pairs(settings.pairs, settings.test_identities, settings.test_images_per_identity, settings.seed)

    with folder_lock(folder, "command generates faces"):
        return _synthesize_in(folder, settings, plan, workers, overwrite)


def _synthesize_in(
    folder: Path, settings: Settings, plan: PairPlan | None, workers: int | None, overwrite: bool
) -> dict[str, Any]:
    """Generates the set of `synthesize`, as the only process that does."""
    # Keep a set that is complete; otherwise render the missing parts.
    wanted = _as_json(settings)
    found, parts = _read_summary(folder), folder / ".synthesis"
    if found is not None and found["settings"] == wanted and _is_whole(folder, found):
        if _settings_of(parts) in (None, wanted):  # a run was stopped while it removed its parts
            shutil.rmtree(parts, ignore_errors=True)
        return found
    _claim(folder, parts, wanted, found, overwrite)
    num_train = settings.identities * settings.images_per_identity
    jobs = _jobs(settings, num_train)
    _render_parts(jobs, parts, workers)
    _remove_old(folder)

    # Put the parts together.
    train_images = (image for job in jobs if not job.is_test for image in _read_part(parts / job.name))
    written = _write_train(train_images, settings, folder)
    if plan is not None:
        test_images = [image for job in jobs if job.is_test for image in _read_part(parts / job.name)]
        _write_test(test_images, plan, settings, folder)
        written += TEST_FILES
    if settings.groups:
        written += _write_groups(settings, folder)
    _write_contact_sheet(settings, folder / CONTACT_SHEET)

    # The summary last: where it is, the set is complete.
    summary = {
        "settings": wanted,
        "train": {"identities": settings.identities, "images": num_train},
        "test": {"identities": settings.test_identities, "pairs": settings.pairs},
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of_file(folder / name)}
            for name in (*written, CONTACT_SHEET)
        },
    }
    write_json(folder / SUMMARY, summary)
    shutil.rmtree(parts, ignore_errors=True)
    return summary


@dataclass(frozen=True)
class _Job:
    """Describes a part: up to `PART_SIZE` images, numbered through the training or the test set."""

    name: str
    is_test: bool
    start: int
    stop: int
    settings: Settings


def _jobs(settings: Settings, num_train: int) -> list[_Job]:
    num_test = settings.test_identities * settings.test_images_per_identity
    return [
        _Job(f"{name}-{start // PART_SIZE:07d}.part", name == "test", start, min(start + PART_SIZE, total), settings)
        for name, total in (("train", num_train), ("test", num_test))
        for start in range(0, total, PART_SIZE)
    ]


def _render_parts(jobs: list[_Job], parts: Path, workers: int | None) -> None:
    """Renders the parts that are not there yet, and again those that are damaged."""
    missing = [job for job in jobs if not _is_sound(parts / job.name)]
    available = usable_cores()
    workers = min(available if workers is None else workers, len(missing))
    total = sum(job.stop - job.start for job in missing)
    # After an error or Ctrl-C no new part is begun; the finished parts serve the next run.
    one_thread = partial(cv2.setNumThreads, 1)
    with by_processes(partial(_render_part, parts=parts), missing, workers, one_thread) as rendered:
        for _ in track(rendered, "rendering faces", total, PART_SIZE):
            pass


def _render_part(job: _Job, parts: Path) -> None:
    settings = job.settings
    per_identity = settings.test_images_per_identity if job.is_test else settings.images_per_identity
    people, photos = np.divmod(np.arange(job.start, job.stop), per_identity)
    if job.is_test:
        people = people + FIRST_TEST_IDENTITY
    encoded = []
    for rows in np.array_split(np.arange(len(people)), math.ceil(len(people) / 100)):
        images = render_faces(people[rows], photos[rows], settings.size, settings.seed, settings.groups)
        encoded += [encode_jpeg(image, settings.quality) for image in images]
    content = np.frombuffer(b"".join(encoded), np.uint8)
    save_arrays(parts / job.name, {}, {"lengths": np.array([len(image) for image in encoded]), "content": content})


def _is_sound(path: Path) -> bool:
    try:
        open_arrays(path)
    except FileNotFoundError:
        return False
    except DataError as error:
        print(f"{error}; rendering it again", file=sys.stderr)
        return False
    return True


def _read_part(path: Path) -> Iterator[bytes]:
    part = open_arrays(path)[1]
    content, ends = part["content"].tobytes(), np.cumsum(part["lengths"])
    start = 0
    for end in ends.tolist():
        yield content[start:end]
        start = end


def _write_train(images: Iterator[bytes], settings: Settings, folder: Path) -> list[str]:
    """Writes the training images; returns the names of the files, unless they are many."""
    total = settings.identities * settings.images_per_identity
    named = (
        (number // settings.images_per_identity, f"{_name(number, settings.images_per_identity)}.jpg", image)
        for number, image in enumerate(track(images, "writing shards", total))
    )
    if settings.layout == "records":
        with RecordPackWriter(folder, settings.size) as writer:
            for label, name, image in named:
                writer.add(label, image, name)
        return list(RECORD_FILES)
    with temporary_folder(folder / "train") as staged:
        for _, name, image in named:
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        sync_file_system(staged)
        staged.replace(folder / "train")
    return []


def _write_test(images: list[bytes], plan: PairPlan, settings: Settings, folder: Path) -> None:
    numbers = plan.identities * settings.test_images_per_identity + plan.images
    write_pair_pack(folder / TEST_FILES[0], [images[number] for number in numbers.reshape(-1)], plan.is_same)
    names = [f"test_{_name(number, settings.test_images_per_identity)}.jpg" for number in range(len(images))]
    lines = [
        f"{names[first]}\t{names[second]}\t{int(same)}"
        for (first, second), same in zip(numbers.tolist(), plan.is_same.tolist(), strict=True)
    ]
    write_text(folder / TEST_FILES[1], "\n".join(lines) + "\n")


def _write_groups(settings: Settings, folder: Path) -> list[str]:
    """Writes the groups of the training and of the test people, by the names that evaluations know them by."""
    train_name = "{}" if settings.layout == "records" else "{:07d}"
    write_text(folder / GROUP_FILES[0], groups_as_csv(range(settings.identities), train_name))
    if not settings.test_identities:
        return [GROUP_FILES[0]]
    write_text(
        folder / GROUP_FILES[1], groups_as_csv(range(settings.test_identities), "test_{:07d}", FIRST_TEST_IDENTITY)
    )
    return list(GROUP_FILES)


def _write_contact_sheet(settings: Settings, path: Path) -> None:
    """Draws some training people, one row each."""
    rows, columns = min(settings.identities, 10), min(settings.images_per_identity, 10)
    people, photos = np.divmod(np.arange(rows * columns), columns)
    images = render_faces(people, photos, settings.size, settings.seed, settings.groups)
    side = settings.size
    sheet = (
        images.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
    )
    with atomic_open(path) as stream:
        stream.write(encode_png(sheet))


def _name(number: int, per_identity: int) -> str:
    person, photo = divmod(number, per_identity)
    return f"{person:07d}/{photo:05d}"


def _claim(folder: Path, parts: Path, wanted: dict[str, Any], found: dict[str, Any] | None, overwrite: bool) -> None:
    """Makes sure that the folder may be written to and that the parts in it belong to these settings."""
    under_way = _settings_of(parts)
    other = under_way or (found or {}).get("settings")
    if other is not None and other != wanted and not overwrite:
        changed = [
            f"{key} {other.get(key, False)} instead of {wanted.get(key, False)}"
            for key in {**wanted, **other}
            if other.get(key, False) != wanted.get(key, False)
        ]
        raise DataError(
            f"{folder} holds another generated set ({', '.join(changed)}); choose another --output, or --overwrite"
        )
    occupied = [name for name in (*FILES, "train") if (folder / name).exists()]
    if other is None and occupied and not overwrite:
        raise DataError(
            f"{folder} holds {' and '.join(occupied)} from elsewhere; choose another --output, "
            "or --overwrite to replace what is there"
        )
    if under_way != wanted:
        shutil.rmtree(parts, ignore_errors=True)
        write_json(parts / "settings.json", wanted)


def _as_json(settings: Settings) -> dict[str, Any]:
    """Returns the settings as files hold them; `groups` stands there only if there are any, as in older files."""
    return {key: value for key, value in asdict(settings).items() if key != "groups" or value}


def _settings_of(parts: Path) -> dict[str, Any] | None:
    stamp = parts / "settings.json"
    return read_json(stamp, "the settings of a generated set") if stamp.exists() else None


class _File(TypedDict):
    bytes: int


class _Train(TypedDict):
    identities: int
    images: int


class _Test(TypedDict):
    identities: int
    pairs: int


class _Summary(TypedDict):
    """Describes `synthesis.json`."""

    settings: dict[str, Any]
    train: _Train
    test: _Test
    files: dict[str, _File]


def _read_summary(folder: Path) -> dict[str, Any] | None:
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        summary = read_json(path, "the summary of a generated set")
    except DataError:
        return None
    return None if find_fault(summary, _Summary) else summary


def _is_whole(folder: Path, summary: dict[str, Any]) -> bool:
    """Tells whether the files that `synthesis.json` lists are there with their sizes; hashes are not compared."""
    sizes = ((folder / name, entry["bytes"]) for name, entry in summary["files"].items())
    if not all(path.is_file() and path.stat().st_size == size for path, size in sizes):
        return False
    if summary["settings"]["layout"] == "records":
        return True
    return sum(1 for _ in (folder / "train").glob("*/*.jpg")) == summary["train"]["images"]


def _remove_old(folder: Path) -> None:
    """Removes an earlier set, summary first, so that nothing of it is taken for a part of the new one."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "train", ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data synthesize",
        description="Generates faces: a training set, and a verification pack of people who are not in it.",
        example=EXAMPLE,
    )
    # The training set.
    parser.add_argument("--identities", type=COUNT, required=True, metavar="N", help="number of people to train on")
    parser.add_argument("--images-per-identity", type=COUNT, required=True, metavar="N", help="photos of each")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--size",
        type=whole_number(MIN_SIZE, 8192),
        default=112,
        metavar="PIXELS",
        help="side of the images (default %(default)s)",
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="random seed (default %(default)s)")
    # The verification pack of other people.
    add = partial(parser.add_argument, metavar="N")
    add("--test-identities", type=COUNT, default=100, help="people in the test pack (default %(default)s)")
    add("--test-images-per-identity", type=COUNT, default=10, help="photos of each of them (default %(default)s)")
    add(
        "--pairs",
        type=whole_number(0, 10**9),
        default=6000,
        help="test pairs, half genuine; 0 for no pack (default %(default)s)",
    )
    parser.add_argument(
        "--groups",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="plant groups that differ, and write groups.csv (docs/results.md)",
    )
    # How both are written.
    parser.add_argument(
        "--layout",
        choices=("records", "folders"),
        default="records",
        help="training images as RecordIO or as folders of JPEGs (default %(default)s)",
    )
    parser.add_argument(
        "--quality", type=JPEG_QUALITY, default=90, metavar="1-100", help="JPEG quality (default %(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=PROCESSES,
        metavar="N",
        help="processes that render (default: one per core; 0: only this one)",
    )
    parser.add_argument(
        "--overwrite",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="replace the set in the folder",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
