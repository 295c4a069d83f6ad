"""The second output of an exported file, `quality`: what torch computes, in every form, and left out where asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from facekd.checkpoints.models import load_backbone
from facekd.embedder import OnnxEmbedder, Preprocessing, open_embedder
from facekd.embedder.checks import probe_images
from facekd.embedder.quality import QualityEmbedder
from facekd.errors import ModelError
from facekd.export.export_onnx import export_backbone, export_checkpoint, main
from facekd.export.options import ExportOptions
from facekd.export.precision import side_nodes, to_float16, to_int8, to_int8_weights
from facekd.images.preprocessing import mirror
from tests.scored_model import small_backbone, write_small_checkpoint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_backbone():
        yield


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("scored") / "scored.pt")


@pytest.fixture(scope="module")
def exported(scored: Path) -> Path:
    path = scored.with_name("scored.onnx")
    assert main([str(scored), "--output", str(path)]) == 0
    return path


def torch_qualities(scored: Path, images: np.ndarray) -> np.ndarray:
    """By the head alone, on embeddings of the backbone alone."""
    head = load_backbone(scored, scored=True)[0].quality_head
    return head(torch.from_numpy(open_embedder(scored).embed(images))).detach().numpy()


def test_it_is_what_torch_computes_at_any_batch(exported: Path, scored: Path) -> None:
    images = probe_images(32, 11)
    expected = torch_qualities(scored, images)
    assert np.ptp(expected) > 0.02
    # Straight through onnxruntime.
    session = onnxruntime.InferenceSession(exported)
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("embedding", ["batch", 16]),
        ("quality", ["batch"]),
    ]
    x = open_embedder(scored).preprocessing.apply(images)
    for count in (1, 2, 11):
        embedding, quality = session.run(None, {"images": x[:count]})
        assert (embedding.shape, quality.shape) == ((count, 16), (count,))
        np.testing.assert_allclose(quality, expected[:count], rtol=1e-5)
    # And by the embedders, whose embedding is still the embedding.
    opened = [OnnxEmbedder(exported, batch_size=4), open_embedder(scored, batch_size=4)]
    for embedder in opened:
        assert embedder.has_quality and embedder.embedding_size == 16
        np.testing.assert_allclose(embedder.qualities(images), expected, rtol=1e-5)
        np.testing.assert_allclose(QualityEmbedder(embedder, "x").embed(images)[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(opened[0].embed(images), opened[1].embed(images), rtol=1e-3, atol=1e-5)
    # Normalised or not, it is about the embedding before; and one pass gives what two give.
    normalising = open_embedder(scored, normalize=True)
    np.testing.assert_allclose(normalising.qualities(images), expected, rtol=1e-5)
    for embedder in (*opened, normalising):
        embedding, quality = embedder.embed_with_quality(images)
        np.testing.assert_array_equal(embedding, embedder.embed(images))
        np.testing.assert_allclose(quality, expected, rtol=1e-5)


def test_file_and_card_say_what_it_is(exported: Path, scored: Path) -> None:
    facts = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert facts["quality_target"] == "SDD-FIQA's distance" and "higher is better" in facts["quality_semantics"]
    assert facts["weights"] == "moving average" and facts["embedding_size"] == "16"
    card = json.loads(exported.with_suffix(".model_card.json").read_text())
    assert (card["quality"]["name"], card["quality"]["shape"]) == ("quality", ["batch"])
    assert card["quality"]["parity"].keys() == {"1", "2", "7"} and card["quality"]["target"] == facts["quality_target"]
    assert "second output" in exported.with_suffix(".model_card.md").read_text()


@pytest.mark.slow
def test_every_option_keeps_it(scored: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m.onnx"
    words = ["--normalize", "--flip", "--input", "uint8-nhwc", "--opset", "11", "--batch", "2", "--prelu", "native"]
    status, printed, error = run(main, scored, "--output", path, *words)
    assert status == 0, error
    assert "quality (batch,), 0 to 1: SDD-FIQA's distance" in printed and "; of quality at most" in printed
    images = probe_images(32, 5)
    expected = (torch_qualities(scored, images) + torch_qualities(scored, mirror(images))) / 2
    embedder = OnnxEmbedder(path)
    np.testing.assert_allclose(embedder.qualities(images), expected, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedder.embed(images), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weights"])
def test_variants_leave_the_head_in_float32(precision: str, exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    aside = side_nodes(model.graph)
    assert 5 < len(aside) < len(model.graph.node) - 3
    batches = [Preprocessing(120.0, 60.0, "bgr", 32).apply(probe_images(32, 8))]
    path = tmp_path / "variant.onnx"
    found: Any = {
        "fp16": lambda: to_float16(model, batches, path),
        "int8": lambda: to_int8(model, batches, "minmax", tmp_path, path),
        "int8-weights": lambda: to_int8_weights(model),
    }[precision]()
    onnx.save(found, path)
    # The layers of the head have their own weights, bit for bit.
    before, after = ({each.name: each for each in graph.initializer} for graph in (model.graph, found.graph))
    layers = [node for node in model.graph.node if node.name in aside and node.op_type == "Gemm"]
    assert len(layers) == 2
    for node in layers:
        (same,) = [other for other in found.graph.node if other.name == node.name]
        assert same.op_type == "Gemm"
        if precision == "fp16":  # weights are rounded, and widened again, under names that onnxruntime chooses
            (cast,) = [other for other in found.graph.node if same.input[1] in other.output]
            assert cast.op_type == "Cast" and cast.input[0] == node.input[1]
        else:
            assert before[node.input[1]].raw_data == after[same.input[1]].raw_data
    plain, variant = (OnnxEmbedder(file).qualities(probe_images(32, 8)) for file in (exported, path))
    np.testing.assert_allclose(variant, plain, atol=0.05 if precision == "int8" else 0.005)


def test_it_is_left_out_where_asked_and_where_there_is_none(scored: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.onnx"
    report = export_checkpoint(scored, path, embedding=True)
    assert report.quality_parity is None and report.card["quality"] is None
    assert "quality_target" not in report.metadata and report.metadata["weights"] == "moving average"
    embedder = OnnxEmbedder(path)
    assert not embedder.has_quality
    with pytest.raises(ModelError, match=r"plain\.onnx: has no output `quality`; `facekd train-quality`"):
        embedder.qualities(probe_images(32))
    with pytest.raises(ModelError, match=r"plain\.onnx: says nothing of the quality of images"):
        QualityEmbedder(embedder, path)


def test_a_file_whose_quality_differs_is_not_kept(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, preprocessing = load_backbone(scored, scored=True)
    monkeypatch.setattr("facekd.export.parity.measure_quality_parity", lambda *_: {1: 0.0, 2: 0.5})
    with pytest.raises(ModelError, match=r"relative error 5\.00e-01 of quality at batch 2"):
        export_backbone(module, preprocessing, tmp_path / "m.onnx", ExportOptions())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("value", "message"), [("nan", "3 of 3 qualities are not finite"), ("wide", "expected one")])
def test_a_strange_quality_is_refused(value: str, message: str, exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    (last,) = [node for node in model.graph.node if "quality" in node.output]
    last.output[0] = "before"
    if value == "nan":
        nodes = [onnx.helper.make_node(*each) for each in (("Neg", ["before"], ["n"]), ("Log", ["n"], ["quality"]))]
    else:
        nodes = [onnx.helper.make_node("Concat", ["embedding", "embedding"], ["quality"], axis=1)]
        del model.graph.output[1].type.tensor_type.shape.dim[:]
        model.graph.output[1].type.tensor_type.ClearField("shape")
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        OnnxEmbedder(tmp_path / "m.onnx").qualities(probe_images(32, 3))
