"""Tabulates what runs logged of their classifiers and class means, for the pages that show several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from facekd.errors import DataError
from facekd.files.reading import read_json
from facekd.pages.numbers import decimal
from facekd.pages.tables import Table
from facekd.training.logbook.log_file import is_number, read_log

TITLE = "Who resembles whom"
# A key of the log's `centres` -> the column, and the digits behind the point.
COLUMNS = {
    "correlation": ("rows and class means", 2),
    "rows_dimension": ("dimensions of rows", 1),
    "means_dimension": ("of class means", 1),
    "teacher_rows_correlation": ("teacher's rows and rows", 2),
    "teacher_means_correlation": ("and class means", 2),
}
EXPLANATION = (
    "Rows and class means: over pairs of classes, the correlation between the cosine of their centres in the "
    "classifier and that of their mean embeddings, on a sample of training images: who resembles whom, which is what "
    "a shared classifier hands on. Dimensions are effective ones, the participation ratio of the covariance."
)


def read_centres(folder: Path) -> dict[str, float] | None:
    """Returns the numbers of the last `centres` in a run's log; None without one."""
    found = read_log(folder, "centres")
    if not found:
        return None
    numbers = {key: found[-1].get(key) for key in COLUMNS}
    return {key: float(one) for key, one in numbers.items() if is_number(one)}


def read_rebuilt(head: Path) -> dict[str, float]:
    """Returns the same numbers of a classifier that `facekd rebuild-head` wrote, from the report beside it, if any.

    Raises:
        DataError: the report is damaged.
    """
    report = head.with_suffix(".json")
    if not report.exists():
        return {}
    remedy = "delete it and the classifier, and run the same command again"
    found = read_json(report, "the report of facekd rebuild-head", remedy, ("centres",))["centres"]
    if not isinstance(found, dict):
        raise DataError(f"{report}: damaged, its 'centres' is no section; {remedy}")
    keys = {"correlation": "means_correlation", "rows_dimension": "dimension", "means_dimension": "means_dimension"}
    return {key: float(found[name]) for key, name in keys.items() if is_number(found.get(name))}


def summarize_centres(folders: Mapping[int, Path]) -> dict[str, Any] | None:
    """Returns the mean over seeds of each number, and its value by seed; None without a log that has any.

    Args:
        folders: the folders of a method's runs by seed.
    """
    found = {seed: values for seed, folder in folders.items() if (values := read_centres(folder))}
    by_key = {key: {str(seed): values[key] for seed, values in found.items() if key in values} for key in COLUMNS}
    return {key: {"mean": fmean(each.values()), "values": each} for key, each in by_key.items() if each} or None


def centres_table(rows: Mapping[str, Mapping[str, float]], names: str) -> Table:
    """Returns a table with a row for each run or method, and the columns that any of them has.

    Args:
        rows: numbers by key, by the name of the row.
        names: what the rows are.
    """
    columns = {key: column for key, column in COLUMNS.items() if any(key in values for values in rows.values())}
    head = [names, *(title for title, _ in columns.values())]
    return Table(TITLE if rows else "", head, [[name, *_cells(values, columns)] for name, values in rows.items()])


def _cells(values: Mapping[str, float], columns: Mapping[str, tuple[str, int]]) -> Sequence[str]:
    return [decimal(values[key], digits) if key in values else "" for key, (_, digits) in columns.items()]
