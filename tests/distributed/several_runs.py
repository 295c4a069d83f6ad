"""Several runs in the same processes, one after the other, for to start processes takes longer than any of them.

    several_runs.py FOLDER [[NAME, "shards" | "train" | "distill" | "fail-on-full-disk", [WORD, ...]], ...]

Each process leaves FOLDER/NAME.RANK for each run that it has seen to: empty, or with what went wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import traceback
from pathlib import Path

from facekd.config import TrainConfig, parse_config
from facekd.distill import build_distiller
from facekd.distill_config import DistillConfig
from facekd.distill_diagnostics import diagnose
from facekd.distributed import World, join_world, wait_for_all
from facekd.errors import run_verb
from facekd.train import train


def fail_on_full_disk(words: list[str], world: World) -> None:
    """One process, not the main one, can write no more than a hundred bytes; what all of them say and return."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = run_verb(lambda: train(parse_config(TrainConfig, words, "", ""), world))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2 and "is the disk full?" in said.getvalue(), said.getvalue()


def run(verb: str, words: list[str], world: World) -> None:
    if verb == "shards":
        import shards

        shards.check(world)
    elif verb == "train":
        assert train(parse_config(TrainConfig, words, "", ""), world) == 0
    elif verb == "fail-on-full-disk":
        fail_on_full_disk(words, world)
    else:
        config = parse_config(DistillConfig, words, "", "")
        assert train(config, world, make_recognizer=build_distiller, at_end=diagnose) == 0


if __name__ == "__main__":
    with join_world("cpu") as joined:
        for name, verb, words in json.loads(sys.argv[2]):
            report = Path(sys.argv[1], f"{name}.{joined.rank}")
            try:
                run(verb, words, joined)
            except BaseException:  # the others cannot go on without this one: they end as well
                report.write_text(traceback.format_exc())
                raise
            report.touch()
            wait_for_all(joined)
