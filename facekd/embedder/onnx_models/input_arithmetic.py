"""Finds out what an ONNX graph itself does to pixels before its first layer, and so what it wants to be given.

A normalisation inside a graph can be spelt in many ways (Sub and Div, a BatchNormalization, a Cast and a Mul, in
float16, quantised, behind a transposition), but what it does can always be measured. The nodes before the first layer
are cut out and run on images of one colour each, and a straight line is fitted through every value that comes out.

Shapes: K images of one colour, V values before the first layer, 3 channels of the graph's input in their own order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.embedder.onnx_models.file import OnnxFile, load_external_data, names_read
from facekd.embedder.onnx_models.session import brief
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

if TYPE_CHECKING:
    import onnx

# Nodes that compute a value from one pixel and constants, or that move, copy or average such values.
PIXELWISE = frozenset((
    "Identity", "Dropout", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
    "Expand", "Tile", "Resize", "Upsample", "Pad", "Gather", "GatherND", "Slice", "Split", "Concat",
    "SpaceToDepth", "DepthToSpace", "Sub", "Add", "Mul", "Div", "Neg", "Sum", "Clip", "Min", "Max", "Floor",
    "Round", "BatchNormalization", "QuantizeLinear", "DequantizeLinear",
))  # fmt: skip
LAYER = re.compile("Conv|MatMul|Gemm|Pool|Einsum|DynamicQuantizeLinear")
UNITS = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
TAKEN_AS = {"0..255": "raw pixels 0..255", "0..1": "pixels scaled to 0..1", "-1..1": "normalised pixels"}
# Quantised graphs make a staircase of 255 steps, which may cover a few times the range of the pixels.
TOLERANCE = 0.03
MOST_VALUES = 1 << 22  # before the first layer, of an image of one colour; two of 256 x 256 have a tenth of them
# Grey levels by which the mean of red exceeds that of blue, at least, in statistics of photographs and of faces.
RED_OVER_BLUE = 5.0


@dataclass(frozen=True)
class InputArithmetic:
    """Says what a graph does to its input before its first layer: channel c becomes (x - mean[c]) / std[c].

    Attributes:
        mean: (3,) in units of the graph's input, in the order of its channels; empty if it is not understood.
        std: like `mean`.
        takes: what the graph wants: `"0..255"`, `"0..1"`, or `"-1..1"`, pixels normalised outside, as is usual.
        reverses: whether it reverses the order of the channels.
        problem: why it is not understood; empty if it is.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    takes: str = "-1..1"
    reverses: bool = False
    problem: str = ""

    @property
    def is_plain(self) -> bool:
        """Tells whether the graph takes usual, normalised pixels and leaves them as they are."""
        if self.problem or self.takes != "-1..1" or self.reverses:
            return False
        return np.allclose(self.mean, 0, atol=TOLERANCE) and np.allclose(self.std, 1, atol=TOLERANCE)

    @property
    def color(self) -> str:
        """Tells the channel order of the input from the means: red's is the largest, of photographs and of faces."""
        if self.problem or self.takes == "-1..1":
            return ""
        first, middle, last = np.asarray(self.mean) * (255 / UNITS[self.takes][1])
        if abs(first - last) < RED_OVER_BLUE or not min(first, last) <= middle <= max(first, last):
            return ""
        return "rgb" if first > last else "bgr"

    def __str__(self) -> str:
        if self.problem:
            return f"what the graph itself does to pixels is not understood ({self.problem})"
        turned = "reverses the channels" if self.reverses else ""
        if np.allclose(self.mean, 0, atol=1e-3) and np.allclose(self.std, 1, atol=1e-3):
            done = turned or "does not shift or scale its input"
        else:
            done = f"does (x - {_shown(self.mean)}) / {_shown(self.std)}" + (f" and {turned}" if turned else "")
        return f"the graph itself {done}: it takes {TAKEN_AS[self.takes]}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields in plain types, for results.json and the trailer of a cache."""
        kept = {"mean": list(self.mean), "std": list(self.std), "takes": self.takes, "reverses": self.reverses}
        return {**kept, "text": str(self)} if not self.problem else {"text": str(self)}


def read_input_arithmetic(file: OnnxFile, shape: Sequence[int], channel_axis: int) -> InputArithmetic:
    """Measures what a graph does to its input before its first layer.

    Args:
        file: the ONNX file.
        shape: a shape that its input can have, of 4 dimensions.
        channel_axis: which of them is the channels'.
    """
    # Cut the nodes before the first layer out; most graphs have none.
    model = file.model
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    nodes, ends, problem = _cut(model.graph)
    if problem:
        return InputArithmetic(problem=problem)
    if not nodes:
        return InputArithmetic((0.0,) * 3, (1.0,) * 3)
    if len(ends) * 2 * math.prod(shape[1:]) > MOST_VALUES:
        found = (
            f"{counted(len(ends), 'input')} of first layers, for images with {counted(max(shape[1:]), 'pixel')} a side"
        )
        return InputArithmetic(problem=f"too many values to measure: {found}")

    # Run them on images of one colour. Units that a clip, a cast or a quantisation spoils do not give straight lines.
    try:
        run = _Runner(model, file.path, nodes, ends, shape, channel_axis)
        lines = {unit: _fit(run, *limits) for unit, limits in UNITS.items()}
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        return InputArithmetic(problem=f"its first nodes cannot be run alone: {brief(str(error) or repr(error))}")
    return _decide({unit: line for unit, line in lines.items() if line is not None}, nodes)


def _cut(graph: onnx.GraphProto) -> tuple[list[onnx.NodeProto], list[str], str]:
    """Returns the nodes before the first layer, the tensors that the first layers read, and a problem or ''."""
    # Follow the pixels; what depends on no pixel, such as a constant or the input's shape, is fixed.
    fixed = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    pixels = set([entry.name for entry in graph.input if entry.name not in fixed][:1])
    made_by: dict[str, onnx.NodeProto] = {}
    ends: list[str] = []
    for node in graph.node:
        read = set(names_read(node))
        found = sorted(read & pixels)
        made_by.update(dict.fromkeys(node.output, node))
        if read <= fixed or (found and node.op_type in ("Shape", "Size")):
            fixed.update(node.output)
        elif (
            found
            and all(name in fixed or name in pixels for name in read)
            and node.op_type in PIXELWISE
            and node.domain in ("", "ai.onnx")
        ):
            pixels.update(node.output)
        elif found:
            ends += found
            if not LAYER.search(node.op_type):
                return [], [], f"a node of type {shown(node.op_type)} reads them"

    # Keep what leads to the ends, in the order of the graph.
    needed, waiting = set[int](), list(ends)
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            waiting += names_read(node)
    return [node for node in graph.node if id(node) in needed], list(dict.fromkeys(ends)), ""


class _Runner:
    """Runs the nodes before the first layer: colours (K, 3) -> values (K, V)."""

    def __init__(
        self,
        model: onnx.ModelProto,
        path: Path,
        nodes: list[onnx.NodeProto],
        ends: list[str],
        shape: Sequence[int],
        channel_axis: int,
    ) -> None:
        import onnxruntime
        from onnx import helper

        # A quantised end is read in the units of what was quantised.
        made_by = {name: node for node in nodes for name in node.output}
        back = [made_by[end] for end in ends if end in made_by and made_by[end].op_type == "QuantizeLinear"]
        more = []
        for node in back:
            copy = helper.make_node("DequantizeLinear", [node.output[0], *node.input[1:]], [f"{node.output[0]}/back"])
            copy.attribute.extend(entry for entry in node.attribute if entry.name in ("axis", "block_size"))
            more.append(copy)
        quantised = {node.output[0] for node in back}
        outputs = [f"{end}/back" if end in quantised else end for end in ends]

        # A small model of these nodes and the constants they read.
        read = {name for node in (*nodes, *more) for name in names_read(node)}
        constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
        known = {tensor.name for tensor in constants}
        image = next(entry for entry in model.graph.input if entry.name in read - known)
        element = image.type.tensor_type.elem_type
        inputs = [helper.make_tensor_value_info(image.name, element, list(shape))]
        ports = [helper.make_empty_tensor_value_info(name) for name in outputs]
        part = helper.make_model(
            helper.make_graph([*nodes, *more], "input", inputs, ports, constants),
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        load_external_data(part, path)

        # A session of its own.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._name, self._shape, self._axis = image.name, tuple(shape), channel_axis
        self._dtype = helper.tensor_dtype_to_np_dtype(element)

    def __call__(self, colours: np.ndarray) -> np.ndarray:
        across = [3 if axis == self._axis else 1 for axis in range(4)]
        rows = []
        for colour in colours:
            image = np.broadcast_to(colour.reshape(across), self._shape).astype(self._dtype)
            found = self._session.run(None, {self._name: image})
            # Two images are enough of a large fixed batch.
            most = 2 * math.prod(self._shape[1:])
            rows.append(np.concatenate([np.asarray(values).ravel()[:most].astype(np.float64) for values in found]))
        return np.stack(rows)


def _fit(run: _Runner, low: float, high: float) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Fits y = a x + b for each channel to colours between two limits.

    Returns:
        a (3,), b (3,), and whether the channels come out in reverse order; None if straight lines do not fit.
    """
    # The two ends of the range, and colours in which the channels differ.
    between = np.random.default_rng(0).random((10, 3))
    colours = low + (high - low) * np.concatenate([np.zeros((1, 3)), np.ones((1, 3)), between])
    values_KV = run(colours)
    if not np.isfinite(values_KV).all():
        return None

    # Each value is a line in the channel that it comes from. Values that never change are padding.
    design_K4 = np.concatenate([colours, np.ones((len(colours), 1))], axis=1)
    ranges_V = np.ptp(values_KV, axis=0)
    changing = ranges_V > 1e-6 * max(float(np.abs(values_KV).max()), 1e-12)
    values_KV, ranges_V = values_KV[:, changing], ranges_V[changing]
    line_4V, *_ = np.linalg.lstsq(design_K4, values_KV, rcond=None)
    slopes_3V, source_V = line_4V[:3], np.abs(line_4V[:3]).argmax(axis=0)
    order = list(dict.fromkeys(source_V.tolist()))
    if sorted(order) != [0, 1, 2] or (np.abs(design_K4 @ line_4V - values_KV) > TOLERANCE * ranges_V).any():
        return None

    # All values of a channel have the same slope; their shifts may differ, as where an image of means is subtracted.
    slope_3, shift_3 = np.empty(3), np.empty(3)
    for channel in range(3):
        own = source_V == channel
        slope_3[channel], shift_3[channel] = np.median(slopes_3V[channel, own]), line_4V[3, own].mean()
        strays = np.abs(slopes_3V[:, own] - slope_3[channel] * (np.arange(3) == channel)[:, None])
        if strays.max() > TOLERANCE * abs(slope_3[channel]):
            return None
    return slope_3, shift_3, order == [2, 1, 0]


def _decide(lines: dict[str, tuple[np.ndarray, np.ndarray, bool]], nodes: list[onnx.NodeProto]) -> InputArithmetic:
    """Chooses the unit that the arithmetic is made for."""
    done = ", ".join(dict.fromkeys(node.op_type for node in nodes if node.op_type != "Constant"))
    unclear = InputArithmetic(problem=f"it is no known normalisation: {done}")
    read = {unit: (-shift / slope, 1 / slope, reverses) for unit, (slope, shift, reverses) in lines.items()}
    fitting = [unit for unit, (mean, std, _) in read.items() if _unit_made_for(mean, std) == unit]

    # A clip, cast or quantisation alone: the largest range that it leaves as it is.
    for unit, (mean, std, reverses) in {} if fitting else read.items():
        if np.allclose(mean / UNITS[unit][1], 0, atol=TOLERANCE) and np.allclose(std, 1, atol=TOLERANCE):
            return InputArithmetic((0.0,) * 3, (1.0,) * 3, unit, reverses)
    if len(fitting) != 1:
        return unclear
    mean, std, reverses = read[fitting[0]]
    return InputArithmetic(tuple(mean.tolist()), tuple(std.tolist()), fitting[0], reverses)


def _unit_made_for(mean: np.ndarray, std: np.ndarray) -> str:
    """Tells from the magnitude of mean and std, each (3,), what values they normalise; '' if no usual ones.

    The mean of pixels is tens of 0..255 and about a half of 0..1. Near 0, with a std near 1, a mean is no pixels':
    such a BatchNormalization holds the statistics of images that were normalised before.
    """
    if (std <= 0).any():
        return ""
    if (mean > -1).all() and (mean < 256).all() and ((mean >= 16) | (std >= 16)).all():
        return "0..255"
    is_scaled_up = (std <= 0.01) & (mean > -0.01) & (mean < 1)
    if (((mean > 0.25) & (mean < 0.8) & (std < 1.1)) | is_scaled_up).all():
        return "0..1"
    is_brought_to_0_1 = np.abs(mean + 1) < TOLERANCE
    if ((mean > -0.5) & (mean <= 0.25) & (std >= 0.1) & (std <= 2.5) | is_brought_to_0_1).all():
        return "-1..1"
    return ""


def _shown(values: Sequence[float]) -> str:
    texts = [f"{round(value, 4) + 0.0:.4g}" if abs(value) >= 1e-3 else f"{round(value, 6) + 0.0:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"
