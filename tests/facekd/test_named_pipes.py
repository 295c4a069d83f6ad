"""A named pipe in place of a file, at which opening would wait for ever: every verb says what it is, in one line."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluation.kept_arrays import read_kept
from evaluation.sets.cohort import read_cohort
from evaluation.sets.face_folder import FaceFolder
from evaluation.sets.file_pairs import FileImages
from facekd.cli import main
from facekd.data.datasets.folder_dataset import FolderDataset
from facekd.data.datasets.identity_map import images_sha256
from facekd.errors import DataError, ImageError
from facekd.files.array_cache import load_cached
from facekd.files.reading import require_regular_file, sha256_of_file
from tests.no_waiting import failing_if_it_waits
from tests.odd_images import picture, saved
from tests.results_of_each_kind import pack


@pytest.fixture(autouse=True)
def a_verb_that_waits_fails() -> Iterator[None]:
    with failing_if_it_waits(20):
        yield


@pytest.mark.parametrize(
    "words",
    [
        "data pack {}.lst out",
        "data convert {}.rec out",
        "data convert {}.tar out",
        "data convert {}.tsv out",
        "data inspect {}.rec",
        "data index {}.rec",
        "data align . ../out --landmarks {}.txt",
        "data align . ../out --detector {}.onnx",
        "data make-pairs . ../out.bin --pairs {}.txt",
        "data make-pairs . ../out.bin --pairs {}.mat",
        "evaluate lfw --model m.onnx --pairs {}.bin --output out",
        "evaluate folder --model {}.onnx --images . --output ../out",
        "evaluate classification --model {}.pt --data . --output ../out",
        "compare photo.jpg {}.jpg --model m.onnx",
        "compare photo.jpg photo.jpg --model m.onnx --thresholds {}.json",
        "search photo.jpg --model m.onnx --gallery {}.npz",
        "train {}.yaml",
        "train --data.train {}.rec --output out",
        "study {}.yaml",
        "export {}.pt --output out.onnx",
        "import {}.pth --output out.pt",
    ],
)
def test_a_named_pipe_is_named(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "photo.jpg").write_bytes(b"x")
    pipe = next(word for word in words.split() if "{}" in word).format("pipe")
    os.mkfifo(pipe)
    assert main(words.format("pipe").split()) == 2
    assert f"error: {pipe}: is a named pipe, and a file is needed; write" in capsys.readouterr().err


def test_a_cohort_that_is_a_pipe_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.npy")
    with pytest.raises(DataError, match=r"c\.npy: is a named pipe, and a file is needed"):
        read_cohort(tmp_path / "c.npy")


@pytest.mark.parametrize("read", [read_kept, lambda path: load_cached(path, {})], ids=["kept", "cache"])
def test_what_is_kept_is_made_again_where_a_pipe_has_its_name(
    read: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "kept.npy")
    assert read(tmp_path / "kept.npy") is None
    assert "is a named pipe" in capsys.readouterr().err


def test_a_listed_image_that_is_a_pipe_is_a_bad_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "1.jpg")
    (tmp_path / "a.lst").write_text("1\t1.jpg\t0\n")
    assert main(["data", "pack", str(tmp_path / "a.lst"), str(tmp_path / "out")]) == 2
    assert f"{tmp_path / '1.jpg'}: is a named pipe" in capsys.readouterr().err
    assert main(["data", "convert", str(tmp_path / "a.lst"), str(tmp_path / "out")]) == 2


# Reading the first may wait for ever; of the last, the system says no more than "Invalid argument".
@pytest.mark.parametrize("place", ["/proc/kmsg", "/proc/self/status", "/proc/self/pagemap"])
def test_an_image_of_a_folder_that_is_a_file_of_the_kernel_is_a_bad_image(place: str, tmp_path: Path) -> None:
    for person in "ab":
        (tmp_path / person).mkdir()
        (tmp_path / person / "1.png").write_bytes(saved(picture(), "PNG"))
    bad = tmp_path / "a" / "0.jpg"
    bad.symlink_to(place)
    said = f"{bad}: is a file of the kernel, and a file is needed"
    skipping = FolderDataset(tmp_path, 16, "skip")
    assert skipping.load(np.arange(3))[1].tolist() == [0, 0, 1]
    assert said in skipping.take_bad_records()[0]
    assert len(images_sha256(skipping)) == 64
    with pytest.raises(DataError, match=f"^{said}.*; to go on without such images, set on_bad_record to skip"):
        FolderDataset(tmp_path, 16)
    folder = FaceFolder(tmp_path, 16)
    for read in (lambda: folder.decode(0, 1), lambda: folder.images[0], lambda: folder.digests):
        with pytest.raises(ImageError, match=f"^{said}"):
            read()
    pairs = FileImages("pairs", [bad])
    for read in (lambda: pairs.decode_some([0]), lambda: pairs.images[0]):
        with pytest.raises(ImageError, match=f"^{said}"):
            read()


def test_what_is_refused_and_what_passes(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.bind(str(tmp_path / "s"))
    (tmp_path / "link").symlink_to("/proc/self/status")
    kernel = (tmp_path / "link", Path("/proc/kmsg"), Path("/proc/self/status"))  # kmsg: reading it may wait for ever
    null = (Path("/dev/null"), Path("/proc/self/root/dev/null"))
    devices = ((tmp_path / "s", "a socket"), *((path, "a device") for path in null))
    for path, kind in (*devices, *((path, "a file of the kernel") for path in kernel)):
        for check in (require_regular_file, sha256_of_file):
            with pytest.raises(DataError, match=f"{path}: is {kind}, and a file is needed"):
                check(path)
    (tmp_path / "f").write_bytes(b"")
    reading, writing = os.pipe()  # as the shell gives `<(command)`
    own = f"/proc/{os.getpid()}/fd/{reading}"
    for path in (tmp_path, tmp_path / "f", tmp_path / "absent", f"/dev/fd/{reading}", own):
        require_regular_file(path)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/stdin", "/proc/kmsg", "pipe"])
def test_results_that_name_a_device_as_their_pack_are_compared_without_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    result = pack()
    result["pair_set"]["path"] = place
    for name in ("a", "b"):
        Path(name).mkdir()
        (Path(name) / "results.json").write_text(json.dumps(result))
    assert main(["report", "a", "b", "--output", "both"]) == 0
    about = Path("both/comparison.md").read_text()
    assert f"the data is not at its place: {place}: is " in about
