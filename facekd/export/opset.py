"""Writes an ONNX graph in an older opset, for runtimes that know no newer one.

onnx's own converter stops at operators that changed in nothing but the types they take (Relu, BatchNormalization). Here
a node moves to the older opset if that has its operator with those attributes. Whether it still computes the same is
seen when the written file is compared with torch.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper

from facekd.embedder.onnx_models.file import names_read
from facekd.errors import ModelError
from facekd.export.options import NEWEST_OPSET


def lower_opset(model: onnx.ModelProto, opset: int, where: str) -> None:
    """Rewrites a model that torch wrote in opset 18 for an older one, in place.

    Args:
        model: a model without functions and branches, its constants among the initializers.
        opset: from 11 to 18.
        where: begins the messages.

    Raises:
        ModelError: an operator, or an attribute that the graph needs, is newer.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
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
            if attribute.name == "allowzero" and 0 not in _constant(constants, node.input[1]):
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


def _constant(constants: dict[str, onnx.TensorProto], name: str) -> list[int]:
    """Returns a constant's values, or [0] if the graph computes them."""
    return numpy_helper.to_array(constants[name]).reshape(-1).tolist() if name in constants else [0]


def drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """Deletes weights and constants that no node of the graph reads any more."""
    used = {value.name for value in graph.output}.union(*(names_read(node) for node in graph.node))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
