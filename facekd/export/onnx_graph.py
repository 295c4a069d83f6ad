"""Builds, describes and checks the ONNX graph of a model."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import facekd
from facekd.embedder import Preprocessing
from facekd.errors import ModelError
from facekd.export.options import NEWEST_OPSET, ExportOptions

if TYPE_CHECKING:
    import onnx
    import torch


# Runtimes refuse a file whose IR version is newer than theirs; 8 came with opset 18, and holds all that is used.
IR_VERSION = 8
INPUT_NAME = "images"
OUTPUT_NAME, LOGITS_NAME = "embedding", "logits"
QUALITY_TARGETS = {"cr": "CR-FIQA's certainty ratio", "sdd": "SDD-FIQA's distance"}


def with_options(
    backbone: torch.nn.Module, preprocessing: Preprocessing, options: ExportOptions
) -> tuple[torch.nn.Module, Preprocessing]:
    """Returns a module in evaluation mode that does inside what the options ask for, and what remains to do outside.

    The module of a backbone with a `quality_head` returns the embedding and the quality (B,), of which `flip` takes the
    mean, too.
    """
    import torch

    outside = preprocessing
    if options.input != "float":
        color = options.color or preprocessing.color
        outside = replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), color=color)

    quality_head = getattr(backbone, "quality_head", None)
    if not (options.normalize or options.flip or options.input != "float" or quality_head):
        return backbone, outside

    class Deployed(torch.nn.Module):
        mean: torch.Tensor
        std: torch.Tensor
        columns_backwards: torch.Tensor
        channels_backwards: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            step = preprocessing.channel_step
            for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
                self.register_buffer(name, torch.tensor(values[::step]).reshape(1, 3, 1, 1), persistent=False)
            # `flip` would become a Slice with a negative step, which OpenCV 4 cannot read.
            for name, count in (("columns", preprocessing.image_size), ("channels", 3)):
                self.register_buffer(f"{name}_backwards", torch.arange(count - 1, -1, -1), persistent=False)

        def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            if options.input != "float":
                images = images.permute(0, 3, 1, 2) if options.input == "uint8-nhwc" else images
                images = images.float()
                if outside.color != preprocessing.color:
                    images = images.index_select(1, self.channels_backwards)
                images = (images - self.mean) / self.std
            if options.flip:
                images = torch.cat([images, images.index_select(3, self.columns_backwards)])
            embedding = self.backbone(images)
            quality = quality_head(embedding) if quality_head else None
            if options.flip:
                embedding = embedding.reshape(2, -1, embedding.shape[1]).mean(0)
                quality = None if quality is None else quality.reshape(2, -1).mean(0)
            if options.normalize:
                # In operators that every runtime reads alike: torch.nn.functional.normalize would put a Shape into the
                # graph, which opsets below 15 cannot write, and MNN sums the ReduceL2 of opset 18 over the whole batch.
                norm = (embedding * embedding).sum(1, keepdim=True).sqrt()
                embedding = embedding / norm.clamp_min(1e-12)
            return embedding if quality is None else (embedding, quality)

    return Deployed().eval(), outside


def example_input(preprocessing: Preprocessing, options: ExportOptions) -> torch.Tensor:
    """Returns an input of the type and shape that the graph takes."""
    import torch

    size, count = preprocessing.image_size, options.batch or 2
    shape = (count, size, size, 3) if options.input == "uint8-nhwc" else (count, 3, size, size)
    return torch.zeros(shape, dtype=torch.float32 if options.input == "float" else torch.uint8)


def describe(outside: Preprocessing, embedding_size: int, options: ExportOptions) -> dict[str, str]:
    """Returns the `metadata_props` that describe the model's input and output; `outside` remains to be done."""
    order = "R, G, B" if outside.color == "rgb" else "B, G, R"
    pixels = "(x - mean) / std with x in 0..255; mean and std are listed as R, G, B"
    if options.input != "float":
        pixels = f"bytes 0..255 as they are, {options.input[-4:].upper()}; the graph normalises them"
    norm = "of unit L2 norm" if options.normalize else "not normalised: divide by the L2 norm before comparing"
    mean = "; the mean of the image's and its mirror image's" if options.flip else ""
    return {
        **outside.to_metadata(),
        "embedding_size": str(embedding_size),
        "normalized": "true" if options.normalize else "false",
        "input_semantics": f"aligned face, channels {order}, {pixels}",
        "embedding_semantics": f"compare by cosine; {norm}{mean}",
        "facekd_version": facekd.__version__,
    }


def describe_quality(target: str, options: ExportOptions) -> dict[str, str]:
    """Returns the `metadata_props` that describe the output `quality`; `target` is what it was taught, if known."""
    mean = "; the mean of the image's and its mirror image's" if options.flip else ""
    return {
        "quality_semantics": f"how well the image can be recognised, from 0 to 1, higher is better{mean}",
        "quality_target": QUALITY_TARGETS.get(target, "not recorded"),
    }


def to_onnx(
    module: torch.nn.Module, example: torch.Tensor, output: Path, output_names: Sequence[str], batch: int | None
) -> onnx.ModelProto:
    """Exports a module with a dynamic or fixed batch, in opset 18; names its outputs.

    Raises:
        ModelError: torch cannot export it, or only with a newer onnxscript.
    """
    import torch

    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: "batch"},) if batch is None else None,
                external_data=False,
                opset_version=NEWEST_OPSET,
                input_names=[INPUT_NAME],
                output_names=[*output_names],
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
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "facekd", facekd.__version__


def check_model(model: onnx.ModelProto, output: Path, opset: int, batch: int | None) -> None:
    """Checks that a graph is valid and has the opset and the batch; the exporter may change them silently."""
    import onnx

    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": opset}:
        raise ModelError(f"{output}: not kept, torch wrote opsets {opsets}, expected only ai.onnx {opset}")
    for value in (*model.graph.input, *model.graph.output):
        size = value.type.tensor_type.shape.dim[0]
        if batch is None and not size.dim_param:
            raise ModelError(f"{output}: not kept, the batch of {value.name!r} is fixed in the graph")
        if batch is not None and size.dim_value != batch:
            raise ModelError(f"{output}: not kept, the batch of {value.name!r} is not {batch} in the graph")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelError(f"{output}: not kept, its weights would be stored outside the file")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{output}: not kept, not a valid ONNX model: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message that is not blank, or else the name of its class."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
