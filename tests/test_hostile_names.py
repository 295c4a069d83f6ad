"""Checks that names of files and people, which may be any bytes, reach terminals, pages and pictures harmlessly."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import inspect_records, pack_records
from evaluation import compare_models, evaluate_folder
from facekd.data.pair_packs.pair_pack import PairPack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError, InputError, RecordError, run_verb
from facekd.faces import compare_faces, embed_faces, search_faces
from facekd.utils.foreign import shown
from tests.pooling_model import write_pooling_model

FORGED = "error: forged"
BREAK = f"two\n{FORGED}: all is lost\r{FORGED}"
PEOPLE = (b"[red]x[bold]", b"\x1b]0;p\x07", "\u202ep".encode(), b"$\\frac$", b"_under", b"\xff\xfe", b"plain", b"<b>&")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder whose own name is odd as well, with two images of each person and a file that is no image."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/$x^$[red]\x1b[31m\xff"))
    picture = np.random.default_rng(0)
    for person in PEOPLE:
        (root / os.fsdecode(person)).mkdir(parents=True)
        for number in range(2):
            pixels = picture.integers(0, 256, (112, 112, 3), dtype=np.uint8)
            path = os.fsencode(root) + b"/" + person + b"/%d.jpg" % number
            Path(os.fsdecode(path)).write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    (root / "odd\x1b[2J.xyz").write_text("x")
    return root


def assert_harmless(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").replace("\t", "").isprintable()
    assert not [line for line in (out + err).split("\n") if line.lstrip().startswith(FORGED)]
    return out + err


def fails_in_one_line(verb: Callable[[list[str]], int], words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail; returns its error, which must be one line."""
    capsys.readouterr()
    assert run_verb(lambda: verb(words)) == 2
    lines = assert_harmless(capsys).splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:] and len(lines[-1]) < 2000
    return lines[-1]


def test_packing_and_inspecting(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = people.with_name("packed\x1b[31m\udcff")
    assert run_verb(lambda: pack_records.main([str(people), str(output)])) == 0
    assert "odd\\x1b[2J.xyz" in assert_harmless(capsys)
    page = people.with_name("page\udcff.html")
    assert run_verb(lambda: inspect_records.main([str(output), "--report", str(page)])) == 0
    assert_harmless(capsys)
    assert "packed\\x1b[31m\\udcff" in page.read_text()


def test_embedding_comparing_and_searching(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(write_pooling_model(people.with_name("m[red].onnx"), 112, 28))]
    gallery, place = str(people.with_name("faces\x1b[31m\udcff.npz")), people.with_name("found\x1b[31m\udcff")
    words = [str(people), *model, "--output", gallery, "--batch-size", "8"]
    assert run_verb(lambda: embed_faces.main(words)) == 0
    for suffix in (".csv", ".json"):
        files = ["--output", f"{place}{suffix}", "--page", f"{place}.html"]
        words = [str(people), "--gallery", gallery, *model, *files, "--threshold", "0.5"]
        assert run_verb(partial(search_faces.main, words)) == 0
        assert "$x^$[red]\\x1b[31m\\udcff" in assert_harmless(capsys)
    page = Path(f"{place}.html").read_text()
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page and "image not found" not in page
    two = [os.fsdecode(os.fsencode(people) + b"/" + person + b"/0.jpg") for person in PEOPLE[:2]]
    assert run_verb(lambda: compare_faces.main([*two, *model, "--output", f"{place}2.json"])) == 0
    assert_harmless(capsys)


@pytest.fixture
def broken(people: Path) -> Path:
    """The folder with a person whose name holds line ends."""
    (people / "plain").rename(people / BREAK)
    return people


def test_names_of_people_make_no_lines(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = [str(broken), str(broken.with_name("packed"))]
    assert "two\\nerror: forged" in fails_in_one_line(pack_records.main, packed, capsys)
    model, gallery = str(write_pooling_model(broken.with_name("m.onnx"), 112, 28)), str(broken.with_name("faces.npz"))
    (broken / BREAK / "2.jpg").write_bytes(b"no image")
    assert run_verb(lambda: embed_faces.main([str(broken), "--model", model, "--output", gallery])) == 0
    assert run_verb(lambda: search_faces.main([str(broken / BREAK), "--gallery", gallery, "--model", model])) == 0
    assert_harmless(capsys)
    (broken / BREAK / "0.jpg").rename(broken / f"{BREAK}.jpg")
    words = ["--model", model, "--images", str(broken), "--output", str(broken.with_name("out"))]
    assert run_verb(lambda: evaluate_folder.main(words)) == 2
    assert_harmless(capsys)
    for path in broken.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    fails_in_one_line(evaluate_folder.main, words, capsys)


def test_packs_and_tars_make_no_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Names of classes and damage in a pickle.
    module = f"os\n{FORGED}: sent".encode()
    (tmp_path / "a.bin").write_bytes(b"\x80\x04\x8c%c%s\x8c\x01x\x93." % (len(module), module))
    text = fails_in_one_line(inspect_pairs, [str(tmp_path / "a.bin")], capsys)
    assert "os\\nerror: forged" in text
    (tmp_path / "b.bin").write_bytes(b"P%s\n." % module)
    fails_in_one_line(inspect_pairs, [str(tmp_path / "b.bin")], capsys)
    # Subjects and the version of facekd's own packs.
    pack = PairPack([b"a", b"b"], np.array([False]), np.array([[BREAK, BREAK]]))
    arrays = {"format": np.array("facekd-pair-pack"), "data": np.frombuffer(b"ab", np.uint8), "subjects": pack.subjects}
    arrays |= {"offsets": np.arange(3), "is_same": pack.is_same}
    for version in (np.array(1), np.array([BREAK] * 2000)):
        np.savez(tmp_path / "c.npz", version=version, **arrays)
        fails_in_one_line(inspect_pairs, [str(tmp_path / "c.npz")], capsys)


def inspect_pairs(words: list[str]) -> int:
    read_pair_pack(words[0])
    return 0


def test_an_error_has_only_the_lines_that_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (DataError(f"{BREAK}\x1b[31m"), RecordError(f"{BREAK}\x1b[31m", 7), InputError(f"{BREAK}\x1b[31m")):
        assert str(error).isprintable() and str(pickle.loads(pickle.dumps(error))) == str(error)
        fails_in_one_line(partial(_fail, error), [], capsys)
    several = DataError("two problems:", f"a {BREAK}", "b\x07")
    assert several.lines == ("two problems:", f"a {shown(BREAK)}", "b\\x07")
    assert run_verb(lambda: _fail(several, [])) == 2
    assert capsys.readouterr().err == "error: " + "\n".join(several.lines) + "\n" == f"error: {several}\n"
    assert DataError(f"/a\n/b: is {BREAK}").without_name("/a\n/b") == f"is {shown(BREAK)}"
    fails_in_one_line(partial(_fail, OSError(13, "Permission denied", BREAK)), [], capsys)


def test_a_file_that_is_called_like_an_option_makes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        embed_faces.main([f"--{BREAK}", "a.jpg"])
    assert assert_harmless(capsys).count("\n") == 1


def _fail(error: BaseException, _words: list[str]) -> int:
    raise error


@pytest.mark.slow  # it draws six figures
def test_evaluating_and_reporting(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [person + b"/%d.jpg" % number for person in PEOPLE for number in range(2)]
    given = people.with_name("_$\\frac$[red].npz")
    rows = np.random.default_rng(0).normal(size=(len(names), 16)).astype(np.float32)
    np.savez(given, names=np.array(names), embeddings=rows)
    output = people.with_name("results[red]\udcff")
    words = ["--embeddings", str(given), "--images", str(people), "--output", str(output), "--no-embeddings-flipped"]
    assert run_verb(lambda: evaluate_folder.main(words)) == 0
    assert "$x^$[red]\\x1b[31m\\udcff: all pairs" in assert_harmless(capsys)
    assert run_verb(lambda: compare_models.main([str(output)])) == 0
    assert "results[red]\\udcff/report.html" in assert_harmless(capsys)
    page = (output / "report.html").read_text()
    assert "<h1>_$\\frac$[red].npz on $x^$[red]\\x1b[31m\\udcff</h1>" in page
    assert json.loads((output / "results.json").read_bytes())["images"] == str(people)
