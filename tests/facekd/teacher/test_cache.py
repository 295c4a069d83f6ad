"""A teacher's embeddings in a file: equal to the live ones, resumed after a kill, refused where they do not belong."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facekd.data.datasets import FaceDataset, open_dataset
from facekd.embedder import Embedder, Preprocessing, embed_with_flip
from facekd.errors import FacekdError, InUseError, TeacherError, run_verb
from facekd.teacher import cache_file
from facekd.teacher.cache import TeacherCache, open_teacher_cache, write_teacher_cache
from facekd.teacher.cache_teacher import main

SIZE, DIMENSIONS = 32, 24


class Projection:
    """A teacher of one matrix: 8 x 8 block means times weights. Counts the images, and may stop after some calls."""

    embedding_size = DIMENSIONS
    normalized = False

    def __init__(self, seed: int = 0, scale: float = 0.01, stop_after: int | None = None, kill: bool = False) -> None:
        self.preprocessing = Preprocessing(image_size=SIZE)
        self.fingerprint = f"projection {seed} {scale}"
        self.weights = np.random.default_rng(seed).normal(size=(4 * 4 * 3, DIMENSIONS)) * scale
        self.stop_after, self.kill = stop_after, kill
        self.num_calls = self.num_images = 0

    def embed(self, images: np.ndarray) -> np.ndarray:
        if self.num_calls == self.stop_after:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        self.num_calls += 1
        self.num_images += len(images)
        blocks = images.reshape(len(images), 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(len(images), -1)
        return ((blocks - 127.5) @ self.weights).astype(np.float32)


@pytest.fixture
def dataset(tiny_faces: Path) -> FaceDataset:
    return open_dataset(tiny_faces, SIZE)


def write(path: Path, embedder: Embedder, dataset: FaceDataset, **options: float) -> TeacherCache:
    settings = {"batch_size": 5, "show_progress": False, "seconds_between_saves": 0, **options}
    return write_teacher_cache(path, embedder, dataset, **settings)  # type: ignore[arg-type]


def test_cached_embeddings_are_the_live_ones_to_half_precision(tmp_path: Path, dataset: FaceDataset) -> None:
    teacher = Projection()
    cache = write(tmp_path / "cache", teacher, dataset)
    assert teacher.num_images == 2 * len(dataset) == 2 * len(cache)
    indices = np.random.default_rng(0).integers(0, len(dataset), 50)
    flip = np.random.default_rng(1).random(50) < 0.5
    images = dataset.load(indices)[0]
    images[flip] = images[flip][:, :, ::-1]
    live = Projection().embed(images)
    found = cache.lookup(indices, flip)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, live.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(found, live, rtol=2**-11, atol=1e-6)
    plain, mirrored = embed_with_flip(Projection(), dataset.load(indices)[0])
    np.testing.assert_allclose(cache.lookup_both(indices), np.stack([plain, mirrored], 1), rtol=2**-11, atol=1e-6)
    from_tensors = cache.lookup(torch.from_numpy(indices), torch.from_numpy(flip))
    np.testing.assert_array_equal(from_tensors, found)


def test_the_file_alone_remains_and_numpy_reads_it(tmp_path: Path, dataset: FaceDataset) -> None:
    cache = write(tmp_path / "cache", Projection(), dataset)
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]
    rows = np.memmap(tmp_path / "cache", np.float16, mode="r", shape=(len(dataset), 2, DIMENSIONS))
    np.testing.assert_array_equal(cache.lookup(np.arange(len(dataset)), True), rows[:, 1].astype(np.float32))
    after_checksums = rows.nbytes + len(dataset) * 2 * 4
    assert json.loads((tmp_path / "cache").read_bytes()[after_checksums:].split(b"\n")[0])["format"]


def test_a_finished_cache_is_not_computed_again(tmp_path: Path, dataset: FaceDataset) -> None:
    write(tmp_path / "cache", Projection(), dataset)
    again = Projection()
    write(tmp_path / "cache", again, dataset)
    assert again.num_images == 0


def test_after_kill_9_the_rest_is_computed_and_the_file_is_the_same(tmp_path: Path, dataset: FaceDataset) -> None:
    def killed() -> None:
        write(tmp_path / "cache", Projection(stop_after=7, kill=True), dataset)  # in the 4th batch of 5 images

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(TeacherError, match="is not finished"):
        open_teacher_cache(tmp_path / "cache", dataset)
    with (tmp_path / "cache.partial").open("ab") as stream:
        stream.write(b"half a row")  # what a kill in the middle of a write leaves
    rest = Projection()
    write(tmp_path / "cache", rest, dataset)
    assert rest.num_images == 2 * (len(dataset) - 15)
    write(tmp_path / "at_once", Projection(), dataset)
    assert (tmp_path / "cache").read_bytes() == (tmp_path / "at_once").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["at_once", "cache"]


def test_a_run_stopped_after_the_rename_leaves_nothing_in_the_way(
    tmp_path: Path, dataset: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        if path.name == "cache.progress":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", Projection(), dataset)
    monkeypatch.undo()
    assert (tmp_path / "cache.progress").exists()
    again = Projection()
    write(tmp_path / "cache", again, dataset)
    assert again.num_images == 0
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]
    # So the file can be deleted and written anew.
    (tmp_path / "cache").unlink()
    write(tmp_path / "cache", again, dataset)
    assert again.num_images == 2 * len(dataset)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, dataset: FaceDataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", Projection(stop_after=4), dataset, seconds_between_saves=1e9)
    rest = Projection()
    write(tmp_path / "cache", rest, dataset)
    assert rest.num_images == 2 * (len(dataset) - 10)


def test_a_folder_that_is_deleted_meanwhile_is_not_made_again(tmp_path: Path, dataset: FaceDataset) -> None:
    class Deleting(Projection):
        def embed(self, images: np.ndarray) -> np.ndarray:
            if self.num_calls == 4:
                shutil.rmtree(tmp_path / "out")
            return super().embed(images)

    with pytest.raises(FacekdError, match="out: was deleted while this command was writing into it"):
        write(tmp_path / "out" / "cache", Deleting(), dataset)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_cache_of_another_teacher_is_not_continued(tmp_path: Path, dataset: FaceDataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cache", Projection(stop_after=4), dataset)
    with pytest.raises(TeacherError, match=r"another teacher.*delete cache\.partial and cache\.progress"):
        write(tmp_path / "cache", Projection(seed=1), dataset)
    (tmp_path / "cache.progress").write_text("{")
    with pytest.raises(TeacherError, match=r"cache\.progress: damaged"):
        write(tmp_path / "cache", Projection(), dataset)


def test_two_processes_do_not_write_one_cache(tmp_path: Path, dataset: FaceDataset) -> None:
    class Meddler(Projection):
        def embed(self, images: np.ndarray) -> np.ndarray:
            with pytest.raises(InUseError, match="another process is writing"):
                write(tmp_path / "cache", Projection(), dataset)
            return super().embed(images)

    assert len(write(tmp_path / "cache", Meddler(), dataset)) == len(dataset)


def test_a_cache_that_is_cut_off_while_it_is_used_is_named(tmp_path: Path, dataset: FaceDataset) -> None:
    cache = write(tmp_path / "cache", Projection(), dataset)
    os.truncate(tmp_path / "cache", 0)
    with pytest.raises(TeacherError, match=r"cache: had [\d,]+ bytes when it was opened, and has others now"):
        cache.lookup([0])


def test_rows_are_those_of_the_file_whose_trailer_was_read(
    tmp_path: Path, dataset: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache"
    expected = write(path, Projection(), dataset).lookup_both(np.arange(len(dataset)))
    is_sealed = cache_file.is_sealed

    def replace_and_check(trailer: dict[str, Any]) -> bool:
        path.unlink()
        path.write_bytes(b"another file")
        return is_sealed(trailer)

    monkeypatch.setattr(cache_file, "is_sealed", replace_and_check)
    np.testing.assert_array_equal(TeacherCache(path).lookup_both(np.arange(len(dataset))), expected)


def test_another_teacher_is_refused(tmp_path: Path, dataset: FaceDataset) -> None:
    write(tmp_path / "cache", Projection(), dataset)
    assert len(open_teacher_cache(tmp_path / "cache", dataset, Projection().fingerprint)) == len(dataset)
    with pytest.raises(TeacherError, match="cache of another teacher"):
        open_teacher_cache(tmp_path / "cache", dataset, "other")
    with pytest.raises(TeacherError, match="the weights or their use differ"):
        write(tmp_path / "cache", Projection(seed=1), dataset)


def test_other_data_is_refused_and_said_how_it_differs(tmp_path: Path, tiny_faces: Path, dataset: FaceDataset) -> None:
    write(tmp_path / "cache", Projection(), dataset)
    folder = tmp_path / "faces"

    def refused(what: str) -> None:
        with pytest.raises(TeacherError, match=f"another data set.*{what}"):
            open_teacher_cache(tmp_path / "cache", open_dataset(folder, SIZE))

    shutil.copytree(tiny_faces, folder)
    open_teacher_cache(tmp_path / "cache", open_dataset(folder, SIZE))  # a copy elsewhere is the same data
    image = folder / "person_2" / "3.png"
    pixels = cv2.imread(str(image))
    assert pixels is not None
    cv2.imwrite(str(image), pixels[:, ::-1])
    refused("images, under the same labels")
    image.rename(folder / "person_3" / "9.png")
    refused("labels")
    (folder / "person_3" / "9.png").unlink()
    refused("number of images.*42 there, 41 here")


def test_the_same_data_at_another_size_is_the_same_data(tmp_path: Path, tiny_faces: Path, dataset: FaceDataset) -> None:
    write(tmp_path / "cache", Projection(), dataset)
    assert open_teacher_cache(tmp_path / "cache", open_dataset(tiny_faces, 16, resize=True)).data["image_size"] == SIZE


def test_embeddings_that_half_precision_cannot_hold_are_refused(tmp_path: Path, dataset: FaceDataset) -> None:
    with pytest.raises(TeacherError, match=r"image \d+ holds the value .* beyond half precision's 65,504"):
        write(tmp_path / "cache", Projection(scale=1e4), dataset)
    with pytest.raises(TeacherError, match="too short for half precision"):
        write(tmp_path / "cache", Projection(scale=1e-9), dataset)
    with pytest.raises(TeacherError, match="has no direction"):
        write(tmp_path / "cache", Projection(scale=0), dataset)
    assert list(tmp_path.iterdir()) == []  # and nothing stands in the way of another try


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_unreadable_images_hold_those_that_stand_in(tmp_path: Path, tiny_faces: Path, workers: int) -> None:
    folder = tmp_path / "faces"
    shutil.copytree(tiny_faces, folder)
    for number in (1, 2):
        (folder / "person_4" / f"{number}.png").write_bytes(b"no image")
    dataset = open_dataset(folder, SIZE, "skip")
    cache = write(tmp_path / "cache", Projection(), dataset, workers=workers)
    assert cache.replaced.tolist() == [29, 30]
    np.testing.assert_array_equal(cache.lookup([29, 30]), cache.lookup([31, 31]))


def test_image_numbers_are_checked(tmp_path: Path, dataset: FaceDataset) -> None:
    cache = write(tmp_path / "cache", Projection(), dataset)
    for wrong in ([0, 42], [-1]):
        with pytest.raises(TeacherError, match="there is no image"):
            cache.lookup(wrong)
    with pytest.raises(TeacherError, match="must be whole"):
        cache.lookup([0.5])


def test_files_that_are_not_whole_are_refused(tmp_path: Path, dataset: FaceDataset) -> None:
    path = tmp_path / "cache"
    write(path, Projection(), dataset)
    whole = path.read_bytes()
    for content, problem in (
        (whole[:-1], "cut short"),
        (whole[100:], "damaged: .* bytes do not hold"),
        (b"", "not a teacher cache"),
        (whole.replace(b'"version": 2', b'"version": 9'), "version 9, this facekd reads up to 2"),
        (whole[:-32] + b"f" * 16 + whole[-16:], "damaged: its trailer"),
    ):
        path.write_bytes(content)
        with pytest.raises(TeacherError, match=problem):
            open_teacher_cache(path, dataset)
    path.write_bytes(bytes(96) + whole[96:])  # the two embeddings of the first image
    cache = open_teacher_cache(path, dataset)
    with pytest.raises(TeacherError, match="the embedding of image 0 is not what was made"):
        cache.lookup([0])
    with pytest.raises(TeacherError, match="no such teacher cache"):
        open_teacher_cache(tmp_path / "absent", dataset)


def test_whatever_byte_is_damaged_the_embeddings_are_right_or_refused(tmp_path: Path, dataset: FaceDataset) -> None:
    path = tmp_path / "cache"
    expected = write(path, Projection(), dataset).lookup_both(np.arange(42))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    places = np.concatenate([generator.integers(0, len(whole), 300), np.arange(len(whole) - 900, len(whole))])
    num_refused = 0
    for place in places.tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            np.testing.assert_array_equal(open_teacher_cache(path, dataset).lookup_both(np.arange(42)), expected)
        except TeacherError:
            num_refused += 1
    assert num_refused >= len(places) - 2  # all but the case of letters in a hexadecimal digit


def test_a_cache_travels_to_another_process(tmp_path: Path, dataset: FaceDataset) -> None:
    cache = write(tmp_path / "cache", Projection(), dataset)
    travelled = pickle.dumps(cache)
    assert len(travelled) < 5000  # a path, not the embeddings
    np.testing.assert_array_equal(pickle.loads(travelled).lookup([3], [True]), cache.lookup([3], [True]))
    (tmp_path / "cache").unlink()
    write(tmp_path / "cache", Projection(seed=1), dataset)
    with pytest.raises(TeacherError, match="was replaced"):
        pickle.loads(travelled)


def test_the_verb_with_a_checkpoint(tmp_path: Path, tiny_faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from facekd.backbones.building import build_backbone
    from facekd.checkpoints.checkpoint import save_checkpoint
    from facekd.embedder import open_embedder

    backbone = {"name": "mobilefacenet", "embedding_size": 16, "image_size": 64, "width": 0.125, "dropout": 0.0}
    torch.manual_seed(0)
    weights = build_backbone(**backbone).state_dict()
    preprocessing = {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"}
    content = {"config": {"backbone": backbone}, "preprocessing": preprocessing, "backbone": weights}
    save_checkpoint(tmp_path / "teacher.pt", content)
    command = [str(tmp_path / "teacher.pt"), "--data", str(tiny_faces), "--output", str(tmp_path / "cache")]
    assert run_verb(lambda: main(command)) == 2
    assert "64" in capsys.readouterr().err
    assert run_verb(lambda: main([*command, "--data-size", "32"])) == 2
    assert "add --resize" in capsys.readouterr().err
    assert run_verb(lambda: main([*command, "--data-size", "32", "--resize"])) == 0
    assert "42 images and their mirror images, 16 values each" in capsys.readouterr().out
    live = open_embedder(tmp_path / "teacher.pt", resize=True)
    dataset = open_dataset(tiny_faces, 32)
    cache = open_teacher_cache(tmp_path / "cache", dataset, live.fingerprint)
    found = cache.lookup(np.arange(42), True)
    expected = live.embed(np.ascontiguousarray(dataset.load(np.arange(42))[0][:, :, ::-1]))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4 * np.abs(expected).max())
