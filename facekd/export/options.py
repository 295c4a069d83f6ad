"""Holds what `facekd export` is asked for, and refuses what cannot go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facekd.errors import ModelError

# 18 is what torch's exporter writes; runtimes of phones and older ones know less.
OLDEST_OPSET, NEWEST_OPSET = 11, 18
# Folding batch norm and reordering sums costs about 1e-5; a wrong layer costs more than 1e-2.
TOLERANCE = 1e-3
PreluForm = Literal["fast", "native"]
InputForm = Literal["float", "uint8-nchw", "uint8-nhwc"]


@dataclass(frozen=True)
class ExportOptions:
    """Says how a network is written as an ONNX file.

    Args:
        normalize: divide each embedding by its L2 norm inside the graph.
        flip: embed each image and its mirror image, and return the mean of both embeddings; normalised afterwards.
        prelu: "fast" writes PReLU as depthwise convolutions, which onnxruntime computes several times faster; "native"
            keeps the operator. Both give the same embeddings.
        input: "float" takes normalised float32 (B, 3, S, S); "uint8-nchw" takes raw pixels (B, 3, S, S) and
            "uint8-nhwc" (B, S, S, 3), normalised inside the graph.
        color: order of the channels that the graph takes; None takes the network's own. Another needs raw pixels.
        batch: a fixed number of images; None takes any number.
        opset: of the operators, from 11 to 18.
        tolerance: largest relative error |onnx - torch| / |torch| allowed, at batch 1, 2 and 7.

    Raises:
        ModelError: a value is outside of its range, or another value would be ignored.
    """

    normalize: bool = False
    flip: bool = False
    prelu: PreluForm = "fast"
    input: InputForm = "float"
    color: Literal["rgb", "bgr"] | None = None
    batch: int | None = None
    opset: int = NEWEST_OPSET
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise ModelError(f"opset {self.opset} is not written: from {OLDEST_OPSET} to {NEWEST_OPSET}")
        if self.batch is not None and self.batch < 1:
            raise ModelError(f"a batch of {self.batch} images: give 1 or more, or leave it out for any number")
        if self.color is not None and self.input == "float":
            raise ModelError(
                "the order of the channels can be chosen for raw pixels (input uint8-nhwc or uint8-nchw); normalised "
                "images have the order that the network was trained with"
            )
