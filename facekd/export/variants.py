"""Makes a variant of a float32 graph in fewer bits, and judges it before anything is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.embedder import OnnxEmbedder, Preprocessing
from facekd.errors import ModelError
from facekd.export.calibration import Faces, generated_faces, read_faces
from facekd.export.judging import Judgement, judge
from facekd.export.onnx_graph import check_model, finish_model
from facekd.export.options import ExportOptions, JudgingOptions
from facekd.export.precision import to_float16, to_int8, to_int8_weights

if TYPE_CHECKING:
    import onnx

BATCH = 4  # images calibrated at once, if the graph takes any number
RANGE_FACES = 32  # that show whether values overflow float16


@dataclass(frozen=True)
class Judged:
    """Holds the graph that will be kept, and what was measured of it.

    Attributes:
        model: the graph, with its metadata.
        judgement: how it compares with float32, and its figures on packs.
        calibration: `faces`, `images` and `method`; None if nothing was calibrated.
    """

    model: onnx.ModelProto
    judgement: Judgement
    calibration: dict[str, Any] | None


def faces_for(options: ExportOptions, judging: JudgingOptions, image_size: int) -> Faces | None:
    """Returns the faces to calibrate and to compare on; None if those of the packs do, or nothing is compared.

    Raises:
        ModelError, DataError: see `read_faces`.
    """
    if options.precision == "fp32":
        return None
    if judging.calibrate is not None:
        return read_faces(judging, image_size, options.precision == "int8")
    return None if judging.judge else generated_faces(image_size)


def make_judged(
    model: onnx.ModelProto,
    plain: Path,
    outside: Preprocessing,
    options: ExportOptions,
    judging: JudgingOptions,
    faces: Faces | None,
    output: Path,
) -> Judged:
    """Makes the variant that was asked for beside its float32 form, judges it, and records what was found.

    Args:
        model: the float32 graph, with its metadata.
        plain: its file, in a folder that may be written to.
        outside: the preprocessing that remains to be done.
        options: of the graph.
        judging: faces, packs and limits.
        faces: see `faces_for`.
        output: the file that it will be, for messages.

    Raises:
        ModelError: the graph cannot be written so, its embeddings are not finite, or it loses more than allowed.
        DataError: a pack cannot be read.
    """
    # The variant, checked like any graph that torch wrote.
    calibration = None
    chosen, files = model, {"fp32": plain}
    if options.precision != "fp32":
        chosen, calibration = _variant(model, outside, options, judging, faces, plain.parent, output)
        recorded = {entry.key: entry.value for entry in model.metadata_props}
        finish_model(chosen, recorded | {"precision": options.precision})
        check_model(chosen, output, options.opset, options.batch)
        files[options.precision] = plain.with_name(f"{options.precision}.onnx")
        files[options.precision].write_bytes(chosen.SerializeToString())

    # Faces and packs, embedded by both forms as any user would.
    judgement = Judgement()
    if len(files) > 1 or judging.judge:
        with _naming(files, output):
            forms = {name: OnnxEmbedder(file, resize=judging.resize) for name, file in files.items()}
            for name, embedder in forms.items():
                if embedder.preprocessing != outside:
                    raise ModelError(f"the {name} graph records {embedder.preprocessing} instead of {outside}")
            judgement = judge(forms, faces, judging)
    if judgement.losses and not judging.keep_anyway:
        _refuse(judgement, output)
    return Judged(chosen, judgement, calibration)


def _variant(
    model: onnx.ModelProto,
    outside: Preprocessing,
    options: ExportOptions,
    judging: JudgingOptions,
    faces: Faces | None,
    folder: Path,
    output: Path,
) -> tuple[onnx.ModelProto, dict[str, Any] | None]:
    """Returns the graph in fewer bits and, for int8, what it was calibrated on."""
    if options.precision == "fp16":
        some = (faces or generated_faces(outside.image_size)).held_out[:RANGE_FACES]
        return to_float16(model, _batches(some, outside, options), output), None
    if options.precision == "int8-weights":
        return to_int8_weights(model), None
    assert faces is not None
    batches = _batches(faces.calibration, outside, options)
    calibration = {
        "faces": faces.source,
        "images": len(faces.calibration),
        "method": judging.calibration_method,
    }
    return to_int8(model, batches, judging.calibration_method, folder, output), calibration


def _batches(images: np.ndarray, outside: Preprocessing, options: ExportOptions) -> list[np.ndarray]:
    """Makes inputs of the graph, all of one shape: the first images are taken again where some are missing."""
    count = options.batch or BATCH
    padded = np.resize(images, (-(-len(images) // count) * count, *images.shape[1:]))
    batches = []
    for start in range(0, len(padded), count):
        x = outside.apply(padded[start : start + count])
        x = np.moveaxis(x, 1, -1) if options.input == "uint8-nhwc" else x
        batches.append(np.ascontiguousarray(x, np.float32 if options.input == "float" else np.uint8))
    return batches


def _refuse(judgement: Judgement, output: Path) -> None:
    cosine = judgement.cosine
    assert cosine is not None
    raise ModelError(
        f"{output}: not kept, {'; '.join(judgement.losses)}. Calibrate on more faces or by another method, judge on a "
        "larger pack, allow more, or keep it anyway (--keep-anyway)"
    )


@contextmanager
def _naming(files: Mapping[str, Path], output: Path) -> Iterator[None]:
    """Names the output in errors about the files that are judged before it exists."""
    try:
        yield
    except ModelError as error:
        message = str(error.args[0])
        for name, file in files.items():
            message = message.replace(str(file), f"the {name} graph")
        raise ModelError(f"{output}: not kept, {message}") from error


def summary(judged: Judged, precision: str) -> dict[str, Any]:
    """Returns the `metadata_props` that say how a file was judged, as values for JSON."""
    found: dict[str, Any] = {"precision": precision}
    if judged.calibration:
        found["calibration"] = judged.calibration
    if judged.judgement.cosine:
        found["cosine_to_fp32"] = judged.judgement.cosine
    if judged.judgement.packs:
        found["judged"] = [_in_short(pack, precision) for pack in judged.judgement.packs]
    return found


def _in_short(pack: Mapping[str, Any], precision: str) -> dict[str, Any]:
    figures = pack["figures"][precision]
    short = {
        "pack": pack["pack"],
        "num_pairs": pack["num_pairs"],
        "accuracy": figures["accuracy"],
        "eer": figures["eer"],
    }
    return short | ({"minus_fp32": pack["differences"]} if "differences" in pack else {})
