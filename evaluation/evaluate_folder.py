"""Verb `facekd evaluate folder`: evaluates a model on aligned faces of people, by all pairs or by identification.

All pairs are those of a folder, of a pack of records or of a generated set. Identification is closed-set, as in
TinyFace. Also `python evaluation/evaluate_folder.py`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.groups.all_pairs_errors import AllPairsErrors
from evaluation.groups.group_file import GroupFile, Membership, join_groups, read_groups
from evaluation.groups.measuring import add_groups_option, describe_groups, measure_all_pairs, measure_listed
from evaluation.groups.page import print_groups
from evaluation.result_files import check_output, lock_output, make_result, start_evaluation, write_arrays
from evaluation.results.page import write_report
from evaluation.results.tables import rank_table, summary_of, verification_table
from evaluation.results.terminal import print_quality
from evaluation.results.transferred import (
    add_transfer_option,
    describe_transferred,
    read_transferred,
    transferred_table,
)
from evaluation.sets.all_pairs import AllPairs
from evaluation.sets.cohort import add_norm_options, check_norm_options, read_normaliser
from evaluation.sets.face_folder import FaceFolder
from evaluation.sets.folder_embeddings import FolderModel, GivenFolder, measure_pair_quality
from evaluation.sets.labelled_faces import LabelledFaces, digest_of_set, is_generated, is_labelled_set
from evaluation.sets.normalised_pairs import NormalisedPairs
from evaluation.sets.qualities import (
    DETECTOR,
    MODEL,
    NORM,
    Source,
    add_quality_option,
    read_quality,
    refuse_quality_of_model,
)
from evaluation.shared_options import (
    DEFAULT_FARS,
    add_cache_switch,
    add_flip_option,
    add_halves_option,
    add_metric_options,
    add_model_option,
    add_output_option,
    add_report_switch,
    check_halves_option,
    check_metric_options,
    embedding_text,
    refuse_preprocessing,
    rule_text,
)
from facekd.commands.command_line import COUNT, CommandParser, comma_separated, whole_number
from facekd.embedder.model_options import add_model_options
from facekd.errors import DataError, InputError, run_verb
from facekd.files.result_folder import finish_results
from facekd.pages.embedding_map import MOST_PEOPLE, lay_out_people
from facekd.results.schema import FOLDER_FORMAT
from facekd.utils.foreign import shown
from facekd.utils.terminal import console, say
from facekd.utils.wording import agreeing, counted
from facekd.verification.intervals.proportions import wilson_interval
from facekd.verification.measures import (
    add_intervals,
    add_intervals_of_all_pairs,
    measure_verification,
    verification_curves,
)
from facekd.verification.ranked_scores import RankedScores
from facekd.verification.scores import unit_rows
from facekd.verification.search.block_search import HeldRows, search

RESULT_VERSION = 1
MAX_PAIRS = 250_000_000  # 22,000 images; every pair costs time, and the highest impostors memory
ROWS_ARE = "one for each image: records in their order, files person by person in the order of their names"
DEFAULT_RANKS = (1, 5, 10, 20)
OF_SOURCE = (NORM, DETECTOR, MODEL)  # qualities that come with the embeddings
EXAMPLE = """\
examples:
  all pairs of the images of a folder, PEOPLE/PERSON/*.jpg:
  facekd evaluate folder --model model.onnx --images PEOPLE --output runs/people

  all pairs of the images of a pack of records, or of 1,000 generated people of 20 images (population 7):
  facekd evaluate folder --model model.onnx --images PACK --output runs/pack
  facekd evaluate folder --model model.onnx --images synthetic:1000x20:7 --output runs/generated

  closed-set identification: gallery/ and probe/ with a folder per person or PERSON_NUMBER.jpg, and distractors/:
  facekd evaluate folder --model model.onnx --images TINYFACE --resize --output runs/tinyface

  embeddings made elsewhere, as np.savez("people.npz", names=["PERSON/1.jpg", ...], embeddings=...) writes them:
  facekd evaluate folder --embeddings people.npz --images PEOPLE --output runs/elsewhere

A folder with gallery/ and probe/ is evaluated by identification, all else by all pairs. Faces must be aligned
(`facekd data align`); --resize enlarges small ones. Third-party models are evaluated the same way; pass their
preprocessing as flags. If there are too few impostor pairs for a FAR, the report says so instead of printing a number.

writes to DIR:
  results.json         every number (its keys: docs/results.md)
  curves.npz           the ROC
  draws.npz            EER and TAR in each draw of the bootstrap, from which `facekd study` makes its intervals
  report.html, report.md, results.csv      `facekd report DIR` makes them again
  groups.html          with --groups: error rates by group
  embeddings/          another run does not need the model again
"""


def main(argv: list[str] | None = None) -> int:
    """Parses and evaluates."""
    arguments = parse(argv)
    with lock_output(Path(arguments.output), arguments=arguments):
        return _evaluate(arguments, argv, Path(arguments.output))


def _evaluate(arguments: argparse.Namespace, argv: list[str] | None, output: Path) -> int:
    """Lists the images, embeds, compares, writes and prints."""
    root = Path(arguments.images)
    is_pack = is_labelled_set(arguments.images)
    if not is_pack and not root.is_dir():
        raise DataError(f"{root}: {'is a file' if root.exists() else 'no such folder'}; expected one of aligned faces")
    if is_pack and arguments.embeddings is not None:
        raise DataError(f"{root}: --embeddings go by the names of files, and a pack has none; give a folder of images")
    check_output(output)
    is_search = not is_pack and (root / "gallery").is_dir() and (root / "probe").is_dir()
    source = FolderModel(arguments) if arguments.embeddings is None else GivenFolder(arguments)
    given = {
        "--groups": arguments.groups,
        "--thresholds-from": arguments.thresholds_from,
        "--score-norm": arguments.score_norm,
        "--quality": arguments.quality,
        "--map": arguments.map,
        "--fars": arguments.fars != DEFAULT_FARS,
    }
    if is_search and (asked := [option for option, value in given.items() if value]):
        raise DataError(f"{root}: {asked[0]} is about all pairs, and a folder with gallery/ and probe/ is searched")
    if not is_search and arguments.ranks is not None:
        raise DataError(f"{root}: --ranks is about a search, which a folder with gallery/ and probe/ is for")
    folders = _Folders(arguments, source, is_search)

    # Measure.
    if is_search:
        found, curves, draws = _identify(root, folders.embed, arguments.ranks or DEFAULT_RANKS), {}, {}
        how = "a probe counts at the rank of its person's best image"
        text = f"closed-set identification, cosine of {embedding_text(source.flip)}; {how}"
    else:
        found, curves, draws = _verify(*folders.embed(root), arguments, folders)
        text = f"all pairs, cosine of {embedding_text(source.flip)}, {rule_text('exact')}"

    # Write, then print the same.
    content = {
        **source.entries,
        "images": arguments.images if is_generated(arguments.images) else str(root.resolve()),
        "protocol": {"text": text, "kind": "identification" if is_search else "all pairs", "flip": source.flip},
        **found,
        "notes": folders.notes,
    }
    if folders.normaliser is not None:
        folders.normaliser.describe(content)
    result = make_result(FOLDER_FORMAT, RESULT_VERSION, content, "evaluate folder", argv)
    start_evaluation(output)
    write_arrays(output, curves=curves, draws=draws)
    if arguments.report:
        write_report(output, result)
    finish_results(output, result)
    _print(result, root.name)
    print(f"written to {arguments.output}")
    return 0


class _Folders:
    """Lists and embeds folders of faces, and collects what is to be noted about them.

    Attributes:
        notes: sentences.
        quality: with `--quality` the qualities (N,) of the images that were embedded last, and where they are from.
    """

    def __init__(self, arguments: argparse.Namespace, source: FolderModel | GivenFolder, is_search: bool) -> None:
        self.notes: list[str] = []
        self.quality: tuple[np.ndarray, Source] | None = None
        self._arguments = arguments
        self._source = source
        self._is_search = is_search
        self.thresholds = read_transferred(arguments)
        if self.thresholds is not None:
            self.thresholds.check_settings(source.entries["model"], source.flip, "the faces of this set")
        self.normaliser = read_normaliser(arguments)
        if self.normaliser is not None:
            self.normaliser.check(source.entries["model"], source.flip)
        self._group_file = read_groups(arguments.groups) if arguments.groups else None
        self.groups: tuple[GroupFile, list[Membership]] | None = None
        self._first_with: dict[bytes, tuple[str | int, str]] = {}  # person and image, by a digest of the embedding

    def embed(self, folder: Path, nobody: bool = False) -> tuple[FaceFolder | LabelledFaces, np.ndarray]:
        """Returns the images of a folder or pack and their embeddings, float64 (N, D) of unit length."""
        arguments, size = self._arguments, self._source.image_size
        if is_labelled_set(arguments.images):
            faces = LabelledFaces(arguments.images, size, arguments.resize, arguments.images_per_person)
        else:
            faces = FaceFolder(folder, size, arguments.resize, arguments.images_per_person, nobody)
        self.notes.extend(f"{folder}: {warning}" for warning in faces.warnings)
        if not self._is_search and len(faces) * (len(faces) - 1) // 2 > MAX_PAIRS:
            raise DataError(
                f"{folder}: {counted(len(faces), 'image')} make more than {MAX_PAIRS:,} pairs; --images-per-person "
                "takes fewer"
            )
        if self._group_file is not None:  # before the model runs: most mistakes show here
            self.groups = self._group_file, join_groups(self._group_file, _names_of(faces), faces.people, str(folder))
        if self.normaliser is not None:
            self.normaliser.check_people(map(str, faces.people.tolist()), folder.name)
        kind = arguments.quality
        if kind not in (None, *OF_SOURCE):
            self.quality = read_quality(kind, len(faces), ROWS_ARE)
        embeddings = self._source.embed(faces, folder)
        if kind in OF_SOURCE:
            self.quality = self._source.quality(kind, faces, embeddings), {"kind": kind}
        self._compare_rows(faces, embeddings)
        return faces, unit_rows(embeddings.astype(np.float64), lambda rows: _no_direction(rows, faces))

    def _compare_rows(self, faces: FaceFolder | LabelledFaces, embeddings: np.ndarray) -> None:
        """Notes images whose embedding equals that of an earlier one: the same photograph, mostly."""
        equal: dict[bool, list[str]] = {True: [], False: []}
        for number, (person, row) in enumerate(zip(faces.people.tolist(), embeddings, strict=True)):
            digest, place = hashlib.sha256(row.tobytes()).digest(), faces.describe(number)
            other, first = self._first_with.setdefault(digest, (person, place))
            if first != place:
                equal[person == other].append(f"{place} as {first}")
        for is_same, found in equal.items():
            if not found:
                continue
            what, why = (
                ("another image of the same person", "any model accepts such a pair")
                if is_same
                else (
                    "an image of somebody else",
                    "one photograph under two names, or a model that tells nothing apart",
                )
            )
            self.notes.append(
                f"images embedded exactly as {what}: {len(found):,}, the first {shown(found[0], 400)}; {why}"
            )


def _print(result: dict[str, Any], name: str) -> None:
    say(console(), f": {result['protocol']['text']}\n{summary_of(result)}", bold=f"\n{shown(name)}")
    table = rank_table(result) or verification_table(result)
    table.print(console())
    if (transferred := transferred_table(result)) is not None:
        transferred.print(console())
    if result.get("groups"):
        print_groups(result, console())
    print_quality(result, console())
    for note in result["notes"]:
        say(console(), f"warning: {note}")


def _verify(
    faces: LabelledFaces | FaceFolder,
    embeddings: np.ndarray,
    arguments: argparse.Namespace,
    folders: _Folders,
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compares all pairs: returns what results.json says of them, the curves, and the draws of the bootstrap."""
    num_people, num_images = len(np.unique(faces.people)), len(faces)
    if num_people in (1, num_images):
        kind = "one person" if num_people == 1 else "one image of each person"
        raise DataError(
            f"{arguments.images}: holds {kind}; pairs of one and of two people are needed, so at least two people, one "
            "of them with two images"
        )
    set_entries = {
        "num_images": num_images,
        "num_people": num_people,
        "set_sha256": digest_of_set(faces),
    }
    try:
        measure = _measure_cosines if folders.normaliser is None else _measure_normalised
        found, ranked, draws = measure(faces.people, embeddings, arguments, folders)
    except InputError as error:
        raise DataError(f"{arguments.images}: {error}") from error
    set_entries["num_impostor_people_pairs"] = num_people * (num_people - 1) // 2
    curves = verification_curves(ranked)
    if arguments.map:
        layout = lay_out_people(embeddings, faces.people, arguments.map, arguments.seed)
        found["map"] = {"people": layout.people, "num_images": len(layout.person)}
        curves |= layout.arrays()
    return {**set_entries, **found}, curves, draws


def _measure_cosines(
    people: np.ndarray, embeddings: np.ndarray, arguments: argparse.Namespace, folders: _Folders
) -> tuple[dict[str, Any], RankedScores, dict[str, np.ndarray]]:
    """Measures all pairs by their cosines, of which most are only counted."""
    pairs = AllPairs(embeddings, people, arguments.fars)
    found: dict[str, Any] = {"num_genuine_people": pairs.num_genuine_people}
    found.update(measure_verification(pairs.ranked, arguments.fars, "exact"))
    options = arguments.bootstrap, arguments.seed
    draws = add_intervals_of_all_pairs(found, pairs.ranked, pairs, pairs.num_genuine_people, *options)
    if folders.thresholds is not None:
        found["transferred"] = describe_transferred(folders.thresholds, AllPairsErrors(pairs), *options)
    if folders.groups is not None:
        measure = measure_all_pairs(pairs, embeddings, arguments.fars, *options)
        found["groups"] = describe_groups(*folders.groups, people, measure, found["tar_at_far"], *options)
    found["quality"] = None
    if folders.quality is not None:
        found["quality"] = measure_pair_quality(pairs, *folders.quality, found["tar_at_far"], *options)
    return found, pairs.ranked, draws


def _measure_normalised(
    people: np.ndarray, embeddings: np.ndarray, arguments: argparse.Namespace, folders: _Folders
) -> tuple[dict[str, Any], RankedScores, dict[str, np.ndarray]]:
    """Measures all pairs by their normalised scores, which are all listed."""
    assert folders.normaliser is not None
    pairs = NormalisedPairs(embeddings, people, folders.normaliser)
    found: dict[str, Any] = {"num_genuine_people": pairs.num_genuine_people, "quality": None}
    found.update(measure_verification(pairs.ranked, arguments.fars, "exact"))
    options, subjects = (arguments.bootstrap, arguments.seed), pairs.sides(pairs.people)
    if arguments.bootstrap:
        add_intervals(found, pairs.ranked, pairs.scores, pairs.is_same, subjects, *options)
    if folders.groups is not None:
        measure = measure_listed(pairs.scores, pairs.is_same, subjects, pairs.sides, arguments.fars, "exact", *options)
        found["groups"] = describe_groups(*folders.groups, people, measure, found["tar_at_far"], *options)
    return found, pairs.ranked, {}


def _names_of(faces: LabelledFaces | FaceFolder) -> dict[str, list[str]]:
    """Returns the names that groups may go by: people, and the files of a folder."""
    names = {"person": [str(person) for person in faces.people.tolist()]}
    return {**names, "image": faces.files} if isinstance(faces, FaceFolder) else names


def _identify(root: Path, embed: Any, ranks: Sequence[int]) -> dict[str, Any]:
    gallery, gallery_embeddings = embed(root / "gallery")
    probes, probe_embeddings = embed(root / "probe")
    people = gallery.people.tolist()
    distractors = None
    if (root / "distractors").is_dir():
        distractors = HeldRows(embed(root / "distractors", nobody=True)[1])
    lacking = sorted(set(probes.people.tolist()) - set(people))
    if lacking:
        raise DataError(
            f"{root}: {counted(len(lacking), 'person of probe/ is', 'people of probe/ are')} not in gallery/, the "
            f"first {lacking[0]}; in closed-set identification everybody is: move them, or add their gallery images"
        )
    result = search(probe_embeddings, probes.people, gallery_embeddings, gallery.people, distractors, root.name)
    hits = [int((result.mate_ranks <= rank).sum()) for rank in ranks]
    return {
        "num_gallery": len(gallery),
        "num_people": len(np.unique(gallery.people)),
        "num_distractors": 0 if distractors is None else len(distractors),
        "num_probes": len(probes),
        "rank": [
            {"rank": rank, "rate": count / len(probes), "ci95": list(wilson_interval(count, len(probes)))}
            for rank, count in zip(ranks, hits, strict=True)
        ],
    }


def _no_direction(rows: np.ndarray, faces: FaceFolder | LabelledFaces) -> DataError:
    return DataError(
        f"{faces.describe(int(rows[0]))}: its embedding has no direction (all zeros, or not finite), as "
        f"{agreeing(rows.size - 1, 'has', 'have')} {rows.size - 1:,} more: the model is broken or its preprocessing "
        "wrong"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; ends with a message where it is wrong."""
    parser = CommandParser(
        prog="facekd evaluate folder",
        allow_abbrev=False,  # otherwise a typo in a study could pass as the short form of an option
        description="Evaluates a model on aligned faces of people: all pairs, or identification (gallery/, probe/).",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # What to evaluate, on what, and where the results go.
    source = parser.add_mutually_exclusive_group(required=True)
    add_model_option(source, required=False)
    source.add_argument(
        "--embeddings",
        metavar="X.npz",
        help="or embeddings made elsewhere: `names`, the files below --images, and `embeddings`, (N, D), or (N, 2D) "
        "with those of the mirror images in the second half",
    )
    add("--images", required=True, metavar="DIR|PACK", help="aligned faces: a folder, a pack of records (a .rec or "
        "its folder), or synthetic:PEOPLExIMAGES:SEED")  # fmt: skip
    add_output_option(parser)
    add_flip_option(parser)
    add_halves_option(parser)
    add("--images-per-person", type=COUNT, metavar="N", help="take the first N images of each person (default: all)")
    add(
        "--ranks",
        type=comma_separated(COUNT, "1,5,10"),
        metavar="N,N",
        help="ranks of a search to report (default: 1,5,10,20)",
    )
    add_metric_options(parser)
    add_transfer_option(parser)
    add_norm_options(parser)
    add_groups_option(parser, "person or image")
    add_quality_option(parser, ROWS_ARE, "scores that `facekd embed` has kept in --embeddings")
    add_report_switch(parser)
    add("--map", type=whole_number(2, MOST_PEOPLE), metavar="N", help="draw where the images of N people lie, those "
        f"with the most images (t-SNE; at most {MOST_PEOPLE})")  # fmt: skip
    add_cache_switch(parser)
    add_model_options(parser)
    parser.set_defaults(flip=None)  # with given embeddings: add those of the mirror images if there are any
    arguments = parser.parse_args(argv)
    check_halves_option(parser, arguments, arguments.embeddings is not None)
    refuse_quality_of_model(parser, arguments.quality, arguments.embeddings is None)
    if arguments.embeddings is not None:
        refuse_preprocessing(parser, arguments)
    check_metric_options(parser, arguments)
    check_norm_options(parser, arguments)
    if arguments.score_norm is not None and arguments.quality is not None:
        parser.error("--quality is about cosines, and --score-norm makes other scores: leave one out")
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
