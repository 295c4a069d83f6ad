"""Processes that were told or have read something else than the main one do not train together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from facekd.commands.config_files import parse_config
from facekd.data.datasets import FaceDataset, open_dataset
from facekd.distributed import World
from facekd.errors import TrainingError
from facekd.training.agreement import require_same_sources, require_same_start
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.loop import build_run
from facekd.training.recognizer import Recognizer
from tests.facekd.head.thread_world import run_ranks


def config_of(*words: str, kind: type[TrainConfig] = TrainConfig) -> TrainConfig:
    common = ("--data.train", "synthetic:3x2:1", "--data.image_size", "32", "--global_batch_size", "4")
    return parse_config(kind, [*common, *words], "", "")


def start(configs: list[TrainConfig], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns what each rank says, whose config is the one of its number."""
    dataset = open_dataset("synthetic:3x2:1", 32)
    return said(lambda world: require_same_start(configs[world.rank], world, dataset), monkeypatch)


def said(work: Callable[[World], object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words = ["", ""]

    def run(world: World) -> None:
        try:
            work(world)
        except TrainingError as error:
            words[world.rank] = str(error)

    run_ranks(2, monkeypatch, run)
    assert words[0] == words[1]
    return words


@pytest.mark.parametrize(
    ("key", "value"),
    [("schedule.lr", "0.05"), ("seed", "1"), ("augmentation.flip", "false"), ("checkpoint.every_images", "8")],
)
def test_another_configuration_on_one_rank_is_refused(
    key: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ("--output", str(tmp_path / "run"))
    words = start([config_of(*output), config_of(*output, f"--{key}", value)], monkeypatch)
    assert f"rank 1 has another configuration than the main process: {key} is" in words[0]


def test_paths_and_what_a_process_does_for_itself_may_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, more in ((TrainConfig, ()), (DistillConfig, ("--loss.embedding_l2", "1"))):
        configs = []
        for place, workers in (("here", "0"), ("there", "2")):
            teacher = ("--teacher.model", str(tmp_path / place / "teacher.onnx")) if more else ()
            own = ("--output", str(tmp_path / place / "run"), "--data.workers", workers)
            configs.append(config_of(*more, *teacher, *own, kind=kind))
        assert start(configs, monkeypatch) == ["", ""]


def test_another_checkpoint_of_the_same_name_on_one_rank_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "checkpoints").mkdir(parents=True)
        (tmp_path / place / "checkpoints" / "000000000004.pt").write_bytes(b"of this run")
    configs = [config_of("--output", str(tmp_path / place)) for place in ("here", "there")]
    assert start(configs, monkeypatch) == ["", ""]
    (tmp_path / "there" / "checkpoints" / "000000000004.pt").write_bytes(b"of another")
    assert "has other bytes on rank 1 than on the main process" in start(configs, monkeypatch)[0]


def test_other_files_on_one_rank_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for name in ("lfw.bin", "head.pt"):
            (tmp_path / place / name).write_bytes(b"the same")

    def find(teachers: tuple[str, str] = ("a", "a"), weights: tuple[str, str] = ("b", "b")) -> str:
        def work(world: World) -> None:
            place = tmp_path / ("here", "there")[world.rank]
            packs = ("--validation.packs", f"[{place / 'lfw.bin'}]")
            config = config_of("--output", str(tmp_path / "run"), "--shared_head", str(place / "head.pt"), *packs)
            recognizer = Recognizer(nn.Identity(), nn.Identity())
            recognizer.teacher_fingerprint = teachers[world.rank]
            recognizer.started_from = {"backbone": {"sha256": weights[world.rank]}}
            require_same_sources(config, world, recognizer)

        return said(work, monkeypatch)[0]

    assert find() == ""
    assert "teacher is another file on rank 1" in find(teachers=("a", "c"))
    assert "backbone.weights is another file on rank 1" in find(weights=("b", "c"))
    for name, key in (("lfw.bin", "validation.packs.0"), ("head.pt", "shared_head")):
        (tmp_path / "there" / name).write_bytes(b"another")
        assert f"{key} is another file on rank 1" in find()
        shutil.copy(tmp_path / "here" / name, tmp_path / "there" / name)

    # A plug-in of another content, as the second process has loaded it.
    digests = iter("xy")
    monkeypatch.setattr(
        "facekd.training.agreement.plugins_of", lambda _: [{"name": "tiny.py", "sha256": next(digests)}]
    )
    assert "plug-in tiny.py is another file on rank 1" in find()


def test_no_run_is_built_of_other_images_or_weights(
    tiny_config: Callable[..., TrainConfig], tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The state is built after the checks, and would join the processes.
    monkeypatch.setattr("facekd.training.loop.build_state", lambda *_: None)
    faces = shutil.copytree(tiny_faces, tmp_path / "faces")
    configs = [tiny_config(data__train=place, backbone__weights="a.pt") for place in (tiny_faces, faces)]

    def build(weights: str = "b") -> str:
        def make(config: TrainConfig, world: World, _: FaceDataset) -> Recognizer:
            recognizer = Recognizer(nn.Identity(), nn.Identity())
            recognizer.started_from = {"backbone": {"sha256": "b" if world.is_main else weights}}
            return recognizer

        return said(lambda world: build_run(configs[world.rank], world, make), monkeypatch)[0]

    assert build() == ""
    assert "backbone.weights is another file on rank 1" in build(weights="c")
    one, other = (faces / "person_2" / name for name in ("1.png", "4.png"))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert "holds other images, labels or names on rank 1 than on the main process" in build()


def test_one_process_alone_compares_nothing(tmp_path: Path) -> None:
    world = World(0, 1, torch.device("cpu"))
    config = config_of("--output", str(tmp_path / "run"), "--shared_head", str(tmp_path / "none.pt"))
    require_same_sources(config, world, Recognizer(nn.Identity(), nn.Identity()))
