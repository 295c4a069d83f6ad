"""Writes a network without weights, whose embedding shows what pixels it was given."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write_pooling_model(path: Path, size: int, tile: int) -> Path:
    """Writes an ONNX whose embedding holds the means of tiles: cosines mean something around the mean of the pixels."""
    ends = {"x": ["b", 3, size, size], "y": ["b", 3 * (size // tile) ** 2]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()]
    nodes = [
        helper.make_node("AveragePool", ["x"], ["tiles"], kernel_shape=[tile, tile], strides=[tile, tile]),
        helper.make_node("Flatten", ["tiles"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
