"""`facekd data make-protocol`: what it refuses, that it repeats itself, and the drawn set of any size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.make_protocol_layout import main
from data_prep.protocol_sets.layouts import LAYOUTS
from evaluation.evaluate_protocol import main as evaluate
from facekd.errors import DataError


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_equal_options_give_equal_bytes_and_an_existing_folder_stays(tmp_path: Path) -> None:
    words = ["survface", "synthetic:4x2", "--image-size", "24", "--probe-size", "8"]
    main([*words, str(tmp_path / "a")])
    main([*words, str(tmp_path / "b")])
    first = content(tmp_path / "a")
    assert first == content(tmp_path / "b") and len(first) > 10
    with pytest.raises(DataError, match="exists and is not empty"):
        main([*words, str(tmp_path / "a")])
    assert content(tmp_path / "a") == first


FIRST, *OTHERS = LAYOUTS


@pytest.mark.parametrize("kind", [FIRST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS)])
def test_a_layout_is_replaced_by_any_other_when_asked_to(kind: str, tmp_path: Path) -> None:
    words = ["synthetic:4x4", "--image-size", "24", "--probe-size", "8"]
    main([kind, *words, str(tmp_path / "alone")])
    main(["megaface" if kind != "megaface" else "tinyface", *words, str(tmp_path / "a")])
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="--overwrite replaces what is there"):
        main([kind, *words, str(tmp_path / "a")])
    main([kind, *words, str(tmp_path / "a"), "--overwrite"])
    assert content(tmp_path / "a") == content(tmp_path / "alone") | {"notes.txt": b"mine"}


def test_a_folder_that_is_no_layout_is_never_replaced(tmp_path: Path) -> None:
    words = ["tinyface", "synthetic:4x2", "--image-size", "24", "--overwrite"]
    for number, summary in enumerate((None, "not JSON", '{"target": "IJBC"}')):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "images").write_text("mine")
        if summary is not None:
            (folder / "layout.json").write_text(summary)
        before = content(folder)
        with pytest.raises(DataError, match="exists and is not empty; choose an empty folder"):
            main([*words, str(folder)])
        assert content(folder) == before


def test_only_what_a_layout_has_written_is_removed(tmp_path: Path) -> None:
    words = ["synthetic:4x4", "--image-size", "24", "--probe-size", "8", "--overwrite"]
    folder = tmp_path / "a"
    main(["tinyface", *words[:-1], str(folder)])
    # Names of other layouts of the command, which this one does not have, and a record that claims one of them.
    mine = {name: f"mine {name}".encode() for name in ("images/precious.txt", "masked/a.txt", "embeddings.npy")}
    for name, text in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text)
    main(["tinyface", *words, str(folder)])
    assert {name: content(folder)[name] for name in mine} == mine
    # A layout that needs one of these names is refused.
    before = content(folder)
    with pytest.raises(DataError, match=r"a/images: is there already, and not from this command.*; move it away"):
        main(["ijbs", *words, str(folder)])
    assert content(folder) == before
    # A record names files of a layout, and no others.
    about = json.loads((folder / "layout.json").read_text())
    assert about["parts"] == ["Testing_Set"]
    (folder / "layout.json").write_text(json.dumps({**about, "parts": ["Testing_Set", "notes", "..", "../b"]}))
    (folder / "notes").write_text("mine")
    (tmp_path / "b").mkdir()
    main(["survface", *words, str(folder)])
    assert (folder / "notes").read_text() == "mine" and (tmp_path / "b").is_dir()
    assert not (folder / "Testing_Set").exists()


@pytest.mark.parametrize("mark", ["", "{}", '{"parts": 3}', '{"parts": [3]}'])
def test_a_mark_of_somebody_else_does_not_make_a_folder_ours(tmp_path: Path, mark: str) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    (tmp_path / "a" / "images" / "precious.txt").write_text("mine")
    (tmp_path / "a" / ".layout_unfinished").write_text(mark)
    before = content(tmp_path / "a")
    with pytest.raises(DataError, match=r"not empty; its \.layout_unfinished does not say what was made: delete"):
        main(["ijbs", "synthetic:4x4", "--image-size", "24", str(tmp_path / "a"), "--overwrite"])
    assert content(tmp_path / "a") == before


def test_a_layout_left_unfinished_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["tinyface", "synthetic:4x2", "--image-size", "24", "--probe-size", "8"]
    main([*words, str(tmp_path / "whole")])
    replace = Path.replace

    def stop_at_the_summary(self: Path, target: Path) -> Path:
        if target == tmp_path / "a" / "layout.json":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", stop_at_the_summary)
        main([*words, str(tmp_path / "a")])
    assert not (tmp_path / "a" / "layout.json").exists()
    main([*words, str(tmp_path / "a")])
    assert content(tmp_path / "a") == content(tmp_path / "whole")


def test_too_few_people_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"synthetic:3x2: 2 people with two images or more are left to be known"):
        main(["tinyface", "synthetic:3x2", str(tmp_path / "a")])
    assert not (tmp_path / "a").exists()


def test_a_drawn_set_is_found_again(tmp_path: Path) -> None:
    words = ["--drawn", "--distractors", "500", "--embedding-size", "64"]
    main(["megaface", "synthetic:12x3", str(tmp_path / "a"), *words])
    rows = np.load(tmp_path / "a" / "embeddings.npy")
    assert rows.shape == (536, 64) and rows.dtype == np.float16
    where = ["--root", str(tmp_path / "a"), "--embeddings", str(tmp_path / "a" / "embeddings.npy")]
    evaluate(["megaface", *where, "--no-embeddings-flipped", "--output", str(tmp_path / "out"), "--no-report"])
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    # By loops: each pair of images of a person, among the distractors.
    values = rows.astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    highest = (values[:36] @ values[36:].T).max(axis=1)
    found = [values[i] @ values[j] > highest[i] for i in range(36) for j in range(36) if i != j and i // 3 == j // 3]
    assert result["identification"]["distractors"]["rank"][0]["rate"] == np.mean(found)
    with pytest.raises(SystemExit):
        main(["tinyface", "synthetic:12x3", str(tmp_path / "b"), "--drawn"])
