"""Trains and distils with several centres for each class: what checkpoints record, and what does not fit together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from facekd.checkpoints.shared_head import load_shared_head, read_classifier
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.distributed import World
from facekd.errors import CheckpointError, ConfigError, TeacherError
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.training.distilling.build_distiller import build_distiller
from facekd.training.distilling.diagnostics import compare_heads
from facekd.training.loop import train
from facekd.training.recognizer import build_recognizer
from tests.facekd.conftest import tiny_words

ALONE = World(0, 1, torch.device("cpu"))
Configure = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def trained(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two centres for each class."""
    output = tmp_path_factory.mktemp("sub_centers") / "trained"
    words = [*tiny_words(tiny_faces, output), "--head.sub_centers", "2", "--images", "36"]
    assert train(parse_config(TrainConfig, words, "", ""), ALONE) == 0
    return output


def test_a_checkpoint_says_how_many_centres_a_class_has(trained: Path, tiny_faces: Path) -> None:
    head, checkpoint = read_classifier(trained)
    assert (checkpoint.sub_centers, head.sub_centers, head.embedding_size) == (2, 2, 16)
    assert head.weight_CD.shape == (6, 32)
    # Numbers that are cut into centres in another way are another classifier.
    assert load_shared_head(trained, open_dataset(tiny_faces, 32)).fingerprint == head.fingerprint
    assert head.fingerprint != type(head)(head.weight_CD, head.source).fingerprint


def test_a_sharded_run_is_that_of_the_whole_head(trained: Path, tiny_config: Configure) -> None:
    config = tiny_config(head__sub_centers=2, images=36, head__sharded=True)
    assert train(config, ALONE) == 0
    sharded, whole = read_classifier(config.output)[0], read_classifier(trained)[0]
    torch.testing.assert_close(sharded.weight_CD, whole.weight_CD)
    assert sharded.sub_centers == 2
    with pytest.raises(CheckpointError, match=r"head\.sub_centers was 2, now 3"):
        train(tiny_config(head__sub_centers=3, images=36), ALONE)


def test_a_classifier_with_other_centres_is_no_start(trained: Path, tiny_config: Configure, tiny_faces: Path) -> None:
    dataset = open_dataset(tiny_faces, 32)
    for key in ("head__weights", "shared_head"):
        with pytest.raises(
            CheckpointError, match=r"has 2 centres for each class, head\.sub_centers is 1: set .* drop-sub-centers"
        ):
            build_recognizer(tiny_config(**{key: trained}), ALONE, dataset)
        started = build_recognizer(tiny_config(**{key: trained}, head__sub_centers=2), ALONE, dataset)
        assert torch.equal(started.head.weight, read_classifier(trained)[0].weight_CD)
        assert started.head.weight.requires_grad == (key == "head__weights")


def test_a_student_learns_through_the_several_centres_of_its_teacher(
    trained: Path, tiny_arguments: list[str], tmp_path: Path
) -> None:
    def config(*more: str) -> DistillConfig:
        words = [*tiny_arguments, "--teacher.model", str(trained), "--images", "36", "--loss.kl", "1"]
        return parse_config(DistillConfig, [*words, *more], "", "")

    # A student that recognises by the teacher's classifier has that one in its checkpoint, with its centres.
    borrowed = config("--share", "1", "--output", str(tmp_path / "borrowed"))
    assert train(borrowed, ALONE, make_recognizer=build_distiller) == 0
    head, checkpoint = read_classifier(borrowed.output)
    assert checkpoint.sub_centers == 2 and torch.equal(head.weight_CD, read_classifier(trained)[0].weight_CD)

    # One with centres of its own keeps those; two sets of centres cannot be compared class by class.
    dataset = open_dataset(borrowed.data.train, 32)
    for sub_centers in (1, 2):
        own = config("--share", "0.5", "--head.sub_centers", str(sub_centers))
        distiller = build_distiller(own, ALONE, dataset)
        assert distiller.head.weight.shape == (6, 16 * sub_centers) and compare_heads(distiller) is None


def test_settings_without_effect_and_losses_that_move_one_centre_are_refused(
    trained: Path, tiny_arguments: list[str], tiny_faces: Path
) -> None:
    words = [*tiny_arguments, "--teacher.model", str(trained), "--loss.ce", "0"]
    with pytest.raises(ConfigError, match=r"head\.sub_centers = 2 has no effect: loss\.embedding_l2 use no classifier"):
        parse_config(DistillConfig, [*words, "--loss.embedding_l2", "1", "--head.sub_centers", "2"], "", "")
    config = parse_config(DistillConfig, [*words, "--loss.adadistill", "1"], "", "")
    with pytest.raises(TeacherError, match=r"2 centres for each class, and loss\.adadistill moves one: .*drop-sub-cen"):
        build_distiller(config, ALONE, open_dataset(tiny_faces, 32))
