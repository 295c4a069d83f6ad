"""`facekd drop-sub-centers` from the command line to its files, and what can be done with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep import clean_records, drop_sub_centers, pack_records
from data_prep.inspection.clean_lists import read_clean_lists
from facekd.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from facekd.commands.config_files import parse_config
from facekd.data.datasets import open_dataset
from facekd.distributed import World
from facekd.embedder import embed_with_flip, open_embedder
from facekd.files.reading import read_json
from facekd.training.config import TrainConfig
from facekd.training.loop import train
from facekd.training.recognizer import build_recognizer
from facekd.verification.scores import unit_rows
from tests.facekd.conftest import tiny_faces, tiny_words

__all__ = ["tiny_faces"]  # a fixture

ALONE = World(0, 1, torch.device("cpu"))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pack(tiny_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny faces as a pack; the last two images of each person are those of the next."""
    folder = tmp_path_factory.mktemp("noisy")
    shutil.copytree(tiny_faces, folder / "faces")
    for number in range(6):
        for image in ("5.png", "6.png"):
            shutil.copy(tiny_faces / f"person_{(number + 1) % 6}" / image, folder / "faces" / f"person_{number}")
    assert pack_records.main([str(folder / "faces"), str(folder / "pack"), "--size", "32", "--workers", "1"]) == 0
    return folder / "pack"


@pytest.fixture(scope="module")
def trained(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two centres for each class: the second one is at the images that have another person's label."""
    output = tmp_path_factory.mktemp("run") / "run"
    words = [*tiny_words(pack, output), "--head.sub_centers", "2", "--images", "36"]
    assert train(parse_config(TrainConfig, words, "", ""), ALONE) == 0
    content = load_checkpoint(output)
    assert content["sub_centers"] == 2 and content["head"]["weight"].shape == (6, 32)
    units = unit_embeddings(output, pack).reshape(6, 7, 16)
    centres = np.stack([units[:, 5:].mean(1), 3 * units[:, :5].mean(1)], axis=1)
    content["head"]["weight"] = torch.from_numpy(centres.reshape(6, 32))
    save_checkpoint(output / "checkpoints" / "000000000036.pt", content)
    return output


def unit_embeddings(model: Path, data: Path) -> np.ndarray:
    images = open_dataset(data, 32).load(np.arange(42))[0]
    return unit_rows(np.add(*embed_with_flip(open_embedder(model), images)), None)


def far_of(trained: Path, pack: Path, angle: float) -> np.ndarray:
    """Returns the images further than an angle from the second centre of their class."""
    centres = unit_rows(load_checkpoint(trained)["head"]["weight"].numpy().reshape(6, 2, 16)[:, 1], None)
    cosine = (unit_embeddings(trained, pack).reshape(6, 7, 16) * centres[:, None]).sum(2)
    return np.flatnonzero(cosine < np.cos(np.deg2rad(angle)))


def test_the_dominant_centre_is_kept_and_training_goes_on_from_it(
    trained: Path, pack: Path, run: Run, tmp_path: Path
) -> None:
    status, said, _ = run(drop_sub_centers.main, trained, "--data", pack, "--output", tmp_path / "out", "--angle", "40")
    assert status == 0 and sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("checkpoint.pt", "noisy.tsv", "report.json")
    ]
    before, after = read_checkpoint(trained), read_checkpoint(tmp_path / "out" / "checkpoint.pt")
    assert before.head is not None and after.head is not None
    assert torch.equal(after.head["weight"], before.head["weight"].view(6, 2, 16)[:, 1])
    assert after.sub_centers is None and after.config["head"]["sub_centers"] == 1 and after.training is None
    assert after.backbone is not None and after.identity_map == before.identity_map

    # The list is one of `facekd data clean`, and has the images that are far.
    far = far_of(trained, pack, 40)
    assert 0 < len(far) < 42
    assert read_clean_lists([tmp_path / "out" / "noisy.tsv"]).keys == {int(image) + 1 for image in far}
    report = read_json(tmp_path / "out" / "report.json", "a report", "", (), ValueError)
    assert report["num_far"] == len(far) and report["angle"] == 40 and report["sub_centers"] == 2
    assert f"further from it than 40 degrees     {len(far)} images ({len(far) / 42:.2%})" in said
    status, said, _ = run(clean_records.main, pack, tmp_path / "clean", "--apply", tmp_path / "out" / "noisy.tsv")
    assert status == 0 and f"{42 - len(far)} images" in said

    # A run with one centre for each class begins with both, on the pack and on what is left of it.
    model = str(tmp_path / "out" / "checkpoint.pt")
    words = [*tiny_words(pack, tmp_path / "one"), "--backbone.weights", model, "--head.weights", model]
    began = build_recognizer(parse_config(TrainConfig, words, "", ""), ALONE, open_dataset(pack, 32))
    assert began.started_from["head"]["classes"] == 6 and torch.equal(began.head.weight, after.head["weight"])
    words = [*words, "--data.train", str(tmp_path / "clean")]
    began = build_recognizer(parse_config(TrainConfig, words, "", ""), ALONE, open_dataset(tmp_path / "clean", 32))
    kept = sorted({image // 7 for image in range(42)} - {n for n in range(6) if set(range(7 * n, 7 * n + 7)) <= {*far}})
    assert torch.equal(began.head.weight, after.head["weight"][kept])


def test_folders_get_a_list_of_files(trained: Path, pack: Path, run: Run, tmp_path: Path) -> None:
    faces = pack.parent / "faces"
    words = ("--data", faces, "--output", tmp_path / "out", "--angle", "40")
    status, said, _ = run(drop_sub_centers.main, trained, *words)
    assert status == 0 and "take these files out of the folder" in said
    listed = (tmp_path / "out" / "noisy.tsv").read_text().splitlines()[1:]
    expected = {str(faces / f"person_{image // 7}" / f"{image % 7}.png") for image in far_of(trained, pack, 40)}
    assert {line.split("\t")[0] for line in listed} == expected != set()


def test_an_interrupted_command_goes_on_and_leaves_no_half_results(
    trained: Path, pack: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (trained, "--data", pack, "--output", tmp_path / "out")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(drop_sub_centers, "_write_noisy", stop)
        drop_sub_centers.main([str(word) for word in words])
    assert not (tmp_path / "out" / "report.json").exists()
    with monkeypatch.context() as patch:  # the embeddings are there already
        patch.setattr("facekd.teacher.cache.embed_with_flip", stop)
        assert run(drop_sub_centers.main, *words)[0] == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run(drop_sub_centers.main, *words)[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_what_cannot_be_dropped_is_refused_in_a_sentence(trained: Path, pack: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def error(model: Path, data: Path) -> str:
        status, _, said = run(drop_sub_centers.main, model, "--data", data, "--output", out)
        assert status == 2 and not (out / "report.json").exists()
        return said

    def edited(name: str, **fields: Any) -> Path:
        save_checkpoint(tmp_path / name, {**load_checkpoint(trained), **fields})
        return tmp_path / name

    assert "has one centre for each class, and none to drop" in error(edited("one.pt", sub_centers=1), pack)
    assert "32 numbers, which are not the 5 centres" in error(edited("five.pt", sub_centers=5), pack)
    assert "damaged: its 'sub_centers' is 65" in error(edited("many.pt", sub_centers=65), pack)
    assert "its classifier takes embeddings of 8, its backbone gives 16" in error(
        edited("four.pt", sub_centers=4), pack
    )
    fewer = tmp_path / "fewer"
    shutil.copytree(pack.parent / "faces", fewer)
    shutil.rmtree(fewer / "person_3")
    assert "has 6 identities, " in error(trained, fewer)
    out.mkdir()
    (out / "checkpoint.pt").write_text("mine")
    assert "checkpoint.pt: is there already, and not from `facekd drop-sub-centers`" in error(trained, pack)
