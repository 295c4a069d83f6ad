"""Shared fixtures, and the `--runslow` switch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Real faces and models carry no licence that lets the project ship them: tests that need them skip without them.
REAL_DATA = Path(os.environ.get("FACEKD_REAL_DATA", ROOT.parent / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --runslow"))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Path of a file under the folder of real faces; skips the test where it is absent."""

    def find(relative: str) -> Path:
        path = REAL_DATA / relative
        if not path.exists():
            pytest.skip(f"real data absent: set FACEKD_REAL_DATA to a folder that holds {relative}")
        return path

    return find
