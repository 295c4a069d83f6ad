"""Verb `facekd embed`: embeds the faces of photographs or aligned crops into a gallery, one file of embeddings."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from facekd.commands.command_line import THREADS, CommandParser
from facekd.commands.places import claimed_files, path_of_model
from facekd.embedder.model_options import MODEL_HELP, add_model_options, open_fastest_model
from facekd.errors import DataError, run_verb
from facekd.faces.options import add_face_options, detector_sha256, open_finder
from facekd.utils.processes.children import usable_cores
from facekd.utils.progress import format_duration, track
from facekd.utils.wording import counted

if TYPE_CHECKING:  # OpenCV and onnxruntime take time to load: `--help` does without
    from facekd.embedder import Embedder
    from facekd.faces.finding import FaceFinder
    from facekd.faces.gallery_writer import GalleryWriter
    from facekd.faces.image_inputs import Images

SIZES_TRIED = 100  # images of another size, and no other, after which the rest is not tried


def main(argv: list[str] | None = None) -> int:
    """Parses and embeds; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    output: Path = arguments.output
    if not arguments.inputs and not arguments.list:
        parser.error("give photographs, folders or packs to embed, or --list FILE")
    if output.suffix.lower() != ".npz":
        raise DataError(f"{output}: a gallery is a .npz file; give its name, such as --output faces.npz")
    from facekd.faces.gallery_writer import REPORT_HEAD

    sources = [*(Path(word) for word in arguments.inputs if word != "-"), *arguments.list]
    sources += [path_of_model(arguments.model), *([arguments.detector] if arguments.detector else [])]
    report, marks = output.with_suffix(".report.tsv"), [REPORT_HEAD.encode()]
    with claimed_files([report], sources, "facekd embed", marks, replaceable=[output]):
        return _embed_all(arguments, output)


def _embed_all(arguments: argparse.Namespace, output: Path) -> int:
    """Embeds the images that are not embedded yet, and writes the gallery."""
    from facekd.faces.gallery import Origin
    from facekd.faces.gallery_writer import GalleryWriter
    from facekd.faces.image_inputs import list_images
    from facekd.images.decoding import quiet_decoders

    # The images, the model and the detector.
    images = list_images(arguments.inputs, arguments.list)
    embedder = open_fastest_model(arguments.model, arguments)
    finder = open_finder(arguments, embedder.preprocessing.image_size)
    quiet_decoders()
    sha256 = detector_sha256(arguments)
    origin = Origin(
        model=Path(arguments.model).name,
        fingerprint=embedder.fingerprint,
        preprocessing=embedder.preprocessing,
        flip=arguments.flip,
        detector=None if sha256 is None else arguments.detector.name,
        detector_sha256=sha256,
    )

    # Embed, and write the gallery.
    job = {"origin": asdict(origin), "rules": asdict(finder.rules), "resize": finder.resize}
    start = time.monotonic()
    with _kept(GalleryWriter(output, images, embedder.embedding_size, job, arguments.force)) as writer:
        _embed_rest(writer, embedder, finder, images, arguments)
        num_faces = writer.finish(origin, finder.rules.which)
    _print(output, writer, images, num_faces, arguments, time.monotonic() - start)
    return 0


@contextlib.contextmanager
def _kept(writer: GalleryWriter) -> Iterator[GalleryWriter]:
    """Holds a writer open; says what was found of an earlier run, and what is kept if this one is stopped."""
    try:
        with writer:
            if writer.num_found:
                print(
                    f"{writer.path}: going on after {counted(writer.num_found, 'image')} embedded before",
                    file=sys.stderr,
                )
            yield writer
    except BaseException:
        if writer.num_kept:
            print(
                f"{counted(writer.num_kept, 'image is', 'images are')} embedded; run the same command again to go on",
                file=sys.stderr,
            )
        raise


def _embed_rest(
    writer: GalleryWriter, embedder: Embedder, finder: FaceFinder, images: Images, arguments: argparse.Namespace
) -> None:
    """Embeds the images that the writer does not hold yet."""
    from facekd.faces.embedding import embed_in_order
    from facekd.faces.gallery_writer import ADVICE_ON_SIZE

    left = range(writer.num_found, len(images))
    with embed_in_order(embedder, finder, images, left, arguments.flip, arguments.workers) as results:
        is_tried = writer.num_found > 0
        for embedded in track(results, "embedding", len(left)):
            writer.add(embedded)
            if is_tried or len(writer.results) < SIZES_TRIED:
                continue
            is_tried = True
            if writer.counts()["other_size"] == len(writer.results):
                raise DataError(
                    f"none of the first {counted(len(writer.results), 'image')} has the size that the model takes: "
                    f"{images.names[0]} {writer.results[0].detail}{ADVICE_ON_SIZE}"
                )


def _print(
    output: Path,
    writer: GalleryWriter,
    images: Images,
    num_faces: int,
    arguments: argparse.Namespace,
    seconds: float,
) -> None:
    """Says what is in the gallery, what is not, and how long it took."""
    from facekd.faces.finding import IMAGE_REASONS
    from facekd.faces.gallery_writer import SEVERAL

    num_new = len(images) - writer.num_found
    took = f"{format_duration(seconds)}, {num_new / max(seconds, 1e-3):,.3g} images/s"
    print(f"{output}: {counted(num_faces, 'face')} of {counted(len(images), 'image')} ({took})")
    people = {*images.people} - {""}
    known = sum(person != "" for person in images.people)
    if people:
        print(f"  people {len(people):>11,}  by subfolder, label or list, on {counted(known, 'image')}")
    counts = writer.counts()
    for reason, words in IMAGE_REASONS.items():
        if counts[reason]:
            print(f"  without {counts[reason]:>10,}  {words}")
    if counts[SEVERAL]:
        which = _WHICH[arguments.faces]
        several = "image shows several faces" if counts[SEVERAL] == 1 else "images show several faces"
        print(f"  note {counts[SEVERAL]:>13,}  {several}; {which}")
    if sum(counts.values()):
        print(f"  listed in {writer.report_path}")


_WHICH = {
    "all": "all of them were taken",
    "largest": "the largest of each was taken",
    "centre": "the one nearest the centre was taken",
    "score": "the surest of each was taken",
}


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="facekd embed",
        description="Embeds the faces of photographs, or aligned crops, into one file: a gallery.",
        example="examples:\n"
        "  photographs in one folder per person; the largest face of each is found, aligned and embedded:\n"
        "  facekd embed PHOTOS --model model.onnx --detector scrfd_2.5g_bnkps.onnx --output faces.npz\n\n"
        "  crops that `facekd data align` made, or a training pack:\n"
        "  facekd embed ALIGNED train.rec --model model.onnx --output faces.npz\n\n"
        "  find PHOTOS -name '*.jpg' | facekd embed - --model model.onnx --detector yunet.onnx --output faces.npz\n\n"
        "A person is named by the subfolder that an image lies in, by its label in a .rec, or behind a tab in a list.\n"
        "After a stop, run the same command again: it goes on.\n\n"
        "writes faces.npz           embeddings of unit length, names, people, boxes, landmarks (docs/formats.md)\n"
        "       faces.report.tsv    images without a face, and why; images with several",
    )
    add = parser.add_argument
    # What is embedded, and where it goes.
    add("inputs", nargs="*", metavar="INPUT", help="photographs, folders (with all their subfolders), record packs "
        "(.rec), verification packs (.bin, .npz), or - for paths on standard input")  # fmt: skip
    add("--list", type=Path, action="append", default=[], metavar="FILE", help="a text file with a path on each line, "
        "and perhaps a tab and a person")  # fmt: skip
    add("--model", required=True, metavar="FILE", help=MODEL_HELP)
    add("--output", required=True, type=Path, metavar="FILE", help="the gallery to write, such as faces.npz")
    add("--force", action="store_true", help="replace a gallery that is there")
    # How.
    add("--flip", action=argparse.BooleanOptionalAction, default=False, help="add the embedding of the mirror image, "
        "for twice the time (default: no)")  # fmt: skip
    add("--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads that read, decode and find faces "
        "(default: all cores)")  # fmt: skip
    add_face_options(parser)
    add_model_options(parser, tries_batches=True)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
