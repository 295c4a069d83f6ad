"""`facekd data synthesize`: what it writes, that it is the same every time, and that nothing is lost on the way."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import synthesize_faces
from data_prep.synthesize_faces import FIRST_TEST_IDENTITY, Settings, main, synthesize
from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.data.recordio import RecordReader, unpack
from facekd.data.synthetic import render_faces
from facekd.data.synthetic.pairs import plan_pairs
from facekd.errors import DataError, run_verb
from facekd.files.reading import sha256_of_file

SMALL = Settings(
    identities=3,
    images_per_identity=4,
    size=32,
    seed=2,
    test_identities=20,
    test_images_per_identity=3,
    pairs=40,
    layout="records",
    quality=95,
)
OPTIONS = "--identities 3 --images-per-identity 4 --size 32 --seed 2 --test-identities 20 --test-images-per-identity 3"
ARGUMENTS = [*OPTIONS.split(), "--pairs", "40", "--quality", "95", "--workers", "0"]
ALL_FILES = {"train.rec", "train.idx", "train.lst", "property", "test.bin", "test_pairs.txt", "contact_sheet.png"}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of_file(path) for path in folder.iterdir() if path.is_file()}


def with_settings(**changes: object) -> Settings:
    return Settings(**{**SMALL.__dict__, **changes})


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    assert main([*ARGUMENTS, "--output", str(folder)]) == 0
    return folder


def assert_close_to(images: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for JPEG: much nearer to the right image than to any other."""
    distance = np.abs(images[:, None].astype(int) - expected[None]).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(len(images))).all()
    assert np.diag(distance).mean() < 6


def test_training_shards_are_insightface_packs_of_the_right_faces(generated: Path) -> None:
    assert {path.name for path in generated.iterdir()} == ALL_FILES | {"synthesis.json"}
    people, photos = np.divmod(np.arange(12), 4)
    images = []
    with RecordReader(generated / "train.rec") as reader:
        assert sorted(reader.keys.tolist()) == list(range(16))
        for key in range(1, 13):
            header, content = unpack(reader.read(key))
            assert np.asarray(header.label).tolist() == [people[key - 1], 1]
            images.append(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
        header, content = unpack(reader.read(0))
        assert np.asarray(header.label).tolist() == [13, 16] and not content
        assert np.asarray(unpack(reader.read(14))[0].label).tolist() == [5, 9]
    assert_close_to(np.stack(images), render_faces(people, photos, 32, seed=2))
    assert (generated / "property").read_text().strip() == "3,32,32"


def test_the_verification_pack_is_of_other_people(generated: Path) -> None:
    pack = read_pair_pack(generated / "test.bin")
    plan = plan_pairs(40, 20, 3, seed=2)
    np.testing.assert_array_equal(pack.is_same, plan.is_same)
    people = plan.identities.reshape(-1) + FIRST_TEST_IDENTITY
    expected = render_faces(people, plan.images.reshape(-1), 32, seed=2)
    decoded = decode_images(pack.images)
    assert np.abs(decoded.astype(int) - expected).mean() < 6
    lines = [line.split("\t") for line in (generated / "test_pairs.txt").read_text().splitlines()]
    assert [int(label) for _, _, label in lines] == pack.is_same.tolist()
    subjects = [(first.split("/")[0], second.split("/")[0]) for first, second, _ in lines]
    assert [first == second for first, second in subjects] == pack.is_same.tolist()
    # Folds share nobody, and the names in the list are the people of the plan.
    folds = [{name for pair in subjects[4 * fold : 4 * fold + 4] for name in pair} for fold in range(10)]
    assert sum(map(len, folds)) == len(set().union(*folds))
    assert [int(name.removeprefix("test_")) for pair in subjects for name in pair] == plan.identities.reshape(
        -1
    ).tolist()


def test_test_people_stay_whatever_the_training_set(generated: Path, tmp_path: Path) -> None:
    synthesize(with_settings(identities=5, images_per_identity=1), tmp_path, workers=0)
    assert sha256_of_file(tmp_path / "test.bin") == sha256_of_file(generated / "test.bin")


def test_summary_and_contact_sheet(generated: Path) -> None:
    summary = json.loads((generated / "synthesis.json").read_text())
    assert summary["settings"] == {key: value for key, value in SMALL.__dict__.items() if key != "groups"}
    assert summary["train"] == {"identities": 3, "images": 12}
    assert summary["test"] == {"identities": 20, "pairs": 40}
    assert {name: entry["sha256"] for name, entry in summary["files"].items()} == {
        name: digest for name, digest in hashes(generated).items() if name != "synthesis.json"
    }
    assert cv2.imread(str(generated / "contact_sheet.png")).shape == (3 * 32, 4 * 32, 3)


def test_other_processes_write_the_same_bytes(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesize_faces, "PART_SIZE", 7)
    synthesize(SMALL, tmp_path, workers=2)
    assert hashes(tmp_path) == hashes(generated)


def test_the_same_command_finds_it_done(generated: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in generated.iterdir()}
    monkeypatch.setattr(synthesize_faces, "render_faces", lambda *_: pytest.fail("rendered again"))
    assert main([*ARGUMENTS, "--output", str(generated)]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in generated.iterdir()} == before
    assert "12 training images of 3 people, 40 test pairs of 20 others, 32 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["train.rec", "test.bin", "contact_sheet.png"])
def test_what_is_missing_is_made_again(tmp_path: Path, generated: Path, name: str) -> None:
    synthesize(SMALL, tmp_path, workers=0)
    (tmp_path / name).write_bytes(b"cut short")
    synthesize(SMALL, tmp_path, workers=0)
    assert hashes(tmp_path) == hashes(generated)


@pytest.mark.parametrize("layout", ["records", "folders"])
def test_groups_are_planted_and_written_beside_the_set(tmp_path: Path, layout: str) -> None:
    wanted = with_settings(identities=8, images_per_identity=2, groups=True, layout=layout)
    summary = synthesize(wanted, tmp_path, workers=0)
    train, test = ((tmp_path / name).read_text().splitlines() for name in ("groups.csv", "test_groups.csv"))
    first = {"records": "0", "folders": "0000000"}[layout]
    assert train[:3] == ["person,photos,looks,control", f"{first},usual,usual,one", f"{first[:-1]}1,poor,usual,one"]
    assert len({line.split(",", 1)[1] for line in train[1:]}) == 8 and len(test) == 1 + 20
    assert test[7] == "test_0000006,usual,alike,other"
    assert {"groups.csv", "test_groups.csv"} <= set(summary["files"]) and summary["settings"]["groups"] is True
    # People of usual photos and looks are as they are without groups, the others are not.
    pack = decode_images(read_pair_pack(tmp_path / "test.bin").images)
    plan = plan_pairs(40, 20, 3, seed=2)
    people, photos = plan.identities.reshape(-1) + FIRST_TEST_IDENTITY, plan.images.reshape(-1)
    as_usual = render_faces(people, photos, 32, seed=2)
    planted = render_faces(people, photos, 32, seed=2, has_groups=True)
    is_equal = (planted == as_usual).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(is_equal, people % 4 == 0)
    assert np.abs(pack.astype(int) - planted).mean() < 6 < np.abs(pack.astype(int) - as_usual).mean()
    # The folder is another set's for the same options without --groups, and the same command finds it done.
    before = hashes(tmp_path)
    with pytest.raises(DataError, match=r"another generated set .groups True instead of False.;"):
        synthesize(with_settings(identities=8, images_per_identity=2, layout=layout), tmp_path, workers=0)
    synthesize(wanted, tmp_path, workers=0)
    assert hashes(tmp_path) == before


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, generated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesize_faces, "PART_SIZE", 10)
    rendered = []

    def render_until_stopped(people: np.ndarray, *rest: int) -> np.ndarray:
        if len(rendered) == 4:
            raise KeyboardInterrupt
        rendered.append(len(people))
        return render_faces(people, *rest)

    monkeypatch.setattr(synthesize_faces, "render_faces", render_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        synthesize(SMALL, tmp_path, workers=0)
    assert not (tmp_path / "train.rec").exists()
    with pytest.raises(DataError, match="seed 2 instead of 9"):  # its parts are not taken for another set's
        synthesize(with_settings(seed=9), tmp_path, workers=0)
    damaged = min((tmp_path / ".synthesis").glob("train*"))
    damaged.write_bytes(damaged.read_bytes()[:-70] + bytes(70))
    rendered.remove(10)  # the damaged part is rendered again
    rest = []
    monkeypatch.setattr(synthesize_faces, "render_faces", lambda p, *r: rest.append(len(p)) or render_faces(p, *r))
    synthesize(SMALL, tmp_path, workers=0)
    sheet = 12
    assert sum(rendered) + sum(rest) - sheet == 12 + 60
    assert hashes(tmp_path) == hashes(generated)
    assert not (tmp_path / ".synthesis").exists()


def test_another_set_is_not_overwritten_unasked(tmp_path: Path) -> None:
    synthesize(SMALL, tmp_path, workers=0)
    before = hashes(tmp_path)
    other = with_settings(identities=2, layout="folders", pairs=0, test_identities=0, test_images_per_identity=0)
    with pytest.raises(DataError, match=r"another generated set .identities 3 instead of 2, .*--overwrite"):
        synthesize(other, tmp_path, workers=0)
    assert hashes(tmp_path) == before
    synthesize(other, tmp_path, workers=0, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"train", "contact_sheet.png", "synthesis.json"}


@pytest.mark.parametrize("key", ["settings", "files", "train"])
def test_a_damaged_summary_is_none(tmp_path: Path, generated: Path, key: str) -> None:
    shutil.copytree(generated, tmp_path, dirs_exist_ok=True)
    summary = json.loads((tmp_path / "synthesis.json").read_text())
    (tmp_path / "synthesis.json").write_text(json.dumps({**summary, key: ["odd"]}))
    with pytest.raises(DataError, match=r"synthesis\.json .*from elsewhere"):
        synthesize(SMALL, tmp_path, workers=0)


@pytest.mark.parametrize("name", ["train.rec", "train.lst", "test_pairs.txt", "contact_sheet.png", "synthesis.json"])
def test_files_from_elsewhere_are_not_overwritten_unasked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"MS1MV3, five days of download")
    with pytest.raises(DataError, match=f"holds {re.escape(name)} from elsewhere"):
        synthesize(SMALL, tmp_path, workers=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"MS1MV3, five days of download"}


def test_folders(tmp_path: Path, generated: Path) -> None:
    synthesize(with_settings(layout="folders"), tmp_path, workers=0)
    files = sorted(str(path.relative_to(tmp_path / "train")) for path in tmp_path.glob("train/*/*"))
    assert files == [f"{person:07d}/{photo:05d}.jpg" for person in range(3) for photo in range(4)]
    with RecordReader(generated / "train.rec") as reader:
        assert unpack(reader.read(6))[1] == (tmp_path / "train" / files[5]).read_bytes()
    assert sha256_of_file(tmp_path / "test.bin") == sha256_of_file(generated / "test.bin")
    # A lost image is noticed.
    (tmp_path / "train" / files[5]).unlink()
    synthesize(with_settings(layout="folders"), tmp_path, workers=0)
    assert (tmp_path / "train" / files[5]).exists()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "test.bin"))

    monkeypatch.setattr(synthesize_faces, "write_pair_pack", full)
    assert run_verb(lambda: main([*ARGUMENTS, "--output", str(tmp_path)])) == 2
    assert "no space left" in capsys.readouterr().err
    monkeypatch.undo()
    rendered = []
    monkeypatch.setattr(synthesize_faces, "render_faces", lambda p, *r: rendered.append(len(p)) or render_faces(p, *r))
    assert main([*ARGUMENTS, "--output", str(tmp_path)]) == 0
    assert rendered == [12]  # the contact sheet only


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--size 8", "--size: expected a whole number from 16 to 8,192"),
        ("--pairs 30", "multiple of 20"),
        ("--test-identities 5", "5 test identities are too few"),
        ("--pairs 6000", "use more test identities"),
        ("--groups", "--groups needs 8 people"),
    ],
)
def test_impossible_requests_are_explained_and_write_nothing(tmp_path: Path, change: str, says: str, capsys) -> None:
    target = tmp_path / "new"
    with contextlib.suppress(SystemExit):
        assert run_verb(lambda: main([*ARGUMENTS, "--output", str(target), *change.split()])) == 2
    assert says in capsys.readouterr().err
    assert not target.exists()


def test_help_shows_an_example(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "facekd data synthesize --identities 200 --images-per-identity 20 --output" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_prep.synthesize_faces", "--identities", "60", "--images-per-identity", "50"]
    command += ["--size", "48", "--pairs", "200", "--test-identities", "40", "--workers", "2"]
    subprocess.run([*command, "--output", str(tmp_path / "whole")], check=True, capture_output=True)
    for delay in np.linspace(0.8, 8, 7):
        process = subprocess.Popen([*command, "--output", str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--output", str(tmp_path / "killed")], check=True, capture_output=True)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
