"""Adds the options that every verification verb has: the FARs, and the draws of the intervals."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from facekd.embedder.model_options import comma_separated
from facekd.verification.bootstrap import MIN_DRAWS

DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def add_metric_options(parser: argparse.ArgumentParser, fars: Sequence[float] = DEFAULT_FARS) -> None:
    """Adds `--fars`, `--bootstrap` and `--seed`; `check_metric_options` checks the values given."""
    add = parser.add_argument
    shown = ",".join(f"{far:.0e}".replace("e-0", "e-") for far in fars)
    add("--fars", type=comma_separated, default=fars, metavar="F,F", help=f"FARs (default: {shown})")
    add("--bootstrap", type=int, default=1000, metavar="N", help="bootstrap draws for the intervals, 0 for "
        "none (default: 1000)")  # fmt: skip
    add("--seed", type=int, default=0, help="random seed of those draws (default: 0)")


def check_metric_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with a message of the parser if a value makes no sense."""
    if not all(0 < far <= 1 for far in arguments.fars):
        parser.error("--fars: each must lie in (0, 1]")
    if arguments.bootstrap and arguments.bootstrap < MIN_DRAWS:
        parser.error(f"--bootstrap {arguments.bootstrap}: give 0, or at least {MIN_DRAWS} draws")
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed}: give a whole number from 0")
