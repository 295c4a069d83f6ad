"""Embeds aligned faces with MNN, whose `mnnconvert` turns the ONNX file into its own."""

import subprocess
from pathlib import Path

import MNN.expr as expr
import MNN.nn as nn
import numpy as np

MEAN, STD = 127.5, 127.5  # those of the network: `facekd describe model.onnx` prints them


def convert(path):
    """Writes MODEL.mnn beside MODEL.onnx."""
    words = f"mnnconvert -f ONNX --bizCode facekd --modelFile {path} --MNNModel {Path(path).with_suffix('.mnn')}"
    subprocess.run(words.split(), check=True)


def open_model(path, threads=1):
    """Returns a function from faces, uint8 RGB (N, 112, 112, 3), to embeddings, float32 (N, D)."""
    convert(path)
    manager = nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    file = str(Path(path).with_suffix(".mnn"))
    network = nn.load_module_from_file(file, ["images"], ["embedding"], runtime_manager=manager)

    def embed(faces):
        x = ((faces - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
        image = expr.const(np.ascontiguousarray(x), list(x.shape), expr.NCHW)
        (embedding,) = network.forward([image])
        return np.array(expr.convert(embedding, expr.NCHW).read())

    return embed
