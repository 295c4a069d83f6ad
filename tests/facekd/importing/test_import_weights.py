"""`facekd import`: names, shapes and meaning of other trainers' weights arrive in our modules."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facekd.checkpoints.checkpoint import load_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.shared_head import find_same_people, load_shared_head, read_classifier
from facekd.data.datasets import SyntheticDataset, open_dataset
from facekd.embedder import open_embedder
from facekd.errors import CheckpointError, ModelError, run_verb
from facekd.importing.classifiers import join_classifier
from facekd.importing.import_weights import main
from facekd.training.distill import main as distill
from facekd.training.logbook import read_log
from tests.facekd.importing.written_weights import (
    ADAFACE_UNITS,
    IRESNET_UNITS,
    embed_by_names_adaface,
    embed_by_names_iresnet,
    embed_by_names_mbf,
    fill,
    save,
    small_adaface,
    small_iresnet,
    state_dict_of_adaface,
    state_dict_of_iresnet,
    state_dict_of_mbf,
)


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet_0.45g", "ir_18"])
def test_imported_weights_mean_what_they_meant(tmp_path, capsys, name):
    state, expected_from = {
        "iresnet18": (fill(state_dict_of_iresnet(IRESNET_UNITS["iresnet18"], image_size=64, scale=0.25)), iresnet18),
        "mobilefacenet_0.45g": (fill(state_dict_of_mbf(image_size=64)), embed_by_names_mbf),
        "ir_18": (fill(state_dict_of_adaface(ADAFACE_UNITS["ir_18"], image_size=64, scale=0.25)), ir_18_of_rgb),
    }[name]
    source, output = save(tmp_path / "backbone.pth", state), tmp_path / "teacher.pt"
    assert run_verb(lambda: main([str(source), "--name", name, "--output", str(output)])) == 0
    printed = capsys.readouterr().out
    assert name in printed
    assert "embedding of 512" in printed
    assert f"takes {'BGR' if name == 'ir_18' else 'RGB'} images (as " in printed

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = expected_from(state, images)
    assert F.cosine_similarity(expected[:1], expected[1:]) < 0.999  # the images are told apart at all
    backbone, preprocessing = load_backbone(output)
    assert not backbone.training
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)
    assert tuple(preprocessing.mean) == tuple(preprocessing.std) == (127.5, 127.5, 127.5)
    assert preprocessing.color == "rgb"
    assert preprocessing.image_size == 64


def iresnet18(state, images: torch.Tensor) -> torch.Tensor:
    return embed_by_names_iresnet(state, IRESNET_UNITS["iresnet18"], images)


def ir_18_of_rgb(state, images: torch.Tensor) -> torch.Tensor:
    """AdaFace's network takes BGR."""
    return embed_by_names_adaface(state, ADAFACE_UNITS["ir_18"], images.flip(1))


def test_a_checkpoint_of_adafaces_trainer_says_what_is_kept(tmp_path, capsys):
    weight = torch.randn(7, 16)
    state = {f"model.{name}": value for name, value in small_adaface().items()}
    state |= {"head.kernel": weight.T.contiguous(), "head.t": torch.zeros(1)}
    state |= {"head.batch_mean": torch.tensor([17.5]), "head.batch_std": torch.tensor([3.0])}
    content = {"epoch": 3, "state_dict": state, "optimizer_states": [{}], "hyper_parameters": {"arch": "ir_18"}}
    assert main([str(save(tmp_path / "last.ckpt", content)), "--output", str(tmp_path / "out.pt")]) == 0
    found = load_checkpoint(tmp_path / "out.pt")
    assert torch.equal(found["head"]["weight"], weight) and found["head"]["norm_mean"] == 17.5
    assert found["source"]["framework"] == "AdaFace" and found["source"]["color"] == "bgr"
    said = capsys.readouterr().out
    assert (
        "takes BGR images (as AdaFace trains; --color says otherwise): its first convolution was turned to RGB" in said
    )
    assert "classifier of 7 identities, from last.ckpt; whose they are is not known" in said
    assert "not kept: epoch, optimizer_states, hyper_parameters\n" in said


def test_the_checkpoint_records_what_and_from_where(tmp_path):
    import hashlib

    source, output = save(tmp_path / "backbone.pth", small_iresnet()), tmp_path / "out" / "teacher.pt"
    assert main([str(source), "--output", str(output)]) == 0
    content = load_checkpoint(output)
    assert content["config"]["backbone"] == {
        "name": "iresnet18",
        "embedding_size": 16,
        "image_size": 32,
        "width": 0.125,
        "dropout": 0.0,
    }
    assert content["source"]["file"] == "backbone.pth"
    assert content["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert [path.name for path in output.parent.iterdir()] == ["teacher.pt"]


def test_a_facekd_checkpoint_is_not_imported_twice(tmp_path):
    source, output = save(tmp_path / "backbone.pth", small_iresnet()), tmp_path / "teacher.pt"
    main([str(source), "--output", str(output)])
    with pytest.raises(ModelError, match=r"teacher\.pt: is already a facekd checkpoint"):
        main([str(output), "--output", str(tmp_path / "again.pt")])


def test_a_failed_import_leaves_the_earlier_output(tmp_path, capsys):
    good, output = save(tmp_path / "good.pth", small_iresnet()), tmp_path / "teacher.pt"
    main([str(good), "--output", str(output)])
    before = output.read_bytes()
    bad = tmp_path / "bad.pth"
    bad.write_bytes(good.read_bytes()[:1000])
    assert run_verb(lambda: main([str(bad), "--output", str(output)])) == 2
    assert "error: " in capsys.readouterr().err
    assert output.read_bytes() == before
    assert run_verb(lambda: main([str(good), "--output", str(good)])) == 2
    assert run_verb(lambda: main([str(tmp_path / "absent.pth"), "--output", str(output)])) == 2
    assert "absent.pth" in capsys.readouterr().err
    load_checkpoint(output)
    with pytest.raises(CheckpointError):
        load_checkpoint(bad)


def write_ranks(folder: Path, weight_CD: torch.Tensor, count: int) -> Path:
    """What the processes of arcface_torch write: each the backbone and its rows; returns the file of the first."""
    folder.mkdir(exist_ok=True)
    backbone = fill(state_dict_of_mbf(16, 32))
    for rank in range(count):
        start = len(weight_CD) // count * rank + min(rank, len(weight_CD) % count)
        stop = start + len(weight_CD) // count + (rank < len(weight_CD) % count)
        rows = weight_CD[start:stop].clone()
        content = {"epoch": 3, "global_step": 500, "state_dict_backbone": backbone}
        content |= {"state_dict_softmax_fc": {"weight": rows}, "state_lr_scheduler": {"last_epoch": 500}}
        content["state_optimizer"] = {"state": {0: {"momentum_buffer": torch.zeros_like(rows)}}, "param_groups": []}
        torch.save(content, folder / f"checkpoint_gpu_{rank}.pt")
    return folder / "checkpoint_gpu_0.pt"


@pytest.mark.parametrize(("count", "rank"), [(1, 0), (3, 0), (3, 2)])
def test_the_classifier_of_all_ranks_is_joined(tmp_path, capsys, count, rank):
    weight = torch.randn(7, 16)
    write_ranks(tmp_path / "run", weight, count)
    assert main([str(tmp_path / "run" / f"checkpoint_gpu_{rank}.pt"), "--output", str(tmp_path / "out.pt")]) == 0
    content = load_checkpoint(tmp_path / "out.pt")
    assert torch.equal(content["head"]["weight"], weight) and content["num_classes"] == 7
    said = capsys.readouterr()
    files = "checkpoint_gpu_0.pt" + (" to checkpoint_gpu_2.pt" if count == 3 else "")
    assert (
        f"classifier of 7 identities, from {files}; whose they are is not known: to use it, import with --data"
        in said.out
    )
    assert "not kept: epoch, global_step, state_lr_scheduler, state_optimizer\n" in said.out
    assert not said.err
    # Whose classes they are was not said.
    with pytest.raises(CheckpointError, match="import the model again with `--data synthetic"):
        load_shared_head(tmp_path / "out.pt", SyntheticDataset(7, 1, 32))


@pytest.mark.parametrize("name", ["softmax_fc_gpu_{}.pt", "rank_{}_softmax_weight.pt"])
def test_older_files_of_a_classifier_are_joined_when_one_is_named(tmp_path, capsys, name):
    source = save(tmp_path / "model.pt", small_iresnet())
    parts = torch.randn(8, 16).split([3, 3, 2])
    kinds = [
        {"weight": parts[0], "weight_mom": torch.zeros(3, 16)},
        {"weight_activated": parts[1]},  # in one version of 2022, where no classes were sampled
        {"weight": parts[2]},
    ]
    files = [tmp_path / name.format(rank) for rank in range(3)]
    for file, content in zip(files, kinds if "fc" in name else parts, strict=True):
        save(file, content)
    words = [str(source), "--output", str(tmp_path / "out.pt")]

    # They may be of another epoch than the weights, so they are taken only if one is named.
    assert main(words) == 0
    first, last = files[0].name, files[2].name
    hint = f"no classifier; {first} to {last} beside it has one: --classifier {first} keeps it"
    assert hint in capsys.readouterr().out and "head" not in load_checkpoint(tmp_path / "out.pt")
    assert main([*words, "--classifier", str(files[1])]) == 0
    assert torch.equal(load_checkpoint(tmp_path / "out.pt")["head"]["weight"], torch.cat(parts))
    assert f"classifier of 8 identities, from {first} to {last}" in capsys.readouterr().out

    # What was named must be there, and be no backbone.
    with pytest.raises(ModelError, match="holds a part of a classifier: give the backbone that lies beside it"):
        main([str(files[0]), "--output", str(tmp_path / "out.pt")])
    save(files[2], torch.ones(9, 16))
    with pytest.raises(ModelError, match=r"its parts have 3, 3, 9 rows, not those of the .*Leave --classifier out"):
        main([*words, "--classifier", str(files[1])])
    files[0].unlink()
    found = join_classifier(files[1], must_have=True)
    assert found and found.problem == f"its parts in {first} are missing beside {files[1].name}"
    found = join_classifier(source, must_have=True)
    assert found and "model.pt has no weight (C, D) of a classifier" in found.problem


def of_another_step(file: Path) -> None:
    torch.save(torch.load(file) | {"global_step": 900}, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, r"its parts in checkpoint_gpu_1\.pt are missing beside checkpoint_gpu_0\.pt"),
        (of_another_step, r"checkpoint_gpu_1\.pt beside checkpoint_gpu_0\.pt is of another run or step"),
        (lambda file: file.write_bytes(b"half"), r"checkpoint_gpu_1\.pt beside checkpoint_gpu_0\.pt cannot be read"),
        (lambda file: write_ranks(file.parent, torch.ones(2, 16), 2), r"its parts have 1, 1, 2 rows"),
        (lambda file: write_ranks(file.parent, torch.ones(9, 8), 3), r"it takes embeddings of 8, and the .* gives 16"),
        (
            lambda file: write_ranks(file.parent, torch.ones(0, 16), 3),
            r"checkpoint_gpu_0\.pt has no weight \(C, D\) of a classifier",
        ),
        (lambda file: write_ranks(file.parent, torch.full((9, 16), torch.nan), 3), r"it holds NaN"),
    ],
)
def test_a_classifier_that_cannot_be_joined_is_left_out_and_said(tmp_path, capsys, change, message):
    source = write_ranks(tmp_path / "run", torch.randn(7, 16), 3)
    change(source.with_name("checkpoint_gpu_1.pt"))
    assert main([str(source), "--output", str(tmp_path / "out.pt")]) == 0
    assert "head" not in load_checkpoint(tmp_path / "out.pt")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {source}: the classifier is left out, because ")
    assert re.search(message, line)


def fitted_classifier(backbone: Path, faces: Path) -> torch.Tensor:
    """Centres (6, 16) that put every embedding of a network with random weights into its own class."""
    dataset = open_dataset(faces, 32)
    images, labels = dataset.load(np.arange(len(dataset)))
    embedding = F.normalize(torch.from_numpy(open_embedder(str(backbone)).embed(images)))
    weight = torch.nn.Parameter(torch.eye(6, 16))
    optimizer = torch.optim.Adam([weight], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(64 * embedding @ F.normalize(weight).T, torch.from_numpy(labels)).backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.slow
def test_a_student_learns_through_an_imported_classifier(tmp_path, capsys, tiny_faces, tiny_arguments):
    # Four processes have 2, 2, 1 and 1 of the 6 identities.
    source = write_ranks(tmp_path / "run", torch.ones(6, 16), 4)
    main([str(source), "--output", str(tmp_path / "backbone.pt")])
    weight = fitted_classifier(tmp_path / "backbone.pt", tiny_faces)
    write_ranks(tmp_path / "run", weight, 4)
    capsys.readouterr()
    teacher = tmp_path / "teacher.pt"
    assert main([str(source), "--data", str(tiny_faces), "--output", str(teacher)]) == 0
    said = capsys.readouterr()
    assert "it recognises 42 of 42 images of" in said.out and not said.err
    assert torch.equal(load_shared_head(teacher, open_dataset(tiny_faces, 32)).weight_CD, weight)
    words = [*tiny_arguments, "--images", "36", "--output", str(tmp_path / "student"), "--share", "0.5"]
    assert distill([*words, "--teacher.model", str(teacher), "--loss.kl", "0.5"]) == 0
    assert read_log(tmp_path / "student", "train")[-1]["loss_th_ce"] > 0

    # Labels in another order are seen; data of other identities, and ranks that the data misses, are refused.
    write_ranks(tmp_path / "run", weight.roll(1, 0), 4)
    main([str(source), "--data", str(tiny_faces), "--output", str(teacher)])
    assert re.search(r"warning: .* recognises \d of 42 images; are its labels those", capsys.readouterr().err)
    with pytest.raises(ModelError, match=r"have 2, 2, 1, \.\.\. rows, .* 5 identities of the data\. Leave --data"):
        main([str(source), "--data", "synthetic:5x1", "--output", str(teacher)])
    source.with_name("checkpoint_gpu_3.pt").unlink()
    with pytest.raises(ModelError, match=r"in checkpoint_gpu_3\.pt are missing beside .* the 6 identities of the data"):
        main([str(source), "--data", str(tiny_faces), "--output", str(teacher)])
    torch.save(fill(state_dict_of_mbf(16, 32)), tmp_path / "backbone.pth")
    with pytest.raises(ModelError, match="has no classifier to use with --data"):
        main([str(tmp_path / "backbone.pth"), "--data", str(tiny_faces), "--output", str(teacher)])


def test_a_training_can_start_from_an_imported_classifier_once_it_is_known_whose_it_is(tmp_path, tiny_faces):
    source, teacher = write_ranks(tmp_path / "run", torch.randn(6, 16), 4), tmp_path / "teacher.pt"
    dataset = open_dataset(tiny_faces, 32)
    assert main([str(source), "--output", str(teacher)]) == 0
    with pytest.raises(CheckpointError, match="does not say whose classes its classifier has; import the model"):
        find_same_people(*read_classifier(teacher), dataset)
    assert main([str(source), "--data", str(tiny_faces), "--output", str(teacher)]) == 0
    assert find_same_people(*read_classifier(teacher), dataset).tolist() == [0, 1, 2, 3, 4, 5]


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "usage: facekd import" in text
    assert "facekd import run/checkpoint_gpu_0.pt --data ms1mv3 --output teacher.pt" in text
