"""PReLU as depthwise convolutions: the same function, and the same embeddings of files that others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from facekd.embedder import OnnxEmbedder, open_embedder
from facekd.embedder.checks import largest_error, probe_images
from facekd.embedder.onnx_models.prelu_form import split_prelu
from facekd.errors import ModelError
from tests.prelu_graph import prelu_graph, write_prelu_network


@pytest.mark.parametrize(
    ("shape", "slope_shape", "left"),
    [
        (("b", 3, 4, 5), (3, 1, 1), ""),
        (("b", 3, 4, 5), (1, 3, 1, 1), ""),
        (("b", "c", 4, 5), (3, 1, 1), ""),  # the slope says how many channels
        (("b", 3, 4, 5), (1,), ""),  # shared
        (("b", 3, 4, 5), (), ""),
        (("b", 3, 4, 5), (5,), "slope not one for each channel of an image"),  # by column
        (("b", 3, 4, 5), (3, 4, 5), "slope not one for each channel of an image"),
        (("b", "c", 4, 5), (1,), "number of channels not known"),
        (("b", 3, 4), (3, 1), "slope not one for each channel of an image"),
        (("b", 3), (1,), "number of channels not known"),
    ],
)
def test_only_slopes_by_channel_on_images_are_split(
    shape: tuple[Any, ...], slope_shape: tuple[int, ...], left: str
) -> None:
    rng = np.random.default_rng(0)
    model = prelu_graph(shape, rng.normal(size=slope_shape))
    x = rng.normal(size=[3 if isinstance(size, str) else size for size in shape]).astype(np.float32)
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert split_prelu(model) == ((0, {left: 1}) if left else (1, {}))
    onnx.checker.check_model(model, full_check=True)
    assert ("PRelu" in {node.op_type for node in model.graph.node}) == bool(left)
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_computed_slope_stays_and_names_do_not_meet() -> None:
    computed = prelu_graph(("b", 3, 4, 5), None, helper.make_node("ReduceMax", ["x"], ["slope"], axes=[0, 2, 3]))
    assert split_prelu(computed) == (0, {"slope computed in the graph": 1})
    model = prelu_graph(("b", 3, 4, 5), np.full((3, 1, 1), 0.25))
    model.graph.node.insert(0, helper.make_node("Identity", ["x"], ["y_slope"]))
    assert split_prelu(model) == (1, {})
    onnx.checker.check_model(model, full_check=True)


def test_channels_that_a_file_only_declares_take_no_memory() -> None:
    """Two slopes of half a terabyte, by a shape that nothing in the file has."""
    model = prelu_graph(("b", 1 << 37, 1, 1), np.full(1, 0.25))
    assert split_prelu(model) == (0, {"too many channels": 1})


@pytest.mark.parametrize("slopes", ["initializers", "inputs", "constants"])
@pytest.mark.parametrize("batch", ["batch", "xGENERATED", 1, 5])
def test_a_file_of_any_tool_gives_the_same_embeddings(tmp_path: Path, slopes: str, batch: int | str) -> None:
    path = write_prelu_network(tmp_path / "m.onnx", batch, slopes)
    before = path.read_bytes()
    images = probe_images(8, 7)
    plain, rewritten = OnnxEmbedder(path), OnnxEmbedder(path, rewrite_prelu=True)
    assert largest_error(rewritten.embed(images), plain.embed(images)) < 1e-5
    assert rewritten.prelu_rewritten and path.read_bytes() == before
    assert "--rewrite-prelu: 1 PReLU computed as convolutions; embeddings of" in rewritten.remarks[-1]
    # Galleries, caches and thresholds of one serve the other.
    assert rewritten.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("slopes", "dtype", "is_beside", "said"),
    [
        ("none", np.float32, False, "the graph has no PReLU"),
        ("initializers", np.float16, False, "no PReLU could be rewritten (1 left: not in 32 bits)"),
        ("function", np.float32, False, "no PReLU could be rewritten (1 left: inside a branch or a function)"),
        ("initializers", np.float32, True, "the weights lie beside the file"),
    ],
)
def test_what_cannot_be_rewritten_runs_as_it_is_and_says_why(
    tmp_path: Path, slopes: str, dtype: Any, is_beside: bool, said: str
) -> None:
    path = write_prelu_network(tmp_path / "m.onnx", slopes=slopes, dtype=dtype)
    if is_beside:
        onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="m.data")
    plain, asked = OnnxEmbedder(path), OnnxEmbedder(path, rewrite_prelu=True)
    assert asked.remarks[-1] == f"--rewrite-prelu: not used: {said}"
    assert not asked.prelu_rewritten and asked.fingerprint == plain.fingerprint
    np.testing.assert_array_equal(asked.embed(probe_images(8)), plain.embed(probe_images(8)))


def test_a_graph_that_onnx_cannot_read_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_prelu_network(tmp_path / "m.onnx")

    def fail(*_: object) -> None:
        raise onnx.shape_inference.InferenceError("cycle\nin it")

    monkeypatch.setattr("onnx.shape_inference.infer_shapes", fail)
    asked = OnnxEmbedder(path, rewrite_prelu=True)
    assert asked.remarks[-1] == "--rewrite-prelu: not used: the graph cannot be rewritten (cycle in it)"


@pytest.mark.parametrize("broken", [b"no model", None])
def test_other_embeddings_and_a_form_that_cannot_run_are_not_used(
    tmp_path: Path, broken: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_prelu_network(tmp_path / "m.onnx")
    other = write_prelu_network(tmp_path / "other.onnx", slopes="none").read_bytes()
    monkeypatch.setattr("facekd.embedder.onnx_models.prelu_form.split_file", lambda *_: (broken or other, "1 PReLU"))
    plain, asked = OnnxEmbedder(path), OnnxEmbedder(path, rewrite_prelu=True)
    said = "onnxruntime cannot open it" if broken else "embeddings would not be the same (relative error "
    assert asked.remarks[-1].startswith("--rewrite-prelu: not used: ") and said in asked.remarks[-1]
    assert not asked.prelu_rewritten
    np.testing.assert_array_equal(asked.embed(probe_images(8)), plain.embed(probe_images(8)))


def test_the_option_reaches_every_verb_and_a_checkpoint_takes_none(tmp_path: Path) -> None:
    path = write_prelu_network(tmp_path / "m.onnx")
    assert open_embedder(path, rewrite_prelu=True).prelu_rewritten  # type: ignore[union-attr]
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"is a checkpoint, which takes no option 'rewrite_prelu' \(--rewrite-prelu\)"):
        open_embedder(tmp_path / "m.pt", rewrite_prelu=True)
