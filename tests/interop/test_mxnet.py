"""Packs that facekd writes are read by mxnet 1.9.1, the reference implementation of RecordIO, and the reverse.

mxnet needs an old numpy, so it runs in an environment of its own, which `make test-mxnet` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack, unpack
from facekd.images.decoding import decode_rgb

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("FACEKD_MXNET_PYTHON", ROOT / ".venv-mxnet" / "bin" / "python"))
MAGIC = bytes.fromhex("0a23d7ce")
Ask = Callable[..., list[Any]]

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment with mxnet: `make test-mxnet` makes one"),
    pytest.mark.slow,  # importing mxnet takes seconds each time
]


@pytest.fixture(scope="module")
def ask() -> Ask:
    """Send requests to mxnet; returns its answers."""

    def send(*requests: dict[str, Any]) -> list[Any]:
        done = subprocess.run(
            [PYTHON, "-W", "ignore", Path(__file__).with_name("mxnet_side.py")],
            input=json.dumps(requests, default=str),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout[done.stdout.index("[") :])

    return send


def raw_payloads() -> list[bytes]:
    """Payloads of every kind the framing has to survive: the magic number aligned, unaligned, repeated, at the ends."""
    generator = np.random.default_rng(5)
    words = [MAGIC, MAGIC, b"abcd", b"\0\0\0\0", b"x", b"yz"]
    mixed = [b"".join(words[i] for i in generator.integers(0, len(words), count)) for count in range(60)]
    return [b"", MAGIC, MAGIC * 5, b"abcd" + MAGIC, b"abc" + MAGIC + b"d", MAGIC + b"tail", *mixed]


def portraits(count: int, size: int = 112) -> list[bytes]:
    """JPEGs of smooth pictures, all different."""
    generator = np.random.default_rng(count)
    coarse = generator.integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    pictures = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in coarse]
    return [cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for picture in pictures]


def test_the_reference_is_the_version_meant(ask: Ask) -> None:
    assert ask({"do": "version"}) == ["1.9.1"]


def test_headers_are_packed_to_the_same_bytes(ask: Ask) -> None:
    headers = [
        Header(0, 7.0, 1, 0),
        Header(9, 3.5, 2**40, 2**63),  # mxnet sets the flag itself where the label is a number
        Header(0, np.array([4.0], np.float32), 3, 1),
        Header(2, np.array([4.0, 1.0], np.float32), 3, 1),
        Header(0, np.arange(14, dtype=np.float32), 5, 0),
    ]
    as_lists = [
        [h.flag, h.label.tolist() if isinstance(h.label, np.ndarray) else h.label, h.id, h.id2] for h in headers
    ]
    [packed] = ask({"do": "pack", "headers": as_lists, "content": "00ff10"})
    assert [pack(header, b"\x00\xff\x10").hex() for header in headers] == packed


def test_both_write_the_same_file_and_read_each_others(tmp_path: Path, ask: Ask) -> None:
    payloads = raw_payloads()
    keys = np.random.default_rng(0).permutation(3 * len(payloads))[: len(payloads)].tolist()
    with RecordWriter(tmp_path / "ours.rec") as writer:
        for key, payload in zip(keys, payloads, strict=True):
            writer.write(key, payload)
    theirs = {"rec": str(tmp_path / "theirs.rec"), "idx": str(tmp_path / "theirs.idx")}
    ours = {"rec": str(tmp_path / "ours.rec"), "idx": str(tmp_path / "ours.idx")}
    records = [[key, payload.hex()] for key, payload in zip(keys, payloads, strict=True)]
    _, read, in_order = ask(
        {"do": "write", **theirs, "records": records},
        {"do": "read", **ours, "unpack": False},
        {"do": "read_in_file_order", "rec": ours["rec"]},
    )
    assert (tmp_path / "ours.rec").read_bytes() == (tmp_path / "theirs.rec").read_bytes()
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()
    assert read["keys"] == keys
    assert read["records"] == {str(key): payload for key, payload in records}
    assert in_order == [payload.hex() for payload in payloads]
    with RecordReader(theirs["rec"]) as reader:
        assert reader.keys.tolist() == keys
        assert [reader.read(key) for key in keys] == payloads


def test_mxnet_reads_our_insightface_pack(tmp_path: Path, ask: Ask) -> None:
    images = portraits(7)
    labels = [0, 0, 0, 1, 2, 2, 2]
    with RecordPackWriter(tmp_path, image_size=112, layout="insightface") as writer:
        for label, image in zip(labels, images, strict=True):
            writer.add(label, image)
    [answer] = ask(
        {"do": "read", "rec": str(tmp_path / "train.rec"), "idx": str(tmp_path / "train.idx"), "unpack": True}
    )
    records = answer["records"]
    assert answer["keys"] == [*range(1, 11), 0]
    assert records["0"] == {"header": [2, [8.0, 11.0], 0, 1], "content": ""}
    assert [records[str(key)]["header"][1] for key in (8, 9, 10)] == [[1.0, 4.0], [4.0, 5.0], [5.0, 8.0]]
    for key, (label, image) in enumerate(zip(labels, images, strict=True), start=1):
        assert records[str(key)] == {"header": [2, [float(label), 1.0], key, 0], "content": image.hex()}


def test_image_record_iter_yields_our_images_and_labels(tmp_path: Path, ask: Ask) -> None:
    images = portraits(10)
    labels = [3, 0, 1, 1, 2, 0, 3, 2, 1, 0]
    with RecordPackWriter(tmp_path, image_size=112, layout="im2rec") as writer:
        for label, image in zip(labels, images, strict=True):
            writer.add(label, image)
    pixels = tmp_path / "pixels.npy"
    rec, idx = str(tmp_path / "train.rec"), str(tmp_path / "train.idx")
    [seen] = ask({"do": "iterate", "rec": rec, "idx": idx, "size": 112, "batch_size": 5, "pixels": str(pixels)})
    assert seen == labels
    theirs = np.load(pixels).transpose(0, 2, 3, 1)
    ours = np.stack([decode_rgb(image) for image in images]).astype(np.float32)
    assert theirs.shape == ours.shape
    # Two builds of libjpeg may round differently; a swap of colours or of images is tens of levels.
    assert np.abs(theirs - ours).max() <= 3


def test_we_read_a_pack_that_mxnet_wrote_image_by_image(tmp_path: Path, ask: Ask) -> None:
    images = portraits(4)
    headers = [[0, label, key, 0] for key, label in enumerate([1, 0, 1, 0])]
    requests = [
        {"do": "pack", "headers": [header], "content": image.hex()}
        for header, image in zip(headers, images, strict=True)
    ]
    packed = [answer[0] for answer in ask(*requests)]
    order = [2, 0, 3, 1]
    rec, idx = str(tmp_path / "train.rec"), str(tmp_path / "train.idx")
    ask({"do": "write", "rec": rec, "idx": idx, "records": [[key, packed[key]] for key in order]})
    data = open_record_pack(tmp_path)
    assert data.layout == "im2rec"
    assert data.image_keys.tolist() == order
    assert data.labels().tolist() == [1, 1, 0, 0]
    assert [data.read_image(i) for i in range(4)] == [(images[key], int(headers[key][1])) for key in order]
    header, content = unpack(data.reader.read(3))
    assert (header, content) == (Header(0, 0.0, 3, 0), images[3])


def test_mxnet_reads_the_real_pack_as_we_do(real_data: Callable[[str], Path], ask: Ask) -> None:
    rec, idx = real_data("lfw_train/train.rec"), real_data("lfw_train/train.idx")
    [answer] = ask({"do": "read", "rec": str(rec), "idx": str(idx), "unpack": False})
    with RecordReader(rec) as reader:
        assert reader.keys.tolist() == answer["keys"]
        assert {str(key): reader.read(key).hex() for key in reader.keys.tolist()} == answer["records"]
