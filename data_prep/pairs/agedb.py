"""Reads AgeDB's protocol as its authors publish it: `04_FINAL_protocol_30_years.mat`.

It holds pairs of photos taken thirty years apart, in ten folds.

The file is not public and was not available to us: its structure is what two independent programs read from it,
InsightFace's `src/data/agedb2pack.py` (deepinsight/insightface) and a converter to LFW's `pairs.txt`. Fields are taken
by position, because neither program gives their names; any other structure is an error.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.pairs.pair_list import PairList
from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import shown
from facekd.utils.processes.apart import run_apart
from facekd.utils.wording import agreeing, counted

MOST_PAIRS = 60_000
STRUCTURE = (
    "expected `splits`, a cell of folds, each a struct of a 2 x N cell of faces (a struct of name and age) and N "
    "labels, 1 for one person and -1 for two"
)


def read_agedb_protocol(path: Path) -> PairList:
    """Reads the pairs of an AgeDB protocol.

    Args:
        path: the `.mat` file; its names are those of the images without suffix, and begin with the person's name.

    Raises:
        DataError: no `.mat` file of that structure, or labels that the names contradict.
    """
    # scipy parses .mat files in C, where a damaged one can crash the process.
    require_regular_file(path)
    path.stat()  # a missing file is the system's own error
    rows = run_apart(__name__, "parse_protocol", [str(path)], "a protocol of AgeDB", is_right=_are_rows)
    if not rows:
        raise DataError(f"{path}: holds no pairs: {STRUCTURE}")
    names = [(first, second) for first, second, _, _ in rows]
    is_same = [same for _, _, same, _ in rows]
    fold_of = [fold for *_, fold in rows]

    # The names say who is shown, and must agree with the labels.
    subjects = [(first.partition("_")[0], second.partition("_")[0]) for first, second in names]
    wrong = [i for i, (who, same) in enumerate(zip(subjects, is_same, strict=True)) if (who[0] == who[1]) != same]
    if wrong:
        first = wrong[0]
        raise DataError(
            f"{path}: {len(wrong):,} of {counted(len(names), 'label')} "
            f"{agreeing(len(wrong), 'contradicts', 'contradict')} the names, first that of {names[first][0]} and "
            f"{names[first][1]}, which is {1 if is_same[first] else -1}; the file is damaged, or of another kind"
        )
    return PairList(names, np.array(is_same), np.array(fold_of), "agedb", subjects)


def _are_rows(value: Any) -> bool:
    """Tells whether a value is what `parse_protocol` returns."""
    return isinstance(value, list) and all(
        isinstance(row, list) and [type(field) for field in row] == [str, str, bool, int] and 0 <= row[3] < MOST_PAIRS
        for row in value
    )


def parse_protocol(file: str) -> list[tuple[str, str, bool, int]]:
    """Returns (name, other name, whether they are one person, fold) of each pair; called in a process of its own.

    Raises:
        DataError: no `.mat` file of that structure.
    """
    from scipy.io import loadmat  # imported here because no other list needs it

    path = Path(file)
    try:
        splits = loadmat(io.BytesIO(path.read_bytes()))["splits"]
    except KeyError:
        raise DataError(f"{path}: is no protocol of AgeDB: {STRUCTURE}") from None
    except NotImplementedError:
        raise DataError(f"{path}: is a .mat file of version 7.3; save it as -v7 in Matlab or Octave") from None
    except (Exception, MemoryError) as error:  # a damaged file can make the reader fail in any way
        raise DataError(f"{path}: is no whole .mat file: {shown(error)}") from error

    # Its folds, one struct each.
    rows: list[tuple[str, str, bool, int]] = []
    for fold, cell in enumerate(splits.ravel()):
        try:
            faces, labels = _only(cell)[0], np.asarray(_only(cell)[1], dtype=np.float64).ravel()
            if faces.ndim != 2 or faces.shape != (2, len(labels)) or not np.isin(labels, (-1, 1)).all():
                raise ValueError(f"faces of shape {faces.shape} and {counted(len(labels), 'label')}")
            if len(rows) + len(labels) > MOST_PAIRS:
                raise ValueError(f"more than {MOST_PAIRS:,} pairs in all, where AgeDB has 6,000")
            for pair, label in enumerate(labels.tolist()):
                rows.append((_name(faces[0, pair]), _name(faces[1, pair]), label == 1, fold))
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: fold {fold + 1} is no fold of AgeDB ({shown(error)}): {STRUCTURE}") from error
    return rows


def _only(cell: np.ndarray) -> np.void:
    """Returns the struct in a 1 x 1 struct array."""
    if cell.size != 1 or cell.dtype.names is None or len(cell.dtype.names) < 2:
        raise ValueError(f"an array of shape {cell.shape} in place of a struct")
    return cell.ravel()[0]


def _name(face: np.ndarray) -> str:
    name = _only(face)[0].ravel()
    if len(name) != 1 or not str(name[0]):
        raise ValueError("a face without a name")
    return str(name[0])
