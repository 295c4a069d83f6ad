"""Several runs in the same processes, one after the other, for to start processes takes longer than any of them.

    several_runs.py FOLDER [[NAME, VERB, [WORD, ...]], ...]

VERB is "exchange", "shards", "train", "distill", "copy", or one of SAVING and RESUMING.

Each process leaves FOLDER/NAME.RANK for each run that it has seen to: empty, or with what went wrong.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from facekd.api.validators import make_validators
from facekd.checkpoints.run_folder import list_checkpoints
from facekd.commands.config_files import parse_config
from facekd.distributed import World, broadcast_from_main, join_world, wait_for_all
from facekd.errors import FacekdError
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.distilling.diagnostics import diagnose
from facekd.training.loop import train

PATIENCE = 120  # seconds until a process that waits for one that has stopped is ended


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No more than a hundred bytes can be written to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refusing(method: str, suffix: str) -> contextlib.AbstractContextManager[Any]:
    """A method of paths fails for those with the suffix."""
    usual = getattr(Path, method)

    def refuse(path: Path, *arguments: Any) -> Any:
        if path.suffix == suffix:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))
        return usual(path, *arguments)

    return mock.patch.object(Path, method, refuse)


def refusing_checkpoints() -> contextlib.AbstractContextManager[Any]:
    """A checkpoint does not get its name."""
    usual = os.replace

    def refuse(source: str, target: str | Path) -> None:
        if Path(target).suffix == ".pt":
            raise OSError(errno.EDQUOT, "Disk quota exceeded", source)
        usual(source, target)

    return mock.patch("os.replace", refuse)


# Of which process, and what; 0 is the main one.
SAVING: dict[str, tuple[int, Callable[[], contextlib.AbstractContextManager[Any]]]] = {
    "fail-on-full-disk": (1, full_disk),
    "fail-on-naming-the-head": (0, lambda: refusing("rename", ".head")),
    "fail-on-checking-the-head": (1, lambda: refusing("glob", ".head")),
    "fail-on-naming-the-file": (0, refusing_checkpoints),
}
RESUMING: dict[str, tuple[int, Callable[[], contextlib.AbstractContextManager[Any]]]] = {
    "fail-on-finding-the-file": (1, lambda: refusing("exists", ".pt")),
    "fail-on-finding-the-head": (1, lambda: refusing("is_dir", ".head")),
    "fail-on-reading-the-head": (
        1,
        lambda: mock.patch("facekd.checkpoints.head_shards.read_rows_of_all", side_effect=OSError),
    ),
}


def fail(verb: str, words: list[str], world: World) -> None:
    """What fails in one process ends the run in all of them, with the same words."""
    rank, make = {**SAVING, **RESUMING}[verb]
    signal.alarm(PATIENCE)
    with make() if world.rank == rank else contextlib.nullcontext():
        try:
            train(parse_config(TrainConfig, words, "", ""), world)
            said = "nothing"
        except (FacekdError, OSError) as error:
            said = str(error)
    assert ("is the disk full?" if verb in SAVING else ".pt") in said and said == broadcast_from_main(said, world), said
    signal.alarm(0)


def copy_up_to(images: int, run: Path, copy: Path) -> None:
    """Copies a run as it was after `images` images."""
    shutil.copytree(run, copy)
    for path in list_checkpoints(copy):
        if int(path.stem) > images:
            path.unlink()


def run(verb: str, words: list[str], world: World) -> None:
    if verb == "shards":
        import shards

        shards.check(world)
    elif verb == "exchange":
        import two_ranks

        two_ranks.check(world, words[0], Path(words[1]))
    elif verb == "copy":
        if world.rank == 0:
            copy_up_to(int(words[0]), Path(words[1]), Path(words[2]))
    elif verb == "train":
        config = parse_config(TrainConfig, words, "", "")
        assert train(config, world, make_validators(config)) == 0
    elif verb in {*SAVING, *RESUMING}:
        fail(verb, words, world)
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
