"""Opens models, finds faces, embeds them and compares embeddings, for Python programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from facekd.embedder import Embedder, Preprocessing, open_embedder
from facekd.errors import DataError, InputError
from facekd.faces.choosing import FaceRules, WhichFaces
from facekd.faces.detectors import FaceDetector, open_detector
from facekd.faces.embedding import EmbeddedFaces, embed_in_order
from facekd.faces.finding import IMAGE_REASONS, FaceFinder, ImageSource
from facekd.faces.image_inputs import Images, list_images
from facekd.utils.foreign import shown, some_of
from facekd.utils.processes.children import usable_cores
from facekd.utils.wording import counted
from facekd.verification.scores import as_array, unit_rows

PathLike: TypeAlias = str | os.PathLike[str]
# A path, a list of paths and arrays, or pixels: uint8 RGB (H, W, 3), or (N, H, W, 3) of equal size.
ImagesLike: TypeAlias = PathLike | np.ndarray | Iterable[PathLike | np.ndarray]


@dataclass(frozen=True)
class Face:
    """Holds one face of an image.

    Attributes:
        image: number of the image among those given.
        name: where it is from: a path, `FILE.rec#KEY`, `PACK.bin#I`, or `array I`.
        crop: uint8 RGB (S, S, 3), aligned.
        box: float32 (4,), left, top, right, bottom in pixels of the photograph; NaN if the image was an aligned crop.
        landmarks: float32 (5, 2): eyes, nose, corners of the mouth, left before right in the image; NaN likewise.
        score: how sure the detector is, 0..1; NaN likewise.
        embedding: float32 (D,) of unit length; None if the face was only detected.
    """

    image: int
    name: str
    crop: np.ndarray
    box: np.ndarray
    landmarks: np.ndarray
    score: float
    embedding: np.ndarray | None


def load_model(
    path: PathLike,
    *,
    detector: PathLike | None = None,
    detector_size: int = 640,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    color: Literal["rgb", "bgr"] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int | None = None,
) -> Model:
    """Opens a model that embeds faces: an ONNX file of any tool, a facekd checkpoint, or the folder of a run.

    Args:
        path: the file or folder.
        detector: an ONNX file of SCRFD or YuNet, for photographs; without one each image must be an aligned face.
        detector_size: longer side of a photograph in the detector, in pixels.
        mean, std: in units of 0..255, if the file does not record them or is wrong.
        color: order of the channels that the model takes, if the file does not record it or is wrong.
        device: where the model runs: `"cpu"`, `"cuda"` or `"cuda:N"`.
        threads: of onnxruntime; None takes one for each core.
        batch_size: images per call of the model; None takes the usual number.

    Raises:
        ModelError: the file is no model, or does not say enough about itself; or `device` is none.
        FacekdError: there is no such GPU.
    """
    asked = {"mean": mean, "std": std, "color": color, "threads": threads, "batch_size": batch_size}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    embedder = open_embedder(path, device=device, **given)
    found = None if detector is None else open_detector(Path(detector))
    return Model(Path(path), embedder, found, {**given, "device": device}, detector_size)


class Model:
    """Embeds faces; `load_model` opens one.

    Attributes:
        path: the file or folder that it was opened from.
        options: how it was opened, other than its file says.
    """

    def __init__(
        self,
        path: Path,
        embedder: Embedder,
        detector: FaceDetector | None,
        options: Mapping[str, Any],
        detector_size: int = 640,
    ) -> None:
        self.path = path
        self.options = options
        self._embedder, self._detector, self._detector_size = embedder, detector, detector_size

    @property
    def embedding_size(self) -> int:
        """Returns the number of values D of an embedding."""
        return self._embedder.embedding_size

    @property
    def preprocessing(self) -> Preprocessing:
        """Returns mean, std, order of the channels and image size of the model's input."""
        return self._embedder.preprocessing

    @property
    def fingerprint(self) -> str:
        """Returns a digest of weights and preprocessing: embeddings of models with equal ones may be compared."""
        return self._embedder.fingerprint

    def embed(self, images: ImagesLike, *, flip: bool = False) -> np.ndarray:
        """Embeds one face of each image: with a detector the largest, else the image is the face.

        Args:
            images: a photograph, a folder of them at any depth, a `.rec`, a verification pack; a list of paths and
                arrays; or uint8 RGB pixels, (H, W, 3) or (N, H, W, 3). Without a detector, images have the model's
                size.
            flip: add the embedding of the mirror image before the length is made 1.

        Returns:
            float32 (N, D), rows of unit length in the order of the images; of a folder, in the order of names.

        Raises:
            DataError: an image cannot be read, or shows no face; the message names the first three and says why.
            InputError: what was given is no image.
        """
        faces, problems = self._embed(images, FaceRules("largest", detector_size=self._detector_size), flip)
        if problems:
            raise DataError(f"{counted(len(problems), 'image has', 'images have')} no embedding: {some_of(problems)}")
        return np.stack([_unit(face) for face in faces])

    def faces(
        self, images: ImagesLike, *, which: WhichFaces = "all", min_score: float = 0.5, flip: bool = False
    ) -> list[Face]:
        """Finds and embeds the faces of images; images that cannot be read or show none are left out.

        Args:
            images: see `embed`.
            which: which faces of a photograph: "all", the "largest", that nearest the "centre", or of highest "score".
            min_score: least score of the detector, 0 to 1.
            flip: see `embed`.

        Raises:
            DataError: there is no such file.
            InputError: what was given is no image, or no such choice.
        """
        return self._embed(images, FaceRules(which, min_score, detector_size=self._detector_size), flip)[0]

    def _embed(self, images: ImagesLike, rules: FaceRules, flip: bool) -> tuple[list[Face], list[str]]:
        """Returns the faces of images, and for each image without one why."""
        opened = _open(images)
        finder = FaceFinder(self.preprocessing.image_size, self._detector, rules)
        faces: list[Face] = []
        problems: list[str] = []
        with embed_in_order(self._embedder, finder, opened, range(len(opened)), flip, usable_cores()) as results:
            for result in results:
                own = _faces_of(opened, result)
                faces += own
                if not own:
                    why = result.found.detail or IMAGE_REASONS[result.found.reason or "no_direction"]
                    problems.append(f"{opened.names[result.index]} ({why})")
        return faces, problems


def detect(
    image: PathLike | np.ndarray,
    detector: PathLike,
    *,
    image_size: int = 112,
    which: WhichFaces = "all",
    min_score: float = 0.5,
    detector_size: int = 640,
) -> list[Face]:
    """Finds the faces of one photograph; none is no error.

    Args:
        image: a path, or uint8 RGB pixels (H, W, 3).
        detector: an ONNX file of SCRFD or YuNet.
        image_size: side of the aligned crops in pixels.
        which: which faces, see `Model.faces`.
        min_score: least score of the detector.
        detector_size: longer side of the photograph in the detector, in pixels.

    Raises:
        DataError: the image cannot be read.
        InputError: a value is out of its range.
        ModelError: the file is no detector.
    """
    opened = _open([image])
    rules = FaceRules(which, min_score, detector_size=detector_size)
    found = FaceFinder(image_size, open_detector(Path(detector)), rules).find(opened.read(0))
    if found.reason == "unreadable":
        raise DataError(f"{opened.names[0]}: {found.detail}")
    return [Face(0, opened.names[0], one.crop, one.box, one.landmarks, one.score, None) for one in found.faces]


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the cosines between embeddings, which need not have unit length.

    Args:
        first: (D,) or (N, D).
        second: (D,) or (M, D).

    Returns:
        float64 (N, M), without the axes that were not given; of two single embeddings a number.

    Raises:
        InputError: the sizes differ, or an embedding is zero or not finite.
    """
    first, second = _real_values(first), _real_values(second)
    if first.ndim not in (1, 2) or second.ndim not in (1, 2) or first.shape[-1] != second.shape[-1]:
        raise InputError(f"embeddings are (D,) or (N, D), both of the same D; found {first.shape} and {second.shape}")

    def refuse(_: np.ndarray) -> InputError:
        return InputError("an embedding is zero or not finite, so that it has no cosine with another")

    units = [unit_rows(np.atleast_2d(one), refuse).reshape(one.shape) for one in (first, second)]
    cosines = units[0] @ units[1].T
    # Rounding can leave that of equal ones a hair above 1. Of all against all there is memory for one such array.
    return np.clip(cosines, -1.0, 1.0, out=cosines if cosines.ndim else None)


def _real_values(embeddings: np.ndarray) -> np.ndarray:
    """Returns embeddings of any type of real numbers, also of other packages and Python's own, as float64."""
    array = as_array(embeddings, "embeddings")
    try:
        if array.dtype.kind in "bcSUmM":  # numpy would convert these as well
            raise TypeError(array.dtype)
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"embeddings are numbers, (D,) or (N, D); found {array.dtype}") from error


class _Arrays(Images):
    """Provides images that are in memory or in files, in the order given."""

    def __init__(self, images: Sequence[PathLike | np.ndarray]) -> None:
        self._images: list[ImageSource] = [one if isinstance(one, np.ndarray) else os.fspath(one) for one in images]
        self.names = [one if isinstance(one, str) else f"array {i}" for i, one in enumerate(self._images)]
        self.people = [""] * len(self.names)

    def read(self, index: int) -> ImageSource:
        return self._images[index]

    def identities(self) -> list[str]:
        return list(map(str, range(len(self))))  # an image that is given twice is embedded twice

    def stamps(self) -> Iterable[tuple[int, ...]]:
        return ()


def _open(images: ImagesLike) -> Images:
    """Lists the images that a caller gave."""
    if isinstance(images, str | os.PathLike):
        return list_images([os.fspath(images)])
    if isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[None]
    is_scalar = isinstance(images, np.ndarray) and images.ndim == 0
    if is_scalar or not isinstance(images, Iterable) or isinstance(images, bytes):
        raise InputError(f"images are a path, uint8 RGB pixels or a list of these; found {type(images).__name__}")
    listed = list(images)
    if not listed:
        raise DataError("no images were given")
    odd = next((one for one in listed if not isinstance(one, str | os.PathLike | np.ndarray)), None)
    if odd is not None:
        raise InputError(f"an image is a path or a uint8 RGB array (H, W, 3); found {shown(repr(odd))}")
    missing = [os.fspath(one) for one in listed if not isinstance(one, np.ndarray) and not Path(one).is_file()]
    if missing:
        raise DataError(f"{some_of(missing)}: no such file")
    return _Arrays(listed)


def _faces_of(images: Images, result: EmbeddedFaces) -> list[Face]:
    """Returns the faces of an image with embeddings of unit length; one whose embedding is zero is left out."""
    name, units = images.names[result.index], unit_rows(result.embeddings, None)
    return [
        Face(result.index, name, one.crop, one.box, one.landmarks, one.score, unit)
        for one, unit in zip(result.found.faces, units, strict=True)
        if unit.any()
    ]


def _unit(face: Face) -> np.ndarray:
    assert face.embedding is not None
    return face.embedding
