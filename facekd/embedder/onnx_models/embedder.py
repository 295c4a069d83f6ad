"""Embeds images with ONNX files in onnxruntime, whether from `facekd export` or another tool.

Shapes: B images, D embedding values, S image size in pixels, H W the graph's input.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facekd.embedder.checks import (
    check_batch_size,
    check_finite,
    is_onnx_file,
    largest_error,
    probe_images,
    start_fingerprint,
)
from facekd.embedder.interface import GivenPreprocessing
from facekd.embedder.known_models import KnownModel, recognise
from facekd.embedder.onnx_models.file import OnnxFile, read_onnx_file
from facekd.embedder.onnx_models.input import input_dtype, read_input_shape, shape_text
from facekd.embedder.onnx_models.input_arithmetic import InputArithmetic, read_input_arithmetic
from facekd.embedder.onnx_models.preprocessing import resolve_preprocessing
from facekd.embedder.onnx_models.session import (
    CALLS_OF_A_THREAD,
    LONGEST_MESSAGE,
    Sessions,
    brief,
    face_detector_kind,
    is_in_training_mode,
)
from facekd.embedder.sidecar import add_to_given, read_sidecar, sidecar_path
from facekd.errors import ModelError
from facekd.files.reading import sha256_of_file
from facekd.images.preprocessing import Preprocessing, fit_images, overridden
from facekd.utils.foreign import LONGEST_NAME, MAX_DIMENSIONS, shown
from facekd.utils.processes.ordered_work import in_order
from facekd.utils.wording import counted
from facekd.verification.scores import unit_rows

Run = Callable[[np.ndarray, Any], np.ndarray]  # a batch of images, and a session or None, to (B, width)

if TYPE_CHECKING:
    from typing_extensions import Unpack  # `typing` has it from Python 3.11 on


MOST_VALUES = 1 << 28  # in one input, 1 GiB
MOST_BELIEVED = 1 << 16  # values of an embedding that a file declares, and for which memory is taken unseen
NO_MEMORY = re.compile("out of memory|failed to allocate|bad_?alloc", re.IGNORECASE)  # onnxruntime's and CUDA's words
BATCH_CHECKED = 4  # images that show whether an embedding depends on its batch
QUALITY_OUTPUT = "quality"  # name of an output with one number for each image, higher is better
MOST_REWRITTEN = 1e-5  # relative error of embeddings that are computed in another form; rounding is 1e-6
# How far an embedding may move with its batch, as a share of the distance between images. Dynamic quantisation, whose
# scales are those of the batch, moves them by 0.1; statistics of the batch by 0.35 and more.
MOST_MOVED = 0.25


class OnnxEmbedder:
    """Runs an ONNX file as an `Embedder`, whoever wrote it.

    Each preprocessing value comes from the arguments, else from a sidecar, else from the file's `metadata_props`, else
    from the list of known models if its SHA-256 is there, else from what the graph itself does to its input (see
    `input_arithmetic`), else it is the usual one (127.5, RGB) and listed in `assumed`.
    The batch may be dynamic or fixed at any size (the last batch is padded), the channels may come first or last, and
    the input may be float32, float16 or bytes, square or 112 x 96 (the middle columns of the images).

    Args:
        path: the `.onnx` file.
        batch_size: images per call of a model with a dynamic batch, at most.
        threads: threads of onnxruntime; None means one per core. Of many images, each embeds its own.
        device: `"cpu"`, `"cuda"` or `"cuda:N"` (these need the onnxruntime-gpu package).
        output: name of the output that is the embedding; None takes `embedding`, or the only one with D > 1.
        resize: resize images of another size instead of refusing them.
        rewrite_prelu: compute PReLU in a form that is faster on a CPU (see `prelu_form`), if it has any, and if the
            embeddings of test images stay the same within 1e-5; `remarks` say so, or why it was not done.
        preprocessing: `mean`, `std`, `color`, `image_size`, see `Preprocessing`; None takes the value from the file.

    Attributes:
        metadata: the file's `metadata_props`, name to text.
        assumed: names of the preprocessing fields that were neither recorded nor given, nor shown by the graph.
        known: its entry in the list of known models, or None.
        input_arithmetic: what the graph itself does to its input, in plain types; None if it does nothing.
        output: name of the output that is the embedding.
        has_quality: whether another output, `quality`, says how well each image can be recognised.
        prelu_rewritten: whether PReLU is computed in that other form.
        remarks: what its user should know, one sentence each.

    Raises:
        ModelError: the file cannot be used; the message says why.
    """

    preprocessing: Preprocessing
    assumed: tuple[str, ...]
    remarks: tuple[str, ...]
    metadata: dict[str, str]
    output: str
    embedding_size: int
    has_quality: bool

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        batch_size: int = 64,
        threads: int | None = None,
        device: str = "cpu",
        output: str | None = None,
        resize: bool = False,
        rewrite_prelu: bool = False,
        **preprocessing: Unpack[GivenPreprocessing],
    ) -> None:
        check_batch_size(batch_size)
        given = {name: preprocessing.pop(name, None) for name in ("mean", "std", "color", "image_size")}
        if preprocessing:
            raise ModelError(f"{path}: an ONNX file takes no option {', '.join(preprocessing)}")

        # The session, and what the file says about itself.
        self.path: Path = Path(path)
        self.resize = resize
        if not is_onnx_file(self.path):
            raise ModelError(f"{self.path}: is a checkpoint, not an ONNX file; use `open_embedder`, or `facekd export`")
        file = read_onnx_file(self.path)
        self._sessions = Sessions(file, threads, device)
        _refuse_other_purposes(file, self._sessions.alone)
        self._files, self.metadata = file.files, file.metadata
        sidecar, asked = read_sidecar(file), dict(given)
        add_to_given(given, sidecar)
        self.normalized: bool = self.metadata.get("normalized", "false").lower() == "true"

        # The graph's input, and the preprocessing that makes it from images.
        self.known: KnownModel | None = recognise(file)
        declared_size = self._read_input(batch_size)
        arithmetic = self._read_arithmetic(file, declared_size or int(given["image_size"] or 112))  # type: ignore[arg-type]
        self.input_arithmetic: dict[str, Any] | None = None if arithmetic.is_plain else arithmetic.to_dict()
        self.preprocessing, self.assumed, self.remarks = resolve_preprocessing(
            given, self.metadata, declared_size, arithmetic, self.path, self.known and self.known.preprocessing
        )
        self._check_input(declared_size)
        published = asdict(self.known.preprocessing) if self.known and self.known.preprocessing else {}
        recorded = {**published, **self.metadata, **(asdict(sidecar.preprocessing) if sidecar else {})}
        self.remarks = (*overridden(asked, recorded), *self.remarks)
        if sidecar is not None:
            basis = f"{sidecar_path(self.path).name} says how it is used: {shown(sidecar.basis)}"
            self.remarks = (basis, *self.remarks)

        # The output that is the embedding.
        self.output, self.embedding_size = self._choose_output(output or (sidecar and sidecar.output))
        self._check_output()
        names = {entry.name for entry in self._sessions.alone.get_outputs()}
        self.has_quality = QUALITY_OUTPUT in names - {self.output}
        self.prelu_rewritten: bool = False
        if rewrite_prelu:
            self._rewrite_prelu(file, threads, device)
        self._fingerprint: str | None = None
        self._is_checked = False

    def _check_input(self, declared_size: int | None) -> None:
        """Refuses bytes that would be normalised twice, and remarks that a graph takes a part of the images."""
        if self._input_dtype is np.uint8 and (self.preprocessing.mean, self.preprocessing.std) != ((0,) * 3, (1,) * 3):
            raise ModelError(
                f"{self.path}: its input is bytes, so it takes raw pixels: give --mean 0 --std 1, or neither"
            )
        if self._columns != slice(None):
            start, stop = self._columns.start, self._columns.stop
            self.remarks += (f"takes {declared_size} x {stop - start}: columns {start} to {stop} of the images",)

    def _check_output(self) -> None:
        """Refuses a file whose output has another size than it records."""
        recorded = self.metadata.get("embedding_size")
        if recorded is not None and recorded != str(self.embedding_size):
            raise ModelError(
                f"{self.path}: records embedding_size {shown(recorded)} but returns "
                f"{counted(self.embedding_size, 'value')}; the file was altered after its export, export it again"
            )

    @property
    def fingerprint(self) -> str:
        """Hashes the file, its external data if it has any, and the preprocessing.

        With PReLU rewritten or not it is the same: embeddings differ by rounding, as with another number of threads.
        """
        if self._fingerprint is None:
            digest = start_fingerprint(self.preprocessing, self.normalized, self.resize, self.output)
            for file in self._files:
                digest.update(sha256_of_file(file).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    @property
    def has_fixed_batch(self) -> bool:
        """Tells whether the graph takes `batch_size` images and no other number; fewer are filled up."""
        return self._pad

    @property
    def images_at_once(self) -> int:
        """Says how many images `embed` should be given to keep all threads busy."""
        calls = self._sessions.most_calls
        return self.batch_size * calls * CALLS_OF_A_THREAD if calls > 1 else self.batch_size

    def expect_many(self) -> None:
        """Prepares for many images now, and not when they have come."""
        if self._sessions.most_calls > 1:
            self._sessions.side_by_side()

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `Embedder.embed`.

        Raises:
            ModelError: the images have another type or size, the graph fails on them, an embedding is not finite, or
                the embedding of the first image depends on the other images in its batch.
        """
        images = fit_images(images, self.preprocessing.image_size, self.resize)
        self._check_once(images)
        return check_finite(self._in_batches(self._run, images, self.embedding_size), str(self.path))

    def qualities(self, images: np.ndarray) -> np.ndarray:
        """See `facekd.embedder.quality.GivesQuality`, and `embed_with_quality` for errors."""
        return self.embed_with_quality(images)[1]

    def embed_with_quality(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `facekd.embedder.quality.GivesQuality`.

        Raises:
            ModelError: as `embed` does; also if the graph has no output `quality`, or it does not hold one number for
                each image.
        """
        if not self.has_quality:
            raise ModelError(f"{self.path}: has no output `{QUALITY_OUTPUT}`; `facekd train-quality` teaches one")
        images = fit_images(images, self.preprocessing.image_size, self.resize)
        self._check_once(images)
        both = self._in_batches(self._run_both, images, self.embedding_size + 1)
        qualities = check_finite(both[:, -1], str(self.path), "quality")
        return check_finite(np.ascontiguousarray(both[:, :-1]), str(self.path)), qualities

    def _check_once(self, images: np.ndarray) -> None:
        """Checks, before any other images are embedded, whether an embedding depends on its batch."""
        # Before anything else, because a graph that keeps something of each batch soon agrees with itself.
        if self._is_checked or not len(images):
            return
        # A single image shows nothing: the next call that has more is looked at.
        size = self.batch_size if self._pad else min(len(images), self.batch_size, BATCH_CHECKED)
        if size > 1:
            self._check_independence(images[:1], size)
        self._is_checked = size > 1 or self.batch_size == 1

    def _in_batches(self, run: Run, images: np.ndarray, width: int) -> np.ndarray:
        """Runs the graph on any number of images, by calls side by side if there are many; returns (N, width)."""
        is_shared_out = self._sessions.is_worth_it(len(images))
        size = self.batch_size
        if is_shared_out and not self._pad:
            size = self._sessions.images_per_call(len(images), self.batch_size)
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        found = np.empty((len(images), width), np.float32)
        if not is_shared_out or len(parts) <= 1:
            for number, part in enumerate(parts):
                found[number * size : (number + 1) * size] = run(part, None)
            return found

        # Threads that embed calls of their own are faster than threads that share each call.
        session = self._sessions.side_by_side()
        calls = min(self._sessions.most_calls, len(parts))
        with in_order(lambda part: run(part, session), parts, calls) as results:
            for number, result in enumerate(results):
                found[number * size : (number + 1) * size] = result.result()
        return found

    def _rewrite_prelu(self, file: OnnxFile, threads: int | None, device: str) -> None:
        """Runs the network with its PReLU in another form from now on, if embeddings stay the same."""
        from facekd.embedder.onnx_models.prelu_form import split_file  # onnx costs time, and checkpoints do without

        content, done = split_file(file, device)
        if content is not None:
            images = probe_images(self.preprocessing.image_size, BATCH_CHECKED)[: self.batch_size]
            plain, expected = self._sessions, self._run(images)
            try:
                self._sessions = Sessions(file, threads, device, content)
                error, problem = largest_error(self._run(images), expected), "embeddings would not be the same"
            except ModelError as cause:
                error, problem = math.nan, str(cause)
            self.prelu_rewritten = error <= MOST_REWRITTEN
            if not self.prelu_rewritten:
                self._sessions = plain
                done = f"not used: {problem} (relative error {error:.1e})"
            else:
                done += f"; embeddings of test images are the same (relative error {error:.1e})"
        self.remarks += (f"--rewrite-prelu: {done}",)

    def _read_input(self, batch_size: int) -> int | None:
        """Takes type, batch and layout of the graph's only input; returns its image size if that is fixed."""
        inputs = self._sessions.alone.get_inputs()
        if len(inputs) != 1:
            names = shown(", ".join(entry.name for entry in inputs)) or "none"
            raise ModelError(f"{self.path}: expected a model with one input, the images; found {names}")
        self._input_name: str = inputs[0].name
        self._input_dtype = input_dtype(inputs[0].type, self.path)
        fixed_batch, declared_size, self._columns, self._channels_last = read_input_shape(inputs[0].shape, self.path)
        self.batch_size: int = fixed_batch or batch_size
        self._pad = fixed_batch is not None
        if (fixed_batch or 1) * (declared_size or 1) ** 2 * 3 > MOST_VALUES:
            raise ModelError(
                f"{self.path}: its input has shape {shape_text(inputs[0].shape)}, which is more than {MOST_VALUES:,} "
                "values; export it again with a dynamic batch, for images of the size that it was trained on"
            )
        return declared_size

    def _read_arithmetic(self, file: OnnxFile, side: int) -> InputArithmetic:
        batch, width = self.batch_size if self._pad else 1, len(range(side)[self._columns])
        shape = (batch, side, width, 3) if self._channels_last else (batch, 3, side, width)
        arithmetic = read_input_arithmetic(file, shape, 3 if self._channels_last else 1)
        is_bytes = self._input_dtype is np.uint8  # which hold nothing but raw pixels
        return replace(arithmetic, takes="0..255") if is_bytes and not arithmetic.problem else arithmetic

    def _check_independence(self, image: np.ndarray, size: int) -> None:
        """Checks that an image (1, S, S, 3) has the same embedding in a batch of others, of `size` in all, 2 or more.

        Otherwise its accuracy would depend on the batch size, and no error would say so.
        """
        noise = np.random.default_rng(0).integers(0, 256, (size - 1, *image.shape[1:]), dtype=np.uint8)
        among = unit_rows(self._run(np.concatenate([image, noise])), None)
        alone = unit_rows(self._run(image), None)[0]
        apart = float(np.median(np.linalg.norm(among[1:] - among[0], axis=1)))
        moved = float(np.linalg.norm(among[0] - alone))
        if moved > max(MOST_MOVED * apart, 1e-3):
            raise ModelError(
                f"{self.path}: an image has another embedding when it shares a batch with others (it moves by "
                f"{moved:.2f}, where images are {apart:.2f} apart), so its scores mean nothing: the graph mixes the "
                "images of a batch; export it again with a dynamic batch, or open it with batch_size=1 (--batch-size 1)"
            )

    def _run(self, images: np.ndarray, session: Any = None) -> np.ndarray:
        """Embeds one batch of images (B, S, S, 3), by another session if one is given; returns float32 (B, D)."""
        x = self._to_input(images)
        return self._checked_embedding(self._call([self.output], x, session)[0], x)[: len(images)]

    def _run_both(self, images: np.ndarray, session: Any = None) -> np.ndarray:
        """Embeds one batch as `_run` does, with the quality of each image behind its embedding: (B, D + 1)."""
        x = self._to_input(images)
        embedding, found = self._call([self.output, QUALITY_OUTPUT], x, session)
        if found.dtype.kind not in "fiu" or found.size != len(x):
            raise ModelError(
                f"{self.path}: output '{QUALITY_OUTPUT}' holds {found.dtype} {found.shape} for "
                f"{counted(len(x), 'image')}, expected one number for each"
            )
        quality = found.reshape(len(x), 1).astype(np.float32, copy=False)
        return np.concatenate([self._checked_embedding(embedding, x), quality], axis=1)[: len(images)]

    def _checked_embedding(self, embedding: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Returns the output for an input of the graph as float32 (B, D), once it is one embedding for each image."""
        if embedding.dtype.kind not in "fiub":
            raise ModelError(f"{self.path}: output '{shown(self.output)}' holds {embedding.dtype}, not numbers")
        if sum(length > 1 for length in embedding.shape[1:]) > 1:
            raise ModelError(
                f"{self.path}: output '{shown(self.output)}' has shape {embedding.shape}: "
                "this is a feature map, not an embedding"
            )
        size = self.embedding_size
        if embedding.ndim < 2 or len(embedding) != len(x) or embedding.size != len(x) * size:
            raise ModelError(
                f"{self.path}: output '{shown(self.output)}' has shape {embedding.shape} for "
                f"{counted(len(x), 'image')}, expected ({len(x)}, {size}){self._batch_advice([self.output], x)}"
            )
        return embedding.reshape(len(x), -1).astype(np.float32, copy=False)

    def _call(self, outputs: list[str], x: np.ndarray, session: Any = None) -> list[np.ndarray]:
        """Runs the graph on its input; returns the outputs of these names."""
        session = session or self._sessions.alone
        try:
            return [np.asarray(found) for found in session.run(outputs, {self._input_name: x})]
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            message = f"{self.path}: onnxruntime fails on input {x.shape}: {brief(str(error))}"
            is_full = NO_MEMORY.search(str(error)[:LONGEST_MESSAGE]) and len(x) > 1 and not self._pad
            advice = "; give fewer images at once (--batch-size)" if is_full else self._batch_advice(outputs, x)
            raise ModelError(f"{message}{advice}") from error

    def _to_input(self, images: np.ndarray) -> np.ndarray:
        """Makes the graph's input from images (B, S, S, 3): a full batch, in its layout and type."""
        if self._pad and len(images) < self.batch_size:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch_size - len(images), axis=0)])
        x = self.preprocessing.apply(images[:, :, self._columns])
        if self._channels_last:
            x = np.moveaxis(x, 1, -1)
        return np.ascontiguousarray(x, self._input_dtype)

    def _batch_advice(self, outputs: list[str], x: np.ndarray) -> str:
        """Returns advice for a graph that fails on a batch, though it declares one, and not on a single image."""
        if self._pad or len(x) == 1:
            return ""
        try:
            alone = self._call(outputs, x[:1])[0]
        except ModelError:  # the batch is not what it fails on
            return ""
        fits = alone.shape[:1] == (1,) and alone.size == self.embedding_size
        return "; the graph holds a fixed batch of 1 inside: open it with batch_size=1 (--batch-size 1)" if fits else ""

    def _choose_output(self, asked: str | None) -> tuple[str, int]:
        """Returns the name of the output that is the embedding, and D."""
        # An output of that name is the embedding, and so is the only one.
        shapes: dict[str, Sequence[Any]] = {entry.name: entry.shape for entry in self._sessions.alone.get_outputs()}
        if asked is not None and asked not in shapes:
            raise ModelError(f"{self.path}: has no output {asked!r}; it has {shown(', '.join(shapes))}")
        if asked is None:
            asked = "embedding" if "embedding" in shapes else next(iter(shapes)) if len(shapes) == 1 else None

        if not shapes:
            raise ModelError(f"{self.path}: has no outputs; export it again")
        # Sizes that the file does not declare show when the graph runs.
        wanted = list(shapes) if asked is None else [asked]
        if not all(_is_declared(shapes[name]) for name in wanted):
            x = self._to_input(self.preprocessing.blank())
            shapes.update({name: np.shape(found) for name, found in zip(wanted, self._call(wanted, x), strict=True)})
        if asked is not None:
            return asked, math.prod(shapes[asked][1:])

        # Of several, as a feature and its norm, the only one with more than one value.
        vectors = [name for name, shape in shapes.items() if math.prod(shape[1:]) > 1]
        if len(vectors) != 1 or sum(length > 1 for length in shapes[vectors[0]][1:]) > 1:
            found = shown(", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()), 2 * LONGEST_NAME)
            raise ModelError(
                f"{self.path}: has {counted(len(shapes), 'output')} ({found}); say which is the embedding: "
                "--embedding-output NAME (in Python output=NAME)"
            )
        others = shown(", ".join(name for name in shapes if name != vectors[0]))
        self.remarks += (f"the embedding is its output {shown(vectors[0])}; {others} left out",)
        return vectors[0], math.prod(shapes[vectors[0]][1:])


def _refuse_other_purposes(file: OnnxFile, session: Any) -> None:
    """Raises a ModelError for a face detector, and for a graph that was exported in training mode."""
    if face_detector_kind(session):
        raise ModelError(
            f"{file.path}: finds faces in photographs and does not tell people apart; it belongs to "
            "`facekd data align --detector`, and the model to evaluate is the one that embeds aligned faces"
        )
    if is_in_training_mode(file.model):
        raise ModelError(
            f"{file.path}: was exported in training mode, so the embedding of an image depends on the other images "
            "in its batch; export it again after model.eval()"
        )


def _is_declared(shape: Sequence[Any]) -> bool:
    """Tells whether a shape says how many values an output has for an image; so many must first be seen."""
    is_known = 0 < len(shape) <= MAX_DIMENSIONS and all(isinstance(size, int) and size > 0 for size in shape[1:])
    return is_known and math.prod(shape[1:]) <= MOST_BELIEVED
