"""Lists the readers of models that strangers made: ONNX files with data beside them, and heads in folders."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from facekd.checkpoints.contents import HeadShards, from_plain_fields
from facekd.checkpoints.head_shards import read_rows
from facekd.embedder import OnnxEmbedder
from facekd.embedder.onnx_models.file import OnnxFile, load_external_data, read_onnx_file
from facekd.faces.detectors import Faces, ScrfdDetector
from facekd.files.reading import read_json
from facekd.images.preprocessing import Preprocessing, parse_metadata
from tests.fuzz.target import Target

WEIGHTS = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
# What a field of a model may say: of names and places, numbers, and weights.
NAMES = (
    "",
    "images",
    "w",
    "weights",
    "../up/weights",
    "/dev/zero",
    "pipe",
    "zeros",
    "Loop",
    "\x1b[31m",
    "x" * 100_000,
    "9" * 400,
)
FIELD_VALUES: dict[type, tuple[Any, ...]] = {
    str: NAMES,
    bytes: tuple(name.encode() for name in NAMES),
    int: (0, 1, -1, 2, 7, 10, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63)),
    float: (0.0, -1.0, float("nan"), float("inf"), 1e38),
}
OTHER_OUTPUTS: tuple[Callable[[np.ndarray], Any], ...] = (
    *[lambda array: array] * 8,
    lambda array: array[None],
    lambda array: array.ravel(),
    lambda array: array[:-1],
    lambda array: array[:0],
    lambda array: array.astype(np.float64),
    lambda array: array.astype(np.complex64),
    lambda array: array.astype("U9"),
    lambda array: array.astype(object),
    lambda array: array > 0,
    lambda array: [[1.0], [1.0, 2.0]],
    lambda array: [{"a": 1}],
)
HEAD = "shard-00002-model-00001-of-00001.safetensors"


def _onnx_seeds() -> list[bytes]:
    """Returns small networks: all in one file, with data beside it in every place, and with a normalisation inside."""
    return [_network(), _network(beside="initializer"), _network(beside="attributes"), _network(scaled=True)]


def _network(beside: str = "", scaled: bool = False) -> bytes:
    # The weights, and tensors that nothing uses.
    outside = TensorProto(name="w", data_type=1, dims=WEIGHTS.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights"), ("offset", "0"), ("length", "384")):
        outside.external_data.add(key=key, value=value)
    constants = [outside if beside == "initializer" else numpy_helper.from_array(WEIGHTS, "w")]
    nodes, functions, image = [], [], "images"
    if beside == "attributes":
        branch = helper.make_graph([], "in", [], [helper.make_tensor_value_info("w", 1, None)], [outside])
        always = numpy_helper.from_array(np.array(True), "always")
        constants.append(always)
        nodes.append(helper.make_node("Constant", [], ["k"], value=outside))
        nodes.append(helper.make_node("If", ["always"], ["b"], then_branch=branch, else_branch=branch))
    if scaled:
        constants.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "s"))
        body = [helper.make_node("Mul", ["x", "s"], ["y"])]
        functions.append(helper.make_function("my", "F", ["x", "s"], ["y"], body, [helper.make_opsetid("", 18)]))
        nodes.append(helper.make_node("F", ["images", "s"], ["scaled"], domain="my"))
        image = "scaled"

    # A convolution behind them.
    nodes += [helper.make_node("Conv", [image, "w"], ["c"]), helper.make_node("Flatten", ["c"], ["embedding"])]
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("images", ["n", 3, 4, 4]),)]
    outputs = [helper.make_tensor_value_info("embedding", 1, ["n", 2])]
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("my", 1)] if functions else [])]
    graph = helper.make_graph(nodes, "g", ports, outputs, constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    for name, text in () if scaled else Preprocessing(image_size=4).to_metadata().items():
        model.metadata_props.add(key=name, value=text)
    return model.SerializeToString()


def _onnx_folder(folder: Path) -> None:
    """Puts what a model may name into its folder: weights, a pipe, and links to a device and out of the folder."""
    (folder / "weights").write_bytes(WEIGHTS.tobytes())
    os.mkfifo(folder / "pipe")
    (folder / "zeros").symlink_to("/dev/zero")
    (folder / "up").symlink_to("..")


def _check_onnx(found: OnnxFile) -> None:
    """What is beside a file lies in its folder, and onnx's own reader finds the same bytes there."""
    folder = found.path.parent
    assert all(file.resolve().is_relative_to(folder.resolve()) and file.is_file() for file in found.data_files)
    ours = onnx.ModelProto.FromString(found.model.SerializeToString())
    load_external_data(ours, found.path)
    theirs = found.model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keys that it does not know
        external_data_helper.load_external_data_for_model(theirs, str(folder))
    get_tensors = external_data_helper._get_all_tensors
    for own, other in zip(get_tensors(ours), get_tensors(theirs), strict=True):
        # Without a length it reads to the end of the file.
        assert other.raw_data.startswith(own.raw_data)


def _read_onnx(path: Path) -> str:
    """Reads a model, opens it and embeds two images."""
    _check_onnx(read_onnx_file(path))
    embedder = OnnxEmbedder(path, threads=1)
    size = embedder.preprocessing.image_size
    if size <= 64 and embedder.batch_size <= 64:
        assert embedder.embed(np.zeros((2, size, size, 3), np.uint8)).shape == (2, embedder.embedding_size)
    return embedder.fingerprint


def _read_changed_onnx(path: Path) -> str:
    """Reads a model in which up to four fields are changed: the bytes say of which model, which fields, and how."""
    choices = path.read_bytes() or b"\0"
    seeds = _onnx_seeds()
    model = onnx.ModelProto.FromString(seeds[choices[0] % len(seeds)])
    for start in range(1, min(len(choices), 13) - 2, 3):
        fields = list(_fields(model))
        message, name, place = fields[int.from_bytes(choices[start : start + 2], "little") % len(fields)]
        with contextlib.suppress(ValueError):  # a number that the field cannot hold
            _change_field(message, name, place, choices[start + 2])
    path.write_bytes(model.SerializeToString())
    return _read_onnx(path)


def _fields(message: Any) -> Iterator[tuple[Any, str, int | None]]:
    """Yields the fields that are set in a message and in those within: the message, a name, and a place in a list."""
    for field, value in message.ListFields():
        values = list(value) if hasattr(value, "append") else [value]
        for place, own in enumerate(values):
            yield message, field.name, place if hasattr(value, "append") else None
            if field.message_type is not None:
                yield from _fields(own)


def _change_field(message: Any, name: str, place: int | None, kind: int) -> None:
    """Changes a value, or leaves out or repeats a message."""
    field = getattr(message, name)
    value = field if place is None else field[place]
    others = FIELD_VALUES.get(type(value))
    if others is None and place is None:
        message.ClearField(name)
    elif others is None:
        field.pop(place) if kind % 2 else field.add().CopyFrom(value)
    elif place is None:
        setattr(message, name, others[kind % len(others)])
    else:
        field[place] = others[kind % len(others)]


def _outputs(content: bytes) -> list[np.ndarray]:
    """Returns what an SCRFD may return for 64x64 pixels: nine bytes choose types and shapes, the others are values."""
    choices, values = content[:9].ljust(9, b"\0"), content[9:]
    floats = np.frombuffer(values[: len(values) // 4 * 4] or bytes(4), "<f4")
    arrays, start = [], 0
    for size in (1, 4, 10):
        for cells in (8, 4, 2):
            count = 2 * cells * cells * size
            arrays.append(np.resize(np.roll(floats, -start), count).reshape(-1, size))
            start += count
    return [OTHER_OUTPUTS[choice % len(OTHER_OUTPUTS)](array) for choice, array in zip(choices, arrays, strict=True)]


def _scrfd_seeds() -> list[bytes]:
    """Returns outputs without faces, with one, and with many."""
    values = np.random.default_rng(0).normal(size=(3, 168 * 15)).astype("<f4")
    values[:, :168] = 0
    values[1, 3], values[2, :168] = 0.9, np.linspace(0.1, 1, 168)
    return [bytes(9) + row.tobytes() for row in values]


def _detect(path: Path) -> Faces:
    port = SimpleNamespace(name="image", shape=[1, 3, 64, 64])
    session = SimpleNamespace(get_inputs=lambda: [port], run=lambda *_: _outputs(path.read_bytes()))
    return ScrfdDetector(path, session).detect(np.zeros((96, 64, 3), np.uint8), 0.5, 64)


def _check_faces(_: bytes, found: Faces) -> None:
    """Faces are somewhere, have scores between the least one and 1, and do not overlap much."""
    assert found.boxes.shape == (len(found), 4) and found.landmarks.shape == (len(found), 5, 2)
    assert np.isfinite(found.boxes).all() and np.isfinite(found.landmarks).all()
    assert ((found.scores >= 0.5) & (found.scores <= 1)).all() and (np.diff(found.scores) <= 0).all()


def _read_records(path: Path) -> Preprocessing:
    """Reads a line for each field of the preprocessing, as a model's `metadata_props` hold it."""
    texts = path.read_text("latin-1").split("\n")
    fields = zip(("mean", "std", "color", "image_size"), texts, strict=False)
    return Preprocessing(**{name: parse_metadata(name, text) for name, text in fields})


def _check_records(_: bytes, found: Preprocessing) -> None:
    """What is written of the fields is read as the same."""
    again = {name: parse_metadata(name, text) for name, text in found.to_metadata().items()}
    assert Preprocessing(**again) == found


def _rows(first: int, value: float, kind: str = "F32") -> bytes:
    """Returns three rows of a head in a safetensors file."""
    content = np.full((3, 4), value, np.float32).tobytes()
    info = json.dumps({"weight": {"saved_offsets": [first, 0]}})
    header = {
        "__metadata__": {"format": "pt", "DCP_SHARDING_INFO": info, "DCP_VERSION": "1.0"},
        "weight": {"dtype": kind, "shape": [3, 4], "data_offsets": [0, len(content)]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content


def _head_folder(folder: Path) -> None:
    (folder / "0.head").mkdir()
    (folder / "0.head" / HEAD.replace("shard-00002", "shard-00001")).write_bytes(_rows(0, 1.0))
    (folder / "0.head" / HEAD).write_bytes(_rows(3, 2.0))


def _read_head(path: Path) -> torch.Tensor:
    return read_rows(path.parents[1] / "0.pt", HeadShards("0.head", {"weight": [6, 4]}))["weight"]


def _check_head(content: bytes, found: torch.Tensor) -> None:
    """The rows are those of both files, in place, by numpy's reading of the last bytes."""
    own = np.frombuffer(content[-48:], np.float32).reshape(3, 4)
    rows = found.numpy()
    assert found.dtype == torch.float32 and found.shape == (6, 4)
    np.testing.assert_array_equal(rows[:3], np.ones((3, 4)))
    np.testing.assert_array_equal(rows[3:], own)


def _read_description(path: Path) -> torch.Tensor | None:
    described = read_json(path, "a description of a head")
    stored = from_plain_fields({"head_shards": described}, str(path)).head_shards
    return None if stored is None else read_rows(path, stored)["weight"]


def _check_description(_: bytes, found: torch.Tensor | None) -> None:
    assert found is None or found.tolist() == [[1.0] * 4] * 3 + [[2.0] * 4] * 3


TARGETS = [
    Target("onnx", "m.onnx", _read_onnx, _onnx_seeds, prepare=_onnx_folder, copies=40, megabytes=2000),
    Target(
        "onnx_field",
        "m.onnx",
        _read_changed_onnx,
        lambda: [bytes([number]) for number in range(4)],
        prepare=_onnx_folder,
        copies=20,
        max_len=13,
        megabytes=2000,
    ),
    Target("scrfd", "d.onnx", _detect, _scrfd_seeds, _check_faces, copies=60),
    Target(
        "onnx_records",
        "records",
        _read_records,
        lambda: [b"[1.0, 2, 3]\n127.5\nbgr\n112"],
        _check_records,
        is_named=False,
    ),
    Target(
        "head",
        f"0.head/{HEAD}",
        _read_head,
        lambda: [_rows(3, 2.0)],
        _check_head,
        _head_folder,
        copies=30,
        is_named=False,
    ),
    Target(
        "head_shapes",
        "0.json",
        _read_description,
        lambda: [json.dumps({"folder": "0.head", "shapes": {"weight": [6, 4]}, "checksums": {}}).encode()],
        _check_description,
        _head_folder,
        copies=100,
        is_named=False,
    ),
]
