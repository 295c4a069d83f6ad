"""Reads results that no run of a study made, to stand beside its runs: of facekd's evaluations, or of another program.

`results.json` of `facekd evaluate lfw`, `folder` or `classification` gives one value of each measure; a folder whose
subfolders hold such files gives one value for each. Another program writes the names of packs, below them measures, and
for each a list of shares from 0 to 1 with a value for each of its trainings:

    {"test": {"eer": [0.0312, 0.0298], "accuracy": [0.971, 0.969], "tar@0.01": [0.912, 0.918]}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facekd.commands.suggestions import did_you_mean
from facekd.errors import DataError
from facekd.experiments.studies.config import Method, Study
from facekd.experiments.studies.evaluation import Evaluation, Measure
from facekd.files.reading import read_json
from facekd.files.result_folder import MARK
from facekd.results.protocols import definition_of, describe_differences
from facekd.results.reading import read_result
from facekd.results.schema import SUMMARY_FORMAT, check_result
from facekd.utils.foreign import shown, some_of

REMEDY = "its form is in docs/results.md, under other programs' results"
TAR = "tar@"
Key = tuple[str, float | None]  # a measure: its name, and the FAR of a TAR


@dataclass
class External:
    """Holds the results of a method that was not trained in the study.

    Attributes:
        files: where they come from.
        by_facekd: whether facekd's own evaluation wrote them all.
        values: for each pack of the study and each measure its values, one for each training.
        unused: what the files say of other packs, or at other FARs.
        assumed: preprocessing that was assumed in facekd's evaluation.
    """

    files: list[Path]
    by_facekd: bool = True
    values: dict[str, dict[Key, list[float]]] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    assumed: set[str] = field(default_factory=set)

    def of(self, pack: str, measure: Measure) -> list[float]:
        """Returns the values of one measure on one pack; none where there are none."""
        return self.values.get(pack, {}).get((measure.metric, measure.far), [])

    def add(self, pack: str, key: Key, values: Sequence[float]) -> None:
        """Adds values of a measure on a pack of the study."""
        self.values.setdefault(pack, {}).setdefault(key, []).extend(values)


def check_external(study: Study) -> None:
    """Reads the results of every method that has nothing else, so that a mistake is found before anything runs.

    Raises:
        DataError: see `read_external`.
    """
    for method in study.methods.values():
        if method.results:
            read_external(study, method, None)


def read_external(study: Study, method: Method, sets: Mapping[str, Mapping[str, Any]] | None) -> External:
    """Reads the results of a method that was not trained in the study.

    Args:
        study: the study.
        method: a method with `results`.
        sets: for each pack the results of one run, which tell whether facekd's other results are on the same set; None
            while no run is evaluated.

    Raises:
        DataError: there are no results, they are damaged, of another kind, or on none of the study's packs.
    """
    place = method.results.replace("{study}", str(study.output))
    found = External(_files_of(Path(place)))
    for path in found.files:
        content = read_json(path, "results", REMEDY)
        if "format" in content:
            _add_evaluation(found, path, study.evaluation, sets)
        else:
            found.by_facekd = False
            _add_given(found, path, content, study)
    if not found.values and not (sets is None and found.by_facekd):
        on = ", ".join(pack.name for pack in study.packs)
        raise DataError(f"{place}: has results on {some_of(sorted(found.unused))}, and the study's are on {on}")
    # TARs at FARs that the study does not measure.
    for pack, result in (sets or {}).items():
        measured = [one.far for one in study.evaluation.measures_of([result])]
        unmeasured = [far for _, far in found.values.get(pack, {}) if far not in measured]
        found.unused |= {f"{pack}, {TAR}{far:g}" for far in unmeasured}
    return found


def _files_of(place: Path) -> list[Path]:
    """Returns the file, that of a folder, or those of its subfolders, in order.

    Raises:
        DataError: there is none.
    """
    if not place.is_dir():
        files = [place]
    elif (place / MARK).exists():
        files = [place / MARK]
    else:
        files = sorted(place.glob(f"*/{MARK}"))
    if not files or not files[0].exists():
        raise DataError(
            f"{place}: no results there; name a {MARK}, a folder with one, or one whose subfolders have one"
        )
    return files


def _add_evaluation(
    found: External, path: Path, evaluation: Evaluation, sets: Mapping[str, Mapping[str, Any]] | None
) -> None:
    """Adds what an evaluation of facekd measured on packs of the study; of several packs each by itself."""
    result = read_result(path)
    check_result(path, result)
    parts = result["pair_sets"] if result["format"] == SUMMARY_FORMAT else [result]
    read: set[str] = set()
    for part in parts:
        if part.get("format", evaluation.format) != evaluation.format:
            raise DataError(
                f"{path}: is of {shown(part['format'])}, and this study's runs are evaluated by `facekd evaluate "
                f"{evaluation.verb}`; evaluate that model by the same verb"
            )
        found.assumed |= {*((part.get("model") or {}).get("assumed") or ())}
        if sets is None:
            continue
        own = evaluation.set_of(part)
        pack = next((name for name, one in sets.items() if evaluation.set_of(one) == own), None)
        if pack is None:
            found.unused.add(f"other {evaluation.set_text}")
            continue
        ours, theirs = definition_of(sets[pack]), definition_of(part)
        shared = [key for key in ours if key in theirs]  # not all versions of facekd recorded the same
        if differences := describe_differences(*({key: one[key] for key in shared} for one in (ours, theirs))):
            found.unused.add(f"{pack} by another protocol ({differences})")
            continue
        if pack in read:
            raise DataError(f"{path}: has two results on {pack}, and one training gives one; leave one out")
        read.add(pack)
        for measure in evaluation.measures_of([part]):
            if (value := measure.read(part)) is not None:
                found.add(pack, (measure.metric, measure.far), [value])


def _add_given(found: External, path: Path, content: Mapping[str, Any], study: Study) -> None:
    """Adds what another program wrote of packs of the study.

    Raises:
        DataError: a measure that does not exist or is given twice, or something that is no list of shares.
    """
    names = [pack.name for pack in study.packs]
    for pack, measures in content.items():
        if not isinstance(measures, dict) or not measures:
            raise DataError(f"{path}: {shown(pack)} holds no measures; {REMEDY}")
        read: dict[Key, str] = {}
        for name, values in measures.items():
            key = _key_of(path, name, study.evaluation)
            if key in read:
                raise DataError(
                    f"{path}: {shown(pack)} has {shown(read[key])} and {shown(name)}, which are one measure; give one "
                    "list of it, with a value for each training"
                )
            read[key] = name
            shares = _shares(path, f"{shown(pack)}: {shown(name)}", values)
            if pack in names:
                found.add(pack, key, shares)
            else:
                found.unused.add(shown(pack))


def _key_of(path: Path, name: str, evaluation: Evaluation) -> Key:
    """Returns the measure that a name such as `eer` or `tar@0.01` means.

    Raises:
        DataError: it means none.
    """
    known = [measure.metric for measure in evaluation.measures]
    if name in known:
        return name, None
    if evaluation.has_pairs and name.startswith(TAR):
        try:
            far = float(name.removeprefix(TAR))
        except ValueError:
            far = math.nan
        if 0 < far <= 1:
            return "tar", far
    known += ["tar@0.01"] if evaluation.has_pairs else []
    raise DataError(
        f"{path}: {shown(name)} is no measure of this study{did_you_mean(name, known) or '.'} It has {', '.join(known)}"
    )


def _shares(path: Path, where: str, values: Any) -> list[float]:
    """Returns a list of shares, one for each training.

    Raises:
        DataError: it is something else.
    """
    listed = values if isinstance(values, list) else []
    is_good = [isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one <= 1 for one in listed]
    if not listed or not all(is_good):
        bad = shown(listed[is_good.index(False)], 60) if listed else shown(values, 60)
        raise DataError(
            f"{path}: {where}: expected a list of shares from 0 to 1 (not percents), one for each training, found {bad}"
        )
    return [float(one) for one in listed]
