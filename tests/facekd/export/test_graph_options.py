"""Exported graphs under every option: other operators, inputs and opsets, and the same embeddings."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from facekd.backbones.building import build_backbone
from facekd.cli import main
from facekd.embedder import OnnxEmbedder, Preprocessing, TorchEmbedder
from facekd.embedder.checks import probe_images
from facekd.embedder.onnx_models.prelu_form import split_prelu
from facekd.errors import ModelError
from facekd.export.export_onnx import export_backbone
from facekd.export.onnx_graph import example_input, to_onnx, with_options
from facekd.export.opset import lower_opset
from facekd.export.options import ExportOptions
from tests.prelu_graph import prelu_graph

FACTS = Preprocessing(mean=(120.0, 110.0, 100.0), std=(60.0, 59.0, 58.0), color="bgr", image_size=32)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(0)
    network = build_backbone("mobilefacenet", embedding_size=16, image_size=32, width=0.125)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 1.5)
    return network.eval()


def assert_same(found: np.ndarray, truth: np.ndarray) -> None:
    """Checks each row, relative to its length."""
    assert (np.linalg.norm(found - truth, axis=1) <= 1e-5 * np.linalg.norm(truth, axis=1)).all()


@cache
def traced(backbone: nn.Module) -> onnx.ModelProto:
    """The graph as torch writes it, with raw pixels, flip and norm inside."""
    options = ExportOptions(normalize=True, flip=True, input="uint8-nhwc")
    return to_onnx(with_options(backbone, FACTS, options)[0], example_input(FACTS, options), Path("m"), ["e"], None)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Runs a model of one input and one output by onnxruntime."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def test_prelu_of_a_network_becomes_convolutions(backbone: nn.Module) -> None:
    model = copy.deepcopy(traced(backbone))
    num_before = [node.op_type for node in model.graph.node].count("PRelu")
    assert num_before == sum(isinstance(module, nn.PReLU) for module in backbone.modules())
    assert split_prelu(model) == (num_before, {})
    assert "PRelu" not in {node.op_type for node in model.graph.node}
    assert_same(run(model, probe_images(32)), run(traced(backbone), probe_images(32)))


def test_a_file_with_everything_inside_takes_pixels_and_gives_unit_means_of_both_sides(
    backbone: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    options = ExportOptions(opset=11, normalize=True, flip=True, input="uint8-nhwc", color="rgb", batch=4)
    export_backbone(backbone, FACTS, path, options)
    model = onnx.load(path)
    assert (model.ir_version, [entry.version for entry in model.opset_import]) == (8, [11])
    assert "PRelu" not in {node.op_type for node in model.graph.node}
    images = probe_images(32)
    torch_embedder = TorchEmbedder(backbone, FACTS)
    both = torch_embedder.embed(images) + torch_embedder.embed(images[:, :, ::-1])
    expected = both / np.linalg.norm(both, axis=1, keepdims=True)
    # By onnxruntime alone, in the batch of the graph; by facekd in any.
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [4, 32, 32, 3] and session.get_outputs()[0].shape == [4, 16]
    assert_same(run(model, images[:4]), expected[:4])
    embedder = OnnxEmbedder(path)
    assert_same(embedder.embed(images), expected)
    # What is recorded says what remains to be done outside: nothing.
    assert embedder.preprocessing == Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, color="rgb", image_size=32)
    assert not embedder.assumed and embedder.normalized
    assert "NHWC; the graph normalises" in embedder.metadata["input_semantics"]
    assert "mirror image" in embedder.metadata["embedding_semantics"]


def test_the_norm_is_written_in_operators_whose_axes_every_runtime_reads(backbone: nn.Module) -> None:
    # MNN 3.6 sums the ReduceL2 of opset 18 over the images of a batch, too.
    operators = {node.op_type for node in traced(backbone).graph.node}
    assert "ReduceL2" not in operators and {"ReduceSum", "Sqrt", "Div"} <= operators


def test_the_mirror_image_is_written_without_the_negative_step_that_opencv_4_cannot_read(backbone: nn.Module) -> None:
    operators = {node.op_type for node in traced(backbone).graph.node}
    assert "Gather" in operators and "Slice" not in operators


OPSETS = [pytest.param(opset, marks=[] if opset in (11, 13, 17) else pytest.mark.slow) for opset in range(11, 18)]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_computes_the_same(backbone: nn.Module, opset: int) -> None:
    model = copy.deepcopy(traced(backbone))
    split_prelu(model)
    lower_opset(model, opset, "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [opset]
    assert_same(run(model, probe_images(32)), run(traced(backbone), probe_images(32)))


def test_an_opset_without_an_operator_of_the_network_is_refused_with_one_that_has_it() -> None:
    model = prelu_graph(("b", 3, 4, 5), np.ones((3, 1, 1)))
    model.graph.node[0].op_type = "LayerNormalization"
    with pytest.raises(ModelError, match=r"m\.onnx: opset 13 has no LayerNormalization, .*: --opset 17"):
        lower_opset(model, 13, "m.onnx")


def test_an_attribute_that_an_opset_does_not_have_goes_only_if_it_says_nothing_new() -> None:
    for mode, is_fine in ((0, True), (1, False)):
        node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["slope"], training_mode=mode)
        model = prelu_graph(("b", 3, 4, 5), None, node)
        if is_fine:
            lower_opset(model, 13, "m.onnx")
            assert not model.graph.node[0].attribute
        else:
            with pytest.raises(ModelError, match=r"has no training_mode in opset 13, .* = 1: use a newer --opset"):
                lower_opset(model, 13, "m.onnx")


@pytest.mark.parametrize(("rest", "is_fine"), [([60], True), ([0], False)])
@pytest.mark.parametrize("is_computed", [False, True])
def test_zeros_of_a_new_shape_that_mean_zero_need_an_opset_that_says_so(
    rest: list[int], is_fine: bool, is_computed: bool
) -> None:
    sizes = [
        helper.make_node("Shape", ["x"], ["batch"], end=1),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
    ]
    reshape = helper.make_node("Reshape", ["x", "shape"], ["slope"], allowzero=1)
    model = prelu_graph(("b", 3, 4, 5), None, *(sizes if is_computed else []), reshape)
    known = [("rest", rest)] if is_computed else [("shape", [2, *rest])]
    model.graph.initializer.extend(numpy_helper.from_array(np.array(numbers), name) for name, numbers in known)
    if is_fine:
        lower_opset(model, 13, "m.onnx")
        assert not next(node for node in model.graph.node if node.op_type == "Reshape").attribute
    else:
        with pytest.raises(ModelError, match=r"Reshape has no allowzero in opset 13, .* allowzero = 1"):
            lower_opset(model, 13, "m.onnx")


@pytest.mark.parametrize("limits", [{}, {"start": 1}, {"end": 1}, {"start": -3, "end": -1}, {"start": 0}])
def test_the_shape_of_some_axes_is_cut_out_where_an_opset_has_no_such_operator(limits: dict[str, int]) -> None:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("b", 3, 4, 5))
    sizes = helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, ("n",))
    graph = helper.make_graph([helper.make_node("Shape", ["x"], ["sizes"], "shape", **limits)], "g", [x], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    lower_opset(model, 11, "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    expected = (2, 3, 4, 5)[limits.get("start") : limits.get("end")]
    assert run(model, np.zeros((2, 3, 4, 5), np.float32)).tolist() == [*expected]


@pytest.mark.parametrize("color", [None, "rgb", "bgr"])
@pytest.mark.parametrize("layout", ["uint8-nhwc", "uint8-nchw"])
def test_raw_pixels_come_in_either_order_and_layout(backbone: nn.Module, layout: Any, color: Any) -> None:
    images = probe_images(32)
    module, outside = with_options(backbone, FACTS, ExportOptions(input=layout, color=color))
    raw = images if color == "rgb" else np.ascontiguousarray(images[..., ::-1])
    raw = raw if layout == "uint8-nhwc" else raw.transpose(0, 3, 1, 2)
    with torch.no_grad():
        found = module(torch.from_numpy(np.ascontiguousarray(raw))).numpy()
    assert_same(found, TorchEmbedder(backbone, FACTS).embed(images))
    assert (outside.mean, outside.color) == ((0.0,) * 3, color or "bgr")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--opset", "10"], "expected a whole number from 11 to 18"),
        (["--batch", "0"], "expected a whole number from 1"),
        (["--color", "bgr"], "the order of the channels can be chosen for raw pixels"),
        (["--input", "uint8"], "uint8-nhwc"),
    ],
)
def test_options_that_make_no_file_are_refused_before_anything_is_read(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["export", "absent.pt", "--output", "m.onnx", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2 and said in capsys.readouterr().err
