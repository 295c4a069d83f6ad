"""Why an ONNX file cannot be opened or run, in the words of the message."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from facekd.cli import main
from facekd.embedder import OnnxEmbedder
from facekd.embedder.onnx_models import session as onnx_session
from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.errors import ModelError

HERE = f"onnxruntime {onnxruntime.__version__}".replace(".", r"\.")


def write(path: Path, *, operator: str = "Flatten", domain: str = "", opset: int = 11, ir_version: int = 6) -> Path:
    """A convolution, and one node whose operator may not exist."""
    weight = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["data", "weight"], ["features"]),
        helper.make_node(operator, ["features"], ["fc1"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), str(path))
    return path


def test_onnxruntime_reports_nothing_and_keeps_no_identifier(tmp_path: Path) -> None:
    write(tmp_path / "model.onnx")
    code = "import facekd, onnxruntime as o; o.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"opset": 99, "ir_version": 8},
            rf"its opset \(ai\.onnx 99\) is newer than {HERE} knows; update it \(pip install",
        ),
        ({"ir_version": 99}, rf"its IR version 99 is newer than {HERE} knows; update it"),
        ({"operator": "NoSuchOperator"}, rf"{HERE} has no operator NoSuchOperator \(the file's opset is 11\)"),
        ({"operator": "Warp", "domain": "my.ops"}, rf"{HERE} has no operator my\.ops:Warp \(the file's opset is 11\)"),
    ],
)
def test_what_this_onnxruntime_does_not_know_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=rf"m\.onnx: onnxruntime cannot open it: {message}") as raised:
        OnnxEmbedder(write(tmp_path / "m.onnx", **changes))
    assert "complete" not in str(raised.value) and "\n" not in str(raised.value)


def test_weights_left_behind_or_cut_short_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert OnnxEmbedder(path).embed(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 5)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ModelError, match=r"m\.onnx: .*the weights beside it do not fit it, copy them again"):
        OnnxEmbedder(path)
    weights.unlink()
    with pytest.raises(ModelError, match=rf"its weights lie in weights\.bin, missing in {tmp_path}; copy them there"):
        OnnxEmbedder(path)


@pytest.mark.parametrize(
    ("cut", "message"),
    [(slice(0, -40), "are not a whole ONNX model; was it copied"), (slice(0, 2), "holds no graph; was it copied")],
)
def test_a_file_cut_short_is_said_to_be(tmp_path: Path, cut: slice, message: str) -> None:
    path = write(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(ModelError, match=message):
        OnnxEmbedder(path)


def test_a_text_file_with_the_suffix_of_a_model_is_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("<html>404: not found</html>")
    with pytest.raises(ModelError, match=r"m\.onnx: is a text file, not an ONNX model"):
        OnnxEmbedder(tmp_path / "m.onnx")


def test_an_error_that_has_nothing_to_do_with_the_batch_gives_no_advice_about_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[1].CopyFrom(helper.make_node("Reshape", ["features", "shape"], ["fc1"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 4], np.int64), "shape"))
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime fails on input \(3, 3, 8, 8\): ") as raised:
        OnnxEmbedder(path).embed(np.zeros((3, 8, 8, 3), np.uint8))
    assert "batch" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (["onnxruntime"], "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"),
        (
            ["onnxruntime", "onnxruntime-gpu"],
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu",
        ),
        (["onnxruntime-gpu"], "onnxruntime-gpu is installed but finds no CUDA"),
    ],
)
def test_why_there_is_no_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], message: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr("facekd.embedder.onnx_models.session.version", version)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelError) as raised:
        OnnxEmbedder(write(tmp_path / "m.onnx"), device="cuda")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", ["CPUExecutionProvider"]),
        ("cuda", [("CUDAExecutionProvider", {"device_id": "0"}), "CPUExecutionProvider"]),
        ("cuda:3", [("CUDAExecutionProvider", {"device_id": "3"}), "CPUExecutionProvider"]),
    ],
)
def test_each_process_has_its_own_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, expected: list[Any]
) -> None:
    # As a teacher's device is named in training: that of the rank, `cuda:N`.
    asked = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])

    def open_it(*_: Any, providers: list[Any], **__: Any) -> Any:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_it)
    onnx_session.open_session(read_onnx_file(write(tmp_path / "m.onnx")), device=device)
    assert asked == [expected]
    with pytest.raises(ModelError, match=r"device is 'cuda:x'; expected cpu, cuda or cuda:N"):
        onnx_session.open_session(read_onnx_file(tmp_path / "m.onnx"), device="cuda:x")


def test_a_gpu_that_onnxruntime_cannot_use_is_an_error_and_no_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A build for CUDA whose libraries are not there: it looks for them, then opens the file on the CPU without a word.
    open_it, looked = onnxruntime.InferenceSession, []

    def preload(**_: Any) -> None:
        looked.append("for CUDA")
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *words, providers, **options: open_it(*words, providers=["CPUExecutionProvider"], **options),
    )
    with pytest.raises(ModelError, match=r"onnxruntime would run .*m\.onnx on the CPU: "):
        OnnxEmbedder(write(tmp_path / "m.onnx"), device="cuda")
    assert looked == ["for CUDA"] and capsys.readouterr().out == ""
    OnnxEmbedder(tmp_path / "m.onnx")
    assert looked == ["for CUDA"]


def test_a_full_gpu_is_no_graph_with_a_fixed_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = onnxruntime.InferenceSession.run

    def of_a_full_gpu(session: Any, names: Any, inputs: dict[str, np.ndarray], *more: Any) -> Any:
        if len(inputs["data"]) > 1:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1073741824")
        return run(session, names, inputs, *more)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", of_a_full_gpu)
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx"), image_size=8)
    with pytest.raises(ModelError, match=r"size 1073741824; give fewer images at once \(--batch-size\)$"):
        embedder.embed(np.zeros((2, 8, 8, 3), np.uint8))


DETECTORS: dict[str, dict[str, list[int]]] = {
    "scrfd": {f"{size}_{step}": [3, size] for size in (1, 4, 10) for step in (8, 16, 32)},
    "scrfd without landmarks": {f"{size}_{step}": [3, size] for size in (1, 4) for step in (8, 16, 32)},
    "yunet": {
        f"{kind}_{step}": [1, 3, size]
        for kind, size in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
        for step in (8, 16, 32)
    },
    "retinaface": {"loc": [1, 3, 4], "conf": [1, 3, 2], "landms": [1, 3, 10]},
}


DESCRIBED = {
    "scrfd": "finds faces and their landmarks (SCRFD)\n            facekd data align PHOTOS ALIGNED --detector ",
    "scrfd without landmarks": "finds faces (SCRFD without landmarks)",
    "yunet": "finds faces and their landmarks (YuNet)\n            facekd data align PHOTOS ALIGNED --detector ",
    "retinaface": "finds faces (in a way that facekd does not read)",
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_face_detector_in_the_place_of_a_model_is_called_one(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, outputs = [], []
    for name, shape in DETECTORS[kind].items():
        value = numpy_helper.from_array(np.zeros(shape, np.float32))
        nodes.append(helper.make_node("Constant", [], [name], value=value))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "detector", [image], outputs)
    path = tmp_path / "d.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    with pytest.raises(ModelError, match=r"d\.onnx: finds faces in photographs .* `facekd data align --detector`"):
        OnnxEmbedder(path)
    assert main(["describe", str(path)]) == 0
    assert DESCRIBED[kind] in capsys.readouterr().out


@pytest.mark.parametrize(("field", "length"), [("domain", 1_000_000), ("op_type", 1_000_000), ("name", 100_000)])
def test_a_refused_file_is_told_in_a_moment_and_briefly(tmp_path: Path, field: str, length: int) -> None:
    """Patterns that look for places in source code would take hours for a name without a space."""
    path = write(tmp_path / "m.onnx")
    model = onnx.load(path)
    if field == "name":
        model.graph.node[1].input[0] = "\x1b[2J" * length
    else:
        setattr(model.graph.node[1], field, "\x1b[2J" + "q" * length)
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime cannot open it: ") as raised:
        OnnxEmbedder(path)
    assert len(str(raised.value)) < 3000 and "\x1b" not in str(raised.value)


@pytest.mark.parametrize(("usable", "asked", "given"), [(1, None, 1), (3, None, 3), (4, None, 0), (1, 2, 2)])
def test_onnxruntime_has_no_more_threads_than_the_process_may_use_cores(
    usable: int, asked: int | None, given: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0, onnxruntime decides by the cores of the machine, whatever the process may use."""
    monkeypatch.setattr(onnx_session, "usable_cores", lambda: usable)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    session = onnx_session.open_session(read_onnx_file(write(tmp_path / "m.onnx")), asked)
    assert session.get_session_options().intra_op_num_threads == given


def test_calls_side_by_side_embed_as_one_call_does(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    images = np.random.default_rng(1).integers(0, 256, (70, 8, 8, 3), np.uint8)
    one = OnnxEmbedder(path, threads=1)
    expected = one.embed(images)
    assert one.images_at_once == one.batch_size
    for threads, batch_size in [(2, 64), (3, 1), (5, 8), (100, 64)]:
        several = OnnxEmbedder(path, threads=threads, batch_size=batch_size)
        several.expect_many()
        assert several.images_at_once == 4 * threads * batch_size
        for count in (0, 1, 2, 9, 70):
            np.testing.assert_allclose(several.embed(images[:count]), expected[:count], rtol=1e-5, atol=1e-5)


def test_few_images_open_no_second_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = onnx_session.open_session
    monkeypatch.setattr(
        onnx_session, "open_session", lambda *args, **named: opened.append(1) or original(*args, **named)
    )
    embedder = OnnxEmbedder(write(tmp_path / "m.onnx"), threads=2)
    images = np.random.default_rng(1).integers(0, 256, (100, 8, 8, 3), np.uint8)
    expected = embedder.embed(images)
    embedder.embed(images)
    assert len(opened) == 1
    np.testing.assert_allclose(embedder.embed(images), expected, rtol=1e-5, atol=1e-5)  # the 256th is among them
    embedder.embed(images)
    assert len(opened) == 2


def test_an_error_in_a_call_beside_others_names_the_file(tmp_path: Path) -> None:
    # The row of a table that the mean of an image names: of a white one, a row that is not there.
    nodes = [
        helper.make_node("ReduceMean", ["data"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Cast", ["mean"], ["row"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "row"], ["fc1"]),
    ]
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["batch", 5])]
    table = numpy_helper.from_array(np.ones((1, 5), np.float32), "table")
    graph = helper.make_graph(nodes, "rows", inputs, outputs, [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.save(model, tmp_path / "m.onnx")
    embedder = OnnxEmbedder(tmp_path / "m.onnx", threads=2, mean=127.5, std=127.5)
    images = np.zeros((70, 8, 8, 3), np.uint8) + 127
    embedder.expect_many()
    assert (embedder.embed(images) == 1).all()
    images[50] = 255
    with pytest.raises(ModelError, match=r"m\.onnx: onnxruntime fails on input \("):
        embedder.embed(images)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_file_that_is_written_anew_does_not_mix_two_networks(is_gone: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    images = np.random.default_rng(1).integers(0, 256, (300, 8, 8, 3), np.uint8)  # enough for calls side by side
    embedder = OnnxEmbedder(path, threads=2)
    expected = np.concatenate([embedder.embed(image[None]) for image in images[:100]])
    if is_gone:
        path.unlink()
    else:
        model = onnx.load(path)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((5, 3, 8, 8), np.float32), "weight"))
        onnx.save(model, path)
    np.testing.assert_allclose(embedder.embed(images)[:100], expected, rtol=1e-5, atol=1e-5)


@given(count=st.integers(1, 5000), most=st.integers(1, 300), threads=st.integers(1, 64))
def test_images_are_shared_out_evenly_over_threads(count: int, most: int, threads: int) -> None:
    sessions = object.__new__(onnx_session.Sessions)  # its arithmetic needs no file
    sessions.most_calls = threads
    each = sessions.images_per_call(count, most)
    calls = -(-count // each)
    assert 1 <= each <= most
    if threads == 1:
        assert each == min(most, count)
    elif count >= threads:
        assert calls >= threads / 2  # no more than half of the threads wait
