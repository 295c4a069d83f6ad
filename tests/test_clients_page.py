"""Checks docs/clients.md: it shows the files that `make test-clients` runs; the first embeds as facekd does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest

from facekd.embedder import OnnxEmbedder
from tests.pooling_model import write_pooling_model

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = ROOT / "examples" / "clients"
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
FILES = {path.relative_to(CLIENTS).as_posix(): path for path in CLIENTS.rglob("*.*") if path.suffix != ".pyc"}


def test_the_page_shows_every_file_as_it_is_or_names_it() -> None:
    shown = re.findall(r"```(?:python|js)\n(.*?)```\n", PAGE, flags=re.DOTALL)
    whole = {name: path.read_text(encoding="utf-8") for name, path in FILES.items() if "/" not in name}
    assert sorted(shown) == sorted(whole.values())
    for name in FILES:
        assert f"`examples/clients/{name}`" in PAGE


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_the_onnxruntime_client_embeds_as_facekd_does(color: str, tmp_path: Path) -> None:
    path = write_pooling_model(tmp_path / "m.onnx", 16, 4)
    model = onnx.load(path)
    facts = {"mean": "[120.0, 110.0, 100.0]", "std": "[60.0, 59.0, 58.0]", "color": color, "image_size": "16"}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    faces = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    embed = runpy.run_path(str(CLIENTS / "onnxruntime_client.py"))["open_model"](str(path))
    np.testing.assert_allclose(embed(faces), OnnxEmbedder(path).embed(faces), atol=1e-5)
