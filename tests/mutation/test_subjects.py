"""What mutation testing covers is there: a file that was renamed would be left out without a word."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.mutation.subjects import SUBJECTS

ROOT = Path(__file__).resolve().parents[2]


def test_subjects_and_survivors_name_files_that_are_there() -> None:
    for patterns, tests in SUBJECTS.values():
        assert all(any(ROOT.glob(pattern)) for pattern in patterns), patterns
        assert all((ROOT / test).exists() for test in tests), tests
    covered = {
        str(path.relative_to(ROOT))
        for patterns, _ in SUBJECTS.values()
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    survivors = yaml.safe_load(Path(__file__).with_name("survivors.yaml").read_text())
    assert survivors.keys() <= covered
    assert all(row["changes"] and row["reason"].strip() for rows in survivors.values() for row in rows)
