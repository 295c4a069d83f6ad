"""Lists the readers of binary files: packs, caches, arrays, archives, checkpoints, images."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from data_prep.inspection.identity_findings import load_embeddings
from data_prep.sources.image_sources import open_source
from evaluation.kept_arrays import read_kept, write_kept
from evaluation.sets.embedding_rows import NpyRows
from facekd.backbones.building import BACKBONES
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.models import load_backbone
from facekd.checkpoints.shared_head import read_classifier
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.pair_packs.npz_file import write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack, decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.data.recordio import Header, pack
from facekd.embedder.classifying_model import load_logit_network
from facekd.faces import Gallery, Origin, read_gallery, write_gallery
from facekd.faces.gallery import is_gallery
from facekd.faces.search.crops import FaceCrops
from facekd.files.array_cache import load_cached, save_cached
from facekd.files.reading import sealed
from facekd.images.decoding import decode_rgb
from facekd.images.preprocessing import Preprocessing
from facekd.importing.weight_files import read_weights
from facekd.teacher.cache_file import TeacherCache, check_claim
from tests.fuzz.target import Target
from tests.hostile_values import ARCHITECTURE, JSON_KINDS, Tiny, changed_by, check_ends_in_a_sentence

MAGIC = (0xCED7230A).to_bytes(4, "little")
CACHED = {"labels": np.arange(40, dtype=np.int64), "keys": np.arange(7, dtype=np.uint32)[:, None]}


def encoded(suffix: str = ".jpg", size: int = 8) -> bytes:
    """Encodes a small picture."""
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.imencode(suffix, picture)[1].tobytes()


def record(label: Any, content: bytes, key: int) -> bytes:
    """Returns the bytes of a record that needs no splitting."""
    payload = pack(Header(0, label, key, 0), content)
    return MAGIC + len(payload).to_bytes(4, "little") + payload + bytes(-len(payload) % 4)


def rec_seeds() -> list[bytes]:
    """Returns an im2rec file and one of InsightFace's layout, without .idx."""
    image = encoded()
    plain = b"".join(record(float(key % 2), image, key) for key in range(4))
    # InsightFace numbers records from 0 only by its .idx, so without one this is a file of odd records.
    people = [record(np.array([1.0, 3.0]), b"", 5), record(np.array([3.0, 5.0]), b"", 6)]
    return [plain, plain + b"".join(people) + record(np.array([5.0, 7.0]), b"", 0)]


def _idx_seeds() -> list[bytes]:
    lengths = np.cumsum([0, *(len(record(0.0, encoded(), 0)) for _ in range(3))])
    return ["".join(f"{key}\t{offset}\n" for key, offset in enumerate(lengths)).encode()]


def _read_pack(path: Path) -> list[tuple[bytes, int]]:
    found = open_record_pack(path.with_name("train.rec"), "fail")
    labels = found.labels().tolist()
    images = [found.read_image(image) for image in range(min(found.num_images, 50))]
    assert labels[: len(images)] == [label for _, label in images]
    return images


def _check_records(content: bytes, images: list[tuple[bytes, int]]) -> None:
    """Every image returned must lie in the file as it is, split records aside."""
    for image, _ in images:
        assert MAGIC in content
        assert image in content or len(content) > len(image)


def _cache_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        save_cached(path, {"stamp": [1, 2]}, CACHED)
        return [path.read_bytes()]


def _check_cache(_: bytes, found: Any) -> None:
    """A damaged cache is read as none, never as other values."""
    if found is not None:
        for name, array in CACHED.items():
            np.testing.assert_array_equal(found[1][name], array)


def _kept_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.npy"
        write_kept(path, np.arange(12, dtype=np.float32).reshape(3, 4))
        return [path.read_bytes()]


def _check_kept(_: bytes, found: Any) -> None:
    """A damaged array is read as none, never as other values."""
    if found is not None:
        np.testing.assert_array_equal(found, np.arange(12, dtype=np.float32).reshape(3, 4))


def _bin_seeds() -> list[bytes]:
    images = [encoded(".png", 4) for _ in range(4)]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    forms: list[Any] = [
        (images, [True, False]),
        (arrays, np.array([True, False]).tolist()),
        (images, [np.True_, np.False_]),
    ]
    return [pickle.dumps(form, protocol) for form in forms for protocol in (2, 4)]


def _npz_seeds() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.npz"
        write_native_pair_pack(path, PairPack([encoded(".png", 4)] * 4, np.array([True, False])))
        return [path.read_bytes()]


def _gallery_seeds() -> list[bytes]:
    import tempfile

    faces = np.eye(3, dtype=np.float32), np.ones(3, np.float32), np.array(["a.jpg", "../b.jpg", "/c.rec#3"])
    places = (np.full(shape, np.nan, np.float32) for shape in ((3, 4), (3, 5, 2), (3,)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.npz"
        write_gallery(
            path, Gallery(*faces, np.array(["", "Ada", ""]), *places, Origin("m.onnx", "ab", Preprocessing()))
        )
        return [path.read_bytes()]


def _read_gallery(path: Path) -> Gallery:
    """Reads a gallery as `facekd search` does, which first looks whether the file is one."""
    is_gallery(path)
    return read_gallery(path)


def _check_gallery(_: bytes, gallery: Any) -> None:
    """Whatever its names are, no other image is opened than those below the folder, in which there is none."""
    crops = FaceCrops([Path("/nowhere")])
    assert all(crops.cut(gallery, row) is None for row in range(len(gallery)))
    assert {*crops.left_out} == {*gallery.names.tolist()}


def _read_pairs(path: Path) -> int:
    found = read_pair_pack(path)
    decode_images(found.images[:2], source=path)
    return len(found)


def _npy_seeds() -> list[bytes]:
    seeds = []
    for dtype in (np.float32, np.float16, np.float64):
        stream = io.BytesIO()
        np.save(stream, np.ones((4, 8), dtype))
        seeds.append(stream.getvalue())
    return seeds


def tar_seeds() -> list[bytes]:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(2):
            for suffix, content in ((".jpg", encoded()), (".cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number:06d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return [stream.getvalue()]


def _read_source(path: Path) -> int:
    source = open_source(path)
    return sum(len(source.read(image)) for image in range(min(len(source.labels), 20)))


TEACHER_ROWS = (np.arange(3 * 2 * 4) + 1).astype("<f2").reshape(3, 2, 4)
TEACHER_TRAILER: dict[str, Any] = {
    "format": "facekd-teacher-cache",
    "version": 1,
    "teacher": {"embedding_size": 4, "fingerprint": "f", "normalized": False, "preprocessing": {"mean": [1.0]}},
    "data": {
        "name": "pack",
        "num_images": 3,
        "num_classes": 2,
        "image_size": 32,
        "labels_sha256": "a",
        "images_sha256": "b",
    },
    "replaced": [1],
}


def teacher_cache(trailer: Any, version: int) -> bytes:
    """Returns a teacher cache with a trailer, which is sealed if it can be."""
    rows, checksums = TEACHER_ROWS.tobytes(), b""
    if version > 1:
        checksums = b"".join(zlib.crc32(row.tobytes()).to_bytes(4, "little") for row in TEACHER_ROWS.reshape(6, 4))
        if isinstance(trailer, dict):
            trailer = sealed({"checksums_crc32": zlib.crc32(checksums), **trailer})
    text = json.dumps(trailer).encode()
    return rows + checksums + text + f"{len(text):016x}".encode() + b"facekd teacher\n\n"


def _teacher_seeds() -> list[bytes]:
    return [teacher_cache({**TEACHER_TRAILER, "version": version}, version) for version in (1, 2)]


def _read_teacher(path: Path) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    cache = TeacherCache(path)
    check_claim(path, cache.teacher, cache.data, None, cache.data)
    assert ((cache.replaced >= 0) & (cache.replaced < cache.num_images)).all()
    return cache.lookup_both(np.arange(cache.num_images)), cache.teacher, cache.data


def _check_teacher(content: bytes, found: Any) -> None:
    """Embeddings are those of the bytes; where there are checksums, those that were written."""
    rows, teacher, data = found
    stored = np.frombuffer(content[: rows.size * 2], "<f2").reshape(rows.shape)
    np.testing.assert_array_equal(rows, stored.astype(np.float32))
    assert rows.shape == (data["num_images"], 2, teacher["embedding_size"])
    assert f"{teacher['fingerprint']} {data['name']} {data['num_classes']:,}"
    if b'"version": 2' in content:
        np.testing.assert_array_equal(stored, TEACHER_ROWS)


def _read_changed_teacher(path: Path) -> Any:
    trailer = changed_by(path.read_bytes(), TEACHER_TRAILER, JSON_KINDS)
    version = 2 if path.stat().st_size % 2 else 1
    path.write_bytes(teacher_cache({**trailer, "version": version}, version))
    found = _read_teacher(path)
    _check_teacher(path.read_bytes(), found)
    return found


def _whole_checkpoint() -> dict[str, Any]:
    """Returns the content of a checkpoint with every field that a stranger could change."""
    weights = Tiny(**ARCHITECTURE).state_dict()
    return {
        "format": "facekd-checkpoint",
        "version": 1,
        "backbone": weights,
        "ema": weights,
        "config": {"backbone": ARCHITECTURE, "head": {"kind": "linear"}, "data": {"center_crop": 0.5}},
        "preprocessing": {"mean": [1.0], "std": [1.0], "color": "rgb"},
        "projection": torch.eye(4),
        "head": {"weight": torch.ones(3, 4)},
        "num_classes": 3,
        "identities": ["a"],
        "labels_sha256": "a",
        "head_shards": {"folder": "5.head", "shapes": {"weight": [3, 4]}, "checksums": {"a": 1}},
        "training": {
            "images_seen": 5,
            "total_images": 9,
            "scaler": {},
            "ema": None,
            "best_accuracy": 0.5,
            "optimizer": {"state": {0: {}}, "param_groups": [{"params": [0]}]},
            "extras": {},
            "losses_since_log": [[1.0]],
            "bad_records": ["a"],
        },
    }


def _read_changed_checkpoint(path: Path) -> Any:
    """Writes a checkpoint whose leaves are changed, by torch.save, and reads it as all verbs do."""
    choices = path.read_bytes()
    content = _whole_checkpoint()
    if len(choices) % 2:
        del content["head_shards"]
    torch.save(changed_by(choices, content), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Tiny)
        for read in (read_checkpoint, read_classifier, load_logit_network, load_backbone):
            check_ends_in_a_sentence(read, path, "changed")
        return load_backbone(path)


def _checkpoint_seeds() -> list[bytes]:
    stream = io.BytesIO()
    content = {"format": "facekd-checkpoint", "version": 1, "config": {"backbone": {"name": "mobilefacenet"}}}
    torch.save({**content, "backbone": {"weight": torch.ones(2, 2)}}, stream)
    return [stream.getvalue()]


def _state_seeds() -> list[bytes]:
    seeds = []
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"conv1.weight": torch.ones(2, 2)}, stream, _use_new_zipfile_serialization=zipped)
        seeds.append(stream.getvalue())
    return [*seeds, safetensors.torch.save({"conv1.weight": torch.ones(2, 2)})]


TARGETS = [
    Target("rec", "train.rec", _read_pack, rec_seeds, _check_records),
    Target(
        "idx",
        "train.idx",
        _read_pack,
        _idx_seeds,
        prepare=lambda folder: (folder / "train.rec").write_bytes(rec_seeds()[0]) and None,
        is_named=False,  # the .rec may be named instead
    ),
    Target(
        "cache",
        "cache",
        lambda path: load_cached(path, {"stamp": [1, 2]}),
        _cache_seeds,
        _check_cache,
    ),
    Target("pairs_bin", "pack.bin", _read_pairs, _bin_seeds),
    Target("pairs_npz", "pack.npz", _read_pairs, _npz_seeds),
    Target("gallery", "faces.npz", _read_gallery, _gallery_seeds, _check_gallery),
    Target("npy", "embeddings.npy", lambda path: load_embeddings(path, 4), _npy_seeds),
    Target("npy_rows", "embeddings.npy", lambda path: NpyRows(path, None, False, 4).read(0, 4), _npy_seeds),
    Target("npy_kept", "kept.npy", read_kept, _kept_seeds, _check_kept),
    Target("tar", "train.tar", _read_source, tar_seeds),
    Target("teacher_cache", "teacher.cache", _read_teacher, _teacher_seeds, _check_teacher),
    Target("teacher_trailer", "teacher.cache", _read_changed_teacher, lambda: [b""], max_len=9),
    Target("checkpoint_leaf", "model.pt", _read_changed_checkpoint, lambda: [b""], copies=20, max_len=9),
    Target("checkpoint", "model.pt", read_checkpoint, _checkpoint_seeds),
    Target("state_dict", "backbone.pth", read_weights, _state_seeds),
    Target(
        "jpeg",
        "a.jpg",
        lambda path: decode_rgb(path.read_bytes()),
        lambda: [encoded(), encoded(size=40)],
        is_named=False,
    ),
    Target(
        "png",
        "a.png",
        lambda path: decode_rgb(path.read_bytes()),
        lambda: [encoded(".png"), encoded(".bmp")],
        is_named=False,
    ),
]
