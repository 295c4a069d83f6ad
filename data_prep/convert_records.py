"""Verb `facekd data convert`: converts labelled images of any kind to a record pack, its shards, or WebDataset tars.

On the way it can merge, split, shuffle and re-encode them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.jobs.bad_records import BadRecords, add_bad_record_option
from data_prep.jobs.conversion_log import REPORT_FORMAT, REPORT_NAME, ConversionLog
from data_prep.jobs.resuming import digest_of, resuming
from data_prep.sources.encoded_images import suffix_of
from data_prep.sources.image_lists import check_name
from data_prep.sources.image_sources import ImageSource, default_name, open_source
from data_prep.sources.new_labels import NewLabels, combine_labels
from data_prep.sources.people import describe_other_people
from data_prep.sources.webdataset import TarPackWriter
from facekd.commands.command_line import JPEG_QUALITY, SEED, THREADS, CommandParser, whole_number
from facekd.commands.places import check_apart, mark_of_format, require_own
from facekd.data.datasets.class_counts import count_classes, print_contents
from facekd.data.datasets.record_pack_writer import Layout, RecordPackWriter, rec_path_of, refuse_files_of_others
from facekd.data.datasets.sharded_records import SHARD, shard_path
from facekd.data.recordio.format import EXACT_FLOAT32_INTEGERS
from facekd.errors import DataError, FacekdError, ImageError, InUseError, run_verb
from facekd.files.output_lock import folder_lock
from facekd.files.resumable_file import LEFTOVERS, discard, forget_journal
from facekd.files.writing import write_json
from facekd.images.decoding import decode_rgb, quiet_decoders
from facekd.images.encoding import encode_jpeg
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.ordered_work import in_order
from facekd.utils.progress import track
from facekd.utils.wording import counted

ROWS_ANNOUNCED = 1024


@dataclass(frozen=True)
class Plan:
    """Holds the order of the images, their sources and their new labels.

    Attributes:
        sources: the opened sources.
        source_of, image_of: int64 (N,), source and number in it of each image, in the order of writing.
        labels: int64 (N,), new labels.
        num_classes: number of identities in all.
        new: the new labels in the order of the sources.
    """

    sources: list[ImageSource]
    source_of: np.ndarray
    image_of: np.ndarray
    labels: np.ndarray
    num_classes: int
    new: NewLabels

    def __len__(self) -> int:
        return len(self.labels)


def main(argv: list[str] | None = None) -> int:
    """Parses and converts; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.shards < 1:
        parser.error(f"--shards {arguments.shards}: expected at least 1")
    _check_paths(arguments)
    if arguments.labels_from is not None and len(arguments.sources) > 1:
        parser.error("--labels-from says who is in one pack; convert the packs one by one")
    folder = arguments.output.parent if arguments.output.suffix == ".rec" else arguments.output
    with folder_lock(folder, "conversion is at work"):
        return _convert(parser, arguments, folder)


def _convert(parser: argparse.ArgumentParser, arguments: argparse.Namespace, folder: Path) -> int:
    """Writes the files that are not finished yet, and the report."""
    # Open the sources, and choose the images and their order.
    sources = _open_sources(arguments)

    # InsightFace's layout gives each identity a range of keys, which shards and shuffled packs cannot have.
    plain = arguments.shards > 1 or arguments.shuffle
    if plain and arguments.layout == "insightface":
        parser.error("--layout insightface keeps the images of a person together, which --shards and --shuffle do not")
    layout: Layout = arguments.layout or ("im2rec" if plain else "insightface")
    plan = _plan(sources, arguments, group=layout == "insightface" and arguments.to == "records")
    job = _job(arguments, plan, layout)

    # Write it, or go on where an earlier run stopped.
    require_own(folder / REPORT_NAME, "facekd data convert", [mark_of_format(REPORT_FORMAT)])
    log = ConversionLog(folder, job)
    old = _files_there(arguments, log)
    quiet_decoders()
    bad = BadRecords(arguments.on_bad_record)
    num_written = _write(arguments, plan, layout, job, log, bad, old)
    if num_written == 0:
        raise DataError("none of the images could be used")
    _remove_results(old)
    if arguments.output.suffix != ".rec":
        _remove_leftovers(folder)

    # Report.
    report = {
        "format": REPORT_FORMAT,
        "version": 1,
        "sources": [
            {"path": str(path), "kind": source.kind, "images": len(source.labels), **labels}
            for path, source, labels in zip(arguments.sources, sources, plan.new.described(), strict=True)
        ],
        "images": num_written,
        "num_classes": plan.num_classes,
        "skipped": len(bad),
        "shuffle_seed": arguments.seed if arguments.shuffle else None,
        "reencoded": arguments.reencode,
    }
    write_json(folder / REPORT_NAME, report)
    log.remove()
    print(
        f"{arguments.output}: {counted(num_written, 'image')} of {counted(plan.num_classes, 'identity')}{bad.summary()}"
    )
    return 0


def _open_sources(arguments: argparse.Namespace) -> list[ImageSource]:
    """Opens the sources, and says what is in them and what is unusual."""
    sources = [
        open_source(path, arguments.root, arguments.on_bad_record, arguments.labels_from) for path in arguments.sources
    ]
    for path, source in zip(arguments.sources, sources, strict=True):
        counts = count_classes(source.labels, source.num_classes)
        found = [] if arguments.renumber and counts.num_present > 1 else source.class_warnings()
        print_contents(path, counts, [*source.warnings, *found], source.kind)
        if not arguments.renumber:
            counts.check(str(path), "Mend them, or make the labels consecutive by --renumber")
    if arguments.same_labels and (problem := describe_other_people(dict(zip(arguments.sources, sources, strict=True)))):
        print(f"warning: {problem}", file=sys.stderr)
    return sources


def _job(arguments: argparse.Namespace, plan: Plan, layout: Layout) -> dict[str, Any]:
    """Returns everything that decides what is written, except image files, which are compared one by one."""
    return {
        "verb": "convert",
        "to": arguments.to,
        "layout": layout,
        "shards": arguments.shards,
        "sources": [source.fingerprint() for source in plan.sources],
        "order": digest_of((plan.source_of, plan.image_of, plan.labels)),
        "num_classes": plan.num_classes,
        "encoding": None if arguments.reencode is None else [arguments.reencode, cv2.__version__],
    }


def _plan(sources: list[ImageSource], arguments: argparse.Namespace, group: bool) -> Plan:
    source_of = np.concatenate([np.full(len(source.labels), number) for number, source in enumerate(sources)])
    image_of = np.concatenate([np.arange(len(source.labels)) for source in sources])
    new = combine_labels(sources, arguments.same_labels, arguments.renumber)
    labels, num_classes = new.labels, new.num_classes
    if arguments.to == "records" and labels.max() >= EXACT_FLOAT32_INTEGERS:
        raise DataError(
            f"labels up to {labels.max():,} do not fit into records, whose float32 rounds from "
            f"{EXACT_FLOAT32_INTEGERS:,} on; make them consecutive by --renumber"
        )
    if arguments.shuffle:
        order = np.random.default_rng(arguments.seed).permutation(len(labels))
    elif group:
        order = np.argsort(labels, kind="stable")
        num_classes = int(labels.max()) + 1  # the layout has an identity record for each class up to the last image's
    else:
        order = np.arange(len(labels))
    return Plan(sources, source_of[order], image_of[order], labels[order], num_classes, new)


def _contents(
    arguments: argparse.Namespace, plan: Plan, rows: range, bad: BadRecords
) -> Generator[tuple[int, str, bytes, str], None, None]:
    """Yields `(row, stamp, bytes, name)` of the images in `rows`; unusable ones are an error or are skipped."""

    def fetch(row: int) -> tuple[str, bytes]:
        source, image = plan.sources[int(plan.source_of[row])], int(plan.image_of[row])
        stamp = source.stamp(image)  # before reading, because the file may change meanwhile
        content = source.read(image)
        if arguments.reencode is None:
            return stamp, content
        try:
            return stamp, reencode(content, arguments.reencode)
        except ImageError as error:
            where = arguments.sources[int(plan.source_of[row])]
            raise ImageError(f"{where}: image {image} ({source.name(image) or 'without name'}): {error}") from error

    # Threads fetch ahead; what they found is checked and named here, in order.
    several = len(plan.sources) > 1
    with in_order(fetch, _announced(plan, rows), arguments.workers) as results:
        for row, result in zip(rows, results, strict=True):
            number = int(plan.source_of[row])
            name = plan.sources[number].name(int(plan.image_of[row]))
            try:
                check_name(name)
                stamp, content = result.result()
            except FacekdError as error:
                bad.meet(error)
                continue
            name = name or default_name(int(plan.labels[row]), row, suffix_of(content))
            yield row, stamp, content, f"{number}_{name}" if several else name


def _announced(plan: Plan, rows: range) -> Iterator[int]:
    """Yields the rows, and tells the sources a thousand ahead: shuffled records lie all over the disk."""
    starts = range(rows.start, rows.stop, ROWS_ANNOUNCED)

    def announce(start: int) -> None:
        block = slice(start, min(start + ROWS_ANNOUNCED, rows.stop))
        for number, source in enumerate(plan.sources):
            source.will_read(plan.image_of[block][plan.source_of[block] == number])

    for start in starts:
        if start == rows.start:
            announce(start)
        if start + ROWS_ANNOUNCED < rows.stop:
            announce(start + ROWS_ANNOUNCED)
        yield from range(start, min(start + ROWS_ANNOUNCED, rows.stop))


def reencode(content: bytes, quality: int) -> bytes:
    """Encodes an image again, as JPEG of another quality.

    Raises:
        ImageError: the image does not decode.
    """
    return encode_jpeg(decode_rgb(content), quality)


def _write(
    arguments: argparse.Namespace,
    plan: Plan,
    layout: Layout,
    job: dict[str, Any],
    log: ConversionLog,
    bad: BadRecords,
    old: list[Path],
) -> int:
    """Writes the files that are not finished yet, in place of `old` ones; returns the number of images in all."""
    is_tar = arguments.to == "webdataset"
    size = 0 if is_tar else _image_size(plan)
    count = 0
    for number, rows in enumerate(_split(len(plan), arguments.shards)):
        path = _path_of(arguments, number)
        finished = log.counts(path)
        if finished is not None:
            forget_journal(path)
            count += finished[0]
            bad.num_before += finished[1]
            continue

        def is_unchanged(task: int, stamp: str, rows: range = rows) -> bool:
            row = rows[task]
            return plan.sources[int(plan.source_of[row])].stamp(int(plan.image_of[row])) == stamp

        num_bad_before = len(bad)
        part = {**job, "shard": number}
        writer = (
            TarPackWriter(path, part, is_unchanged)
            if is_tar
            else RecordPackWriter(path, size, layout, part, is_unchanged, plan.num_classes)
        )

        def announce(path: Path = path, writer: Any = writer, num_bad_before: int = num_bad_before) -> None:
            log.add(path, writer.partial_path, writer.num_images, len(bad) - num_bad_before)
            _remove_results(old)
            old.clear()

        writer.before_in_place = announce
        with resuming(writer, bad):
            left = rows[writer.next_task :]
            description = f"writing file {number + 1} of {arguments.shards}" if arguments.shards > 1 else "writing"
            with contextlib.closing(_contents(arguments, plan, left, bad)) as contents:
                for row, stamp, content, name in track(contents, description, len(left)):
                    # Keys continue from shard to shard, so that a key alone identifies a record.
                    key = row if is_tar or layout == "im2rec" else None
                    writer.add(int(plan.labels[row]), content, name, key, row - rows.start, stamp)  # type: ignore[arg-type]
            num_images = writer.num_images
        count += num_images
    return count


def _path_of(arguments: argparse.Namespace, number: int) -> Path:
    """Returns the file of part `number`."""
    if arguments.to == "webdataset":
        return arguments.output / f"train-{number:06d}.tar"
    if arguments.shards == 1:
        return rec_path_of(arguments.output)
    return shard_path(arguments.output, number, arguments.shards)


def _split(count: int, parts: int) -> list[range]:
    if parts > count:
        raise DataError(f"{counted(count, 'image')} cannot be split into {counted(parts, 'shard')}")
    bounds = [count * part // parts for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _image_size(plan: Plan) -> int:
    """Returns the side of the first image that decodes, for the `property` file."""
    for source, image in zip(plan.source_of.tolist(), plan.image_of.tolist(), strict=True):
        try:
            return decode_rgb(plan.sources[source].read(image)).shape[0]
        except FacekdError:
            continue
    raise DataError("none of the images can be decoded")


def _check_paths(arguments: argparse.Namespace) -> None:
    """Refuses an output that cannot be written, or that overlaps with a source."""
    output: Path = arguments.output
    if output.is_file() and output.suffix != ".rec":
        raise DataError(f"{output} is a file; give a folder, or a name that ends in .rec")
    if output.suffix == ".rec" and (arguments.shards > 1 or arguments.to == "webdataset"):
        raise DataError(f"{output}: several files need a folder; give a name that does not end in .rec")
    check_apart(output, *arguments.sources, arguments.root)


def _files_there(arguments: argparse.Namespace, log: ConversionLog) -> list[Path]:
    """Returns existing files that will be replaced, without those that this job finished; needs `--force`."""
    there = [file for file in _results_in(arguments.output) if log.counts(file) is None]
    if there and not arguments.force:
        raise DataError(f"{there[0]} is there already; choose another place, or replace it by --force")
    # A conversion that was stopped has noted what it was about to put in place.
    if arguments.to == "records" and not arguments.force and not log.path.exists():
        for number in range(arguments.shards):
            refuse_files_of_others(_path_of(arguments, number))
    return there


def _remove_results(files: list[Path]) -> None:
    """Removes old packs or tars, which would be read with the new ones; companions last, which alone nobody reads."""
    for file in files:
        for part in (file, file.with_suffix(".idx"), file.with_suffix(".lst")):
            part.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes what is left of a stopped conversion that was started again with other options."""
    names = {hidden.name[1:].rpartition(".")[0] for kind in LEFTOVERS for hidden in folder.glob(f".train-*.{kind}")}
    for name in names:
        if SHARD.fullmatch(name) or name.endswith(".tar"):
            with contextlib.suppress(InUseError):
                discard(folder / name)


def _results_in(output: Path) -> list[Path]:
    if output.suffix == ".rec":
        return [output] if output.exists() else []
    found = sorted([*output.glob("*.rec"), *output.glob("*.tar")])
    return [file for file in found if not file.name.startswith(".")]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data convert",
        description="Converts labelled images of any kind to a record pack, its shards, or WebDataset tars.",
        example="examples:\n"
        "  facekd data convert ms1mv3 shards --shards 16 --shuffle        # for sequential reading\n"
        "  facekd data convert ms1mv3 glint merged                        # labels of glint come after ms1mv3's\n"
        "  facekd data convert ms1mv3 tars --to webdataset --shards 64\n"
        "  facekd data convert tars back\n"
        "  facekd data convert parquet_folder pack                        # needs pyarrow\n"
        "  facekd data convert dcface pack --labels-from dcface/list.txt  # the records do not say who is who\n\n"
        "Sources: record packs and shards, WebDataset tars, folders of images, .lst, CVLface's train.tsv, Parquet and\n"
        "arrow. Image bytes are kept as they are unless --reencode is given. Training reads shards as one data set.\n"
        "After a stop or a full disk, run the same command again: it resumes.\n\n"
        "writes OUT/train*.rec, .idx, .lst, property, or train-*.tar; and convert_report.json",
    )
    add = parser.add_argument
    # What is read, and what is written.
    add("sources", type=Path, nargs="+", metavar="SOURCE", help="one or more data sets")
    add("output", type=Path, metavar="OUT", help="folder to write into, or a name ending in .rec")
    add("--to", choices=("records", "webdataset"), default="records", help="what to write (default: records)")
    add(
        "--layout",
        choices=("insightface", "im2rec"),
        help="default: insightface; with --shards or --shuffle im2rec",
    )
    # Order, labels and pixels of the new data set.
    add("--shards", type=whole_number(1, 100_000), default=1, metavar="S", help="split into S files (default: 1)")
    add("--shuffle", action="store_true", help="put the images in random order, for sequential reading")
    add("--seed", type=SEED, default=0, help="random seed of that order (default: 0)")
    add(
        "--same-labels",
        action="store_true",
        help="a label is one person in all sources (default: in each)",
    )
    add(
        "--renumber",
        action="store_true",
        help="make labels consecutive, in their order; convert_report.json has the old ones",
    )
    add(
        "--labels-from",
        type=Path,
        metavar="LIST",
        help="who is on which image: lines `key folder/image` beside a pack whose records do not say it (DCFace)",
    )
    add("--reencode", type=JPEG_QUALITY, metavar="Q", help="encode every image again as JPEG of quality Q")
    add("--root", type=Path, metavar="DIR", help="folder that names in a .lst or .tsv are relative to")
    # How it is written.
    add("--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads (default: all cores)")
    add("--force", action="store_true", help="replace what is there")
    add_bad_record_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
