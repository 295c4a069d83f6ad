"""Embeds aligned faces with OpenCV's dnn module."""

import cv2
import numpy as np

MEAN, STD = 127.5, 127.5  # those of the network: `facekd describe model.onnx` prints them


def open_model(path, raw=""):
    """Returns a function from faces, uint8 RGB (N, 112, 112, 3), to embeddings, float32 (N, D).

    raw: "nhwc" or "nchw" if the file was exported with `--input uint8-nhwc` or `uint8-nchw`.
    """
    network = cv2.dnn.readNetFromONNX(path)

    def embed(faces):
        x = faces if raw else (faces - np.float32(MEAN)) / np.float32(STD)
        network.setInput(x if raw == "nhwc" else np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        return network.forward().copy()

    return embed
