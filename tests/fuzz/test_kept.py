"""The few inputs of fuzzing that the repository keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facekd.files.reading import read_json
from tests.fuzz import kept
from tests.fuzz.kept import LONGEST, keep, kept_inputs
from tests.fuzz.target import Target
from tests.fuzz.targets.all_targets import TARGETS

NO_JSON, BREAKS = b"{", b'{"breaks": 1}'


def read(path: Path) -> Any:
    found = read_json(path, "a test")
    assert "breaks" not in found
    return found


TOY = Target("toy", "a.json", read, lambda: [b'{"a": 1}'])


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as fuzzing leaves it: inputs of which some go the same way, and one that broke a reader once."""
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    corpus = tmp_path / "findings" / "corpus" / "toy"
    corpus.mkdir(parents=True)
    for number, content in enumerate(
        [b'{"a": 1}', b'{"a": 2}', b'{"a": 2, "b": 3}', NO_JSON, b"{{{{", b"[]" + b" " * LONGEST]
    ):
        (corpus / str(number)).write_bytes(content)
    (tmp_path / "findings" / "toy-crash-1").write_bytes(b'{"a": 77}')
    (tmp_path / "findings" / "toy-crash-2").write_bytes(BREAKS)
    (tmp_path / "findings" / "toyland-crash-3").write_bytes(b'{"a": 78}')
    return tmp_path / "findings"


def test_what_broke_a_reader_and_the_smallest_that_go_a_new_way_are_kept(findings: Path) -> None:
    there, count, broken = keep(TOY, findings)
    assert (there, count) == (7, 2) and kept_inputs("toy") == [NO_JSON, b'{"a": 77}']
    assert len(broken) == 1 and "AssertionError" in broken[0]

    # They stay without the folder, and the archive is the same to the byte; what breaks the reader now is told again.
    archive = (kept.FOLDER / "toy.zip").read_bytes()
    assert keep(TOY, findings / "none") == (2, 2, []) and (kept.FOLDER / "toy.zip").read_bytes() == archive


def test_an_input_that_a_new_seed_replaces_goes(findings: Path) -> None:
    keep(TOY, findings)
    (findings / "toy-crash-1").unlink()
    (kept.FOLDER / "toy.zip").unlink()
    assert keep(Target("toy", "a.json", read, lambda: [b'{"a": 1}', b"}"]), findings)[1] == 0
    assert not (kept.FOLDER / "toy.zip").exists() and kept_inputs("toy") == []


def test_the_repository_keeps_little() -> None:
    archives = sorted(kept.FOLDER.glob("*")) if kept.FOLDER.exists() else []
    assert {path.name for path in archives} <= {f"{target.name}.zip" for target in TARGETS}
    assert sum(path.stat().st_size for path in archives) < 300_000
    assert all(len(content) <= LONGEST for target in TARGETS for content in kept_inputs(target.name))
