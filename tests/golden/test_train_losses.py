"""A refactor reproduces the record of every golden run; a bug in the update, the schedule or a loss does not.

The numbers change only by `make_train_losses.py`, on purpose. How the tolerances were chosen: the largest deviations
over all runs, with oneDNN off, with channels_last off, or with fresh weights perturbed by 1e-6, were

    losses            1e-5 in the first two steps, 1e-2 later (allowed: 1e-3 and 1e-1)
    gradient norms    1.2e-3 in the first two steps (allowed: 1e-2)
    norms, distances  3e-4 (allowed: 2e-3)
    average_loss      2e-3 (allowed: 1e-2)

Later gradient norms amplify rounding too much to be compared. The mutations deviate by twice the tolerance or more; the
slow tests below hold both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden import make_train_losses as golden
from tests.golden.mutations import MUTATIONS

RECORDS = json.loads(golden.PATH.read_text()) if golden.PATH.exists() else {}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    """Runs what the distillations learn from; returns the folder that holds this run, and its record."""
    folder = tmp_path_factory.mktemp("golden")
    return folder, golden.golden_record(golden.TEACHER, folder)


@pytest.fixture
def folder(teacher: tuple[Path, Any], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Returns a folder for the run under test, with the teacher in it if the run needs one."""
    if request.getfixturevalue("run") in golden.DISTILLATIONS:
        (tmp_path / golden.TEACHER).symlink_to(teacher[0] / golden.TEACHER)
    return tmp_path


@contextlib.contextmanager
def without_onednn() -> Iterator[None]:
    was_enabled = torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(was_enabled)


# Six steps of the commonest runs; margins, which differ in the loss alone, are compared with formulas elsewhere too.
OFTEN = ("arcface", "adamw", "th_kd", "embeddings")
RUNS = [run if run in OFTEN else pytest.param(run, marks=pytest.mark.slow) for run in golden.RUNS]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_leaves_the_record_of_old(run: str, folder: Path, teacher: tuple[Path, Any]) -> None:
    found = teacher[1] if run == golden.TEACHER else golden.golden_record(run, folder)
    deviations = golden.deviations(found, RECORDS[run])
    assert max(deviations.values()) <= 1, {name: value for name, value in deviations.items() if value > 1}


@pytest.mark.slow
@pytest.mark.parametrize("run", golden.RUNS)
def test_rounding_stays_within_half_the_tolerance(run: str, folder: Path) -> None:
    with without_onednn():
        found = golden.golden_record(run, folder, ("--channels_last", "false"))
    assert max(golden.deviations(found, RECORDS[run]).values()) <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("mutation", "run"), [(name, run) for name, one in MUTATIONS.items() for run in one.runs])
def test_a_mutation_shows(mutation: str, run: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        MUTATIONS[mutation].apply(patched)
        deviations = golden.deviations(golden.golden_record(run, folder), RECORDS[run])
    assert max(deviations.values()) > 2, deviations
