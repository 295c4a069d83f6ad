"""Provides small generated packs, and a model for them: an ONNX file of a few hundred bytes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facekd.data.pair_packs.pair_pack import write_pair_pack

SIZE = 16


def make_pack(
    folder: Path, num_pairs: int = 40, noise: float = 30.0, seed: int = 0, name: str = "pairs", suffix: str = ".png"
) -> Path:
    """A `.bin` and the list of its names: patchwork "faces" of 2 x 2 colours plus noise, every second pair genuine."""
    generator = np.random.default_rng(seed)
    is_same = np.arange(num_pairs) % 2 == 0
    images, lines = [], []
    for pair, same in enumerate(is_same.tolist()):
        subjects = [2 * pair, 2 * pair if same else 2 * pair + 1]
        for subject in subjects:
            colors = np.random.default_rng([seed, subject]).uniform(40, 215, (2, 2, 3))
            image = np.kron(colors, np.ones((SIZE // 2, SIZE // 2, 1)))
            image += generator.normal(0, noise, (2, 2, 3)).repeat(SIZE // 2, 0).repeat(SIZE // 2, 1)
            bgr = np.clip(image, 0, 255).astype(np.uint8)[:, :, ::-1]
            images.append(cv2.imencode(suffix, bgr)[1].tobytes())
        names = [f"person_{subject}/{image}.jpg" for image, subject in enumerate(subjects)]
        lines.append("\t".join([*names, str(int(same))]))
    path = folder / f"{name}.bin"
    write_pair_pack(path, images, is_same)
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return path


def make_model(path: Path) -> Path:
    """Float (batch, 3, 16, 16) -> (batch, 12): the mean of each channel over each quarter, told apart by weights."""
    weights = numpy_helper.from_array(np.diag(np.linspace(1, 2, 12)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quarters",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 12])],
        [weights],
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def quarters(images: np.ndarray) -> np.ndarray:
    """The model in numpy, with the default preprocessing: uint8 (B, 16, 16, 3) -> float32 (B, 12)."""
    x = np.moveaxis((images.astype(np.float64) - 127.5) / 127.5, -1, 1)
    means = x.reshape(len(x), 3, 2, SIZE // 2, 2, SIZE // 2).mean(axis=(3, 5)).reshape(len(x), 12)
    return (means * np.linspace(1, 2, 12)).astype(np.float32)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return make_pack(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "quarters.onnx")
