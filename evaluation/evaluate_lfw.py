"""Judge a model on LFW-style verification packs: accuracy, EER, AUC and TAR@FAR.

A user action: `facekd evaluate lfw`, or `python evaluation/evaluate_lfw.py`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from evaluation.measures import LFW_FARS, measure_pairs
from evaluation.metric_options import add_metric_options, check_metric_options
from evaluation.provenance import describe_model, describe_software, find_model
from evaluation.results.figures import ScoredPairs, draw_pair_sets
from evaluation.results.hardest_pairs import draw_hardest_pairs
from evaluation.results.pack_names import PACK_NAMES
from evaluation.results.terminal import accuracy_table, print_lfw_results
from evaluation.sets.embedding_cache import cosine_scores, embed_pair_set
from evaluation.sets.pair_set import PairSet, load_pair_set
from facekd.embedder.model_options import add_model_options, open_model
from facekd.errors import FacekdError, run_verb
from facekd.utils.command_line import CommandParser
from facekd.utils.files import atomic_open, sha256_of_file, write_json, write_text
from facekd.verification import RULES

RESULT_FORMAT, SUMMARY_FORMAT, RESULT_VERSION = "facekd-verification", "facekd-verification-summary", 1
EXAMPLE = """\
example:
  facekd evaluate lfw --model model.onnx --pairs lfw.bin --output runs/lfw

  the five usual packs in one folder, and the table as papers print it (table.md):
  facekd evaluate lfw --model model.onnx --pairs packs/ --output runs/five

  a model of someone else's, scored without the mirror image, with intervals over subjects:
  facekd evaluate lfw --model other.onnx --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 --color rgb \\
      --no-flip --pairs lfw.bin --names lfw_pairs.txt --output runs/other

DIR/results.json (its keys: docs/results.md), scores.npy (a cosine a pair), roc.png, hardest_pairs.png. With several
packs each has a folder DIR/NAME of its own, and DIR holds the summary. Embeddings are kept in DIR/embeddings: another
run with other folds, FARs or rule does not need the model again.
"""


def main(argv: list[str] | None = None) -> int:
    """Parse, load, embed, score, write, print."""
    arguments = parse(argv)
    output = Path(arguments.output)
    pair_sets = _load_pair_sets(arguments)  # seconds, and where most mistakes show: before the model
    output.mkdir(parents=True, exist_ok=True)
    model_file = find_model(arguments.model)  # once: a run that is training may write a newer checkpoint meanwhile
    embedder = open_model(model_file, arguments)
    cache = None if not arguments.cache else arguments.embeddings or output / "embeddings"
    model = describe_model(model_file, embedder)

    results, scored = [], []
    for pair_set in pair_sets:
        embeddings = embed_pair_set(embedder, pair_set, arguments.flip, cache)
        scores = cosine_scores(embeddings, pair_set)
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
        result = {
            "format": RESULT_FORMAT,
            "version": RESULT_VERSION,
            "model": model,
            "pair_set": _describe_pair_set(pair_set),
            "protocol": _describe_protocol(arguments, pair_set),
            **measured,
            "software": describe_software(),
            "command": shlex.join(["facekd", "evaluate", "lfw", *(sys.argv[1:] if argv is None else argv)]),
        }
        folder = output if len(pair_sets) == 1 else output / pair_set.name
        one = ScoredPairs(pair_set.name, scores, pair_set.is_same, result)
        _write(folder, pair_set, one, Path(arguments.model).name if arguments.pictures else None)
        print_lfw_results(result, pair_set.name, result["protocol"]["text"])
        results.append(result)
        scored.append(one)

    if len(pair_sets) > 1:
        if arguments.pictures:
            draw_pair_sets(output / "roc.png", scored, Path(arguments.model).name)
        summary = {"format": SUMMARY_FORMAT, "version": RESULT_VERSION, "model": model, "pair_sets": results}
        table = accuracy_table(results, Path(arguments.model).name)
        write_text(output / "table.md", table.to_markdown())
        write_json(output / "results.json", summary)
        print()
        table.print(Console(soft_wrap=True))
    print(f"\nwritten to {output}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line; ends with usage and a message where it is wrong."""
    parser = CommandParser(
        prog="facekd evaluate lfw",
        allow_abbrev=False,  # or a typo in a study that begins like an option would pass for it
        description="Judge a model on LFW-style verification packs (.bin): accuracy, EER, AUC, TAR@FAR.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="FILE", help="an ONNX file, anyone's, a facekd checkpoint, or a run's folder")
    add("--pairs", required=True, nargs="+", metavar="X.bin", help="verification packs, or a folder of them: lfw.bin, "
        "cfp_fp.bin, agedb_30.bin, calfw.bin, cplfw.bin")  # fmt: skip
    add("--output", required=True, metavar="DIR", help="folder for the results; made where it is missing")
    add(
        "--names",
        nargs="+",
        metavar="TXT",
        help="the list a pack was made from, one a pack ('-' for none): nameA<TAB>nameB<TAB>label; intervals then "
        "resample subjects",
    )
    add("--folds", type=int, default=10, help="contiguous folds of the accuracy (default: 10)")
    add("--flip", action=argparse.BooleanOptionalAction, default=True, help="add the mirror image's embedding")
    add(
        "--rule",
        choices=RULES,
        default="exact",
        help="exact: the largest TAR whose FAR does not exceed the target (default); insightface: the nearest ROC "
        "point, only to compare with tables made so",
    )
    add_metric_options(parser, LFW_FARS)
    add("--pictures", action=argparse.BooleanOptionalAction, default=True, help="draw roc.png and hardest_pairs.png")
    add("--embeddings", metavar="DIR", help="where embeddings are kept (default: embeddings in the output folder)")
    add("--cache", action=argparse.BooleanOptionalAction, default=True, help="keep embeddings for another run")
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    arguments.pairs = [pack for path in arguments.pairs for pack in _packs_of(Path(path))]
    if arguments.names is not None and len(arguments.names) != len(arguments.pairs):
        parser.error(f"--names: {len(arguments.names)} given for {len(arguments.pairs)} packs; '-' stands for none")
    check_metric_options(parser, arguments)
    return arguments


def _load_pair_sets(arguments: argparse.Namespace) -> list[PairSet]:
    repeated = [name for name, count in Counter(Path(path).stem for path in arguments.pairs).items() if count > 1]
    if repeated:
        raise FacekdError(f"--pairs: two packs are called {repeated[0]}, and results go by that name; rename one")
    names = arguments.names or ["-"] * len(arguments.pairs)
    return [
        load_pair_set(path, arguments.folds, None if list_path == "-" else list_path)
        for path, list_path in zip(arguments.pairs, names, strict=True)
    ]


def _packs_of(path: Path) -> list[str]:
    """The packs that a word of `--pairs` stands for: of a folder the usual ones in it, or all where it has none."""
    if not path.is_dir():
        return [str(path)]
    found = sorted(path.glob("*.bin"))
    usual = [path / f"{name}.bin" for name in PACK_NAMES if (path / f"{name}.bin") in found]
    if not found:
        raise FacekdError(f"--pairs {path}: the folder holds no verification pack (.bin)")
    return [str(pack) for pack in usual or found]


def _describe_pair_set(pair_set: PairSet) -> dict[str, Any]:
    return {
        "name": pair_set.name,
        "path": str(pair_set.path),
        "sha256": sha256_of_file(pair_set.path),
        "num_subjects": pair_set.num_subjects,
        "num_subjects_in_several_folds": pair_set.num_subjects_in_several_folds,
    }


def _describe_protocol(arguments: argparse.Namespace, pair_set: PairSet) -> dict[str, Any]:
    embedding = "f(x) + f(mirrored x)" if arguments.flip else "f(x)"
    text = f"cosine of {embedding}, {pair_set.num_folds} contiguous folds, TAR@FAR by the {arguments.rule} rule"
    return {
        "text": text,
        "score": "cosine",
        "flip": arguments.flip,
        "folds": pair_set.num_folds,
        "rule": arguments.rule,
    }


def _write(folder: Path, pair_set: PairSet, one: ScoredPairs, title: str | None) -> None:
    """results.json last: where it is, the rest is complete."""
    with atomic_open(folder / "scores.npy") as stream:
        np.save(stream, one.scores)
    if title is not None:
        draw_pair_sets(folder / "roc.png", [one], f"{title} on {one.name}")
        draw_hardest_pairs(folder / "hardest_pairs.png", pair_set, one.scores, one.result["eer_threshold"])
    write_json(folder / "results.json", one.result)


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
