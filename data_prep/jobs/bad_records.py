"""Handles records that a verb cannot use: stops at the first, or skips and counts them."""

from __future__ import annotations

import argparse
import sys

from facekd.errors import FacekdError

NUM_SHOWN = 10


def add_bad_record_option(parser: argparse.ArgumentParser, default: str = "fail") -> None:
    """Adds `--on-bad-record fail|skip` to a verb."""
    parser.add_argument(
        "--on-bad-record",
        choices=("fail", "skip"),
        default=default,
        help=f"stop at a record that cannot be used, or skip and count it (default: {default})",
    )


class BadRecords:
    """Counts the records that were skipped.

    Attributes:
        policy: `"fail"` or `"skip"`.
        errors: the problems met so far.
        num_before: number of records skipped by an earlier run that this one goes on from.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.errors: list[FacekdError] = []
        self.num_before = 0

    def __len__(self) -> int:
        return self.num_before + len(self.errors)

    def meet(self, error: FacekdError) -> None:
        """Raises `error` under `"fail"`; under `"skip"` counts it and prints the first few."""
        if self.policy == "fail":
            raise error
        self.errors.append(error)
        if len(self.errors) <= NUM_SHOWN:
            print(f"skipped: {error}", file=sys.stderr)
        if len(self.errors) == NUM_SHOWN:
            print("(further ones are counted, not shown)", file=sys.stderr)

    def summary(self) -> str:
        """Returns `", 3 skipped"`, or an empty string, for the last line of a verb."""
        return f", {len(self):,} skipped" if len(self) else ""
