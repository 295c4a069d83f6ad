"""Verb `facekd evaluate lfw`: evaluates a model on verification packs (.bin): accuracy, EER, AUC and TAR@FAR.

Also `python evaluation/evaluate_lfw.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.groups.measuring import add_groups_option
from evaluation.groups.pack_groups import PackGroups, read_pack_groups
from evaluation.groups.page import print_groups, write_groups_page
from evaluation.groups.race_layouts import is_race_layout, load_race_layout
from evaluation.provenance import name_with_assumptions
from evaluation.result_files import check_output, lock_output, make_result, start_evaluation, write_arrays
from evaluation.results.figures import ScoredPairs, draw_pair_sets
from evaluation.results.hardest_pairs import draw_hardest_pairs
from evaluation.results.pack_names import PACK_NAMES
from evaluation.results.page import name_of, write_report
from evaluation.results.quality import draw_quality
from evaluation.results.summary_page import write_summary_page
from evaluation.results.terminal import accuracy_table, print_lfw_results
from evaluation.results.transferred import (
    add_transfer_option,
    describe_transferred,
    read_transferred,
    transferred_table,
)
from evaluation.sets.cohort import add_norm_options, check_norm_options, read_normaliser
from evaluation.sets.embedding_cache import embed_pair_set
from evaluation.sets.given_embeddings import read_embeddings_of_pack
from evaluation.sets.pack_quality import Quality, ask_model, measure_pack_quality, read_pack_qualities
from evaluation.sets.pair_set import PairSet, load_pair_set
from evaluation.sets.qualities import MODEL, NORM, add_quality_option, refuse_quality_of_model
from evaluation.shared_options import (
    add_cache_switch,
    add_flip_option,
    add_folds_option,
    add_halves_option,
    add_metric_options,
    add_model_option,
    add_output_option,
    add_report_switch,
    add_rule_option,
    check_halves_option,
    check_metric_options,
    embedding_text,
    refuse_preprocessing,
    rule_text,
)
from facekd.commands.command_line import CommandParser
from facekd.embedder.described_model import open_described_model
from facekd.embedder.model_options import add_model_options
from facekd.embedder.quality import QualityEmbedder
from facekd.errors import FacekdError, run_verb
from facekd.files.result_folder import finish_results
from facekd.files.writing import write_text
from facekd.pages.figures import save_figure
from facekd.results.schema import LFW_FORMAT, SUMMARY_FORMAT
from facekd.utils.foreign import some_of
from facekd.utils.terminal import console, say
from facekd.utils.wording import counted
from facekd.verification.groups.cell_rates import ListedErrors
from facekd.verification.measures import LFW_FARS, measure_pairs

Entries = dict[str, Any]  # of results.json
Embedded = tuple[np.ndarray, bool, Entries]  # embeddings, whether those of mirror images are added, more entries
RESULT_VERSION = 1
BALANCED = "balanced folds (genuine and impostor pairs each cut into contiguous parts)"
EXAMPLE = """\
example:
  facekd evaluate lfw --model model.onnx --pairs lfw.bin --output runs/lfw

  the five usual packs in one folder, with the table that papers print (table.md):
  facekd evaluate lfw --model model.onnx --pairs packs/ --output runs/five

  a third-party model, evaluated the same way: pass its preprocessing as flags
  facekd evaluate lfw --model other.onnx --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --color rgb \\
      --no-flip --pairs lfw.bin --names lfw_pairs.txt --output runs/other

  embeddings made elsewhere, rows in the order of the images of the pack:
  facekd evaluate lfw --embeddings lfw.npy --pairs lfw.bin --output runs/elsewhere

If there are too few impostor pairs for a FAR, the report says so instead of printing a number.

writes to DIR:
  results.json         every number (its keys: docs/results.md)
  scores.npy           one cosine per pair
  roc.png, hardest_pairs.png, and with --quality quality.png
  groups.html          with --groups: error rates by group
  report.html, report.md, results.csv      `facekd report DIR` makes them again
  embeddings/          another run with other folds, FARs or rule does not need the model again
With several packs, each has its own folder DIR/NAME, and DIR holds the summary, table.md and its page.
"""


def main(argv: list[str] | None = None) -> int:
    """Parses and evaluates."""
    arguments = parse(argv)
    with lock_output(Path(arguments.output), arguments=arguments):
        return _evaluate(arguments, argv, Path(arguments.output))


def _evaluate(arguments: argparse.Namespace, argv: list[str] | None, output: Path) -> int:
    """Loads the packs, embeds, scores, writes and prints."""
    pair_sets = _load_pair_sets(arguments)  # before the model: it takes seconds, and most mistakes show here
    groups = read_pack_groups(arguments.groups, pair_sets)
    normaliser = read_normaliser(arguments)
    check_output(output, [pair_set.name for pair_set in pair_sets] if len(pair_sets) > 1 else ())
    given = read_pack_qualities(arguments, pair_sets)
    thresholds = read_transferred(arguments)
    embed, ask, source = _open_source(arguments, output)
    if thresholds is not None:
        thresholds.check_settings(source["model"], arguments.flip is not False, "these packs")
    if normaliser is not None:
        for pair_set in pair_sets:
            normaliser.check_people(None if pair_set.subjects is None else pair_set.subjects.flat, pair_set.name)
    title = source["model"] and name_with_assumptions(Path(arguments.model).name, source["model"])

    # Each pack on its own.
    scored: list[ScoredPairs] = []
    for number, pair_set in enumerate(pair_sets):
        embeddings, flip, about = embed(number, pair_set)
        scores = pair_set.cosines(embeddings)
        if normaliser is not None:
            normaliser.check(source["model"], flip)
            scores = normaliser.apply(scores, embeddings, pair_set.places[0::2], pair_set.places[1::2])
        measured = _measure(arguments, pair_set, scores, flip, groups[number])
        if thresholds is not None:
            people = None if pair_set.subjects is None else (pair_set.subjects[:, 0], pair_set.subjects[:, 1])
            errors = ListedErrors(scores, pair_set.is_same, people)
            measured["transferred"] = describe_transferred(thresholds, errors, arguments.bootstrap, arguments.seed)
        points = measured["tar_at_far"]
        found = given[number] or ask(pair_set)
        quality = measure_pack_quality(arguments, pair_set, found, embeddings, scores, points)
        content = {**source, **about, **measured, "quality": quality}
        if normaliser is not None:
            normaliser.describe(content)
        result = make_result(LFW_FORMAT, RESULT_VERSION, content, "evaluate lfw", argv)
        one = ScoredPairs(pair_set.name, scores, pair_set.is_same, result)
        # Earlier results stay until the first new ones are there.
        if not scored and len(pair_sets) > 1:
            start_evaluation(output, [other.name for other in pair_sets])
        folder = output if len(pair_sets) == 1 else output / pair_set.name
        named = (title or name_of(result)) if arguments.pictures else None
        _write(folder, pair_set, one, named, arguments.report)
        print_lfw_results(result, pair_set.name, result["protocol"]["text"])
        if (transferred := transferred_table(result)) is not None:
            say(console(), transferred.to_text())
        if result.get("groups"):
            print_groups(result, console())
        scored.append(one)

    # All packs together.
    if len(pair_sets) > 1:
        _write_summary(output, scored, arguments, title or "embeddings made elsewhere")
    print(f"\nwritten to {output}")
    return 0


def _open_source(
    arguments: argparse.Namespace, output: Path
) -> tuple[Callable[[int, PairSet], Embedded], Callable[[PairSet], Quality | None], Entries]:
    """Opens the model, or nothing where embeddings are given.

    Returns:
        A function that embeds a pack, given by its number and itself; one that asks the model how good a pack's images
        are, if it is to be asked; and the entries of every results.json.
    """
    if arguments.given:
        return lambda number, pair_set: _read_given(arguments, number, pair_set), lambda _: None, {"model": None}
    embedder, model = open_described_model(arguments.model, arguments)
    cache = None if not arguments.cache else arguments.embeddings or output / "embeddings"
    flip = arguments.flip is not False
    scorer = QualityEmbedder(embedder, arguments.model) if arguments.quality == [MODEL] else None

    def embed(number: int, pair_set: PairSet) -> Embedded:
        return embed_pair_set(embedder, pair_set.embedded, flip, cache), flip, {"embeddings": None}

    return embed, lambda pair_set: ask_model(scorer, pair_set, cache), {"model": model}


def _read_given(arguments: argparse.Namespace, number: int, pair_set: PairSet) -> Embedded:
    given = read_embeddings_of_pack(arguments.given[number], arguments.embeddings_flipped, len(pair_set.images))
    return *given.compared(arguments.flip), {"embeddings": given.about}


def _measure(
    arguments: argparse.Namespace,
    pair_set: PairSet,
    scores: np.ndarray,
    flip: bool,
    groups: PackGroups | None,
) -> Entries:
    """Returns what a pack's results.json says of the pack and its scores."""
    measured = measure_pairs(
        scores,
        pair_set.is_same,
        pair_set.fold_of,
        arguments.fars,
        arguments.rule,
        pair_set.subjects,
        arguments.bootstrap,
        arguments.seed,
    )
    if groups is not None:
        options = arguments.fars, arguments.rule, arguments.bootstrap, arguments.seed
        measured["groups"] = groups.measure(scores, measured["tar_at_far"], *options)
    about = {"pair_set": _describe_pair_set(pair_set), "protocol": _describe_protocol(arguments, pair_set, flip)}
    return {**about, **measured, "notes": list(pair_set.warnings)}


def _write_summary(output: Path, scored: list[ScoredPairs], arguments: argparse.Namespace, name: str) -> None:
    """Writes and prints what several packs give together: roc.png, table.md, report.html, results.json."""
    if arguments.pictures:
        draw_pair_sets(output / "roc.png", scored, name)
    results = [one.result for one in scored]
    table = accuracy_table(results, name)
    write_text(output / "table.md", table.to_markdown())
    if arguments.report:
        write_summary_page(output, results)
    summary = {
        "format": SUMMARY_FORMAT,
        "version": RESULT_VERSION,
        "model": results[0]["model"],
        "pair_sets": results,
    }
    finish_results(output, summary)
    print()
    table.print(console())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; ends with a message where it is wrong."""
    parser = CommandParser(
        prog="facekd evaluate lfw",
        allow_abbrev=False,  # otherwise a typo in a study could pass as the short form of an option
        description="Evaluates a model on verification packs (.bin): accuracy, EER, AUC, TAR@FAR.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    # What to evaluate, on what, and where the results go.
    add_model_option(parser, required=False)
    add("--pairs", required=True, nargs="+", metavar="X.bin", help="verification packs, or a folder of them: lfw.bin, "
        "cfp_fp.bin, agedb_30.bin, calfw.bin, cplfw.bin; or RFW's folder, or BFW's table (.csv)")  # fmt: skip
    add("--image-root", metavar="DIR", help="for --pairs RFW (the folder with data and txts) or BFW.csv: the folder of "
        "their aligned images (default: data of RFW, the folder of BFW.csv)")  # fmt: skip
    add_output_option(parser)
    add(
        "--names",
        nargs="+",
        metavar="TXT",
        help="for each pack its list of names ('-' for none), lines nameA<TAB>nameB<TAB>label; intervals then "
        "resample people, not pairs",
    )
    # How accuracy and TAR@FAR are measured.
    add_folds_option(parser)
    add(
        "--fold-kind",
        choices=("auto", "contiguous", "balanced"),
        default="auto",
        help="contiguous: ranges of the pairs, or the folds that the pack records; balanced: genuine and impostor "
        "pairs each cut into contiguous parts; auto: contiguous if each fold then holds both kinds, else balanced "
        "(default)",
    )
    add_flip_option(parser)
    add_rule_option(parser)
    _add_measures(parser)
    # What is drawn and kept, and how the model is run.
    add("--pictures", action=argparse.BooleanOptionalAction, default=True, help="draw roc.png and hardest_pairs.png")
    add(
        "--embeddings",
        nargs="+",
        metavar="DIR|X.npy",
        help="with --model the folder that keeps the embeddings (default: DIR/embeddings); or instead of --model for "
        "each pack a file of embeddings made elsewhere: (2N, D), those of pair 0 first, or (2N, 2D) with those of the "
        "mirror images in the second half",
    )
    add_halves_option(parser)
    add_report_switch(parser)
    add_cache_switch(parser)
    add_model_options(parser)
    parser.set_defaults(flip=None)  # with given embeddings: add those of the mirror images if there are any
    arguments = parser.parse_args(argv)
    arguments.pairs = [pack for path in arguments.pairs for pack in _packs_of(Path(path))]
    _check_combinations(parser, arguments)
    return arguments


def _check_combinations(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser for what it cannot express: combinations and ranges."""
    _tell_folder_from_files(parser, arguments)
    _check_files_of_packs(parser, arguments)
    listed = [path for path in arguments.pairs if is_race_layout(Path(path))]
    if listed and (arguments.given or arguments.quality or arguments.names):
        option = "--embeddings X.npy" if arguments.given else "--quality" if arguments.quality else "--names"
        parser.error(f"{option} goes by the pairs of a pack, and {listed[0]} lists images of its own: leave it out")
    if arguments.image_root is not None and not listed:
        parser.error("--image-root is for --pairs that list images: the folder of RFW, or the table of BFW")
    check_metric_options(parser, arguments)
    check_norm_options(parser, arguments)


def _add_measures(parser: CommandParser) -> None:
    """Adds what is measured beside the accuracy."""
    add_metric_options(parser, LFW_FARS)
    add_quality_option(
        parser, "one for each image of the pack, those of pair 0 first; a file for each pack", several=True
    )
    add_transfer_option(parser)
    add_norm_options(parser)
    add_groups_option(parser, "person or image (as in --names)")


def _check_files_of_packs(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser where there is not one list of names, or of qualities, for each pack."""
    if arguments.names is not None and len(arguments.names) != len(arguments.pairs):
        parser.error(
            f"--names: {len(arguments.names)} given for {counted(len(arguments.pairs), 'pack')}; '-' stands for none"
        )
    refuse_quality_of_model(parser, (arguments.quality or [None])[0], not arguments.given)
    if arguments.quality not in (None, [NORM], [MODEL]) and len(arguments.quality) != len(arguments.pairs):
        found = f"{len(arguments.quality)} given for {counted(len(arguments.pairs), 'pack')}"
        parser.error(f"--quality: {found}; give norm, model, or a file each")


def _tell_folder_from_files(parser: CommandParser, arguments: argparse.Namespace) -> None:
    """Puts into `given` the files of `--embeddings`, and leaves in `embeddings` the folder, if one was named."""
    words = arguments.embeddings or []
    arguments.given = [word for word in words if word.endswith(".npy") or Path(word).is_file()]
    arguments.embeddings = None if arguments.given or not words else words[0]
    check_halves_option(parser, arguments, bool(arguments.given))
    if not arguments.given:
        if len(words) > 1:
            parser.error(
                f"--embeddings: {counted(len(words), 'folder is', 'folders are')} given; give one, or a file X.npy "
                "for each pack"
            )
        if arguments.model is None:
            parser.error("give --model FILE, or --embeddings with a file X.npy of embeddings for each pack")
    elif arguments.model is not None:
        parser.error(f"--embeddings {arguments.given[0]} holds embeddings: give that file or --model, one of the two")
    elif len(words) != len(arguments.pairs) or len(arguments.given) != len(words):
        parser.error(
            f"--embeddings: {counted(len(arguments.given), 'file is', 'files are')} given for "
            f"{counted(len(arguments.pairs), 'pack')}"
        )
    else:
        refuse_preprocessing(parser, arguments)


def _load_pair_sets(arguments: argparse.Namespace) -> list[PairSet]:
    repeated = [name for name, count in Counter(Path(path).stem for path in arguments.pairs).items() if count > 1]
    if repeated:
        raise FacekdError(f"--pairs: two packs are called {repeated[0]}, and results go by that name; rename one")
    lists = arguments.names or ["-"] * len(arguments.pairs)
    root = None if arguments.image_root is None else Path(arguments.image_root)
    return [
        load_race_layout(Path(path), root, arguments.folds, arguments.fold_kind)
        if is_race_layout(Path(path))
        else load_pair_set(path, arguments.folds, None if names == "-" else names, fold_kind=arguments.fold_kind)
        for path, names in zip(arguments.pairs, lists, strict=True)
    ]


def _packs_of(path: Path) -> list[str]:
    """Returns the packs that a word of `--pairs` names: of a folder the five usual ones, or all if none is there."""
    if not path.is_dir() or is_race_layout(path):
        return [str(path)]
    found = sorted(path.glob("*.bin"))
    usual = [path / f"{name}.bin" for name in PACK_NAMES if (path / f"{name}.bin") in found]
    if not found:
        raise FacekdError(f"--pairs {path}: the folder holds no verification pack (.bin)")
    taken = usual or found
    if others := sorted({*found, *path.glob("*.npz")} - {*taken}):
        print(f"{path}: left out, name them by --pairs: {some_of([pack.name for pack in others])}", file=sys.stderr)
    return [str(pack) for pack in taken]


def _describe_pair_set(pair_set: PairSet) -> dict[str, Any]:
    people = pair_set.people
    return {
        "name": pair_set.name,
        "path": str(pair_set.path),
        "sha256": pair_set.sha256,
        "num_subjects": people and people.num_people,
        "num_genuine_people": people and people.num_genuine_people,
        "num_impostor_people_pairs": people and people.num_impostor_people_pairs,
        "num_subjects_in_several_folds": pair_set.num_subjects_in_several_folds,
    }


def _describe_protocol(arguments: argparse.Namespace, pair_set: PairSet, flip: bool) -> dict[str, Any]:
    folds = f"{pair_set.num_folds} {BALANCED if pair_set.fold_kind == 'balanced' else 'contiguous folds'}"
    text = f"cosine of {embedding_text(flip)}, {folds}, {rule_text(arguments.rule)}"
    return {
        "text": text,
        "score": "cosine",
        "flip": flip,
        "folds": pair_set.num_folds,
        "fold_kind": pair_set.fold_kind,
        "rule": arguments.rule,
    }


def _write(folder: Path, pair_set: PairSet, one: ScoredPairs, model: str | None, has_report: bool) -> None:
    """Writes what one pack gives, results.json last; without a name of the model there are no pictures."""
    start_evaluation(folder)
    write_arrays(folder, one.scores)
    if model is not None:
        draw_pair_sets(folder / "roc.png", [one], f"{model} on {one.name}")
        threshold = one.result["eer_threshold"]
        draw_hardest_pairs(folder / "hardest_pairs.png", pair_set, one.scores, threshold, model=model)
        if one.result["quality"] and one.result["quality"]["curves"]:
            save_figure(draw_quality(one.result["quality"], f"{model} on {one.name}"), folder / "quality.png")
    if has_report:
        write_report(folder, one.result)
    elif one.result.get("groups"):
        write_groups_page(folder, one.result, f"{name_of(one.result)} on {one.name}")
    finish_results(folder, one.result)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
