"""Verb `facekd data make-ijb`: lays out images of people, generated faces or drawn embeddings as IJB-B or IJB-C."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.ijb_sets.drawn_embeddings import write_embeddings
from data_prep.ijb_sets.plan import PUBLISHED, IjbPlan, plan_of_counts, plan_of_images
from data_prep.ijb_sets.sources import LooseCrop, open_face_source
from data_prep.ijb_sets.writer import count_templates, write_metadata
from data_prep.layout_folder import SUMMARY, layout_folder
from facekd.commands.command_line import COUNT, PROCESSES, SEED, CommandParser, real_number, whole_number
from facekd.commands.places import check_apart
from facekd.data.synthetic import MIN_SIZE
from facekd.errors import run_verb
from facekd.files.writing import write_json, write_text
from facekd.images.alignment import template
from facekd.images.decoding import quiet_decoders
from facekd.utils.processes.children import usable_cores
from facekd.utils.processes.ordered_work import by_processes
from facekd.utils.progress import track
from facekd.utils.terminal import on_one_line
from facekd.utils.wording import counted

ROWS_CHUNK = 64
PARTS = ("loose_crop", "meta", "sources.tsv", "embeddings.npy")
EXAMPLE = """examples:
  facekd data make-ijb synthetic:100x20 ijb                                 # generated faces, not aligned
  facekd data make-ijb faces_aligned ijb                                    # faces_aligned/PERSON/*.jpg
  facekd data make-ijb photos ijb --landmarks landmarks.tsv --target IJBB   # photos with landmarks
  facekd data make-ijb --full-size big                                      # IJB-C's size, drawn embeddings
  facekd evaluate ijbc --model model.onnx --root ijb --target IJBC --output results

Writes to the output folder
  loose_crop/1.jpg ...      the images, in the order of the lists
  meta/                     ijbc_face_tid_mid.txt, ijbc_template_pair_label.txt, ijbc_name_5pts_score.txt, and
                            ijbc_1N_gallery_G1.csv, ijbc_1N_gallery_G2.csv, ijbc_1N_probe_mixed.csv
  sources.tsv               the image of the source behind each image
  embeddings.npy            with --full-size: (N, 2D), mirror images in the second half, rows as in *_5pts_score.txt
  layout.json               the options, the counts, and the names above that it has
The same options give the same bytes."""


def main(argv: list[str] | None = None) -> int:
    """Parses and makes the set; returns the exit status."""
    arguments = _parse(argv)
    output: Path = arguments.output
    if not arguments.full_size:
        check_apart(output, Path(arguments.source), arguments.landmarks)
    with layout_folder(output, arguments.overwrite, "target", PARTS) as staged:
        counts = _full_size(arguments, staged) if arguments.full_size else _of_images(arguments, staged)
    print(
        f"{output}: {counted(counts['images'], 'image')}, {counted(counts['subjects'], 'subject')}, "
        f"{counted(counts['templates'], 'template')} "
        f"(galleries {counts['gallery_1']:,} + {counts['gallery_2']:,}, probes {counts['probes']:,}), "
        f"{counts['genuine']:,} genuine and {counted(counts['impostor'], 'impostor pair')}"
    )
    return 0


def _of_images(arguments: argparse.Namespace, folder: Path) -> dict[str, int]:
    source = open_face_source(
        arguments.source, arguments.landmarks, arguments.on_missing, arguments.image_size, arguments.seed
    )
    plan = plan_of_images(source.labels, arguments.seed, arguments.largest_probe, arguments.impostors)
    crops = folder / "loose_crop"
    crops.mkdir()
    landmarks, scores = _write_images(arguments, plan, crops)
    names = (
        f"{row}.jpg\t{on_one_line(source.names[index])}\n" for row, index in enumerate(plan.sources.tolist(), start=1)
    )
    write_text(folder / "sources.tsv", "".join(names))
    dropped = getattr(source, "num_dropped", 0)
    if dropped:
        print(f"{arguments.source}: {counted(dropped, 'image has', 'images have')} no landmarks and were left out")
    return _finish(arguments, folder, plan, landmarks, scores, {"source": arguments.source, "dropped": dropped})


def _full_size(arguments: argparse.Namespace, folder: Path) -> dict[str, int]:
    counts = PUBLISHED[arguments.target].counts
    if arguments.fraction != 1:
        counts = counts.scaled(arguments.fraction)
    plan = plan_of_counts(counts, arguments.seed)
    (folder / "loose_crop").mkdir()
    path = folder / "embeddings.npy"
    scores = write_embeddings(path, plan, arguments.embedding_size, arguments.seed, arguments.dtype)
    landmarks = np.broadcast_to(template(arguments.image_size), (len(plan), 5, 2))
    return _finish(
        arguments, folder, plan, landmarks, scores, {"source": "drawn embeddings", "fraction": arguments.fraction}
    )


def _finish(
    arguments: argparse.Namespace,
    folder: Path,
    plan: IjbPlan,
    landmarks: np.ndarray,
    scores: np.ndarray,
    origin: dict[str, Any],
) -> dict[str, int]:
    target = PUBLISHED[arguments.target]
    write_metadata(folder / "meta", plan, target, landmarks, scores)
    counts = count_templates(plan)
    write_json(folder / SUMMARY, {"target": arguments.target, "seed": arguments.seed, **origin, "counts": counts})
    return counts


def _write_images(arguments: argparse.Namespace, plan: IjbPlan, crops: Path) -> tuple[np.ndarray, np.ndarray]:
    """Writes each row's `{row + 1}.jpg`; returns the landmarks (M, 5, 2) and scores (M,) of the rows."""
    available = usable_cores()
    blocks = [np.arange(start, min(start + ROWS_CHUNK, len(plan))) for start in range(0, len(plan), ROWS_CHUNK)]
    workers = min(available if arguments.workers is None else arguments.workers, len(blocks) // 4)
    options = (arguments.source, arguments.landmarks, "drop", arguments.image_size, arguments.seed)
    jobs = [(options, plan.sources[rows], rows + 1, crops) for rows in blocks]
    with by_processes(_write_block, jobs, workers, quiet_decoders) as results:
        parts = list(track(results, "writing images", len(plan), ROWS_CHUNK))
    landmarks, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
    return landmarks, scores


_opened: dict[Any, Any] = {}  # the source that this process has open, for its next block


def _write_block(job: tuple[tuple[Any, ...], np.ndarray, np.ndarray, Path]) -> tuple[np.ndarray, np.ndarray]:
    options, sources, numbers, crops = job
    if options not in _opened:
        _opened.clear()
        _opened[options] = open_face_source(*options, warn=False)  # the main process has warned
    found: list[LooseCrop] = []
    for index, number in zip(sources.tolist(), numbers.tolist(), strict=True):
        crop = _opened[options].read(index)
        (crops / f"{number}.jpg").write_bytes(crop.jpeg)
        found.append(crop)
    return np.stack([crop.landmarks for crop in found]), np.array([crop.score for crop in found])


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd data make-ijb",
        description="Lays out images of people, generated faces or drawn embeddings as IJB-B or IJB-C.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # What is laid out, and where.
    add(
        "source",
        nargs="?",
        help="a folder with one folder of images per person, a record pack, or synthetic:PEOPLExIMAGES[:SEED]",
    )
    add("output", type=Path, help="folder to write to, new or empty")
    add("--target", choices=PUBLISHED, default="IJBC", help="the set that the file names carry (default %(default)s)")
    add(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="lines PERSON/IMAGE x1 y1 ... x5 y5 [score]; without it, images must be aligned to the template",
    )
    add(
        "--on-missing",
        choices=("fail", "drop"),
        default="fail",
        help="whether an image without landmarks is an error or is left out (default %(default)s)",
    )
    # How many images and pairs the set has.
    add(
        "--largest-probe",
        type=COUNT,
        default=6,
        metavar="N",
        help="most images in a probe template (default 6)",
    )
    add("--impostors", type=COUNT, metavar="N", help="number of impostor pairs (default: all of gallery x probe)")
    add(
        "--image-size",
        type=whole_number(MIN_SIZE, 8192),
        default=112,
        metavar="PX",
        help="side of a generated face (default %(default)s)",
    )
    _add_full_size_options(parser)
    add("--seed", type=SEED, default=0, help="random seed (default %(default)s)")
    # How it is written.
    add("--workers", type=PROCESSES, metavar="N", help="processes that write images (default: one per core)")
    add("--overwrite", action="store_true", help="replace a layout that this command wrote there")
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    return arguments


def _add_full_size_options(parser: CommandParser) -> None:
    """Adds the options of sets of the published size, with drawn embeddings in place of images."""
    add = parser.add_argument
    add("--full-size", action="store_true", help="the published size, with drawn embeddings in place of images")
    add(
        "--fraction",
        type=real_number(0, 1, above=True),
        default=1.0,
        metavar="F",
        help="share of the full size (default 1)",
    )
    add(
        "--embedding-size",
        type=whole_number(2, 65_536),
        default=512,
        metavar="D",
        help="with --full-size: size of an embedding (default %(default)s)",
    )
    add(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="with --full-size: number type (default %(default)s)",
    )


def _check(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Ends with a message if options contradict each other or a value cannot be."""
    if arguments.full_size and arguments.source is not None:
        parser.error("--full-size draws embeddings: give the output folder alone")
    if not arguments.full_size and arguments.source is None:
        parser.error("give a source and an output folder, or --full-size and an output folder")
    if arguments.full_size and arguments.landmarks:
        parser.error("--landmarks go with a folder of photos, not with --full-size")
    if arguments.fraction != 1 and not arguments.full_size:
        parser.error("--fraction goes with --full-size")


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
