"""Public models are recognised by their SHA-256 alone, and bring their preprocessing with them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from facekd.cli import main
from facekd.embedder import OnnxEmbedder, Preprocessing
from facekd.embedder.known_models import KnownModel, known_models, recognise
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.embedder.sidecar import Sidecar, write_sidecar
from tests.pooling_model import write_pooling_model

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
FACTS = Preprocessing(mean=(10.0, 20.0, 30.0), std=(40.0, 50.0, 60.0), color="bgr", image_size=16)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file under another name than its entry of the list says."""
    path = write_pooling_model(tmp_path / "renamed.onnx", 16, tile=4)
    content = path.read_bytes()
    entry = dataclasses.replace(
        known_models()[0],
        name="example",
        kind="recogniser",
        files=("example.onnx",),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        preprocessing=FACTS,
    )
    monkeypatch.setattr("facekd.embedder.known_models.known_models", lambda: (entry,))
    return path


def test_every_entry_is_whole_and_on_the_page() -> None:
    page, models = PAGE.read_text(encoding="utf-8"), known_models()
    assert len({model.name for model in models}) == len(models)
    hashes = [model.sha256 for model in models if model.sha256]
    assert len(set(hashes)) == len(hashes) >= 15 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes)
    for model in models:
        assert (model.preprocessing is None) == (model.kind == "detector") == (model.embedding_size is None)
        assert (model.sha256 is None) == (model.bytes is None) == (model.kind == "weights") == bool(model.use)
        assert model.license and model.checked and model.source.startswith("https://")
        for fact in (f"`{model.name}`", model.terms, model.sha256 or "", f"{model.bytes:,}" if model.bytes else ""):
            assert fact in page, (model.name, fact)


def test_a_file_is_known_by_its_content_and_by_no_name(known: Path, tmp_path: Path) -> None:
    embedder = OnnxEmbedder(known)
    assert isinstance(embedder.known, KnownModel) and embedder.known.name == "example"
    assert embedder.preprocessing == FACTS and not embedder.assumed
    # One other byte of as many, under the name in the list.
    changed = tmp_path / "example.onnx"
    changed.write_bytes(known.read_bytes().replace(b"tiles", b"tilex"))
    other = OnnxEmbedder(changed)
    assert other.known is None and other.assumed == ("mean", "std", "color")


def test_options_a_sidecar_and_metadata_win_over_what_is_known(known: Path) -> None:
    given = OnnxEmbedder(known, mean=1.0, std=2.0).preprocessing
    assert (given.mean, given.std, given.color) == ((1.0,) * 3, (2.0,) * 3, "bgr")
    beside = dataclasses.replace(FACTS, mean=(5.0, 5.0, 5.0), color="rgb")
    write_sidecar(read_onnx_file(known), Sidecar(beside, "y", "by hand"))
    assert OnnxEmbedder(known).preprocessing == beside


def test_describe_and_the_verbs_name_it_with_its_licence(known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(known)]) == 0
    printed = capsys.readouterr().out
    assert "known     example of InsightFace, by its SHA-256; licence: InsightFace gives" in printed
    assert "--mean 10,20,30 --std 40,50,60 --color bgr -> y, 48 values\n" in printed


def test_the_list_and_an_entry_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{model.name} " in f"\n{printed}" for model in known_models())
    assert main(["models", "sface_2021dec"]) == 0
    printed = capsys.readouterr().out
    assert "--mean 0 --std 1 --color rgb, taken from this list" in printed and "licence   Apache-2.0" in printed
    assert main(["models", "sface_2021dec", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["embedding_size"] == 128
    assert main(["models", "SFace"]) == 0 and "sface_2021dec: recogniser" in capsys.readouterr().out
    assert main(["models", "buffalo_l"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["scrfd_10g", "w600k_r50"]
    assert main(["models", "w600k_r05"]) == 2
    assert "did you mean w600k_r50?" in capsys.readouterr().err


def test_the_detector_at_hand_is_known(real_data: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = real_data("models/scrfd_2.5g_bnkps.onnx")
    found = recognise(read_onnx_file(path))
    assert found is not None and found.name == "scrfd_2.5g"
    assert main(["describe", str(path)]) == 0
    assert f"facekd data align PHOTOS ALIGNED --detector {path}" in capsys.readouterr().out
