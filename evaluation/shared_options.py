"""Adds the options that several evaluate verbs share, so that each reads the same everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facekd.commands.command_line import FAR_LIST, SEED, whole_number
from facekd.embedder.model_options import MODEL_HELP
from facekd.files.result_folder import MARK
from facekd.verification import RULES, Rule
from facekd.verification.intervals.bootstrap import MIN_DRAWS
from facekd.verification.kfold import USUAL_FOLDS

DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def add_model_option(parser: Any, required: bool = True) -> None:
    """Adds `--model` to a parser or to a group of one."""
    more = {"required": True} if required else {}  # a member of an exclusive group must not have it
    parser.add_argument("--model", metavar="FILE", help=MODEL_HELP, **more)


def add_output_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--output`."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results; made if it is missing")


def data_read(arguments: argparse.Namespace) -> list[Path]:
    """Returns the folders of which an evaluation reads every image; of other sets, lists say what is read."""
    return _paths(arguments, "images", "image_root", "data")


def files_read(arguments: argparse.Namespace) -> list[Path]:
    """Returns the other files that an evaluation is to read, of those that are there."""
    options = ("pairs", "model", "teacher_head", "embeddings", "given", "names", "groups", "cohort", "quality")
    results = [path / MARK if path.is_dir() else path for path in _paths(arguments, "thresholds_from")]
    return [path for path in (*_paths(arguments, *options), *results) if path.is_file()]


def _paths(arguments: argparse.Namespace, *options: str) -> list[Path]:
    """Returns what some options name; an option may be absent, or hold a list."""
    values = [getattr(arguments, option, None) for option in options]
    words = [word for value in values for word in (value if isinstance(value, list | tuple) else [value])]
    return [Path(word) for word in words if isinstance(word, str | Path)]


def add_folds_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--folds`."""
    parser.add_argument("--folds", type=whole_number(2, 10_000), default=USUAL_FOLDS, help="number of folds for the "
        f"accuracy (default: {USUAL_FOLDS})")  # fmt: skip


def add_flip_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--flip`; `embedding_text` says in words what it chooses."""
    _add_switch(parser, "--flip", "add the embedding of the mirror image")


def add_halves_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--embeddings-flipped`; `check_halves_option` checks that there is something that it is about."""
    parser.add_argument("--embeddings-flipped", action=argparse.BooleanOptionalAction, default=None, help="whether "
        "rows of --embeddings hold those of the mirror images too (default: found out by comparing the "
        "halves)")  # fmt: skip


def check_halves_option(parser: argparse.ArgumentParser, arguments: argparse.Namespace, is_given: bool) -> None:
    """Exits with a message of the parser if `--embeddings-flipped` is given, and embeddings are not."""
    if not is_given and arguments.embeddings_flipped is not None:
        parser.error("--embeddings-flipped is about --embeddings; --model embeds the mirror images itself")


def refuse_preprocessing(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser if options say how images become input, where no model is run."""
    for name in ("mean", "std", "color", "image_size", "embedding_output", "resize", "rewrite_prelu"):
        if getattr(arguments, name):
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is about a model, and --embeddings gives embeddings that are made already")


def add_rule_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--rule`."""
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="exact",
        help="how a FAR becomes a threshold, for TAR@FAR alone: accuracy, EER and AUC do not depend on it. exact: the "
        "largest TAR whose FAR does not exceed the target (default); insightface: the nearest point of the ROC, to "
        "compare with TARs in tables made that way",
    )


def rule_text(rule: Rule) -> str:
    """Returns what `--rule` chooses, and what it leaves alone, for the protocol in words."""
    alone = "" if rule == "exact" else " (accuracy, EER and AUC do not depend on it)"
    return f"TAR@FAR by the {rule} rule{alone}"


def add_metric_options(parser: argparse.ArgumentParser, fars: Sequence[float] = DEFAULT_FARS) -> None:
    """Adds `--fars`, `--bootstrap` and `--seed`; `check_metric_options` checks the values given."""
    add = parser.add_argument
    shown = ",".join(f"{far:.0e}".replace("e-0", "e-") for far in fars)
    add("--fars", type=FAR_LIST, default=fars, metavar="F,F", help=f"FARs (default: {shown})")
    draws = whole_number(0, 1_000_000)
    add("--bootstrap", type=draws, default=1000, metavar="N", help="bootstrap draws for the intervals, 0 for "
        "none (default: 1000)")  # fmt: skip
    add("--seed", type=SEED, default=0, help="random seed of those draws (default: 0)")


def check_metric_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser if a value makes no sense."""
    if arguments.bootstrap and arguments.bootstrap < MIN_DRAWS:
        parser.error(f"--bootstrap {arguments.bootstrap}: give 0, or at least {MIN_DRAWS} draws")


def add_cache_switch(parser: argparse.ArgumentParser) -> None:
    """Adds `--cache`."""
    _add_switch(parser, "--cache", "keep the embeddings, so that another run does not need the model")


def add_report_switch(parser: argparse.ArgumentParser) -> None:
    """Adds `--report`."""
    _add_switch(parser, "--report", "write report.html, report.md and results.csv")


def _add_switch(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    parser.add_argument(name, action=argparse.BooleanOptionalAction, default=True, help=f"{what} (default: yes)")


def embedding_text(flip: bool) -> str:
    """Returns the formula of the embedding that is compared, for the protocol in words."""
    return "f(x) + f(mirrored x)" if flip else "f(x)"
