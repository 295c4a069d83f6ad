"""`facekd rebuild-head` from the command line to its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.data.datasets import open_dataset
from facekd.data.datasets.identity_map import labels_sha256
from facekd.distillation.centre_geometry import cosine_correlation, effective_dimension, spread_centres
from facekd.distributed import World
from facekd.embedder import embed_with_flip, open_embedder
from facekd.errors import CheckpointError, run_verb
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.teacher import cache_teacher
from facekd.teacher.rebuild_head import main
from facekd.training.config import TrainConfig
from facekd.training.resume import save_state
from facekd.training.state import build_state

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float (batch, 3, 32, 32) -> (batch, 48): the mean of each channel over 4 x 4 blocks."""
    path = tmp_path_factory.mktemp("model") / "blocks.onnx"
    weights = numpy_helper.from_array(np.diag(np.linspace(1, 2, 48)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 48])],
        [weights],
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


@pytest.fixture
def rebuild(model: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(data: Path, *options: str, status: int = 0) -> Path:
        output = tmp_path / "head.pt"
        command = [str(model), "--data", str(data), "--output", str(output), "--threads", "1", *options]
        assert run_verb(lambda: main(command)) == status
        return output

    return run


def unit_embeddings(model: Path, data: Path) -> np.ndarray:
    images = open_dataset(data, 32).load(np.arange(42))[0]
    summed = np.add(*embed_with_flip(open_embedder(model), images))
    return summed / np.linalg.norm(summed, axis=1, keepdims=True)


def test_the_head_is_the_mean_direction_of_each_identity(
    rebuild: Callable[..., Path], model: Path, tiny_faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = rebuild(tiny_faces)
    content = load_checkpoint(head)
    means = unit_embeddings(model, tiny_faces).reshape(6, 7, 48).mean(axis=1)
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(content["head"]["weight"].numpy(), expected, atol=1e-3)
    assert content["num_classes"] == 6
    assert content["labels_sha256"] == labels_sha256(open_dataset(tiny_faces, 32))
    assert content["teacher_fingerprint"] == open_embedder(model, threads=1).fingerprint
    classifier = build_classifier(HeadConfig(), 48, 6)
    classifier.load_state_dict(content["head"])
    logits = classifier(torch.from_numpy(unit_embeddings(model, tiny_faces)))
    assert (logits.argmax(1).numpy() == np.repeat(np.arange(6), 7)).all()
    printed = capsys.readouterr().out
    assert "6 class centres from 42 images" in printed
    assert "100.00% of 42 images" in printed
    assert sorted(file.name for file in head.parent.iterdir()) == ["head.json", "head.pt"]
    with pytest.raises(CheckpointError, match="holds no backbone"):
        load_backbone(head)


def test_planted_strangers_are_left_out_and_listed(
    rebuild: Callable[..., Path],
    model: Path,
    tiny_faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean = load_checkpoint(rebuild(tiny_faces))["head"]["weight"].numpy()
    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_faces, mixed)
    shutil.copy(tiny_faces / "person_5" / "0.png", mixed / "person_1" / "stranger.png")
    shutil.copy(tiny_faces / "person_0" / "3.png", mixed / "person_4" / "stranger.png")
    output = rebuild(mixed)
    weight = load_checkpoint(output)["head"]["weight"].numpy()
    np.testing.assert_allclose(weight, clean, atol=1e-3)
    with_stranger = unit_embeddings(model, tiny_faces)[[*range(7, 14), 35]].mean(axis=0)
    assert with_stranger @ clean[1] / np.linalg.norm(with_stranger) < 0.995  # a plain mean would have moved
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["num_left_out"] == 2
    assert {(entry["label"], entry["nearest_other"]) for entry in report["far_images"]} == {(1, 5), (4, 0)}
    assert all("stranger.png" in entry["source"] for entry in report["far_images"])
    assert report["accuracy"]["top1"] == pytest.approx(42 / 44)
    assert "person_1/stranger.png" in capsys.readouterr().out


def test_a_cache_is_made_kept_and_used(
    rebuild: Callable[..., Path], tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_checkpoint(rebuild(tiny_faces, "--cache", str(tmp_path / "cache")))
    assert (tmp_path / "cache").exists()
    monkeypatch.setattr("facekd.embedder.OnnxEmbedder.embed", None)  # not needed again
    second = load_checkpoint(rebuild(tiny_faces, "--cache", str(tmp_path / "cache")))
    assert torch.equal(first["head"]["weight"], second["head"]["weight"])


def test_a_cache_of_other_data_is_refused(
    rebuild: Callable[..., Path], tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuild(tiny_faces, "--cache", str(tmp_path / "cache"))
    shutil.copytree(tiny_faces, tmp_path / "fewer")
    (tmp_path / "fewer" / "person_0" / "0.png").unlink()
    rebuild(tmp_path / "fewer", "--cache", str(tmp_path / "cache"), status=2)
    assert "cache of another data set" in capsys.readouterr().err


def test_identities_without_images_are_named(
    rebuild: Callable[..., Path], tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_faces, mixed)
    for file in (mixed / "person_3").iterdir():
        file.write_bytes(b"no image")
    output = rebuild(mixed, "--on-bad-record", "skip", status=2)
    assert "1 of 6 identities has no image to compute a centre from: labels 3 (person_3)" in capsys.readouterr().err
    assert not output.exists()


def test_the_number_of_images_to_evaluate_on_goes_by_its_name_and_by_its_old_one(
    rebuild: Callable[..., Path], tiny_faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--evaluation-images", "--judge-images"):
        report = json.loads(rebuild(tiny_faces, option, "10").with_suffix(".json").read_text())
        assert report["accuracy"]["num_images"] == 10
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "--evaluation-images" in printed and "--judge-images" not in printed


def test_unreadable_images_count_for_nothing(rebuild: Callable[..., Path], tiny_faces: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_faces, mixed)
    (mixed / "person_2" / "6.png").write_bytes(b"no image")  # the first of person_3 stands in for it
    output = rebuild(mixed, "--on-bad-record", "skip")
    report = json.loads(output.with_suffix(".json").read_text())
    assert (report["num_images"], report["num_unreadable"], report["num_left_out"]) == (41, 1, 0)
    assert report["far_images"] == []


@pytest.mark.slow
def test_centres_of_real_faces_classify_them(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    model, data = real_data("models/mobilefacenet_128_fixed_batch.onnx"), real_data("lfw_train/train.rec").parent
    imagenet = ["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--color", "rgb"]
    assert main([str(model), "--data", str(data), "--output", str(tmp_path / "head.pt"), *imagenet]) == 0
    report = json.loads((tmp_path / "head.json").read_text())
    assert report["accuracy"]["top1"] == pytest.approx(0.998, abs=0.001)
    assert report["accuracy"]["top1_leave_one_out"] == pytest.approx(0.998, abs=0.001)
    # LFW itself has an image under a wrong name among these: it looks like another identity, not at all like its own.
    worst = report["far_images"][0]
    assert worst["cosine"] < 0.1 < 0.8 < worst["nearest_other_cosine"]


def test_one_identity_makes_no_head_and_is_said_of_a_cache(
    rebuild: Callable[..., Path],
    model: Path,
    tmp_path: Path,
    write_records: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack = write_records(tmp_path / "pack", [(key, 0, key) for key in range(4)])
    assert not rebuild(pack, status=2).exists()
    assert "all images have label 0, and from a single class nothing can be learnt" in capsys.readouterr().err
    command = [str(model), "--data", str(pack), "--output", str(tmp_path / "cache"), "--threads", "1"]
    assert run_verb(lambda: cache_teacher.main(command)) == 0
    said = capsys.readouterr().err
    assert f"data: {pack}: 4 images, 1 of 1 class has any, labels 0 to 0" in said
    assert f"warning: {pack}: all images have label 0" in said


@pytest.fixture
def network(tiny_config: Callable[..., TrainConfig], tiny_faces: Path) -> Path:
    """A checkpoint of an untrained network with its classifier."""
    return save_state(build_state(tiny_config(), ALONE, open_dataset(tiny_faces, 32), 120))


def rebuild_from(network: Path, data: Path, output: Path, *options: str) -> tuple[np.ndarray, dict[str, Any]]:
    command = [str(network), "--data", str(data), "--output", str(output), "--cache", f"{output}.cache"]
    assert run_verb(lambda: main([*command, *options])) == 0
    return load_checkpoint(output)["head"]["weight"].numpy(), json.loads(output.with_suffix(".json").read_text())


def test_means_are_spread_and_mixed_with_the_models_own_classifier(
    network: Path, tiny_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "head.pt"
    means, plain = rebuild_from(network, tiny_faces, output)
    rows = load_checkpoint(network)["head"]["weight"].numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spread, report = rebuild_from(network, tiny_faces, output, "--power", "0.25")
    np.testing.assert_allclose(spread, spread_centres(means, 0.25), atol=1e-6)
    blended, _ = rebuild_from(network, tiny_faces, output, "--power", "0.25", "--blend", "0.4")
    expected = 0.4 * spread + 0.6 * rows
    np.testing.assert_allclose(blended, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)

    # The report compares them with each other.
    measures = report["centres"]
    assert measures["power"] == 0.25 and measures["blend"] is None and plain["centres"]["power"] is None
    assert measures["dimension"] == pytest.approx(effective_dimension(spread), rel=1e-4)
    assert measures["dimension"] > measures["means_dimension"] == plain["centres"]["dimension"]
    assert measures["rows_and_means_correlation"] == pytest.approx(cosine_correlation(rows, means), abs=1e-4)
    assert load_checkpoint(output)["config"]["rebuilt_head"]["centres"]["blend"] == 0.4
    assert "the model's own classifier" in capsys.readouterr().out


def test_nothing_is_mixed_with_a_classifier_that_is_not_there_or_of_others(
    rebuild: Callable[..., Path],
    network: Path,
    tiny_faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not rebuild(tiny_faces, "--blend", "0.5", status=2).exists()
    assert "an ONNX file has no classifier to mix the class means with" in capsys.readouterr().err
    shutil.copytree(tiny_faces, tmp_path / "fewer")
    shutil.rmtree(tmp_path / "fewer" / "person_3")
    words = [str(network), "--data", str(tmp_path / "fewer"), "--output", str(tmp_path / "fewer.pt")]
    assert run_verb(lambda: main([*words, "--blend", "0.5"])) == 2
    assert "its classifier has 6 identities" in capsys.readouterr().err
    assert run_verb(lambda: main(words)) == 0  # whose own classifier is then only not compared
