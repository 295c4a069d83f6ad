"""Writes an ONNX graph in an older opset, for runtimes that know no newer one.

onnx's own converter stops at operators that changed in nothing but the types they take (Relu, BatchNormalization). Here
a node moves to the older opset if that has its operator with those attributes. Whether it still computes the same is
seen when the written file is compared with torch.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from facekd.embedder.onnx_models.file import names_read
from facekd.errors import ModelError
from facekd.export.options import NEWEST_OPSET

SHAPE_OF_SOME_AXES = 15  # the first opset that has one: torch 2.11 writes it for views


def lower_opset(model: onnx.ModelProto, opset: int, where: str) -> None:
    """Rewrites a model that torch wrote in opset 18 for an older one, in place.

    Args:
        model: a model without functions and branches, its constants among the initializers.
        opset: from 11 to 18.
        where: begins the messages.

    Raises:
        ModelError: an operator, or an attribute that the graph needs, is newer.
    """
    if opset < SHAPE_OF_SOME_AXES:
        _slice_shapes(model.graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    writers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if not onnx.defs.has(node.op_type, opset, node.domain):
            since = next(n for n in range(opset, NEWEST_OPSET + 1) if onnx.defs.has(node.op_type, n, node.domain))
            raise ModelError(f"{where}: opset {opset} has no {node.op_type}, which this network needs: --opset {since}")
        known = onnx.defs.get_schema(node.op_type, opset, node.domain).attributes
        newest = onnx.defs.get_schema(node.op_type, NEWEST_OPSET, node.domain).attributes
        # Axes were an attribute before they were an input.
        if "axes" in known and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
            del node.input[1:]
        # A newer attribute can go if it has the value by which operators do what they did before.
        for attribute in [attribute for attribute in node.attribute if attribute.name not in known]:
            value = onnx.helper.get_attribute_value(attribute)
            if attribute.name == "allowzero" and not _holds_zero(node.input[1], constants, writers):
                value = 0  # it is about zeros in the shape
            if value != onnx.helper.get_attribute_value(newest[attribute.name].default_value):
                raise ModelError(
                    f"{where}: {node.op_type} has no {attribute.name} in opset {opset}, and this network needs "
                    f"{attribute.name} = {value}: use a newer --opset"
                )
            node.attribute.remove(attribute)
    for entry in model.opset_import:
        entry.version = opset
    drop_unused_initializers(model.graph)


def _slice_shapes(graph: onnx.GraphProto) -> None:
    """Writes a `Shape` of some axes as one of all axes, of which a `Slice` takes those."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        limits = {each.name: each.i for each in node.attribute} if node.op_type == "Shape" else {}
        if not limits:
            graph.node.append(node)
            continue
        name = node.output[0]
        ends = (("start", limits.get("start", 0)), ("end", limits.get("end", np.iinfo(np.int64).max)))
        graph.initializer.extend(numpy_helper.from_array(np.array([at]), f"{name}_{end}") for end, at in ends)
        graph.node.append(onnx.helper.make_node("Shape", [node.input[0]], [f"{name}_whole"], node.name))
        inputs = [f"{name}_whole", f"{name}_start", f"{name}_end"]
        graph.node.append(onnx.helper.make_node("Slice", inputs, [name], f"{node.name}_slice"))


def _holds_zero(name: str, constants: dict[str, onnx.TensorProto], writers: dict[str, onnx.NodeProto]) -> bool:
    """Tells whether a constant has a 0, or one of those that a value is put together from.

    What is computed otherwise comes from sizes of the input, which are not 0: there is no batch without images.
    """
    if name in constants:
        return bool((numpy_helper.to_array(constants[name]) == 0).any())
    writer = writers.get(name)
    parts = writer.input if writer is not None and writer.op_type == "Concat" else ()
    return any(_holds_zero(part, constants, writers) for part in parts)


def drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """Deletes weights and constants that no node of the graph reads any more."""
    used = {value.name for value in graph.output}.union(*(names_read(node) for node in graph.node))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
