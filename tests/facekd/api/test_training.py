"""`facekd.train` and `facekd.distill` from files and objects: the run that comes back, its log and its export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facekd
from facekd.commands.plain_configs import to_yaml
from facekd.errors import ConfigError
from facekd.export.options import JudgingOptions
from facekd.training.config import TrainConfig
from facekd.training.logbook import read_log


@pytest.mark.slow
def test_a_file_with_overrides_trains_logs_and_exports(
    tiny_config: Callable[..., TrainConfig],
    tiny_faces: Path,
    tiny_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("facekd.export.judging.DRAWS", 100)  # instead of a thousand
    config = tmp_path / "tiny.yaml"
    config.write_text(to_yaml(tiny_config()))
    run = facekd.train(config, {"images": 36, "output": tmp_path / "mine"})
    assert run.is_complete and run.folder == tmp_path / "mine"
    log = run.log()
    assert log["images_seen"].tolist() == [12, 24, 36]
    assert log["loss"].tolist() == [entry["loss"] for entry in read_log(run.folder, "train")]
    report = run.export(tmp_path / "m.onnx", judging=JudgingOptions(judge=(tiny_pack,)))
    assert [one["pack"] for one in report.card["judged"]] == [tiny_pack.name]
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    ours = facekd.load_model(run.folder).embed(image)
    assert facekd.similarity(facekd.load_model(tmp_path / "m.onnx").embed(image), ours) == pytest.approx(1, abs=1e-5)

    # A student learns from the run.
    words = {"data.train": tiny_faces, "teacher.model": run.folder, "output": tmp_path / "student", "images": 36}
    student = facekd.distill(config, {**words, "loss.embedding_l2": 1})
    assert student.is_complete and "embedding_l2" in " ".join(student.log())


def test_a_pack_that_is_named_is_measured(
    tiny_config: Callable[..., TrainConfig], tmp_path: Path, tiny_pack: Path
) -> None:
    run = facekd.train(tiny_config(images=36, validation__packs=f"[{tiny_pack}]", validation__every_images=24))
    assert [key for key in run.log("validation") if key.endswith("accuracy")]


def test_mistakes_are_those_of_the_command(tiny_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(to_yaml(tiny_config()))
    with pytest.raises(ConfigError, match=r"schedule\.rl.*schedule\.lr"):
        facekd.train(tmp_path / "c.yaml", {"schedule.rl": 1})
    with pytest.raises(TypeError, match="overrides"):
        facekd.train(tiny_config(), {"images": 12})
