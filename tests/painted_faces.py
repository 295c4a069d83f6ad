"""Paints faces of one cell, and writes face detectors that find them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facekd.images.alignment import template

# Landmarks of a painted face relative to its cell, pixels: the template at two thirds of its size.
PAINTED = (template() - template().mean(0)) * 0.66


def paint(*faces: tuple[int, int, int, int], size: int = 128) -> np.ndarray:
    """Black, with a cell of 8 pixels for each (column, row, red, blue)."""
    image = np.zeros((size, size, 3), np.uint8)
    for column, row, red, blue in faces:
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = (red, 0, blue)
    return image


def write_scrfd(path: Path) -> Path:
    """An SCRFD that takes an 8x8 cell for a face: red is its score, blue its size (box 32 to 64 pixels)."""
    nodes, weights, outputs = [], [], {}
    for kind, size in (("score", 1), ("box", 4), ("points", 10)):
        for stride in (32, 8, 16):  # the order among the outputs is not to matter
            weight, bias = np.zeros((2 * size, 3)), np.zeros(2 * size)
            if stride == 8 and kind == "score":
                weight[0, 0], bias[0] = 0.5, 0.5
            if kind == "box":
                weight[:, 2], bias[:] = 1, 3
            if kind == "points":
                bias[:] = np.tile(PAINTED.ravel() / stride, 2)
            name = f"{kind}{stride}"
            _cells(nodes, weights, name, stride, weight, bias, [-1, size])
            outputs[name] = [None, size]
    return _save(path, nodes, weights, outputs, None)


def write_yunet(path: Path) -> Path:
    """A YuNet that takes an 8x8 cell for a face: red is its score, blue its size (box 32 to 64 pixels)."""
    nodes, weights, outputs = [], [], {}
    for kind, size in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            weight, bias = np.zeros((size, 3)), np.zeros(size)
            if stride == 8 and size == 1:
                weight[0, 2] = 1 / 255  # BGR, 0..255
            if kind == "bbox":
                weight[2:, 0], bias[2:] = np.log(2) / 255, np.log(32 / stride)
            if kind == "kps":
                bias[:] = PAINTED.ravel() / stride
            name = f"{kind}_{stride}"
            _cells(nodes, weights, name, stride, weight, bias, [1, -1, size])
            outputs[name] = [1, None, size]
    return _save(path, nodes, weights, outputs, 128)


def _cells(
    nodes: list, weights: list, name: str, stride: int, weight: np.ndarray, bias: np.ndarray, shape: list
) -> None:
    """Append: the image averaged over cells of `stride`, a linear map of their colour, a row a cell and anchor."""
    prefix = f"{name}_"
    weights += [
        numpy_helper.from_array(weight.astype(np.float32)[:, :, None, None], prefix + "w"),
        numpy_helper.from_array(bias.astype(np.float32), prefix + "b"),
        numpy_helper.from_array(np.array(shape, dtype=np.int64), prefix + "shape"),
    ]
    nodes += [
        helper.make_node("AveragePool", ["image"], [prefix + "pool"], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Conv", [prefix + "pool", prefix + "w", prefix + "b"], [prefix + "conv"]),
        helper.make_node("Transpose", [prefix + "conv"], [prefix + "last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [prefix + "last", prefix + "shape"], [name]),
    ]


def _save(path: Path, nodes: list, weights: list, outputs: dict[str, list], side: int | None) -> Path:
    sides = [side, side] if side else ["height", "width"]
    graph = helper.make_graph(
        nodes,
        "painted_faces",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *sides])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path
