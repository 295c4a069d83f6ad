"""Gives tests the runs of several processes, each set made once for all of them."""

from __future__ import annotations

import pytest

from tests.distributed.runs import Runs, made_once


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns the runs of two processes."""
    return made_once(tmp_path_factory, Runs.make_by_two)


@pytest.fixture(scope="session")
def more_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns runs of two processes that begin with, or learn from, others, for slow tests."""
    return made_once(tmp_path_factory, Runs.make_more_by_two)


@pytest.fixture(scope="session")
def failed_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns runs of two processes in which one fails, for slow tests."""
    return made_once(tmp_path_factory, Runs.make_that_fail)


@pytest.fixture(scope="session")
def runs_by_three(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns the runs of three processes, for slow tests: two cores are busy with them for half a minute."""
    return made_once(tmp_path_factory, Runs.make_by_three)
