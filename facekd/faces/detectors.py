"""Runs the face detectors that users bring as ONNX files: SCRFD by onnxruntime, YuNet by OpenCV.

No detector is part of the project. The outputs of a file tell which of the two it is. Coordinates are pixels of the
image given, whatever size the network saw it at.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from facekd.embedder.onnx_models.file import read_onnx_file
from facekd.embedder.onnx_models.session import STRIDES, brief, face_detector_kind, open_session
from facekd.errors import ModelError
from facekd.files.reading import require_regular_file
from facekd.images.alignment import NUM_LANDMARKS
from facekd.images.preprocessing import LARGEST_SIZE
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

SMALLEST_INPUT = 64
SCRFD_ENDS = [(size,) for size in (1, 4, 10) for _ in STRIDES]
# The values that the networks were published with (deepinsight/insightface scrfd.py, opencv_zoo yunet.py).
SCRFD_MEAN, SCRFD_STD, SCRFD_OVERLAP = 127.5, 128.0, 0.4
YUNET_OVERLAP, YUNET_CANDIDATES = 0.3, 5000
FARTHEST = 1e9  # pixels
MOST_SCORE = 1.01  # a probability, of a network of 8 bits perhaps, which rounds it


@dataclass(frozen=True)
class Faces:
    """Holds the F faces found in an image, highest score first.

    Attributes:
        boxes: float64 (F, 4), left, top, right, bottom.
        landmarks: float64 (F, 5, 2), in the order of `facekd.images.alignment`.
        scores: float64 (F,), 0..1.
    """

    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class FaceDetector(Protocol):
    """Finds faces. May be called from several threads at once.

    Attributes:
        kind: `"scrfd"` or `"yunet"`.
    """

    kind: str

    def detect(self, image: np.ndarray, least_score: float, input_size: int) -> Faces:
        """Returns the faces in an image; one with a coordinate that is NaN, infinite or beyond 1e9 is left out.

        Args:
            image: uint8 RGB (H, W, 3).
            least_score: faces with a lower score are left out.
            input_size: the longer side of the image is scaled to this many pixels for the network.
        """
        ...


def open_detector(path: str | os.PathLike[str]) -> FaceDetector:
    """Opens a detector; the outputs of the file decide which kind it is.

    Raises:
        ModelError: no such file, no ONNX, or a network of another kind.
    """
    path = Path(path)
    require_regular_file(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected a face detector in ONNX, SCRFD with landmarks or YuNet")
    session = open_session(read_onnx_file(path), threads=1)  # images are the parallelism

    # Tell the kind by the names and sizes of the outputs.
    kind = face_detector_kind(session)
    if kind == "yunet":
        return YunetDetector(path)
    if kind == "scrfd":
        return ScrfdDetector(path, session)

    # Neither: say what was found.
    outputs = session.get_outputs()
    expected = "SCRFD with five landmarks (9 outputs of 1, 4 and 10 values) or YuNet (cls_8 ... kps_32)"
    if kind == "scrfd without landmarks":
        raise ModelError(
            f"{path}: is an SCRFD without landmarks, and faces are aligned by landmarks; take the one called ..._bnkps"
        )
    vectors = [output for output in outputs if len(output.shape) == 2 and output.shape[1] not in (1, 4, 10)]
    if len(vectors) == 1 and len(outputs) <= 2:
        raise ModelError(
            f"{path}: is no face detector but returns one vector of {counted(vectors[0].shape[1], 'value')} for an "
            f"image, as models that embed aligned faces do (`facekd evaluate` takes it); expected {expected}"
        )
    names = shown(", ".join(output.name for output in outputs))
    raise ModelError(f"{path}: is no known face detector, its outputs are {names}; expected {expected}")


class ScrfdDetector:
    """Runs SCRFD with landmarks ("Sample and Computation Redistribution for Efficient Face Detection", 2021).

    It has three strides and two anchors per cell; boxes and landmarks are distances from the anchor in units of the
    stride. The image goes into the upper left corner of a black square.
    """

    kind = "scrfd"

    def __init__(self, path: Path, session: Any) -> None:
        self.path = path
        self._session = session
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"{path}: takes {counted(len(inputs), 'input')}; a face detector takes one, the image")
        image = inputs[0]
        self._input_name: str = image.name
        fixed = image.shape[2:] if len(image.shape) == 4 else []
        self._fixed_size: int | None = None
        if all(isinstance(side, int) and side > 0 for side in fixed) and fixed:
            if fixed[0] != fixed[1] or fixed[0] % STRIDES[-1] or fixed[0] > LARGEST_SIZE:
                raise ModelError(
                    f"{path}: takes images of {fixed[1]}x{fixed[0]}; expected a square, or any size, in steps of 32 "
                    f"and at most {LARGEST_SIZE:,} pixels"
                )
            self._fixed_size = int(fixed[0])

    def detect(self, image: np.ndarray, least_score: float, input_size: int) -> Faces:
        """See `FaceDetector.detect`; a network with a fixed input size ignores `input_size`."""
        # Scale the image into the corner of a black square.
        side = self._fixed_size or max(-(-input_size // STRIDES[-1]) * STRIDES[-1], SMALLEST_INPUT)
        scale = side / max(image.shape[:2])
        scaled = _scale(image, scale)
        canvas = np.zeros((side, side, 3), dtype=np.uint8)
        canvas[: scaled.shape[0], : scaled.shape[1]] = scaled
        blob = ((canvas.astype(np.float32) - SCRFD_MEAN) / SCRFD_STD).transpose(2, 0, 1)[None]
        try:
            outputs = self._session.run(None, {self._input_name: np.ascontiguousarray(blob)})
            outputs = [np.asarray(output) for output in outputs]
        except Exception as error:
            raise ModelError(f"{self.path}: fails on an image of {side}x{side} pixels: {brief(str(error))}") from error

        is_numeric = all(output.dtype.kind == "f" for output in outputs)
        if sorted(output.shape[-1:] for output in outputs) != sorted(SCRFD_ENDS) or not is_numeric:
            raise ModelError(f"{self.path}: returns other values than it declares, on an image of {side}x{side} pixels")

        # Keep the best of overlapping faces, and go back to pixels of the image.
        scores, boxes, landmarks = self._decode(outputs, side)
        kept = (scores >= least_score) & _are_somewhere(scores, boxes, landmarks)
        boxes, landmarks, scores = boxes[kept], landmarks[kept], scores[kept]
        if scores.max(initial=0) > MOST_SCORE:
            raise ModelError(f"{self.path}: gives a face the score {scores.max():.4g}; expected 0 to 1: not an SCRFD")
        scores = np.minimum(scores, 1)
        best = without_overlaps(boxes, scores, SCRFD_OVERLAP)
        stretch = np.array([image.shape[1] / scaled.shape[1], image.shape[0] / scaled.shape[0]])
        return Faces(boxes[best] * np.tile(stretch, 2), landmarks[best] * stretch, scores[best])

    def _decode(self, outputs: list[np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns scores (A,), boxes (A, 4) and landmarks (A, 5, 2) of all anchors, in pixels of the canvas."""
        by_size = {size: [o.reshape(-1, size) for o in outputs if o.shape[-1] == size] for size in (1, 4, 10)}
        columns: list[list[np.ndarray]] = [[], [], []]
        # The finest stride has the most anchors; their order among the outputs differs from file to file.
        finest_first = [sorted(group, key=len, reverse=True) for group in by_size.values()]
        for stride, *values in zip(STRIDES, *finest_first, strict=True):
            cells = side // stride
            num_anchors = len(values[0]) // (cells * cells)
            if num_anchors < 1 or any(len(value) != cells * cells * num_anchors for value in values):
                raise ModelError(
                    f"{self.path}: returns {counted(len(values[0]), 'score')} at stride {stride} for {side}x{side} "
                    "pixels, which is no whole number of anchors a cell: not an SCRFD"
                )
            y, x = np.mgrid[:cells, :cells].reshape(2, -1).repeat(num_anchors, axis=1) * float(stride)
            centres = np.stack([x, y], axis=-1)
            with np.errstate(over="ignore", invalid="ignore"):  # such faces are left out
                score, box, points = (value.astype(np.float64) for value in values)
                corners = [centres - box[:, :2] * stride, centres + box[:, 2:] * stride]
                columns[0].append(score[:, 0])
                columns[1].append(np.concatenate(corners, axis=1))
                columns[2].append(centres[:, None] + points.reshape(-1, NUM_LANDMARKS, 2) * stride)
        scores, boxes, landmarks = (np.concatenate(column) for column in columns)
        return scores, boxes, landmarks


class YunetDetector:
    """Runs YuNet ("YuNet: A Tiny Millisecond-level Face Detector", 2023) through OpenCV's `FaceDetectorYN`."""

    kind = "yunet"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._of_thread = threading.local()  # one instance per thread: OpenCV's is not thread-safe
        self._open()

    def detect(self, image: np.ndarray, least_score: float, input_size: int) -> Faces:
        """See `FaceDetector.detect`."""
        # Scale the image to the input size and detect.
        detector = getattr(self._of_thread, "detector", None)
        if detector is None:
            detector = self._of_thread.detector = self._open()
        scaled = _scale(image, max(input_size, SMALLEST_INPUT) / max(image.shape[:2]))
        height, width = scaled.shape[:2]
        detector.setInputSize((width, height))
        detector.setScoreThreshold(least_score)
        try:
            rows = detector.detect(np.ascontiguousarray(scaled[..., ::-1]))[1]
        except cv2.error as error:
            raise ModelError(f"{self.path}: OpenCV fails on an image of {width}x{height}: {error.err}") from error

        # Sort by score, and go back to pixels of the image.
        rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
        rows = rows[_are_somewhere(rows)]
        rows = rows[np.argsort(-rows[:, 14], kind="stable")]
        stretch = np.array([image.shape[1] / width, image.shape[0] / height])
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        # Its first eye and mouth corner are the right ones of the person: the left ones in the image.
        landmarks = rows[:, 4:14].reshape(-1, NUM_LANDMARKS, 2)
        return Faces(corners * np.tile(stretch, 2), landmarks * stretch, rows[:, 14])

    def _open(self) -> Any:
        try:
            return cv2.FaceDetectorYN.create(str(self.path), "", (320, 320), 0.5, YUNET_OVERLAP, YUNET_CANDIDATES)
        except cv2.error as error:
            raise ModelError(
                f"{self.path}: OpenCV {cv2.__version__} cannot open this YuNet: {error.err}. It wants one exported for "
                "a fixed size (it runs at any size all the same), not a `dynamic` one"
            ) from error


def without_overlaps(boxes: np.ndarray, scores: np.ndarray, most_overlap: float) -> np.ndarray:
    """Applies non-maximum suppression; returns the indices of the boxes to keep, highest score first.

    Args:
        boxes: (F, 4), left, top, right, bottom.
        scores: (F,).
        most_overlap: a box is dropped if its intersection over union with a better one is greater than this.
    """
    corners, sides = boxes[:, :2], np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    # The detector has cut off low scores; OpenCV drops those of 0 as well.
    kept = cv2.dnn.NMSBoxes(np.concatenate([corners, sides], axis=1), scores, 0.0, most_overlap)  # type: ignore
    return np.asarray(kept, dtype=np.int64)


def _are_somewhere(*columns: np.ndarray) -> np.ndarray:
    """Tells which of F faces, (F, ...) each, have numbers alone, none of them NaN, infinite or beyond any image."""
    near = [np.abs(column) < FARTHEST for column in columns]
    return np.logical_and.reduce([column.all(axis=tuple(range(1, column.ndim))) for column in near])


def _scale(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size == (width, height):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
