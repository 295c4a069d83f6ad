"""Reads from the input of an ONNX graph what images it takes: their number, size, type and layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facekd.errors import ModelError
from facekd.utils.foreign import shown


def shape_text(shape: Sequence[Any]) -> str:
    """Returns a shape as people write it, cut where it is long."""
    return shown(list(shape))


def input_dtype(onnx_type: str, path: Path) -> type[np.number[Any]]:
    """Returns the numpy type of an input; raises a ModelError for any but float32, float16 and bytes."""
    dtypes: dict[str, type[np.number[Any]]] = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(uint8)": np.uint8,
    }
    if onnx_type not in dtypes:
        raise ModelError(f"{path}: its input is {shown(onnx_type)}, expected {', '.join(dtypes)}")
    return dtypes[onnx_type]


def read_input_shape(shape: Sequence[int | str | None], path: Path) -> tuple[int | None, int | None, slice, bool]:
    """Returns (fixed batch or None, image size S or None, columns of the images to pass, channels_last).

    Raises:
        ModelError: the input takes no images of three channels, or of another form.
    """
    # A fixed dimension is a positive number; for the others exporters write a name, None, 0 or -1.
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if len(sizes) != 4 or 3 not in (sizes[1], sizes[3]):
        raise ModelError(f"{path}: its input has shape {shape_text(shape)}, expected (batch, 3, size, size)")
    channels_last = sizes[1] != 3
    height, width = sizes[1:3] if channels_last else sizes[2:4]
    if height is None or width is None or height == width:
        return sizes[0], height or width, slice(None), channels_last

    # SphereFace's 112 x 96 template is the middle of the 112 x 112 one: InsightFace only adds 8 to each x.
    if 6 * height != 7 * width or height % 14:
        raise ModelError(
            f"{path}: takes images of {height} x {width} (height x width); supported are squares, and 112 x 96, which "
            "is the middle of an aligned square; export it with a square input, cropped or padded inside the graph"
        )
    margin = (height - width) // 2
    return sizes[0], height, slice(margin, margin + width), channels_last
