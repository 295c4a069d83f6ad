"""Environment variables that should hold numbers, and hold something else: one line, whichever verb reads them."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from facekd.cli import main
from facekd.errors import ConfigError, FacekdError, ImageError
from facekd.images.decoding import decode_rgb
from facekd.utils.environment import why_not_compile_in
from facekd.utils.processes.children import launcher_number

PIXELS = "OPENCV_IO_MAX_IMAGE_PIXELS"


@pytest.mark.parametrize("value", ["1e9", "1kB", "1GB", "", " 5", "-1", "9" * 30])
@pytest.mark.parametrize("name", [PIXELS, "OPENCV_IO_MAX_IMAGE_WIDTH"])
def test_a_limit_at_which_opencv_would_abort_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["compare", "a.jpg", "b.jpg", "--model", "m.onnx"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: the environment variable {name} should be a number such as") and said.count("\n") == 1
    )
    assert main(["--version"]) == 0


@pytest.mark.parametrize(("value", "most"), [("600", 600), ("1KB", 1024), ("1Kb", 1024), ("1mb", 1 << 20)])
def test_limits_mean_what_they_mean_to_opencv(value: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cv2.imencode(".png", np.zeros((1030, 1024, 3), np.uint8))[1].tobytes()
    monkeypatch.setenv(PIXELS, value)
    with pytest.raises(
        ImageError, match=f"announce 1,024 x 1,030 pixels, and at most {most:,} are read: {PIXELS} sets"
    ):
        decode_rgb(content)
    monkeypatch.setenv(PIXELS, "2MB")
    assert decode_rgb(content).shape == (1030, 1024, 3)
    monkeypatch.setenv(PIXELS, "2 MB")
    with pytest.raises(ConfigError, match=f"variable {PIXELS} should be a number"):
        decode_rgb(content)


@pytest.mark.parametrize("value", ["abc", "nan", "1e999", "9" * 5000, "-1"])
def test_a_wait_and_a_rank_that_are_none_do_not_hide_the_error(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: print(f"waits {seconds:g}"))
    monkeypatch.setenv("FACEKD_SECONDS_FOR_THE_FIRST", value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", value)
    assert main(["data", "index", str(tmp_path / "none.rec")]) == 2
    printed = capsys.readouterr()
    assert printed.out == f"waits {0 if value == '-1' else 2}\n" and printed.err.startswith("error: ")


@pytest.mark.parametrize("value", ["x", "1.5", "9" * 400, "9" * 5000])
def test_a_launchers_number_that_is_none_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(FacekdError, match=r"variable WORLD_SIZE should be a whole number, and is '.{1,40}': unset it"):
        launcher_number("WORLD_SIZE", 1)
    monkeypatch.setenv("WORLD_SIZE", "-3")
    assert launcher_number("WORLD_SIZE", 1) == -3


def test_compiled_code_is_kept_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, link, dangling = (tmp_path / name for name in ("torchinductor_me", "link", "dangling"))
    link.symlink_to(folder)
    dangling.symlink_to("nowhere")
    (tmp_path / "file").touch()
    assert why_not_compile_in(folder) is None and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o775)  # as torch makes it where each user has a group
    assert why_not_compile_in(folder) is None and why_not_compile_in(link) is None
    folder.chmod(0o777)
    for path in (folder, link):
        assert "every user may write into it: remove it, or set TMPDIR" in str(why_not_compile_in(path))
    folder.chmod(0o700)
    for path in (tmp_path / "file", dangling):
        assert "it is not a folder of your own" in str(why_not_compile_in(path))
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert "it is not a folder of your own" in str(why_not_compile_in(folder))
