"""Verb `facekd data inspect`: describes a record pack, warns of what is wrong with it, and draws some images."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.inspection.contact_sheet import choose_images, draw_contact_sheet, write_png
from data_prep.inspection.findings import list_duplicates, look_at_identities, require_own_lists
from data_prep.inspection.image_quality import among_text, confirmed, measure_quality, near_duplicates
from data_prep.inspection.page import write_report
from data_prep.inspection.record_summary import summarize
from facekd.commands.command_line import COSINE, SEED, THREADS, CommandParser, whole_number
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.embedder.model_options import add_model_options
from facekd.errors import FacekdError, run_verb
from facekd.files.output_lock import file_lock, folder_lock
from facekd.images.decoding import quiet_decoders
from facekd.utils.foreign import shown
from facekd.utils.processes.children import usable_cores
from facekd.utils.sampling import spread_evenly
from facekd.utils.wording import agreeing, counted

MAX_MEASURED = 20_000  # images that the page measures without --check
DEFAULT_DRAWN = 64
LAYOUT_NAMES = {"insightface": "InsightFace (header and identity records)", "im2rec": "im2rec (images only)"}


def main(argv: list[str] | None = None) -> int:
    """Parses and describes a pack; returns the exit status."""
    # What is to be written is locked before anything is read, which may take hours.
    arguments = _parse(argv)
    output: Path | None = arguments.output or arguments.picture
    lists: Path | None = arguments.lists or (arguments.report and arguments.report.parent)
    with contextlib.ExitStack() as locks:
        if lists is not None:
            locks.enter_context(folder_lock(lists, "inspection writes lists"))
            require_own_lists(lists)
        if output is not None:
            locks.enter_context(file_lock(output))
        return _inspect(arguments, output, lists)


def _inspect(arguments: argparse.Namespace, output: Path | None, lists: Path | None) -> int:
    """Describes a pack, and writes a picture into `output` and lists into the folder `lists` if they are given."""
    quiet_decoders()

    # The summary.
    pack = open_record_pack(arguments.path, on_bad_record="skip")
    summary = summarize(pack, check_all=arguments.check)
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        print("\n".join(describe(summary)))

    # The picture, the page and the lists.
    if output is not None:
        num_drawn = DEFAULT_DRAWN if arguments.sample is None else arguments.sample
        rows = choose_images(pack.labels(), num_drawn, arguments.seed)
        write_png(output, draw_contact_sheet(pack, rows))
        drawn = sum(len(row) for row in rows)
        print(f"{output}: {counted(drawn, 'image')} of {counted(len(rows), 'identity')}", file=sys.stderr)
    if lists is not None:
        _look_closer(arguments, pack, summary, lists)

    # The exit status.
    if summary["unusable"] and arguments.on_bad_record == "fail":
        raise FacekdError(
            f"{summary['unusable']:,} of {counted(summary['decoded'], 'image')} looked at in {summary['rec']} "
            f"{agreeing(summary['unusable'], 'is', 'are')} unusable"
        )
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    # Intermixed, so that `PATH --sample 16 faces.png` and `PATH faces.png --sample 16` mean the same.
    arguments = parser.parse_intermixed_args(argv)
    output: Path | None = arguments.output or arguments.picture
    if arguments.sample is not None and output is None:
        parser.error("--sample needs a file to draw into: --sample 64 --output faces.png")
    if output is not None and output.suffix.lower() != ".png":
        parser.error(f"{shown(output)}: the sample is drawn as a PNG, so name a .png file; a page: --report FILE.html")
    wants_lists = arguments.report is not None or arguments.lists is not None
    if not wants_lists and (arguments.model or arguments.embeddings or arguments.against):
        parser.error("--model, --embeddings and --against need --report FILE.html or --lists DIR for what they find")
    if arguments.model and arguments.embeddings:
        parser.error("give --model or --embeddings, one of the two")
    if arguments.against is not None and not (arguments.model or arguments.embeddings):
        parser.error("--against needs --model, or --embeddings and --against-embeddings")
    return arguments


def _look_closer(arguments: argparse.Namespace, pack: RecordPack, summary: dict[str, Any], folder: Path) -> None:
    """Looks for bad images, duplicates and wrong labels; writes the lists, into `folder`, and the page."""
    # Quality and duplicates, of a sample unless every image is checked.
    images = spread_evenly(pack.num_images, pack.num_images if arguments.check else MAX_MEASURED)
    quality = measure_quality(pack, images, arguments.workers)
    usable = np.flatnonzero(quality.is_usable)
    duplicates = images[usable[near_duplicates(quality.hashes[usable])]].reshape(-1, 2)
    duplicates = confirmed(pack, duplicates)
    among = among_text(len(images), pack.num_images)
    listed = list_duplicates(folder, pack, duplicates, among)
    print(f"{'near duplicates:':<24} {counted(len(duplicates), 'pair')}{among}: {listed}")

    # What a model or its embeddings say of the labels.
    has_faces = arguments.model is not None or arguments.embeddings is not None
    findings = look_at_identities(arguments, pack, folder) if has_faces else []
    if arguments.report is not None:
        write_report(arguments.report, pack, describe(summary), quality, duplicates, findings, arguments.seed)
        print(f"{arguments.report}: the page")


def describe(summary: dict[str, Any]) -> list[str]:
    """Returns the lines to print for a summary made by `summarize`."""
    # One line per property.
    others = summary["num_records"] - summary["num_images"] - summary["num_identity_records"]
    records = counted(summary["num_images"], "image")
    if summary["layout"] == "insightface":
        records += f", {counted(summary['num_identity_records'], 'identity record')}, {others:,} header"
    labels = "none usable" if summary["labels"] is None else "{:,} to {:,}".format(*summary["labels"])
    num_present = summary["num_identities_with_images"]
    num_classes = max(summary["num_classes"], 0 if summary["labels"] is None else summary["labels"][1] + 1)
    looked_at = "all" if summary["decoded"] == summary["num_images"] else f"{summary['decoded']:,} sampled"
    lines = {
        "file": f"{summary['rec']}, {summary['bytes'] / 1e6:,.1f} MB",
        "layout": LAYOUT_NAMES[summary["layout"]],
        "records": f"{summary['num_records']:,}: {records}",
        "identities": (
            f"{num_present:,} of {counted(num_classes, 'class')} {agreeing(num_present, 'has', 'have')} images"
        ),
        "images each": _spread_text(summary["images_per_identity"]),
        "labels": f"{labels} ({summary['label_form']})",
        "image bytes": _spread_text(summary["image_bytes"]),
        "image size": f"{_counts_text(summary['image_sizes'])} (of {looked_at})",
        "format": _counts_text(summary["formats"]),
        "index": summary["index"] or "none: the file was scanned",
    }
    if summary["grayscale"]:
        lines["grayscale"] = f"{summary['grayscale']:,} (of {looked_at})"
    if summary["duplicates"] is not None:
        lines["duplicates"] = f"{summary['duplicates']:,}"
    if summary["property"]:
        lines["property"] = ",".join(str(value) for value in summary["property"].values())
    warnings = summary["oddities"] or ["none"]  # the key of format 1
    warning_lines = [f"{'' if number else 'warnings':<12} {what}" for number, what in enumerate(warnings)]
    return [f"{name:<12} {value}" for name, value in lines.items()] + warning_lines


def _spread_text(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "none"
    return f"min {spread['min']:,}, median {spread['median']:,.0f}, max {spread['max']:,}"


def _counts_text(counts: dict[str, int]) -> str:
    shown = [f"{name}" if len(counts) == 1 else f"{name} ({count:,})" for name, count in list(counts.items())[:5]]
    return ", ".join(shown) + (f", and {counted(len(counts) - 5, 'other')}" if len(counts) > 5 else "") or "none"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data inspect",
        description="Describes a RecordIO data set: records, identities, sizes, formats, and warnings.",
        example="examples:\n  facekd data inspect ms1mv3\n  facekd data inspect ms1mv3 --sample 64 --output faces.png\n"
        "  facekd data inspect ms1mv3 --report look/index.html --model teacher.onnx --against lfw.bin",
    )
    # The pack, a picture of a sample of it, and plain checks.
    parser.add_argument("path", type=Path, metavar="PATH", help="a .rec file, or a folder that holds one")
    parser.add_argument("picture", type=Path, nargs="?", metavar="FILE.png", help="the same as --output FILE.png")
    parser.add_argument(
        "--sample", type=whole_number(1, 10_000), metavar="N", help="draw N images, one row per identity (default: 64)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="draw a sample of the images into this file")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed of that choice (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--check", action="store_true", help="decode every image and look for duplicates")
    parser.add_argument(
        "--on-bad-record",
        choices=("fail", "skip"),
        default="skip",
        help="whether unusable images make the exit status 2 (fail) or are only counted (skip, the default)",
    )
    # What takes a model, or a look at every pixel.
    add = parser.add_argument_group("a closer look").add_argument
    add(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write a page on quality, duplicates, faces; lists beside it",
    )
    add(
        "--lists",
        type=Path,
        metavar="DIR",
        help="lists for `facekd data clean` (default: beside the page)",
    )
    add("--model", metavar="FILE", help="use this model to look for wrong labels and people under two labels")
    add("--embeddings", type=Path, metavar="NPY", help="embeddings in place of a model, one row per image")
    add("--against", type=Path, metavar="BIN", help="look for people of this verification pack in the data set")
    add("--against-embeddings", type=Path, metavar="NPY", help="embeddings of its images, with --embeddings")
    add(
        "--merge-cosine",
        type=COSINE,
        metavar="C",
        help="least cosine of two centres of one person (default: from data)",
    )
    add(
        "--overlap-cosine",
        type=COSINE,
        metavar="C",
        help="least cosine of an image to its centre (default: from data)",
    )
    add("--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads (default: all cores)")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
