"""The example configurations: listed with what they are, and printed as `facekd train` reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekd.cli import main

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_the_list_tells_every_configuration_from_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert set(rows) == {f"configs/{path.relative_to(CONFIGS)}" for path in CONFIGS.rglob("*.yaml")}
    assert len(set(rows.values())) == len(rows) and all(len(text) > 20 for text in rows.values())


def test_a_printed_configuration_is_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configs", "configs/debug.yaml"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "debug.yaml").read_text()


@pytest.mark.parametrize("typed", ["debug", "debug.yaml", "train/debug.yaml", "configs/debg.yaml"])
def test_an_unknown_name_gets_a_suggestion(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", typed]) == 2
    assert f"error: {typed}: no example configuration of facekd; did you mean configs/debug.yaml? (" in (
        capsys.readouterr().err
    )
