"""Verb `facekd evaluate robustness`: measures how models bear blur, darkness, noise, bad alignment, masks."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from evaluation.result_files import check_output, lock_output, make_result, start_evaluation
from evaluation.robustness.degradations import DEGRADATIONS
from evaluation.robustness.measuring import Settings, evaluate_model
from evaluation.robustness.page import write_robustness_page
from evaluation.robustness.plan import SIDES, Comparisons, choose_comparisons
from evaluation.robustness.tables import SIDES_TEXT, summary_table, terminal_table, to_csv
from evaluation.sets.pair_set import load_pair_set
from evaluation.shared_options import (
    add_cache_switch,
    add_flip_option,
    add_folds_option,
    add_metric_options,
    add_output_option,
    check_metric_options,
    embedding_text,
)
from facekd.commands.command_line import CommandParser, whole_number
from facekd.embedder.described_model import open_described_model
from facekd.embedder.model_options import MODEL_HELP, add_model_options
from facekd.errors import run_verb
from facekd.files.result_folder import finish_results
from facekd.files.writing import write_text
from facekd.results.schema import ROBUSTNESS_FORMAT
from facekd.utils.terminal import console, say
from facekd.utils.wording import counted
from facekd.verification.measures import LFW_FARS

RESULT_VERSION = 1
EXAMPLE = """\
example:
  facekd evaluate robustness --model model.onnx --pairs lfw.bin --output runs/robustness

  two models on the same degraded images, 600 pairs, some kinds only:
  facekd evaluate robustness --model teacher.onnx student.onnx --pairs lfw.bin --sample 600 \\
      --degradations resolution jpeg blur --output runs/robustness

By default the second image of each pair is degraded, as that of a probe that is compared with a good enrolled image.

writes to DIR:
  report.html          faces, curves and numbers for each degradation
  results.json         every number (its keys: docs/robustness.md), results.csv the same as a table
  embeddings/          kept strength by strength: a run that was stopped goes on from them
"""


def main(argv: list[str] | None = None) -> int:
    """Parses and evaluates."""
    arguments = _parse(argv)
    with lock_output(Path(arguments.output), arguments=arguments):
        return _evaluate(arguments, argv, Path(arguments.output))


def _evaluate(arguments: argparse.Namespace, argv: list[str] | None, output: Path) -> int:
    """Loads the pack, evaluates model by model, writes and prints."""
    pair_set = load_pair_set(arguments.pairs, arguments.folds, arguments.names)
    compared = choose_comparisons(pair_set, arguments.sample, arguments.seed)
    check_output(output)
    settings = Settings(
        names=[name for name in DEGRADATIONS if name in arguments.degradations],
        sides=arguments.degrade,
        flip=arguments.flip,
        cache=output / "embeddings" if arguments.cache else None,
        fars=arguments.fars,
        draws=arguments.bootstrap,
        seed=arguments.seed,
    )
    # All models are opened first: a wrong name shows before hours of embedding by another.
    opened = [open_described_model(model, arguments) for model in arguments.model]
    models = [
        evaluate_model(path, one, arguments, compared, settings)
        for path, one in zip(arguments.model, opened, strict=True)
    ]

    # Write the page last but for results.json, which says that the rest is there.
    content = {**_describe(compared, settings), "models": _name_apart(models, arguments.model)}
    result = make_result(ROBUSTNESS_FORMAT, RESULT_VERSION, content, "evaluate robustness", argv)
    start_evaluation(output)
    write_text(output / "results.csv", to_csv(result))
    write_robustness_page(output / "report.html", result, compared)
    finish_results(output, result)
    _print(result)
    print(f"\nwritten to {output}")
    return 0


def _describe(compared: Comparisons, settings: Settings) -> dict[str, Any]:
    """Returns what results.json says of the pairs, the protocol and the degradations."""
    pair_set, folds = compared.pair_set, int(compared.fold_of.max()) + 1
    drawn = len(compared.pairs) < len(pair_set)
    text = (
        f"{pair_set.name}, {f'{len(compared.pairs):,} drawn of ' if drawn else ''}{counted(len(pair_set), 'pair')}; "
        f"{SIDES_TEXT[settings.sides]} degraded, seed {settings.seed}; cosine of {embedding_text(settings.flip)}; "
        f"accuracy over {counted(folds, 'fold')}"
    )
    return {
        "pair_set": {"name": pair_set.name, "path": str(pair_set.path), "sha256": pair_set.sha256},
        "protocol": {
            "text": text,
            "score": "cosine",
            "degraded": settings.sides,
            "degradations": list(settings.names),
            "flip": settings.flip,
            "folds": folds,
            "rule": "exact",
            "seed": settings.seed,
            "num_pairs": len(compared.pairs),
            "num_pairs_of_pack": len(pair_set),
        },
        "degradations": {
            name: {"title": one.title, "unit": one.unit, "strengths": list(one.strengths)}
            for name, one in DEGRADATIONS.items()
            if name in settings.names
        },
        "notes": list(pair_set.warnings),
    }


def _name_apart(models: list[dict[str, Any]], paths: list[str]) -> list[dict[str, Any]]:
    """Adds the folder to the names of models whose files have one name, or takes the paths if that is not enough."""
    files = [Path(path) for path in paths]
    for names in ([file.name for file in files], [f"{file.name} ({file.parent.name})" for file in files]):
        if max(Counter(names).values()) == 1:
            return [{**model, "name": name} for model, name in zip(models, names, strict=True)]
    return [{**model, "name": path} for model, path in zip(models, paths, strict=True)]


def _print(result: dict[str, Any]) -> None:
    """Prints the measures of each model, and where its EER is shown to rise."""
    shown = console()
    say(shown, f"\n{result['protocol']['text']}")
    for note in result["notes"]:
        say(shown, f"warning: {note}")
    for model in result["models"]:
        say(shown, f"\n{model['name']}")
        terminal_table(result, model).print(shown)
        for control in model["controls"]:
            if "problem" in control:
                say(shown, f"{control['name']}: {control['problem']}")
    print()
    summary_table(result).print(shown)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="facekd evaluate robustness",
        description="Measures accuracy, EER and TAR@FAR of models on a verification pack whose images are degraded.",
        example=EXAMPLE,
    )
    add = parser.add_argument
    add("--model", required=True, nargs="+", metavar="FILE", help=f"{MODEL_HELP}; several are compared")
    add("--pairs", required=True, metavar="X.bin", help="a verification pack of aligned faces")
    add_output_option(parser)
    add(
        "--names",
        metavar="TXT",
        help="its list of names, lines nameA<TAB>nameB<TAB>label; intervals then resample people, not pairs",
    )
    # What is degraded, and how.
    add("--degradations", nargs="+", choices=tuple(DEGRADATIONS), default=list(DEGRADATIONS), metavar="NAME",
        help=f"kinds to measure, of: {', '.join(DEGRADATIONS)} (default: all)")  # fmt: skip
    add(
        "--degrade",
        choices=SIDES,
        default="probe",
        help="which images of a pair are degraded: the second, or both (default: probe, the second)",
    )
    add("--sample", type=whole_number(4, 10**9), metavar="N", help="pairs drawn, half of each kind (default: all)")
    # How it is measured, and how the models are run.
    add_folds_option(parser)
    add_flip_option(parser)
    add_metric_options(parser, LFW_FARS)
    add_cache_switch(parser)
    add_model_options(parser)
    arguments = parser.parse_args(argv)
    check_metric_options(parser, arguments)
    return arguments


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
