"""Lists the readers of data sets of others: tars with right checksums, embeddings made elsewhere, CIFAR."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.sources.image_sources import open_source
from evaluation.sets.given_embeddings import read_named_embeddings
from facekd.data.datasets.cifar_dataset import GENERATED, GENERATED_FORMAT, CifarDataset
from tests.fuzz.binary_targets import encoded, tar_seeds
from tests.fuzz.target import Target


def _tar_seeds() -> list[bytes]:
    described = io.BytesIO()
    with tarfile.open(fileobj=described, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for suffix, content in ((".png", encoded(".png")), (".json", b'{"label": 1, "name": "n/1.png"}')):
            member = tarfile.TarInfo("\u00e9" * 60 + suffix)
            member.size, member.mtime = len(content), 0.5
            archive.addfile(member, io.BytesIO(content))
    return [*tar_seeds(), described.getvalue()]


def _read_source(path: Path) -> list[bytes]:
    source = open_source(path)
    assert len(source.labels) == 0 or source.labels.min() >= 0
    return [source.read(image) for image in range(min(len(source.labels), 20))]


def _read_tar_with_right_sums(path: Path) -> list[bytes]:
    """Reads a tar whose headers all have right checksums, which damage would almost never leave."""
    content = bytearray(path.read_bytes())
    for start in range(0, len(content) - 511, 512):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    path.write_bytes(content)
    return _read_source(path)


def _check_images(content: bytes, images: list[bytes]) -> None:
    """Every image must lie in the file as it is; its header may have been given another checksum."""
    for image in images:
        assert image in content or any(image[start : start + 512] in content for start in range(0, len(image), 512))


def _given_seeds() -> list[bytes]:
    seeds = []
    for names in (np.array(["a/1.jpg", "b/1.jpg"]), np.array([b"a/1.jpg", b"\xff/1.jpg"])):
        for save in (np.savez, np.savez_compressed):
            stream = io.BytesIO()
            save(stream, names=names, embeddings=np.ones((2, 4), np.float32))
            seeds.append(stream.getvalue())
    return seeds


def _check_given(_: bytes, result: Any) -> None:
    given, places = result
    assert sorted(places.values()) == list(range(len(places)))
    assert all(isinstance(name, str) for name in places)
    given.compared(None, np.arange(len(places)))


CIFAR_TEXTS = {"fine_label_names": ["a", "b"], "coarse_label_names": ["c"]}


def _cifar_file(count: int) -> dict[str, Any]:
    return {
        "data": np.zeros((count, 3072), np.uint8),
        "fine_labels": [0, 1] * (count // 2),
        "coarse_labels": [0] * count,
    }


def _cifar_seeds() -> list[bytes]:
    return [pickle.dumps(_cifar_file(2), protocol) for protocol in (2, 4)]


def _prepare_cifar(folder: Path) -> None:
    (folder / "meta").write_bytes(pickle.dumps(CIFAR_TEXTS, 2))
    (folder / "test").write_bytes(pickle.dumps(_cifar_file(2), 2))


def _read_cifar(path: Path) -> CifarDataset:
    """Reads the file as part of a generated set, whose list says the md5 that it has now."""
    md5 = {name: hashlib.md5((path.parent / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    (path.parent / GENERATED).write_text(json.dumps({"format": GENERATED_FORMAT, "md5": md5}))
    return CifarDataset(path.parent)


def _check_cifar(_: bytes, found: Any) -> None:
    images, labels = found.load(np.arange(len(found)))
    assert len(images) == len(labels) > 0
    assert set(labels.tolist()) <= {0, 1}


TARGETS = [
    Target("tar_sums", "train.tar", _read_tar_with_right_sums, _tar_seeds, _check_images),
    Target("given_npz", "given.npz", lambda path: read_named_embeddings(path, False), _given_seeds, _check_given),
    Target("cifar", "train", _read_cifar, _cifar_seeds, _check_cifar, _prepare_cifar, 10, is_named=False),
]
