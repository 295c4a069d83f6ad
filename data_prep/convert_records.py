"""Verb `facekd data convert`: labelled images of any kind to a record pack, to shards of one, or to WebDataset tars.

Merging, splitting, shuffling and re-encoding are options of it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from data_prep.bad_records import BadRecords, add_bad_record_option
from data_prep.image_sources import ImageSource, default_name, open_source
from data_prep.ordered_work import in_order
from data_prep.unpack_records import suffix_of
from facekd.data.decoding import ImageError, decode_rgb, quiet_decoders
from facekd.data.record_pack_writer import Layout, RecordPackWriter, rec_path_of
from facekd.data.sharded_records import shard_path
from facekd.errors import FacekdError, run_verb
from facekd.files import atomic_open, write_json, write_text
from facekd.progress import track

REPORT_NAME = "convert_report.json"


class ConvertError(FacekdError):
    """Sources that do not fit together, or an output that cannot be as asked."""


@dataclass(frozen=True)
class Plan:
    """Which image of which source comes when, under which label.

    Attributes:
        sources: what is read.
        source_of, image_of: int64 (N,), source and number in it of each image, in the order of writing.
        labels: int64 (N,), new labels.
        num_classes: of the whole.
    """

    sources: list[ImageSource]
    source_of: np.ndarray
    image_of: np.ndarray
    labels: np.ndarray
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)


def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.shards < 1:
        parser.error(f"--shards {arguments.shards}: expected at least 1")
    old = _check_output(arguments)
    sources = [open_source(path, arguments.root) for path in arguments.sources]
    for path, source in zip(arguments.sources, sources, strict=True):
        print(
            f"{path}: {source.kind}, {len(source.labels):,} images, {source.num_classes:,} identities", file=sys.stderr
        )
    # Shards and shuffled packs have no place for ranges of keys: each identity would be everywhere.
    plain = arguments.shards > 1 or arguments.shuffle
    if plain and arguments.layout == "insightface":
        parser.error("--layout insightface keeps the images of a person together, which --shards and --shuffle do not")
    layout: Layout = arguments.layout or ("im2rec" if plain else "insightface")
    plan = _plan(sources, arguments, group=layout == "insightface" and arguments.to == "records")
    quiet_decoders()
    bad = BadRecords(arguments.on_bad_record)
    write = _write_tars if arguments.to == "webdataset" else _write_records
    num_written, written = write(arguments, plan, layout, bad)
    if num_written == 0:
        raise ConvertError("none of the images could be used")
    for file in set(old) - set(written):  # shards of another number would be read as part of the new ones
        for companion in (file, file.with_suffix(".idx"), file.with_suffix(".lst")):
            companion.unlink(missing_ok=True)
    report = {
        "format": "facekd-conversion",
        "version": 1,
        "sources": [
            {"path": str(path), "kind": source.kind, "images": len(source.labels), "first_label": offset}
            for path, source, offset in zip(arguments.sources, sources, _offsets(sources, arguments), strict=True)
        ],
        "images": num_written,
        "num_classes": plan.num_classes,
        "skipped": len(bad),
        "shuffle_seed": arguments.seed if arguments.shuffle else None,
        "reencoded": arguments.reencode,
    }
    folder = arguments.output.parent if arguments.output.suffix == ".rec" else arguments.output
    write_json(folder / REPORT_NAME, report)
    print(f"{arguments.output}: {num_written:,} images of {plan.num_classes:,} identities{bad.summary()}")
    return 0


def _offsets(sources: list[ImageSource], arguments: argparse.Namespace) -> list[int]:
    if arguments.same_labels:
        return [0] * len(sources)
    return np.cumsum([0, *(source.num_classes for source in sources)])[:-1].tolist()


def _plan(sources: list[ImageSource], arguments: argparse.Namespace, group: bool) -> Plan:
    offsets = _offsets(sources, arguments)
    source_of = np.concatenate([np.full(len(source.labels), number) for number, source in enumerate(sources)])
    image_of = np.concatenate([np.arange(len(source.labels)) for source in sources])
    for path, source in zip(arguments.sources, sources, strict=True):
        if (source.labels < 0).any():
            raise ConvertError(f"{path}: {int((source.labels < 0).sum()):,} images have no label from 0")
    labels = np.concatenate([source.labels + offset for source, offset in zip(sources, offsets, strict=True)])
    num_classes = max(source.num_classes + offset for source, offset in zip(sources, offsets, strict=True))
    if arguments.shuffle:
        order = np.random.default_rng(arguments.seed).permutation(len(labels))
    elif group:
        order = np.argsort(labels, kind="stable")
    else:
        order = np.arange(len(labels))
    return Plan(sources, source_of[order], image_of[order], labels[order], num_classes)


def _contents(
    arguments: argparse.Namespace, plan: Plan, rows: range, bad: BadRecords
) -> Iterator[tuple[int, bytes, str]]:
    """`(row, bytes, name)` of the images in `rows`; those that cannot be used are met by the policy."""

    def fetch(row: int) -> bytes:
        source, image = plan.sources[int(plan.source_of[row])], int(plan.image_of[row])
        content = source.read(image)
        if arguments.reencode is None:
            return content
        try:
            return reencode(content, arguments.reencode)
        except ImageError as error:
            where = arguments.sources[int(plan.source_of[row])]
            raise ImageError(f"{where}: image {image} ({source.name(image) or 'without name'}): {error}") from error

    several = len(plan.sources) > 1
    for row, result in zip(rows, in_order(fetch, rows, arguments.workers), strict=True):
        try:
            content = result.result()
        except FacekdError as error:
            bad.meet(error)
            continue
        number = int(plan.source_of[row])
        name = plan.sources[number].name(int(plan.image_of[row]))
        name = name or default_name(int(plan.labels[row]), row, suffix_of(content))
        yield row, content, f"{number}_{name}" if several else name


def reencode(content: bytes, quality: int) -> bytes:
    """The image as JPEG of another quality.

    Raises:
        ImageError: it does not decode.
    """
    pixels = decode_rgb(content)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _write_records(
    arguments: argparse.Namespace, plan: Plan, layout: Layout, bad: BadRecords
) -> tuple[int, list[Path]]:
    size = _image_size(plan)
    count = 0
    written: list[Path] = []
    for number, rows in enumerate(_split(len(plan), arguments.shards)):
        one = arguments.shards == 1
        path = rec_path_of(arguments.output) if one else shard_path(arguments.output, number, arguments.shards)
        written.append(path)
        with RecordPackWriter(path, size, layout) as writer:
            description = "writing records" if one else f"writing shard {number + 1} of {arguments.shards}"
            for row, content, name in track(_contents(arguments, plan, rows, bad), description, len(rows)):
                # Keys go on from shard to shard, so that a record is known by its key alone.
                writer.add(int(plan.labels[row]), content, name, row if layout == "im2rec" else None)
                count += 1
        # Each shard would say only what it holds itself.
        write_text(path.parent / "property", f"{plan.num_classes},{size},{size}\n")
    return count, written


def _write_tars(arguments: argparse.Namespace, plan: Plan, layout: Layout, bad: BadRecords) -> tuple[int, list[Path]]:
    count = 0
    written: list[Path] = []
    for number, rows in enumerate(_split(len(plan), arguments.shards)):
        written.append(arguments.output / f"train-{number:06d}.tar")
        with atomic_open(written[-1]) as stream, _tar(stream) as add:
            steps = _contents(arguments, plan, rows, bad)
            for row, content, name in track(steps, f"writing tar {number + 1} of {arguments.shards}", len(rows)):
                key = f"{row:09d}"
                label = int(plan.labels[row])
                add(f"{key}{suffix_of(content)}", content)
                add(f"{key}.cls", str(label).encode())
                add(f"{key}.json", json.dumps({"label": label, "name": name}).encode())
                count += 1
    return count, written


class _tar:
    """A plain tar on a stream: the same bytes for the same members, whoever writes it and when."""

    def __init__(self, stream: io.BufferedIOBase | object) -> None:
        self._archive = tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115

    def __enter__(self) -> Callable[[str, bytes], None]:
        return self._add

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._archive.addfile(member, io.BytesIO(content))


def _split(count: int, parts: int) -> list[range]:
    if parts > count:
        raise ConvertError(f"{count:,} images cannot be split into {parts} shards")
    bounds = [count * part // parts for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _image_size(plan: Plan) -> int:
    """Side of the first image that decodes, for the `property` file."""
    for source, image in zip(plan.source_of.tolist(), plan.image_of.tolist(), strict=True):
        try:
            return decode_rgb(plan.sources[source].read(image)).shape[0]
        except FacekdError:
            continue
    raise ConvertError("none of the images can be decoded")


def _check_output(arguments: argparse.Namespace) -> list[Path]:
    """Refuse an output that would destroy something; returns the files that may be replaced."""
    output: Path = arguments.output
    if output.is_file() and output.suffix != ".rec":
        raise ConvertError(f"{output} is a file; give a folder, or a name that ends in .rec")
    if output.suffix == ".rec" and (arguments.shards > 1 or arguments.to == "webdataset"):
        raise ConvertError(f"{output}: several files need a folder; give a name that does not end in .rec")
    there = [output] if output.suffix == ".rec" else [*output.glob("*.rec"), *output.glob("*.tar")]
    there = [file for file in there if file.exists()]
    inputs = [path.resolve() for path in arguments.sources]
    if output.resolve() in inputs or any(file.resolve() in inputs for file in there):
        raise ConvertError(f"{output} is a source itself; sources are never touched: choose another output")
    if there and not arguments.force:
        raise ConvertError(f"{there[0]} is there already; choose another place, or replace it by --force")
    return there


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="facekd data convert",
        description="Labelled images of any kind to a record pack, its shards, or WebDataset tars.",
        epilog="examples:\n"
        "  facekd data convert ms1mv3 shards --shards 16 --shuffle        # for reading from start to end\n"
        "  facekd data convert ms1mv3 glint merged                        # labels go on after those of the first\n"
        "  facekd data convert ms1mv3 tars --to webdataset --shards 64\n"
        "  facekd data convert tars back\n"
        "  facekd data convert parquet_folder pack                        # needs pyarrow\n\n"
        "Sources: record packs and shards, WebDataset tars, folders of images, .lst, CVLface's train.tsv, Parquet and\n"
        "arrow. Image bytes are kept as they are unless --reencode is given. Training reads shards as one data set.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", type=Path, nargs="+", metavar="SOURCE", help="one or more data sets")
    add("output", type=Path, metavar="OUT", help="folder to write into, or a name ending in .rec")
    add("--to", choices=("records", "webdataset"), default="records", help="what to write (default: records)")
    add("--layout", choices=("insightface", "im2rec"), help="of records (default: insightface; with shards im2rec)")
    add("--shards", type=int, default=1, metavar="S", help="split into S files (default: 1)")
    add("--shuffle", action="store_true", help="put the images in random order, for sequential reading")
    add("--seed", type=int, default=0, help="of that order (default: 0)")
    add("--same-labels", action="store_true", help="a label means the same person in all sources (default: offsets)")
    add("--reencode", type=int, metavar="Q", help="decode, and encode as JPEG of quality Q")
    add("--root", type=Path, metavar="DIR", help="what names in a .lst or .tsv are relative to")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="threads (default: all cores)")
    add("--force", action="store_true", help="replace what is there")
    add_bad_record_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
