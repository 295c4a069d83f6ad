"""Verb `facekd models`: lists public detectors and recognisers, with licence, SHA-256 and what they take."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

from facekd.commands.command_line import CommandParser
from facekd.commands.suggestions import did_you_mean
from facekd.embedder.known_models import CATALOGUE, DETECTOR, RECOGNISER, KnownModel, known_models
from facekd.errors import ModelError, run_verb
from facekd.utils.foreign import shown
from facekd.utils.wording import counted


def main(argv: list[str] | None = None) -> int:
    """Prints the list, or all about one of its entries."""
    parser = CommandParser(
        prog="facekd models",
        description="Lists public face detectors and recognisers, which you fetch from their publishers: facekd ships "
        "none and fetches none. A file whose SHA-256 is in the list brings its preprocessing with it in every command.",
        example="example:\n  facekd models\n  facekd models w600k_r50\n  facekd describe FILE.onnx   # what a file is",
    )
    parser.add_argument(
        "name", nargs="?", help="an entry, to see all about it; or part of a name, a file or a publisher: buffalo_l"
    )
    parser.add_argument("--json", action=argparse.BooleanOptionalAction, default=False, help="print it as JSON")
    arguments = parser.parse_args(argv)
    models = _find(arguments.name)
    is_one = arguments.name is not None and len(models) == 1
    if arguments.json:
        names = {model.name for model in models}
        entries = [
            entry for entry in json.loads(CATALOGUE.read_text(encoding="utf-8"))["models"] if entry["name"] in names
        ]
        print(json.dumps(entries[0] if is_one else entries, indent=2))
    elif is_one:
        print("\n".join(_lines(models[0])))
    else:
        _print_list(models)
    return 0


def _find(word: str | None) -> list[KnownModel]:
    """Returns the entry of a name, else those that have the word in their name, files or publisher; all for None."""
    models = list(known_models())
    if word is None:
        return models
    if named := [model for model in models if model.name == word]:
        return named
    lower = word.lower()
    found = [model for model in models if lower in " ".join((model.name, *model.files, model.publisher)).lower()]
    if not found:
        close = did_you_mean(word, [model.name for model in models])
        raise ModelError(
            f"{shown(word)}: no such model in the list{close} (`facekd models` shows it; `facekd describe FILE` says "
            "whether a file is in it)"
        )
    return found


def _print_list(models: list[KnownModel]) -> None:
    from facekd.pages.tables import Table
    from facekd.utils.terminal import console

    rows = [
        [
            model.name,
            model.kind,
            f"{model.bytes / 1e6:.1f}" if model.bytes else "",
            str(model.embedding_size or ""),
            model.publisher,
            model.terms,
        ]
        for model in models
    ]
    Table("", ["name", "kind", "MB", "values", "publisher", "licence of the weights"], rows).print(console())
    print(
        "\nfacekd ships none of them; `facekd models NAME` says where to get one, and all that is known of it.\n"
        "`facekd describe FILE.onnx` says by its SHA-256 whether a file is one of them."
    )


def _lines(model: KnownModel) -> Iterator[str]:
    """Yields all that is known of a model, a line each."""
    yield f"{model.name}: {model.kind}, {model.network}"
    size = f", {counted(model.bytes, 'byte')}" if model.bytes else ""
    facts = {
        "publisher": model.publisher,
        "page": model.source,
        "licence": model.license,
        "files": f"{', '.join(model.files)}{size}",
        "sha256": model.sha256 or "not known, so no file is taken for it",
        "takes": _takes(model),
        "gives": f"{counted(model.embedding_size, 'value')}, compared by cosine" if model.embedding_size else "",
        "figures": f"its publisher's, not measured here: {model.figures}" if model.figures else "",
        "checked": model.checked,
        "note": model.note,
        "use": _use(model),
    }
    yield from (f"  {title:<9} {text}" for title, text in facts.items() if text)


def _takes(model: KnownModel) -> str:
    """Says what a recogniser takes, in the words of facekd's options."""
    takes = model.preprocessing
    if takes is None:
        return "photographs of any size, which facekd scales"
    numbers = f"--mean {takes.mean[0]:g} --std {takes.std[0]:g} --color {takes.color}"
    by_itself = ", taken from this list" if model.sha256 else ""
    return f"aligned faces of {takes.image_size} pixels, {numbers}{by_itself}"


def _use(model: KnownModel) -> str:
    file = model.files[0].split()[0]
    if model.kind == DETECTOR:
        return f"facekd data align PHOTOS ALIGNED --detector {file}"
    if model.kind == RECOGNISER:
        return f"facekd evaluate lfw --model {file} --pairs lfw.bin --output results/{model.name}"
    return model.use


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
