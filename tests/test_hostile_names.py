"""Checks that names of files and people, which may be any bytes, reach terminals, pages and pictures harmlessly."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import inspect_records, pack_records
from evaluation import compare_models, evaluate_folder
from facekd.errors import run_verb
from facekd.faces import compare_faces, embed_faces, search_faces
from tests.pooling_model import write_pooling_model

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
    return out + err


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
