"""Lists the readers whose parser runs in a process of its own: tables, and lists from .mat files."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from data_prep.pairs import agedb
from data_prep.pairs.pair_list import PairList
from data_prep.sources import table_sources
from data_prep.sources.image_sources import open_source
from evaluation.protocols import mat_lists
from facekd.errors import DataError, FacekdError
from tests.fuzz.target import Target
from tests.fuzz.targets.binary_targets import encoded

SECONDS, MORE_MEMORY = 2, 4 << 30
CALLS = 500  # of a process; damage that a parser does to its memory goes with it
HANDLED = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)  # by the fuzzer


class _Parser:
    """Calls parsers in a copy of this process, which answers many calls; after a crash, the next call has a new copy.

    That takes a hundredth of the time of a fresh Python for each file, as `run_apart` starts it.
    """

    def __init__(self) -> None:
        self._left = 0

    def run(
        self, module: str, name: str, paths: Sequence[str], expected: str, size: int = 0, is_right: Any = None
    ) -> Any:
        """Does what `run_apart` does."""
        found = self._ask([module, name, *paths])
        if found is None:
            raise DataError(f"{paths[0]}: cannot be read as {expected}: its parser has ended")
        assert "unexpected" not in found, f"the parser of {expected} ended with {found['unexpected']}"
        if "error" in found:
            raise DataError(found["error"])
        assert is_right is None or is_right(found["value"])
        return found["value"]

    def _ask(self, words: Sequence[str]) -> dict[str, Any] | None:
        """Has the copy call a function; returns its answer, or None if it crashed or did not end in time."""
        if not self._left:
            self._start()
        self._left -= 1
        self._asking.write(json.dumps(words).encode() + b"\n")
        self._asking.flush()
        answered = select.select([self._answers], [], [], SECONDS)[0]
        content = self._answers.readline() if answered else b""
        if not content:
            self._stop()
            return None
        if not self._left:
            self._stop()
        return json.loads(content)

    def _start(self) -> None:
        (asked, asking), (answers, answering) = os.pipe(), os.pipe()
        self._child = os.fork()
        if not self._child:
            try:
                os.close(asking)
                os.close(answers)
                _answer(os.fdopen(asked, "rb"), answering)
            finally:
                os._exit(0)
        os.close(asked)
        os.close(answering)
        self._asking, self._answers, self._left = os.fdopen(asking, "wb"), os.fdopen(answers, "rb"), CALLS

    def _stop(self) -> None:
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._asking.close()
        self._answers.close()
        self._left = 0


def _answer(asked: BinaryIO, answering: int) -> None:
    """Calls what is asked for, in the copy, until the other end is closed; a crash ends it without a report."""
    import resource

    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most, hard = pages * resource.getpagesize() + MORE_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in asked:
        module, name, *paths = json.loads(line)
        found: dict[str, Any]
        try:
            found = {"value": getattr(sys.modules[module], name)(*paths)}
        except FacekdError as error:
            found = {"error": str(error)}
        except Exception as error:
            found = {"unexpected": repr(error)}
        content = memoryview(json.dumps(found).encode() + b"\n")
        while content:
            content = content[os.write(answering, content) :]


PARSER = _Parser()


@contextlib.contextmanager
def _parsers_at_hand(path: Path, seeds: Callable[[], list[bytes]] | None = None) -> Iterator[None]:
    """Lets parsers run in a copy of this process while the fuzzer runs; elsewhere, with threads, that is not safe.

    There all but sound files, of which no more is to be learnt, are read as always.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "atheris" in sys.modules:
            for module in (agedb, table_sources, mat_lists):
                patch.setattr(module, "run_apart", PARSER.run)
        elif seeds is not None and path.read_bytes() in seeds():
            patch.setattr(table_sources, "run_apart", _run_here)
            patch.setattr(mat_lists, "run_apart", _run_here)
        yield


def _run_here(module: str, name: str, paths: Sequence[str], *_: Any, **__: Any) -> Any:
    return json.loads(json.dumps(getattr(sys.modules[module], name)(*paths)))


def _read_protocol(path: Path) -> PairList:
    with _parsers_at_hand(path):
        return agedb.read_agedb_protocol(path)


def _check_protocol(_: bytes, found: PairList) -> None:
    assert found.fold_of is not None
    assert len(found.names) == len(found.is_same) == len(found.fold_of) > 0
    for names, same in zip(found.names, found.is_same.tolist(), strict=True):
        assert all(isinstance(name, str) and name for name in names)
        assert (names[0].split("_")[0] == names[1].split("_")[0]) == same


def _mat_seeds() -> list[bytes]:
    def face(name: str) -> np.ndarray:
        return np.array([[(name, 20)]], dtype=[("name", object), ("age", object)])

    names = np.empty((2, 2), dtype=object)
    for place, name in zip(np.ndindex(2, 2), ("1_Ann_30", "2_Bob_30", "1_Ann_60", "3_Cid_60"), strict=True):
        names[place] = face(name)
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = np.array([[(names, np.array([[1.0, -1.0]]))]], dtype=[("faces", object), ("labels", object)])
    return [_mat({"splits": cell})]


def _mat(variables: dict[str, Any]) -> bytes:
    from scipy.io import savemat

    stream = io.BytesIO()
    savemat(stream, variables)
    return stream.getvalue()


@functools.cache
def _mat_list_seeds() -> list[bytes]:
    names = np.empty((2, 1), dtype=object)
    names[:, 0] = ["a_1.jpg", "b_2.jpg"]
    return [_mat({"names": names, "ids": np.array([[1.0], [2.0]]), "text": np.array(["abc ", "de"])})]


def _read_mat_lists(path: Path) -> Any:
    with _parsers_at_hand(path, _mat_list_seeds):
        [lists] = mat_lists.read_mat_lists([path])
    return lists, mat_lists.named_ids(path, lists, "names", "ids")


def _check_mat_lists(_: bytes, found: Any) -> None:
    lists, (names, ids) = found
    for listed in lists.values():
        assert {type(entry) for entry in listed} in (set(), {str}, {int})
    assert len(names) == len(ids) and all(isinstance(entry, str) for entry in ids)


def _tables() -> Any:
    pyarrow = pytest.importorskip("pyarrow", reason="reading tables needs the optional package pyarrow")
    struct = pyarrow.StructArray.from_arrays([[encoded(".png")] * 2, pyarrow.nulls(2)], ["bytes", "path"])
    names = pyarrow.array(["bob", "ada"]).dictionary_encode()
    return pyarrow.Table.from_arrays([struct, names, pyarrow.nulls(2)], names=["image", "label", "image2"])


@functools.cache
def _arrow_seeds() -> list[bytes]:
    """Returns a file and a stream, as the caches of hubs hold them."""
    import pyarrow

    table, seeds = _tables(), []
    for open_writer in (pyarrow.ipc.new_file, pyarrow.ipc.new_stream):
        sink = pyarrow.BufferOutputStream()
        with open_writer(sink, table.schema) as writer:
            writer.write_table(table)
        seeds.append(sink.getvalue().to_pybytes())
    return seeds


@functools.cache
def _parquet_seeds() -> list[bytes]:
    table = _tables()
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="none", store_schema=False)
    return [sink.getvalue().to_pybytes()]


def _read_table(path: Path) -> tuple[list[int], list[bytes]]:
    with _parsers_at_hand(path, lambda: [*_arrow_seeds(), *_parquet_seeds()]):
        source = open_source(path)
    return source.labels.tolist(), [source.read(image) for image in range(min(len(source.labels), 20))]


def _check_table(_: bytes, found: Any) -> None:
    labels, images = found
    assert labels and min(labels) >= 0 and all(isinstance(image, bytes) and image for image in images)


def _check_arrow(content: bytes, found: Any) -> None:
    """Every image lies in the file as it is."""
    _check_table(content, found)
    assert all(image in content for image in found[1])


TARGETS = [
    Target("mat", "agedb.mat", _read_protocol, _mat_seeds, _check_protocol, copies=1),
    Target("mat_lists", "lists.mat", _read_mat_lists, _mat_list_seeds, _check_mat_lists, copies=0),
    Target("table", "train.arrow", _read_table, _arrow_seeds, _check_arrow, copies=0),
    Target("parquet", "train.parquet", _read_table, _parquet_seeds, _check_table, copies=0),
]
