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
from facekd.data.datasets.cifar_dataset import GENERATED, GENERATED_FORMAT, CifarDataset
from tests.fuzz.binary_targets import encoded
from tests.fuzz.target import Target


def _tar_seeds() -> list[bytes]:
    """Returns two archives; a byte more says that checksums of headers are put right before they are read."""
    stream, described = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(2):
            for suffix, content in ((".jpg", encoded()), (".cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    with tarfile.open(fileobj=described, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for suffix, content in ((".png", encoded(".png")), (".json", b'{"label": 1, "name": "n/1.png"}')):
            member = tarfile.TarInfo("\u00e9" * 60 + suffix)
            member.size, member.mtime = len(content), 0.5
            archive.addfile(member, io.BytesIO(content))
    return [stream.getvalue(), stream.getvalue() + b"\0", described.getvalue() + b"\0"]


def _read_tar(path: Path) -> list[bytes]:
    """Reads a tar, half of them with right checksums in all headers, which damage would almost never leave."""
    content = bytearray(path.read_bytes())
    if len(content) % 2:
        del content[-1]
        for start in range(0, len(content) - 511, 512):
            if content[start + 257 : start + 262] == b"ustar":
                content[start + 148 : start + 156] = b" " * 8
                content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
        path.write_bytes(content)
    source = open_source(path)
    assert len(source.labels) == 0 or source.labels.min() >= 0
    images = [source.read(image) for image in range(min(len(source.labels), 20))]

    # They are members of the archive, by Python's own reading.
    with tarfile.open(path, "r:") as archive:
        members = {archive.extractfile(member).read() for member in archive if member.isreg()}
    assert members.issuperset(images)
    return images


CIFAR_TEXTS = {"fine_label_names": ["a", "b"], "coarse_label_names": ["c"]}


def cifar_file(count: int) -> dict[str, Any]:
    return {
        "data": np.zeros((count, 3072), np.uint8),
        "fine_labels": [0, 1] * (count // 2),
        "coarse_labels": [0] * count,
    }


def _cifar_seeds() -> list[bytes]:
    return [pickle.dumps(cifar_file(2), protocol) for protocol in (2, 4)]


def prepare_cifar(folder: Path) -> None:
    (folder / "meta").write_bytes(pickle.dumps(CIFAR_TEXTS, 2))
    (folder / "test").write_bytes(pickle.dumps(cifar_file(2), 2))


def read_cifar(path: Path) -> CifarDataset:
    """Reads the file as part of a generated set, whose list says the md5 that it has now."""
    md5 = {name: hashlib.md5((path.parent / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    (path.parent / GENERATED).write_text(json.dumps({"format": GENERATED_FORMAT, "md5": md5}))
    return CifarDataset(path.parent)


def check_cifar(_: bytes, found: Any) -> None:
    images, labels = found.load(np.arange(len(found)))
    assert len(images) == len(labels) > 0
    assert set(labels.tolist()) <= {0, 1}


TARGETS = [
    Target("tar", "train.tar", _read_tar, _tar_seeds),
    Target("cifar", "train", read_cifar, _cifar_seeds, check_cifar, prepare_cifar, 10, is_named=False),
]
