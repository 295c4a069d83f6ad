"""Verb `facekd compare`: compares the faces of two images, and decides whether they are of one person."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.commands.command_line import CommandParser
from facekd.commands.places import claimed_files, mark_of_format
from facekd.embedder.model_options import MODEL_HELP, add_model_options
from facekd.errors import DataError, run_verb
from facekd.faces.decisions import (
    Decision,
    add_decision_options,
    describe_rates,
    how_to_measure,
    percent,
    read_decision,
)
from facekd.faces.options import add_face_options
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import shown
from facekd.utils.wording import counted
from facekd.verification.operating_points import false_accept_among

if TYPE_CHECKING:  # OpenCV and onnxruntime take time to load: `--help` does without
    from facekd.faces.finding import FoundFaces
    from facekd.pages.tables import Table

FORMAT, VERSION = "facekd-compare", 1
MARK = mark_of_format(FORMAT)
MAX_ROWS, MAX_COLUMNS = 20, 10  # of the table on the terminal


@dataclass(frozen=True)
class EmbeddedImage:
    """Holds the faces of one image, K of them, and their embeddings.

    Attributes:
        path: the image.
        found: its faces.
        embeddings: float64 (K, D) of unit length.
    """

    path: str
    found: FoundFaces
    embeddings: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Holds what was compared, and how.

    Attributes:
        images: the two images.
        decision: the threshold, or None.
        model: describes the model, as in `results.json`.
        flip: whether the embeddings of the mirror images were added.
    """

    images: tuple[EmbeddedImage, EmbeddedImage]
    decision: Decision | None
    model: dict[str, Any]
    flip: bool

    @cached_property
    def cosines(self) -> np.ndarray:
        """Returns the cosine of each face of the first image with each of the second: float64 (K, L)."""
        first, second = (image.embeddings for image in self.images)
        return np.clip(first @ second.T, -1.0, 1.0)


def main(argv: list[str] | None = None) -> int:
    """Compares, prints and perhaps writes; returns the exit status, 0 whatever was decided."""
    arguments = _parser().parse_args(argv)
    sources = [Path(arguments.first), Path(arguments.second)]
    with claimed_files([arguments.output], sources, "facekd compare", [MARK]):
        for path in (arguments.first, arguments.second):
            if not Path(path).exists() or Path(path).is_dir():
                found = "is a folder; `facekd search` takes many images" if Path(path).is_dir() else "no such file"
                raise DataError(f"{path}: {found}; expected an image")
            require_regular_file(path)
        compared = _compare(arguments, read_decision(arguments))
        _print(arguments, compared)
        if arguments.output is not None:
            _write(arguments, argv, compared)
    return 0


def _compare(arguments: argparse.Namespace, decision: Decision | None) -> Comparison:
    """Finds and embeds the faces of both images."""
    from facekd.embedder.described_model import open_described_model
    from facekd.faces.embedding import embed_in_order
    from facekd.faces.image_inputs import ImageFiles
    from facekd.faces.options import open_finder
    from facekd.images.decoding import quiet_decoders

    # The model; the mirror images count if they did for the thresholds.
    embedder, model = open_described_model(arguments.model, arguments, resize=False)
    measured = None if decision is None else decision.measured
    flip = arguments.flip if arguments.flip is not None else measured is not None and measured.flip
    if measured is not None:
        measured.check_settings(model, flip, "these faces")

    # The faces.
    finder = open_finder(arguments, embedder.preprocessing.image_size)
    quiet_decoders()
    files = ImageFiles([arguments.first, arguments.second], ["", ""])
    with embed_in_order(embedder, finder, files, range(2), flip) as results:
        first, second = (
            EmbeddedImage(path, embedded.found, _directions(path, embedded.found, embedded.embeddings))
            for path, embedded in zip(files.names, results, strict=True)
        )
    return Comparison((first, second), decision, model, flip)


def _directions(path: str, found: FoundFaces, embeddings: np.ndarray) -> np.ndarray:
    """Returns the embeddings (K, D) as float64 of unit length; refuses an image without a face."""
    from facekd.faces.finding import IMAGE_REASONS
    from facekd.faces.gallery_writer import ADVICE_ON_SIZE
    from facekd.verification.scores import unit_rows

    if found.reason is not None:
        detail = f": {found.detail}" if found.detail else ""
        advice = ADVICE_ON_SIZE if found.reason == "other_size" else ""
        raise DataError(f"{path}: {IMAGE_REASONS[found.reason]}{detail}{advice}")
    no_direction = IMAGE_REASONS["no_direction"]
    return unit_rows(embeddings.astype(np.float64), lambda rows: DataError(f"{path}: {no_direction} ({len(rows)})"))


def _print(arguments: argparse.Namespace, compared: Comparison) -> None:
    """Prints which faces were compared, their cosines, and what is decided."""
    from facekd.faces.choosing import ONE_OF_SEVERAL
    from facekd.utils.terminal import console

    # Which faces.
    for image in compared.images:
        taken, sure = len(image.found.faces), image.found.num_sure
        if sure > 1:
            one = ONE_OF_SEVERAL.get(arguments.faces)
            which = f"{taken}" if one is None else f"the {one}, --faces all takes each"
            print(f"{shown(image.path)}: shows {counted(sure, 'face')}; compared: {which}")

    # Their cosines, and what the threshold makes of them.
    cosines, decision = compared.cosines, compared.decision
    highest = float(cosines.max())
    if cosines.size == 1:
        print(f"cosine {highest:.6f}")
    else:
        _table(compared).print(console())
    if decision is None:
        print(how_to_measure(arguments.model, arguments.flip), file=sys.stderr)
        return
    if cosines.size == 1:
        is_same = decision.accepts(highest)
        print(f"taken for {'one person, at or above' if is_same else 'two people, below'} the threshold")

    # How sure that is.
    rates = decision.rates_at(highest)
    if rates is not None:
        print(f"  {describe_rates(rates)} reach {'the highest cosine' if cosines.size > 1 else 'this cosine'}")
        if cosines.size > 1:
            estimate = percent(false_accept_among(rates.far[1], cosines.size))
            print(
                f"  one of {counted(cosines.size, 'pair')} of different people has it with a probability of at most "
                f"{estimate}"
            )
    for sentence in decision.describe():
        print(f"  {sentence}")


def _table(compared: Comparison) -> Table:
    """Returns the cosines of all pairs as a small matrix or, of many, the highest as a list."""
    from facekd.pages.tables import Table

    def cell(cosine: float) -> str:
        if compared.decision is None:
            return f"{cosine:.4f}"
        return f"{cosine:.4f} {'one person' if compared.decision.accepts(cosine) else 'different'}"

    first, second = ([_name(image, face) for face in range(len(image.embeddings))] for image in compared.images)
    cosines = compared.cosines
    if len(second) <= MAX_COLUMNS and len(first) <= MAX_ROWS:
        rows = [[name, *map(cell, row)] for name, row in zip(first, cosines.tolist(), strict=True)]
        return Table("", ["", *second], rows)
    order = np.argsort(-cosines, axis=None, kind="stable")[:MAX_ROWS]
    pairs = np.stack(np.unravel_index(order, cosines.shape), axis=1).tolist()
    rows = [[first[one], second[other], cell(float(cosines[one, other]))] for one, other in pairs]
    return Table("", [f"the highest of {counted(cosines.size, 'pair')}", "", "cosine"], rows)


def _name(image: EmbeddedImage, face: int) -> str:
    """Names one face by its image, and by its place if there are several."""
    from facekd.faces.json_entries import place_text

    name = Path(image.path).name
    return name if len(image.found.faces) == 1 else f"{name} {place_text(image.found.faces[face].box)}"


def _write(arguments: argparse.Namespace, argv: list[str] | None, compared: Comparison) -> None:
    """Writes everything as JSON (docs/embedding.md)."""
    from facekd.faces.json_entries import command_entry, detector_entry, face_entry
    from facekd.files.writing import write_json

    # Each pair of faces, with the shares of pairs that reach its cosine.
    decision = compared.decision
    pairs = []
    for (first, second), value in np.ndenumerate(compared.cosines):
        cosine = float(value)
        rates = None if decision is None else decision.rates_at(cosine)
        pairs.append(
            {
                "first": first,
                "second": second,
                "cosine": cosine,
                "same": None if decision is None else decision.accepts(cosine),
                "far": None if rates is None else list(rates.far),
                "tar": None if rates is None else list(rates.tar),
            }
        )

    # All of it.
    images = {
        side: {
            "image": image.path,
            "num_faces": image.found.num_sure,
            "faces": [face_entry(face.box, face.landmarks, face.score) for face in image.found.faces],
        }
        for side, image in zip(("first", "second"), compared.images, strict=True)
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        **images,
        "pairs": pairs,
        "decision": None if decision is None else decision.as_json(),
        "model": compared.model,
        "flip": compared.flip,
        "detector": detector_entry(arguments),
        **command_entry("compare", argv),
    }
    write_json(arguments.output, content)
    print(f"written to {arguments.output}")


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="facekd compare",
        description="Compares the faces of two images: their cosine, and whether a threshold takes it for one person.",
        example="examples:\n"
        "  facekd compare A.jpg B.jpg --model model.onnx --detector scrfd_2.5g_bnkps.onnx\n\n"
        "  with the threshold that an evaluation of this model measured, and the error rates of this cosine:\n"
        "  facekd evaluate folder --model model.onnx --images PEOPLE --output runs/people\n"
        "  facekd compare A.jpg B.jpg --model model.onnx --detector scrfd.onnx --thresholds runs/people --far 1e-3\n\n"
        "The exit status is 0 whatever is decided, and 2 if there is no face to compare. Thresholds of another model,\n"
        "or of embeddings with the mirror image where it is not added, are refused.",
    )
    add = parser.add_argument
    add("first", metavar="A", help="a photograph, or an aligned crop")
    add("second", metavar="B", help="another")
    add("--model", required=True, metavar="FILE", help=MODEL_HELP)
    add("--output", type=Path, metavar="FILE", help="write everything as JSON, too")
    add("--flip", action=argparse.BooleanOptionalAction, help="add the embedding of the mirror image (default: as "
        "--thresholds has it, else no)")  # fmt: skip
    add_decision_options(parser)
    add_face_options(parser)
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
