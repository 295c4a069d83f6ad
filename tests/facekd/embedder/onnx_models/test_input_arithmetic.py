"""Normalisations inside ONNX graphs, in every spelling: the embedding is the plain graph's, or the file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from facekd.embedder import OnnxEmbedder
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.embedder.onnx_models.input_arithmetic import read_input_arithmetic
from facekd.errors import ModelError
from facekd.teacher.cache_file import describe_teacher

SIZE = 8
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
NETWORK = (
    "y0 = Conv(normal, kernels) y1 = PRelu(y0, slope) y2 = GlobalAveragePool(y1) y3 = Flatten(y2) y = MatMul(y3, w)"
)

PLANES = {
    "mean": MEAN, "std": STD, "mean_bgr": MEAN[::-1], "std_bgr": STD[::-1], "mean_01": MEAN / 255, "std_01": STD / 255,
    "minus_mean": -MEAN, "gain": 1 / STD, "shift": -MEAN / STD,
}  # fmt: skip
VECTORS = {
    "mean3": MEAN, "std3": STD, "var3": STD**2, "ones3": np.ones(3), "zeros3": np.zeros(3),
    "learnt_mean": [0.04, -0.1, -0.16], "learnt_var": [0.27, 0.24, 0.25], "scales": [1, 1, 1, 1], "roi": [],
    "slope": [0.25],
}  # fmt: skip
NUMBERS = {"k255": 255, "half": 127.5, "low": 0, "high": 255, "one": 1, "minus_one": -1, "two": 2, "odd": -700}
WHOLE = {"reverse": [2, 1, 0], "last": [-1], "far": [-(2**62)], "axis1": [1], "pads": [0, 0, 1, 1, 0, 0, 1, 1]}


def constants() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    arrays = {name: np.asarray(value, np.float32).reshape(1, 3, 1, 1) for name, value in PLANES.items()}
    arrays |= {name: np.asarray(value, np.float32) for name, value in (VECTORS | NUMBERS).items()}
    arrays |= {name: np.asarray(value, np.int64) for name, value in WHOLE.items()}
    arrays["ramp"] = (MEAN[:, None, None] + np.linspace(-9, 9, 64).reshape(8, 8)).astype(np.float32)[None]
    arrays["zero_point"], arrays["middle"] = np.array(0, np.uint8), np.array(128, np.uint8)
    arrays["fine_step"] = np.array(1 / 127, np.float32)
    arrays["kernels"] = generator.normal(size=(6, 3, 3, 3)).astype(np.float32)
    arrays["w"] = generator.normal(size=(6, 4)).astype(np.float32)
    return arrays


def write(path: Path, text: str, *, image: str = "batch,3,8,8", kind: str = "float", bgr: bool = False) -> Path:
    """A small convolutional network behind nodes that make `normal` from `data`, written in ONNX's own notation."""
    output = "float" if kind == "uint8" else kind
    graph = onnx.parser.parse_graph(f"g ({kind}[{image}] data) => ({output}[batch,4] y) {{ {text} {NETWORK} }}")
    arrays = constants()
    if bgr:
        arrays["kernels"] = arrays["kernels"][:, ::-1]
    read = {name for node in graph.node for name in node.input}
    for name, array in arrays.items():
        if name in read:
            halved = array.astype(np.float16) if kind == "float16" and array.dtype == np.float32 else array
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(halved), name))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), str(path))
    return path


IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def plain(tmp_path: Path, mean: Any = MEAN, std: Any = STD, before: str = "normal = Identity(data)") -> np.ndarray:
    """Embeds with the same network, normalised outside."""
    embedder = OnnxEmbedder(write(tmp_path / "plain.onnx", before), mean=mean, std=std, color="rgb")
    assert embedder.input_arithmetic is None and embedder.remarks == ()
    return embedder.embed(IMAGES)


SUB_DIV = "c = Sub(data, mean) normal = Div(c, std)"
RAW = {
    "sub_div": SUB_DIV,
    "identity": "i = Identity(data) c = Sub(i, mean) normal = Div(c, std)",
    "cast": "i = Cast<to = 1>(data) c = Sub(i, mean) normal = Div(c, std)",
    "mul_add": "c = Mul(data, gain) normal = Add(c, shift)",
    "constant first": "c = Add(minus_mean, data) normal = Mul(gain, c)",
    "chain": "u = Div(data, k255) v = Mul(u, two) t = Div(v, two) c = Sub(t, mean_01) normal = Div(c, std_01)",
    "batch norm": "normal = BatchNormalization<epsilon = 1e-9>(data, ones3, zeros3, mean3, var3)",
    "nhwc inside": "t = Transpose<perm = [0, 2, 3, 1]>(data) c = Sub(t, mean3) d = Div(c, std3) "
    "normal = Transpose<perm = [0, 3, 1, 2]>(d)",
    "shape branch": "s = Shape(data) u = Unsqueeze<axes = [0]>(data) r = Reshape(u, s) c = Sub(r, mean) "
    "normal = Div(c, std)",
    "resize": 'r = Resize<mode = "nearest">(data, roi, scales) c = Sub(r, mean) normal = Div(c, std)',
    "clip": "p = Clip(data, low, high) c = Sub(p, mean) normal = Div(c, std)",
    "constant nodes": "k = Constant<value = float[1,3,1,1] {123.675, 116.28, 103.53}>() c = Sub(data, k) "
    "s = Constant<value = float[1,3,1,1] {58.395, 57.12, 57.375}>() normal = Div(c, s)",
    "computed constants": "k = Mul(mean_01, k255) c = Sub(data, k) normal = Div(c, std)",
    "two reversals": "g = Gather<axis = 1>(data, reverse) h = Gather<axis = 1>(g, reverse) c = Sub(h, mean) "
    "normal = Div(c, std)",
}


@pytest.mark.parametrize("form", RAW)
def test_a_graph_that_normalises_gets_raw_pixels_however_it_is_spelt(tmp_path: Path, form: str) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", RAW[form]))
    assert embedder.preprocessing.mean == (0, 0, 0) and embedder.preprocessing.std == (1, 1, 1)
    assert embedder.preprocessing.color == "rgb" and embedder.assumed == ()
    np.testing.assert_allclose(embedder.embed(IMAGES), plain(tmp_path), rtol=1e-4, atol=1e-4)
    # What was found is told, in numbers and in words.
    found = embedder.input_arithmetic
    assert found is not None and (found["takes"], found["reverses"]) == ("0..255", False)
    np.testing.assert_allclose(found["mean"], MEAN, rtol=1e-4)
    np.testing.assert_allclose(found["std"], STD, rtol=1e-4)
    line = "the graph itself does (x - [123.7, 116.3, 103.5]) / [58.4, 57.12, 57.38]: it takes raw pixels 0..255"
    assert embedder.remarks[0].startswith(line)
    assert describe_teacher(embedder)["input_arithmetic"] == found


@pytest.mark.parametrize(
    "before",
    [
        "b = Cast<to = 2>(data) i = Cast<to = 1>(b) c = Sub(i, mean) normal = Div(c, std)",
        "q = QuantizeLinear(data, one, zero_point) i = DequantizeLinear(q, one, zero_point) c = Sub(i, mean) "
        "normal = Div(c, std)",
    ],
    ids=["cast to bytes", "quantised"],
)
def test_a_staircase_counts_as_a_line(tmp_path: Path, before: str) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", before))
    np.testing.assert_allclose(embedder.embed(IMAGES), plain(tmp_path), rtol=1e-4, atol=1e-4)


def test_half_precision_channels_last_fixed_batches_and_weights_beside_the_file(tmp_path: Path) -> None:
    expected = plain(tmp_path)
    half = OnnxEmbedder(write(tmp_path / "half.onnx", SUB_DIV, kind="float16"))
    np.testing.assert_allclose(half.embed(IMAGES), expected, atol=0.05)
    last = "c = Sub(data, mean3) d = Div(c, std3) normal = Transpose<perm = [0, 3, 1, 2]>(d)"
    channels_last = OnnxEmbedder(write(tmp_path / "last.onnx", last, image="batch,8,8,3"))
    np.testing.assert_allclose(channels_last.embed(IMAGES), expected, rtol=1e-4, atol=1e-4)
    fixed = OnnxEmbedder(write(tmp_path / "fixed.onnx", SUB_DIV, image="4,3,8,8"))
    np.testing.assert_allclose(fixed.embed(IMAGES), expected, rtol=1e-4, atol=1e-4)
    beside = write(tmp_path / "beside.onnx", SUB_DIV)
    onnx.save_model(onnx.load(beside), beside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    np.testing.assert_allclose(OnnxEmbedder(beside).embed(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_a_graph_of_bytes_gets_bytes(tmp_path: Path) -> None:
    before = "i = Cast<to = 1>(data) c = Sub(i, mean3) d = Div(c, std3) normal = Transpose<perm = [0, 3, 1, 2]>(d)"
    path = write(tmp_path / "m.onnx", before, image="batch,8,8,3", kind="uint8")
    np.testing.assert_allclose(OnnxEmbedder(path).embed(IMAGES), plain(tmp_path), rtol=1e-4, atol=1e-4)
    assert "takes raw pixels 0..255; passed with mean 0 and std 1" in OnnxEmbedder(path).remarks[0]
    with pytest.raises(
        ModelError, match="its input is bytes, so it takes raw pixels: give --mean 0 --std 1, or neither"
    ):
        OnnxEmbedder(path, mean=127.5, std=127.5)
    unscaled = OnnxEmbedder(write(tmp_path / "u.onnx", "normal = Cast<to = 1>(data)", kind="uint8"))
    np.testing.assert_allclose(unscaled.embed(IMAGES), plain(tmp_path, 0, 1), rtol=1e-4, atol=1e-2)


def test_an_image_of_means_is_understood(tmp_path: Path) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", "c = Sub(data, ramp) normal = Div(c, std)"))
    assert embedder.preprocessing.std == (1, 1, 1)
    assert embedder.input_arithmetic is not None
    np.testing.assert_allclose(embedder.input_arithmetic["mean"], MEAN, rtol=1e-4)


@pytest.mark.parametrize(
    ("before", "mean", "std"),
    [
        ("c = Sub(data, mean_01) normal = Div(c, std_01)", MEAN, STD),
        ("t = Mul(data, two) normal = Sub(t, one)", 127.5, 127.5),
        ("t = Mul(data, k255) c = Sub(t, half) normal = Div(c, half)", 127.5, 127.5),
        ("normal = Clip(data, low, one)", 0, 255),
    ],
    ids=["ImageNet", "to -1..1", "scaled up first", "clipped to 0..1"],
)
def test_a_graph_made_for_0_to_1_gets_that(tmp_path: Path, before: str, mean: Any, std: Any) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", before))
    assert embedder.preprocessing.mean == (0, 0, 0) and embedder.preprocessing.std == (255, 255, 255)
    np.testing.assert_allclose(embedder.embed(IMAGES), plain(tmp_path, mean, std), rtol=1e-4, atol=1e-4)
    assert "takes pixels scaled to 0..1" in embedder.remarks[0]


@pytest.mark.parametrize(
    "before",
    [
        "q = QuantizeLinear(data, one, zero_point) normal = DequantizeLinear(q, one, zero_point)",
        "b = Cast<to = 2>(data) normal = Cast<to = 1>(b)",
        "normal = Clip(data, low, high)",
    ],
)
def test_bytes_without_arithmetic_are_raw_pixels(tmp_path: Path, before: str) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", before))
    np.testing.assert_allclose(embedder.embed(IMAGES), plain(tmp_path, 0, 1), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "before",
    [
        "g = Gather<axis = 1>(data, reverse) c = Sub(g, mean) normal = Div(c, std)",
        "c = Sub(data, mean_bgr) g = Slice(c, last, far, axis1, last) normal = Div(g, std)",
        "b, g, r = Split<axis = 1>(data) m = Concat<axis = 1>(r, g, b) c = Sub(m, mean) normal = Div(c, std)",
    ],
    ids=["gather", "slice", "split and concat"],
)
def test_means_tell_red_from_blue_behind_a_reversal(tmp_path: Path, before: str) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", before))
    assert embedder.preprocessing.color == "bgr" and embedder.assumed == ()
    np.testing.assert_allclose(embedder.embed(IMAGES), plain(tmp_path), rtol=1e-4, atol=1e-4)
    assert "reverses the channels" in embedder.remarks[0]
    # A graph that takes BGR without a reversal, and a flag that contradicts its means.
    path = write(tmp_path / "bgr.onnx", "c = Sub(data, mean_bgr) normal = Div(c, std_bgr)", bgr=True)
    assert OnnxEmbedder(path).preprocessing.color == "bgr"
    np.testing.assert_allclose(OnnxEmbedder(path).embed(IMAGES), plain(tmp_path), rtol=1e-4, atol=1e-4)
    assert "warning: the means in the graph are those of BGR images" in OnnxEmbedder(path, color="rgb").remarks[1]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("g = Gather<axis = 1>(data, reverse) c = Sub(g, half) normal = Div(c, half)", "reverses the channels"),
        ("g = Gather<axis = 1>(data, reverse) normal = Identity(g)", "reverses the channels"),
        ("m = ReduceMean<axes = [1, 2, 3]>(data) c = Sub(data, m) normal = Div(c, std)", "ReduceMean"),
        ("c = Sub(data, odd) normal = Identity(c)", "no known normalisation: Sub"),
        ("m = Mul(data, data) normal = Div(m, k255)", "no known normalisation"),
        ("c = Mul(data, minus_one) normal = Identity(c)", "no known normalisation: Mul"),
        ("t = Tanh(data) normal = Sub(t, two)", "Tanh"),
    ],
)
def test_what_cannot_be_told_is_refused_and_flags_help(tmp_path: Path, before: str, reason: str) -> None:
    path = write(tmp_path / "m.onnx", before)
    with pytest.raises(ModelError, match=rf"m\.onnx: does not record its preprocessing, and .*{reason}.*--color"):
        OnnxEmbedder(path)
    flagged = OnnxEmbedder(path, mean=127.5, std=127.5, color="rgb")
    assert flagged.embed(IMAGES).shape == (3, 4) and len(flagged.remarks) == 1


@pytest.mark.parametrize(
    "before",
    [
        "normal = BatchNormalization(data, ones3, zeros3, learnt_mean, learnt_var)",
        "h = Div(data, two) o = Div(one, two) normal = Add(h, o)",
        "q = QuantizeLinear(data, fine_step, middle) normal = DequantizeLinear(q, fine_step, middle)",
        "normal = Clip(data, minus_one, one)",
    ],
    ids=["learnt batch norm", "from -1..1 to 0..1", "quantised", "clip"],
)
def test_arithmetic_on_normalised_pixels_is_not_taken_for_their_normalisation(tmp_path: Path, before: str) -> None:
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx", before))
    assert embedder.preprocessing.mean == (127.5,) * 3 and embedder.assumed == ("mean", "std", "color")
    assert all("takes normalised pixels" in remark for remark in embedder.remarks)


def test_normalising_twice_is_a_warning_and_agreeing_flags_are_not(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", SUB_DIV)
    twice = OnnxEmbedder(path, mean=MEAN.tolist(), std=STD.tolist(), color="rgb")
    assert len(twice.remarks) == 1
    assert "warning: the graph itself does (x - [123.7, 116.3, 103.5])" in twice.remarks[0]
    assert "mean 123.675, 116.28, 103.53 and std 58.395, 57.12, 57.375 are given" in twice.remarks[0]
    assert "normalised twice; --mean 0 --std 1 passes raw pixels 0..255" in twice.remarks[0]
    assert "warning" not in "".join(OnnxEmbedder(path, mean=0, std=1, color="rgb").remarks)
    recorded = onnx.load(path)
    for key, value in {"mean": "127.5", "std": "127.5", "color": "rgb"}.items():
        recorded.metadata_props.add(key=key, value=value)
    onnx.save(recorded, path)
    assert "are recorded: pixels are normalised twice" in OnnxEmbedder(path).remarks[0]


def test_padding_before_the_first_layer_is_no_arithmetic(tmp_path: Path) -> None:
    padded = OnnxEmbedder(write(tmp_path / "m.onnx", "c = Sub(data, mean) d = Div(c, std) normal = Pad(d, pads)"))
    expected = plain(tmp_path, before="normal = Pad(data, pads)")
    np.testing.assert_allclose(padded.embed(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_a_dynamically_quantised_network_is_plain(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "normal = Identity(data)")
    model = onnx.load(path)
    start = next(place for place, node in enumerate(model.graph.node) if node.op_type == "Conv")
    kernels = next(tensor for tensor in model.graph.initializer if tensor.name == "kernels")
    # Unsigned, with the offset 128: onnxruntime multiplies signed ones only from 1.24 on.
    kernels.CopyFrom(numpy_helper.from_array((constants()["kernels"] * 40 + 128).astype(np.uint8), "kernels"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(128, np.uint8), "offset"))
    del model.graph.node[start]
    nodes = onnx.parser.parse_graph(
        "g (float[1] normal) => (float[1] y0) { q, s, z = DynamicQuantizeLinear(normal) "
        "v = ConvInteger(q, kernels, z, offset) f = Cast<to = 1>(v) y0 = Mul(f, s) }"
    ).node
    for offset, node in enumerate(nodes):
        model.graph.node.insert(start + offset, node)
    onnx.save(model, path)
    embedder = OnnxEmbedder(path)
    assert embedder.input_arithmetic is None and embedder.preprocessing.mean == (127.5,) * 3
    assert np.isfinite(embedder.embed(IMAGES)).all()


def test_what_would_be_too_many_values_is_not_measured(tmp_path: Path) -> None:
    """Twelve images of 2^27 values in 64 bits are 12 GB."""
    path = tmp_path / "m.onnx"
    text = (
        "g (float[1, 3, 6000, 6000] x) => (float[1, 3, 1, 1] y) <float s = {0.5}> {n = Mul(x, s) y = GlobalMaxPool(n)}"
    )
    graph = onnx.parser.parse_graph(text)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), str(path))
    found = read_input_arithmetic(read_onnx_file(path), (1, 3, 6000, 6000), 1)
    assert found.problem == "too many values to measure: 1 input of first layers, for images with 6,000 pixels a side"
