"""Rewrites the PReLU of an ONNX graph into operators that onnxruntime computes faster on a CPU.

onnxruntime keeps the values of convolutions in a layout of its own, in blocks of channels, and has no PRelu in it. So
each PRelu costs two conversions, and MobileFaceNet has one behind nearly every convolution. With a slope s,

    PRelu(x) = s x + (1 - s) Relu(x),

which are two depthwise convolutions of one pixel, a Relu and a sum, all of them known in that layout.

`facekd export` writes files in this form; `--rewrite-prelu` brings a file that somebody else wrote into it in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from facekd.embedder.onnx_models.file import OnnxFile, names_read
from facekd.embedder.onnx_models.session import brief

ENDS = ("slope", "one_minus_slope", "relu", "times_slope", "relu_times_rest")
MOST_CHANNELS = 1 << 22  # of all nodes that are rewritten; a file may declare any number
SMALL_WEIGHTS = 1024  # bytes; larger tensors hold no shapes

# Why a PRelu stays as it is.
COMPUTED = "slope computed in the graph"
NOT_BY_CHANNEL = "slope not one for each channel of an image"
NOT_FLOAT = "not in 32 bits"
UNKNOWN = "number of channels not known"
TOO_MANY = "too many channels"
INSIDE = "inside a branch or a function"


def split_file(file: OnnxFile, device: str) -> tuple[bytes | None, str]:
    """Returns an ONNX file as bytes with its PReLU split, and a phrase that says how many; the file is not changed.

    Returns None, and a phrase that says why, if there is nothing to split or that would not help.

    Args:
        file: the file.
        device: where it runs.
    """
    if device != "cpu":
        return None, f"not used on {device}: it helps onnxruntime on a CPU"
    if len(file.files) > 1:
        return None, "not used: the weights lie beside the file"
    if not count_prelu(file.model):
        return None, "not used: the graph has no PReLU"
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    try:
        count, left = split_prelu(model)
        content = model.SerializeToString()
    except Exception as error:  # onnx's own share no narrower base
        return None, f"not used: the graph cannot be rewritten ({brief(str(error) or repr(error))})"
    reasons = "; ".join(f"{number} left: {reason}" for reason, number in left.items())
    if not count:
        return None, f"not used: no PReLU could be rewritten ({reasons})"
    return content, f"{count} PReLU computed as convolutions" + (f" ({reasons})" if reasons else "")


def count_prelu(model: onnx.ModelProto) -> int:
    """Counts the PRelu nodes of a model, those inside branches and functions, too."""
    return sum(node.op_type == "PRelu" for node in model.graph.node) + _count_inside(model)


def split_prelu(model: onnx.ModelProto) -> tuple[int, Counter[str]]:
    """Writes each PRelu on images as two depthwise convolutions, in place; weights that nothing reads any more stay.

    The slope may be shared or one for each channel. A node stays as it is if its slope is computed in the graph or
    varies over pixels, if its input has not four dimensions, if the number of channels cannot be inferred, or if it
    computes in another type than float32. Nodes in branches and functions are not looked at.

    Args:
        model: a model with its weights inside.

    Returns:
        How many were rewritten, and how many were not, by reason.
    """
    slopes = _constants(model.graph)
    channels = _channels_of_images(model)
    taken = _all_names(model.graph)
    nodes: list[onnx.NodeProto] = []
    count, num_channels, left = 0, 0, Counter[str]()
    for node in model.graph.node:
        if node.op_type != "PRelu" or node.domain not in ("", "ai.onnx"):
            nodes.append(node)
            continue
        slope = _slope_by_channel(slopes.get(node.input[1]), channels.get(node.input[0]), MOST_CHANNELS - num_channels)
        if isinstance(slope, str):
            nodes.append(node)
            left[slope] += 1
        else:
            nodes += _split_node(model.graph, node, slope, taken)
            count, num_channels = count + 1, num_channels + len(slope)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if inside := _count_inside(model):
        left[INSIDE] += inside
    return count, left


def _count_inside(model: onnx.ModelProto) -> int:
    """Counts the PRelu nodes in branches and loops of the graph, and in functions."""
    waiting = [graph for node in model.graph.node for graph in _graphs_of(node)]
    nodes = [node for function in model.functions for node in function.node]
    count = 0
    while waiting or nodes:
        nodes += waiting.pop().node if waiting else ()
        count += sum(node.op_type == "PRelu" for node in nodes)
        waiting += [graph for node in nodes for graph in _graphs_of(node)]
        nodes = []
    return count


def _graphs_of(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Returns the tensors of a graph that are written in the file, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _channels_of_images(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the number of channels of each value that is known to have four dimensions; 0 where it is not known."""
    # Inference copies the model several times: leave out the weights, which are nearly all of it.
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph, weights = skeleton.graph, model.graph.initializer
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    for tensor in weights:
        is_small = tensor.ByteSize() <= SMALL_WEIGHTS
        shape = onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        graph.initializer.append(tensor if is_small else shape)
    inferred = onnx.shape_inference.infer_shapes(skeleton).graph
    channels = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4:
            channels[value.name] = max(dims[1].dim_value, 0)
    return channels


def _slope_by_channel(tensor: onnx.TensorProto | None, channels: int | None, most: int) -> np.ndarray | str:
    """Returns a slope as (C,), or why the node stays as it is.

    Args:
        tensor: the slope; None if it is computed.
        channels: C; 0 if it is not known, None if the values may not be images.
        most: how large C may be.
    """
    if tensor is None:
        return COMPUTED
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return NOT_FLOAT
    shape = (*(1,) * (4 - len(tensor.dims)), *tensor.dims)
    # A slope has at most as many values as the input, so one of several channels tells their number.
    num_slopes = shape[1]
    if shape not in {(1, num_slopes, 1, 1)} or num_slopes not in (1, channels or num_slopes):
        return NOT_BY_CHANNEL
    if channels is None or (channels == 0 and num_slopes == 1):
        return UNKNOWN
    if max(channels, num_slopes) > most:
        return TOO_MANY
    return np.broadcast_to(numpy_helper.to_array(tensor).reshape(-1), channels or num_slopes)


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


def _new_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _all_names(graph: onnx.GraphProto) -> set[str]:
    """Returns every name that a value or a node of the graph has."""
    names = {value.name for values in (graph.input, graph.output, graph.initializer) for value in values}
    return names.union(*({node.name, *node.output, *names_read(node)} for node in graph.node))
