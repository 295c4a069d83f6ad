"""ONNX files that were made to do harm, or are damaged, end in one sentence before anything else is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from facekd.embedder import OnnxEmbedder
from facekd.embedder.onnx_models import fields as onnx_fields
from facekd.embedder.onnx_models import file as onnx_file
from facekd.embedder.onnx_models.fields import has_more_fields
from facekd.embedder.onnx_models.file import load_external_data, read_onnx_file
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


def chain(length: int, name: str = "n") -> list[onnx.NodeProto]:
    """Nodes one behind the other."""
    return [helper.make_node("Identity", [f"{name}{place}"], [f"{name}{place + 1}"]) for place in range(length)]


def branches(length: int) -> list[onnx.NodeProto]:
    """Nodes in two branches, which are in a branch themselves."""
    output = [helper.make_tensor_value_info("n1", TensorProto.FLOAT, None)]
    inner = helper.make_graph(chain(length), "inner", [], output)
    both = helper.make_node("If", ["always"], ["x"], then_branch=inner, else_branch=inner)
    return [helper.make_node("Loop", ["count"], ["y"], body=helper.make_graph([both], "outer", [], output))]


@pytest.mark.parametrize(
    "model",
    [
        lambda: make(nodes=chain(999)),
        lambda: make(nodes=branches(500)),
        lambda: make(
            functions=[helper.make_function("my", "F", ["n0"], ["n1"], chain(1001), [helper.make_opsetid("", 18)])]
        ),
    ],
    ids=["graph", "branches", "a function that nothing calls"],
)
def test_more_nodes_than_the_limit_are_refused_wherever_they_are(
    path: Path, model: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert onnx_file.MOST_NODES == 50_000
    monkeypatch.setattr(onnx_file, "MOST_NODES", 1000)
    with pytest.raises(ModelError, match=r"m\.onnx: has more than 1,000 nodes; too many"):
        read_onnx_file(write(path, model()))


def test_as_many_nodes_as_the_limit_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MOST_NODES", 1000)
    assert len(read_onnx_file(write(path, make(nodes=chain(998)))).model.graph.node) == 1000


def test_functions_whose_calls_repeat_large_constants_are_refused(path: Path) -> None:
    """Written out they would be 200 MB, of a file of 1 MB."""
    constant = numpy_helper.from_array(np.zeros(1 << 18, np.float32), "k")
    body = [helper.make_node("Constant", [], ["k"], value=constant), helper.make_node("Add", ["x", "k"], ["y"])]
    function = helper.make_function("my", "F", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    calls = [helper.make_node("F", [f"n{place}"], [f"n{place + 1}"], domain="my") for place in range(200)]
    assert read_onnx_file(write(path, make(nodes=calls[:60], functions=[function])))
    with pytest.raises(
        ModelError, match=r"m\.onnx: has more than 7\d,\d+,\d+ bytes where its functions are written out"
    ):
        read_onnx_file(write(path, make(nodes=calls, functions=[function])))


@pytest.mark.parametrize("names", [["data"], ["data", "./data", "link"]])
def test_tensors_that_name_the_same_data_again_and_again_are_refused(path: Path, names: list[str]) -> None:
    (path.parent / "data").write_bytes(bytes(1 << 20))
    (path.parent / "link").unlink()
    (path.parent / "link").symlink_to("data")
    tensors = [outside(f"t{place}", names[place % len(names)], [1 << 18]) for place in range(80)]
    assert read_onnx_file(write(path, make(constants=tensors[:60]))).data_files == (path.parent / sorted(names)[0],)
    with pytest.raises(ModelError, match=r"m\.onnx: damaged: its tensors need .* and more of the files .* 1,048,576"):
        read_onnx_file(write(path, make(constants=tensors)))


def test_data_of_functions_that_are_written_out_are_read_within_the_same_limit(path: Path) -> None:
    """Each call of the function gets the data anew."""
    (path.parent / "data").write_bytes(bytes(1 << 20))
    body = [
        helper.make_node("Constant", [], ["k"], value=outside("k", "data", [1 << 18])),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    function = helper.make_function("my", "F", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    calls = [helper.make_node("F", [f"n{place}"], [f"n{place + 1}"], domain="my") for place in range(200)]
    model = onnx.inliner.inline_local_functions(
        read_onnx_file(write(path, make(nodes=calls, functions=[function]))).model
    )
    with pytest.raises(ModelError, match="they name the same data again and again"):
        load_external_data(model, path)


@pytest.mark.parametrize("field", [b"\x0a\x00", b"\x2a\x00", b"\x12\x00"], ids=["nodes", "tensors", "names"])
def test_a_file_of_nothing_but_fields_is_refused_before_it_is_parsed(
    path: Path, field: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty nodes and tensors, of which each would take a hundred bytes of memory."""
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", 10_000)
    path.write_bytes(b"\x3a\xa0\x9c\x01" + field * 10_000)  # the graph, of 20,000 bytes
    with pytest.raises(ModelError, match=r"m\.onnx: has more than 10,000 fields"):
        read_onnx_file(path)


def test_an_ordinary_model_is_opened_without_counting_fields_and_a_large_one_with_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python the counting takes 2 us a field, thirty times as long as the parser."""
    counted: list[int] = []

    def count(content: bytes, *_: Any) -> bool:
        counted.append(len(content))
        return False

    monkeypatch.setattr(onnx_fields, "has_more_fields", count)
    size = write(path, make()).stat().st_size
    assert len(read_onnx_file(path).model.graph.node) == 2
    assert not counted
    monkeypatch.setattr(onnx_file, "MOST_FIELDS", size // 2 - 1)
    assert len(read_onnx_file(path).model.graph.node) == 2
    assert counted == [size]


def count_fields(message: Any) -> int:
    """Counts by what onnx's own parser found."""
    count = 0
    for kind, value in message.ListFields():
        values = value if hasattr(value, "__len__") and not isinstance(value, str | bytes) else [value]
        packed = kind.has_options and kind.GetOptions().packed
        count += 1 if packed else len(values)
        count += sum(count_fields(inner) for inner in values) if kind.message_type is not None else 0
    return count


@pytest.mark.parametrize("model", [make, *(lambda f=f: f(outside("u", "weights")) for f in PLACES.values())])
def test_fields_are_counted_as_the_parser_finds_them(model: Callable[[], onnx.ModelProto]) -> None:
    message = model()
    content, count = message.SerializeToString(), count_fields(message)
    assert not has_more_fields(content, onnx.ModelProto, count)
    assert has_more_fields(content, onnx.ModelProto, count - 1)
    for end in range(1, len(content), 7):
        try:
            has_more_fields(content[:end], onnx.ModelProto, count)
        except DecodeError:
            with pytest.raises(DecodeError):
                onnx.ModelProto.FromString(content[:end])
        else:
            onnx.ModelProto.FromString(content[:end])


def test_a_tensor_with_a_dimension_for_each_byte_is_refused(path: Path) -> None:
    tensor = TensorProto(name="u", data_type=TensorProto.FLOAT, dims=[1 << 62] * 1000, raw_data=bytes(16))
    with pytest.raises(ModelError, match=r"m\.onnx: damaged: tensor 'u' has 1,000 dimensions"):
        read_onnx_file(write(path, make(constants=[tensor])))


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
