"""Tests distillation: shared and frozen classifiers, live and cached teachers, projections, refused configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facekd.backbones.building import build_backbone
from facekd.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.distillation.contrastive import ContrastiveDistillation, ContrastiveSettings
from facekd.distributed import World
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError, ConfigError, DataError, TeacherError
from facekd.teacher.cache import write_teacher_cache
from facekd.teacher.rebuild_head import main as rebuild_head
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distill import main
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.logbook import read_log
from facekd.training.loop import train
from facekd.training.state import build_state

ALONE = World(0, 1, torch.device("cpu"))
Distil = Callable[..., Path]


@pytest.fixture(scope="module")
def teacher(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a teacher with embeddings of 24 numbers; the students have 16."""
    folder = tmp_path_factory.mktemp("teacher")
    arguments = [
        *("--data.train", str(tiny_faces), "--data.image_size", "32", "--data.workers", "0", "--device", "cpu"),
        *("--output", str(folder), "--tensorboard", "false", "--backbone.width", "0.25"),
        *("--backbone.embedding_size", "24", "--head.scale", "16", "--schedule.lr", "0.05"),
        *("--images", "360", "--global_batch_size", "12", "--seed", "3"),
    ]
    train(parse_config(TrainConfig, arguments, "facekd train", ""), ALONE)
    return folder


@pytest.fixture
def distil(tiny_arguments: list[str], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distil:
    """Distils the teacher into the tiny student; keyword arguments with `__` for dots override; returns the folder.

    Nothing is drawn at the end, unless `diagnostics="true"` is among them. CRD contrasts with 64 images, not 16,384.
    """
    few = partial(ContrastiveDistillation, settings=ContrastiveSettings(num_negatives=64))
    monkeypatch.setattr("facekd.training.distilling.build_distiller.ContrastiveDistillation", few)

    def run(name: str = "student", **overrides: Any) -> Path:
        arguments = [*tiny_arguments, "--teacher.model", str(teacher), "--output", str(tmp_path / name)]
        arguments += ["--diagnostics", "false"]
        arguments += [word for key, value in overrides.items() for word in (f"--{key.replace('__', '.')}", str(value))]
        assert main(arguments) == 0
        return tmp_path / name

    return run


def losses(folder: Path, name: str = "loss") -> list[float]:
    return [entry[name] for entry in read_log(folder, "train")]


@pytest.mark.parametrize(
    "overrides",
    [
        {"share": 0.5, "loss__kl": 1},
        pytest.param({"share": 1, "loss__kl": 1}, marks=pytest.mark.slow),
        pytest.param({"loss__kl": 1}, marks=pytest.mark.slow),
        pytest.param({"loss__kl": 1.5, "loss__th_kl": 0.02, "margin_on_teacher_head": "false"}, marks=pytest.mark.slow),
        pytest.param({"loss__ce": 0.5, "loss__dkd_target": 1, "loss__dkd_others": 4}, marks=pytest.mark.slow),
        pytest.param(
            {"share": 0.5, "loss__dist_inter": 2, "loss__dist_intra": 2, "loss__standardize_logits": "true"},
            marks=pytest.mark.slow,
        ),
        pytest.param({"loss__embedding_cosine": 5}, marks=pytest.mark.slow),
        pytest.param({"loss__ce": 0, "loss__embedding_l2": 1}, marks=pytest.mark.slow),
        {"loss__rkd_distance": 25, "loss__rkd_angle": 50, "loss__sp": 10},
        pytest.param({"loss__crd": 0.8}, marks=pytest.mark.slow),
        pytest.param({"loss__ce": 0, "loss__arcdistill": 1}, marks=pytest.mark.slow),
        pytest.param({"loss__ce": 0, "loss__adadistill": 1}, marks=pytest.mark.slow),
        pytest.param({"loss__ce": 0, "loss__simkd": 1}, marks=pytest.mark.slow),
    ],
    ids=lambda overrides: " ".join(f"{key}={value}" for key, value in overrides.items()),
)
def test_every_loss_trains_and_is_logged(distil: Distil, overrides: dict[str, Any]) -> None:
    folder = distil(images=240, checkpoint__every_images=0, diagnostics="true", **overrides)
    entries = read_log(folder, "train")
    names = [name for name in entries[0] if name.startswith("loss_")]
    assert names
    assert np.mean(losses(folder)[-4:]) < np.mean(losses(folder)[1:5])
    backbone, _ = load_backbone(folder)
    assert torch.isfinite(backbone(torch.zeros(2, 3, 32, 32))).all()


def test_the_logged_parts_add_up(distil: Distil) -> None:
    folder = distil(loss__ce=0.5, loss__kl=1.5, loss__th_ce=0.25, loss__embedding_cosine=2)
    for entry in read_log(folder, "train"):
        parts = {"loss_ce": 0.5, "loss_kl": 1.5, "loss_th_ce": 0.25, "loss_embedding_cosine": 2}
        assert entry["loss"] == pytest.approx(sum(weight * entry[name] for name, weight in parts.items()), rel=1e-5)


def test_share_is_equations_1_and_2(distil: Distil) -> None:
    shared = distil("shared", share=0.25, loss__ce=2, loss__kl=4)
    spelt_out = distil("spelt", loss__ce=1.5, loss__th_ce=0.5, loss__kl=3, loss__th_kl=1)
    assert losses(shared) == losses(spelt_out)


def test_a_frozen_classifier_never_moves_a_bit(distil: Distil, teacher: Path) -> None:
    before = load_checkpoint(teacher)["head"]["weight"]
    # a = 1: the student's only classifier is the teacher's. Weight decay and momentum are on.
    student = load_checkpoint(distil(share=1, loss__kl=1, optimizer__weight_decay=0.1))
    assert torch.equal(student["head"]["weight"], before)
    assert student["projection"].shape == (24, 16)


@pytest.mark.slow
def test_a_teacher_under_the_students_frozen_head(tiny_config: Any, distil: Distil, tmp_path: Path) -> None:
    # SH-KD: student (I0), teacher under the student's head (I1), new student under the same head (I2).
    first = tiny_config(output=tmp_path / "I0")
    train(first, ALONE)
    head = load_checkpoint(first.output)["head"]["weight"]
    second = tiny_config(output=tmp_path / "I1", shared_head=first.output, backbone__width=0.25, images=240)
    train(second, ALONE)
    assert torch.equal(load_checkpoint(second.output)["head"]["weight"], head)
    assert np.mean(losses(Path(second.output))[-3:]) < losses(Path(second.output))[0]
    last = distil("I2", teacher__model=second.output, shared_head=first.output, loss__kl=1, diagnostics="true")
    assert torch.equal(load_checkpoint(last)["head"]["weight"], head)
    comparison = read_log(last, "heads")[0]
    assert comparison["images_seen"] == 120


def test_a_cached_teacher_equals_the_live_one(distil: Distil, teacher: Path, tiny_faces: Path, tmp_path: Path) -> None:
    write_teacher_cache(tmp_path / "cache", open_embedder(teacher), open_dataset(tiny_faces, 32))
    # A small rate, for training amplifies the rounding of the cache to half precision.
    options = {"loss__kl": 1, "loss__embedding_cosine": 1, "schedule__lr": 0.002}
    live, cached = distil("live", **options), distil("cached", teacher__cache=tmp_path / "cache", **options)
    np.testing.assert_allclose(losses(cached), losses(live), rtol=2e-3)
    distil("half", teacher__cache=tmp_path / "cache", precision="bf16", **options)
    with pytest.raises(ConfigError, match=r"more than the flip.*cache_despite_augmentation"):
        distil("augmented", teacher__cache=tmp_path / "cache", augmentation__blur=0.5, **options)
    # The student would see the middle of each image, and its teacher the whole.
    with pytest.raises(ConfigError, match=r"embeddings of whole images, and data\.center_crop .*cache_despite"):
        distil("middle", teacher__cache=tmp_path / "cache", data__center_crop=0.875, **options)


@pytest.mark.slow
def test_an_interrupted_distillation_resumes_exactly(distil: Distil, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"loss__crd": 0.8, "loss__adadistill": 1, "ema_half_life_images": 50, "diagnostics": "true"}
    whole = distil("whole", **options)
    with monkeypatch.context() as broken:
        calls = iter(range(100))

        def fail_at_last(*arguments: Any) -> None:
            raise KeyboardInterrupt

        # Dies at the end of the run, after the last checkpoint but one: what follows it must be repeated.
        broken.setattr("facekd.training.distilling.diagnostics.diagnose", fail_at_last)
        broken.setattr("facekd.training.loop.save_state", lambda state, *rest: _save_until(state, 72, calls, *rest))
        with pytest.raises(KeyboardInterrupt):
            distil("broken", data__workers=1, **options)
    assert losses(distil("broken", data__workers=1, **options)) == losses(whole)
    first, second = load_checkpoint(whole), load_checkpoint(whole.parent / "broken")
    assert torch.equal(first["training"]["extras"]["centres"], second["training"]["extras"]["centres"])
    for name, value in first["ema"].items():
        assert torch.equal(value, second["ema"][name]), name


@pytest.mark.slow
def test_statistics_on_the_teachers_head_survive_a_resume(distil: Distil) -> None:
    # AdaFace counts norms on the frozen head too; the student owns another.
    options = {"head__margin": "adaface", "head__margin_value": 0.4, "loss__th_ce": 1}
    whole, resumed = distil("whole", **options), distil("resumed", **options)
    for late in sorted((resumed / "checkpoints").iterdir())[1:]:
        late.unlink()
    distil("resumed", **options)
    first, second = (load_checkpoint(folder)["training"]["extras"] for folder in (whole, resumed))
    assert "teacher_head.norm_mean" in first
    assert "teacher_head.weight" not in first
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_teacher_that_no_loss_asks_is_not_run(distil: Distil, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.teacher.teacher.open_embedder", None)
    distil(loss__ce=0, loss__arcdistill=1, images=36)


def _save_until(state: Any, images: int, calls: Any, *rest: Any) -> None:
    from facekd.training.resume import save_state

    next(calls)
    if state.images_seen <= images:
        save_state(state, *rest)


@pytest.mark.slow
def test_the_projection_costs_deployment_nothing(tiny_arguments: list[str], teacher: Path, tmp_path: Path) -> None:
    for name in ("mobilefacenet", "iresnet18"):
        arguments = [*tiny_arguments, "--backbone.name", name, "--output", str(tmp_path / name), "--share", "1"]
        arguments += ["--teacher.model", str(teacher), "--ema_half_life_images", "40"]
        assert main(arguments) == 0
        config = parse_config(DistillConfig, arguments, "facekd distill", "")
        dataset = open_dataset(config.data.train, 32)
        state = build_state(config, ALONE, dataset, 120, build_distiller(config, ALONE, dataset))
        from facekd.training.resume import restore_latest

        restore_latest(state)
        images = torch.randn(5, 3, 32, 32)
        for ema, trained in ((False, state.recognizer.deployed), (True, state.ema)):
            folded, _ = load_backbone(tmp_path / name, ema=ema)
            assert folded.embedding_size == 24
            assert type(folded) is type(build_backbone(name))
            assert trained is not None
            with torch.no_grad():
                torch.testing.assert_close(folded(images), trained.eval()(images), rtol=1e-4, atol=1e-4)


def test_other_identities_are_refused(distil: Distil, teacher: Path, tiny_faces: Path, tmp_path: Path) -> None:
    fewer, renamed, others = tmp_path / "fewer", tmp_path / "renamed", tmp_path / "others"
    for number, person in enumerate(sorted(tiny_faces.iterdir())):
        for target, count in ((fewer, 7 if number < 4 else 0), (renamed, 7 - number % 2), (others, 7)):
            folder = target / (f"other_{person.name}" if target is others else person.name)
            for image in sorted(person.iterdir())[:count]:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / image.name).write_bytes(image.read_bytes())
    with pytest.raises(CheckpointError, match=r"has 6 identities, .* has 4"):
        distil(share=1, data__train=fewer)
    with pytest.raises(CheckpointError, match="made from other data"):
        distil(share=1, data__train=renamed)
    with pytest.raises(CheckpointError, match="made from other data"):  # as many images of each, under other names
        distil(share=1, data__train=others)


def test_a_teacher_without_a_classifier_is_sent_to_rebuild_head(distil: Distil, teacher: Path, tmp_path: Path) -> None:
    content = load_checkpoint(teacher)
    save_checkpoint(tmp_path / "bare.pt", {key: content[key] for key in ("config", "preprocessing", "backbone")})
    with pytest.raises(CheckpointError, match="facekd rebuild-head"):
        distil(share=1, teacher__model=tmp_path / "bare.pt")


def test_a_teacher_and_a_head_of_two_models_are_refused(distil: Distil, tiny_config: Any, tmp_path: Path) -> None:
    other = tiny_config(output=tmp_path / "other")
    train(other, ALONE)
    with pytest.raises(TeacherError, match=r"embeddings of 24, teacher\.head takes 16"):
        distil(share=1, loss__kl=1, teacher__head=other.output)


@pytest.mark.slow
def test_a_head_rebuilt_from_another_model_is_warned_of(
    tiny_arguments: list[str], teacher: Path, tiny_faces: Path, tmp_path: Path
) -> None:
    content = load_checkpoint(teacher)
    name = next(name for name in content["backbone"] if name.endswith("weight"))
    content["backbone"][name] = content["backbone"][name] * 1.5
    save_checkpoint(tmp_path / "other.pt", content)
    warned = {}
    for model in (teacher, tmp_path / "other.pt"):
        head = tmp_path / f"head_{model.stem}.pt"
        assert rebuild_head([str(model), "--data", str(tiny_faces), "--output", str(head)]) == 0
        # In half precision the teacher has another fingerprint than the one that the head was made with.
        words = ["--teacher.model", str(teacher), "--teacher.head", str(head), "--loss.kl", "1", "--precision", "bf16"]
        dataset = open_dataset(tiny_faces, 32)
        build_distiller(parse_config(DistillConfig, [*tiny_arguments, *words], "", ""), ALONE, dataset)
        warned[model] = "was rebuilt from the embeddings of another file" in " ".join(dataset.warnings)
    assert warned == {teacher: False, tmp_path / "other.pt": True}


def test_another_teacher_is_refused_on_resume(distil: Distil, tiny_config: Any, tmp_path: Path) -> None:
    folder = distil(loss__embedding_cosine=1)
    other = tiny_config(output=tmp_path / "other")
    train(other, ALONE)
    with pytest.raises(CheckpointError, match="learnt from another teacher"):
        distil(folder.name, loss__embedding_cosine=1, teacher__model=other.output)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "training without a teacher"),
        ({"share": 2}, r"share = 2\.0 is outside"),
        ({"share": 0.5, "loss__th_ce": 1}, "must be left at 0"),
        ({"loss__ce": 0}, r"all weights under loss\.\* are 0"),
        ({"loss__kl": -1}, r"loss\.kl = -1"),
        ({"loss__kl": 1, "teacher__model": ""}, r"teacher\.model is empty"),
        ({"loss__th_ce": 1, "teacher__model": ""}, r"loss\.th_ce needs the teacher's classifier: set"),
        ({"loss__kll": 1}, r"did you mean 'loss\.kl'"),
        ({"loss__ce": 0, "loss__sp": 1, "head__sharded": "true"}, r"head\.sharded has no effect: loss\.sp go"),
        (
            {"loss__ce": 0, "loss__simkd": 1, "head__sharded": "true", "head__sample_rate": 0.5},
            r"head\.sharded and head\.sample_rate have no effect",
        ),
    ],
)
def test_configurations_that_cannot_be(distil: Distil, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        distil(**overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [{"share": 1}, {"loss__ce": 0, "loss__arcdistill": 1}],
    ids=["th_ce", "arcdistill"],
)
def test_the_teachers_classifier_alone_is_shared_out_and_sampled(distil: Distil, loss: dict[str, Any]) -> None:
    # Fewer people in a step than there are.
    options = {**loss, "global_batch_size": 3, "images": 27, "log_every_images": 3, "checkpoint__every_images": 0}
    whole, sharded = distil("whole", **options), distil("sharded", **options, head__sharded="true")
    assert losses(sharded) == pytest.approx(losses(whole), rel=1e-3)
    content = load_checkpoint(sharded)
    assert "weight" not in content["head"] and content["head_shards"]["shapes"].keys() == {"weight"}
    sampled = distil("sampled", **options, head__sharded="true", head__sample_rate=0.5)
    assert losses(sampled)[0] < 0.99 * losses(whole)[0]  # the first step has fewer classes to be told apart from


def test_diagnostics_are_those_of_the_models_left_behind(distil: Distil, teacher: Path, tiny_faces: Path) -> None:
    folder = distil(loss__kl=1, loss__rkd_angle=1, augmentation__flip="false", diagnostics="true")
    images = open_dataset(str(tiny_faces), 32).load(np.arange(42))[0]

    def embed(source: Path) -> np.ndarray:
        rows = open_embedder(str(source)).embed(images).astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def first_class(source: Path, rows: np.ndarray) -> np.ndarray:
        weight = load_checkpoint(next(iter(sorted((source / "checkpoints").glob("*.pt"))[-1:])))["head"]["weight"]
        return (rows @ torch.nn.functional.normalize(weight).double().numpy().T).argmax(1)

    student_BD, teacher_BE = embed(folder), embed(teacher)
    (found,) = read_log(folder, "agreement")
    assert found["num_images"] == 42
    expected = np.mean(first_class(folder, student_BD) == first_class(teacher, teacher_BE))
    assert found["agreement"] == pytest.approx(expected)
    s, t = (rows - rows.mean(0) for rows in (student_BD, teacher_BE))
    kernels = s @ s.T, t @ t.T
    alignment = np.sum(kernels[0] * kernels[1]) / (np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1]))
    assert found["relation_similarity"] == pytest.approx(alignment, rel=1e-3)
    assert "embedding_cosine" not in found and not (folder / "diagnostics.png").exists()  # 16 against 24 numbers


@pytest.mark.slow
def test_diagnostics_that_a_kill_prevented_are_made_by_the_same_command(distil: Distil) -> None:
    options = {"backbone__embedding_size": 24, "loss__kl": 1, "images": 36, "diagnostics": "true"}
    folder = distil("killed", **options)
    log, picture = folder / "log.jsonl", folder / "diagnostics.png"
    whole, drawn = log.read_bytes(), picture.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["kind"] for line in lines[-2:]] == ["heads", "agreement"]
    # Killed after the last checkpoint: before the first of the entries, before the second, before the picture.
    for left in (lines[:-2], lines[:-1], lines):
        log.write_bytes(b"".join(left))
        picture.unlink()
        distil("killed", **options)
        assert (without_times(log.read_bytes()), picture.read_bytes()) == (without_times(whole), drawn)
    # Nothing is left to do, and nothing is done again.
    before = picture.stat().st_mtime_ns
    distil("killed", **options)
    assert picture.stat().st_mtime_ns == before and without_times(log.read_bytes()) == without_times(whole)


def without_times(log: bytes) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in log.splitlines()]
    return [{key: value for key, value in entry.items() if key not in ("time", "seconds")} for entry in entries]


@pytest.mark.slow
def test_diagnostics_are_drawn_where_sizes_agree_and_can_be_turned_off(distil: Distil) -> None:
    folder = distil(backbone__embedding_size=24, loss__kl=1, diagnostics="true")
    (found,) = read_log(folder, "agreement")
    assert -1 <= found["embedding_cosine"] <= 1 and read_log(folder, "heads")
    picture = cv2.imread(str(folder / "diagnostics.png"))
    assert picture is not None and picture.shape[1] > 2 * picture.shape[0]  # two diagrams beside each other
    silent = distil("silent", backbone__embedding_size=24, loss__kl=1)
    assert not read_log(silent, "agreement") and not (silent / "diagnostics.png").exists()


def test_one_identity_is_nothing_to_distil(
    tiny_arguments: list[str], teacher: Path, tmp_path: Path, write_records: Callable[..., Path]
) -> None:
    pack = write_records(tmp_path / "pack", [(key, 0, key) for key in range(6)])
    with pytest.raises(DataError, match="all images have label 0, and from a single class nothing can be learnt"):
        main([*tiny_arguments, "--teacher.model", str(teacher), "--loss.kl", "1", "--data.train", str(pack)])
