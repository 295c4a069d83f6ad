"""Lists public face detectors and recognisers that users fetch themselves, and recognises a file by its SHA-256.

The list is `known_models.json` beside this file. It holds facts from the publishers' pages and from what others have
pinned, and says of each entry what was checked. A file's name proves nothing: models are renamed, and two of the list
have one name. So an entry is of a file only if the SHA-256 is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from facekd.embedder.onnx_models.file import OnnxFile

CATALOGUE = Path(__file__).with_name("known_models.json")
DETECTOR, RECOGNISER, WEIGHTS = "detector", "recogniser", "weights"


@dataclass(frozen=True)
class KnownModel:
    """Describes a model that somebody publishes.

    Attributes:
        name: names it here.
        kind: `"detector"` or `"recogniser"` for an ONNX file, `"weights"` for torch weights of a recogniser.
        network: what it is and what it was trained on.
        publisher: who gives it to others.
        files: what its files are called.
        terms, license: the licence of the weights in a word, and in full with where that is from.
        source: address of its page.
        bytes, sha256: of the ONNX file; None if not known.
        preprocessing: what a recogniser takes; None for a detector, whose kind says it.
        embedding_size: D; None for a detector.
        figures: what its publisher reports; empty if none was found.
        checked: where the facts are from, and what facekd was tried on.
        note: what users should know besides.
        use: what to do with torch weights.
    """

    name: str
    kind: str
    network: str
    publisher: str
    files: tuple[str, ...]
    terms: str
    license: str
    source: str
    bytes: int | None
    sha256: str | None
    preprocessing: Preprocessing | None
    embedding_size: int | None
    figures: str
    checked: str
    note: str
    use: str

    def __str__(self) -> str:
        return f"{self.name} of {self.publisher}, by its SHA-256; licence: {self.license} (`facekd models {self.name}`)"


@cache
def known_models() -> tuple[KnownModel, ...]:
    """Returns all entries, in the order of the list."""
    return tuple(map(_to_model, json.loads(CATALOGUE.read_text(encoding="utf-8"))["models"]))


def recognise(file: OnnxFile) -> KnownModel | None:
    """Returns the entry whose SHA-256 an ONNX file has, or None; only files of a size in the list are hashed."""
    if len(file.files) > 1:
        return None
    size = file.path.stat().st_size
    candidates = [model for model in known_models() if model.bytes == size and model.sha256 is not None]
    if not candidates:
        return None
    sha256 = file.sha256
    return next((model for model in candidates if model.sha256 == sha256), None)


def _to_model(entry: dict[str, Any]) -> KnownModel:
    takes = entry["preprocessing"]
    changed = {"files": tuple(entry["files"]), "preprocessing": takes and Preprocessing(**takes)}
    return KnownModel(**{**entry, **changed})
