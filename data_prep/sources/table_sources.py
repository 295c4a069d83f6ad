"""Reads labelled images from Parquet and arrow files, as model hubs store them; needs the optional package pyarrow."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.jobs.resuming import files_fingerprint
from data_prep.sources.image_lists import check_label, number_labels
from facekd.data.datasets.class_counts import count_classes
from facekd.data.datasets.record_pack import class_warnings
from facekd.errors import DataError
from facekd.files.reading import allow_open_files
from facekd.utils.foreign import reading, shown
from facekd.utils.processes.apart import run_apart
from facekd.utils.wording import counted

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "jpg", "bytes"), ("label", "labels", "identity", "id", "cls")
MOST_TIMES, SMALL_TABLE = 8, 1 << 26  # bytes of the values: so many times the file's, and some
FILES_AT_ONCE = 500  # that a process checks: their paths are words of a command


class TableSource:
    """Reads rows of `image` (bytes, or a struct with `bytes` and `path`) and `label` (whole numbers or names)."""

    def __init__(self, paths: list[Path]) -> None:
        self.kind = f"{paths[0].suffix[1:]} table"
        # The columns must have the same names in all files.
        allow_open_files(len(paths), str(paths[0].parent))
        _check_apart(paths)
        tables = [_open(path) for path in paths]
        images, labels = _columns(tables[0], paths[0])
        self._chunks: list[Any] = []
        listed: list[Any] = []
        self._paths, self._ends_of_files = paths, list[int]()
        for path, table in zip(paths, tables, strict=True):
            if images not in table.column_names or labels not in table.column_names:
                raise DataError(f"{path}: has columns {table.column_names}, but {paths[0]} has {images} and {labels}")
            _check_columns(table, images, labels, path)
            self._chunks += table.column(images).chunks
            listed += _labels_of(table.column(labels), labels, path)
            self._ends_of_files.append(len(listed))
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])
        # Labels are numbers, or text; of whole numbers among text, 3.0 of one file is the 3 of another.
        if not any(isinstance(label, str) for label in listed):
            check_label(max(listed, default=0), str(paths[0]))
            self.labels = np.array(listed).astype(np.int64)
        else:
            texts = [label if isinstance(label, str) else str(int(label)) for label in listed]
            first_of = dict(zip(reversed(texts), range(len(texts) - 1, -1, -1), strict=True))
            number_of = number_labels(first_of, self._place)
            # Not by an array of the names, in which each has the room of the longest.
            self.labels = np.array([number_of[text] for text in texts], dtype=np.int64)
        if not len(self.labels):
            raise DataError(f"{paths[0]}: holds no rows")
        self.num_classes = int(self.labels.max()) + 1
        self.warnings: list[str] = []
        self._source = paths[0]

    def read(self, image: int) -> bytes:
        value = self._cell(image)
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes) or not content:
            raise DataError(f"{self._place(image)} holds no bytes of an image, only {str(value)[:60]}")
        return content

    def name(self, image: int) -> str:
        return ""

    def _place(self, row: int) -> str:
        """Says for messages in which file a row lies, and which of its rows it is."""
        file = bisect.bisect_right(self._ends_of_files, row)
        return f"{self._paths[file]}: row {row - (self._ends_of_files[file - 1] if file else 0)}"

    def fingerprint(self) -> dict[str, Any]:
        return files_fingerprint(self._paths)

    def stamp(self, image: int) -> str:
        return ""

    def class_warnings(self) -> list[str]:
        counts = count_classes(self.labels, self.num_classes)
        return class_warnings(counts, self._source, lambda: f"Is every label in {self._source} right?")

    def will_read(self, images: np.ndarray) -> None:
        pass  # pyarrow maps the file, and does not say where the rows are

    def _cell(self, image: int) -> Any:
        chunk = int(np.searchsorted(self._ends, image, side="right"))
        return self._chunks[chunk][image - (int(self._ends[chunk - 1]) if chunk else 0)].as_py()


def _check_apart(paths: list[Path]) -> None:
    """Has processes of their own read all of the files first: one flipped byte of an arrow file can crash pyarrow.

    Raises:
        DataError: a file is damaged; it is named.
    """
    _import_pyarrow(paths[0])
    for start in range(0, len(paths), FILES_AT_ONCE):
        group = paths[start : start + FILES_AT_ONCE]
        size = sum(path.stat().st_size for path in group)
        try:
            run_apart(__name__, "check_tables", [str(path) for path in group], f"a {group[0].suffix[1:]} table", size)
        except DataError:
            # Which of them was it?
            for path in group if len(group) > 1 else ():
                _check_apart([path])
            raise


def check_tables(*files: str) -> None:
    """Reads all values of tables, and checks the offsets inside; called in a process of its own.

    Raises:
        DataError: a file is damaged, or its values take far more memory than its own bytes.
    """
    for file in files:
        path = Path(file)
        table = _open(path)
        with reading(path, f"a {path.suffix[1:]} table"):
            table.validate(full=True)
            _decode_names(table.schema)
        # The reader gives each row its value, also where a packed file has it once.
        most = SMALL_TABLE + MOST_TIMES * path.stat().st_size
        if table.nbytes > most:
            raise DataError(
                f"{path}: its values take {counted(table.nbytes, 'byte')}, and those of a file of this size at most "
                f"{most:,}: made to exhaust the memory, or packed far better than images can be"
            )


def _decode_names(fields: Iterable[Any]) -> None:
    """Has pyarrow decode the names of columns and of the fields in structs, which `validate` does not look at.

    Raises:
        UnicodeDecodeError: a name is no UTF-8.
    """
    from pyarrow import types

    for kind in [field.type for field in fields if field.name is not None]:
        if types.is_struct(kind):
            _decode_names(kind.field(number) for number in range(kind.num_fields))


def _import_pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading it needs pyarrow: pip install 'facekd[parquet]'") from None
    return pyarrow


def _open(path: Path) -> Any:
    pyarrow = _import_pyarrow(path)
    size = path.stat().st_size
    with reading(path, f"a {path.suffix[1:]} table"):
        if path.suffix == ".parquet":
            _check_rows(pyarrow.parquet.read_metadata(path, memory_map=True).num_rows, size, path)
            return pyarrow.parquet.read_table(path, memory_map=True)
        mapped = pyarrow.memory_map(str(path))
        try:
            table = pyarrow.ipc.open_file(mapped).read_all()
        except pyarrow.ArrowInvalid:  # the caches of hubs hold streams
            mapped.seek(0)
            table = pyarrow.ipc.open_stream(mapped).read_all()
    _check_rows(table.num_rows, size, path)
    return table


def _check_rows(num_rows: int, size: int, path: Path) -> None:
    """Refuses a table whose rows cannot all hold an image: empty columns and repeated values take no bytes.

    Raises:
        DataError: it has more rows than the file has bytes.
    """
    if num_rows > size:
        raise DataError(
            f"{path}: announces {counted(num_rows, 'row')}, but the file has {counted(size, 'byte')}: damaged, or "
            "made to exhaust the memory"
        )


def _columns(table: Any, path: Path) -> tuple[str, str]:
    found = [
        next((name for name in names if name in table.column_names), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)
    ]
    if None in found:
        raise DataError(
            f"{path}: has columns {table.column_names}; expected images ({', '.join(IMAGE_COLUMNS)}) and labels "
            f"({', '.join(LABEL_COLUMNS)})"
        )
    return str(found[0]), str(found[1])


def _check_columns(table: Any, images: str, labels: str, path: Path) -> None:
    """Refuses columns that are there twice, or of types in which a few bytes may stand for many values.

    Those are nulls, run-end encoded ones, views, and dictionaries other than of labels, whose values are not repeated
    here.

    Raises:
        DataError: it names the column.
    """
    for name, expected in ((images, "bytes, or a struct with `bytes`"), (labels, "whole numbers or text")):
        if table.column_names.count(name) > 1:
            raise DataError(f"{path}: has several columns called {name}; leave one")
        kind = table.schema.field(name).type
        if not (_is_label(kind) if name == labels else _is_plain(kind)):
            raise DataError(f"{path}: its column {name} holds {shown(kind)}; expected {expected}")


def _is_label(kind: Any) -> bool:
    from pyarrow import types

    of = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(of) or types.is_large_string(of)
    return text or types.is_integer(of) or types.is_floating(of) or types.is_boolean(of)


def _is_plain(kind: Any) -> bool:
    """Tells whether a type stores each of its values: a struct whose other fields may be empty, bytes or text."""
    from pyarrow import types

    if types.is_struct(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        names = [field.name for field in fields]
        return len({*names}) == len(names) and all(types.is_null(one.type) or _is_plain(one.type) for one in fields)
    binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return binary or types.is_string(kind) or types.is_large_string(kind) or types.is_primitive(kind)


def _labels_of(column: Any, name: str, path: Path) -> list[Any]:
    """Returns the labels of a file; those of a dictionary share its values.

    Raises:
        DataError: a row has none.
    """
    from pyarrow import types

    listed: list[Any] = []
    for chunk in column.chunks:
        if types.is_dictionary(chunk.type):
            values = chunk.dictionary.to_pylist()
            listed += [None if place is None else values[place] for place in chunk.indices.to_pylist()]
        else:
            listed += chunk.to_pylist()
    for row, label in enumerate(listed):
        if label is None:
            raise DataError(f"{path}: row {row} has no {name}")
        # pandas writes whole numbers as 3.0, and none as nan, where some are missing; -1 often stands for nobody.
        if not isinstance(label, str) and not (label >= 0 and label == label // 1 < math.inf):
            raise DataError(f"{path}: row {row} has the {name} {label}; expected whole numbers from 0, or names")
    return listed
