"""Shared fixtures, and the `--runslow` switch."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from facekd.data.recordio import Header, RecordWriter, pack
from facekd.errors import run_verb
from tests.painted_faces import write_scrfd, write_yunet
from tests.shallow import full_depth, shallow_networks  # noqa: F401 - fixtures of all

ROOT = Path(__file__).resolve().parent.parent
# Real faces and models carry no licence that lets the project ship them: tests that need them skip without them.
REAL_DATA = Path(os.environ.get("FACEKD_REAL_DATA", ROOT.parent / "shared" / "data"))
# An example takes longer where other tests share the cores, or where it is the first to import a library.
settings.register_profile("facekd", deadline=None)
settings.load_profile("facekd")
# Tests fork, and a child would wait for ever for threads of torch that only its parent has; `make test` sets it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Commands that tests start would ignore a hang-up, as facekd does under `nohup`. A handler is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --runslow"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keeps the garbage collector from what collecting the tests makes, for all of it stays: libraries and tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Path of a file under the folder of real faces; skips the test where it is absent."""

    def find(relative: str) -> Path:
        path = REAL_DATA / relative
        if not path.exists():
            pytest.skip(f"real data absent: set FACEKD_REAL_DATA to a folder that holds {relative}")
        return path

    return find


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a verb; returns its exit status, standard output and standard error."""

    def run_it(verb: Callable[[list[str]], int], *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run_verb(partial(verb, [str(argument) for argument in arguments]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_it


@pytest.fixture(scope="session")
def scrfd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scrfd(tmp_path_factory.mktemp("scrfd") / "painted_bnkps.onnx")


@pytest.fixture(scope="session")
def yunet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yunet(tmp_path_factory.mktemp("yunet") / "painted.onnx")


@pytest.fixture
def write_records() -> Callable[..., Path]:
    """Writes train.rec from rows `(key, label or labels, image)`, and `property` if it is given; returns the folder.

    An image is the number of a generated JPEG of 32 pixels; None is a record without an image.
    """

    def write(folder: Path, rows: list[tuple[int, object, int | None]], announced: str | None = None) -> Path:
        folder.mkdir(parents=True)
        with RecordWriter(folder / "train.rec") as writer:
            for key, labels, number in rows:
                given = float(labels) if isinstance(labels, (int, float)) else np.array(labels, np.float32)
                image = b""
                if number is not None:
                    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
                    image = cv2.imencode(".jpg", cv2.resize(coarse, (32, 32)))[1].tobytes()
                writer.write(key, pack(Header(0, given, key, 0), image))
        if announced is not None:
            (folder / "property").write_text(announced)
        return folder

    return write
