"""Reads the results of several models, and checks that they can be compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import name_with_assumptions
from evaluation.results.page import name_of
from evaluation.results.pairs_of_result import ResultPairs
from facekd.errors import DataError
from facekd.results.kept_scores import check_scores, read_scores
from facekd.results.protocols import definition_of, describe_differences
from facekd.results.reading import name_of_set, read_result
from facekd.results.schema import IJB_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT, SUMMARY_FORMAT, check_result
from facekd.utils.foreign import shown


@dataclass(frozen=True)
class Evaluated:
    """Holds the results of one model on one set, the folder of its scores, and the file of the results."""

    name: str
    folder: Path
    result: dict[str, Any]
    file: Path

    @property
    def shown_name(self) -> str:
        """Returns the name for tables and pictures, with what was assumed of the model."""
        return name_with_assumptions(self.name, self.result.get("model"))

    @property
    def data(self) -> tuple[str, str]:
        """Returns the name of the set, and a digest of its content."""
        result = self.result
        digest = result["pair_set"]["sha256"] if result["format"] == LFW_FORMAT else result["dataset"]["fingerprint"]
        return name_of_set(result), digest

    def scores(self, pairs: ResultPairs) -> np.ndarray | None:
        """Reads the scores (P,) that the evaluation left, and counts them again; None if it left none.

        Raises:
            DataError: they cannot be read, or are not those of the results.
        """
        scores = read_scores(self.folder)
        if scores is not None:
            check_scores(scores, pairs.is_same, self.result, self.folder, self.file, pairs.fold_of)
        return scores


def load_results(folder: str) -> list[Evaluated]:
    """Reads the results of a folder: one, or one for each pack."""
    result, file = read_result(folder), Path(folder) / "results.json"
    if result["format"] not in (IJB_FORMAT, LFW_FORMAT, PROTOCOL_FORMAT, SUMMARY_FORMAT):
        raise DataError(
            f"{folder}: holds {shown(result['format'])}; results of `facekd evaluate ijbc`, `lfw` and `protocol` can "
            "be compared"
        )
    check_result(file, result)
    if result["format"] == SUMMARY_FORMAT:
        if not result["pair_sets"]:
            raise DataError(f"{file}: is of no pack; run the evaluation again")
        packs = [{"format": LFW_FORMAT, **one} for one in result["pair_sets"]]
        return [Evaluated(name_of(one), Path(folder) / one["pair_set"]["name"], one, file) for one in packs]
    return [Evaluated(name_of(result), Path(folder), result, file)]


def match_by_set(loaded: list[list[Evaluated]], folders: list[str]) -> list[list[Evaluated]]:
    """Groups results by set, and makes the names of the models differ.

    Args:
        loaded: the results in each folder.
        folders: their names.

    Returns:
        For each set that all folders have, one result from each folder.
    """
    # Two files called model.onnx get the names of their folders too.
    names = [results[0].name for results in loaded]
    if max(Counter(names).values()) > 1:
        names = [f"{name} ({Path(folder).name})" for name, folder in zip(names, folders, strict=True)]
    if max(Counter(names).values()) > 1:
        names = list(folders)
    renamed = [[replace(one, name=name) for one in results] for name, results in zip(names, loaded, strict=True)]

    # Single results are compared whatever their sets are called: `check_comparable` looks at the content.
    if all(len(results) == 1 for results in renamed):
        return [[results[0] for results in renamed]]
    by_set = [{one.data[0]: one for one in results} for results in renamed]
    shared = [name for name in by_set[0] if all(name in own for own in by_set)]
    if not shared:
        found = "; ".join(f"{folder}: {', '.join(own)}" for folder, own in zip(folders, by_set, strict=True))
        raise DataError(
            f"no set was evaluated in all of these folders ({found}); evaluate each model on the same packs"
        )
    return [[own[name] for own in by_set] for name in shared]


def check_comparable(models: list[Evaluated]) -> None:
    """Refuses results on other data or by another protocol than the first one's.

    Raises:
        DataError: naming both folders, and what differs.
    """
    first = models[0]
    for other in models[1:]:
        where = f"{first.folder} and {other.folder} cannot be compared"
        if first.result["format"] != other.result["format"]:
            raise DataError(f"{where}: {first.result['format']} results and {other.result['format']} results")
        if first.data[1] != other.data[1]:
            names = " and ".join(dict.fromkeys((first.data[0], other.data[0])))
            raise DataError(
                f"{where}: they were evaluated on different data ({names}; digests {first.data[1][:12]} and "
                f"{other.data[1][:12]}); evaluate both on one set"
            )
        if listed := describe_differences(definition_of(first.result), definition_of(other.result)):
            raise DataError(f"{where}: the protocols differ ({listed}); evaluate both by one protocol")
        for key in ("dropped", "failures"):
            if first.result.get(key) != other.result.get(key):
                raise DataError(
                    f"{where}: different images were left out ({first.result.get(key)} and {other.result.get(key)}); "
                    "mend the data, or evaluate both from the same images"
                )
