"""Reads lists from .mat files, in a process of its own: scipy parses them in C, where a damaged one can crash."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import shown, some_of
from facekd.utils.processes.apart import run_apart

MOST_VALUES = 1_000_000  # names and numbers of a file


def read_mat_lists(paths: Sequence[Path]) -> list[dict[str, list[Any]]]:
    """Reads all lists of names and of whole numbers, by the name of the variable.

    Args:
        paths: the files.

    Returns:
        For each file its variables; a matrix of names of P rows and c columns is a list of P c names, row by row.

    Raises:
        DataError: a file is missing or no whole .mat file.
    """
    for path in paths:
        require_regular_file(path)
        if not path.is_file():
            raise DataError(f"{path}: is missing, one of the lists of the set; unpack the set again")
    return run_apart(
        __name__,
        "parse_mat_lists",
        [str(path) for path in paths],
        "a .mat file of lists",
        is_right=lambda value: isinstance(value, list) and len(value) == len(paths) and all(map(_are_lists, value)),
    )


def _are_lists(value: Any) -> bool:
    """Tells whether a value is what `parse_mat_lists` returns for a file."""
    return isinstance(value, dict) and all(
        isinstance(listed, list) and all(type(entry) in (str, int) for entry in listed) for listed in value.values()
    )


def parse_mat_lists(*files: str) -> list[dict[str, list[Any]]]:
    """Parses the files for `read_mat_lists`; called in a process of its own."""
    return [_parse(Path(file)) for file in files]


def _parse(path: Path) -> dict[str, list[Any]]:
    from scipy.io import loadmat

    try:
        found = loadmat(io.BytesIO(path.read_bytes()))
        lists, left = {}, MOST_VALUES
        for name, array in found.items():
            if name.startswith("__"):
                continue
            left -= array.size
            if left < 0:
                raise DataError(f"{path}: holds more than {MOST_VALUES:,} values; the largest set has 153,428 names")
            # A cell array holds an array of one text in each cell; MATLAB's numbers may be floats.
            cells = array.ravel()
            if array.dtype.kind == "O":
                lists[name] = [str(cell.ravel()[0]) if hasattr(cell, "ravel") else str(cell) for cell in cells]
            elif array.dtype.kind in "US":
                lists[name] = [str(cell).rstrip() for cell in cells]
            elif array.dtype.kind in "iuf" and (array == array.astype("int64")).all():
                lists[name] = cells.astype("int64").tolist()
        return lists
    except DataError:
        raise
    except NotImplementedError:
        raise DataError(f"{path}: is a .mat file of version 7.3; save it as -v7 in Matlab or Octave") from None
    except (Exception, MemoryError) as error:  # a damaged file can make the reader fail in any way
        raise DataError(f"{path}: is no whole .mat file of lists: {shown(error)}") from error


def named_ids(path: Path, lists: dict[str, list[Any]], names: str, ids: str) -> tuple[list[str], list[str]]:
    """Returns image names and the identities beside them, as text.

    Args:
        path: the file, for messages.
        lists: its variables.
        names, ids: what the two variables are called.

    Raises:
        DataError: one of them is missing, or they differ in length.
    """
    if names not in lists or ids not in lists:
        raise DataError(f"{path}: holds {some_of(list(lists), 6)}; expected the variables {names} and {ids}")
    if len(lists[names]) != len(lists[ids]):
        raise DataError(f"{path}: {len(lists[names]):,} {names} and {len(lists[ids]):,} {ids}; expected one id a name")
    return lists[names], [str(number) for number in lists[ids]]
