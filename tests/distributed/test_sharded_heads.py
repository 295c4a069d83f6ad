"""Heads shared out over processes: the numbers of whole ones, checkpoints that any number of processes goes on from."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from facekd.checkpoint import CheckpointError, list_checkpoints, load_checkpoint
from facekd.config import TrainConfig, parse_config
from facekd.data.datasets import SyntheticDataset
from facekd.distill import main as distill
from facekd.distributed import World
from facekd.head_shards import read_rows
from facekd.logbook import read_log
from facekd.sharing import load_shared_head
from facekd.train import train
from tests.distributed.test_distributed import HERE, PATIENCE, TRAIN, start_both, train_arguments

ALONE = World(0, 1, torch.device("cpu"))
# A low rate, for steps of a high one are chaotic: they blow up the rounding that two orders of sums differ by.
GENTLE = ("--head.margin_value", "0.2", "--schedule.lr", "0.002")
SHARDED = ("--head.sharded", "true")


def on(count: int, words: list[str], verb: str = "train") -> None:
    for process in start_both(["-m", "facekd", verb, *words], count=count):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()


def run_alone(words: list[str]) -> None:
    assert train(parse_config(TrainConfig, words, "", ""), ALONE) == 0


def head_of(run: Path) -> torch.Tensor:
    content = load_checkpoint(run)
    return (
        read_rows(list_checkpoints(run)[-1], content)["weight"]
        if "head_shards" in content
        else content["head"]["weight"]
    )


def assert_same_run(first: Path, second: Path, rtol: float = 1e-3) -> None:
    logs = [read_log(run, "train") for run in (first, second)]
    assert [entry["images_seen"] for entry in logs[0]] == [entry["images_seen"] for entry in logs[1]]
    for mine, other in zip(*logs, strict=True):
        for name in mine:
            if name.startswith("loss") or name.endswith("gradient_norm"):
                assert mine[name] == pytest.approx(other[name], rel=rtol), name
    torch.testing.assert_close(head_of(first), head_of(second), rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_losses_and_gradients_are_those_of_a_whole_head(count: int, tmp_path: Path) -> None:
    for process in start_both([str(HERE / "shards.py"), str(tmp_path)], count=count):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()
    assert len(list(tmp_path.iterdir())) == count


def test_two_processes_with_shards_equal_one_with_the_whole(tmp_path: Path) -> None:
    # Six images a pass either way, so batch normalisation sees the same batches.
    words = [*GENTLE, "--images", "60"]
    on(2, train_arguments(tmp_path / "two", *words, *SHARDED))
    run_alone(train_arguments(tmp_path / "one", *words, "--batch_size_per_rank", "6"))
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_distillation_through_shared_and_sharded_heads(tmp_path: Path) -> None:
    teacher = train_arguments(tmp_path / "teacher", *GENTLE, *SHARDED, "--backbone.embedding_size", "24")
    on(2, [*teacher, "--images", "60"])
    assert "weight" not in load_checkpoint(tmp_path / "teacher")["head"]
    loss = ("--teacher.model", str(tmp_path / "teacher"), "--share", "0.5", "--loss.kl", "0.5")
    words = [*GENTLE, "--images", "60", *loss]
    on(2, train_arguments(tmp_path / "two", *words, *SHARDED), "distill")
    assert distill(train_arguments(tmp_path / "one", *words, "--batch_size_per_rank", "6")) == 0
    assert_same_run(tmp_path / "two", tmp_path / "one")
    (entry,) = read_log(tmp_path / "two", "agreement")
    assert entry["num_images"] == 36 and 0 <= entry["agreement"] <= 1


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_goes_on_with_another_number_of_processes(optimizer: str, tmp_path: Path) -> None:
    # Three processes have 2, 2 and 2 of 6 classes, two have 3 and 3; one that does not share them out has all.
    # Four images a pass, however many processes share the 24 of a step: batch normalisation sees the same batches.
    common = [*GENTLE, "--images", "72", "--global_batch_size", "24", "--batch_size_per_rank", "4"]
    common += ["--schedule.lr", "0.0005", "--optimizer.name", optimizer]
    words = [*common, "--checkpoint.every_images", "24", "--checkpoint.keep", "9", *SHARDED]
    on(3, train_arguments(tmp_path / "three", *words))
    run_alone(train_arguments(tmp_path / "one", *common))
    assert_same_run(tmp_path / "three", tmp_path / "one", rtol=1e-2)
    for count, more in ((2, ()), (1, ()), (1, ("--head.sharded", "false"))):
        name = f"{count}{''.join(more)}"
        shutil.copytree(tmp_path / "three", tmp_path / name)
        for path in list_checkpoints(tmp_path / name)[1:]:
            path.unlink()
        if count > 1:
            on(count, train_arguments(tmp_path / name, *words, *more))
        else:
            run_alone(train_arguments(tmp_path / name, *words, *more))
        assert_same_run(tmp_path / name, tmp_path / "one", rtol=1e-2)
        left = sorted(path.name for path in (tmp_path / name / "checkpoints").glob("*.head"))
        assert left == [f"{images:012d}.head" for images in ((24, 48, 72) if not more else (24,))]


def test_a_whole_head_is_shared_out_on_the_way(tmp_path: Path) -> None:
    words = [*GENTLE, "--images", "48", "--checkpoint.every_images", "24", "--batch_size_per_rank", "6"]
    run_alone(train_arguments(tmp_path / "one", *words))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    list_checkpoints(tmp_path / "two")[-1].unlink()
    on(2, train_arguments(tmp_path / "two", *words, *SHARDED))
    assert_same_run(tmp_path / "two", tmp_path / "one")


def test_a_head_with_parts_missing_is_refused(tmp_path: Path) -> None:
    words = train_arguments(tmp_path / "run", *GENTLE, "--images", "24", *SHARDED)
    on(2, words)
    dataset = SyntheticDataset(6, 6, 32, 1)
    whole = load_shared_head(tmp_path / "run", dataset)
    assert whole.weight_CD.shape == (6, 16)
    (folder,) = (tmp_path / "run" / "checkpoints").glob("*.head")
    parts = sorted(folder.iterdir())
    content = bytearray(parts[0].read_bytes())
    content[-3] ^= 1
    parts[0].write_bytes(content)
    with pytest.raises(CheckpointError, match=r"head: damaged: the bytes of shard-00001"):
        load_shared_head(tmp_path / "run", dataset)
    content[-3] ^= 1
    parts[0].write_bytes(content)
    load_shared_head(tmp_path / "run", dataset)
    parts[0].rename(tmp_path / "part")
    with pytest.raises(CheckpointError, match=r"incomplete: 3 of 6 rows of 'weight'"):
        load_shared_head(tmp_path / "run", dataset)
    parts[0].write_bytes((tmp_path / "part").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"head: damaged"):
        load_shared_head(tmp_path / "run", dataset)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="which is not there"):
        load_shared_head(tmp_path / "run", dataset)


def test_a_process_that_cannot_write_its_classes_stops_all_and_leaves_nothing(tmp_path: Path) -> None:
    words = train_arguments(tmp_path / "run", *GENTLE, "--images", "24", *SHARDED)
    full = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); from facekd.cli import main; "
    of_rank_1 = ["-c", f"{full}sys.exit(main(sys.argv[1:]))", "train", *words]
    for process in start_both([*TRAIN, *words], of_rank_1=of_rank_1):
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2, errors.decode()
        assert b"is the disk full?" in errors and b"Traceback" not in errors, errors.decode()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_head_of_another_run_is_refused(tmp_path: Path) -> None:
    small, large = (
        [*train_arguments(tmp_path / size, *GENTLE, "--images", "24", *SHARDED), "--backbone.embedding_size", size]
        for size in ("8", "16")
    )
    run_alone(small)
    run_alone(large)
    (folder,) = (tmp_path / "16" / "checkpoints").glob("*.head")
    shutil.rmtree(folder)
    (other,) = (tmp_path / "8" / "checkpoints").glob("*.head")
    shutil.copytree(other, folder)
    (path,) = list_checkpoints(tmp_path / "16")
    content = load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"head: damaged: the bytes of"):
        read_rows(path, content)
    content["head_shards"]["checksums"].clear()  # a reader's own complaint is no traceback either
    with pytest.raises(CheckpointError, match=r"head: damaged: .*[Ss]ize"):
        read_rows(path, content)
    # A run with such a checkpoint says which file is in the way.
    with pytest.raises(CheckpointError, match=r"Delete 000000000024\.pt and the same command starts anew"):
        run_alone(large)


def test_a_killed_process_is_started_again_and_the_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    words = [*GENTLE, *SHARDED, "--images", "240", "--checkpoint.every_images", "24", "--head.sample_rate", "0.7"]
    on(2, train_arguments(tmp_path / "straight", *words))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1")
    command = [sys.executable, *launcher, *TRAIN, *train_arguments(tmp_path / "killed", *words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as launched:
        deadline = time.monotonic() + PATIENCE
        while not (found := list_checkpoints(tmp_path / "killed")):
            assert launched.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(worker_of(launched.pid, rank=1), signal.SIGKILL)
        _, errors = launched.communicate(timeout=PATIENCE)
    assert launched.returncode == 0, errors.decode()
    log = (tmp_path / "killed" / "console.log").read_text() if (tmp_path / "killed" / "console.log").exists() else ""
    assert "resuming from" in log + errors.decode()
    assert_same_run(tmp_path / "killed", tmp_path / "straight", rtol=1e-6)
    assert found


def worker_of(launcher: int, rank: int) -> int:
    """The process that a launcher started for a rank, found by its environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (entry / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return int(entry.name)
    raise AssertionError(f"no rank {rank} below process {launcher}")
