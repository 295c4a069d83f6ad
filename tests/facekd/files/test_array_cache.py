"""Checks that caches of arrays are valid for one source alone, may lie in the user's folder, and never raise errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facekd.files.array_cache import load_cached, save_cached

ARRAYS = {"rows": np.arange(3)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_cache_is_valid_for_its_source_alone(tmp_path: Path, home: Path) -> None:
    cache = tmp_path / "list.facekd-rows"
    assert load_cached(cache, {"stamp": (1, 2)}) is None
    assert save_cached(cache, {"stamp": (1, 2)}, ARRAYS, {"fingerprint": "f"})
    found = load_cached(cache, {"stamp": (1, 2)})
    assert found is not None and found[0]["fingerprint"] == "f" and found[1]["rows"].tolist() == [0, 1, 2]
    assert load_cached(cache, {"stamp": (1, 3)}) is None
    assert cache.exists() and not home.exists()


def test_read_only_folders_of_one_name_do_not_share_a_cache(tmp_path: Path, home: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o555)
        assert save_cached(tmp_path / name / "list.facekd-rows", {"number": number}, ARRAYS)
    try:
        assert len(list((home / "facekd").iterdir())) == 2
        assert load_cached(tmp_path / "a" / "list.facekd-rows", {"number": 0}) is not None
    finally:
        for name in "ab":
            (tmp_path / name).chmod(0o755)


def test_whatever_byte_is_damaged_the_arrays_are_right_or_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "list.facekd-rows"
    save_cached(cache, {"stamp": (1, 2)}, ARRAYS, {"fingerprint": "f"})
    whole = cache.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    for content in [*damaged, *(whole[:length] for length in range(len(whole)))]:
        cache.write_bytes(content)
        found = load_cached(cache, {"stamp": (1, 2)})
        said = capsys.readouterr().err
        if found is None:
            assert said.count("\n") == 1 and said.startswith(f"{cache}: cannot be used")
        else:  # padding between the arrays
            assert said == "" and found[0]["fingerprint"] == "f" and found[1]["rows"].tolist() == [0, 1, 2]


def test_a_damaged_cache_is_reported_and_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "list.facekd-rows"
    save_cached(cache, {}, ARRAYS)
    cache.write_bytes(cache.read_bytes()[:50])
    assert load_cached(cache, {}) is None
    assert "reading the original files again" in capsys.readouterr().err
