"""Verb `facekd data make-protocol`: lays out faces of people as SurvFace, TinyFace, MegaFace and others do."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_prep.layout_folder import SUMMARY, layout_folder
from data_prep.protocol_sets.drawn_megaface import write_drawn_megaface
from data_prep.protocol_sets.faces import AlignedFaces, split_people
from data_prep.protocol_sets.layouts import LAYOUTS, PARTS, Layout
from facekd.commands.command_line import COUNT, SEED, CommandParser, real_number, whole_number
from facekd.commands.places import check_apart
from facekd.data.synthetic import MIN_SIZE
from facekd.data.synthetic.set_name import read_set_name
from facekd.errors import run_verb
from facekd.files.writing import write_json

EXAMPLE = """examples:
  facekd data make-protocol tinyface synthetic:40x6 tinyface            # generated people, aligned
  facekd data make-protocol survface faces_aligned survface             # faces_aligned/PERSON/*.jpg, or a .rec
  facekd evaluate protocol tinyface --root tinyface --model model.onnx --resize --output results

  embeddings in place of images, a million distractors:
  facekd data make-protocol megaface synthetic:80x44 big --drawn --distractors 1000000
  facekd evaluate protocol megaface --root big --embeddings big/embeddings.npy --output results

A share of the people are strangers: distractors, or probes without a mate. Masks are painted, and small or poor probes
are scaled down: such a set tries a protocol out, and says nothing about the published one. The same options give the
same bytes."""


def main(argv: list[str] | None = None) -> int:
    """Parses and makes the set; returns the exit status."""
    arguments = _parse(argv)
    output: Path = arguments.output
    if read_set_name(arguments.source) is None:
        check_apart(output, Path(arguments.source))
    with layout_folder(output, arguments.overwrite, "kind", PARTS) as staged:
        counts = _write(arguments, staged)
        about = {"kind": arguments.kind, "source": arguments.source, "seed": arguments.seed, "counts": counts}
        write_json(staged / SUMMARY, about)
    print(f"{output}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}")
    return 0


def _write(arguments: argparse.Namespace, folder: Path) -> dict[str, int]:
    if arguments.drawn:
        generated = read_set_name(arguments.source)
        assert generated is not None  # checked by the parser
        options = arguments.distractors, arguments.embedding_size, arguments.dtype, arguments.seed
        return write_drawn_megaface(folder, generated.people, generated.images, *options)
    faces = AlignedFaces(arguments.source, arguments.image_size, arguments.seed)
    split = split_people(faces.labels, arguments.strangers, arguments.seed, arguments.source)
    return LAYOUTS[arguments.kind](Layout(folder, faces, split, arguments.probe_size))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd data make-protocol",
        description="Lays out faces of people as SurvFace, TinyFace, MegaFace, IJB-S, masked pairs or XQLFW.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # What is laid out, and where.
    add("kind", choices=tuple(LAYOUTS), help="the layout")
    add("source", help="a folder with one folder of aligned images per person, a record pack, or "
        "synthetic:PEOPLExIMAGES[:SEED]")  # fmt: skip
    add("output", type=Path, help="folder to write to, new or empty")
    add(
        "--strangers",
        type=real_number(0, 0.9),
        default=0.25,
        metavar="F",
        help="share of the people who are strangers (default %(default)s)",
    )
    # How large images are.
    add("--image-size", type=whole_number(MIN_SIZE, 8192), default=112, metavar="PX", help="side of a generated face "
        "(default %(default)s)")  # fmt: skip
    add("--probe-size", type=whole_number(8, 1024), default=24, metavar="PX", help="side of small or poor faces "
        "(default %(default)s)")  # fmt: skip
    # Embeddings in place of images.
    add("--drawn", action="store_true", help="megaface: draw embeddings in place of images")
    add("--distractors", type=COUNT, default=1_000_000, metavar="N", help="with --drawn (default: 1,000,000)")
    add("--embedding-size", type=whole_number(2, 65_536), default=128, metavar="D", help="with --drawn (default: 128)")
    add("--dtype", choices=("float32", "float16"), default="float16", help="with --drawn (default: float16)")
    add("--seed", type=SEED, default=0, help="random seed (default %(default)s)")
    add("--overwrite", action="store_true", help="replace a layout that this command wrote there")
    arguments = parser.parse_args(argv)
    if arguments.drawn and (arguments.kind != "megaface" or read_set_name(arguments.source) is None):
        parser.error("--drawn draws embeddings of megaface: give synthetic:PEOPLExIMAGES, the probes")
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
