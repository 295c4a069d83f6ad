"""Checks that a data verb whose output folder is deleted under it ends in a sentence, and does not make it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import (
    align_faces,
    convert_records,
    make_ijb_layout,
    make_pair_set,
    pack_records,
    synthesize_classification,
    unpack_records,
)
from facekd.utils import progress

Run = Callable[..., tuple[int, str, str]]
LINES = "".join(f"person {n // 2}/{n}.png\t10\t10\t22\t10\t16\t16\t11\t22\t21\t22\n" for n in range(6))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(6):
        person = tmp_path / "photos" / f"person {number // 2}"
        person.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (person / f"{number}.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes())
    return tmp_path / "photos"


VERBS = {
    "pack": (pack_records.main, ("photos", "out", "--size", 32, "--workers", 1)),
    "convert": (convert_records.main, ("photos", "out", "--shards", 2, "--workers", 1)),
    "tars": (convert_records.main, ("photos", "out", "--to", "webdataset", "--workers", 1)),
    "unpack": (unpack_records.main, ("pack", "out")),
    "align": (align_faces.main, ("photos", "out", "--landmarks", "points.tsv", "--size", 32, "--workers", 1)),
    "make-pairs": (make_pair_set.main, ("photos", "out/a.bin", "--sample", "all", "--folds", 2, "--size", 32)),
    "make-ijb": (make_ijb_layout.main, ("photos", "out/ijb", "--image-size", 32)),
    "synthesize-classification": (
        synthesize_classification.main,
        ("--output", "out/set", "--layout", "folders", "--classes", 2, "--images-per-class", 2),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_deleted_output_ends_the_verb_and_is_not_made_again(
    verb: str, photos: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, words = VERBS[verb]
    (tmp_path / "points.tsv").write_text(LINES)
    if verb == "unpack":
        assert run(pack_records.main, photos, tmp_path / "pack", "--size", 32)[0] == 0
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())

    def delete_meanwhile(items: Iterable[object], *_: object) -> Iterator[object]:
        for item in items:
            shutil.rmtree("out", ignore_errors=True)
            yield item

    monkeypatch.setattr(progress, "_lines", delete_meanwhile)
    monkeypatch.setattr(progress, "_bar", delete_meanwhile)
    status, _, errors = run(main, *words)
    assert status == 2 and errors.splitlines()[-1].startswith("error: "), errors
    assert "deleted" in errors and "out" in errors.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before
