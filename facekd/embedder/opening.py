"""Opens any model file as an `Embedder`, whether it holds a torch module or an ONNX graph.

Benchmarks and validators use both in the same way. The preprocessing (mean, std, colour order, image size) is stored
with the model: in the checkpoint, or in the `metadata_props` of an ONNX file that `facekd export` wrote. For other ONNX
files the caller gives it.

Shapes: B images, D embedding values, S image size in pixels.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from facekd.commands.command_line import GPU_NAME
from facekd.embedder.checks import is_onnx_file
from facekd.embedder.interface import GivenPreprocessing
from facekd.embedder.onnx_models.embedder import OnnxEmbedder
from facekd.embedder.torch_embedder import TorchEmbedder
from facekd.errors import ModelError
from facekd.images.preprocessing import overridden
from facekd.utils.foreign import shown


def open_embedder(
    path: str | os.PathLike[str],
    *,
    mean: Any = None,
    std: Any = None,
    color: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    **options: Any,
) -> TorchEmbedder | OnnxEmbedder:
    """Opens an ONNX file or a facekd checkpoint as an embedder; the file's content decides which it is.

    Args:
        path: an ONNX file, a checkpoint, or the folder of a run (its latest checkpoint).
        mean, std, color, image_size: override what the file says; None keeps what it says.
        device: where the model runs: `cpu`, `cuda` or `cuda:N`.
        batch_size: images per call of the model; None means the embedder's default.
        options: `resize` (resize images of another size instead of refusing them); for an ONNX file `threads`,
            `output` and `rewrite_prelu`; for a checkpoint `normalize`, `autocast` and `ema` (False takes the weights as
            trained even if there is a moving average). None means the default and is accepted for every option.

    Raises:
        ModelError: the file is neither, or does not take one of the options; or `device` is none.
        FacekdError: there is no such GPU.
    """
    path, device = Path(path), str(device)
    if not re.fullmatch(f"cpu|{GPU_NAME}", device):
        raise ModelError(f"device is {shown(repr(device))}; expected cpu, cuda or cuda:N")
    given = {name: value for name, value in options.items() if value is not None}

    # An ONNX file brings its own network and usually its preprocessing.
    if is_onnx_file(path):
        _check_options(path, given, {"threads", "output", "rewrite_prelu"}, "an ONNX file")
        size = {} if batch_size is None else {"batch_size": batch_size}
        asked: GivenPreprocessing = {"mean": mean, "std": std, "color": color, "image_size": image_size}
        return OnnxEmbedder(path, device=device, **asked, **size, **given)

    # A checkpoint needs its backbone built, whose image size is fixed.
    _check_options(path, given, {"normalize", "autocast", "ema"}, "a checkpoint")
    from facekd.checkpoints.models import load_backbone

    module, preprocessing = load_backbone(path, ema=given.pop("ema", None), scored=True)
    if image_size not in (None, preprocessing.image_size):
        raise ModelError(f"{path}: the backbone takes images of {preprocessing.image_size} pixels, not {image_size}")
    changes = {"mean": mean, "std": std, "color": color}
    remarks = overridden(changes, asdict(preprocessing))
    preprocessing = replace(preprocessing, **{name: value for name, value in changes.items() if value is not None})
    embedder = TorchEmbedder(module, preprocessing, device=device, batch_size=batch_size, frozen=True, **given)
    embedder.remarks = remarks
    return embedder


def _check_options(path: Path, given: dict[str, Any], known: set[str], kind: str) -> None:
    for name in given.keys() - known - {"resize"}:  # both kinds take `resize`
        words = {"output": "--embedding-output", "threads": "--threads", "rewrite_prelu": "--rewrite-prelu"}
        on_command_line = f" ({words[name]})" if name in words else ""
        raise ModelError(
            f"{path}: is {kind}, which takes no option {name!r}{on_command_line} (it takes {', '.join(sorted(known))})"
        )
