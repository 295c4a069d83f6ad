"""Detectors as users bring them, on painted faces whose place, size and score are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from facekd.errors import ModelError
from facekd.faces.detectors import ScrfdDetector, open_detector, without_overlaps
from tests.painted_faces import PAINTED, paint


@pytest.mark.parametrize("kind", ["scrfd", "yunet"])
def test_faces_are_found_where_they_are(kind: str, request: pytest.FixtureRequest) -> None:
    detector = open_detector(str(request.getfixturevalue(kind)))  # text names a file as well as a Path does
    assert detector.kind == kind
    faces = detector.detect(paint((3, 4, 255, 0), (11, 10, 204, 255)), 0.3, 128)
    np.testing.assert_allclose(faces.scores, [1, 0.8], atol=0.01)
    centres = np.array([[24, 32], [88, 80]], float)
    np.testing.assert_allclose((faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2, centres, atol=0.1)
    # SCRFD's blue of 0 is just above -1 (it divides by 128), YuNet's box is exactly 32.
    np.testing.assert_allclose(faces.boxes[:, 2:] - faces.boxes[:, :2], [[32, 32], [64, 64]], atol=0.3)
    np.testing.assert_allclose(faces.landmarks, centres[:, None] + PAINTED, atol=0.1)
    assert len(detector.detect(paint((3, 4, 255, 0), (11, 10, 204, 255)), 0.9, 128)) == 1
    nothing = detector.detect(paint(), 0.3, 128)
    assert len(nothing) == 0 and nothing.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("kind", ["scrfd", "yunet"])
def test_coordinates_are_those_of_the_image_given(kind: str, request: pytest.FixtureRequest) -> None:
    detector = open_detector(request.getfixturevalue(kind))
    small = paint((3, 4, 255, 0))
    large = cv2.resize(small, (384, 384), interpolation=cv2.INTER_NEAREST)
    found, expected = detector.detect(large, 0.5, 128), detector.detect(small, 0.5, 128)
    np.testing.assert_allclose(found.landmarks, expected.landmarks * 3, atol=0.1)
    np.testing.assert_allclose(found.boxes, expected.boxes * 3, atol=0.1)
    wide = detector.detect(np.ascontiguousarray(small[:64]), 0.5, 128)  # half a square: the rest is filled up
    np.testing.assert_allclose(wide.landmarks, expected.landmarks, atol=0.1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0, 0.9))
def test_overlaps_go_as_in_the_naive_loop(seed: int, count: int, most: float) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(1, 40, (count, 2))], axis=1)
    scores = generator.random(count)

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
        area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        return width * height / (sum(area) - width * height)

    kept: list[int] = []
    for candidate in sorted(range(count), key=lambda number: -scores[number]):
        if all(overlap(boxes[candidate], boxes[other]) <= most for other in kept):
            kept.append(candidate)
    assert without_overlaps(boxes, scores, most).tolist() == kept


def save_outputs(path: Path, sizes: list[int]) -> Path:
    """A model that returns constants, one output for each of these sizes."""
    nodes, outputs = [], []
    for number, size in enumerate(sizes):
        value = helper.make_tensor(f"v{number}", TensorProto.FLOAT, [3, size], [0.0] * 3 * size)
        nodes.append(helper.make_node("Constant", [], [f"o{number}"], value=value))
        outputs.append(helper.make_tensor_value_info(f"o{number}", TensorProto.FLOAT, [3, size]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = helper.make_graph(nodes, "constants", [image], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_what_is_no_detector_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        open_detector(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ModelError, match=r"text\.onnx: is a text file, not an ONNX model"):
        open_detector(tmp_path / "text.onnx")
    for sizes in ([128], [512, 1]):  # a feature alone, or beside its norm
        with pytest.raises(
            ModelError, match=r"no face detector but returns one vector of (128|512) values .*expected SCRFD"
        ):
            open_detector(save_outputs(tmp_path / "embedder.onnx", sizes))
    with pytest.raises(
        ModelError, match="no known face detector, its outputs are o0, o1, o2; expected SCRFD with five"
    ):
        open_detector(save_outputs(tmp_path / "other.onnx", [3, 3, 5]))
    with pytest.raises(ModelError, match="SCRFD without landmarks"):
        open_detector(save_outputs(tmp_path / "boxes.onnx", [1, 1, 1, 4, 4, 4]))
    pretender = open_detector(save_outputs(tmp_path / "pretender.onnx", [1, 1, 1, 4, 4, 4, 10, 10, 10]))
    with pytest.raises(ModelError, match="no whole number of anchors"):
        pretender.detect(paint(), 0.5, 128)


def test_a_detector_that_names_another_file_or_takes_no_image_is_refused(tmp_path: Path) -> None:
    path = save_outputs(tmp_path / "d.onnx", [1, 1, 1, 4, 4, 4, 10, 10, 10])
    model = onnx.load(path)
    model.graph.ClearField("input")
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"d\.onnx: takes 0 inputs; a face detector takes one"):
        open_detector(path)
    tensor = model.graph.node[0].attribute[0].t
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/dev/zero")
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"d\.onnx: refused: the data of tensor 'v0' are said to lie in '/dev/zero'"):
        open_detector(path)


def scrfd_returning(changes: dict[int, Callable[[np.ndarray], Any]]) -> ScrfdDetector:
    """Returns an SCRFD for 64x64 pixels with these changes to its outputs: scores 0-2, boxes 3-5, landmarks 6-8."""
    outputs: list[Any] = [np.full((2 * cells**2, size), 0.5, np.float32) for size in (1, 4, 10) for cells in (8, 4, 2)]
    for place, change in changes.items():
        outputs[place] = change(outputs[place])
    port = SimpleNamespace(name="image", shape=[1, 3, 64, 64])
    return ScrfdDetector(Path("d.onnx"), SimpleNamespace(get_inputs=lambda: [port], run=lambda *_: outputs))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_face_that_is_nowhere_is_left_out(place: int, value: float) -> None:
    def leave_two(scores: np.ndarray) -> np.ndarray:
        scores[:] = 0
        scores[[7, 100], 0] = 0.9, 0.8
        return scores

    def displace(array: np.ndarray) -> np.ndarray:
        array[7, 0] = value
        return array

    # The better of two faces has one number that is none.
    few = {place: lambda scores: scores * 0 for place in (1, 2)} | {0: leave_two}
    image = np.zeros((64, 64, 3), np.uint8)
    assert scrfd_returning(few).detect(image, 0.5, 64).scores == pytest.approx([0.9, 0.8])
    change = {place: lambda array: displace(few[place](array) if place in few else array)}
    assert scrfd_returning(few | change).detect(image, 0.5, 64).scores == pytest.approx([0.8])


def test_scores_beyond_1_and_outputs_that_are_no_numbers_are_said() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ModelError, match=r"d\.onnx: gives a face the score 2; expected 0 to 1: not an SCRFD"):
        scrfd_returning({1: lambda array: array * 4}).detect(image, 0.5, 64)
    for kind in (np.complex64, np.str_, object, bool):
        with pytest.raises(ModelError, match=r"d\.onnx: returns other values than it declares"):
            scrfd_returning({4: lambda array, kind=kind: array.astype(kind)}).detect(image, 0.5, 64)
    with pytest.raises(ModelError, match=r"d\.onnx: fails on an image of 64x64 pixels"):
        scrfd_returning({4: lambda _: [[1.0], [1.0, 2.0]]}).detect(image, 0.5, 64)


def test_scores_that_eight_bits_round_above_1_are_taken_as_1() -> None:
    def round_up(scores: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(scores))[:, None] == 3, np.float32(1.004), 0)

    changes = {0: round_up, 1: lambda scores: scores * 0, 2: lambda scores: scores * 0}
    assert scrfd_returning(changes).detect(np.zeros((64, 64, 3), np.uint8), 0.5, 64).scores.tolist() == [1]


def test_a_real_face_is_found_alike_by_real_scrfd_and_the_published_landmarks(
    real_data: Callable[[str], Path],
) -> None:
    """The landmarks of LFW are of the deepfunneled images, so only the shape is compared, not the place."""
    detector = open_detector(real_data("models/scrfd_2.5g_bnkps.onnx"))
    name = "Tony_Blair/Tony_Blair_0003.jpg"
    image = cv2.imread(str(real_data(f"photos/{name}")), cv2.IMREAD_COLOR_RGB)
    faces = detector.detect(image, 0.5, 320)
    assert len(faces) >= 1 and faces.boxes[0].min() > 0 and faces.boxes[0].max() < 250
    eyes, mouth = faces.landmarks[0, :2], faces.landmarks[0, 3:]
    assert eyes[0, 0] < eyes[1, 0] and mouth[0, 0] < mouth[1, 0] and eyes[:, 1].max() < mouth[:, 1].min()
