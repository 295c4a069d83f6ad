"""Lists the readers of weights: checkpoints, files of other trainers, and the embeddings that teachers left."""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from facekd.backbones.building import BACKBONES
from facekd.checkpoints import checkpoint
from facekd.checkpoints.checkpoint import read_checkpoint
from facekd.checkpoints.models import load_backbone, plan_backbone
from facekd.checkpoints.shared_head import read_classifier
from facekd.checkpoints.torch_pickle import FREE_TENSOR_BYTES, LARGEST_TENSORS
from facekd.embedder.classifying_model import load_logit_network
from facekd.files.reading import sealed
from facekd.importing import backbones, classifiers
from facekd.importing.networks import names_in_file
from facekd.importing.weight_files import WeightFile, read_weights
from facekd.teacher.cache_file import TeacherCache, check_claim
from tests.fuzz.target import Target
from tests.hostile_values import ARCHITECTURE, JSON_KINDS, Tiny, changed_by, check_ends_in_a_sentence

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


def _read_changed_checkpoint(path: Path) -> list[bool]:
    """Writes a checkpoint whose leaves are changed, by torch.save, and reads it as all verbs do."""
    choices = path.read_bytes()
    content = _whole_checkpoint()
    if len(choices) % 2:
        del content["head_shards"]
    torch.save(changed_by(choices, content), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny", Tiny)
        patch.setattr(checkpoint, "read_torch_file", _read_once(checkpoint.read_torch_file))
        readers = (read_checkpoint, read_classifier, load_logit_network, load_backbone)
        return [check_ends_in_a_sentence(read, path, "changed") for read in readers]


def _read_once(read: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a reader that reads each file once: all verbs read a checkpoint in the same way."""
    kept: dict[Path, Any] = {}

    def read_kept(path: Path, *rest: Any) -> Any:
        if path not in kept:
            kept[path] = read(path, *rest)
        return copy.deepcopy(kept[path])

    return read_kept


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


def _check_state(content: bytes, found: WeightFile) -> None:
    """Tensors stay near the size of the file; those of a safetensors file are its numbers, by numpy's reading."""
    taken = sum(tensor.numel() * tensor.element_size() for tensor in found.state.values())
    assert taken <= LARGEST_TENSORS * len(content) + FREE_TENSOR_BYTES
    if content[8:9] == b"{":
        start = 8 + int.from_bytes(content[:8], "little")
        for name, about in json.loads(content[8:start]).items():
            first, last = about.get("data_offsets", (0, 0))
            if about.get("dtype") == "F32" and name in found.state:
                own = np.frombuffer(content[start + first : start + last], "<f4").reshape(about["shape"])
                np.testing.assert_array_equal(found.state[name].numpy(), own)


@functools.cache
def _pickled_archive() -> dict[str, bytes]:
    """Returns the members of a torch file, by name: tensors, a parameter, and plain values."""
    stream = io.BytesIO()
    parameter = torch.nn.Parameter(torch.ones(3))
    torch.save({"conv1.weight": torch.ones(2, 2), "a": [1, 2.5, "x", (1,)], "b": {"c": parameter}}, stream)
    with zipfile.ZipFile(stream) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def _read_pickle(path: Path) -> WeightFile:
    """Reads a torch file with this pickle, in an archive whose checksums are right."""
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, own in _pickled_archive().items():
            archive.writestr(name, content if name.endswith("/data.pkl") else own)
    found = read_weights(path)
    _check_state(path.read_bytes(), found)
    return found


@functools.cache
def _networks_in_files() -> list[dict[str, torch.Tensor]]:
    """Returns the tensors, all zeros, in files of small networks of each family that facekd knows."""
    found = []
    for name in ("mobilefacenet", "iresnet18", "ir_18", "vit_t"):
        plan = plan_backbone({"name": name, "embedding_size": 64, "image_size": 112, "width": 0.125}).state_dict()
        names = names_in_file(name, plan)
        zero_of = {own: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for own, tensor in plan.items()}
        found.append({file: zero_of[own] for own, file in names.items()})
    return found


def _read_imported(path: Path) -> str:
    """Imports a network some of whose tensors the bytes change: in shape or type, to no number, or to none at all."""
    choices = path.read_bytes() or b"\0"
    state = {**_networks_in_files()[choices[0] % 4]}
    # Those by which a network is recognised are among the first and the last.
    telling = [*list(state)[:3], *list(state)[-8:]]
    for tensor, place, kind in zip(choices[1:13:3], choices[2:13:3], choices[3:13:3], strict=False):
        names = telling if tensor < 128 else list(state)
        name = names[tensor % len(names)]
        if name in state:
            changed = _changed_tensor(state.pop(name), place, kind)
            state.update({} if changed is None else {name: changed})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "read_weights", lambda _: WeightFile(state, [], ()))
        found = backbones.import_backbone(path)
    for own in found.backbone.state_dict().values():
        assert not own.is_floating_point() or own.isfinite().all()
    return found.framework


def _changed_tensor(tensor: torch.Tensor, place: int, kind: int) -> torch.Tensor | None:
    """Returns another tensor that a file of less than 40 MB can hold; None for none."""
    shape = list(tensor.shape)
    if kind < len(SIZES):
        others = [*shape, SIZES[kind]] if place >= len(shape) else [*shape[:place], SIZES[kind], *shape[place + 1 :]]
        if math.prod(others) > MOST_VALUES:
            others = [0 if at == (place + 1) % len(others) else size for at, size in enumerate(others)]
        return torch.zeros(()).expand(others) if math.prod(others) <= MOST_VALUES else None
    others_by_kind = (
        None,
        torch.zeros(()).expand(shape[1:]),
        torch.full((), torch.nan).expand(shape),
        *(
            torch.zeros((), dtype=dtype).expand(shape)
            for dtype in (torch.float16, torch.int64, torch.complex64, torch.bool)
        ),
    )
    return others_by_kind[kind % len(others_by_kind)]


def _classifier_parts() -> list[dict[str, Any]]:
    """Returns what the forms of files with a classifier hold."""
    statistics = {"head.batch_mean": torch.ones(1, 1), "head.batch_std": torch.ones(1, 1)}
    return [
        {
            "state_dict_softmax_fc": {"weight": torch.ones(3, 4)},
            "epoch": 1,
            "global_step": 5,
            "state_dict_backbone": {},
        },
        {"state_dict": {"head.kernel": torch.ones(4, 3), "model.x": torch.ones(2), **statistics}, "epoch": 1},
        {"weight": torch.ones(3, 4)},
    ]


def _join(path: Path) -> classifiers.JoinedClassifier | str:
    """Joins the classifier in files of two processes whose values the bytes change."""
    choices = path.read_bytes().ljust(1, b"\0")
    kind = choices[0]
    forms = _classifier_parts()
    parts = [changed_by(choices[1 + 8 * rank : 9 + 8 * rank], forms[kind % 3]) for rank in range(2)]
    name = classifiers.NAMES[kind // 3 % 3]
    for rank in range(2):
        (path.parent / name.format(rank)).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "read_file", lambda file: parts[file.name == name.format(1)])
        num_classes = (None, 6, 5)[kind // 9 % 3]
        found = classifiers.join_classifier(path.parent / name.format(kind // 27 % 2), num_classes, kind >= 128)
    for file in path.parent.glob("*_gpu_*"):
        file.unlink()
    for file in path.parent.glob("rank_*"):
        file.unlink()
    return "none" if found is None else found


def _check_joined(_: bytes, found: Any) -> None:
    """There are finite weights (C, D), or one line says why not."""
    if found != "none" and found.weight_CD is not None:
        assert found.weight_CD.dtype == torch.float32 and found.weight_CD.ndim == 2
        assert found.weight_CD.isfinite().all() and found.files and not found.problem
    elif found != "none":
        assert found.problem and len(found.problem) < 1000 and "\n" not in found.problem


SIZES = (0, 1, 2, 3, 5, 16, 64, 1000, 2**20, 2**31, 2**62)
MOST_VALUES = 10_000_000

TARGETS = [
    Target("teacher_cache", "teacher.cache", _read_teacher, _teacher_seeds, _check_teacher),
    Target("teacher_trailer", "teacher.cache", _read_changed_teacher, lambda: [b""], max_len=9),
    Target("checkpoint_leaf", "model.pt", _read_changed_checkpoint, lambda: [b""], copies=10, max_len=9),
    Target("checkpoint", "model.pt", read_checkpoint, _checkpoint_seeds),
    Target("state_dict", "backbone.pth", read_weights, _state_seeds, _check_state),
    Target(
        "torch_pickle",
        "backbone.pth",
        _read_pickle,
        lambda: [content for name, content in _pickled_archive().items() if name.endswith("/data.pkl")],
        copies=80,
    ),
    Target(
        "import_backbone",
        "backbone.pth",
        _read_imported,
        lambda: [bytes([number]) for number in (0, 2)],
        copies=3,
        max_len=13,
    ),
    Target(
        "join_classifier",
        "choices",
        _join,
        lambda: [bytes([number]) for number in (0, 1, 2, 9, 27, 128)],
        _check_joined,
        max_len=17,
        is_named=False,
    ),
]
