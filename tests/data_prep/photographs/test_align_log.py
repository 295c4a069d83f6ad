"""The log of an alignment: a damaged line costs its photograph alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.photographs.align_log import AlignLog, Alignment
from facekd.errors import DataError
from tests.full_disk import full_disk

SETTINGS = {"size": 112}


def write(folder: Path) -> list[bytes]:
    with AlignLog(folder, SETTINGS) as log:
        for name in ("a", "b", "c"):
            log.add(Alignment(f"{name}.jpg", [1, 2, 3], crop=f"{name}\u2028.png"))
    return log.path.read_bytes().split(b"\n")


@pytest.mark.parametrize(
    "bad",
    [b"\xff\xfe", b"7", b"[]", b'{"photo": "b.jpg"}', b'{"photo": 3, "stamp": 4}', b"[", b"[" * 100_000, b"9" * 5000]
    + [
        b'{"photo": "b.jpg", "stamp": [1], "%s": %s}' % (name, value)
        for name, value in ((b"crop", b"[]"), (b"reason", b'"../x"'), (b"reason", b"[]"), (b"reason", b"7"))
    ]
    + [
        b'{"photo": "b.jpg", "stamp": [1], "crop": "b.png", "%s": %s}' % (name, value)
        for name, value in (
            *((b"landmarks", b'"abc"'), (b"landmarks", b"[1]"), (b"score", b'"x"'), (b"detail", b"3")),
            (b"reason", b'"no_face"'),
        )
    ],
)
def test_a_damaged_line_costs_its_photograph_alone(tmp_path: Path, bad: bytes, capsys: pytest.CaptureFixture) -> None:
    lines = write(tmp_path)
    lines[2] = bad
    (tmp_path / "align_log.jsonl").write_bytes(b"\n".join(lines) + b'{"photo": "d')  # cut by a kill
    with AlignLog(tmp_path, SETTINGS) as log:
        assert sorted(log.entries) == ["a.jpg", "c.jpg"]
        assert log.entries["a.jpg"].crop == "a\u2028.png"
    assert "1 line is damaged" in capsys.readouterr().err
    assert log.path.read_bytes() == b"\n".join(lines)


def test_without_its_settings_a_log_is_refused(tmp_path: Path) -> None:
    lines = write(tmp_path)
    (tmp_path / "align_log.jsonl").write_bytes(b"\n".join([b"[]", *lines[1:]]))
    with pytest.raises(DataError, match=r"its first line, the settings, is damaged.*--force"):
        AlignLog(tmp_path, SETTINGS)


def test_a_full_disk_is_told_by_the_name_of_the_log_although_closing_tries_once_more(tmp_path: Path) -> None:
    with AlignLog(tmp_path, SETTINGS) as log:
        room = log.path.stat().st_size + 9
    with pytest.raises(OSError) as met, full_disk(room), AlignLog(tmp_path, SETTINGS) as log:
        log.add(Alignment("a.jpg", [1, 2, 3]))
    assert met.value.filename == str(log.path)
