"""Rewrites the PReLU of an ONNX graph into operators that onnxruntime computes faster.

onnxruntime keeps the values of convolutions in a layout of its own, in blocks of channels, and has no PRelu in it. So
each PRelu costs two conversions, and MobileFaceNet has one behind nearly every convolution. With a slope s,

    PRelu(x) = s x + (1 - s) Relu(x),

which are two depthwise convolutions of one pixel, a Relu and a sum, all of them known in that layout.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from facekd.embedder.onnx_file import names_read
from facekd.export.opset import drop_unused_initializers


def split_prelu(model: onnx.ModelProto) -> int:
    """Writes each PRelu on images as two depthwise convolutions, in place; returns how many were rewritten.

    The slope may be shared or one for each channel. A node stays as it is if its slope is computed in the graph or
    varies over pixels, if its input has not four dimensions, or if the number of channels cannot be inferred.

    Args:
        model: a model with its weights inside; nodes in branches and functions are not looked at.
    """
    slopes = {tensor.name: tensor for tensor in model.graph.initializer}
    channels = _channels_of_images(model)
    taken = _all_names(model.graph)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        slope = None
        if node.op_type == "PRelu" and node.domain in ("", "ai.onnx") and node.input[1] in slopes:
            slope = _slope_by_channel(numpy_helper.to_array(slopes[node.input[1]]), channels.get(node.input[0], 0))
        if slope is None:
            nodes.append(node)
            continue
        nodes += _split_node(model.graph, node, slope, taken)
        count += 1
    # Replace the nodes, and forget slopes that nothing reads any more.
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused_initializers(model.graph)
    return count


def _channels_of_images(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the number of channels of each value of four dimensions in which it is known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    channels = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and dims[1].dim_value > 0:
            channels[value.name] = dims[1].dim_value
    return channels


def _slope_by_channel(slope: np.ndarray, channels: int) -> np.ndarray | None:
    """Returns the slope as (C,), or None if it is not one for each channel of C, or C is 0."""
    shape = (1,) * (4 - slope.ndim) + slope.shape
    if not channels or len(shape) != 4 or shape not in {(1, 1, 1, 1), (1, channels, 1, 1)}:
        return None
    return np.broadcast_to(slope.reshape(-1), channels)


def _split_node(
    graph: onnx.GraphProto, node: onnx.NodeProto, slope: np.ndarray, taken: set[str]
) -> list[onnx.NodeProto]:
    """Adds the weights of the two convolutions to the graph; returns the nodes that compute `node`."""
    below, above, positive, *products = (_new_name(f"{node.output[0]}_{end}", taken) for end in ENDS)
    for name, factor in ((below, slope), (above, 1 - slope)):
        weight = np.ascontiguousarray(factor.astype(slope.dtype).reshape(-1, 1, 1, 1))
        graph.initializer.append(numpy_helper.from_array(weight, name))
    make = onnx.helper.make_node
    convolution = {"group": len(slope), "kernel_shape": [1, 1]}
    return [
        make("Relu", [node.input[0]], [positive], positive),
        make("Conv", [node.input[0], below], [products[0]], products[0], **convolution),
        make("Conv", [positive, above], [products[1]], products[1], **convolution),
        make("Add", products, [node.output[0]], node.name or node.output[0]),
    ]


ENDS = ("slope", "one_minus_slope", "relu", "times_slope", "relu_times_rest")


def _new_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _all_names(graph: onnx.GraphProto) -> set[str]:
    """Returns every name that a value or a node of the graph has."""
    names = {value.name for values in (graph.input, graph.output, graph.initializer) for value in values}
    return names.union(*({node.name, *node.output, *names_read(node)} for node in graph.node))
