"""Checks that a job killed at any rename or deletion is finished by the same command, and never shows half a result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import convert_records, make_ijb_layout, make_pair_set, pack_records

Run = Callable[..., tuple[int, str, str]]
# Runs a verb that is killed before rename or deletion 1, 2, ..., each time on a copy of `before`, and then runs it once
# more. Prints the files that are there after the kill and after the second run, as digests of visible and hidden ones.
CHILD = """
import functools, hashlib, importlib, json, os, pathlib, shutil, sys
from facekd.errors import run_verb
verb, before, out, *arguments = sys.argv[1:]
out, before = pathlib.Path(out), pathlib.Path(before)
main = importlib.import_module("data_prep." + verb).main
NAMES = ("replace", "rename", "unlink", "rmdir")
os.fsync = lambda file: None  # nobody cuts the power of a test

def digests():
    files = [path for path in sorted(out.rglob("*")) if path.is_file()] if out.is_dir() else []
    return {str(path.relative_to(out)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}

def run(kill_at):
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    left = [kill_at]
    def dying(act):
        @functools.wraps(act)
        def die_or_act(*given, **options):
            path = str(given[0])
            if path.startswith(str(out)) and not path.endswith(".lock"):  # a lock is no part of a result
                left[0] -= 1
                if left[0] == 0:
                    os._exit(99)
            return act(*given, **options)
        return die_or_act
    for name in NAMES:
        setattr(os, name, dying(getattr(os, name)))
        if hasattr(pathlib, "_NormalAccessor"):  # Python 3.10: its paths hold the functions of os since the import
            setattr(pathlib._NormalAccessor, name, staticmethod(getattr(os, name)))
    os.remove = dying(os.remove)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(run_verb(functools.partial(main, arguments)))

for kill_at in range(1, 1000):
    shutil.rmtree(out, ignore_errors=True)
    if before.is_dir():
        shutil.copytree(before, out)
    status = run(kill_at)
    killed = digests()
    print(json.dumps([status, killed, None if status != 99 else run(0), digests()]))
    if status != 99:
        break
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 0)


def make_photos(root: Path, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    for number in range(6):
        person = root / f"person {number // 2}"
        person.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (person / f"{number}.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    return root


def kill_everywhere(verb: str, before: Path, out: Path, *arguments: object) -> list[dict[str, str]]:
    """Kills a verb everywhere, and checks that the next run leaves what an undisturbed one does.

    Returns:
        Digests of the files after each kill; then those of the old result, and last those of the new one.
    """
    command = [sys.executable, "-c", CHILD, verb, *map(str, (before, out, *arguments))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *killed, undisturbed = [json.loads(line) for line in done.stdout.splitlines()]
    assert undisturbed[0] == 0, done.stderr
    assert len(killed) >= 2
    whole = undisturbed[3]
    assert not [name for name in whole if name.startswith(".")]
    for number, (_, _, status, files) in enumerate(killed, start=1):
        assert status == 0, f"refused after the kill at {number}: {done.stderr}"
        assert files == whole, number
    return [state[1] for state in killed] + [killed[0][1], whole]


def assert_never_mixed(states: list[dict[str, str]], parts: tuple[str, ...]) -> None:
    """Checks that where the first part is, the other parts are of the same result."""
    *killed, old, new = states
    for state in killed:
        if parts[0] in state:
            shown = [state.get(part) for part in parts]
            assert shown in ([old.get(part) for part in parts], [new.get(part) for part in parts])


PACK = ("train.rec", "train.idx", "train.lst", "property")


def test_a_pack_is_finished(photos: Path, tmp_path: Path) -> None:
    arguments = (photos, tmp_path / "out", "--size", 32, "--workers", 1)
    assert_never_mixed(kill_everywhere("pack_records", tmp_path / "none", tmp_path / "out", *arguments), PACK)


def test_a_pack_is_replaced_whole(photos: Path, tmp_path: Path, run: Run) -> None:
    make_photos(tmp_path / "others", 1)
    (tmp_path / "others" / "person 3").mkdir()
    (tmp_path / "others" / "person 0" / "0.png").rename(tmp_path / "others" / "person 3" / "0.png")
    assert run(pack_records.main, tmp_path / "others", tmp_path / "old", "--size", 32)[0] == 0
    arguments = (photos, tmp_path / "out", "--size", 32, "--workers", 1, "--force")
    states = kill_everywhere("pack_records", tmp_path / "old", tmp_path / "out", *arguments)
    assert_never_mixed(states, PACK)
    assert states[-2]["property"] != states[-1]["property"]


@pytest.mark.parametrize(
    ("options", "is_old"),
    [
        pytest.param((), True, marks=pytest.mark.slow),
        (("--shards", 2), True),
        pytest.param(("--to", "webdataset", "--shards", 2), True, marks=pytest.mark.slow),
    ],
)
def test_a_conversion_is_finished(photos: Path, tmp_path: Path, run: Run, options: tuple, is_old: bool) -> None:
    if is_old:
        others = make_photos(tmp_path / "others", 1)
        assert run(convert_records.main, others, tmp_path / "old", *options)[0] == 0
    more = ("--force",) if is_old else ()
    arguments = (photos, tmp_path / "out", *options, "--workers", 1, *more)
    states = kill_everywhere("convert_records", tmp_path / "old", tmp_path / "out", *arguments)
    *killed, old, new = states
    main = [name for name in new if name.endswith((".rec", ".tar"))]
    for state in killed:
        # Shards of two conversions are never there together, and tars are no data set while some are missing.
        there = {name: state[name] for name in main if name in state}
        assert all(file == old.get(name) for name, file in there.items()) or there.items() <= new.items()
        if 0 < len(there) < len(main) and "webdataset" in options and there.items() <= new.items():
            assert ".convert_progress.json" in state
    # The report is that of the files beside it.
    for state in killed:
        if state.get("convert_report.json") == old.get("convert_report.json") and is_old:
            shown = {name: digest for name, digest in old.items() if not name.startswith(".")}
            assert shown.items() <= state.items()
    for name in main if "webdataset" not in options else ():
        stem = name.removesuffix("rec")
        assert_never_mixed(states, (name, f"{stem}idx", f"{stem}lst"))


def test_a_cleaning_is_finished(photos: Path, tmp_path: Path, run: Run) -> None:
    assert run(pack_records.main, photos, tmp_path / "pack", "--size", 32)[0] == 0
    (tmp_path / "drop.tsv").write_text("drop\t2\n")
    arguments = (tmp_path / "pack", tmp_path / "out", "--apply", tmp_path / "drop.tsv")
    states = kill_everywhere("clean_records", tmp_path / "none", tmp_path / "out", *arguments)
    assert_never_mixed(states, (*PACK, "clean_report.json"))


@pytest.mark.parametrize("is_old", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_verification_pack_is_finished(photos: Path, tmp_path: Path, run: Run, is_old: bool) -> None:
    options = ("--sample", "all", "--folds", 2, "--size", 32, "--workers", 1)
    if is_old:
        others = make_photos(tmp_path / "others", 1)
        assert run(make_pair_set.main, others, tmp_path / "old" / "mine.bin", *options, "--seed", 1)[0] == 0
    more = ("--force",) if is_old else ()
    arguments = (photos, tmp_path / "out" / "mine.bin", *options, *more)
    states = kill_everywhere("make_pair_set", tmp_path / "old", tmp_path / "out", *arguments)
    assert_never_mixed(states, ("mine.bin", "mine_pairs.txt"))


@pytest.mark.parametrize("is_old", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_ijb_layout_is_finished(photos: Path, tmp_path: Path, run: Run, is_old: bool) -> None:
    if is_old:
        others = make_photos(tmp_path / "others", 1)
        assert run(make_ijb_layout.main, others, tmp_path / "old", "--workers", 0, "--seed", 3)[0] == 0
    arguments = (photos, tmp_path / "out", "--workers", 0, *(("--overwrite",) if is_old else ()))
    states = kill_everywhere("make_ijb_layout", tmp_path / "old", tmp_path / "out", *arguments)
    assert_never_mixed(states, ("layout.json", "sources.tsv", "meta/ijbc_face_tid_mid.txt", "loose_crop/1.jpg"))


@pytest.mark.slow
def test_a_generated_set_is_finished(tmp_path: Path) -> None:
    options = ("--identities", 2, "--images-per-identity", 2, "--size", 48, "--pairs", 0, "--workers", 0)
    states = kill_everywhere(
        "synthesize_faces", tmp_path / "none", tmp_path / "out", "--output", tmp_path / "out", *options
    )
    assert_never_mixed(states, ("synthesis.json", *PACK, "contact_sheet.png"))


def test_an_unpacking_is_finished(photos: Path, tmp_path: Path, run: Run) -> None:
    assert run(pack_records.main, photos, tmp_path / "pack", "--size", 32)[0] == 0
    kill_everywhere("unpack_records", tmp_path / "none", tmp_path / "out", tmp_path / "pack", tmp_path / "out")
