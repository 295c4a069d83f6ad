"""Reads and writes `MODEL.onnx.facekd.json`: what was found out about a model that does not say it itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from facekd.embedder.onnx_models.file import OnnxFile
from facekd.errors import ModelError
from facekd.files.reading import read_json
from facekd.files.writing import atomic_open
from facekd.images.preprocessing import Preprocessing

SUFFIX, FORMAT, VERSION = ".facekd.json", "facekd-model-sidecar", 1
FIELDS = {field.name for field in fields(Preprocessing)}


@dataclass(frozen=True)
class Sidecar:
    """Holds the preprocessing of a model, its output, and a sentence that says what this rests on."""

    preprocessing: Preprocessing
    output: str
    basis: str


def sidecar_path(model: Path) -> Path:
    """Returns where the sidecar of a model lies: beside it."""
    return model.with_name(model.name + SUFFIX)


def write_sidecar(file: OnnxFile, sidecar: Sidecar) -> Path:
    """Writes the sidecar of a model and returns its path; an earlier one is replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    path = sidecar_path(file.path)
    preprocessing = asdict(sidecar.preprocessing)
    content = {"format": FORMAT, "version": VERSION, "sha256": file.sha256, "preprocessing": preprocessing}
    with atomic_open(path) as stream:
        text = json.dumps({**content, "output": sidecar.output, "basis": sidecar.basis}, indent=2)
        stream.write(text.encode() + b"\n")
    return path


def read_sidecar(file: OnnxFile) -> Sidecar | None:
    """Reads the sidecar of a model; returns None if there is none.

    Raises:
        ModelError: it is damaged, of a newer facekd, or was written for another file.
    """
    path = sidecar_path(file.path)
    if not path.exists():
        return None
    remedy = f"write it again by `facekd describe {file.path.name} --verify-with PACK`, or delete it"
    content = read_json(path, "what was found out about a model", remedy, error=ModelError)
    try:
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ModelError(f"{path}: is no sidecar that this facekd knows; {remedy}")
        if content["sha256"] != file.sha256:
            raise ModelError(f"{path}: was written for another file than {file.path.name} now is; {remedy}")
        if set(content["preprocessing"]) != FIELDS:
            raise TypeError(f"preprocessing has the keys {', '.join(sorted(FIELDS))}")
        preprocessing = _as_preprocessing(path, content["preprocessing"], remedy)
        output, basis = content["output"], content["basis"]
        if not (isinstance(output, str) and isinstance(basis, str)):
            raise TypeError("output and basis are text")
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: is no sidecar of a model ({error!r}); {remedy}") from error
    return Sidecar(preprocessing, output, basis)


def _as_preprocessing(path: Path, content: dict[str, Any], remedy: str) -> Preprocessing:
    try:
        return Preprocessing(**content)
    except ModelError as error:  # a value that no preprocessing has
        raise ModelError(f"{path}: is no sidecar of a model ({error}); {remedy}") from error


def add_to_given(given: dict[str, Any], sidecar: Sidecar | None) -> None:
    """Fills the fields that are not given from a sidecar; mean and std together."""
    if sidecar is None:
        return
    for names in (("mean", "std"), ("color",), ("image_size",)):
        if all(given[name] is None for name in names):
            given.update({name: getattr(sidecar.preprocessing, name) for name in names})
