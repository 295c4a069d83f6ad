"""Verb `facekd export`: writes a checkpoint as one ONNX file, kept only if its output agrees with torch's.

The file is self-contained, and records its preprocessing and what its output means. It is compared with torch at
several batch sizes before it gets its final name; a variant in fewer bits is made of that graph, and compared with it
on faces. Beside it lies a card that says what it is and what was measured.

Input: `images`, float32 (batch, 3, S, S), already normalised, or raw pixels as bytes. Output: `embedding` (batch, D),
with a quality head also `quality` (batch,), or for a classifier `logits` (batch, C). `ExportOptions` lists what can be
chosen.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import CommandParser, command_text
from facekd.commands.places import claimed_files, path_of_model
from facekd.embedder import Preprocessing
from facekd.embedder.onnx_models.embedder import QUALITY_OUTPUT
from facekd.errors import ModelError, run_verb
from facekd.export.command_options import add_graph_options, add_judging_options
from facekd.export.onnx_graph import (
    INPUT_NAME,
    LOGITS_NAME,
    OUTPUT_NAME,
    check_model,
    describe,
    describe_quality,
    example_input,
    finish_model,
    to_onnx,
    with_options,
)
from facekd.export.options import ExportOptions, JudgingOptions
from facekd.export.parity import Errors, compare_with_torch, embed_by_torch
from facekd.files.reading import sha256_of_file
from facekd.files.temporaries import temporary_folder
from facekd.files.unchanged import unchanged
from facekd.files.writing import atomic_open_together, json_bytes
from facekd.plugins import add_plugin_option
from facekd.utils.wording import counted

if TYPE_CHECKING:
    import onnx
    import torch

    from facekd.checkpoints.contents import Checkpoint
    from facekd.export.variants import Judged


@dataclass(frozen=True)
class ExportReport:
    """Describes an ONNX file that was written.

    Attributes:
        path: the ONNX file.
        num_bytes: its size.
        parity: batch size -> largest relative error |onnx - torch| / |torch| (L2 per image) in that batch; of the
            float32 graph.
        quality_parity: the same of the output `quality`; None without.
        metadata: the `metadata_props` written.
        card: what its card says, as in `M.model_card.json`.
    """

    path: Path
    num_bytes: int
    parity: dict[int, float]
    metadata: dict[str, str]
    card: dict[str, Any]
    quality_parity: dict[int, float] | None = None


def export_checkpoint(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: ExportOptions = ExportOptions(),  # noqa: B008 - it cannot be changed
    *,
    ema: bool | None = None,
    embedding: bool = False,
    judging: JudgingOptions = JudgingOptions(),  # noqa: B008 - it cannot be changed
    command: str | None = None,
) -> ExportReport:
    """Exports the backbone of a checkpoint, with its quality head, or its classifier if linear; see `export_backbone`.

    Args:
        path: a checkpoint, or the folder of a run (its latest checkpoint).
        output: the `.onnx` file to write.
        options: how to write it.
        ema: True takes the backbone's moving average, False its weights as trained; None takes the average if there is
            one. A classifier has no moving average.
        embedding: leave a linear classifier or a quality head out, so that the only output is the embedding.
        judging: on which faces a variant is calibrated and judged, and what it may lose.
        command: the command line, for the card.

    Raises:
        CheckpointError: see `facekd.checkpoints.models.load_backbone`.
        ModelError: see `export_backbone`.
    """
    from facekd.checkpoints.checkpoint import read_checkpoint
    from facekd.checkpoints.models import load_backbone
    from facekd.checkpoints.run_folder import resolve_checkpoint

    # A linear classifier is exported along with the backbone, and its logits are not normalised.
    _check_output(Path(output))
    file = resolve_checkpoint(path)
    with unchanged(file):  # which is read three times; a run that still trains replaces best.pt
        checkpoint = read_checkpoint(file)
        is_classifier = checkpoint.head_kind == "linear" and not embedding
        if is_classifier and (options.normalize or options.flip):
            name = "--normalize" if options.normalize else "--flip"
            raise ModelError(f"{output}: logits are no embedding: leave out {name}, or export with --embedding")
        # One module from images to output, with the weights that were asked for.
        if is_classifier:
            from facekd.embedder.classifying_model import load_logit_network

            backbone, preprocessing = load_logit_network(file, ema=ema)
        else:
            backbone, preprocessing = load_backbone(file, ema=ema, scored=not embedding)
        weights = checkpoint.weights_in_words if ema is not False or not checkpoint.ema else "as trained"
        metadata = _describe_checkpoint(file, checkpoint, weights, is_classifier)
        if checkpoint.quality_head is not None and not embedding:
            metadata |= describe_quality(checkpoint.quality_target, options)
    return export_backbone(
        backbone,
        preprocessing,
        output,
        options,
        metadata=metadata,
        output_name=LOGITS_NAME if is_classifier else OUTPUT_NAME,
        judging=judging,
        command=command,
    )


def _describe_checkpoint(file: Path, checkpoint: Checkpoint, weights: str, is_classifier: bool) -> dict[str, str]:
    """Returns the `metadata_props` that say where the weights come from and, for a classifier, what its logits mean."""
    architecture = checkpoint.architecture or {}
    metadata = {
        "backbone": str(architecture["name"]),
        "backbone_config": json.dumps(architecture),
        "weights": weights,
        "checkpoint": file.name,
        "checkpoint_sha256": sha256_of_file(file),
    }
    if not is_classifier:
        return metadata
    names = checkpoint.identities_sha256
    return metadata | {
        **({"identities_sha256": names} if names else {}),
        "output": LOGITS_NAME,
        "num_classes": str(checkpoint.num_classes),
        "center_crop": str(checkpoint.center_crop),
        "input_semantics": "RGB, (x - mean) / std, x in 0..255; center_crop is the share of the shorter side seen",
        "embedding_semantics": "logits: softmax gives probabilities of classes, argmax the class",
    }


def export_backbone(
    backbone: torch.nn.Module,
    preprocessing: Preprocessing,
    output: str | os.PathLike[str],
    options: ExportOptions = ExportOptions(),  # noqa: B008 - it cannot be changed
    *,
    metadata: Mapping[str, str] | None = None,
    output_name: str = OUTPUT_NAME,
    judging: JudgingOptions = JudgingOptions(),  # noqa: B008 - it cannot be changed
    command: str | None = None,
) -> ExportReport:
    """Writes a backbone as a single ONNX file, and keeps it only if it agrees with torch.

    The backbone is not changed: a float32 copy in evaluation mode on the CPU is exported.

    Args:
        backbone: float (B, 3, S, S) -> embedding (B, D). With a `quality_head`, see `facekd.quality.head`, the file has
            an output `quality`, too.
        preprocessing: recorded in the file, and used for the comparison with torch.
        output: the `.onnx` file; an earlier file of that name stays as it was unless the export succeeds.
        options: how to write it.
        metadata: more entries for `metadata_props`.
        output_name: name of the graph's first output.
        judging: on which faces a variant is calibrated and judged, and what it may lose.
        command: the command line, for the card.

    Raises:
        ModelError: the backbone cannot be exported, the file is not what was asked for, parity fails, or a variant
            loses more than allowed.
        DataError: the faces to calibrate or to judge on cannot be used.
    """
    from facekd.export.variants import faces_for, make_judged

    # What would be refused in the end is refused now.
    output = Path(output)
    _check_output(output)
    judging.check(options)
    if output_name == LOGITS_NAME and (options.precision != "fp32" or judging.judge):
        raise ModelError(
            f"{output}: logits are no embedding, and are written in fp32 and judged by `facekd evaluate`: "
            "leave out --precision and --judge, or export with --embedding"
        )
    faces = faces_for(options, judging, preprocessing.image_size)
    # Torch's output for a few images, which the file must reproduce.
    module = copy.deepcopy(backbone).cpu().float().eval()
    truth = embed_by_torch(module, preprocessing, options, output)

    # The graph, with the metadata that its users need; it must agree with torch.
    deployed, outside = with_options(module, preprocessing, options)
    size = next(iter(truth.embeddings.values())).shape[1]
    names = [output_name] if truth.qualities is None else [output_name, QUALITY_OUTPUT]
    more = {} if truth.qualities is None else describe_quality("", options)
    recorded = {**describe(outside, size, options), **more, **(metadata or {})}
    model = _build(deployed, example_input(preprocessing, options), output, names, options, recorded)
    with temporary_folder(output) as folder:
        plain = folder / "fp32.onnx"
        plain.write_bytes(model.SerializeToString())
        parity = compare_with_torch(plain, truth, outside, options, output)
        judged = make_judged(model, plain, outside, options, judging, faces, output)
    return _keep(output, judged, options, judging, parity, command)


def _build(
    module: torch.nn.Module,
    example: torch.Tensor,
    output: Path,
    output_names: Sequence[str],
    options: ExportOptions,
    recorded: Mapping[str, str],
) -> onnx.ModelProto:
    """Returns the float32 graph of a module, checked, with its metadata."""
    from facekd.embedder.onnx_models.prelu_form import split_prelu
    from facekd.export.opset import lower_opset

    model = to_onnx(module, example, output, output_names, options.batch)
    if options.prelu == "fast":
        split_prelu(model)
    lower_opset(model, options.opset, str(output))
    finish_model(model, recorded)
    check_model(model, output, options.opset, options.batch)
    return model


def _keep(
    output: Path,
    judged: Judged,
    options: ExportOptions,
    judging: JudgingOptions,
    parity: Errors,
    command: str | None,
) -> ExportReport:
    """Writes the model and its two cards, the model last, so that a card never stands beside another model."""
    from facekd.export.model_card import card_paths, card_text, make_card
    from facekd.export.variants import summary

    for key, value in summary(judged, options.precision).items():
        text = value if isinstance(value, str) else json.dumps(value)
        entry = next((entry for entry in judged.model.metadata_props if entry.key == key), None)
        (entry or judged.model.metadata_props.add(key=key)).value = text
    content = judged.model.SerializeToString()
    facts = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "precision": options.precision,
        "calibration": judged.calibration,
    }
    if options.precision != "fp32":
        facts["limits"] = {"points": judging.allow_loss, "cosine": judging.allow_cosine}
    card = make_card(output, judged.model, facts, *parity, judged.judgement, command)
    in_words, in_json = card_paths(output)
    with atomic_open_together(output, {in_words: True, in_json: True}) as streams:
        streams[output].write(content)
        streams[in_words].write(card_text(card).encode("utf-8", "backslashreplace"))
        streams[in_json].write(json_bytes(card))
    recorded = {entry.key: entry.value for entry in judged.model.metadata_props}
    return ExportReport(output, len(content), parity[0], recorded, card, parity[1])


def _claimed_model(output: Path, sources: Sequence[Path]) -> AbstractContextManager[None]:
    """Locks a model and its two cards, which may replace those of an earlier export alone; see `claimed_files`."""
    from facekd.export.model_card import card_marks, card_paths

    return claimed_files(card_paths(output), sources, "facekd export", card_marks(output), replaceable=[output])


def _check_output(output: Path) -> None:
    if output.suffix.lower() != ".onnx":
        raise ModelError(
            f"{output}: the output must be named *.onnx, because runtimes choose their reader by that suffix"
        )
    if output.is_dir():
        raise ModelError(f"{output}: is a folder; name a file in it, such as {output / 'model.onnx'}")


def _print_report(report: ExportReport, options: ExportOptions) -> None:
    """Prints what a user of the file needs to know."""
    facts = report.metadata
    size, color = facts["image_size"], facts["color"]
    norm = "unit norm" if options.normalize else "norm kept"
    norm += ", mean with the mirror image's" if options.flip else ""
    errors = ", ".join(f"batch {count}: {error:.1e}" for count, error in report.parity.items())
    batch = f"batch {options.batch}" if options.batch else "any batch"
    precision = f"{options.precision}, " if options.precision != "fp32" else ""
    print(f"{report.path}: {report.num_bytes / 1e6:.2f} MB, {precision}opset {options.opset}, one file, {batch}")
    print(f"  {facts['backbone']}, weights {facts['weights']}")
    shape = f"(batch, {size}, {size}, 3)" if options.input == "uint8-nhwc" else f"(batch, 3, {size}, {size})"
    pixels = f"mean {facts['mean']}, std {facts['std']}" if options.input == "float" else "bytes, normalised inside"
    print(f"  {INPUT_NAME} {shape}, {color}, {pixels}")
    name = facts.get("output", OUTPUT_NAME)
    print(f"  {name} (batch, {facts['embedding_size']}){f', {norm}' if name == OUTPUT_NAME else ''}")
    if report.quality_parity is not None:
        print(f"  {QUALITY_OUTPUT} (batch,), 0 to 1: {facts['quality_target']}")
        worst = max(report.quality_parity.values())
        errors += f"; of {QUALITY_OUTPUT} at most {worst:.1e}"
    print(f"  relative error against torch: {errors} (at most {options.tolerance:g})")
    _print_judgement(report.card)


def _print_judgement(card: Mapping[str, Any]) -> None:
    """Prints how a variant compares with float32, and figures on packs."""
    from facekd.export.model_card import cosine_text, pack_table
    from facekd.utils.terminal import console

    if card["cosine_to_fp32"]:
        print(f"  {card['model']['precision']} against fp32: {cosine_text(card['cosine_to_fp32'])}")
    for warning in card["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    for pack in card["judged"]:
        print(f"\n{pack['pack']}: {counted(pack['num_pairs'], 'pair')}, {pack['num_genuine']:,} genuine")
        pack_table(pack).print(console())
    if card["kept_anyway"]:
        print(f"warning: kept although {'; '.join(card['losses'])}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Exports a checkpoint and prints what the file is and how well it agrees with torch."""
    # What to export, where to, and how.
    parser = CommandParser(
        prog="facekd export",
        description="Writes a checkpoint's backbone, with its quality head, or its classifier if that is linear, as\n"
        "one ONNX file, checked against torch before it is kept.",
        example="example:\n  facekd export runs/ms1mv3/checkpoints/best.pt --output mobilefacenet.onnx --normalize\n\n"
        "writes MODEL.onnx, and beside it MODEL.model_card.md and .json: what it is, and how good (docs/deployment.md)",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint (.pt), or the folder of a run: its latest one")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL.onnx", help="the ONNX file to write")
    add_plugin_option(parser)
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="export the moving average of the weights, or the weights as trained (default: the average, if "
        "there is one)",
    )
    parser.add_argument(
        "--embedding",
        action="store_true",
        help="leave out the head of an image classifier, or a quality head, so that the only output is the embedding",
    )
    add_graph_options(parser.add_argument_group("the graph"))
    add_judging_options(parser.add_argument_group("variants in fewer bits, judged before they are kept"))
    arguments = parser.parse_args(argv)

    # Options that do not go together are refused before anything is read.
    options = ExportOptions(**{field.name: getattr(arguments, field.name) for field in fields(ExportOptions)})
    arguments.judge = tuple(arguments.judge)
    judging = JudgingOptions(**{field.name: getattr(arguments, field.name) for field in fields(JudgingOptions)})
    judging.check(options)
    _check_output(arguments.output)
    faces = [Path(name) for name in (judging.calibrate, *judging.judge) if name]
    with _claimed_model(arguments.output, [path_of_model(arguments.checkpoint), *faces]):
        report = export_checkpoint(
            arguments.checkpoint,
            arguments.output,
            options,
            ema=arguments.ema,
            embedding=arguments.embedding,
            judging=judging,
            command=command_text("export", argv),
        )

    _print_report(report, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
