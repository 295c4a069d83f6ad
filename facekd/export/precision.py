"""Rewrites a float32 graph in fewer bits, by the converters that come with onnxruntime.

- fp16: every layer computes in float16. What stands before the first layer (the normalisation of raw pixels) and behind
  the last (means and norms of embeddings) stays in float32: sums of squares overflow float16 at a norm of 256.
- int8: QuantizeLinear and DequantizeLinear around each layer, weights by channel, activations by ranges seen on faces.
  What a last Gemm gives, the embedding, keeps its digits. Weights take 7 of the 8 bits, so that every CPU computes the
  same: see `to_int8`.
- int8-weights: weights as bytes and a scale by channel, multiplied out by Cast and Mul. onnxruntime does that once,
  when it opens the file, and then computes as fast as with float32; DequantizeLinear it would do for every batch.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facekd.errors import ModelError
from facekd.export.onnx_graph import first_line
from facekd.export.opset import drop_unused_initializers
from facekd.export.options import CalibrationMethod
from facekd.utils.progress import track

LAYERS = ("Conv", "Gemm", "MatMul")
MOST_FLOAT16 = 65504.0
SCALE_BYTES = 4  # of the scale that each channel of a quantised weight needs


def to_float16(model: onnx.ModelProto, batches: Sequence[np.ndarray], where: Path) -> onnx.ModelProto:
    """Returns the model with layers that compute in float16; its input and output stay as they are.

    Args:
        model: the float32 model.
        batches: inputs of the graph, faces; no value between its layers may be too large on them.
        where: begins the messages.

    Raises:
        ModelError: a weight or a value is larger than float16 can hold, or onnxruntime's converter fails.
    """
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            _check_range(numpy_helper.to_array(tensor), f"weights of {tensor.name}", where)
    for name, values in _values_between_layers(model, batches):
        _check_range(values, f"on faces, values of {name}", where)
    with _quiet_library("convert to float16", where):
        from onnxruntime.transformers import float16

        kept = [node.name for node in _around_layers(model.graph)]
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST]
        copied = onnx.ModelProto.FromString(model.SerializeToString())
        converted = float16.convert_float_to_float16(
            copied, keep_io_types=True, op_block_list=blocked, node_block_list=kept
        )
    _drop_round_trips(converted.graph)
    _sort_nodes(converted.graph)
    return converted


def _check_range(values: np.ndarray, what: str, where: Path) -> None:
    """Refuses what float16 cannot hold; the converter would cut weights off in silence, and values become infinite."""
    most = float(np.abs(values).max(initial=0))
    if not most <= MOST_FLOAT16:
        raise ModelError(
            f"{where}: not kept, {what} reach {most:.3g}, and float16 ends at {MOST_FLOAT16:,.0f}; export with "
            "--precision fp32, or int8-weights, which has no such end"
        )


def _values_between_layers(model: onnx.ModelProto, batches: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what the nodes give that will compute in float16, by name.

    The float32 model is run, because onnxruntime computes float16 on most CPUs in float32 and hides what overflows.
    """
    import onnxruntime

    watched = onnx.shape_inference.infer_shapes(model)
    outside = {name for node in _around_layers(model.graph) for name in node.output}
    made = {name for node in model.graph.node for name in node.output}
    floats = {value.name for value in watched.graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    names = sorted((floats & made) - outside - {value.name for value in watched.graph.output})
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in batches:
        for name, values in zip(names, session.run(names, {model.graph.input[0].name: batch}), strict=True):
            yield name, np.asarray(values)


def to_int8(
    model: onnx.ModelProto, batches: Sequence[np.ndarray], method: CalibrationMethod, folder: Path, where: Path
) -> onnx.ModelProto:
    """Returns the model with layers that compute with bytes: activations uint8, weights int8 (-64 to 64) by channel.

    Args:
        model: in opset 13 or newer.
        batches: inputs of the graph, all of one shape; the ranges of activations are those seen on them.
        method: how a range is chosen from the values seen.
        folder: for temporary files.
        where: begins the messages.

    Raises:
        ModelError: onnxruntime cannot quantise the model.
    """
    from onnxruntime import quantization

    methods = {
        "percentile": quantization.CalibrationMethod.Percentile,
        "entropy": quantization.CalibrationMethod.Entropy,
        "minmax": quantization.CalibrationMethod.MinMax,
    }
    source, target = folder / "float32.onnx", folder / "int8.onnx"
    # Without this mark it asks for a preparation of the graph that torch's exporter has done.
    marked = onnx.ModelProto.FromString(model.SerializeToString())
    marked.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    source.write_bytes(marked.SerializeToString())
    with _quiet_library("quantise", where), _temporary_files_in(folder):
        quantization.quantize_static(
            source,
            target,
            _Batches(model.graph.input[0].name, batches),  # pyright: ignore[reportArgumentType] - it has the methods
            calibrate_method=methods[method],
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Processors without VNNI add two products in 16 bits, which two of 8 bits each overflow without a word.
            reduce_range=True,
            op_types_to_quantize=[*LAYERS],
            nodes_to_exclude=sorted(side_nodes(model.graph)),
            # One batch after the other, or the values of all batches would be in memory together.
            extra_options={"CalibStridedMinMax": 1, "OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
    return onnx.ModelProto.FromString(target.read_bytes())


def to_int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with the weights of its layers as bytes and scales; it computes in float32."""
    quantised = onnx.ModelProto.FromString(model.SerializeToString())
    graph = quantised.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}
    aside = side_nodes(graph)
    for node in graph.node:
        name = node.input[1] if node.op_type in LAYERS and node.name not in aside else ""
        if name in weights and name not in done and weights[name].data_type == TensorProto.FLOAT:
            made = _quantised_weight(node, weights[name])
            if made is not None:
                nodes += made[0]
                graph.initializer.extend(made[1])
                done[name] = made[0][-1].output[0]
        if name in done:
            node.input[1] = done[name]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_initializers(graph)
    return quantised


def _quantised_weight(
    node: onnx.NodeProto, tensor: onnx.TensorProto
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]] | None:
    """Returns the nodes that multiply out a layer's weight, and what they read; None if that would save nothing."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.quant_utils import quantize_data

    values = numpy_helper.to_array(tensor)
    axis = _output_axis(node, values.ndim)
    if values.size + SCALE_BYTES * values.shape[axis] >= values.nbytes:
        return None
    # A channel at a time, so that small ones keep their digits.
    rows = np.moveaxis(values, axis, 0)
    scales, quantised = np.empty(len(rows), np.float32), np.empty(rows.shape, np.int8)
    for row, channel in enumerate(rows):
        *_, scales[row], levels = quantize_data(channel.reshape(-1), QuantType.QInt8.tensor_type, symmetric=True)
        quantised[row] = levels.reshape(channel.shape)
    shape = [1] * values.ndim
    shape[axis] = -1
    levels_name, scale_name, cast_name, name = (f"{tensor.name}_{end}" for end in ("int8", "scale", "cast", "float"))
    read = [
        numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(quantised, 0, axis)), levels_name),
        numpy_helper.from_array(scales.reshape(shape), scale_name),
    ]
    cast = helper.make_node("Cast", [levels_name], [cast_name], cast_name, to=TensorProto.FLOAT)
    return [cast, helper.make_node("Mul", [cast_name, scale_name], [name], name)], read


def _output_axis(node: onnx.NodeProto, num_axes: int) -> int:
    """Returns the axis of a layer's weight that numbers its outputs."""
    if node.op_type == "Conv":
        return 0
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Gemm" and is_transposed else num_axes - 1


def _around_layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Returns the nodes before the first layer and behind the last, in a graph whose nodes are in order.

    Those of a quality head count as behind the last.
    """
    aside = side_nodes(graph)
    main = [node for node in graph.node if node.name not in aside]
    places = [place for place, node in enumerate(main) if node.op_type in LAYERS]
    if not places:
        return []
    outside = [*main[: places[0]], *main[places[-1] + 1 :]]
    return [*outside, *(node for node in graph.node if node.name in aside)]


def side_nodes(graph: onnx.GraphProto) -> set[str]:
    """Returns the names of the nodes that the first output does without: a quality head, whose layers stay as they are.

    It is a few thousand numbers, and its sum of squares would overflow float16. (Of fp16 its weights are rounded, too.)
    """
    producer = {name: node for node in graph.node for name in node.output}
    waiting, needed = [graph.output[0].name], set[str]()
    while waiting:
        node = producer.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting += node.input
    return {node.name for node in graph.node} - needed


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Takes out pairs of casts to float16 and back, which the converter puts between nodes that stay in float32."""
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    renamed = dict[str, str]()
    for node in casts.values():
        before = casts.get(node.input[0])
        if _cast_type(node) == TensorProto.FLOAT and before is not None and _cast_type(before) == TensorProto.FLOAT16:
            renamed[node.output[0]] = before.input[0]
    outputs = {value.name for value in graph.output}
    for name in renamed.keys() & outputs:
        # The output's own name goes to the node that computes it.
        source = renamed.pop(name)
        producer = next(node for node in graph.node if source in node.output)
        producer.output[:] = [name if entry == source else entry for entry in producer.output]
        renamed |= {key: name for key, value in renamed.items() if value == source}
        renamed[source] = name
        graph.node.remove(casts[name])
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    # Casts that nothing reads any more, the second of a pair before the first.
    for _ in range(2):
        read = outputs.union(*(node.input for node in graph.node))
        for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in read]:
            graph.node.remove(node)
    made = outputs.union(*(node.output for node in graph.node))
    for value in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(value)


def _cast_type(node: onnx.NodeProto) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == "to")


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Puts each node behind those that compute its inputs; the converter appends its casts at the end."""
    known = {""} | {value.name for values in (graph.input, graph.initializer) for value in values}
    waiting, ordered = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        left = []
        for node in waiting:
            if known.issuperset(node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                left.append(node)
        assert len(left) < len(waiting), "a graph with a circle"
        waiting = left
    del graph.node[:]
    graph.node.extend(ordered)


class _Batches:
    """Hands batches to onnxruntime's calibration, which asks for some of them at a time."""

    def __init__(self, name: str, batches: Sequence[np.ndarray]) -> None:
        self._name, self._batches = name, batches
        self._all = iter(track(batches, "calibrating"))
        self._left = len(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Allows as many batches more."""
        self._left = end_index - start_index

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next batch, or None for the end of the range."""
        if not self._left:
            return None
        self._left -= 1
        batch = next(self._all, None)
        return None if batch is None else {self._name: batch}


@contextlib.contextmanager
def _quiet_library(what: str, where: Path) -> Iterator[None]:
    """Keeps what onnxruntime's tools print from the user, and turns what they raise into one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (ModelError, OSError):
        raise
    except Exception as error:  # they raise anything for a graph that they do not know
        raise ModelError(f"{where}: not kept, onnxruntime cannot {what} this network: {first_line(error)}") from error


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Puts the temporary files of libraries into a folder, so that nothing is left of them after a kill."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
