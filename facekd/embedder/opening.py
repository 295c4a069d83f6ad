"""Images to embeddings behind one interface, whether the model is a torch module or an ONNX file.

Every benchmark and validator asks for an `Embedder` and never learns which of the two it got. What an embedder needs to
know beyond the weights (mean, std, colour order, image size) travels with the model: in the checkpoint, or in the
`metadata_props` of an ONNX file written by `facekd export`. For ONNX files of others it is given by hand.

Shapes: B images, D embedding values, S image size in pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from facekd.embedder.onnx_embedder import OnnxEmbedder, check_batch_size, check_finite, is_onnx_file, start_fingerprint
from facekd.images.preprocessing import EmbedderError, Preprocessing, fit_images

if TYPE_CHECKING:
    import torch

# More on a CPU only takes longer: there the memory of large activations is cleared anew for each batch.
IMAGES_AT_ONCE = {"cpu": 16}
IMAGES_AT_ONCE_ELSEWHERE = 64

__all__ = [
    "Embedder",
    "EmbedderError",
    "OnnxEmbedder",
    "Preprocessing",
    "TorchEmbedder",
    "embed_with_flip",
    "open_embedder",
]


@runtime_checkable
class Embedder(Protocol):
    """What every benchmark asks for.

    Attributes:
        embedding_size: D.
        preprocessing: what is done to the images, and the image size expected.
        normalized: whether embeddings leave with unit L2 norm. Where true, `f(x) + f(flipped x)` weighs both alike.
        fingerprint: hex digest over weights and preprocessing: equal fingerprints give equal embeddings, so it is
            the key under which embeddings may be cached.
    """

    @property
    def embedding_size(self) -> int: ...
    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def normalized(self) -> bool: ...
    @property
    def fingerprint(self) -> str: ...

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embed uint8 RGB images (B, S, S, 3), any B; returns float32 (B, D), batched inside."""
        ...


def embed_with_flip(embedder: Embedder, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embed the images and their mirror images; returns two float32 (B, D): plain, flipped."""
    return embedder.embed(images), embedder.embed(np.ascontiguousarray(images[:, :, ::-1]))


class TorchEmbedder:
    """A torch module as an `Embedder`.

    Args:
        module: float (B, 3, S, S) -> embedding (B, D). It is neither copied nor changed: it is put in evaluation mode
            for the time of a call only, so that a module in training may be embedded with.
        preprocessing: mean, std, colour and size the module was trained with.
        device: where to run; the module is moved there.
        batch_size: images run at once; None chooses by the device.
        normalize: divide each embedding by its L2 norm.
        autocast: a torch dtype (`torch.bfloat16`) to run the module in mixed precision; None for float32.
        resize: resize images of another size instead of refusing them.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        preprocessing: Preprocessing,
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        normalize: bool = False,
        autocast: torch.dtype | None = None,
        resize: bool = False,
    ) -> None:
        import torch

        self.preprocessing = preprocessing
        self.normalized = normalize
        self.resize = resize
        self._device = torch.device(device)
        chosen = IMAGES_AT_ONCE.get(self._device.type, IMAGES_AT_ONCE_ELSEWHERE)
        self.batch_size = chosen if batch_size is None else batch_size
        check_batch_size(self.batch_size)
        self._module = module.to(self._device)
        self._autocast = autocast
        size = getattr(module, "embedding_size", None)
        self.embedding_size: int = int(size) if size is not None else self._embed_batch(preprocessing.blank()).shape[1]

    @property
    def fingerprint(self) -> str:
        """Computed anew at each access, for the weights may be in training."""
        import torch

        digest = start_fingerprint(self.preprocessing, self.normalized, self.resize, str(self._autocast))
        digest.update(f"{type(self._module).__name__} {getattr(self._module, 'name', '')}".encode())
        for name, value in self._module.state_dict().items():
            array = value.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
            # Reinterpreted as bytes because numpy has no bfloat16.
            digest.update(memoryview(array.flatten().view(torch.uint8).numpy()))
        return digest.hexdigest()

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `Embedder.embed`.

        Raises:
            EmbedderError: images of another type or size, or an embedding that is not finite.
        """
        images = fit_images(images, self.preprocessing.image_size, self.resize)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), self.batch_size):
            embeddings[start : start + self.batch_size] = self._embed_batch(images[start : start + self.batch_size])
        return check_finite(embeddings, "the torch module")

    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        import torch

        from facekd.images.augmentation import to_model_input  # here: it imports torch

        step = self.preprocessing.channel_step
        with _evaluation_mode(self._module), torch.inference_mode():
            # uint8 crosses to the device, a quarter of the bytes; the permuted view is channels_last as it stands.
            pixels = torch.from_numpy(np.ascontiguousarray(images[..., ::step])).to(self._device)
            inputs = to_model_input(pixels, mean=self.preprocessing.mean[::step], std=self.preprocessing.std[::step])
            enabled = self._autocast is not None
            with torch.autocast(self._device.type, dtype=self._autocast, enabled=enabled):
                embedding = self._module(inputs)
            if embedding.ndim != 2 or len(embedding) != len(images):
                raise EmbedderError(
                    f"the torch module returns shape {tuple(embedding.shape)} for {len(images)} images, "
                    f"expected ({len(images)}, embedding size)"
                )
            embedding = embedding.float()
            if self.normalized:
                embedding = torch.nn.functional.normalize(embedding)
            return embedding.cpu().numpy()


def open_embedder(
    path: str | os.PathLike[str],
    *,
    mean: Any = None,
    std: Any = None,
    color: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    resize: bool = False,
    **options: Any,
) -> TorchEmbedder | OnnxEmbedder:
    """Open a model as an embedder, by what the file holds: an ONNX graph or a facekd checkpoint.

    Args:
        path: an ONNX file, a checkpoint, or the folder of a run (its latest checkpoint).
        mean, std, color, image_size: override what the file says; None to use it.
        device, batch_size, resize: see the embedders; None takes the batch size of each.
        options: for ONNX `threads`, `output`; for a checkpoint `normalize`, `autocast`, and `ema` (False for the
            weights as trained where there is a moving average). None stands for the default, and is always taken.

    Raises:
        EmbedderError: a file that is neither, or an option that this kind of model does not take.
    """
    path = Path(path)
    given = {name: value for name, value in options.items() if value is not None}
    if is_onnx_file(path):
        _check_options(path, given, {"threads", "output"}, "an ONNX file")
        size = {} if batch_size is None else {"batch_size": batch_size}
        return OnnxEmbedder(path, mean, std, color, image_size, device=device, resize=resize, **size, **given)
    _check_options(path, given, {"normalize", "autocast", "ema"}, "a checkpoint")
    from facekd.checkpoints.checkpoint import (
        load_backbone,  # here: it imports torch, and it imports this package's types
    )

    module, preprocessing = load_backbone(path, ema=given.pop("ema", None))
    if image_size not in (None, preprocessing.image_size):
        raise EmbedderError(
            f"{path}: the backbone takes images of {preprocessing.image_size} pixels; image_size {image_size} cannot be"
        )
    changes = {"mean": mean, "std": std, "color": color}
    preprocessing = replace(preprocessing, **{name: value for name, value in changes.items() if value is not None})
    return TorchEmbedder(module, preprocessing, device=device, batch_size=batch_size, resize=resize, **given)


def _check_options(path: Path, given: dict[str, Any], known: set[str], kind: str) -> None:
    for name in given.keys() - known:
        raise EmbedderError(f"{path}: is {kind}, which takes no option {name!r} (it takes {', '.join(sorted(known))})")


@contextlib.contextmanager
def _evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each submodule gets back the mode it had (some may be frozen in evaluation mode)."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
