"""Verb `facekd describe`: says what an ONNX file holds and takes, and finds its preprocessing by trying."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import IMAGE_SIDE, CommandParser, whole_number
from facekd.embedder.known_models import recognise
from facekd.embedder.sidecar import Sidecar, sidecar_path, write_sidecar
from facekd.errors import ModelError, run_verb
from facekd.files.output_lock import file_lock
from facekd.images.preprocessing import Preprocessing
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

if TYPE_CHECKING:
    from evaluation.sets.preprocessing_trials import Trial
    from facekd.embedder import OnnxEmbedder
    from facekd.embedder.onnx_models.file import OnnxFile

SHOWN_OPERATORS, SHOWN_ENTRIES = 6, 20


def main(argv: list[str] | None = None) -> int:
    """Prints what an ONNX file is; with a pack, tries preprocessings, and writes down which one to use."""
    parser = CommandParser(
        prog="facekd describe",
        description="Says what an ONNX file holds and takes. With a verification pack it tries the usual "
        "preprocessings, shows how well each separates people, and writes the best beside the model, where every "
        "facekd command then finds it.",
        example="example:\n  facekd describe model.onnx\n  facekd describe model.onnx --verify-with lfw.bin\n\n"
        "writes MODEL.onnx.facekd.json: preprocessing, output, and the SHA-256 of the model; delete it to forget them",
    )
    parser.add_argument("model", type=Path, help="an ONNX file, whoever wrote it")
    parser.add_argument("--verify-with", type=Path, metavar="PACK", help="a verification pack, .bin or .npz")
    parser.add_argument(
        "--pairs",
        type=whole_number(40, 10**6),
        default=600,
        metavar="N",
        help="pairs to try on, at most (default: 600)",
    )
    parser.add_argument("--image-size", type=IMAGE_SIDE, metavar="PX", help="input size, if the file does not fix one")
    parser.add_argument("--embedding-output", metavar="NAME", help="output that is the embedding, if there are several")
    parser.add_argument(
        "--write", action=argparse.BooleanOptionalAction, default=True, help="write the best down (default: yes)"
    )
    arguments = parser.parse_args(argv)

    # What the file says, and how facekd would use it now.
    from facekd.embedder import OnnxEmbedder
    from facekd.embedder.onnx_models.file import read_onnx_file

    file = read_onnx_file(arguments.model)
    open_with = partial(
        OnnxEmbedder, arguments.model, image_size=arguments.image_size, output=arguments.embedding_output
    )
    _print_file(file)
    embedder, problem = None, ""
    try:
        embedder = open_with()
    except ModelError as error:
        problem = error.without_name(arguments.model)
    for number, line in enumerate(_usage(file, embedder) if embedder else _other_usage(file, problem)):
        print(f"  {'' if number else 'use':<9} {line}")
    if arguments.verify_with is not None:
        with file_lock(sidecar_path(file.path)) if arguments.write else contextlib.nullcontext():
            _verify(file, open_with, embedder, arguments)
    return 0


def _print_file(file: OnnxFile) -> None:
    """Prints what the file itself says: size, origin, inputs, outputs, operators, recorded facts."""
    model = file.model
    size = sum(path.stat().st_size for path in file.files)
    opsets = ", ".join(f"{shown(entry.domain) or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    maker = shown(f"{model.producer_name} {model.producer_version}".strip()) or "an unnamed tool"
    beside = f" in {counted(len(file.files), 'file')}" if len(file.files) > 1 else ""
    print(f"{file.path}: {size / 1e6:.2f} MB{beside}, by {maker}, IR version {model.ir_version}, opset {opsets}")
    print(f"  sha256    {file.sha256}")
    weights = {tensor.name for tensor in model.graph.initializer}
    for title, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            if value.name not in weights:
                print(f"  {title:<9} {shown(value.name)}: {_type_of(value)}")
    operators = Counter(node.op_type for node in model.graph.node).most_common()
    listed = ", ".join(f"{count} {shown(name)}" for name, count in operators[:SHOWN_OPERATORS])
    rest = len(operators) - SHOWN_OPERATORS
    more = f" and {counted(rest, 'other kind')}" if rest > 0 else ""
    print(f"  nodes     {len(model.graph.node):,}: {listed}{more}")
    print(f"  weights   {_weights(model)}")
    entries = [f"{shown(key, 40)}: {shown(value)}" for key, value in sorted(file.metadata.items())] or ["nothing"]
    if len(entries) > SHOWN_ENTRIES:
        entries[SHOWN_ENTRIES:] = [f"and {len(entries) - SHOWN_ENTRIES:,} more"]
    for number, entry in enumerate(entries):
        print(f"  {'' if number else 'recorded':<9} {entry}")
    if known := recognise(file):
        print(f"  known     {known}")


def _type_of(value: Any) -> str:
    tensor = value.type.tensor_type
    sizes = [shown(dim.dim_param) if dim.dim_param else dim.dim_value or "?" for dim in tensor.shape.dim]
    return f"{_type_name(tensor.elem_type)} [{shown(', '.join(map(str, sizes)))}]"


def _type_name(number: int) -> str:
    """Returns the name of a type of values; a damaged file, or one of a newer onnx, may have any number there."""
    import onnx

    kinds = onnx.TensorProto.DataType
    return kinds.Name(number).lower() if number in kinds.values() else f"type {number}"


def _weights(model: Any) -> str:
    """Says how many values the weights of a graph have, by type, the most frequent first."""
    counts = Counter[str]()
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant" and node.attribute]
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_type:  # none where a constant is written in another way
            counts[_type_name(tensor.data_type)] += math.prod(tensor.dims)
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(3) if count) or "none"


def _usage(file: OnnxFile, embedder: OnnxEmbedder) -> Iterator[str]:
    """Describes how facekd uses a model that embeds faces, in the words of its options, a line each."""
    from facekd.embedder.onnx_models.prelu_form import count_prelu

    facts = embedder.preprocessing
    output = f"{shown(embedder.output)}, {counted(embedder.embedding_size, 'value')}"
    yield f"--image-size {facts.image_size} {_words(facts)} -> {output}"
    if embedder.assumed:
        names = ", ".join(embedder.assumed)
        yield f"assumed, as neither the file nor its graph says: {names}; `--verify-with PACK` finds out which fit"
    yield from embedder.remarks
    if num_prelu := count_prelu(file.model):
        yield f"--rewrite-prelu may make it faster on a CPU: it has {num_prelu} PReLU"


def _other_usage(file: OnnxFile, problem: str) -> Iterator[str]:
    """Says what a file is for that embeds no faces, or why it cannot be used, a line each."""
    from facekd.embedder.onnx_models.session import face_detector_kind, open_session

    try:
        kind = face_detector_kind(open_session(file, threads=1))
    except ModelError:
        kind = ""
    if kind in ("scrfd", "yunet"):
        yield f"finds faces and their landmarks ({kind.upper() if kind == 'scrfd' else 'YuNet'})"
        yield f"facekd data align PHOTOS ALIGNED --detector {file.path}"
    elif kind:
        yield f"finds faces ({'SCRFD without landmarks' if 'scrfd' in kind else 'in a way that facekd does not read'})"
        yield "`facekd data align` takes SCRFD with landmarks and YuNet"
    else:
        yield problem


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ",".join(f"{value:g}" for value in values)


def _verify(file: OnnxFile, open_with: Any, embedder: OnnxEmbedder | None, arguments: argparse.Namespace) -> None:
    """Tries the ways on the pack, prints the table, and writes the sidecar."""
    from evaluation.sets.pair_set import load_pair_set
    from evaluation.sets.preprocessing_trials import some_pairs, try_ways

    pair_set = load_pair_set(arguments.verify_with, fewer_folds=True)
    pairs = some_pairs(pair_set, arguments.pairs)
    trials = try_ways(open_with, pair_set, pairs)
    _print_trials(trials, len(pairs), int(pair_set.is_same[pairs].sum()), pair_set.name)
    if trials[0].problem:
        raise ModelError(f"{file.path}: none of the usual preprocessings can be tried: {trials[0].problem}")
    best = _choose(trials, embedder)
    others = [trial for trial in trials if trial.is_as_good and trial is not best]
    print(f"recommended: {_words(best)}")
    if others:
        print(f"not told apart from it by {counted(len(pairs), 'pair')}: {'; '.join(map(_words, others))}")
    if not arguments.write:
        return

    used = open_with(mean=best.mean, std=best.std, color=best.color)
    basis = f"best of {sum(not t.problem for t in trials)} tried on {counted(len(pairs), 'pair')} of {pair_set.name}"
    path = write_sidecar(file, Sidecar(used.preprocessing, used.output, f"{basis}, d' {best.separation:.2f}"))
    print(f"written: {path}; every command reads it")


def _choose(trials: list[Trial], embedder: OnnxEmbedder | None) -> Trial:
    """Takes the best way, or one that is as good and that the file itself records or shows."""
    if embedder is not None and not embedder.assumed:
        facts = embedder.preprocessing
        for trial in trials:
            if trial.is_as_good and (trial.mean, trial.std, trial.color) == (facts.mean, facts.std, facts.color):
                return trial
    return trials[0]


def _words(way: Trial | Preprocessing) -> str:
    return f"--mean {_numbers(way.mean)} --std {_numbers(way.std)} --color {way.color}"


def _print_trials(trials: list[Trial], num_pairs: int, num_genuine: int, name: str) -> None:
    """Prints a row for each way: the best first, those that cannot be tried last."""
    from facekd.pages.tables import Table
    from facekd.utils.terminal import console

    rows = []
    for trial in trials:
        way = [trial.name, _numbers(trial.mean), _numbers(trial.std), trial.color]
        if trial.problem:
            rows.append([*way, "", "", "", shown(trial.problem, 100)])
            continue
        low, high = trial.behind
        behind = "best" if low == high == 0 else f"{low:.2f} to {high:.2f}"
        rows.append([*way, f"{trial.accuracy:.2%}", f"{trial.eer:.2%}", f"{trial.separation:.2f}", behind])
    head = ["pixels as", "mean", "std", "color", "accuracy", "EER", "d'", "behind the best, 95 %"]
    print(f"\n{counted(num_pairs, 'pair')} of {shown(name)}, {num_genuine} genuine; without mirror images:")
    Table("", head, rows).print(console())
    print()


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
