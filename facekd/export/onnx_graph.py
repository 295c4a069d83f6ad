"""Builds, describes and checks the ONNX graph of a model."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import facekd
from facekd.embedder import Preprocessing
from facekd.errors import ModelError

if TYPE_CHECKING:
    import onnx
    import torch


OPSET = 18


INPUT_NAME = "images"


OUTPUT_NAME, LOGITS_NAME = "embedding", "logits"


def with_normalize(backbone: torch.nn.Module) -> torch.nn.Module:
    """Returns a module, in evaluation mode, that divides a backbone's embeddings by their L2 norm."""
    import torch

    class Normalized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.backbone(images))

    return Normalized().eval()


def describe(preprocessing: Preprocessing, embedding_size: int, normalize: bool) -> dict[str, str]:
    """Returns the `metadata_props` that describe the model's input and output."""
    order = "R, G, B" if preprocessing.color == "rgb" else "B, G, R"
    norm = "of unit L2 norm" if normalize else "not normalised: divide by the L2 norm before comparing"
    return {
        **preprocessing.to_metadata(),
        "embedding_size": str(embedding_size),
        "normalized": "true" if normalize else "false",
        "input_semantics": (
            f"aligned face, channels {order}, (x - mean) / std with x in 0..255; mean and std are listed as R, G, B"
        ),
        "embedding_semantics": f"compare by cosine; {norm}",
        "facekd_version": facekd.__version__,
    }


def to_onnx(module: torch.nn.Module, example: torch.Tensor, output: Path, output_name: str) -> onnx.ModelProto:
    """Exports a module with a dynamic batch; raises a ModelError if torch cannot, or only with a newer onnxscript."""
    import torch

    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[output_name],
                verbose=False,
            )
    except ImportError as error:  # each torch names the part of onnxscript that it needs
        raise ModelError(
            f"{output}: the exporter of torch {torch.__version__} does not find its part of onnxscript ({error}): "
            "`pip install --upgrade onnxscript onnx`"
        ) from error
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ModelError(f"{output}: torch cannot export this backbone: {first_line(error)}") from error
    assert program is not None  # with dynamo=True it always returns one
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's warnings about its own deprecations; `check_model` checks the result."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def finish_model(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Replaces the exporter's notes in a model with facekd's metadata."""
    # The exporter records the source line of every node, which leaks paths of this machine and makes the file larger.
    entries: list[Any] = [*model.graph.node, *model.graph.input, *model.graph.output]
    entries += [*model.graph.value_info, *model.graph.initializer, model.graph]
    for entry in entries:
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "facekd", facekd.__version__


def check_model(model: onnx.ModelProto, output: Path) -> None:
    """Checks that a graph is valid and has the opset and the dynamic batch; the exporter may change them silently."""
    import onnx

    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": OPSET}:
        raise ModelError(f"{output}: not kept, torch wrote opsets {opsets}, expected only ai.onnx {OPSET}")
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ModelError(f"{output}: not kept, the batch of {value.name!r} is fixed in the graph")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError(f"{output}: not kept, its weights would be stored outside the file")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{output}: not kept, not a valid ONNX model: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message that is not blank, or else the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
