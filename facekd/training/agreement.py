"""Checks that processes that train together began alike: what they were told to do, and what they read.

Only gradients are exchanged in a step. A process with another learning rate, another seed or another copy of a file
would train on without a word, and what the main process saves would be the weights of no run at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facekd import __version__
from facekd.checkpoints.run_folder import list_checkpoints, resolve_checkpoint
from facekd.commands.plain_configs import differences, without_paths
from facekd.data.datasets import FaceDataset
from facekd.data.datasets.identity_map import identity_map, stored_images_sha256
from facekd.distributed import World, broadcast_from_main, failing_together
from facekd.errors import TrainingError
from facekd.files.reading import sha256_of_file
from facekd.plugins import plugins_of
from facekd.training.config import TrainConfig
from facekd.training.recognizer import Recognizer, names_in_tables
from facekd.utils.foreign import shown, some_of
from facekd.utils.wording import counted

# Keys that may differ: where a process computes, how it reads, and what the main process alone writes.
OWN_KEYS = ("data.workers", "device", "logging", "tensorboard")


def require_same_start(config: TrainConfig, world: World, dataset: FaceDataset) -> None:
    """Checks that every process has the main one's version, configuration, records and newest checkpoint.

    This comes before anything is restored: sharded heads are read by all processes together, from one checkpoint. Paths
    may differ, as one disk may be mounted at different places.

    Raises:
        TrainingError: one has not; raised on every process.
    """
    if world.size == 1:
        return
    found = list_checkpoints(Path(config.output))
    with failing_together(world):
        mine = {
            "version": __version__,
            "config": without_paths(config),
            "images_seen": int(found[-1].stem) if found else 0,
            "records": len(dataset),
            "data": {**identity_map(dataset), "images": stored_images_sha256(dataset)},
            "checkpoint": sha256_of_file(found[-1]) if found else "",
        }
    main = broadcast_from_main(mine, world)
    with failing_together(world):
        _require_same_run(config, world, mine, main)
        if mine["checkpoint"] != main["checkpoint"]:
            raise TrainingError(
                f"{shown(found[-1])} has other bytes on rank {world.rank} than on the main process: output must be the "
                "same on every machine: put it on a shared file system, or copy it again"
            )


def _require_same_run(config: TrainConfig, world: World, mine: dict[str, Any], main: dict[str, Any]) -> None:
    """Compares version, configuration and data of a process with the main one's.

    Raises:
        TrainingError: they differ.
    """
    if mine["version"] != main["version"]:
        raise TrainingError(
            f"rank {world.rank} has facekd {mine['version']}, the main process {main['version']}: install one version "
            "on every machine"
        )
    changed = differences(main["config"], mine["config"])
    if changed := {key: values for key, values in changed.items() if key not in OWN_KEYS}:
        key, (theirs, own) = next(iter(changed.items()))
        raise TrainingError(
            f"rank {world.rank} has another configuration than the main process: {shown(key)} is {shown(own)}, there "
            f"{shown(theirs)} (different: {some_of(changed)}). Start the same command with the same file on every "
            "machine"
        )
    if (mine["images_seen"], mine["records"]) != (main["images_seen"], main["records"]):
        raise TrainingError(
            f"rank {world.rank} is at image {mine['images_seen']:,} of a run over "
            f"{counted(mine['records'], 'record')}, the main process at image {main['images_seen']:,} over "
            f"{main['records']:,}; output ({shown(config.output)}) and data.train must be the same on every machine: "
            "put them on a shared file system"
        )
    if mine["data"] != main["data"]:
        raise TrainingError(
            f"data.train ({shown(config.data.train)}) holds other images, labels or names on rank {world.rank} than on "
            "the main process; it must be the same on every machine: put it on a shared file system, or copy it again"
        )


def require_same_sources(config: TrainConfig, world: World, recognizer: Recognizer) -> None:
    """Checks that every process learns from the main one's teacher, by its plug-ins, and began with its weights.

    Raises:
        TrainingError: one does not; raised on every process.
    """
    if world.size == 1:
        return
    with failing_together(world):
        mine = {
            "teacher": recognizer.teacher_fingerprint,
            "shared_head": sha256_of_file(resolve_checkpoint(config.shared_head)) if config.shared_head else "",
            **{f"plug-in {one['name']}": one["sha256"] for one in plugins_of(names_in_tables(config, recognizer))},
            **{f"{part}.weights": source["sha256"] for part, source in recognizer.started_from.items()},
            **{f"validation.packs.{n}": sha256_of_file(pack) for n, pack in enumerate(config.validation.packs)},
        }
    main = broadcast_from_main(mine, world)
    with failing_together(world):
        changed = [key for key in {**main, **mine} if mine.get(key) != main.get(key)]
        if changed:
            raise TrainingError(
                f"{shown(changed[0])} is another file on rank {world.rank} than on the main process; it must be the "
                "same on every machine: put it on a shared file system, or copy it again"
            )
