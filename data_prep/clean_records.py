"""Verb `facekd data clean`: copies a pack without the images that lists drop, and merges the identities they merge."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.inspection.clean_lists import Changes, read_clean_lists
from data_prep.jobs.bad_records import BadRecords, add_bad_record_option
from data_prep.jobs.resuming import digest_of, resuming
from data_prep.sources.encoded_images import suffix_of
from data_prep.sources.image_sources import RecordSource, default_name
from facekd.commands.command_line import CommandParser
from facekd.commands.places import check_apart, mark_of_format, require_own
from facekd.data.datasets.class_counts import ClassCounts, print_contents
from facekd.data.datasets.cleaning import REPORT, REPORT_FORMAT
from facekd.data.datasets.identity_map import sha256_of_labels
from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter, rec_path_of
from facekd.errors import DataError, RecordError, run_verb
from facekd.files.writing import json_bytes
from facekd.images.decoding import decode_rgb
from facekd.utils.progress import track
from facekd.utils.wording import counted


@dataclass(frozen=True)
class CleanPlan:
    """Holds what goes into the new pack.

    Attributes:
        images: int64 (N,), images of the old pack in the order of writing.
        labels: int64 (N,), their new labels.
        old_labels: the old label of each new one.
    """

    images: np.ndarray
    labels: np.ndarray
    old_labels: np.ndarray


def main(argv: list[str] | None = None) -> int:
    """Writes the cleaned pack; returns the exit status."""
    arguments = _parser().parse_args(argv)
    check_apart(arguments.output, arguments.pack)
    pack = open_record_pack(arguments.pack, arguments.on_bad_record)
    rec_path = rec_path_of(arguments.output)
    if not arguments.force:
        require_own(rec_path.with_name(REPORT), "facekd data clean", [mark_of_format(REPORT_FORMAT)])
    changes = read_clean_lists(arguments.apply)
    source = RecordSource(pack)
    print_contents(arguments.pack, pack.class_counts, [*source.warnings, *source.class_warnings()])
    changes.check_pack(pack.image_keys, source.labels, arguments.pack)
    plan = _plan(arguments, pack, source, changes)

    # Write the pack, or continue an earlier run.
    bad = BadRecords(arguments.on_bad_record)
    size = pack.property["height"] if pack.property else decode_rgb(pack.read_image(int(plan.images.min()))[0]).shape[0]
    job = _job(source, plan.images, plan.labels)
    writer = RecordPackWriter(rec_path, size, pack.layout, job, replace=arguments.force)
    with resuming(writer, bad):
        left = range(writer.next_task, len(plan.images))
        for task in track(left, "writing records", len(left)):
            image, label = int(plan.images[task]), int(plan.labels[task])
            try:
                content, _ = pack.read_image(image)
            except RecordError as error:
                bad.meet(error)
                continue
            name = source.name(image) or default_name(label, image, suffix_of(content))
            key = int(pack.image_keys[image]) if pack.layout == "im2rec" else None
            writer.add(label, content, name, key, task)

        # Report what was done, in a file that is put in place with the pack.
        num_dropped = pack.num_images - len(plan.images)
        report = {
            "format": REPORT_FORMAT,
            "version": 1,
            "pack": str(arguments.pack),
            "lists": [str(path) for path in arguments.apply],
            "images": writer.num_images,
            "dropped": num_dropped,
            "merged": len(changes.merges),
            "skipped": len(bad),
            "old_label_of": plan.old_labels.tolist(),
            # By these a classifier of the old pack finds its people in the new one.
            "old_labels_sha256": sha256_of_labels(source.labels[source.labels >= 0]),
            "labels_sha256": None if len(bad) else sha256_of_labels(plan.labels),
        }
        writer.add_file(REPORT, json_bytes(report))
    print(
        f"{rec_path}: {counted(writer.num_images, 'image')} of {counted(len(plan.old_labels), 'identity')}; "
        f"{counted(num_dropped, 'image')} dropped, {counted(len(changes.merges), 'identity')} merged{bad.summary()}"
    )
    return 0


def _plan(arguments: argparse.Namespace, pack: RecordPack, source: RecordSource, changes: Changes) -> CleanPlan:
    """Returns the images that the lists leave, with their new labels.

    Raises:
        DataError: the lists name keys that the pack does not have, or leave no image.
    """
    keep = (source.labels >= 0) & ~np.isin(pack.image_keys, list(changes.keys))
    keep &= ~np.isin(source.labels, list(changes.labels))
    unknown = changes.keys - set(pack.image_keys.tolist())
    if unknown:
        raise DataError(
            f"{counted(len(unknown), 'key of the lists is no image', 'keys of the lists are no images')} of "
            f"{arguments.pack}, first {min(unknown)}; the lists belong to another pack"
        )
    kept = np.flatnonzero(keep)
    if not len(kept):
        raise DataError("the lists leave no image")
    # Labels are made consecutive again: a classifier would learn nothing of an empty class.
    merged = _merged(changes, source.labels[kept], pack.class_counts)
    old_labels, new_labels = np.unique(merged, return_inverse=True)
    order = np.argsort(new_labels, kind="stable") if pack.layout == "insightface" else np.arange(len(kept))
    return CleanPlan(kept[order], new_labels[order], old_labels)


def _job(source: RecordSource, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns everything that decides what is written: the old pack, and which of its images go where."""
    return {"verb": "clean", "source": source.fingerprint(), "images": digest_of((images, labels))}


def _merged(changes: Changes, labels: np.ndarray, counts: ClassCounts) -> np.ndarray:
    """Returns the labels (N,) with each replaced by the lowest label of the same person."""
    parent: dict[int, int] = {}  # of labels that are merged with a lower one

    def root(label: int) -> int:
        while label in parent:
            label = parent[label]
        return label

    for pair in changes.merges:
        if max(pair) >= counts.num_classes:
            raise DataError(f"merge {pair[0]} {pair[1]}: the pack has labels up to {counts.num_classes - 1} only")
        low, high = sorted(root(label) for label in pair)
        if low != high:
            parent[high] = low
    present, number = np.unique(labels, return_inverse=True)
    return np.array([root(label) for label in present.tolist()])[number]


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data clean",
        description="Copies a pack without the images that lists drop, and merges the identities they merge.",
        example="example:\n"
        "  facekd data inspect ms1mv3 --model teacher.onnx --report look/index.html   # writes look/*.tsv\n"
        "  facekd data clean ms1mv3 ms1mv3_clean --apply look/outliers.tsv\n\n"
        "Look at the lists first and delete the lines you do not agree with. The old pack is never changed.\n"
        "After a stop or a full disk, run the same command again: it resumes.\n\n"
        "writes OUT/train.rec, .idx, .lst, property, and clean_report.json",
    )
    add = parser.add_argument
    add("pack", type=Path, metavar="PACK", help="a .rec file, or a folder that holds one")
    add("output", type=Path, metavar="OUT", help="folder for the new pack, or a name ending in .rec")
    add(
        "--apply",
        type=Path,
        nargs="+",
        required=True,
        metavar="LIST",
        help="lists of `facekd data inspect`, or your own (docs/data.md)",
    )
    add("--force", action="store_true", help="replace an existing pack")
    add_bad_record_option(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
