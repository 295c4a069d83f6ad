"""What a verb does about records it cannot use: stop at the first, or pass over them and say how many."""

from __future__ import annotations

import argparse
import sys

from data_prep.jobs.resuming import Resumable
from facekd.errors import FacekdError

NUM_SHOWN = 10


def add_bad_record_option(parser: argparse.ArgumentParser, default: str = "fail") -> None:
    """Add `--on-bad-record fail|skip` to a verb."""
    parser.add_argument(
        "--on-bad-record",
        choices=("fail", "skip"),
        default=default,
        help=f"stop at a record that cannot be used, or pass over it and count it (default: {default})",
    )


class BadRecords:
    """Counts what was passed over.

    Attributes:
        policy: `"fail"` or `"skip"`.
        errors: the problems met so far.
        num_before: how many were passed over by an earlier run that this one goes on from.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.errors: list[FacekdError] = []
        self.num_before = 0

    def __len__(self) -> int:
        return self.num_before + len(self.errors)

    def go_on(self, writer: Resumable) -> None:
        """Count what the earlier run of `writer` has passed over; under `"fail"`, which would not have, begin anew."""
        num_before = writer.next_task - writer.num_images
        if num_before and self.policy == "fail":
            writer.restart()
            num_before = 0
        self.num_before += num_before

    def meet(self, error: FacekdError) -> None:
        """Raise `error` under `"fail"`; note it, and show the first few, under `"skip"`."""
        if self.policy == "fail":
            raise error
        self.errors.append(error)
        if len(self.errors) <= NUM_SHOWN:
            print(f"skipped: {error}", file=sys.stderr)
        if len(self.errors) == NUM_SHOWN:
            print("(more are counted and not shown)", file=sys.stderr)

    def summary(self) -> str:
        """`", 3 skipped"` or nothing, for the last line of a verb."""
        return f", {len(self):,} skipped" if len(self) else ""
