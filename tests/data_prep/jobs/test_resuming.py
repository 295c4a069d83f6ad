"""Checks that the same command ends in the same bytes after a kill, a full disk or a bad image."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from data_prep import clean_records, convert_records, pack_records
from facekd.data.datasets.record_pack import open_record_pack
from facekd.files import resumable_file

Run = Callable[..., tuple[int, str, str]]
NUM_IMAGES = 40
# Runs a verb that notes each image at once, and is killed at the 25th, or has a disk of 60 kB.
CHILD = """
import functools, importlib, os, resource, signal, sys
from facekd.files import resumable_file
from facekd.errors import run_verb
verb, trouble, *arguments = sys.argv[1:]
resumable_file.CHECKPOINT_BYTES = 1
if trouble == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
else:
    note, left = resumable_file.ResumableFile.note, [25]
    def dying(self, words):
        note(self, words)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    resumable_file.ResumableFile.note = dying
status = run_verb(functools.partial(importlib.import_module("data_prep." + verb).main, arguments))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))  # coverage writes last
sys.exit(status)
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        person = tmp_path / "photos" / f"Ünal {number // 7}"
        person.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (person / f"{number} 顔.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    return tmp_path / "photos"


def files_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def in_trouble(verb: ModuleType, trouble: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHILD, verb.__name__.rpartition(".")[2], trouble, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_goes_on(run: Run, verb: ModuleType, arguments: tuple, out: Path, whole: Path, at_least: int) -> None:
    status, _, err = run(verb.main, *arguments)
    assert status == 0, err
    found = int(err.partition("going on after ")[2].split()[0])
    assert at_least <= found < NUM_IMAGES
    assert files_in(out) == files_in(whole)


@pytest.mark.parametrize(
    ("verb", "trouble", "options"),
    [
        (pack_records, "killed", ("--size", 32)),
        (pack_records, "full", ("--size", 32, "--layout", "im2rec")),
        (convert_records, "killed", ("--to", "webdataset")),
        (convert_records, "full", ()),
        (convert_records, "killed", ("--shards", 3, "--shuffle")),
    ],
)
def test_the_same_command_goes_on(
    photos: Path, tmp_path: Path, run: Run, verb: ModuleType, trouble: str, options: tuple
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(verb.main, photos, whole, *options)[0] == 0
    stopped = in_trouble(verb, trouble, photos, out, *options)
    left = sorted(file.name for file in out.iterdir() if not file.name.startswith("."))
    if trouble == "killed":
        assert stopped.returncode == -9, stopped.stderr
    else:
        assert stopped.returncode == 2 and "File too large" in stopped.stderr and "Traceback" not in stopped.stderr
        assert "images are kept in" in stopped.stderr and "run the same command again to go on" in stopped.stderr
        # Where the disk is as full as before, that is said again, and nothing is lost.
        kept = files_in(out)
        assert in_trouble(verb, trouble, photos, out, *options).returncode == 2
        assert {name: len(content) for name, content in files_in(out).items()} == {
            name: len(content) for name, content in kept.items()
        }
    # Nothing bears a name that a reader would take for a result, but the shard that is finished.
    finished = NUM_IMAGES // 3 if "--shards" in options else 0
    shard = [f"train-00000-of-00003.{kind}" for kind in ("idx", "lst", "rec")]
    assert left == (["property", *shard] if finished else [])
    assert_goes_on(run, verb, (photos, out, *options), out, whole, 25 - finished if trouble == "killed" else 10)


def test_a_cleaning_goes_on(photos: Path, tmp_path: Path, run: Run) -> None:
    assert run(pack_records.main, photos, tmp_path / "pack", "--size", 32)[0] == 0
    (tmp_path / "drop.tsv").write_text("drop\t3\ndrop\t39\nmerge\t0\t1\n")
    arguments = (tmp_path / "pack", tmp_path / "out", "--apply", tmp_path / "drop.tsv")
    assert in_trouble(clean_records, "killed", *arguments).returncode == -9
    assert run(clean_records.main, arguments[0], tmp_path / "whole", *arguments[2:])[0] == 0
    assert_goes_on(run, clean_records, arguments, tmp_path / "out", tmp_path / "whole", 25)
    assert in_trouble(clean_records, "killed", *arguments, "--force").returncode == -9
    (tmp_path / "drop.tsv").write_text("drop\t5\n")  # other lists: nothing of it is of use
    status, _, err = run(clean_records.main, *arguments, "--force")
    assert status == 0 and "going on" not in err
    assert open_record_pack(tmp_path / "out").num_images == NUM_IMAGES - 1


def test_shards_of_a_stopped_conversion_give_way_to_others(photos: Path, tmp_path: Path, run: Run) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert in_trouble(convert_records, "killed", photos, out, "--shards", 3).returncode == -9
    assert (out / ".train-00001-of-00003.rec.partial").exists()
    status, _, err = run(convert_records.main, photos, out, "--shards", 2)
    assert status == 2 and "train-00000-of-00003.rec is there already" in err
    assert run(convert_records.main, photos, out, "--shards", 2, "--force")[0] == 0
    assert run(convert_records.main, photos, whole, "--shards", 2)[0] == 0
    assert files_in(out) == files_in(whole)


@pytest.fixture
def note_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_file, "CHECKPOINT_BYTES", 1)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # nobody cuts the power of a test


@pytest.mark.usefixtures("note_each")
@pytest.mark.parametrize("verb", [pack_records, convert_records])
def test_a_bad_image_is_passed_over_without_doing_the_rest_again(
    photos: Path, tmp_path: Path, run: Run, verb: ModuleType
) -> None:
    options = ("--size", 32) if verb is pack_records else ("--reencode", 90)
    bad = [sorted(photos.rglob("*.png"))[place] for place in (3, -4)]
    for file in bad:
        file.write_bytes(b"bad")
    status, _, err = run(verb.main, photos, tmp_path / "out", *options)
    assert status == 2 and "do not decode" in err and "3 images are kept" in err
    status, out, err = run(verb.main, photos, tmp_path / "out", *options, "--on-bad-record", "skip")
    assert status == 0 and "going on after 3 images" in err and out.rstrip().endswith("2 skipped")
    assert run(verb.main, photos, tmp_path / "whole", *options, "--on-bad-record", "skip")[0] == 0
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


@pytest.mark.usefixtures("note_each")
@pytest.mark.parametrize("verb", [pack_records, convert_records])
def test_nothing_stale_is_gone_on_with(photos: Path, tmp_path: Path, run: Run, verb: ModuleType) -> None:
    options = ("--size", 32) if verb is pack_records else ("--reencode", 90)
    files = sorted(photos.rglob("*.png"))
    sound = files[20].read_bytes()

    def stop() -> None:
        files[20].write_bytes(b"bad")
        status, _, err = run(verb.main, photos, tmp_path / "out", *options)
        assert status == 2 and "20 images are kept" in err
        files[20].write_bytes(sound)

    def assert_begins_anew(*more: object) -> None:
        status, _, err = run(verb.main, photos, tmp_path / "out", *options, *more, "--force")
        assert status == 0 and "going on" not in err
        assert run(verb.main, photos, tmp_path / "whole", *options, *more, "--force")[0] == 0
        assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")

    stop()
    assert_begins_anew("--layout", "im2rec")  # other options
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    stop()
    files[4].write_bytes(sound)  # an image has changed
    os.utime(files[4], ns=(1, 1))
    assert_begins_anew()
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    stop()
    files[30].rename(files[30].with_name("renamed.png"))  # another list of images
    assert_begins_anew()


@pytest.mark.usefixtures("note_each")
def test_images_passed_over_are_not_where_that_is_no_longer_wanted(photos: Path, tmp_path: Path, run: Run) -> None:
    files = sorted(photos.rglob("*.png"))
    sound = files[3].read_bytes()
    files[3].write_bytes(b"bad")
    prepare_image = pack_records.prepare_image

    def interrupted(path: Path, *rest: object) -> bytes:
        if path == files[20]:
            raise KeyboardInterrupt
        return prepare_image(path, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_records, "prepare_image", interrupted)
        status, _, err = run(pack_records.main, photos, tmp_path / "out", "--size", 32, "--on-bad-record", "skip")
        assert status == 130 and "19 images are kept" in err
    files[3].write_bytes(sound)
    status, out, err = run(pack_records.main, photos, tmp_path / "out", "--size", 32)
    assert status == 0 and "going on" not in err and f"{NUM_IMAGES} images" in out
    assert open_record_pack(tmp_path / "out").num_images == NUM_IMAGES
