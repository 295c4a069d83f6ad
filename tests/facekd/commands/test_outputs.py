"""Checks that no verb replaces what it reads, or a file of somebody else that lies beside its output."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]
OVERLAP = "choose an output that does not overlap"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Names of what verbs read, as the current folder; nothing in the files, since none may be read."""
    monkeypatch.chdir(tmp_path)
    files = (
        *("m.onnx", "ck.pt", "c.bin", "x.npy", "own.cache", "run/checkpoints/000000000009.pt", "run/log.jsonl"),
        *("set/train.rec", "set/train.idx", "people/ann/1.jpg", "packs/lfw.bin", "root/meta/x.txt", "cifar/test_batch"),
        *("their/backbone.pth", "their/softmax_fc_gpu_0.pt", "their/softmax_fc_gpu_1.pt", "c.py", "base.py"),
        *("out/results.json", "out/scores.npy", "page.html", "notes.txt"),
    )
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    # Files of somebody else under the names that verbs give to what they write beside their outputs.
    beside = ("head.json", "faces.report.tsv", "new.model_card.json", "new.model_card.md", "drop/report.json")
    for name in (*beside, "noted/report.md", "compared/comparison.md", "quick/report.html", "quick2/results.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"format": "mine"}')
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.yaml").write_text("# my own words\ndata: {train: people}\n")
    return tmp_path


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_refused(here: Path, run: Run, words: str, message: str) -> None:
    module, *options = words.split()
    before, folders = state_of(here), {path for path in here.rglob("*") if path.is_dir()}
    status, _, err = run(import_module(module).main, *options)
    assert status == 2 and message in err.splitlines()[-1] and err.count("error: ") == 1, err
    assert state_of(here) == before and {path for path in here.rglob("*") if path.is_dir()} == folders


@pytest.mark.parametrize(
    "words",
    [
        # Models and training sets.
        "facekd.teacher.rebuild_head m.onnx --data set --output m.onnx",
        "facekd.teacher.rebuild_head m.onnx --data set --output set/train.rec",
        "facekd.teacher.rebuild_head m.onnx --data set/train.rec --output set/train.rec",
        "facekd.teacher.rebuild_head m.onnx --data set/train.rec --output set/train.idx",
        "facekd.teacher.rebuild_head m.onnx --data people --output people/ann/head.pt",
        "facekd.teacher.rebuild_head run --data set --output run/checkpoints/best.pt",
        "facekd.teacher.train_quality ck.pt --data set --output ck.pt",
        "facekd.teacher.train_quality ck.pt --data set --output set/train.rec",
        "facekd.teacher.train_quality run --data set --output run/checkpoints/000000000009.pt",
        "facekd.teacher.cache_teacher m.onnx --data people --output people/ann/t.cache",
        "facekd.teacher.cache_teacher m.onnx --data set --output m.onnx",
        "data_prep.drop_sub_centers ck.pt --data people --output people/ann",
        "facekd.importing.import_weights their/backbone.pth --output their/backbone.pth",
        "facekd.importing.import_weights their/backbone.pth --output their/softmax_fc_gpu_1.pt",
        "facekd.importing.import_weights their/backbone.pth --data set --output set/train.rec",
        "facekd.importing.import_config c.py --output c.py",
        "facekd.importing.import_config c.py --output base.py",
        "facekd.export.export_onnx ck.pt --output people/ann/m.onnx --precision int8 --calibrate people",
        "facekd.faces.embed_faces people --model m.onnx --output people/ann/faces.npz",
        "data_prep.index_records set/train.rec --output set/train.rec --force",
        # Evaluations.
        "evaluation.evaluate_folder --model m.onnx --images people --output people/ann",
        "evaluation.evaluate_folder --embeddings out/scores.npy --images people --output out",
        "evaluation.evaluate_folder --model m.onnx --images people --thresholds-from out --output out",
        "evaluation.evaluate_classification --model m.onnx --data cifar --output cifar/new",
        "evaluation.compare_models out their --output out",
        "facekd.training.train --data.train people --device cpu --output people/ann",
    ],
)
def test_an_output_that_is_read_is_refused_before_anything_is_read_or_written(here: Path, run: Run, words: str) -> None:
    check_refused(here, run, words, OVERLAP)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("facekd.teacher.rebuild_head m.onnx --data set --output head.pt", "head.json: is there already, and not from"),
        ("facekd.teacher.train_quality ck.pt --data set --output head.pt", "head.json: is there already, and not from"),
        ("facekd.faces.embed_faces people --model m.onnx --output faces.npz", "faces.report.tsv: is there already"),
        ("facekd.export.export_onnx ck.pt --output new.onnx", "new.model_card.md: is there already, and not from"),
        ("data_prep.drop_sub_centers ck.pt --data set --output drop", "drop/report.json: is there already, and not"),
        ("evaluation.compare_models page.html --pdf page.html", "page.html: is there already, and not from"),
        ("evaluation.compare_models page.html --pdf notes.txt", "notes.txt: is there already, and not from"),
        ("evaluation.compare_models run --pdf run/log.jsonl", "run/log.jsonl: is there already, and not from"),
        (
            "evaluation.evaluate_folder --model m.onnx --images people --output noted",
            "noted/report.md: is there already",
        ),
        ("evaluation.compare_models out their --output compared", "compared/comparison.md: is there already, and not"),
        ("facekd.experiments.quickstart --size tiny --output quick", "quick/report.html: is there already, and not"),
        ("facekd.experiments.quickstart --size tiny --output quick2", "quick2/results.json: is there already, and not"),
        (
            "facekd.training.train exp/config.yaml --device cpu --output exp",
            "exp/config.yaml: is there already, and the",
        ),
        (
            "facekd.training.train --data.train people --device cpu --output quick",
            "quick/report.html: is there already",
        ),
        # One file under two names.
        (
            "facekd.faces.search_faces c.bin --gallery g.npz --output s.json --page s.json",
            "s.json: is named twice, and",
        ),
        (
            "facekd.faces.search_faces c.bin --gallery g.npz --output s.json --page their/../s.json",
            "as s.json too, and",
        ),
        ("facekd.teacher.rebuild_head m.onnx --data set --output h.pt --cache h.pt", "h.pt: is named twice, and"),
        (
            "facekd.teacher.rebuild_head m.onnx --data set --output own.cache --cache own.cache",
            "own.cache: is named twice",
        ),
        ("facekd.teacher.train_quality ck.pt --data set --output h.pt --cache h.json", "h.json: is named twice, and"),
        # What could not be used is said at once.
        ("facekd.importing.import_config c.py --output new.py", "--output new.py: a configuration is a YAML file"),
    ],
)
def test_files_of_others_and_names_given_twice_are_refused(here: Path, run: Run, words: str, message: str) -> None:
    check_refused(here, run, words, message)


def test_results_may_lie_beside_what_was_read(here: Path, run: Run) -> None:
    for words in (
        "facekd.teacher.rebuild_head run --data set --output run/head.pt",
        "evaluation.evaluate_folder --model run/log.jsonl --images people --output run",
        "evaluation.evaluate_folder --model m.onnx --images people --thresholds-from out --output out/new",
        "evaluation.evaluate_lfw --model m.onnx --pairs packs/lfw.bin --output packs/new",
        # Lists and packs say what is read, so that results among them are not taken for images.
        "evaluation.evaluate_lfw --model m.onnx --pairs packs/lfw.bin --output packs",
        "evaluation.evaluate_robustness --model m.onnx --pairs packs/lfw.bin --output packs",
        "evaluation.evaluate_folder --model m.onnx --images set/train.rec --output set",
        "evaluation.evaluate_ijbc --model m.onnx --root root --output root/results",
        "evaluation.evaluate_protocol tinyface --model m.onnx --root root --output root",
        "facekd.teacher.cache_teacher m.onnx --data set --output set/teacher.cache",
        "facekd.teacher.rebuild_head m.onnx --data set --output set/head.pt",
    ):
        module, *options = words.split()
        status, _, err = run(import_module(module).main, *options)
        assert status == 2 and OVERLAP not in err  # the files are empty: something else is said


@pytest.mark.parametrize("name", ["train.idx", "train.lst", "property"])
def test_files_of_others_where_a_pack_has_its_own_are_not_replaced(here: Path, run: Run, name: str) -> None:
    cv2.imwrite("people/ann/1.jpg", np.zeros((16, 16, 3), np.uint8))
    (here / "new").mkdir()
    (here / "new" / name).write_text("PRECIOUS")
    check_refused(here, run, "data_prep.pack_records people new --size 16", f"new/{name} is there already")
    pack_records = import_module("data_prep.pack_records").main
    assert run(pack_records, "people", "new", "--size", 16, "--workers", 1, "--force")[0] == 0
    assert (here / "new" / name).read_bytes() != b"PRECIOUS"


def test_data_verbs_keep_files_of_others_in_a_folder_of_theirs(here: Path, run: Run) -> None:
    """A real pack and photographs, because these verbs look at what is in the way after the sources."""
    for number in range(4):
        path = here / "two" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((16, 16, 3), 60 * number, np.uint8))
    assert run(import_module("data_prep.pack_records").main, "two", "pack", "--size", 16, "--workers", 1)[0] == 0
    (here / "drop.tsv").write_text("drop\t1\n")
    (here / "landmarks.tsv").write_text("a/0.png\t5\t6\t10\t6\t8\t8\t6\t11\t10\t11\n")
    for name in (
        *("inspected/duplicates.tsv", "cleaned/clean_report.json", "cleaned2/train.lst", "aligned/a/0.jpg"),
        *(
            "aligned2/set_aside.tsv",
            "converted/convert_report.json",
            "converted2/property",
            "clusters/cluster_report.html",
        ),
    ):
        (here / name).parent.mkdir(parents=True)
        (here / name).write_text("PRECIOUS")
    for words, message in (
        ("data_prep.inspect_records pack --lists inspected", "inspected/duplicates.tsv: is there already, and not"),
        ("data_prep.clean_records pack cleaned --apply drop.tsv", "cleaned/clean_report.json: is there already, and"),
        ("data_prep.clean_records pack cleaned2 --apply drop.tsv", "cleaned2/train.lst is there already, and a file"),
        ("data_prep.align_faces two aligned --landmarks landmarks.tsv", "aligned/a/0.jpg: is there already, and no"),
        ("data_prep.align_faces two aligned2 --landmarks landmarks.tsv", "aligned2/set_aside.tsv: is there already"),
        ("data_prep.convert_records pack converted", "converted/convert_report.json: is there already, and not"),
        ("data_prep.convert_records pack converted2", "converted2/property is there already, and a file"),
        ("data_prep.cluster_faces pack clusters --model m.onnx", "clusters/cluster_report.html: is there already, and"),
    ):
        check_refused(here, run, words, message)


def test_a_list_of_others_is_not_replaced_by_that_of_a_pack(here: Path, run: Run) -> None:
    make_pairs = import_module("data_prep.make_pair_set").main
    generator = np.random.default_rng(0)
    for person in ("ann", "bob", "cid", "dan"):
        (here / "faces" / person).mkdir(parents=True)
        for number in range(2):
            image = generator.integers(0, 256, (16, 16, 3), np.uint8)
            cv2.imwrite(str(here / "faces" / person / f"{number}.png"), image)
    words = ("faces", "mine.npz", "--sample", 4, "--folds", 2, "--size", 16, "--workers", 1)
    (here / "mine_pairs.txt").write_text("PRECIOUS\n")
    before = state_of(here)
    status, _, err = run(make_pairs, *words)
    assert status == 2 and "mine_pairs.txt: is there already" in err and "--force" in err
    assert state_of(here) == before
    # Asked for, it is replaced; and the list of a run that was stopped before its pack had a name is its own.
    assert run(make_pairs, *words, "--force")[0] == 0
    made = state_of(here)
    (here / "mine.npz").unlink()
    assert run(make_pairs, *words)[0] == 0
    assert state_of(here) == made
    os.unlink("mine.npz")  # noqa: PTH108 - relative, as the command names it
    assert run(make_pairs, *words, "--seed", 1)[0] == 2
