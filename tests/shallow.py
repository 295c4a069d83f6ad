"""Makes MobileFaceNets of one unit a stage: tests of what is around a network need not wait for fifteen units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facekd.backbones import mobilefacenet

FULL = mobilefacenet.UNITS
SHALLOW = tuple((out, inner, 1, stride, is_residual) for out, inner, _, stride, is_residual in FULL)
# Tests in these folders look at what is around a network, in this process.
FOLDERS = [
    *(f"facekd/{name}" for name in ("api", "embedder", "experiments", "export", "quality", "teacher", "training")),
    "evaluation",
    "data_prep",
]


@pytest.fixture(scope="module", autouse=True)
def shallow_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes networks shallow while a module of these folders is tested."""
    with pytest.MonkeyPatch.context() as patch:
        if any(request.path.is_relative_to(Path(__file__).parent / folder) for folder in FOLDERS):
            patch.setattr(mobilefacenet, "UNITS", SHALLOW)
        yield


@pytest.fixture
def full_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes networks as they are, for a test that compares one of this process with one of another."""
    monkeypatch.setattr(mobilefacenet, "UNITS", FULL)
