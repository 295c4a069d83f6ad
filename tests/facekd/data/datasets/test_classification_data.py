"""CIFAR's files and folders of images: what is read, what is checked before, and what is held out."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10, CIFAR100

from data_prep.convert_records import main as convert
from data_prep.synthesize_classification import main as synthesize
from facekd.data.config import DataConfig, open_training_data
from facekd.data.datasets import FaceDataset, FolderDataset, open_dataset
from facekd.data.datasets.cifar_dataset import CifarDataset, cifar_files
from facekd.data.datasets.identity_map import identity_map
from facekd.data.datasets.subset_dataset import hold_out
from facekd.data.loading.loader import make_loader
from facekd.data.loading.orders import FullShuffle
from facekd.data.loading.sampler import PositionSampler
from facekd.data.synthetic.class_textures import render_texture
from facekd.errors import DataError
from facekd.images.augmentation import Augmentation
from facekd.images.crops import cut_and_scale, draw_resized_crops, middle_box

ALL = np.arange(12)


def generate(folder: Path, layout: str, *options: str) -> Path:
    counts = ["--classes", "4", "--images-per-class", "5", "--test-images-per-class", "3"]
    assert synthesize(["--layout", layout, "--output", str(folder), *counts, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def cifar_100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("cifar"), "cifar-100")


@pytest.mark.parametrize(("layout", "reader"), [("cifar-100", CIFAR100), ("cifar-10", CIFAR10)])
def test_generated_files_are_read_by_torchvision(layout: str, reader: type, tmp_path: Path) -> None:
    """torchvision's own reader, its md5 list replaced, finds the pixels that were rendered, by class."""
    generate(tmp_path, layout)
    for is_train, split, count in ((True, "train", 20), (False, "test", 12)):
        dataset = open_dataset(tmp_path, 32, split=split)  # type: ignore[arg-type]
        listed = json.loads((tmp_path / reader.base_folder / "generated.json").read_text())["md5"]
        lists = {
            name: [[file, listed[file]] for file, _ in getattr(reader, name)] for name in ("train_list", "test_list")
        }
        meta = {**reader.meta, "md5": listed[reader.meta["filename"]]}
        theirs = type("Their", (reader,), {**lists, "meta": meta})(tmp_path, train=is_train)
        assert len(dataset) == len(theirs) == count
        images, labels = dataset.load(np.arange(count))
        np.testing.assert_array_equal(images, theirs.data)
        assert labels.tolist() == theirs.targets == dataset.labels.tolist()
        assert dataset.identities == theirs.classes == [f"class_{n:03d}" for n in range(4)]  # type: ignore[attr-defined]
        assert np.bincount(labels).tolist() == [count // 4] * 4
        first = render_texture(int(labels[0]), 0 if is_train else 100_000, 32, 32)
        np.testing.assert_array_equal(images[0], first)
    assert "generated" in dataset.name


def test_official_files_are_known_by_torchvisions_md5(cifar_100: Path, tmp_path: Path) -> None:
    assert cifar_files("cifar-100")["train"] == CIFAR100.train_list[0][1]
    assert len(cifar_files("cifar-10")) == 7
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):  # without the list of the generated ones they must be the official ones
        (folder / name).write_bytes((cifar_100 / "cifar-100-python" / name).read_bytes())
    with pytest.raises(DataError, match=r"train: damaged, or another file: its md5 is \w+, the official md5 is 16019d"):
        CifarDataset(folder)


def test_a_damaged_or_missing_file_is_named(cifar_100: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for file in (cifar_100 / "cifar-100-python").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = bytearray((folder / "test").read_bytes())
    content[-200] ^= 1
    (folder / "test").write_bytes(content)
    with pytest.raises(DataError, match=r"test: damaged"):
        CifarDataset(tmp_path)
    (folder / "test").unlink()
    with pytest.raises(DataError, match=r"test: missing"):
        CifarDataset(tmp_path)


def with_training_file(generated: Path, folder: Path, content: bytes) -> Path:
    """Copies a generated set and puts a stranger's file in it, under the md5 that the set lists for itself."""
    copy = folder / "cifar-100-python"
    shutil.copytree(generated / "cifar-100-python", copy)
    (copy / "train").write_bytes(content)
    listed = json.loads((copy / "generated.json").read_text())
    listed["md5"]["train"] = hashlib.md5(content).hexdigest()
    (copy / "generated.json").write_text(json.dumps(listed))
    return copy


def pickled(data: Any, labels: Any) -> bytes:
    return pickle.dumps({"data": data, "fine_labels": labels}, protocol=2)


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("it ran",)


# numpy's own dtype would take these bytes for pointers to objects.
POINTERS = (
    b"\x80\x02}(X\x04\0\0\0datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
    b"(K\x01K\x01M\0\x0c\x86cnumpy\ndtype\nU\x02O8K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x3ft\x89T\0\x60\0\0" + b"A" * 8 * 3072 + b"tbX\x0b\0\0\0fine_labels]K\0au."
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled(Evil(), [0]), r"asks for \w+\.mkdir.* could run code"),
        (POINTERS, "cannot be read as the files of cifar-100|its data are"),
        (
            pickled(np.zeros((1, 3072), np.uint8), [100]),
            "labels are not whole",
        ),
        (
            pickled(np.zeros((2, 3072), np.uint8), [0]),
            "another number of labels",
        ),
        (pickled(np.zeros((1, 3072), np.int8), [0]), "its data are int8"),
        (pickle.dumps([1, 2], protocol=2), "holds no 'data'"),
        (b"\x80\x02}(", "cannot be read as the files of cifar-100"),
        # Keys with one hash, of which a dictionary compares each with all before it.
        (
            b"\x80\x02}(" + b"".join(pickle.dumps(k * (2**61 - 1), 2)[2:-1] + b"N" for k in range(2000, 2100)) + b"u.",
            "a whole number of 10 bytes",
        ),
    ],
)
def test_a_pickle_of_a_stranger_is_read_without_harm(
    content: bytes, message: str, cifar_100: Path, tmp_path: Path
) -> None:
    folder = with_training_file(cifar_100, tmp_path, content)
    with pytest.raises(DataError, match=message):
        CifarDataset(folder)
    assert not Path("it ran").exists()


def test_names_of_classes_are_text(cifar_100: Path, tmp_path: Path) -> None:
    # A tuple that holds one tuple twice, and so on: a few bytes, and writing it out would take for ever.
    doubled = b")" + b"2\x86" * 18
    content = b"\x80\x02}X\x10\0\0\0fine_label_names](" + doubled + b"es."
    copy = with_training_file(cifar_100, tmp_path, b"")
    (copy / "meta").write_bytes(content)
    listed = json.loads((copy / "generated.json").read_text())
    listed["md5"]["meta"] = hashlib.md5(content).hexdigest()
    (copy / "generated.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match="a class is named by a tuple"):
        CifarDataset(copy)


def test_a_pickle_as_python_2_wrote_it_is_read(cifar_100: Path, tmp_path: Path) -> None:
    # The official files: byte strings for keys and names, arrays of numpy.core.
    data = bytes(range(256)) * 12
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\0\x85U\x01b\x87R"
        b"(K\x01K\x01M\0\x0c\x86cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\0tb\x89T\0\x0c\0\0" + data + b"tbU\x0bfine_labels]K\x03aU\tfilenames]U\x05a.pngau."
    )
    found = CifarDataset(with_training_file(cifar_100, tmp_path, content))
    images, labels = found.load(np.array([0]))
    np.testing.assert_array_equal(images[0], np.frombuffer(data, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0))
    assert labels.tolist() == [3]
    assert pickle.loads(content, encoding="latin1")["data"].tobytes() == data


def test_generating_twice_keeps_what_is_there(cifar_100: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = cifar_100 / "cifar-100-python" / "train"
    before = file.stat().st_mtime_ns
    generate(cifar_100, "cifar-100")
    assert file.stat().st_mtime_ns == before
    with pytest.raises(Exception, match="holds another generated set"):
        generate(cifar_100, "cifar-100", "--seed", "1")


def test_image_folders_with_their_test_images(tmp_path: Path) -> None:
    generate(tmp_path, "folders", "--size", "24")
    train, test = open_dataset(tmp_path, 16, center_crop=0.875), None
    assert isinstance(train, FolderDataset)
    assert (len(train), train.num_classes) == (20, 4)
    for removed in (tmp_path / "val" / "class_001").iterdir():  # a class without test images keeps its number
        removed.unlink()
    (tmp_path / "val" / "class_001").rmdir()
    test = open_dataset(tmp_path, 16, center_crop=0.875, split="test")
    assert test.num_classes == 4
    assert sorted(set(test.labels.tolist())) == [0, 2, 3]
    assert identity_map(test)["identities_sha256"] == identity_map(train)["identities_sha256"]
    images, _ = train.load(ALL)
    for index in ALL:
        image = cv2.imread(str(train.path_of(index)))[:, :, ::-1]
        box = middle_box(*image.shape[:2], 0.875)
        np.testing.assert_array_equal(images[index], cut_and_scale(image, box, 16))
    with pytest.raises(DataError, match=r"expected 16x16; set the image size .* data\.center_crop"):
        open_dataset(tmp_path, 16)
    (tmp_path / "val" / "stranger").mkdir()
    with pytest.raises(DataError, match="stranger is not among the classes"):
        open_dataset(tmp_path, 16, center_crop=0.875, split="test")


def test_records_of_any_size_are_cropped_as_files_are(tmp_path: Path) -> None:
    generate(tmp_path / "files", "folders", "--size", "24")
    files = open_dataset(tmp_path / "files", 16, center_crop=0.875)
    assert convert([str(tmp_path / "files" / "train"), str(tmp_path / "pack"), "--workers", "1"]) == 0
    packed = open_dataset(tmp_path / "pack", 16, center_crop=0.875)
    np.testing.assert_array_equal(packed.load(ALL)[0], files.load(ALL)[0])
    with pytest.raises(DataError, match="rendered at the size asked for, so center_crop has no effect"):
        open_dataset("synthetic:3x2", 16, center_crop=0.875)


def test_the_loader_takes_random_boxes_of_the_stored_image(tmp_path: Path) -> None:
    dataset = open_dataset(generate(tmp_path, "folders", "--size", "24"), 16, center_crop=0.875)
    sampler = PositionSampler(FullShuffle(len(dataset), 3), 10, total_images=20)
    batches = list(make_loader(dataset, sampler, Augmentation(resized_crop=0.2), seed=3))
    assert isinstance(dataset, FolderDataset)
    for batch in batches:
        positions = batch.positions.numpy()
        for image, position, crop in zip(
            batch.images.numpy(), positions, draw_resized_crops(0.2, 3, positions), strict=True
        ):
            stored = cv2.imread(str(dataset.path_of(int(sampler.indices_at([position])[0]))))[:, :, ::-1]
            np.testing.assert_array_equal(image, cut_and_scale(stored, crop.box(*stored.shape[:2]), 16))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ("cifar-100", {"image_size": 64}, "CIFAR's images have 32 pixels, not 64"),
        ("cifar-100", {"image_size": 32, "center_crop": 0.875}, "center_crop has no effect"),
        ("plain", {"image_size": 32, "split": "test"}, "has no test images"),
        ("both", {"image_size": 32}, "holds CIFAR-10 and CIFAR-100"),
    ],
)
def test_what_cannot_be_opened(make: str, arguments: dict, message: str, cifar_100: Path, tmp_path: Path) -> None:
    folder = cifar_100 if make == "cifar-100" else tmp_path
    if make == "plain":
        (tmp_path / "someone").mkdir()
        cv2.imwrite(str(tmp_path / "someone" / "1.png"), np.zeros((32, 32, 3), np.uint8))
    if make == "both":
        for name in ("cifar-100-python", "cifar-10-batches-py"):
            (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=message):
        open_dataset(folder, **arguments)


class Labelled:
    """Just labels: what holding out looks at."""

    name, image_size = "labels", 8

    def __init__(self, labels: list[int]) -> None:
        self.labels = np.array(labels, dtype=np.int64)
        self.num_classes = max(labels) + 1
        self.identities = [str(n) for n in range(self.num_classes)]

    def __len__(self) -> int:
        return len(self.labels)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=80), st.floats(0.01, 0.99))
def test_held_out_images_are_a_share_of_each_class(labels: list[int], share: float) -> None:
    whole = Labelled(labels)
    counts = np.bincount(labels)
    if counts.max() < 2:
        with pytest.raises(DataError, match="no class has two images"):
            hold_out(whole, share)  # type: ignore[arg-type]
        return
    rest, held_out = hold_out(whole, share)  # type: ignore[arg-type]
    assert sorted([*rest.indices, *held_out.indices]) == list(range(len(labels)))  # each image on one side
    np.testing.assert_array_equal(rest.labels, whole.labels[rest.indices])
    for label, count in enumerate(counts):
        wanted = 0 if count < 2 else min(max(1, round(share * count)), count - 1)
        assert (held_out.labels == label).sum() == wanted
    again = hold_out(Labelled(labels), share)[1]  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.indices, held_out.indices)
    assert identity_map(rest) == identity_map(whole)  # type: ignore[arg-type]


def test_which_images_are_held_out_is_not_their_order() -> None:
    held_out = hold_out(Labelled([0] * 1000), 0.1)[1]  # type: ignore[arg-type]
    assert 400 < held_out.indices.mean() < 600
    assert held_out.indices.std() == pytest.approx(1000 / 12**0.5, rel=0.15)


def test_no_held_out_image_stands_in_for_a_bad_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The next image of the same part may be far away, where few are held out; those between are not bad.
    monkeypatch.setattr("facekd.data.datasets.encoded_dataset.MAX_BAD_IN_A_ROW", 2)
    for name, grey in (("ann", 50), ("bob", 200)):
        (tmp_path / name).mkdir()
        for number in range(10):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.full((8, 8, 3), grey + number, np.uint8))
    data = DataConfig(train=str(tmp_path), image_size=8, held_out=0.3, on_bad_record="skip")
    parts = [open_training_data(data, which) for which in ("train", "held_out")]

    def greys(part: FaceDataset) -> set[int]:
        return set(part.load(np.arange(len(part)))[0][:, 0, 0, 0].tolist())

    whole = [greys(part) for part in parts]
    assert [len(found) for found in whole] == [14, 6]
    # Of each image, damaged, the next of its own part is taken.
    for number in range(10):
        file = tmp_path / "ann" / f"{number}.png"
        content = file.read_bytes()
        file.write_bytes(b"damaged")
        found = [greys(part) for part in parts]
        assert found[0] <= whole[0] and found[1] <= whole[1]
        file.write_bytes(content)
