"""ONNX files of every kind that people bring, each small enough for its embedding to be worked out by hand."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.embedder import Embedder, OnnxEmbedder, Preprocessing, embed_with_flip, open_embedder
from facekd.errors import ModelError

SIZE = 8
WEIGHT = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def make_images(count: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write_model(
    path: Path,
    *,
    batch: int | str = "batch",
    size: int | str = SIZE,
    channels_last: bool = False,
    half: bool = False,
    metadata: Mapping[str, str] | None = None,
    before: Sequence[onnx.NodeProto] = (),
    constants: Mapping[str, Any] | None = None,
    flatten: Sequence[int] = (0, 3),
    more_outputs: bool = False,
    declare_output: bool = True,
) -> Path:
    """A linear layer on the mean of each channel, weighted by the column so that mirror images differ."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    column = np.linspace(0.5, 1.5, SIZE).reshape(1, 1, 1, SIZE)
    arrays = {"weight": WEIGHT, "column": column if size == SIZE else np.ones((1, 1, 1, 1)), **(constants or {})}
    initializers = [numpy_helper.from_array(np.asarray(value, dtype), name) for name, value in arrays.items()]
    initializers.append(numpy_helper.from_array(np.asarray(flatten, np.int64), "flat"))
    image = before[-1].output[0] if before else "data"
    nodes = list(before)
    if channels_last:
        nodes.append(helper.make_node("Transpose", [image], ["first"], perm=[0, 3, 1, 2]))
        image = "first"
    nodes += [
        helper.make_node("Mul", ["normal", "column"], ["weighted"]),
        helper.make_node("GlobalAveragePool", ["weighted"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["means"]),
        helper.make_node("MatMul", ["means", "weight"], ["fc1"]),
    ]
    # The first layer: a convolution that changes nothing.
    initializers.append(numpy_helper.from_array(np.eye(3, dtype=dtype)[:, :, None, None], "first_layer"))
    nodes.insert(len(nodes) - 4, helper.make_node("Conv", [image, "first_layer"], ["normal"]))
    outputs = [helper.make_tensor_value_info("fc1", kind, [batch, 5 if declare_output else "size"])]
    if more_outputs:
        nodes.append(helper.make_node("ReduceL2", ["fc1"], ["norm"], axes=[1]))
        outputs.append(helper.make_tensor_value_info("norm", kind, [batch, 1]))
    shape = [batch, size, size, 3] if channels_last else [batch, 3, size, size]
    graph = helper.make_graph(
        nodes, "foreign", [helper.make_tensor_value_info("data", kind, shape)], outputs, initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def write_mixing(path: Path, op_type: str, batch: int | str) -> Path:
    """A graph that normalises by the statistics of its batch: exported in training mode, or so by design."""
    norms = {
        "BatchNormalization": [
            helper.make_node(
                "BatchNormalization", ["conv", "one", "zero", "zero", "one"], ["x", "mean", "var"], training_mode=1
            )
        ],
        "ReduceMean": [
            helper.make_node("ReduceMean", ["conv"], ["mean"], axes=[0, 2, 3]),
            helper.make_node("Sub", ["conv", "mean"], ["x"]),
        ],
    }
    nodes = [
        helper.make_node("Conv", ["data", "first_layer"], ["conv"]),
        *norms[op_type],
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("MatMul", ["means", "weight"], ["fc1"]),
    ]
    ones = np.ones(3, np.float32)
    constants = {"first_layer": np.diag(ones)[:, :, None, None], "one": ones, "zero": 0 * ones, "weight": WEIGHT}
    graph = helper.make_graph(
        nodes,
        "training",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))
    return path


def expected_embedding(images: np.ndarray, mean: Any, std: Any, color: str = "rgb") -> np.ndarray:
    """The same by hand, one image, one channel at a time."""
    rows = []
    for image in images:
        pixels = image.astype(np.float64)
        means = []
        for channel in range(3):
            plane = (pixels[:, :, channel] - np.broadcast_to(mean, 3)[channel]) / np.broadcast_to(std, 3)[channel]
            means.append(np.mean(plane * np.linspace(0.5, 1.5, SIZE)[None, :]))
        rows.append(np.array(means if color == "rgb" else means[::-1]) @ WEIGHT.astype(np.float64))
    return np.array(rows)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_mean_and_std_are_in_rgb_order_whatever_the_color_order_of_the_model(tmp_path: Path, color: str) -> None:
    embedder = OnnxEmbedder(write_model(tmp_path / "m.onnx"), mean=IMAGENET_MEAN, std=IMAGENET_STD, color=color)
    images = make_images(5)
    expected = expected_embedding(images, IMAGENET_MEAN, IMAGENET_STD, color)
    np.testing.assert_allclose(embedder.embed(images), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(embedder, Embedder)
    assert embedder.embedding_size == 5
    assert embedder.assumed == ()


@pytest.mark.parametrize("batch", [1, 4, "batch", "unk__1", -1])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_any_number_of_images_through_any_batch(tmp_path: Path, batch: int | str, count: int) -> None:
    path = write_model(tmp_path / "m.onnx", batch=batch)
    embeddings = OnnxEmbedder(path, batch_size=3).embed(make_images(count))
    assert embeddings.shape == (count, 5)
    assert embeddings.dtype == np.float32
    if count:
        np.testing.assert_allclose(
            embeddings, expected_embedding(make_images(count), 127.5, 127.5), rtol=1e-4, atol=1e-4
        )


def test_channels_last_and_half_precision_models(tmp_path: Path) -> None:
    images = make_images(3)
    expected = expected_embedding(images, 127.5, 128)
    last = OnnxEmbedder(write_model(tmp_path / "last.onnx", channels_last=True), mean=127.5, std=128)
    np.testing.assert_allclose(last.embed(images), expected, rtol=1e-4, atol=1e-4)
    half = OnnxEmbedder(write_model(tmp_path / "half.onnx", half=True), mean=127.5, std=128)
    np.testing.assert_allclose(half.embed(images), expected, atol=1e-2)
    assert half.embed(images).dtype == np.float32


def test_flipped_embeddings_are_those_of_the_mirror_images(tmp_path: Path) -> None:
    embedder = OnnxEmbedder(write_model(tmp_path / "m.onnx"))
    images = make_images(3)
    plain, flipped = embed_with_flip(embedder, images)
    mirrored = np.stack([np.fliplr(image) for image in images])
    np.testing.assert_allclose(plain, expected_embedding(images, 127.5, 127.5), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(flipped, expected_embedding(mirrored, 127.5, 127.5), rtol=1e-4, atol=1e-4)
    assert not np.allclose(plain, flipped)


def test_records_are_read_back_and_flags_override_them(tmp_path: Path) -> None:
    recorded = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, color="bgr", image_size=SIZE)
    path = write_model(tmp_path / "m.onnx", metadata={**recorded.to_metadata(), "normalized": "true"})
    embedder = OnnxEmbedder(path)
    assert embedder.preprocessing == recorded
    assert embedder.normalized
    assert embedder.assumed == ()
    overridden = open_embedder(path, mean=0, std=255, color=None)
    assert overridden.preprocessing == Preprocessing((0, 0, 0), (255, 255, 255), "bgr", SIZE)


def test_what_is_given_otherwise_than_recorded_is_said(tmp_path: Path) -> None:
    recorded = Preprocessing((127.5,) * 3, (128.0,) * 3, "rgb", SIZE)
    path = write_model(tmp_path / "m.onnx", metadata=recorded.to_metadata())
    assert OnnxEmbedder(path, mean=127.5, std=[128, 128, 128], color="rgb", image_size=SIZE).remarks == ()
    said = ("mean 0 is given, and the file records 127.5", "color bgr is given, and the file records rgb")
    assert OnnxEmbedder(path, mean=0, color="bgr").remarks == said


@settings(max_examples=50)
@given(
    mean=st.tuples(*[st.floats(-300, 300)] * 3),
    std=st.tuples(*[st.floats(1, 300)] * 3),
    color=st.sampled_from(["rgb", "bgr"]),
)
def test_metadata_holds_every_digit(mean: Any, std: Any, color: str) -> None:
    from facekd.images.preprocessing import parse_metadata

    recorded = Preprocessing(mean, std, color, 64)
    fields = {name: parse_metadata(name, text) for name, text in recorded.to_metadata().items()}
    assert Preprocessing(**fields) == recorded


def test_what_nobody_says_is_assumed_and_listed(tmp_path: Path) -> None:
    embedder = OnnxEmbedder(write_model(tmp_path / "m.onnx"))
    assert embedder.preprocessing == Preprocessing(image_size=SIZE)
    assert set(embedder.assumed) == {"mean", "std", "color"}
    assert OnnxEmbedder(embedder.path, color="rgb").assumed == ("mean", "std")


def test_a_graph_that_normalises_inside_gets_raw_pixels(tmp_path: Path) -> None:
    # mxnet's converter writes minus-scalar and mul-scalar nodes at the head of the graph.
    nodes = [helper.make_node("Sub", ["data", "centre"], ["a"]), helper.make_node("Mul", ["a", "factor"], ["b"])]
    path = write_model(tmp_path / "m.onnx", before=nodes, constants={"centre": [127.5], "factor": [1 / 127.5]})
    embedder = OnnxEmbedder(path)
    assert embedder.preprocessing.mean == (0, 0, 0)
    assert embedder.preprocessing.std == (1, 1, 1)
    np.testing.assert_allclose(
        embedder.embed(make_images(2)), expected_embedding(make_images(2), 127.5, 127.5), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "metadata", "message"),
    [
        ({"mean": IMAGENET_MEAN}, {}, "std is neither given nor recorded; give mean and std together"),
        ({"mean": 0.5, "std": 0.5}, {}, "in units of 0..255"),
        ({"mean": 127.5, "std": 1 / 128}, {}, "std itself, not its inverse"),
        ({"mean": (1, 2), "std": 1}, {}, "expected one number, or three"),
        ({"mean": "x", "std": 1}, {}, "expected one number, or three"),
        ({"mean": float("nan"), "std": 1}, {}, "expected one number, or three"),
        ({"color": "RGBA"}, {}, "expected rgb or bgr"),
        ({"image_size": 112}, {}, "takes 8 pixels, but image_size 112 is given"),
        ({}, {"image_size": "112"}, "takes 8 pixels, but image_size 112 is recorded"),
        ({}, {"mean": "one half", "std": "1"}, "metadata_props mean is 'one half'"),
        ({}, {"mean": "[0.5]", "std": "[0.5]"}, "in units of 0..255"),
        ({}, {"mean": '"12"', "std": "1"}, "mean is '12': expected one number"),
        ({}, {"mean": "true", "std": "1"}, "mean is True: expected one number"),
        ({}, {"mean": "1e300", "std": "1"}, "mean is 1e+300: expected one number"),
        ({}, {"mean": "1" + "0" * 400, "std": "1"}, "characters) ... "),
        ({}, {"mean": "9" * 5000, "std": "1"}, "(4,802 more characters) ... "),
        ({}, {"mean": "[" * 100_000, "std": "1"}, "(99,802 more characters) ... "),
        ({}, {"mean": f"[{'1,' * 10**6}1]", "std": "1"}, "expected a number or [R, G, B]; give mean by hand"),
        ({}, {"color": "\x1b[2J" * 10**6}, "more characters) ... "),
        ({}, {"embedding_size": "\x1b[2J" * 10**6}, "but returns 5 values; the file was altered"),
        ({}, {"image_size": f'"{"8" * 900}"'}, "takes 8 pixels, but image_size 888"),
        ({}, {"embedding_size": "512"}, "records embedding_size 512 but returns 5"),
        ({"output": "feature"}, {}, "has no output 'feature'; it has fc1"),
        ({"device": "tpu"}, {}, "expected cpu, cuda or cuda:N"),
        ({"batch_size": 0}, {}, "batch_size is 0"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(
    tmp_path: Path, options: dict[str, Any], metadata: dict[str, str], message: str
) -> None:
    path = write_model(tmp_path / "m.onnx", metadata=metadata)
    with pytest.raises(ModelError, match=re.escape(message)) as raised:
        OnnxEmbedder(path, **options)
    assert len(str(raised.value)) < 1000 and str(raised.value).isprintable()


def test_a_bad_record_does_not_stand_in_the_way_of_a_flag(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", metadata={"mean": "?", "std": "?"})
    assert OnnxEmbedder(path, mean=1, std=2).preprocessing.std == (2, 2, 2)


def test_image_size_of_a_model_that_takes_any(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", size="side")
    with pytest.raises(ModelError, match="give image_size"):
        OnnxEmbedder(path)
    assert OnnxEmbedder(path, image_size=6).embed(make_images(2, size=6)).shape == (2, 5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_model_of_112_x_96_gets_the_middle_columns(tmp_path: Path, channels_last: bool) -> None:
    def write(path: Path, width: int) -> OnnxEmbedder:
        model = onnx.load(write_model(path, size=112, channels_last=channels_last))
        model.graph.input[0].type.tensor_type.shape.dim[2 if channels_last else 3].dim_value = width
        onnx.save(model, path)
        return OnnxEmbedder(path)

    narrow, square = write(tmp_path / "narrow.onnx", 96), write(tmp_path / "square.onnx", 112)
    images = make_images(3, size=112)
    assert narrow.preprocessing.image_size == 112 and square.remarks == ()
    assert "takes 112 x 96: columns 8 to 104 of the images" in narrow.remarks
    # The network sees only these columns, and averages over them.
    found = narrow.embed(images)
    images[:, :, :8], images[:, :, 104:] = 0, 255
    np.testing.assert_array_equal(narrow.embed(images), found)
    expected = (images[:, :, 8:104].mean(axis=(1, 2)) - 127.5) / 127.5 @ WEIGHT.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # Mirrored, they are the same columns.
    np.testing.assert_allclose(embed_with_flip(narrow, images)[1], found, rtol=1e-4, atol=1e-4)


def test_images_are_resized_only_on_request(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    # Each pixel repeated twice: averaged back to the original, exactly.
    small = make_images(3)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    with pytest.raises(
        ModelError,
        match="images are 16 x 16, the model takes 8 x 8: align the faces to that size",
    ):
        OnnxEmbedder(path).embed(large)
    resizing = OnnxEmbedder(path, resize=True)
    np.testing.assert_array_equal(resizing.embed(large), resizing.embed(small))
    assert resizing.fingerprint != OnnxEmbedder(path).fingerprint


@pytest.mark.parametrize(
    "images",
    [make_images(2).astype(np.float32), make_images(2)[0], np.moveaxis(make_images(2), 3, 1), make_images(2)[..., :1]],
    ids=["float", "one image", "channels first", "gray"],
)
def test_arrays_that_are_not_images_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"expected uint8 RGB images \(B, 8, 8, 3\)"):
        OnnxEmbedder(write_model(tmp_path / "m.onnx")).embed(images)


@pytest.mark.parametrize("declare", [True, False])
def test_of_a_feature_and_its_norm_the_feature_is_taken(tmp_path: Path, declare: bool) -> None:
    path = write_model(tmp_path / "m.onnx", more_outputs=True, declare_output=declare)
    embedder = OnnxEmbedder(path)
    assert embedder.output == "fc1" and embedder.embed(make_images(4)).shape == (4, 5)
    assert "the embedding is its output fc1; norm left out" in embedder.remarks
    named = open_embedder(path, output="fc1")
    assert named.fingerprint == embedder.fingerprint and "norm" not in "".join(getattr(named, "remarks", ()))
    assert open_embedder(path, output="norm").embed(make_images(4)).shape == (4, 1)
    assert open_embedder(path, output="norm").fingerprint != embedder.fingerprint


def test_a_model_of_several_features_wants_a_choice(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", more_outputs=True)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3]))
    onnx.save(model, path)
    with pytest.raises(
        ModelError, match=r"has 3 outputs \(fc1 .*means .*--embedding-output NAME \(in Python output=NAME"
    ):
        OnnxEmbedder(path)
    assert open_embedder(path, output="means").embed(make_images(4)).shape == (4, 3)


def test_an_undeclared_embedding_size_is_asked_of_the_graph(tmp_path: Path) -> None:
    assert OnnxEmbedder(write_model(tmp_path / "m.onnx", declare_output=False)).embedding_size == 5


def test_the_sizes_of_very_many_dimensions_are_not_multiplied(tmp_path: Path) -> None:
    """Only the file says which shape this graph makes. Multiplying its sizes takes the square of their number."""
    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["data"], ["places"]),
            helper.make_node("Gather", ["places", "first"], ["shape"]),
            helper.make_node("Reshape", ["data", "shape"], ["out"]),
        ],
        "odd",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n"] + [2**62] * 40_000)],
        [numpy_helper.from_array(np.array(0), "first")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    started = time.process_time()
    with pytest.raises(ModelError, match="onnxruntime fails on input"):
        open_embedder(tmp_path / "m.onnx", mean=127.5, std=127.5, color="rgb")
    assert time.process_time() - started < 2


def test_a_batch_fixed_inside_the_graph_is_explained_and_batch_size_1_works(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", flatten=(1, 3))
    with pytest.raises(ModelError, match="open it with batch_size=1"):
        OnnxEmbedder(path).embed(make_images(2))
    one_by_one = OnnxEmbedder(path, batch_size=1).embed(make_images(2))
    np.testing.assert_allclose(one_by_one, expected_embedding(make_images(2), 127.5, 127.5), rtol=1e-4, atol=1e-4)


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    # log of a channel mean that is below zero for a black image only
    nodes = [helper.make_node("Log", ["data"], ["logged"])]
    embedder = OnnxEmbedder(write_model(tmp_path / "m.onnx", before=nodes), mean=0, std=1)
    images = np.full((3, SIZE, SIZE, 3), 200, np.uint8)
    assert np.isfinite(embedder.embed(images)).all()
    images[1] = 0
    with pytest.raises(ModelError, match="1 of 3 embeddings is not finite, the first is that of image 1"):
        embedder.embed(images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x08\x06garbage", "its 9 bytes are not a whole ONNX model"),
        (b"", "holds no graph"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"PK\x03\x04 zip", "is a checkpoint, not an ONNX file"),
    ],
)
def test_files_that_are_no_onnx_model(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        OnnxEmbedder(path)


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"m\.onnx: its [\d,]+ bytes are not a whole ONNX model"):
        OnnxEmbedder(path)


def test_input_shapes_that_are_not_images_are_refused(tmp_path: Path) -> None:
    def write(shape: list[Any], kind: int = TensorProto.FLOAT) -> Path:
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "other",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        return tmp_path / "m.onnx"

    with pytest.raises(ModelError, match=r"expected \(batch, 3, size, size\)"):
        OnnxEmbedder(write(["n", 512]))
    for height, width in ((112, 80), (96, 112), (7, 6)):
        with pytest.raises(
            ModelError, match=rf"{height} x {width} \(height x width\); supported are squares, and 112 x 96"
        ):
            OnnxEmbedder(write([1, 3, height, width]))
    with pytest.raises(ModelError, match=r"tensor\(int64\), expected tensor\(float\)"):
        OnnxEmbedder(write([1, 3, 112, 112], TensorProto.INT64))
    for shape in (
        [1 << 40, 3, 8, 8],
        [1, 3, 100_000, 100_000],
        [1, 1 << 31, 1 << 31, 3],
        [1 << 62, 3, 1 << 62, 1 << 62],
    ):
        with pytest.raises(
            ModelError, match=r"m\.onnx: (its input has shape \[\d.* more than 268,435,456 values|onnxr)"
        ):
            OnnxEmbedder(write(shape))


def write_outputs(path: Path, *nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT, shape: Any = None) -> Path:
    """Nodes behind the embedding, the last of which makes the only output."""
    model = onnx.load(write_model(path))
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 5]), "as_it_is"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", kind, shape))
    path.write_bytes(model.SerializeToString())
    return path


def test_memory_is_not_taken_for_the_size_that_an_output_is_said_to_have(tmp_path: Path) -> None:
    nodes = [  # a shape that shows only when the graph runs
        helper.make_node("Greater", ["flat", "flat"], ["no"]),
        helper.make_node("Not", ["no"], ["yes"]),
        helper.make_node("Compress", ["as_it_is", "yes"], ["shape"]),
        helper.make_node("Reshape", ["fc1", "shape"], ["out"]),
    ]
    embedder = OnnxEmbedder(write_outputs(tmp_path / "m.onnx", *nodes, shape=["batch", 1 << 36]))
    assert embedder.embedding_size == 5


@pytest.mark.parametrize(
    ("operator", "attributes", "message"),
    [
        ("Cast", {"to": TensorProto.STRING}, "holds object, not numbers"),
        ("ReduceMax", {"keepdims": 0}, r"has shape \(\) for 2 images"),
    ],
)
def test_outputs_that_are_no_embeddings_are_refused(
    tmp_path: Path, operator: str, attributes: dict[str, int], message: str
) -> None:
    node = helper.make_node(operator, ["fc1"], ["out"], **attributes)
    path = write_outputs(tmp_path / "m.onnx", node, kind=attributes.get("to", TensorProto.FLOAT))
    with pytest.raises(ModelError, match=message):
        OnnxEmbedder(path).embed(make_images(2))


def test_fingerprint_follows_weights_and_preprocessing_not_the_name(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a.onnx")
    fingerprint = OnnxEmbedder(path).fingerprint
    renamed = tmp_path / "b.onnx"
    renamed.write_bytes(path.read_bytes())
    assert OnnxEmbedder(renamed, batch_size=1, threads=1).fingerprint == fingerprint
    assert OnnxEmbedder(path, mean=0, std=255).fingerprint != fingerprint
    assert OnnxEmbedder(path, color="bgr").fingerprint != fingerprint
    model = onnx.load(path)
    altered = numpy_helper.to_array(model.graph.initializer[0]) + 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(altered, "weight"))
    onnx.save(model, renamed)
    assert OnnxEmbedder(renamed).fingerprint != fingerprint


def test_fingerprint_sees_weights_kept_beside_the_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=50)
    before = OnnxEmbedder(path).fingerprint
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(weights))
    assert OnnxEmbedder(path).fingerprint != before


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("count", [60, pytest.param(2400, marks=pytest.mark.slow)])
def test_a_third_party_model_reproduces_its_golden_embeddings(real_data: Any, count: int) -> None:
    golden = np.load(real_data("lfw_pairs/lfw_folds12_embeddings_128.npz"))
    pack = read_pair_pack(real_data("lfw_pairs/lfw_folds12.bin"))
    images = decode_images(pack.images[:count])
    embedder = OnnxEmbedder(
        real_data("models/mobilefacenet_128_fixed_batch.onnx"), mean=IMAGENET_MEAN, std=IMAGENET_STD, color="rgb"
    )
    assert embedder.embedding_size == 128
    plain, flipped = embed_with_flip(embedder, images)
    assert cosine(plain, golden["plain"][:count]).min() >= 0.999
    assert cosine(flipped, golden["flipped"][:count]).min() >= 0.999
    # The bound is tight enough to notice the slips it is there for.
    swapped = OnnxEmbedder(embedder.path, mean=IMAGENET_MEAN, std=IMAGENET_STD, color="bgr").embed(images[:20])
    assert cosine(swapped, golden["plain"][:20]).max() < 0.999
    assert cosine(OnnxEmbedder(embedder.path).embed(images[:20]), golden["plain"][:20]).min() < 0.999


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_graph_exported_in_training_mode_is_refused(tmp_path, batch):
    with pytest.raises(ModelError, match=r"exported in training mode.*model.eval\(\)"):
        OnnxEmbedder(write_mixing(tmp_path / "training.onnx", "BatchNormalization", batch))


@pytest.mark.parametrize("batch", ["batch", 3])
def test_a_graph_that_mixes_the_images_of_a_batch_is_refused(tmp_path, batch):
    path = write_mixing(tmp_path / "mixing.onnx", "ReduceMean", batch)
    images = make_images(6)
    images[0, ..., 0] //= 3  # an image unlike the others
    with pytest.raises(ModelError, match="another embedding when it shares a batch with others"):
        OnnxEmbedder(path, mean=127.5, std=127.5).embed(images)
    if batch == "batch":
        # Nor after calls of one image each, which show nothing.
        embedder = OnnxEmbedder(path, mean=127.5, std=127.5)
        assert embedder.embed(images[:1]).shape == embedder.embed(images[1:2]).shape == (1, 5)
        with pytest.raises(ModelError, match="another embedding when it shares a batch with others"):
            embedder.embed(images)
        assert OnnxEmbedder(path, mean=127.5, std=127.5, batch_size=1).embed(images).shape == (6, 5)


def test_a_model_quantised_by_the_batch_is_not_refused(real_data: Any, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Give the model a dynamic batch, which is fixed in the shapes of its input, output and only Reshape.
    model = onnx.load(real_data("models/mobilefacenet_128_fixed_batch.onnx"))
    for port in (*model.graph.input[:1], *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for node in model.graph.node:
        if node.output[0] in shapes:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array([-1, 128], np.int64)))
    onnx.save(model, tmp_path / "dynamic.onnx")
    quantize_dynamic(tmp_path / "dynamic.onnx", tmp_path / "int8.onnx", weight_type=QuantType.QUInt8)

    # Scales are those of the batch: an image moves by a tenth of the distance between images.
    images = decode_images(read_pair_pack(real_data("lfw_pairs/lfw_folds12.bin")).images[:12])
    given = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "color": "rgb"}
    for first in range(0, 12, 3):
        embedder = OnnxEmbedder(tmp_path / "int8.onnx", batch_size=4, threads=1, **given)
        assert embedder.embed(np.roll(images, -first, axis=0)[:4]).shape == (4, 128)
