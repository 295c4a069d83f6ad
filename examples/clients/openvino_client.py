"""Embeds aligned faces with OpenVINO."""

import numpy as np
import openvino

MEAN, STD = 127.5, 127.5  # those of the network: `facekd describe model.onnx` prints them


def open_model(path, precision="f32"):
    """Returns a function from faces, uint8 RGB (N, 112, 112, 3), to embeddings, float32 (N, D)."""
    # Left to itself, OpenVINO computes in bfloat16 on processors that have it: faster, and cosine 0.999.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    image = model.input(0)
    takes_bytes = image.element_type == openvino.Type.u8
    channels_last = image.partial_shape[3] == 3

    def embed(faces):
        x = faces if takes_bytes else (faces - np.float32(MEAN)) / np.float32(STD)
        return model(np.ascontiguousarray(x if channels_last else x.transpose(0, 3, 1, 2)))[0].copy()

    return embed
