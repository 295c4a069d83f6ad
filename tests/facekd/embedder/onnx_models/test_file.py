"""ONNX files that were made to do harm, or are damaged, end in one sentence before anything else is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facekd.embedder import OnnxEmbedder
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.errors import ModelError
from facekd.files.reading import sha256_of_file

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
SCALE = np.full(1, 1 / 255, np.float32)


def outside(name: str, location: str, dims: Sequence[int] = WEIGHT.shape, **entries: object) -> onnx.TensorProto:
    """A tensor whose data lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def make(
    weight: onnx.TensorProto | None = None,
    nodes: Sequence[onnx.NodeProto] = (),
    constants: Sequence[onnx.TensorProto] = (),
    sparse: Sequence[Any] = (),
    functions: Sequence[Any] = (),
    image: str = "images",
) -> onnx.ModelProto:
    """A convolution, behind nodes that may be there."""
    weight = numpy_helper.from_array(WEIGHT, "w") if weight is None else weight
    graph = helper.make_graph(
        [*nodes, helper.make_node("Conv", [image, "w"], ["c"]), helper.make_node("Flatten", ["c"], ["embedding"])],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 4])],
        [weight, *constants],
        sparse_initializer=sparse,
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("my", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def called(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = TensorProto()
    copy.MergeFrom(tensor)
    copy.name = name
    return copy


def as_sparse(tensor: onnx.TensorProto) -> Any:
    indices = numpy_helper.from_array(np.arange(WEIGHT.size), "")
    return onnx.SparseTensorProto(values=tensor, indices=indices, dims=[1000])


def in_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", [tensor.name], ["result"])], "in", [], [output], [tensor])
    always = helper.make_node("Constant", [], ["always"], value=numpy_helper.from_array(np.array(True)))
    return make(nodes=[always, helper.make_node("If", ["always"], ["x"], then_branch=branch, else_branch=branch)])


def in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = [helper.make_node("Constant", [], ["k"], value=tensor), helper.make_node("Identity", ["x"], ["y"])]
    return make(functions=[helper.make_function("my", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)])])


# Every place where a model may hold a tensor.
PLACES: dict[str, Callable[[onnx.TensorProto], onnx.ModelProto]] = {
    "used": lambda tensor: make(called(tensor, "w")),
    "unused": lambda tensor: make(constants=[tensor]),
    "sparse": lambda tensor: make(sparse=[as_sparse(tensor)]),
    "attribute": lambda tensor: make(nodes=[helper.make_node("Constant", [], ["k"], value=tensor)]),
    "sparse attribute": lambda tensor: make(
        nodes=[helper.make_node("Constant", [], ["k"], sparse_value=as_sparse(tensor))]
    ),
    "branch": in_branch,
    "function": in_function,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model's folder: its weights, a pipe, links to weights inside, to those outside, and to a device."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (folder / "weights", tmp_path / "weights"):
        file.write_bytes(WEIGHT.tobytes())
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("weights")
    (folder / "out").symlink_to(tmp_path / "weights")
    (folder / "zeros").symlink_to("/dev/zero")
    return folder / "m.onnx"


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("../weights", "not in its folder"),
        ("../../../../../../../../dev/zero", "not in its folder"),
        ("/dev/zero", "not in its folder"),
        ("out", "not in its folder"),
        ("zeros", "not in its folder"),
        ("*/_ORT_MEM_ADDR_/*", "not in its folder"),
        ("weights\0", "not in its folder"),
        ("n" * 5000, "not in its folder"),
        ("", "not in its folder"),
        ("pipe", "no regular file"),
        (".", "no regular file"),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_only_regular_files_in_its_folder_are_opened(path: Path, place: str, location: str, problem: str) -> None:
    write(path, PLACES[place](outside("u", location)))
    with pytest.raises(ModelError, match=rf"m\.onnx: refused: the data of tensor '[uw]' .*which is {problem}; only"):
        OnnxEmbedder(path)


@pytest.mark.parametrize("place", PLACES)
def test_the_fingerprint_covers_data_beside_the_file_wherever_they_are_used(path: Path, place: str) -> None:
    write(path, PLACES[place](outside("u", "weights", [WEIGHT.size] if "sparse" in place else WEIGHT.shape)))
    before = OnnxEmbedder(path).fingerprint
    (path.parent / "weights").write_bytes((2 * WEIGHT).tobytes())
    assert OnnxEmbedder(path).fingerprint != before


def test_the_checksum_of_a_model_covers_data_beside_it(path: Path) -> None:
    assert read_onnx_file(write(path, make())).sha256 == sha256_of_file(path)
    before = read_onnx_file(write(path, make(outside("w", "weights")))).sha256
    (path.parent / "weights").write_bytes((2 * WEIGHT).tobytes())
    assert read_onnx_file(path).sha256 != before


def test_a_model_that_is_a_link_keeps_its_data_beside_the_file_it_leads_to(tmp_path: Path, path: Path) -> None:
    """As in the cache of Hugging Face."""
    write(path, make(outside("w", "data")))
    cache = tmp_path / "snapshot"
    cache.mkdir()
    (cache / "m.onnx").symlink_to("../model/m.onnx")
    (cache / "data").symlink_to("../model/weights")
    assert OnnxEmbedder(cache / "m.onnx").embed(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 4)
    (cache / "data").unlink()
    (cache / "data").symlink_to("../weights")
    with pytest.raises(ModelError, match=r"data of tensor 'w' are said to lie in 'data', which is not in its folder"):
        OnnxEmbedder(cache / "m.onnx")


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 4},
        {"offset": 1 << 40},
        {"offset": 1 << 70},
        {"offset": "9" * 5000},
        {"offset": -4},
        {"offset": "1e3"},
        {"length": 1 << 40},
        {"length": WEIGHT.nbytes - 4},
    ],
    ids=str,
)
def test_data_outside_of_a_file_are_refused(path: Path, entries: dict[str, Any]) -> None:
    write(path, make(constants=[outside("u", "weights", **entries)]))
    with pytest.raises(ModelError, match=r"do not fit it, copy them again: tensor 'u' needs 3,072 bytes of weights \("):
        OnnxEmbedder(path)


def test_data_left_behind_are_listed(path: Path) -> None:
    write(path, make(constants=[outside(name, name) for name in "abcdef"]))
    with pytest.raises(ModelError, match=r"its weights lie in \w, \w, \w and 3 more, missing in .*; copy them there"):
        OnnxEmbedder(path)


@pytest.mark.parametrize("dims", [[1 << 33], [1 << 62, 1 << 62], [1 << 32, 1 << 32], [-1], [-4, -1]], ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_has_the_data_that_its_shape_says(path: Path, place: str, dims: list[int]) -> None:
    tensor = TensorProto(name="u", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    with pytest.raises(ModelError, match=r"m\.onnx: damaged: tensor '[uw]' has (a negative size|.* and fewer in the)"):
        OnnxEmbedder(write(path, PLACES[place](tensor)))


def test_functions_that_grow_without_end_are_refused(path: Path) -> None:
    """Each calls the next one twice."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("my", 1)]
    functions = [helper.make_function("my", "F30", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], opsets)]
    for level in range(30):
        called = f"F{level + 1}"
        nodes = [
            helper.make_node(called, ["x"], ["z"], domain="my"),
            helper.make_node(called, ["z"], ["y"], domain="my"),
        ]
        functions.append(helper.make_function("my", f"F{level}", ["x"], ["y"], nodes, opsets))
    grown = make(nodes=[helper.make_node("F0", ["images"], ["x"], domain="my")], functions=functions, image="x")
    with pytest.raises(ModelError, match=r"m\.onnx: has more than 50,000 nodes where its functions are written out"):
        OnnxEmbedder(write(path, grown))


@pytest.mark.parametrize("text", [b"images", b"Flatten", b"embedding", b"weights", b"location"])
def test_text_that_is_not_utf8_is_damage(path: Path, text: bytes) -> None:
    content = make(outside("w", "weights")).SerializeToString()
    path.write_bytes(content.replace(text, text[:-1] + b"\xff"))
    with pytest.raises(ModelError, match=r"m\.onnx: damaged: its \w+ '.*' is not UTF-8"):
        OnnxEmbedder(path)


@pytest.mark.parametrize("name", ["m.json", "m.textproto", "m.ort", "m"])
def test_the_name_of_a_file_does_not_change_how_it_is_read(path: Path, name: str) -> None:
    assert OnnxEmbedder(write(path.with_name(name), make())).embedding_size == 4


def test_a_normalisation_whose_numbers_lie_beside_the_file_is_measured(path: Path) -> None:
    (path.parent / "scale").write_bytes(SCALE.tobytes())
    (path.parent / "linked").symlink_to("scale")
    scaled = [helper.make_node("Mul", ["images", "s"], ["x"])]
    write(path, make(nodes=scaled, constants=[outside("s", "linked", [1])], image="x"))
    embedder = OnnxEmbedder(path)
    assert (embedder.preprocessing.mean, embedder.preprocessing.std) == ((0,) * 3, (1,) * 3)
