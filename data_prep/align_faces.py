"""Verb `facekd data align`: cuts the face out of each photograph, turned and scaled to one template."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.photographs.align_log import LOG_NAME, REASONS, AlignLog, Alignment, entries_of_any_settings
from data_prep.photographs.landmark_files import GivenLandmarks, read_landmarks
from data_prep.photographs.photos import find_photos
from facekd.commands.command_line import JPEG_QUALITY, THREADS, CommandParser, whole_number
from facekd.commands.places import check_apart
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.errors import DataError, ImageError, run_verb
from facekd.faces.choosing import FaceRules, WhichFaces, choose_faces, detect_at_two_sizes
from facekd.faces.detectors import Faces, open_detector
from facekd.faces.finding import cut_face
from facekd.faces.options import add_detection_limits
from facekd.files.output_lock import folder_lock
from facekd.files.reading import sha256_of_file, stamp_of
from facekd.files.syncing import sync_file_system, sync_folder
from facekd.files.writing import write_json, write_small_file, write_text
from facekd.images.decoding import decode_rgb, quiet_decoders
from facekd.images.encoding import encode_jpeg, encode_png
from facekd.images.frames import FirstImageNote
from facekd.images.image_files import read_image_file
from facekd.utils.foreign import leads_out, some_of
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.ordered_work import in_order
from facekd.utils.progress import track
from facekd.utils.terminal import on_one_line
from facekd.utils.wording import agreeing, counted

REPORT_NAME, SET_ASIDE_NAME = "align_report.json", "set_aside.tsv"
REPORT_FORMAT, REPORT_VERSION = "facekd-alignment", 1
FORMATS = ("jpg", "png")


@dataclass(frozen=True)
class Settings:
    """Holds what decides how crops look; recorded with them, and the same for all crops of a folder."""

    opencv: str
    template: str
    image_size: int
    landmarks_from: str
    choose: WhichFaces
    min_score: float
    min_face: float
    detector_size: int
    exif: bool
    file_format: str
    quality: int | None

    @property
    def rules(self) -> FaceRules:
        """Returns which face of a photograph is taken."""
        return FaceRules(self.choose, self.min_score, self.min_face, self.detector_size)


@dataclass(frozen=True)
class Task:
    """Names a photograph, its file, and the file of its crop."""

    photo: str
    source: Path
    crop: str
    target: Path


def main(argv: list[str] | None = None) -> int:
    """Parses and aligns; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    with folder_lock(arguments.output, "alignment is at work"):
        return _align_all(arguments)


def _align_all(arguments: argparse.Namespace) -> int:
    """Aligns the photographs that are not done yet, and reports on all."""
    # Choose the photographs, and the source of their landmarks.
    photos = find_photos(arguments.photos)
    finder, landmarks_from = _open_finder(arguments)
    settings = _settings(arguments, landmarks_from)
    quiet_decoders()

    # Align what is not done yet, in order.
    tasks = _plan(photos, arguments.photos, arguments.output, settings.file_format)
    if not (arguments.force or (arguments.output / LOG_NAME).exists()):
        _refuse_files_of_others(arguments.output, tasks)
    earlier = entries_of_any_settings(arguments.output) if arguments.force else {}
    if arguments.force:
        _withdraw_report(arguments.output)
        _remove_renamed(tasks, tasks, earlier)  # before the log forgets them
    with AlignLog(arguments.output, vars(settings), arguments.force) as log:
        waiting = [task for task in tasks if not _is_done(task, log)]
        if waiting:
            _withdraw_report(arguments.output)
            _remove_renamed(waiting, tasks, log.entries)
        note = FirstImageNote()
        with in_order(lambda task: align_photo(task, finder, settings, note), waiting, arguments.workers) as results:
            for task, result in zip(waiting, track(results, "aligning photographs", len(waiting)), strict=True):
                entry = result.result()
                # A crop of an earlier run, of the photograph before it changed or by other settings, must not stay.
                if entry.crop is None:
                    task.target.unlink(missing_ok=True)
                log.add(entry)
        done = [log.entries[task.photo] for task in tasks]
        left = _crops_without_photograph(arguments.output, tasks, [*earlier.values(), *log.entries.values()])

    # Report.
    copied = ""
    if arguments.set_aside is not None:
        num_lost = _copy_aside(done, arguments.photos, arguments.set_aside)
        lost = f", but for {num_lost:,} that cannot be read" if num_lost else ""
        copied = f", copied to {arguments.set_aside}{lost}"
    sync_file_system(arguments.output)  # the crops before the report that says that they are there
    counts = _write_report(arguments.output, settings, done)
    _print(arguments.output, counts, len(tasks) - len(waiting), copied)
    if left:
        print(
            f"warning: {arguments.output}: {counted(len(left), 'crop')} of earlier runs "
            f"{agreeing(len(left), 'is of a photograph that is', 'are of photographs that are')} not in "
            f"{arguments.photos} now, and {agreeing(len(left), 'stays', 'stay')}: {some_of(left)}; delete what should "
            "not be packed",
            file=sys.stderr,
        )
    if not counts["aligned"]:
        raise DataError(f"no face was aligned; {arguments.output / SET_ASIDE_NAME} says why, photograph by photograph")
    return 0


Finder = Callable[[str, np.ndarray], "Faces | GivenLandmarks | None"]


def align_photo(task: Task, finder: Finder, settings: Settings, note: FirstImageNote) -> Alignment:
    """Finds the face of a photograph and writes its crop; if that fails, the result holds the reason."""
    # Read the photograph.
    stamp = list(stamp_of(None))
    try:
        with contextlib.suppress(OSError):  # reading says why
            stamp = list(stamp_of(task.source))
        content = read_image_file(task.source)
        image = decode_rgb(content, settings.exif)
        note.look(task.source, content)
    except ImageError as error:
        return Alignment(task.photo, stamp, reason="unreadable", detail=str(error))

    # Find its landmarks: those of the face to take, or those given.
    found = finder(task.photo, image)
    if found is None:
        return Alignment(task.photo, stamp, reason="no_landmarks")
    if isinstance(found, Faces):
        choice = choose_faces(found, image.shape, settings.rules)
        num_faces = choice.num_sure
        if choice.reason is not None:
            return Alignment(task.photo, stamp, reason=choice.reason, detail=choice.detail, num_faces=num_faces)
        number = choice.numbers[0]
        landmarks, score = found.landmarks[number], float(found.scores[number])
        box = found.boxes[number].round(2).tolist()
    else:
        landmarks, score, box, num_faces = found.landmarks, found.score, None, None
        if score is not None and score < settings.min_score:
            return Alignment(task.photo, stamp, reason="low_confidence", detail=f"its score is {score:.3f}")

    # Refuse landmarks that do not fit a face; otherwise cut the face out.
    facts: dict[str, Any] = {
        "landmarks": landmarks.round(3).ravel().tolist(),
        "score": None if score is None else round(score, 4),
        "box": box,
        "num_faces": num_faces,
    }
    crop, problem = cut_face(image, landmarks, settings.image_size)
    if crop is None:
        return Alignment(task.photo, stamp, reason="odd_landmarks", detail=problem, **facts)
    _write_crop(task.target, crop, settings.quality)
    return Alignment(task.photo, stamp, crop=task.crop, **facts)


def _open_finder(arguments: argparse.Namespace) -> tuple[Finder, str]:
    """Returns a function that finds the landmarks of a photograph, and a description of their origin."""
    if arguments.landmarks is not None:
        given = read_landmarks(arguments.landmarks)
        digest = sha256_of_file(arguments.landmarks)[:16]
        return lambda name, image: given.get(name), f"file {arguments.landmarks.name} (sha256 {digest})"
    detector = open_detector(arguments.detector)
    settings = _settings(arguments, "")
    digest = read_onnx_file(arguments.detector).sha256[:16]
    source = f"{detector.kind} {arguments.detector.name} (sha256 {digest})"
    return lambda name, image: detect_at_two_sizes(detector, image, settings.rules), source


def _settings(arguments: argparse.Namespace, landmarks_from: str) -> Settings:
    return Settings(
        opencv=cv2.__version__,
        template="arcface 112x112, 5 points",
        image_size=arguments.size,
        landmarks_from=landmarks_from,
        choose=arguments.choose,
        min_score=arguments.min_score,
        min_face=arguments.min_face,
        detector_size=arguments.detector_size,
        exif=arguments.exif,
        file_format=arguments.format,
        quality=arguments.quality if arguments.format == "jpg" else None,
    )


def _plan(photos: list[str], root: Path, output: Path, file_format: str) -> list[Task]:
    """Names the crops like the photographs, with their suffix too if two of a folder differ only in that."""
    stems = Counter(os.path.splitext(photo)[0] for photo in photos)  # noqa: PTH122
    tasks, taken = [], set[str]()
    for photo in photos:
        stem = os.path.splitext(photo)[0]  # noqa: PTH122
        crop = f"{stem if stems[stem] == 1 else photo}.{file_format}"
        while crop in taken:  # of x.jpg, x.png and x.jpg.png, say
            crop = f"{crop}.{file_format}"
        taken.add(crop)
        tasks.append(Task(photo, root / photo, crop, output / crop))
    return tasks


def _remove_renamed(waiting: list[Task], tasks: list[Task], earlier: Mapping[str, Alignment]) -> None:
    """Removes crops whose photographs get crops of other names now: a photograph would have two."""
    taken = {task.crop for task in tasks}
    for task in waiting:
        entry, stems = earlier.get(task.photo), (task.photo, os.path.splitext(task.photo)[0])  # noqa: PTH122
        old = {f"{stem}.{suffix}" for stem in stems for suffix in FORMATS} - taken
        if entry is not None and entry.crop in old:  # a log may be a stranger's, and name any file
            task.target.with_name(Path(entry.crop).name).unlink(missing_ok=True)


def _crops_without_photograph(output: Path, tasks: list[Task], entries: list[Alignment]) -> list[str]:
    """Returns the crops of earlier runs whose photographs are gone, or lie in another folder: they may be wanted."""
    photos, crops = {task.photo for task in tasks}, {task.crop for task in tasks}
    others = {entry.crop for entry in entries if entry.crop is not None and entry.photo not in photos}
    return sorted(crop for crop in others - crops if not leads_out(crop) and (output / crop).is_file())


def _refuse_files_of_others(output: Path, tasks: list[Task]) -> None:
    """Refuses a folder that was never aligned into, and has files where the crops or the lists will be."""
    for path in (output / REPORT_NAME, output / SET_ASIDE_NAME, *(task.target for task in tasks)):
        if path.exists():
            raise DataError(
                f"{path}: is there already, and no alignment made it; choose another folder, or replace it by --force"
            )


def _withdraw_report(output: Path) -> None:
    """Removes the report and the list of an earlier run: they would not be of the crops that follow."""
    for name in (REPORT_NAME, SET_ASIDE_NAME):
        (output / name).unlink(missing_ok=True)
    if output.exists():
        sync_folder(output)


def _is_done(task: Task, log: AlignLog) -> bool:
    entry = log.entries.get(task.photo)
    if entry is None:
        return False
    try:
        stamp = list(stamp_of(task.source))
    except OSError:
        return False
    # Logs of an earlier facekd hold size and modification time alone.
    if entry.stamp != stamp[: max(len(entry.stamp), 2)]:
        return False
    # A crop that was removed, or left empty by a power cut, is made again.
    return entry.crop is None or (entry.crop == task.crop and task.target.exists() and task.target.stat().st_size > 0)


def _write_crop(path: Path, crop: np.ndarray, quality: int | None) -> None:
    write_small_file(os.fspath(path), encode_png(crop) if quality is None else encode_jpeg(crop, quality))


def _copy_aside(done: list[Alignment], root: Path, folder: Path) -> int:
    """Copies the photographs that were set aside to `folder/REASON/`, to be looked at.

    A copy takes its name when it is whole, and in place of a link there, as crops do.

    Returns:
        The number of those that cannot be read, and have no copy.
    """
    num_lost, chosen = 0, [entry for entry in done if entry.reason]
    for entry in track(chosen, "copying what was set aside"):
        try:
            content = read_image_file(root / entry.photo)
        except ImageError:  # the list says why
            num_lost += 1
            continue
        write_small_file(os.fspath(folder / str(entry.reason) / entry.photo), content)
    if num_lost < len(chosen):
        sync_file_system(folder)
    return num_lost


def _write_report(output: Path, settings: Settings, done: list[Alignment]) -> dict[str, int]:
    aside = [entry for entry in done if entry.reason]
    counts = {"photographs": len(done), "aligned": len(done) - len(aside)}
    counts |= {reason: sum(entry.reason == reason for entry in aside) for reason in REASONS}
    counts["several_faces"] = sum((entry.num_faces or 0) > 1 for entry in done)
    # The log has names as they are.
    details = [entry.detail or REASONS[str(entry.reason)] for entry in aside]
    rows = zip(aside, details, strict=True)
    lines = [f"{on_one_line(entry.photo)}\t{entry.reason}\t{on_one_line(detail)}\n" for entry, detail in rows]
    write_text(output / SET_ASIDE_NAME, "# photograph\treason\tdetail\n" + "".join(lines))
    report = {"format": REPORT_FORMAT, "version": REPORT_VERSION, "settings": vars(settings), "counts": counts}
    write_json(output / REPORT_NAME, report)
    return counts


def _print(output: Path, counts: dict[str, int], num_before: int, copied: str) -> None:
    before = f", {num_before:,} of them looked at before" if num_before else ""
    print(f"{output}: {counts['aligned']:,} of {counted(counts['photographs'], 'photograph')} aligned{before}")
    for reason, words in REASONS.items():
        if counts[reason]:
            print(f"  set aside {counts[reason]:>7,}  {words}")
    if several := counts["several_faces"]:
        photographs_show = agreeing(several, "photograph shows", "photographs show")
        print(f"  note      {several:>7,}  {photographs_show} several faces; one of each was chosen")
    if counts["aligned"] < counts["photographs"]:
        print(f"  listed in {output / SET_ASIDE_NAME}{copied}")


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if (arguments.detector is None) == (arguments.landmarks is None):
        parser.error("give --detector MODEL.onnx or --landmarks FILE, one of the two")
    check_apart(arguments.output, arguments.photos)
    if arguments.set_aside is not None:
        check_apart(arguments.set_aside, arguments.photos)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data align",
        description="Cuts the face out of each photograph, turned and scaled to the five-point template.",
        example="examples:\n"
        "  facekd data align photos aligned --detector scrfd_2.5g_bnkps.onnx\n"
        "  facekd data align lfw aligned --landmarks lfw_landmarks.tsv\n\n"
        "Subfolders are kept, so that `facekd data pack` finds one per person. After a stop, run the same command\n"
        "again: it resumes.\n\n"
        "writes OUT/**/*.jpg           the crops\n"
        f"       OUT/{REPORT_NAME}  settings and counts\n"
        f"       OUT/{SET_ASIDE_NAME}      what was not aligned, and why\n"
        "       OUT/align_log.jsonl    all landmarks",
    )
    add = parser.add_argument
    # The photographs, and where their faces come from.
    add("photos", type=Path, metavar="PHOTOS", help="folder of photographs, searched with all its subfolders")
    add("output", type=Path, metavar="OUT", help="folder for the crops")
    add("--detector", type=Path, metavar="ONNX", help="face detector: SCRFD with landmarks (_bnkps), or YuNet")
    add(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="instead of a detector: lines with a name, five points x y and optionally a score",
    )
    # Which face is taken, and how large it must be.
    add("--size", type=whole_number(16, 2048), default=112, metavar="PX", help="side of the crops (default: 112)")
    add(
        "--choose",
        choices=("largest", "centre", "score"),
        default="largest",
        help="which of several faces: the largest, the one nearest the centre, or the surest (default: largest)",
    )
    add_detection_limits(add)
    add(
        "--exif",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="turn upright by EXIF (default: yes)",
    )
    # How crops are written, and what happens to the rest.
    add("--format", choices=FORMATS, default="jpg", help="format of the crops (default: jpg)")
    add("--quality", type=JPEG_QUALITY, default=95, metavar="Q", help="JPEG quality (default: 95)")
    add("--set-aside", type=Path, metavar="DIR", help="copy photographs that were not aligned to DIR/REASON")
    add("--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads (default: all cores)")
    add("--force", action="store_true", help="align everything again, even if OUT was aligned with other settings")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
