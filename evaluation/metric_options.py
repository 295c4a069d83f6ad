"""Adds the options that every verification verb has: the FARs, and the draws of the intervals."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from facekd.commands.command_line import FAR_LIST, SEED, whole_number
from facekd.verification.intervals.bootstrap import MIN_DRAWS

DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


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
