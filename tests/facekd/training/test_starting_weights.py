"""Tests runs that start from trained weights: the backbone's, and those of a classifier with the same people."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from facekd.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint, write_checkpoint
from facekd.checkpoints.contents import Checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.shared_head import read_classifier
from facekd.commands.config_files import parse_config
from facekd.data.config import open_training_data
from facekd.distributed import World
from facekd.errors import CheckpointError, ConfigError, TeacherError
from facekd.files.reading import sha256_of_file
from facekd.head.classifier import build_classifier
from facekd.head.config import HeadConfig
from facekd.margins.table import MARGINS
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.logbook import read_log
from facekd.training.loop import train
from facekd.training.recognizer import build_recognizer
from facekd.training.starting_weights import advise_start
from tests.facekd.conftest import tiny_words

ALONE = World(0, 1, torch.device("cpu"))
Configure = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def trained(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a moving average; other weights than a fresh one has, for it has another seed."""
    output = tmp_path_factory.mktemp("start") / "trained"
    words = [*tiny_words(tiny_faces, output), "--ema_half_life_images", "30", "--seed", "1"]
    assert train(parse_config(TrainConfig, words, "", ""), ALONE) == 0
    return output


def start(config: TrainConfig) -> torch.nn.Module:
    return build_recognizer(config, ALONE, open_training_data(config.data))


def with_people(faces: Path, folder: Path, people: list[str], prefix: str = "") -> Path:
    """Copies some people of a folder of faces, under other names if there is a prefix."""
    for person in people:
        shutil.copytree(faces / person, folder / f"{prefix}{person}")
    return folder


def edited(run: Path, path: Path, edit: Callable[[dict], None]) -> Path:
    content = load_checkpoint(run)
    edit(content)
    save_checkpoint(path, content)
    return path


def test_a_run_starts_with_what_would_be_exported(trained: Path, tiny_config: Configure) -> None:
    began = start(tiny_config(backbone__weights=trained))
    expected = load_backbone(trained)[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in began.backbone.state_dict().items())
    # The average, not the weights as trained; and only the backbone.
    assert not torch.equal(
        expected["features.layers.2.weight"], load_checkpoint(trained)["backbone"]["features.layers.2.weight"]
    )
    assert torch.equal(began.head.weight, start(tiny_config()).head.weight)


def test_it_says_and_records_whose_weights_it_began_with(
    trained: Path, tiny_config: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(backbone__weights=trained, head__weights=trained)
    assert train(config, ALONE) == 0
    file = trained / "checkpoints" / "000000000120.pt"
    source = {"file": str(file), "sha256": sha256_of_file(file)}
    assert read_checkpoint(config.output).started_from == {"backbone": source, "head": {**source, "classes": 6}}
    said = capsys.readouterr().err
    assert f"\nstart      backbone from {file} (sha256 {source['sha256'][:12]})\n" in said
    assert f"\nstart      head from {file} (sha256 {source['sha256'][:12]}, 6 classes)\n" in said
    first, fresh = (read_log(run, "train")[0]["loss"] for run in (config.output, trained))
    assert first < 0.7 * fresh


def test_a_narrower_student_starts_as_a_part_of_its_teacher(
    trained: Path, tiny_config: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    # The run has width 0.125, so that the narrowest network, 8 channels a layer, is a part of it.
    words = {"backbone__weights": trained, "backbone__width": 0.01, "backbone__select_weights": True}
    config = tiny_config(**words, images=36, schedule__name="constant")
    began, teacher = start(config), load_backbone(trained)[0].state_dict()
    expected = {name: value.shape for name, value in began.backbone.state_dict().items()}
    for name, value in began.backbone.state_dict().items():
        chosen = teacher[name]
        for dim in range(min(chosen.ndim, 2)):
            size, has = expected[name][dim], chosen.shape[dim]
            chosen = chosen.index_select(dim, torch.tensor([place * has // size for place in range(size)]))
        assert torch.equal(value, chosen), name
    # The run says how much of the teacher it has, and remembers it when it goes on.
    assert train(config, ALONE) == 0
    source = read_checkpoint(config.output).started_from["backbone"]
    assert 0 < source["weights"] < source["of_weights"]
    part = f"{source['weights']:,} of its {source['of_weights']:,} weights"
    assert f"{trained.name}/checkpoints/000000000120.pt" in source["file"] and part in capsys.readouterr().err
    assert train(tiny_config(**words, images=48, schedule__name="constant"), ALONE) == 0
    assert f"{part}; not read again)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_student_of_the_family_is_told_that_it_could_be_a_part_of_its_teacher(
    trained: Path, tiny_arguments: list[str], tmp_path: Path
) -> None:
    def lines(*words: str) -> str:
        argv = [*tiny_arguments, "--teacher.model", str(trained), "--loss.kl", "1", *words]
        config = parse_config(DistillConfig, argv, "facekd distill", "")
        return build_distiller(config, ALONE, open_training_data(config.data)).summary_lines

    narrow = ("--backbone.width", "0.01")
    advice = f"part of its teacher .*: --backbone.weights {re.escape(str(trained))} --backbone.select_weights true"
    assert re.search(advice, lines(*narrow))
    # Not where it is as large, larger, another network, or started from weights already.
    others = ((), ("--backbone.dropout", "0.1"), ("--backbone.width", "1"), ("--backbone.name", "iresnet18", *narrow))
    chosen = (*narrow, "--backbone.weights", str(trained), "--backbone.select_weights", "true")
    # Nor where it could not: images that look otherwise to the teacher.
    refused = (*narrow, "--data.mean", "[100, 100, 100]")
    assert all("advice" not in lines(*words) for words in (*others, chosen, refused))


@pytest.mark.slow
def test_whatever_the_teacher_is_advice_does_not_end_a_run(
    trained: Path, tiny_config: Configure, tmp_path: Path
) -> None:
    config = tiny_config(backbone__width=0.01)
    student: Any = start(config).backbone
    assert "part of its teacher" in advise_start(student, config, str(trained))
    spaced = edited(trained, tmp_path / "a file.pt", lambda content: None)
    assert f"--backbone.weights '{spaced}'" in advise_start(student, config, str(spaced))

    def without_backbone(content: dict) -> None:
        del content["backbone"], content["ema"]

    def with_projection(content: dict) -> None:
        content["projection"] = torch.zeros(8, 16)

    def of_a_plugin(content: dict) -> None:
        content["config"]["backbone"]["name"] = "tiny"

    (tmp_path / "junk.pt").write_bytes(b"junk")
    edits = (without_backbone, with_projection, of_a_plugin)
    files = [edited(trained, tmp_path / f"{edit.__name__}.pt", edit) for edit in edits]
    assert [advise_start(student, config, str(file)) for file in (*files, tmp_path / "junk.pt", tmp_path, "gone")] == [
        ""
    ] * 6
    assert advise_start(student, tiny_config(backbone__width=0.01, output=trained), str(trained)) == ""  # it goes on


def test_a_student_that_is_no_part_of_its_teacher_is_refused(trained: Path, tiny_config: Configure) -> None:
    with pytest.raises(CheckpointError, match=r"backbone\.weights\): mobilefacenet of width 1 is no part of .*"):
        start(tiny_config(backbone__weights=trained, backbone__width=1, backbone__select_weights=True))
    with pytest.raises(ConfigError, match=r"backbone\.select_weights takes a part .* set that too"):
        tiny_config(backbone__select_weights=True)


@pytest.mark.slow
def test_a_resumed_run_does_not_read_them(trained: Path, tiny_config: Configure, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    words = {"backbone__weights": source, "head__weights": source, "schedule__name": "constant"}
    whole = tiny_config(**words, output=tmp_path / "whole")
    assert train(whole, ALONE) == 0
    assert train(tiny_config(**words, images=48), ALONE) == 0
    shutil.rmtree(source)
    # With the same words, and with none: where the first weights came from no longer matters.
    assert train(tiny_config(**words, images=84), ALONE) == 0
    config = tiny_config(schedule__name="constant")
    assert train(config, ALONE) == 0
    one, other = load_checkpoint(whole.output), load_checkpoint(config.output)
    assert one["started_from"] == other["started_from"] and one["started_from"]["head"]["classes"] == 6
    for part in ("backbone", "head"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_a_classifier_is_matched_by_the_names_of_people(
    trained: Path, tiny_config: Configure, tiny_faces: Path, tmp_path: Path
) -> None:
    centres = load_checkpoint(trained)["head"]["weight"]
    # Two known people, in other places than before, with a stranger between them.
    faces = with_people(tiny_faces, tmp_path / "faces", ["person_2", "person_5"])
    shutil.copytree(tiny_faces / "person_0", faces / "person_3b")
    config = tiny_config(data__train=faces, head__weights=trained)
    began = start(config)
    assert torch.equal(began.head.weight[[0, 2]], centres[[2, 5]])
    assert torch.equal(began.head.weight[1], start(tiny_config(data__train=faces)).head.weight[1])
    assert began.started_from["head"]["classes"] == 2


def test_a_classifier_of_other_people_is_refused(
    trained: Path, tiny_config: Configure, tiny_faces: Path, tmp_path: Path
) -> None:
    strangers = with_people(tiny_faces, tmp_path / "faces", ["person_0", "person_1"], prefix="other_")
    with pytest.raises(
        CheckpointError, match=r"knows nobody of .*faces by name \(its first is 'person_0', theirs 'other"
    ):
        start(tiny_config(data__train=strangers, head__weights=trained))
    nameless = edited(trained, tmp_path / "old.pt", lambda content: content.pop("identities"))
    with pytest.raises(CheckpointError, match=r"old.pt: .*and .*old.pt does not name its people"):
        start(tiny_config(data__train=strangers, head__weights=nameless))
    damaged = edited(trained, tmp_path / "damaged.pt", lambda content: content["identities"].pop())
    with pytest.raises(CheckpointError, match="it names 5 people, and its classifier has 6"):
        start(tiny_config(data__train=strangers, head__weights=damaged))


@pytest.mark.parametrize("margin", [name for name in MARGINS if name != "combined"])
def test_the_classifier_of_every_margin_can_be_started_from(margin: str, tmp_path: Path) -> None:
    head = build_classifier(HeadConfig(margin=margin), 8, 5)
    write_checkpoint(tmp_path / "a.pt", Checkpoint(config={"head": {"kind": "margin"}}, head=head.state_dict()))
    assert torch.equal(read_classifier(tmp_path / "a.pt")[0].weight_CD, head.weight)


def test_statistics_of_norms_come_with_the_classifier(tiny_config: Configure, tmp_path: Path) -> None:
    words = {"head__margin": "adaface", "images": 36}
    config = tiny_config(**words, output=tmp_path / "adaface")
    assert train(config, ALONE) == 0
    began = start(tiny_config(**words, head__weights=config.output))
    assert began.head.norm_mean.item() == pytest.approx(load_checkpoint(config.output)["head"]["norm_mean"].item())
    assert began.head.norm_mean.item() != 20.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"backbone__width": 0.25},
            r"backbone.weights\) does not fit this architecture: tensors .* of another shape \(lay",
        ),
        ({"backbone__name": "iresnet18"}, r"missing \((\S+, ){5}\.\.\.\)"),
        (
            {"data__mean": "[0,0,0]"},
            r"trained with data.mean = \[127.5, 127.5, 127.5\], and data.mean is \[0.0, 0.0, 0.0\]",
        ),
        ({"data__std": "[1,1,1]"}, "trained with data.std"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    words: dict[str, object], message: str, trained: Path, tiny_config: Configure
) -> None:
    with pytest.raises(CheckpointError, match=message):
        start(tiny_config(**words, backbone__weights=trained))


def test_a_projection_that_cannot_be_folded_is_named(
    trained: Path, tiny_config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def project(content: dict) -> None:
        size = content["config"]["backbone"]["embedding_size"]
        content["projection"] = content["ema_projection"] = torch.eye(size)

    file = edited(trained, tmp_path / "projected.pt", project)
    start(tiny_config(backbone__weights=file))
    monkeypatch.setattr("facekd.checkpoints.models.can_fold_projection", lambda _: False)  # as of a plug-in's network
    with pytest.raises(CheckpointError, match=r"projected.pt: its backbone has a learned projection behind it, which"):
        start(tiny_config(backbone__weights=file))


def test_weights_that_are_not_finite_are_refused(trained: Path, tiny_config: Configure, tmp_path: Path) -> None:
    def break_one(content: dict) -> None:
        content["ema"]["features.layers.2.weight"][0, 0] = torch.nan

    broken = edited(trained, tmp_path / "broken.pt", break_one)
    with pytest.raises(CheckpointError, match=r"broken.pt: features.layers.2.weight holds NaN or infinity"):
        start(tiny_config(backbone__weights=broken))


def test_a_frozen_and_a_starting_classifier_exclude_each_other(trained: Path, tiny_config: Configure) -> None:
    with pytest.raises(ConfigError, match="shared_head is a classifier that stays as it is"):
        tiny_config(shared_head=trained, head__weights=trained)


@pytest.mark.slow
def test_a_student_starts_from_weights_too(trained: Path, tiny_arguments: list[str]) -> None:
    words = [*tiny_arguments, "--teacher.model", str(trained), "--backbone.weights", str(trained)]

    def distiller(*more: str) -> torch.nn.Module:
        config = parse_config(DistillConfig, [*words, *more], "", "")
        return build_distiller(config, ALONE, open_training_data(config.data))

    student = distiller("--loss.kl", "1", "--head.weights", str(trained))
    expected = load_backbone(trained)[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in student.backbone.state_dict().items())
    assert torch.equal(student.head.weight, load_checkpoint(trained)["head"]["weight"])
    assert student.head.weight.requires_grad and not student.teacher_head.weight.requires_grad
    with pytest.raises(TeacherError, match=r"head\.weights are for the student's classifier, but neither"):
        distiller("--loss.ce", "0", "--loss.embedding_l2", "1", "--head.weights", str(trained))
