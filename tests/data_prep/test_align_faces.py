"""`facekd data align`, run as a user runs it, on painted faces and generated detectors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import align_faces, pack_records
from data_prep.photographs.landmark_files import read_landmarks
from facekd.errors import DataError
from facekd.images.alignment import align
from tests.full_disk import full_disk
from tests.painted_faces import PAINTED

Run = Callable[..., tuple[int, str, str]]
FLAGS = ("--detector-size", 128, "--format", "png", "--workers", 2)


def paint(*faces: tuple[int, int, int, int], size: int = 128) -> np.ndarray:
    """Dim blue waves, with a cell of 8 pixels for each (column, row, red, blue)."""
    image = np.zeros((size, size, 3), np.uint8)
    image[..., 2] = (np.arange(size) % 60)[:, None]
    for column, row, red, blue in faces:
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = (red, 0, blue)
    return image


def save(path: Path, image: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def log_of(folder: Path) -> dict[str, dict]:
    lines = (folder / "align_log.jsonl").read_text().splitlines()
    return {entry["photo"]: entry for entry in map(json.loads, lines[1:])}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    save(root / "Ada" / "one face.png", paint((6, 7, 255, 0)))
    save(root / "Ada" / "été.png", paint((8, 8, 230, 90)))
    save(root / "Bob" / "none.png", paint())
    save(root / "Bob" / "unsure.png", paint((6, 7, 90, 0)))
    save(root / "Bob" / "several.png", paint((3, 3, 180, 255), (9, 8, 204, 0), (12, 12, 250, 90)))
    (root / "Cyd").mkdir()
    (root / "Cyd" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (root / "Cyd" / "empty.jpg").write_bytes(b"")
    (root / "Cyd" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    return root


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux, to have a file that cannot be read")
def test_a_photograph_that_the_device_does_not_give_is_not_set_aside(
    photos: Path, tmp_path: Path, scrfd: Path, run: Run
) -> None:
    lost = photos / "Bob" / "lost.png"
    lost.symlink_to("/proc/self/mem")
    arguments = (photos, tmp_path / "out", "--detector", scrfd, *FLAGS)
    status, _, err = run(align_faces.main, *arguments)
    assert status == 2 and f"Input/output error while reading or writing {lost}" in err
    lost.unlink()
    save(lost, paint((6, 7, 255, 0)))
    assert run(align_faces.main, *arguments)[0] == 0 and (tmp_path / "out" / "Bob" / "lost.png").exists()


def test_faces_are_cut_and_the_rest_is_listed(photos: Path, tmp_path: Path, scrfd: Path, run: Run) -> None:
    out, aside = tmp_path / "out", tmp_path / "aside"
    status, text, _ = run(align_faces.main, photos, out, "--detector", scrfd, "--set-aside", aside, *FLAGS)
    assert status == 0 and "3 of 8 photographs aligned" in text
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*.png")) == [
        "Ada/one face.png", "Ada/été.png", "Bob/several.png",
    ]  # fmt: skip
    expected = align(read(photos / "Ada" / "one face.png"), np.array([48, 56]) + PAINTED)
    assert np.abs(read(out / "Ada" / "one face.png").astype(int) - expected).mean() < 0.5
    rows = [line.split("\t")[:2] for line in (out / "set_aside.tsv").read_text().splitlines()[1:]]
    assert rows == [
        ["Bob/none.png", "no_face"], ["Bob/unsure.png", "low_confidence"],
        ["Cyd/broken.jpg", "unreadable"], ["Cyd/empty.jpg", "unreadable"], ["Cyd/gone.jpg", "unreadable"],
    ]  # fmt: skip
    report = json.loads((out / "align_report.json").read_text())
    assert report["settings"]["opencv"] == cv2.__version__
    assert report["settings"]["landmarks_from"].startswith("scrfd painted_bnkps.onnx (sha256 ")
    assert report["counts"]["unreadable"] == 3 and report["counts"]["several_faces"] == 1
    assert (aside / "no_face" / "Bob" / "none.png").read_bytes() == (photos / "Bob" / "none.png").read_bytes()
    assert run(pack_records.main, out, tmp_path / "packed")[0] == 0


def test_copies_of_what_is_set_aside_are_whole_and_follow_no_link(
    photos: Path, tmp_path: Path, scrfd: Path, run: Run
) -> None:
    out, aside, victim = tmp_path / "out", tmp_path / "aside", tmp_path / "victim"
    victim.write_bytes(b"mine")
    planted = aside / "no_face" / "Bob" / "none.png"
    planted.parent.mkdir(parents=True)
    planted.symlink_to(victim)
    arguments = (photos, out, "--detector", scrfd, "--set-aside", aside, *FLAGS)

    # The crops fit, and one of the copies does not: it is named, and no half of it is there.
    with (photos / "Bob" / "none.png").open("ab") as stream:
        stream.write(bytes(300_000))
    with full_disk(100_000):
        status, _, error = run(align_faces.main, *arguments)
    assert status == 2 and f"File too large: {planted}" in error
    assert [path for path in aside.rglob("*") if not path.is_dir()] == [planted] and planted.is_symlink()

    # With room, the link is replaced, and what cannot be read is counted.
    status, text, _ = run(align_faces.main, *arguments)
    assert status == 0 and f"copied to {aside}, but for 1 that cannot be read" in text
    assert victim.read_bytes() == b"mine" and not planted.is_symlink()
    names = {str(path.relative_to(aside)) for path in aside.rglob("*") if not path.is_dir()}
    assert names == {
        "low_confidence/Bob/unsure.png", "no_face/Bob/none.png", "unreadable/Cyd/broken.jpg", "unreadable/Cyd/empty.jpg"
    }  # fmt: skip
    assert all((aside / name).read_bytes() == (photos / name.partition("/")[2]).read_bytes() for name in names)


def test_a_name_makes_no_line_in_the_list(photos: Path, tmp_path: Path, scrfd: Path, run: Run) -> None:
    (photos / "Bob" / "none.png").rename(photos / "Bob" / "none\nAda\tno_face\x1b.png")
    assert run(align_faces.main, photos, tmp_path / "out", "--detector", scrfd, *FLAGS)[0] == 0
    lines = (tmp_path / "out" / "set_aside.tsv").read_text().splitlines()
    assert len(lines) == 6 and lines[1].split("\t")[:2] == ["Bob/none\\nAda\\tno_face\\x1b.png", "no_face"]


def test_yunet_cuts_the_same_crops(photos: Path, tmp_path: Path, scrfd: Path, yunet: Path, run: Run) -> None:
    for name, detector in (("a", scrfd), ("b", yunet)):
        assert run(align_faces.main, photos, tmp_path / name, "--detector", detector, *FLAGS)[0] == 0
    crops = [sorted(folder.rglob("*.png")) for folder in (tmp_path / "a", tmp_path / "b")]
    assert len(crops[0]) == len(crops[1]) == 3
    for one, other in zip(*crops, strict=True):
        assert np.abs(read(one).astype(int) - read(other)).mean() < 1


@pytest.mark.parametrize(("choose", "where"), [("largest", (24, 24)), ("centre", (72, 64)), ("score", (96, 96))])
def test_the_face_is_chosen_as_asked(
    choose: str, where: tuple[int, int], photos: Path, tmp_path: Path, scrfd: Path, run: Run
) -> None:
    run(align_faces.main, photos, tmp_path / "out", "--detector", scrfd, "--choose", choose, *FLAGS)
    entry = log_of(tmp_path / "out")["Bob/several.png"]
    np.testing.assert_allclose(np.reshape(entry["landmarks"], (5, 2)), np.array(where) + PAINTED, atol=0.1)
    assert entry["num_faces"] == 3


def test_small_faces_are_passed_over(photos: Path, tmp_path: Path, scrfd: Path, run: Run) -> None:
    run(align_faces.main, photos, tmp_path / "out", "--detector", scrfd, "--min-face", 50, *FLAGS)
    assert log_of(tmp_path / "out")["Ada/one face.png"]["reason"] == "too_small"
    assert log_of(tmp_path / "out")["Bob/several.png"]["crop"] == "Bob/several.png"


def test_a_second_run_goes_on_where_the_first_stopped(
    photos: Path, tmp_path: Path, scrfd: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    run(align_faces.main, photos, whole, "--detector", scrfd, *FLAGS)
    seen: list[str] = []
    original = align_faces.align_photo

    def fail_later(task: align_faces.Task, *rest: object) -> object:
        seen.append(task.photo)
        if task.photo.startswith("Bob/several"):
            raise OSError(28, "No space left on device", "out")
        return original(task, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(align_faces, "align_photo", fail_later)
    status, _, err = run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS)
    assert status == 2 and "no space left" in err and "run the same command again" in err
    num_logged = len(log_of(out))
    assert 0 < num_logged < 8
    with (out / "align_log.jsonl").open("ab") as stream:
        stream.write(b'{"photo": "Cyd/emp')  # a line cut short by the kill
    (out / "Ada" / "one face.png").unlink()
    monkeypatch.setattr(
        align_faces, "align_photo", lambda task, *rest: (seen.append(task.photo), original(task, *rest))[1]
    )
    seen.clear()
    status, text, _ = run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS)
    assert status == 0 and "looked at before" in text
    assert len(seen) == 8 - num_logged + 1 and "Ada/one face.png" in seen
    files = {str(file.relative_to(whole)): file.read_bytes() for file in whole.rglob("*.png")}
    assert {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.png")} == files
    assert (out / "set_aside.tsv").read_bytes() == (whole / "set_aside.tsv").read_bytes()
    seen.clear()
    log = out / "align_log.jsonl"  # as an earlier facekd wrote it: without the change time
    log.write_text(re.sub(r'("stamp": \[\d+, \d+), \d+\]', r"\1]", log.read_text()))
    save(photos / "Ada" / "été.png", paint((6, 7, 255, 0)))  # a photograph that changed is done again
    run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS)
    assert seen == ["Ada/été.png", "Cyd/gone.jpg"]  # and so is one that could not be opened


@pytest.mark.parametrize("changes", [("--force",), ("--size", 96, "--force"), ()])
def test_an_alignment_that_stops_leaves_no_report_of_the_one_before(
    photos: Path, tmp_path: Path, scrfd: Path, run: Run, monkeypatch: pytest.MonkeyPatch, changes: tuple[object, ...]
) -> None:
    arguments = (photos, tmp_path / "out", "--detector", scrfd, *FLAGS, *changes)
    assert run(align_faces.main, *arguments)[0] == 0
    if not changes:
        save(photos / "Ada" / "été.png", paint((6, 7, 255, 0)))  # one photograph has to be looked at again

    def fail(*_: object) -> object:
        raise OSError(28, "No space left on device", "out")

    with monkeypatch.context() as patch:
        patch.setattr(align_faces, "align_photo", fail)
        assert run(align_faces.main, *arguments)[0] == 2
    assert not any((tmp_path / "out" / name).exists() for name in ("align_report.json", "set_aside.tsv"))
    assert run(align_faces.main, *arguments)[0] == 0
    assert json.loads((tmp_path / "out" / "align_report.json").read_text())["counts"]["aligned"] == 3


def test_crops_of_two_kinds_are_not_mixed(photos: Path, tmp_path: Path, scrfd: Path, run: Run) -> None:
    out = tmp_path / "out"
    run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS)
    status, _, err = run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS, "--size", 96)
    assert status == 2 and "image_size 112" in err and "96" in err and "--force" in err
    assert run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS, "--size", 96, "--force")[0] == 0
    assert read(out / "Ada" / "one face.png").shape == (96, 96, 3)
    # A photograph that has no face any more has no crop either.
    save(photos / "Ada" / "one face.png", paint())
    assert run(align_faces.main, photos, out, "--detector", scrfd, *FLAGS, "--size", 96)[0] == 0
    assert not (out / "Ada" / "one face.png").exists() and (out / "Ada" / "été.png").exists()


def test_landmarks_may_be_given(photos: Path, tmp_path: Path, run: Run) -> None:
    lines = ["# made by hand"]
    points = np.array([48, 56]) + PAINTED
    for name, landmarks, score in (
        ("Ada/one face.png", points, "0.9"),
        ("Bob/none.png", points, "0.2"),
        ("Bob/unsure.png", points[[1, 0, 2, 4, 3]], ""),
        ("Bob/several.png", points + 500, ""),
    ):
        lines.append("\t".join([name, *(f"{value:.3f}" for value in landmarks.ravel()), score]).rstrip())
    (tmp_path / "points.tsv").write_text("\n".join(lines))
    status, text, _ = run(
        align_faces.main, photos, tmp_path / "out", "--landmarks", tmp_path / "points.tsv", *FLAGS[2:]
    )
    assert status == 0 and "1 of 8" in text
    reasons = {name: entry.get("reason") for name, entry in log_of(tmp_path / "out").items()}
    assert reasons["Bob/none.png"] == "low_confidence" and reasons["Ada/été.png"] == "no_landmarks"
    assert reasons["Bob/unsure.png"] == reasons["Bob/several.png"] == "odd_landmarks"
    expected = align(read(photos / "Ada" / "one face.png"), points)
    np.testing.assert_array_equal(read(tmp_path / "out" / "Ada" / "one face.png"), expected)


def test_landmark_files_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "points.txt"
    numbers = " ".join(str(number) for number in range(10))
    path.write_text(f"1.jpg {numbers} 0.5\ntwo words.jpg {numbers}\n123 {numbers}\n")
    found = read_landmarks(path)
    assert list(found) == ["1.jpg", "two words.jpg", "123"]
    assert found["1.jpg"].score == 0.5 and found["123"].score is None
    assert found["two words.jpg"].landmarks.tolist() == np.arange(10.0).reshape(5, 2).tolist()
    for text, message in (
        ("a.jpg 1 2 3\n", "ends in 3 numbers"),
        (f"a.jpg {numbers}\na.jpg {numbers}\n", "line 2: a.jpg has landmarks already"),
        (f"a.jpg nan {numbers[2:]}\n", "not finite"),
        ("# nothing\n", "lists no landmarks"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_landmarks(path)


def test_photographs_that_differ_in_suffix_only_have_crops_of_their_own(tmp_path: Path, scrfd: Path, run: Run) -> None:
    save(tmp_path / "photos" / "x.png", paint((6, 7, 255, 0)))
    save(tmp_path / "photos" / "x.bmp", paint((8, 8, 255, 0)))
    run(align_faces.main, tmp_path / "photos", tmp_path / "out", "--detector", scrfd, *FLAGS)
    assert sorted(file.name for file in (tmp_path / "out").glob("*.png")) == ["x.bmp.png", "x.png.png"]
    save(tmp_path / "photos" / "x.bmp.png", paint((6, 7, 255, 0)))
    run(align_faces.main, tmp_path / "photos", tmp_path / "out", "--detector", scrfd, *FLAGS)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_a_photograph_has_one_crop_and_those_without_one_are_named(tmp_path: Path, scrfd: Path, run: Run) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    command = (align_faces.main, photos, out, "--detector", scrfd, *FLAGS)
    save(photos / "Ada" / "x.png", paint((6, 7, 255, 0)))
    save(photos / "Ada" / "y.png", paint((8, 8, 255, 0)))
    assert "warning" not in run(*command)[2]
    # One more of the same stem gives the crop of the first another name.
    save(photos / "Ada" / "x.bmp", paint((8, 8, 255, 0)))
    assert "warning" not in run(*command)[2]
    assert sorted(file.name for file in (out / "Ada").iterdir()) == ["x.bmp.png", "x.png.png", "y.png"]
    # A photograph that was deleted leaves its crop, which somebody may want, and is named.
    (photos / "Ada" / "y.png").unlink()
    (photos / "Ada" / "x.png").unlink()
    said = run(*command)[2]
    assert f"2 crops of earlier runs are of photographs that are not in {photos} now, and stay" in said
    assert "Ada/x.png.png, Ada/y.png" in said and (out / "Ada" / "y.png").exists()
    assert sorted(file.name for file in (out / "Ada").iterdir()) == ["x.png", "x.png.png", "y.png"]
    # So it is where everything is aligned again, in another format too.
    words = ("--force", "--format", "jpg")
    assert "2 crops of earlier runs are of photographs that are not in" in run(*command, *words)[2]
    assert sorted(file.name for file in (out / "Ada").iterdir()) == ["x.jpg", "x.png.png", "y.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of the two"),
        (("--detector", "a", "--landmarks", "b"), "one of the two"),
        (("--detector", "a", "--min-score", "3"), "--min-score: expected a number from 0 to 1, found '3'"),
        (("--detector", "a", "--size", "0"), "--size: expected a whole number from 16 to 2,048, found '0'"),
    ],
)
def test_unclear_questions_are_refused(
    arguments: tuple[str, ...], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        align_faces.main([str(photos), str(tmp_path / "out"), *arguments])
    assert message in capsys.readouterr().err


def test_a_run_without_a_single_face_fails(tmp_path: Path, scrfd: Path, run: Run) -> None:
    save(tmp_path / "photos" / "x.png", paint())
    status, _, err = run(align_faces.main, tmp_path / "photos", tmp_path / "out", "--detector", scrfd, *FLAGS)
    assert status == 2 and "no face was aligned" in err and "set_aside.tsv" in err
