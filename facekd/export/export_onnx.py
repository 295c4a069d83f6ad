"""Export a checkpoint as one ONNX file that says how to use it, kept only if it computes what torch computes.

The file takes any batch, is self-contained, records its preprocessing and what its embeddings are, and was compared
with torch at several batch sizes before it got its name. Input: `images`, float32 (batch, 3, S, S) already normalised;
output: `embedding` (batch, D), or of a classifier `logits` (batch, C).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import facekd
from facekd.embedder import EmbedderError, OnnxEmbedder, Preprocessing, TorchEmbedder
from facekd.errors import FacekdError, run_verb
from facekd.utils.files import atomic_path, sha256_of_file

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 18
INPUT_NAME = "images"
OUTPUT_NAME, LOGITS_NAME = "embedding", "logits"
# One, for exporters specialise on it; two, the batch traced; seven, divisible by neither.
PARITY_BATCHES = (1, 2, 7)
# Folding batch norm and reordering sums costs about 1e-5; a wrong layer costs more than 1e-2.
TOLERANCE = 1e-3


class ExportError(FacekdError):
    """A model that could not be exported, or whose ONNX form does not compute the same."""


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        path: the ONNX file.
        num_bytes: its size.
        parity: batch size -> largest relative error |onnx - torch| / |torch| (L2, by image) in that batch.
        metadata: the `metadata_props` written.
    """

    path: Path
    num_bytes: int
    parity: dict[int, float]
    metadata: dict[str, str]


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    normalize: bool = False,
    ema: bool | None = None,
    tolerance: float = TOLERANCE,
    embedding: bool = False,
) -> ExportReport:
    """Export the backbone of a checkpoint, with its classifier where that is a linear one; see `export_backbone`.

    Args:
        checkpoint: a checkpoint, or the folder of a run (its latest checkpoint).
        output: the `.onnx` file to write.
        normalize: divide each embedding by its L2 norm inside the graph.
        ema: True asks for the moving average, False for the weights as trained; None takes the average if there is one.
        tolerance: see `export_backbone`.
        embedding: leave a linear classifier out, for the embeddings.

    Raises:
        CheckpointError: see `facekd.checkpoints.checkpoint.load_backbone`.
        ExportError: see `export_backbone`.
    """
    from facekd.checkpoints.checkpoint import load_backbone, load_checkpoint, resolve_checkpoint

    _check_output(Path(output))
    file = resolve_checkpoint(checkpoint)
    content = load_checkpoint(file)
    is_classifier = content["config"].get("head", {}).get("kind") == "linear" and not embedding
    if is_classifier and normalize:
        raise ExportError(f"{output}: logits are not normalised; leave out --normalize, or export with --embedding")
    if is_classifier:
        from facekd.embedder.classifying_model import load_logit_network

        backbone, preprocessing = load_logit_network(file)
    else:
        backbone, preprocessing = load_backbone(file, ema=ema)
    averaged = bool(content.get("ema")) and ema is not False
    metadata = {
        "backbone": str(content["config"]["backbone"]["name"]),
        "backbone_config": json.dumps(content["config"]["backbone"]),
        "weights": "moving average" if averaged else "as trained",
        "checkpoint": file.name,
        "checkpoint_sha256": sha256_of_file(file),
    }
    if is_classifier:
        metadata |= {
            "output": LOGITS_NAME,
            "num_classes": str(content["num_classes"]),
            "center_crop": str(content["config"].get("data", {}).get("center_crop", 0.0)),
            "input_semantics": "RGB, (x - mean) / std, x in 0..255; center_crop is the share of the shorter side seen",
            "embedding_semantics": "logits: softmax gives probabilities of classes, argmax the class",
        }
    return export_backbone(
        backbone,
        preprocessing,
        output,
        normalize=normalize,
        metadata=metadata,
        tolerance=tolerance,
        output_name=LOGITS_NAME if is_classifier else OUTPUT_NAME,
    )


def export_backbone(
    backbone: torch.nn.Module,
    preprocessing: Preprocessing,
    output: str | os.PathLike[str],
    *,
    normalize: bool = False,
    metadata: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
    output_name: str = OUTPUT_NAME,
) -> ExportReport:
    """Write a backbone as a single ONNX file with a dynamic batch, and keep it only if it agrees with torch.

    The backbone is not changed: a copy in evaluation mode, float32, on the CPU is exported.

    Args:
        backbone: float (B, 3, S, S) -> embedding (B, D).
        preprocessing: recorded in the file, and used for the comparison with torch.
        output: the `.onnx` file; an earlier file of that name stays as it was unless the export succeeds.
        normalize: divide each embedding by its L2 norm inside the graph.
        metadata: more entries for `metadata_props`.
        tolerance: largest relative error |onnx - torch| / |torch| allowed, at batch 1, 2 and 7.
        output_name: of the graph's output.

    Raises:
        ExportError: the backbone cannot be exported, the file is not what was asked for, or parity fails.
    """
    import torch

    output = Path(output)
    _check_output(output)
    module = copy.deepcopy(backbone).cpu().float().eval()
    if normalize:
        module = _with_normalize(module)
    try:
        reference = TorchEmbedder(module, preprocessing, batch_size=max(PARITY_BATCHES))
        images = _probe_images(preprocessing.image_size)
        expected = {count: reference.embed(images[:count]) for count in PARITY_BATCHES}
    except (EmbedderError, RuntimeError) as error:
        raise ExportError(
            f"{output}: not exported, the backbone itself fails in torch: {_first_line(error)}"
        ) from error
    size = next(iter(expected.values())).shape[1]
    recorded = {**_describe(preprocessing, size, normalize), **(metadata or {})}
    example = torch.zeros(2, 3, preprocessing.image_size, preprocessing.image_size)
    model = _to_onnx(module, example, output, output_name)
    _finish_model(model, recorded)
    _check_model(model, output)
    with atomic_path(output) as temporary:
        temporary.write_bytes(model.SerializeToString())
        parity = _measure_parity(temporary, expected, images, preprocessing, output)
        worst = max(parity, key=lambda count: parity[count])
        if not parity[worst] <= tolerance:
            raise ExportError(
                f"{output}: not kept, the ONNX model differs from torch: relative error {parity[worst]:.2e} at batch "
                f"{worst}, at most {tolerance:g} allowed. Report it as a defect of facekd, or raise --tolerance "
                "if you know why it differs"
            )
        num_bytes = temporary.stat().st_size
    return ExportReport(output, num_bytes, parity, recorded)


def _check_output(output: Path) -> None:
    if output.suffix.lower() != ".onnx":
        raise ExportError(f"{output}: the output must be named *.onnx, for runtimes choose the reader by it")
    if output.is_dir():
        raise ExportError(f"{output}: is a folder; name the file to write in it, such as {output / 'model.onnx'}")


def _with_normalize(backbone: torch.nn.Module) -> torch.nn.Module:
    import torch

    class Normalized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.backbone(images))

    return Normalized().eval()


def _probe_images(size: int) -> np.ndarray:
    # Noise over a gradient of a different brightness in each image: embeddings differ between the images of a batch,
    # so that a graph that mixes up or repeats its rows cannot pass.
    generator = np.random.default_rng(0)
    count = max(PARITY_BATCHES)
    ramp = np.linspace(0, 160, size)[None, :, None, None] * np.linspace(0.2, 1, count)[:, None, None, None]
    return (ramp + generator.integers(0, 96, (count, size, size, 3))).astype(np.uint8)


def _describe(preprocessing: Preprocessing, embedding_size: int, normalize: bool) -> dict[str, str]:
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


def _to_onnx(module: torch.nn.Module, example: torch.Tensor, output: Path, output_name: str) -> onnx.ModelProto:
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
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"{output}: torch cannot export this backbone: {_first_line(error)}") from error
    assert program is not None  # for dynamo=True it always returns one
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes on its own deprecations: what matters about the result is checked afterwards."""
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


def _finish_model(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    # The exporter notes for every node where in the source it came from: paths of the machine that exported, and size.
    entries: list[Any] = [*model.graph.node, *model.graph.input, *model.graph.output]
    entries += [*model.graph.value_info, *model.graph.initializer, model.graph]
    for entry in entries:
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "facekd", facekd.__version__


def _check_model(model: onnx.ModelProto, output: Path) -> None:
    """Check that the graph is what was asked for: the exporter changes the opset silently, and may fix the batch."""
    import onnx

    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": OPSET}:
        raise ExportError(f"{output}: not kept, torch wrote opsets {opsets}, expected only ai.onnx {OPSET}")
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"{output}: not kept, the batch of {value.name!r} is fixed in the graph")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ExportError(f"{output}: not kept, weights would lie outside the file")
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ExportError(f"{output}: not kept, not a valid ONNX model: {_first_line(error)}") from error


def _measure_parity(
    file: Path, expected: Mapping[int, np.ndarray], images: np.ndarray, preprocessing: Preprocessing, output: Path
) -> dict[int, float]:
    # The written file is opened as any user would, so that what it records is compared along with its graph.
    try:
        embedder = OnnxEmbedder(file, batch_size=max(expected))
        found = {count: embedder.embed(images[:count]) for count in expected}
    except EmbedderError as error:
        message = str(error).replace(str(file), "the exported model")
        raise ExportError(f"{output}: not kept, {message}") from error
    if embedder.preprocessing != preprocessing:
        raise ExportError(f"{output}: not kept, it records {embedder.preprocessing} instead of {preprocessing}")
    errors: dict[int, float] = {}
    for count, reference in expected.items():
        difference = np.linalg.norm(found[count] - reference, axis=1)
        scale = np.maximum(np.linalg.norm(reference, axis=1), np.finfo(np.float32).tiny)
        errors[count] = float(np.max(difference / scale))
    return errors


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="facekd export",
        description="Write the backbone of a checkpoint as one ONNX file, checked against torch before it is kept.",
        epilog="example:\n  facekd export runs/ms1mv3/checkpoints/best.pt --output mobilefacenet.onnx --normalize",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint (.pt), or the folder of a run: its latest one")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL.onnx", help="the ONNX file to write")
    parser.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="divide embeddings by their L2 norm inside the graph; by default they keep their norm",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="export the moving average of the weights, or the weights as trained; by default the average if there is "
        "one",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest relative error |onnx - torch| / |torch| allowed (default: %(default)s)",
    )
    parser.add_argument(
        "--embedding", action="store_true", help="of an image classifier: leave its head out, for the embeddings"
    )
    arguments = parser.parse_args(argv)

    report = export_checkpoint(
        arguments.checkpoint,
        arguments.output,
        normalize=arguments.normalize,
        ema=arguments.ema,
        tolerance=arguments.tolerance,
        embedding=arguments.embedding,
    )

    facts = report.metadata
    size, color = facts["image_size"], facts["color"]
    norm = "unit norm" if facts["normalized"] == "true" else "norm kept"
    errors = ", ".join(f"batch {count}: {error:.1e}" for count, error in report.parity.items())
    print(f"{report.path}: {report.num_bytes / 1e6:.2f} MB, opset {OPSET}, one file, any batch")
    print(f"  {facts['backbone']}, weights {facts['weights']}")
    print(f"  {INPUT_NAME} (batch, 3, {size}, {size}), {color}, mean {facts['mean']}, std {facts['std']}")
    name = facts.get("output", OUTPUT_NAME)
    print(f"  {name} (batch, {facts['embedding_size']}){f', {norm}' if name == OUTPUT_NAME else ''}")
    print(f"  relative error against torch: {errors} (at most {arguments.tolerance:g})")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
