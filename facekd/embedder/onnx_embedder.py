"""Embeds images with ONNX files in onnxruntime, whether from `facekd export` or another tool.

Shapes: B images, D embedding values, S image size in pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.embedder.checks import check_batch_size, check_finite, is_onnx_file, start_fingerprint
from facekd.embedder.interface import GivenPreprocessing
from facekd.errors import ModelError
from facekd.images.preprocessing import DEFAULTS, Preprocessing, fit_images, parse_metadata
from facekd.utils.files import sha256_of_file

if TYPE_CHECKING:  # `typing` has it from Python 3.11 on
    from typing_extensions import Unpack


class OnnxEmbedder:
    """Runs an ONNX file as an `Embedder`, whoever wrote it.

    Each preprocessing value comes from the arguments, else from the file's `metadata_props`, else it is the usual one
    (127.5, RGB) and listed in `assumed`. The batch may be dynamic or fixed at any size (the last batch is padded), the
    channels may come first or last, and the input may be float32 or float16.

    Args:
        path: the `.onnx` file.
        batch_size: images per call of a model with a dynamic batch.
        threads: threads of onnxruntime; None means one per core.
        device: `"cpu"` or `"cuda"` (needs the onnxruntime-gpu package).
        output: name of the output that is the embedding, for a model that has several.
        resize: resize images of another size instead of refusing them.
        preprocessing: `mean`, `std`, `color`, `image_size`, see `Preprocessing`; None takes the value from the file.

    Attributes:
        metadata: the file's `metadata_props`, name to text.
        assumed: names of the preprocessing fields that were neither recorded nor given.

    Raises:
        ModelError: the file cannot be used; the message says why.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        batch_size: int = 64,
        threads: int | None = None,
        device: str = "cpu",
        output: str | None = None,
        resize: bool = False,
        **preprocessing: Unpack[GivenPreprocessing],
    ) -> None:
        check_batch_size(batch_size)
        given = {name: preprocessing.pop(name, None) for name in ("mean", "std", "color", "image_size")}
        if preprocessing:
            raise ModelError(f"{path}: an ONNX file takes no option {', '.join(preprocessing)}")

        # The session, and what the file says about itself.
        self.path = Path(path)
        self.resize = resize
        self._session = _open_session(self.path, threads, device)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.normalized = self.metadata.get("normalized", "false").lower() == "true"

        # The graph's input: exactly one, with its type, batch and layout.
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(entry.name for entry in inputs) or "none"
            raise ModelError(f"{self.path}: expected a model with one input, the images; found {names}")
        self._input_name: str = inputs[0].name
        self._input_dtype = _input_dtype(inputs[0].type, self.path)
        fixed_batch, declared_size, self._channels_last = _read_input_shape(inputs[0].shape, self.path)
        self.batch_size = fixed_batch or batch_size
        self._pad = fixed_batch is not None

        # The preprocessing that makes this input from images, and the output that is the embedding.
        self.preprocessing, self.assumed = _resolve_preprocessing(given, self.metadata, declared_size, self.path)
        self._output_name, self.embedding_size = _choose_output(self._session.get_outputs(), output, self.path)
        if not self.embedding_size:  # the file does not declare it: run the graph once
            self.embedding_size = self._run(self.preprocessing.blank()).shape[1]
        recorded = self.metadata.get("embedding_size")
        if recorded is not None and recorded != str(self.embedding_size):
            raise ModelError(
                f"{self.path}: records embedding_size {recorded} but returns {self.embedding_size} values; "
                "the file was altered after its export, export it again"
            )
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hashes the file, its external data if it has any, and the preprocessing."""
        if self._fingerprint is None:
            digest = start_fingerprint(self.preprocessing, self.normalized, self.resize, self._output_name)
            for file in (self.path, *_external_data_files(self.path)):
                digest.update(sha256_of_file(file).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `Embedder.embed`.

        Raises:
            ModelError: the images have another type or size, the graph fails on them, or an embedding is not finite.
        """
        images = fit_images(images, self.preprocessing.image_size, self.resize)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), self.batch_size):
            embeddings[start : start + self.batch_size] = self._run(images[start : start + self.batch_size])
        return check_finite(embeddings, str(self.path))

    def _run(self, images: np.ndarray) -> np.ndarray:
        # The input as the graph wants it: a full batch, its layout and its type.
        count = len(images)
        if self._pad and count < self.batch_size:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch_size - count, axis=0)])
        x = self.preprocessing.apply(images)
        if self._channels_last:
            x = np.moveaxis(x, 1, -1)
        x = np.ascontiguousarray(x, self._input_dtype)

        # Some exports declare a dynamic batch but contain a fixed one: they fail, or fold the batch into D.
        advice = "" if len(x) == 1 else "; if the graph holds a fixed batch of 1 inside, open it with batch_size=1"
        try:
            embedding = np.asarray(self._session.run([self._output_name], {self._input_name: x})[0])
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise ModelError(f"{self.path}: onnxruntime fails on input {x.shape}: {error}{advice}") from error

        # One embedding per image, each of the declared size.
        if sum(length > 1 for length in embedding.shape[1:]) > 1:
            raise ModelError(
                f"{self.path}: output {self._output_name!r} has shape {embedding.shape}: "
                "this is a feature map, not an embedding"
            )
        size = self.embedding_size or embedding.size // len(x)
        if embedding.ndim < 2 or len(embedding) != len(x) or embedding.size != len(x) * size:
            raise ModelError(
                f"{self.path}: output {self._output_name!r} has shape {embedding.shape} for {len(x)} images, "
                f"expected ({len(x)}, {size}){advice}"
            )
        return embedding.reshape(len(x), -1)[:count].astype(np.float32, copy=False)


def _open_session(path: Path, threads: int | None, device: str) -> Any:
    if not is_onnx_file(path):
        raise ModelError(f"{path}: is a checkpoint, not an ONNX file; use `open_embedder`, or `facekd export` first")
    import onnxruntime

    providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}.get(device)
    if providers is None:
        raise ModelError(f"device is {device!r}; expected cpu or cuda for an ONNX file")
    if providers[0] not in onnxruntime.get_available_providers():
        raise ModelError("device is 'cuda' but this onnxruntime has no CUDA: pip install onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings about unused initialisers in a file do not help its user
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise ModelError(f"{path}: onnxruntime cannot open it; is the file complete? {error}") from error


def _external_data_files(path: Path) -> list[Path]:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    locations = {
        entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    return [path.parent / location for location in sorted(locations)]


def _input_dtype(onnx_type: str, path: Path) -> type[np.floating[Any]]:
    dtypes: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if onnx_type not in dtypes:
        raise ModelError(f"{path}: its input is {onnx_type}, expected tensor(float) or tensor(float16)")
    return dtypes[onnx_type]


def _read_input_shape(shape: Sequence[int | str | None], path: Path) -> tuple[int | None, int | None, bool]:
    """Returns (fixed batch or None, image size or None, channels_last)."""
    # A fixed dimension is a positive number; for the others exporters write a name, None, 0 or -1.
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    if len(sizes) != 4 or 3 not in (sizes[1], sizes[3]):
        raise ModelError(f"{path}: its input has shape {list(shape)}, expected (batch, 3, size, size)")
    channels_last = sizes[1] != 3
    height, width = sizes[1:3] if channels_last else sizes[2:4]
    if height != width:
        raise ModelError(f"{path}: takes images of {height} x {width}; only square images are supported")
    return sizes[0], height, channels_last


def _choose_output(outputs: Sequence[Any], asked: str | None, path: Path) -> tuple[str, int]:
    """Returns the name of the output that is the embedding, and its size (0 if the file does not declare it)."""
    shapes = {entry.name: entry.shape for entry in outputs}
    if asked is not None and asked not in shapes:
        raise ModelError(f"{path}: has no output {asked!r}; it has {', '.join(shapes)}")
    if asked is None and "embedding" in shapes:
        asked = "embedding"
    if asked is None and len(shapes) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ModelError(f"{path}: has {len(shapes)} outputs ({found}); say which is the embedding (output=NAME)")
    name = asked if asked is not None else next(iter(shapes))
    sizes = shapes[name][1:]
    declared = bool(sizes) and all(isinstance(size, int) and size > 0 for size in sizes)
    return name, math.prod(sizes) if declared else 0


def _resolve_preprocessing(
    given: Mapping[str, Any], metadata: Mapping[str, str], declared_size: int | None, path: Path
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Takes each field as given, else as recorded, else assumes it; returns them and the names of those assumed."""
    # Fields that are not given come from the file.
    unsaid = [name for name, value in given.items() if value is None]
    try:
        recorded = {name: parse_metadata(name, metadata[name]) for name in unsaid if name in metadata}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    known = {**recorded, **{name: value for name, value in given.items() if value is not None}}

    # The image size is the graph's own where it is fixed; nothing may contradict it.
    if declared_size is not None:
        if known.setdefault("image_size", declared_size) != declared_size:
            said = "given" if given["image_size"] is not None else "recorded"
            raise ModelError(f"{path}: takes {declared_size} pixels, but image_size {known['image_size']} is {said}")
    elif "image_size" not in known:
        raise ModelError(
            f"{path}: takes images of any size and does not record one; give image_size (--image-size 112, say)"
        )

    # The other fields; those that nobody states are assumed.
    if ("mean" in known) != ("std" in known):
        missing = "std" if "mean" in known else "mean"
        raise ModelError(f"{path}: {missing} is neither given nor recorded; give mean and std together")
    assumed = tuple(name for name in DEFAULTS if name not in known)
    defaults = dict(DEFAULTS)
    if "mean" in assumed and _normalises_inside(path):
        defaults.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    try:
        return Preprocessing(**{**defaults, **known}), assumed
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _normalises_inside(path: Path) -> bool:
    """Tells whether the graph scales its input itself and so wants raw 0..255, as models converted from mxnet do."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {entry.name for entry in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    image = next(entry.name for entry in graph.input if entry.name not in constants)
    first = [node for node in graph.node if image in node.input]
    return (
        len(first) == 1 and first[0].op_type in ("Sub", "Add", "Mul", "Div") and bool(constants & set(first[0].input))
    )
