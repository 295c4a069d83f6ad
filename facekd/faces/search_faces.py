"""Verb `facekd search`: finds the people of photographs in a gallery that `facekd embed` has made."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import THREADS, CommandParser, whole_number
from facekd.commands.places import claimed_files, mark_of_format
from facekd.embedder.model_options import MODEL_HELP, add_model_options
from facekd.errors import ConfigError, DataError, run_verb
from facekd.faces.decisions import add_decision_options, how_to_measure, read_decision
from facekd.faces.options import add_face_options
from facekd.utils.foreign import shown
from facekd.utils.processes.children import usable_cores
from facekd.utils.wording import agreeing, counted

if TYPE_CHECKING:  # OpenCV and onnxruntime take time to load: `--help` does without
    from facekd.embedder import Embedder
    from facekd.faces.finding import FaceFinder
    from facekd.faces.search.results import SearchResults

MAX_PRINTED = 20  # probes on the terminal
# What its own files begin with: JSON, CSV and pages.
MARKS = (
    mark_of_format("facekd-search"),
    b"probe,left,top,right,bottom,rank,",
    b'name="generator" content="facekd search"',
)


def main(argv: list[str] | None = None) -> int:
    """Searches, prints and perhaps writes; returns the exit status, 0 whether anybody is found or not."""
    arguments = _parser().parse_intermixed_args(argv)
    output: Path | None = arguments.output
    if output is not None and output.suffix.lower() not in (".json", ".csv"):
        raise DataError(f"{output}: results are written as .json or .csv; give a name that ends so")
    if arguments.images_root and arguments.page is None:
        raise ConfigError("--images-root says which images the page may show: give --page FILE, too")
    for root in arguments.images_root:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; --images-root takes one with the images that galleries name")
    sources = [Path(word) for word in (*arguments.probes, arguments.gallery) if word != "-"]
    with claimed_files([output, arguments.page], sources, "facekd search", MARKS):
        model: dict[str, Any] = {}  # described once it is opened
        results = _search(arguments, model)
        _print(arguments, results)
        _write(arguments, argv, results, model)
    return 0


def _search(arguments: argparse.Namespace, model: dict[str, Any]) -> SearchResults:
    """Reads the gallery, embeds the probes, and compares them; fills in what model embedded them."""
    from facekd.faces.gallery import read_gallery
    from facekd.faces.search.nearest import find_nearest
    from facekd.faces.search.probes import collect_probes
    from facekd.faces.search.results import SearchResults

    # Whatever does not fit is said before anything is embedded.
    path = Path(arguments.gallery)
    gallery, decision = read_gallery(path), read_decision(arguments)
    if decision is not None and decision.measured is not None:
        origin = gallery.origin
        about = {"fingerprint": origin.fingerprint, "preprocessing": asdict(origin.preprocessing)}
        decision.measured.check_settings(about, origin.flip, f"the faces of {path}")

    def open_model() -> tuple[Embedder, FaceFinder]:
        from facekd.embedder.described_model import open_described_model
        from facekd.faces.options import open_finder
        from facekd.images.decoding import quiet_decoders

        if arguments.model is None:
            raise ConfigError("--model is needed to embed the probes (galleries alone need none)")
        embedder, description = open_described_model(arguments.model, arguments, resize=False)
        model.update(description)
        quiet_decoders()
        return embedder, open_finder(arguments, embedder.preprocessing.image_size)

    probes = collect_probes(arguments.probes, gallery, path, open_model, arguments.workers)
    people = gallery.people if arguments.best_of == "person" else None
    nearest = find_nearest(probes.faces.embeddings, gallery.embeddings, arguments.top, people)
    return SearchResults(gallery, path, probes, nearest, decision, people is not None)


def _print(arguments: argparse.Namespace, results: SearchResults) -> None:
    """Prints the first matches, and what is known of the threshold."""
    from facekd.faces.choosing import ONE_OF_SEVERAL
    from facekd.utils.terminal import console

    results.table(MAX_PRINTED).print(console())
    if (num_more := len(results) - MAX_PRINTED) > 0:
        print(f"and {counted(num_more, 'more face')}; --output and --page have {agreeing(num_more, 'it', 'them')}")
    print()
    for sentence in results.sentences():
        print(sentence)
    if results.decision is None:
        origin = results.gallery.origin
        print(how_to_measure(arguments.model or origin.model, origin.flip), file=sys.stderr)
    if (several := results.probes.several) and (one := ONE_OF_SEVERAL.get(arguments.faces)):
        print(
            f"note: several faces on {counted(len(several), 'image')}, the first {shown(several[0])}; of each the "
            f"{one} was searched for, --faces all takes each",
            file=sys.stderr,
        )
    for one in results.probes.without[:MAX_PRINTED]:
        print(f"warning: {one.describe()}", file=sys.stderr)
    if len(results.probes.without) > MAX_PRINTED:
        print(f"warning: {counted(len(results.probes.without), 'image')} in all have no face", file=sys.stderr)


def _write(
    arguments: argparse.Namespace, argv: list[str] | None, results: SearchResults, model: dict[str, Any]
) -> None:
    """Writes the files that were asked for."""
    from facekd.faces.json_entries import command_entry, detector_entry
    from facekd.faces.search.page import write_search_page
    from facekd.files.writing import write_json

    output: Path | None = arguments.output
    if output is not None and output.suffix.lower() == ".csv":
        results.write_csv(output)
    elif output is not None:
        about = {
            "model": model or None,
            "origin": asdict(results.gallery.origin),
            "detector": detector_entry(arguments),
        }
        write_json(output, {**results.as_json(), **about, **command_entry("search", argv)})
    left_out = None
    if arguments.page is not None:
        title = f"Search in {results.path.name}"
        left_out = write_search_page(arguments.page, results, title, arguments.images_root)
    written = [str(path) for path in (output, arguments.page) if path is not None]
    if written:
        print(f"written to {' and '.join(written)}")
    if left_out is not None:
        print(f"note: {left_out}", file=sys.stderr)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="facekd search",
        description="Finds the people of photographs in a gallery: the nearest faces to each, and who is near enough.",
        example="examples:\n"
        "  facekd embed PHOTOS --model model.onnx --detector scrfd.onnx --output faces.npz\n"
        "  facekd search WHO.jpg --gallery faces.npz --model model.onnx --detector scrfd.onnx --page search.html\n\n"
        "  with the threshold that an evaluation of this model measured; whoever does not reach it is nobody there:\n"
        "  facekd evaluate folder --model model.onnx --images PEOPLE --no-flip --output runs/people\n"
        "  facekd search FOLDER --gallery faces.npz --model model.onnx --detector scrfd.onnx \\\n"
        "      --thresholds runs/people --far 1e-4 --output search.csv\n\n"
        "  facekd search probes.npz --gallery faces.npz --top 10 --output search.json\n\n"
        "The more faces a gallery holds, the more strangers are taken for somebody; how many is printed. Probes are\n"
        "embedded as the gallery was, with or without the mirror image; a gallery of another model is refused.",
    )
    add = parser.add_argument
    # What is searched for, and in what.
    add("probes", nargs="+", metavar="PROBE", help="photographs, folders of them, record packs (.rec), verification "
        "packs, - for paths on standard input, or other galleries (.npz)")  # fmt: skip
    add("--gallery", required=True, metavar="FILE", help="the gallery, as `facekd embed` has written it")
    add("--model", metavar="FILE", help=f"what has embedded the gallery: {MODEL_HELP}")
    add("--top", type=whole_number(1, 1000), default=5, metavar="K", help="how many matches to list (default: 5)")
    add(
        "--best-of",
        choices=("person", "face"),
        default="person",
        help="list each person once, with the nearest of their faces (default), or faces whosever they are",
    )
    # Where the results go.
    add("--output", type=Path, metavar="FILE", help="write all matches, as .json or .csv")
    add("--page", type=Path, metavar="FILE", help="write a page with the faces, such as search.html")
    add(
        "--images-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="on the page, also show images below this folder; without it, of those that galleries name only what lies "
        "below their own folders or the current one; may be given several times",
    )
    add("--workers", type=THREADS, default=usable_cores(), metavar="N", help="threads that read, decode and find faces "
        "(default: all cores)")  # fmt: skip
    add_decision_options(parser)
    add_face_options(parser)
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
