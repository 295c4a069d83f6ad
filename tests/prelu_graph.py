"""Graphs with PRelu, for what rewrites graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def prelu_graph(shape: Sequence[Any], slope: np.ndarray | None, *before: onnx.NodeProto) -> onnx.ModelProto:
    """A graph of one PRelu; without `slope` it is computed, by the nodes `before`."""
    nodes = [*before, helper.make_node("PRelu", ["x", "slope"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in ("x", "y")]
    weights = [] if slope is None else [numpy_helper.from_array(slope.astype(np.float32), "slope")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_prelu_network(
    path: Path, batch: int | str = "batch", slopes: str = "initializers", dtype: Any = np.float32, size: int = 8
) -> Path:
    """Writes a file as another tool might: a convolution, a PRelu with a slope for each of 6 channels, two sums.

    Args:
        path: the file.
        batch: a number, or a name for any.
        slopes: `"initializers"`; `"inputs"`, which lists them as inputs too, as before IR version 4; `"constants"`,
            nodes; `"function"`, which holds the PRelu itself; `"none"`, for Relu.
        dtype: of values and weights.
        size: of the images.
    """
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {"kernel": rng.normal(size=(6, 3, 3, 3)) / 5, "slope": rng.uniform(-0.5, 1.5, (6, 1, 1))}
    tensors = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
    ends = [helper.make_tensor_value_info("x", kind, [batch, 3, size, size])]
    ends.append(helper.make_tensor_value_info("y", kind, [batch, 6]))
    act = helper.make_node("PRelu", ["conv", "slope"], ["act"], domain="own" if slopes == "function" else "")
    act = helper.make_node("Relu", ["conv"], ["act"]) if slopes == "none" else act
    nodes = [
        *([helper.make_node("Constant", [], ["slope"], value=tensors.pop())] if slopes == "constants" else ()),
        helper.make_node("Conv", ["x", "kernel"], ["conv"]),
        act,
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    inputs = ends[:1]
    if slopes == "inputs":
        inputs += [helper.make_tensor_value_info(tensor.name, kind, tensor.dims) for tensor in tensors]
    graph = helper.make_graph(nodes, "g", inputs, ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17)]
    functions = []
    if slopes == "function":
        opsets.append(helper.make_opsetid("own", 1))
        inner = [helper.make_node("PRelu", ["a", "b"], ["c"])]
        functions = [helper.make_function("own", "PRelu", ["a", "b"], ["c"], inner, opsets[:1])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8), path)
    return path
