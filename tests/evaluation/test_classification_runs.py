"""Classification from files to figures: a teacher, TH-KD and SH-KD students with linear heads, evaluation, export."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from data_prep.synthesize_classification import main as synthesize
from evaluation.evaluate_classification import main as evaluate
from facekd.api.validators import make_validators
from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.data.loading.loader import make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.distributed import World
from facekd.embedder import OnnxEmbedder
from facekd.embedder.classifying_model import load_logit_network
from facekd.errors import CheckpointError, ConfigError, ModelError
from facekd.export.export_onnx import export_checkpoint
from facekd.export.options import ExportOptions
from facekd.images.augmentation import Augmentation
from facekd.images.model_input import to_model_input
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distill import main as distill
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.logbook import read_log
from facekd.training.train import main as train
from tests.pooling_model import write_pooling_model

ALONE = World(0, 1, torch.device("cpu"))
SMALL = {"backbone__name": "resnet8x4", "backbone__width": 0.25, "backbone__embedding_size": 64}
TINY = {"backbone__name": "resnet20", "backbone__width": 0.5, "backbone__embedding_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-100's files with 6 generated classes, 20 images of each to train on and 10 to test."""
    folder = tmp_path_factory.mktemp("data")
    options = ["--classes", "6", "--images-per-class", "20", "--test-images-per-class", "10"]
    assert synthesize(["--layout", "cifar-100", "--output", str(folder), *options]) == 0
    return folder


def arguments(data: Path, output: Path, **overrides: Any) -> list[str]:
    values = {
        "data__train": data,
        "data__image_size": 32,
        "data__workers": 0,
        "output": output,
        "head__kind": "linear",
        "augmentation__pad_crop": 4,
        "schedule__name": "constant",
        "schedule__lr": 0.05,
        "clip_norm": 0,
        "global_batch_size": 20,
        "images": 400,
        "log_every_images": 20,
        "device": "cpu",
        "tensorboard": "false",
        **SMALL,
        **overrides,
    }
    return [word for key, value in values.items() for word in (f"--{key.replace('__', '.')}", str(value))]


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    options = {"data__held_out": 0.1, "validation__classification": "held_out", "images": 1200}
    assert train(arguments(data, folder, **options), make_validators) == 0
    return folder


@pytest.fixture
def student(data: Path, teacher: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str = "student", **overrides: Any) -> Path:
        output = tmp_path / name
        assert distill(arguments(data, output, **{"teacher__model": teacher, **overrides}), make_validators) == 0
        return output

    return run


def losses(folder: Path, name: str = "loss") -> list[float]:
    return [entry[name] for entry in read_log(folder, "train")]


def images_to_test(data: Path) -> tuple[torch.Tensor, np.ndarray]:
    images, labels = open_dataset(data, 32, split="test").load(np.arange(60))
    return to_model_input(torch.from_numpy(images)), labels


def test_a_teacher_learns_and_is_evaluated_as_counted_by_hand(data: Path, teacher: Path, tmp_path: Path) -> None:
    validated = read_log(teacher, "validation")[-1]
    assert validated["held_out/accuracy"] > 0.5
    assert (teacher / "checkpoints" / "best.pt").exists()  # chosen on 12 images that were not trained on
    argv = ["--model", str(teacher), "--data", str(data), "--output", str(tmp_path), "--workers", "0"]
    assert evaluate([*argv, "--batch-size", "7"]) == 0  # which does not divide 60
    result = json.loads((tmp_path / "results.json").read_text())
    images, labels = images_to_test(data)
    network, _ = load_logit_network(teacher)
    with torch.no_grad():
        logits = network(images).numpy()
    assert result["heads"]["head"]["top1"] == pytest.approx((logits.argmax(1) == labels).mean())
    in_five = (np.argsort(-logits, 1)[:, :5] == labels[:, None]).any(1)
    assert result["heads"]["head"]["top5_correct"] == in_five.sum()
    assert result["heads"]["head"]["top1"] > 0.5  # a sixth by chance
    low, high = result["heads"]["head"]["top1_interval"]
    assert low < result["heads"]["head"]["top1"] < high
    assert result["data"]["num_images"] == 60


def test_images_held_out_for_nothing_are_warned_of(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(arguments(data, tmp_path / "x", data__held_out=0.1, images=20), make_validators) == 0
    assert "data.held_out keeps images from training, and nothing measures them" in capsys.readouterr().err


def test_the_loss_is_the_published_sum(data: Path, teacher: Path, tmp_path: Path) -> None:
    """CE + 1.5 KL_4 + 0.02 KL_4 through the teacher's head, computed naively from logits, biases and all."""
    argv = arguments(data, tmp_path / "x", teacher__model=teacher, loss__kl=1.5, loss__th_kl=0.02, loss__temperature=4)
    config = parse_config(DistillConfig, argv, "facekd distill", "")
    dataset = open_dataset(data, 32)
    distiller = build_distiller(config, ALONE, dataset).eval()
    sampler = PositionSampler(FullShuffle(len(dataset), 0), 20, total_images=20)
    batch = next(iter(make_loader(dataset, sampler, Augmentation(flip=False))))
    images = to_model_input(batch.images)
    found = distiller(images, batch.labels, *distiller.targets(batch))
    teacher_network, _ = load_logit_network(teacher)
    w, b = (load_checkpoint(teacher)["head"][name] for name in ("weight", "bias"))
    assert b.abs().max() > 0
    with torch.no_grad():
        z = distiller.backbone(images)
        own, shared, target = distiller.head(z), z @ w.T + b, teacher_network(images)

    def kl(y: torch.Tensor) -> torch.Tensor:
        p = (target / 4).softmax(1)
        return 16 * (p * (p.log() - (y / 4).log_softmax(1))).sum(1).mean()

    naive = functional.cross_entropy(own, batch.labels) + 1.5 * kl(own) + 0.02 * kl(shared)
    torch.testing.assert_close(found[0], naive, rtol=1e-4, atol=1e-5)


def test_th_kd_mixes_two_heads(data: Path, teacher: Path, student: Callable[..., Path], tmp_path: Path) -> None:
    before = load_checkpoint(teacher)["head"]
    folder = student(share=0.25, loss__kl=0.5, loss__embedding_cosine=1, optimizer__weight_decay=0.1)
    entry = read_log(folder, "train")[-1]
    parts = {"ce": 0.75, "kl": 0.375, "th_ce": 0.25, "th_kl": 0.125, "embedding_cosine": 1}
    assert entry["loss"] == pytest.approx(sum(w * entry[f"loss_{name}"] for name, w in parts.items()), rel=1e-5)
    argv = ["--model", str(folder), "--teacher-head", str(teacher), "--mix", "0.25", "0", "1", "--data", str(data)]
    assert evaluate([*argv, "--output", str(tmp_path / "r"), "--workers", "0"]) == 0
    heads = json.loads((tmp_path / "r" / "results.json").read_text())["heads"]
    assert heads["mix 0"] == heads["head"]
    assert heads["mix 1"] == heads["teacher_head"]
    images, labels = images_to_test(data)
    network, _ = load_logit_network(folder)
    with torch.no_grad():
        z = network.backbone(images)
        mixed = 0.75 * network.head(z).softmax(1) + 0.25 * (z @ before["weight"].T + before["bias"]).softmax(1)
    assert heads["mix 0.25"]["top1"] == pytest.approx((mixed.argmax(1).numpy() == labels).mean())
    assert "bias_distance" in read_log(folder, "heads")[0]


@pytest.mark.slow
def test_sh_kd_leaves_the_shared_head_as_it_was(data: Path, student: Callable[..., Path], tmp_path: Path) -> None:
    first, second = tmp_path / "I0", tmp_path / "I1"
    assert train(arguments(data, first, images=200)) == 0
    head = load_checkpoint(first)["head"]
    options = {"optimizer__weight_decay": 0.1, "images": 200}
    assert train(arguments(data, second, shared_head=first, **options)) == 0
    last = student("I2", teacher__model=second, shared_head=first, loss__kl=1, loss__crd=0.8, **options)
    for folder in (second, last):
        found = load_checkpoint(folder)["head"]
        assert all(torch.equal(found[name], head[name]) for name in ("weight", "bias"))
    assert np.mean(losses(second)[-3:]) < losses(second)[0]


@pytest.mark.slow
def test_an_interrupted_student_resumes_exactly(student: Callable[..., Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"share": 0.5, "loss__kl": 1, "checkpoint__every_images": 40, "images": 200}
    options |= {"data__held_out": 0.1, "validation__classification": "held_out", "validation__every_images": 80}
    whole, resumed = student("whole", **options), student("resumed", **options)
    for late in sorted((resumed / "checkpoints").glob("0*.pt"))[1:]:
        late.unlink()
    student("resumed", **options)
    first, second = load_checkpoint(whole), load_checkpoint(resumed)
    for part in ("backbone", "head"):
        assert all(torch.equal(first[part][name], second[part][name]) for name in first[part])
    assert losses(whole) == losses(resumed)[-len(losses(whole)) :]


@pytest.mark.slow
def test_unequal_embeddings_meet_through_a_projection(
    data: Path, teacher: Path, student: Callable[..., Path], tmp_path: Path
) -> None:
    both = student("both", share=0.5, loss__kl=1, images=60, **TINY)
    argv = ["--model", str(both), "--teacher-head", str(teacher), "--data", str(data), "--output", str(tmp_path / "r")]
    assert evaluate([*argv, "--workers", "0"]) == 0  # the projection is found in the checkpoint
    assert load_logit_network(both)[0].head.weight.shape == (6, 32)
    folder = student(share=1, loss__kl=1, images=100, **TINY)
    network, _ = load_logit_network(folder)
    content = load_checkpoint(folder)
    w, p = content["head"]["weight"], content["projection"]
    assert torch.equal(w, load_checkpoint(teacher)["head"]["weight"])
    torch.testing.assert_close(network.head.weight, w @ p)
    images, _ = images_to_test(data)
    report = export_checkpoint(folder, tmp_path / "student.onnx")
    assert report.metadata["output"] == "logits"
    raw, _ = open_dataset(data, 32, split="test").load(np.arange(60))
    with torch.no_grad():
        np.testing.assert_allclose(OnnxEmbedder(report.path).embed(raw), network(images).numpy(), atol=1e-3)
    argv = ["--data", str(data), "--output", str(tmp_path / "r"), "--workers", "0"]
    tops = []
    for options in (["--model", str(report.path)], ["--model", str(folder)]):
        assert evaluate([*argv, *options]) == 0
        tops.append(json.loads((tmp_path / "r" / "results.json").read_text())["heads"]["head"]["top1"])
    assert tops[0] == tops[1]
    with pytest.raises(ModelError, match="logits are no embedding: leave out --normalize"):
        export_checkpoint(folder, tmp_path / "no.onnx", ExportOptions(normalize=True))


def test_folders_of_images_of_any_size_and_a_torchvision_network(tmp_path: Path) -> None:
    options = ["--classes", "3", "--images-per-class", "4", "--test-images-per-class", "2", "--size", "40"]
    assert synthesize(["--layout", "folders", "--output", str(tmp_path / "images"), *options]) == 0
    overrides = {"backbone__name": "shufflenet_v2_x1_0", "backbone__width": 1, "backbone__embedding_size": 1024}
    overrides |= {"augmentation__pad_crop": 0, "augmentation__resized_crop": 0.3, "data__center_crop": 0.875}
    overrides |= {"images": 12, "global_batch_size": 6, "validation__classification": "test"}
    argv = arguments(tmp_path / "images", tmp_path / "run", **overrides)
    assert train(argv, make_validators) == 0
    assert read_log(tmp_path / "run", "validation")[-1]["test/accuracy"] in (0, *np.arange(1, 7) / 6)
    argv = ["--model", str(tmp_path / "run"), "--data", str(tmp_path / "images"), "--output", str(tmp_path / "r")]
    assert evaluate([*argv, "--workers", "0"]) == 0
    result = json.loads((tmp_path / "r" / "results.json").read_text())
    assert result["data"]["center_crop"] == 0.875
    assert "top5" not in result["heads"]["head"]  # of three classes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"loss__arcdistill": 1}, r"loss\.arcdistill puts a margin on angles"),
        ({"loss__kl": 1, "margin_on_teacher_head": "false"}, "has no effect with head.kind = 'linear'"),
        ({"loss__kl": 1, "ema_half_life_images": 100}, "averages the backbone alone"),
        ({"loss__kl": 1, "validation__classification": "held_out"}, r"set data\.held_out"),
        ({"loss__kl": 1, "head__kind": "margin", "validation__classification": "test"}, "evaluates a linear head"),
        ({"loss__kl": 1, "backbone__embedding_size": 128}, "must be 64 for resnet8x4 at width 0.25"),
        ({"loss__kl": 1, "data__held_out": 1}, "a share below 1"),
    ],
)
def test_configurations_that_cannot_be(
    overrides: dict[str, Any], message: str, data: Path, teacher: Path, tmp_path: Path
) -> None:
    argv = arguments(data, tmp_path / "x", **{"teacher__model": teacher, **overrides})
    with pytest.raises(ConfigError, match=message):
        parse_config(DistillConfig, argv, "facekd distill", "")


def test_heads_of_two_kinds_and_other_classes_are_refused(
    student: Callable[..., Path], teacher: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"classifier is a linear one, head\.kind is 'margin'"):
        student(share=1, loss__kl=1, head__kind="margin")
    others = tmp_path / "others"
    options = ["--classes", "5", "--images-per-class", "4", "--test-images-per-class", "2"]
    assert synthesize(["--layout", "cifar-10", "--output", str(others), *options]) == 0
    with pytest.raises(CheckpointError, match=r"has 6 identities, .* has 5"):
        student("x", share=1, loss__kl=1, data__train=others)
    argv = ["--model", str(teacher), "--data", str(others), "--output", str(tmp_path / "r"), "--workers", "0"]
    with pytest.raises(CheckpointError, match=r"has 6 classes, .* has 5"):
        evaluate(argv)


def test_a_run_from_before_a_key_existed_resumes(data: Path, tmp_path: Path) -> None:
    from facekd.checkpoints.checkpoint import save_checkpoint
    from facekd.checkpoints.run_folder import list_checkpoints

    build = partial(arguments, data, tmp_path / "run", images=40, checkpoint__every_images=20)
    assert train(build()) == 0
    file = list_checkpoints(tmp_path / "run")[-1]
    content = load_checkpoint(file)
    del content["config"]["data"]["held_out"], content["config"]["augmentation"]["pad_crop"]
    save_checkpoint(file, {key: value for key, value in content.items() if key not in ("format", "version")})
    with pytest.raises(CheckpointError, match=r"augmentation\.pad_crop was 0, now 4$|augmentation\.pad_crop was 0"):
        train(build())
    assert train(build(augmentation__pad_crop=0)) == 0


def test_every_recipe_is_a_configuration() -> None:
    recipes = sorted((Path(__file__).parents[2] / "configs" / "classification").glob("*.yaml"))
    assert len(recipes) == 7
    for recipe in recipes:
        is_distillation = "\nloss:" in recipe.read_text()
        config = parse_config(DistillConfig if is_distillation else TrainConfig, [str(recipe)], "facekd", "")
        assert config.output == f"runs/{recipe.stem}"
        assert config.head.kind == "linear"


def test_logits_of_an_onnx_file_are_computed_where_it_is_asked_for(tmp_path: Path) -> None:
    model = write_pooling_model(tmp_path / "model.onnx", 32, 8)
    with pytest.raises(ModelError, match="device is 'cuda' but this onnxruntime has no CUDA"):
        evaluate(
            ["--model", str(model), "--data", str(tmp_path / "d"), "--output", str(tmp_path / "r"), "--device", "cuda"]
        )
