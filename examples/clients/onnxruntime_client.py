"""Embeds aligned faces with onnxruntime, by what the file records of itself."""

import json

import numpy as np
import onnxruntime


def open_model(path):
    """Returns a function from faces, uint8 RGB (N, 112, 112, 3), to embeddings, float32 (N, D)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    mean, std = (np.float32(json.loads(facts[name])) for name in ("mean", "std"))  # 0 and 1 if the graph takes pixels
    (image,) = session.get_inputs()
    takes_bytes, channels_last = image.type == "tensor(uint8)", image.shape[3] == 3

    def embed(faces):
        x = faces if takes_bytes else (faces - mean) / std
        x = x if facts["color"] == "rgb" else x[..., ::-1]
        x = x if channels_last else x.transpose(0, 3, 1, 2)
        return session.run(None, {image.name: np.ascontiguousarray(x)})[0]

    return embed
