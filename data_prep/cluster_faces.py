"""Verb `facekd data cluster`: groups images by the people that a model takes them for, into a pack to train on."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.jobs.bad_records import BadRecords
from data_prep.jobs.resuming import digest_of, resuming
from facekd.commands.command_line import COSINE, IMAGE_SIDE, PROCESSES, CommandParser, whole_number
from facekd.commands.places import check_apart, require_own_results
from facekd.data.datasets.record_pack_writer import RecordPackWriter, rec_path_of
from facekd.embedder.model_options import MODEL_HELP, add_model_options
from facekd.errors import DataError, run_verb
from facekd.files.output_lock import folder_lock
from facekd.files.result_folder import finish_results, start_results, was_stopped
from facekd.utils.processes.children import usable_cores
from facekd.utils.wording import counted

if TYPE_CHECKING:  # torch and scikit-learn cost seconds: `--help` does without
    from data_prep.clustering.clusters import Clusters
    from facekd.data.datasets import EncodedDataset
    from facekd.teacher.cache import TeacherCache

REPORT, PAGE, EMBEDDINGS = "cluster_report.json", "cluster_report.html", "embeddings.teacher"


@dataclass(frozen=True)
class Grouped:
    """Holds the images that were clustered.

    Attributes:
        images: int64 (N,), their numbers in the source; those that cannot be read are not among them.
        clusters: what was found among them.
    """

    images: NDArray[np.int64]
    clusters: Clusters


def main(argv: list[str] | None = None) -> int:
    """Embeds, clusters and writes the pack; returns the exit status."""
    # What is in the way is said before hours of embedding.
    arguments = _parser().parse_args(argv)
    folder: Path = arguments.output
    check_apart(folder, Path(arguments.data))
    if folder.suffix == ".rec":
        raise DataError(f"{folder}: give a folder, which gets the pack, the embeddings and the report")
    with folder_lock(folder, "command is at work"):
        is_taken = (folder / REPORT).exists() or rec_path_of(folder).exists()
        if is_taken and not arguments.force and not was_stopped(folder, REPORT):
            raise DataError(f"{folder}: holds clusters already; choose another folder, or replace them by --force")
        require_own_results(folder, (PAGE,), "facekd data cluster", REPORT)
        return _cluster(arguments, folder)


def _cluster(arguments: argparse.Namespace, folder: Path) -> int:
    """Does the work of the verb, in a folder that is locked."""
    from facekd.teacher.options import embed_training_set, open_teacher_and_data

    # Embed what is not embedded yet, and cluster.
    embedder, dataset = open_teacher_and_data(arguments)
    source = _encoded(arguments, dataset)
    truth = _identities(source) if arguments.truth else None
    cache = embed_training_set(arguments, folder / EMBEDDINGS, embedder, dataset)
    grouped = _group(arguments, cache)

    # Write the pack and the page, and last the report, which says that all is there.
    report = _report(arguments, cache, grouped, truth)
    start_results(folder, (PAGE,), mark=REPORT)
    _write_pack(arguments, source, grouped, cache)
    _write_page(folder, grouped, report)
    finish_results(folder, report, mark=REPORT)
    return 0


def _encoded(arguments: argparse.Namespace, dataset: Any) -> EncodedDataset:
    """Returns the data set if its images lie in files or records, whose bytes can be copied."""
    from facekd.data.datasets import EncodedDataset

    if not isinstance(dataset, EncodedDataset):
        raise DataError(f"{arguments.data}: give a folder of aligned images, or a record pack")
    return dataset


def _identities(source: EncodedDataset) -> NDArray[np.int64]:
    """Returns the true identity of each image, -1 for unknown: its label in a pack, or the folder that it lies in."""
    from facekd.data.datasets.folder_dataset import ImageFileDataset

    if not isinstance(source, ImageFileDataset):
        return source.labels
    people = [str(source.name_of(image).parent) for image in range(len(source))]
    numbers = {person: number for number, person in enumerate(sorted({*people} - {"."}))}
    return np.array([numbers.get(person, -1) for person in people], dtype=np.int64)


def _group(arguments: argparse.Namespace, cache: TeacherCache) -> Grouped:
    """Clusters the images that could be read by the sum of their embedding and that of their mirror image."""
    from data_prep.clustering.clusters import cluster

    images = np.setdiff1d(np.arange(cache.num_images), cache.replaced)
    size = 3 * len(images) * cache.embedding_size * 8 / 1e9
    print(
        f"clustering {counted(len(images), 'embedding')} of {counted(cache.embedding_size, 'value')}, with up to "
        f"{size:,.1f} GB of memory; the time grows with the square of their number",
        file=sys.stderr,
    )
    units = np.concatenate([cache.lookup_units(part) for part in np.array_split(images, max(1, len(images) // 4096))])
    min_samples = arguments.min_samples or arguments.min_size
    threads = arguments.threads or usable_cores()
    return Grouped(images, cluster(units, arguments.min_size, min_samples, arguments.min_cosine, threads))


def _labels_to_write(arguments: argparse.Namespace, clusters: Clusters) -> NDArray[np.int64]:
    """Returns the label of each image in the pack, (N,): its cluster; -1 leaves an image of noise out."""
    labels = clusters.labels.copy()
    if arguments.noise == "single":
        noise = labels < 0
        labels[noise] = len(clusters.coherence) + np.arange(int(noise.sum()))
    return labels


def _report(
    arguments: argparse.Namespace, cache: TeacherCache, grouped: Grouped, truth: NDArray[np.int64] | None
) -> dict[str, Any]:
    """Returns the content of `cluster_report.json`."""
    from data_prep.clustering.agreement import agreement

    clusters = grouped.clusters
    sizes = clusters.sizes
    known = {} if truth is None else agreement(clusters.labels, truth[grouped.images])
    return {
        "format": "facekd-clustering",
        "version": 1,
        "source": str(arguments.data),
        "model": str(arguments.model),
        "model_fingerprint": cache.teacher["fingerprint"],
        "min_size": arguments.min_size,
        "min_samples": arguments.min_samples or arguments.min_size,
        "min_cosine": arguments.min_cosine,
        "noise_is": "left out" if arguments.noise == "drop" else "each an identity of its own",
        "images": len(grouped.images),
        "clusters": len(sizes),
        "clustered": int(sizes.sum()),
        "noise": int((clusters.labels < 0).sum()),
        "unreadable": len(cache.replaced),
        "cluster_size": {"min": int(sizes.min()), "median": float(np.median(sizes)), "max": int(sizes.max())},
        "coherence": [round(float(value), 4) for value in clusters.coherence],
        "agreement": {name: None if math.isnan(value) else value for name, value in known.items()},
    }


def _write_pack(arguments: argparse.Namespace, source: EncodedDataset, grouped: Grouped, cache: TeacherCache) -> None:
    """Copies the images, cluster by cluster, into `train.rec`; an interrupted run goes on."""
    from data_prep.sources.encoded_images import suffix_of
    from data_prep.sources.image_lists import check_name
    from data_prep.sources.image_sources import default_name
    from facekd.data.datasets.folder_dataset import ImageFileDataset
    from facekd.utils.progress import track

    # Cluster by cluster, and within one in the order of the source.
    labels = _labels_to_write(arguments, grouped.clusters)
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    images, labels = grouped.images[order], labels[order]
    job = {"verb": "cluster", "data": cache.data["images_sha256"], "images": digest_of((images, labels))}
    writer = RecordPackWriter(arguments.output, source.image_size, "insightface", job)
    with resuming(writer, BadRecords("fail")):
        left = range(writer.next_task, len(images))
        for task in track(left, "writing records", len(left)):
            image, label = int(images[task]), int(labels[task])
            content = bytes(source.read_encoded(image)[0])
            if isinstance(source, ImageFileDataset):
                name = str(source.name_of(image))
                check_name(name)
            else:
                name = default_name(label, image, suffix_of(content))
            writer.add(label, content, name, None, task)


def _write_page(folder: Path, grouped: Grouped, report: dict[str, Any]) -> None:
    """Writes the page, and prints its numbers."""
    from data_prep.clustering.page import describe, write_report
    from facekd.data.datasets.record_pack import open_record_pack
    from facekd.utils.terminal import console

    write_report(folder / PAGE, open_record_pack(folder), grouped.clusters, report)
    describe(report).print(console())
    print(f"{folder}: train.rec to train on, {REPORT} and {PAGE} to look at")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd data cluster",
        description="Groups aligned images by the people that a model takes them for (HDBSCAN on its embeddings).",
        example="example:\n"
        "  facekd data cluster photos_aligned clustered --model teacher.onnx --min-size 3\n"
        "  facekd train CONFIG.yaml --data.train clustered\n\n"
        "After a stop, run the same command again: it goes on. With --force, another --min-size uses the embeddings\n"
        "that are there. Memory: up to 24 bytes for each image and embedding value (1.2 GB for 100,000 images and 512\n"
        "values); the time grows with the square of the number of images.\n\n"
        "writes OUT/train.rec, .idx, .lst, property, cluster_report.json, cluster_report.html, embeddings.teacher",
    )
    add = parser.add_argument
    add("data", metavar="SOURCE", help="a folder of aligned images, at any depth, or a record pack")
    add("output", type=Path, metavar="OUT", help="folder for the pack, the embeddings and the report")
    add("--model", required=True, metavar="FILE", help=MODEL_HELP)
    # The clusters.
    add(
        "--min-size", type=whole_number(2, 10**6), default=3, metavar="N", help="least images of a cluster (default: 3)"
    )
    add(
        "--min-samples",
        type=whole_number(1, 10**6),
        metavar="N",
        help="near images that make a dense place; more makes more noise (default: --min-size)",
    )
    add(
        "--min-cosine",
        type=COSINE,
        metavar="C",
        help="join groups that come as near to each other as this cosine (default: go by density alone)",
    )
    add(
        "--noise",
        choices=("drop", "single"),
        default="drop",
        help="images of no cluster: leave them out (drop, the default), or make each an identity of its own (single)",
    )
    known = "compare with known identities: the labels of a pack, or the folders that images lie in"
    add("--truth", action="store_true", help=known)
    # The images.
    add("--data-size", type=IMAGE_SIDE, metavar="PX", help="size of the images (default: the model's)")
    add(
        "--on-bad-record",
        choices=("fail", "skip"),
        default="fail",
        help="stop at an image that cannot be read, or leave it out (default: fail)",
    )
    add(
        "--workers",
        type=PROCESSES,
        metavar="N",
        help="processes that read images (default: 4 with --device cuda, else 0)",
    )
    add("--force", action="store_true", help="replace clusters that are there")
    add_model_options(parser)
    parser.set_defaults(unlabelled=True)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
