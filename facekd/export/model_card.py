"""Describes an exported file in words and figures, beside it: `M.model_card.md` for people, `.json` for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd import __version__
from facekd.commands.places import mark_of_format
from facekd.export.judging import Judgement
from facekd.pages.markdown import code, markdown_text
from facekd.pages.tables import Table
from facekd.utils.wording import counted

if TYPE_CHECKING:
    import onnx

FORMAT, VERSION = "facekd-model-card", 1
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
IN_WORDS = {
    "fp32": "weights and layers in float32",
    "fp16": "weights and layers in float16; input, output, normalisation and norm in float32",
    "int8": "weights int8 by channel, activations uint8 (QuantizeLinear, DequantizeLinear); input and output as before",
    "int8-weights": "weights int8 by channel, multiplied out when the file is opened; computes in float32",
}


def card_paths(output: Path) -> tuple[Path, Path]:
    """Returns the names of the two cards of a model: `M.model_card.md` and `M.model_card.json`."""
    return output.with_suffix(".model_card.md"), output.with_suffix(".model_card.json")


def card_marks(output: Path) -> list[bytes]:
    """Returns what the two cards of a model have among their first bytes."""
    titles = dict.fromkeys((markdown_text(output.name), output.name))  # as this version and earlier ones write it
    return [*(f"# {title}\n".encode("utf-8", "backslashreplace") for title in titles), mark_of_format(FORMAT)]


def make_card(
    output: Path,
    model: onnx.ModelProto,
    content: Mapping[str, Any],
    parity: Mapping[int, float],
    quality_parity: Mapping[int, float] | None,
    judgement: Judgement,
    command: str | None,
) -> dict[str, Any]:
    """Returns what the JSON card holds.

    Args:
        output: name of the file.
        model: what is in it, its metadata included.
        content: `sha256`, `bytes` and `precision` of the file, and `limits` and whether it was kept although it loses
            more (`kept_anyway`).
        parity: batch size -> largest relative error of the float32 graph against torch.
        quality_parity: the same of the output `quality`; None without.
        judgement: how it compares with float32, and its figures on packs.
        command: the command line; None from Python.
    """
    facts = {entry.key: entry.value for entry in model.metadata_props}
    known = ("backbone", "backbone_config", "weights", "checkpoint", "checkpoint_sha256")
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": {
            "file": output.name,
            "sha256": content["sha256"],
            "bytes": content["bytes"],
            "precision": content["precision"],
            "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
            "ir_version": model.ir_version,
        },
        "input": {**_tensor(model.graph.input[0]), "semantics": facts["input_semantics"]},
        "output": {**_tensor(model.graph.output[0]), "semantics": facts["embedding_semantics"]},
        "quality": None if quality_parity is None else _quality(model, facts, quality_parity),
        "preprocessing": {name: facts[name] for name in ("mean", "std", "color", "image_size")},
        "source": {name: facts[name] for name in known if name in facts},
        "parity": _rounded(parity),
        "calibration": content.get("calibration"),
        "cosine_to_fp32": judgement.cosine,
        "judged": list(judgement.packs),
        "limits": content.get("limits"),
        "losses": list(judgement.losses),
        "kept_anyway": bool(judgement.losses),
        "warnings": list(judgement.warnings),
        "command": command,
        "software": _software(),
    }


def card_text(card: Mapping[str, Any]) -> str:
    """Returns the card as Markdown."""
    model, source, quality = card["model"], card["source"], card["quality"]
    rows = [
        ["SHA-256", model["sha256"]],
        ["size", f"{counted(model['bytes'], 'byte')} ({model['bytes'] / 1e6:.2f} MB)"],
        ["precision", f"{model['precision']}: {IN_WORDS[model['precision']]}"],
        ["opset, IR version", f"{model['opset']}, {model['ir_version']}"],
        ["input", _in_words(card["input"])],
        ["output", _in_words(card["output"])],
        *([["second output", f"{_in_words(quality)}; taught {quality['target']}"]] if quality else []),
        *([name, card["preprocessing"][name]] for name in ("mean", "std", "color", "image_size")),
        ["backbone", source.get("backbone", "a module from Python")],
        ["weights", source.get("weights", "as given")],
    ]
    if "checkpoint" in source:
        rows.append(["made from", f"{source['checkpoint']}, SHA-256 {source['checkpoint_sha256']}"])
    rows.append(["float32 graph against torch", f"relative error {_errors(card['parity'])}"])
    if quality:
        rows.append(["its quality against torch", f"relative error {_errors(quality['parity'])}"])
    if used := card["calibration"]:
        rows.append(["calibrated on", f"{counted(used['images'], 'image')} of {used['faces']}, {used['method']}"])
    if card["cosine_to_fp32"]:
        rows.append(["against float32", cosine_text(card["cosine_to_fp32"])])
    parts = [f"# {markdown_text(model['file'])}\n", Table("", ["", ""], rows).to_markdown()]
    for pack in card["judged"]:
        parts += [
            f"\n## {markdown_text(pack['pack'])}\n",
            f"{markdown_text(_about(pack))}\n",
            pack_table(pack).to_markdown(),
        ]
    for title, lines in (("Kept although it loses more than allowed", card["losses"]), ("Warnings", card["warnings"])):
        if lines:
            parts += [f"\n## {title}\n", *(f"- {markdown_text(line)}" for line in lines)]
    versions = ", ".join(f"{name} {number}" for name, number in card["software"].items())
    made = code(card["command"]) if card["command"] else "`facekd.export.export_onnx.export_backbone`"
    return "\n".join([*parts, f"\nMade by {made}; {versions}.\n"])


def cosine_text(cosine: Mapping[str, Any]) -> str:
    """Returns how near a variant's embeddings are to those of float32, in words."""
    return f"cosine mean {cosine['mean']:.5f}, worst {cosine['worst']:.5f} ({cosine['faces']})"


def pack_table(pack: Mapping[str, Any]) -> Table:
    """Returns the figures of a pack in percent: a row for each form, and one for the difference with its interval."""
    figures: Mapping[str, Any] = pack["figures"]
    fars = [point["far"] for point in next(iter(figures.values()))["tar_at_far"]]
    rows = [
        [
            name,
            f"{100 * form['accuracy']:.2f}",
            f"{100 * form['eer']:.2f} ({_ends(form['eer_ci95'])})",
            *(f"{100 * point['tar']:.2f} ({_ends(point['ci95'])})" for point in form["tar_at_far"]),
        ]
        for name, form in figures.items()
    ]
    changes = pack.get("differences")
    if changes is not None:
        names = ("accuracy", "eer", *(f"tar@{far:g}" for far in fars))
        rows.append(["difference", *(_change(changes.get(name)) for name in names)])
    return Table("", ["", "accuracy %", "EER %", *(f"TAR % at FAR {far:g}" for far in fars)], rows)


def _about(pack: Mapping[str, Any]) -> str:
    drawn = f"; differences in points, by a paired bootstrap of {pack['resampled']}" if "resampled" in pack else ""
    folds = pack["folds"]
    return (
        f"{counted(pack['num_pairs'], 'pair')}, {pack['num_genuine']:,} genuine, accuracy over "
        f"{counted(folds['number'], folds['kind'] + ' fold')} as `facekd evaluate lfw` takes them; no mirror images "
        f"but those in the graph; 95 % intervals in brackets{drawn}. SHA-256 {pack['sha256']}."
    )


def _ends(bounds: Sequence[float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def _change(change: Mapping[str, Any] | None) -> str:
    if change is None:
        return "not measurable"
    return f"{100 * change['difference']:+.2f} ({100 * change['ci95'][0]:+.2f} to {100 * change['ci95'][1]:+.2f})"


def _quality(model: onnx.ModelProto, facts: Mapping[str, str], parity: Mapping[int, float]) -> dict[str, Any]:
    """Returns what a card says of the output `quality`."""
    about = {"semantics": facts["quality_semantics"], "target": facts["quality_target"], "parity": _rounded(parity)}
    return {**_tensor(model.graph.output[1]), **about}


def _rounded(parity: Mapping[int, float]) -> dict[str, float]:
    return {str(count): float(f"{error:.1e}") for count, error in parity.items()}


def _errors(parity: Mapping[str, float]) -> str:
    return ", ".join(f"batch {count}: {error:.1e}" for count, error in parity.items())


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return {
        "name": value.name,
        "type": {"float": "float32"}.get(kind, kind),
        "shape": [dim.dim_param or dim.dim_value for dim in tensor.shape.dim],
    }


def _in_words(tensor: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, tensor["shape"]))
    return f"{tensor['name']}, {tensor['type']} ({shape}): {tensor['semantics']}"


def _software() -> dict[str, str]:
    found = {"facekd": __version__}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):  # another build of the same library, such as onnxruntime-gpu
            found[name] = version(name)
    return found
