"""Embeds images with a torch module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from facekd.embedder.checks import check_batch_size, check_finite, start_fingerprint
from facekd.errors import ModelError
from facekd.images.preprocessing import Preprocessing, fit_images
from facekd.plugins import plugins_of
from facekd.utils.gpu_driver import require_gpu
from facekd.utils.wording import counted

if TYPE_CHECKING:
    import torch


# Images per call. On a CPU larger batches are slower, because the memory of large activations is cleared each time.
CPU_CHUNK = 16
DEVICE_CHUNK = 64


class TorchEmbedder:
    """Wraps a torch module as an `Embedder`.

    Args:
        module: float (B, 3, S, S) -> embedding (B, D). Neither copied nor changed; it is in evaluation mode only
            during a call, so it may be a module in training. With a `quality_head`, as a `ScoredBackbone` has, the
            embedder gives qualities, too.
        preprocessing: mean, std, colour order and image size that the module was trained with.
        device: where to run; the module is moved there.
        batch_size: images per call of the module; None means 16 on a CPU and 64 elsewhere.
        normalize: divide each embedding by its L2 norm.
        autocast: torch dtype (`torch.bfloat16`) for mixed precision; None means float32.
        resize: resize images of another size instead of refusing them.
        frozen: nobody trains the module any more. On a CPU, in 32 bits, a copy then runs whose batch normalisations are
            folded into the convolutions before them, which is a tenth faster; embeddings are the same up to rounding.

    Attributes:
        remarks: what its user should know, one sentence each.
    """

    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        module: torch.nn.Module,
        preprocessing: Preprocessing,
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        normalize: bool = False,
        autocast: torch.dtype | None = None,
        resize: bool = False,
        frozen: bool = False,
    ) -> None:
        import torch

        self.preprocessing = preprocessing
        self.normalized = normalize
        self.resize = resize
        self.device: torch.device = torch.device(device)
        require_gpu(self.device)
        default = CPU_CHUNK if self.device.type == "cpu" else DEVICE_CHUNK
        self.batch_size: int = default if batch_size is None else batch_size
        check_batch_size(self.batch_size)
        self._module = module.to(self.device)
        self._autocast = autocast
        size = getattr(module, "embedding_size", None)
        self._fingerprint = ""
        if frozen and self.device.type == "cpu" and autocast is None:
            from facekd.backbones import fold_batch_norms

            self._fingerprint = self.fingerprint  # of the weights as they are in the file
            self._module = fold_batch_norms(self._module)
        self.embedding_size: int = int(size) if size is not None else self._embed_batch(preprocessing.blank()).shape[1]

    @property
    def fingerprint(self) -> str:
        """Hashes weights, preprocessing and the code of plug-ins; anew at each access unless frozen.

        The weights of a module that is not frozen may change between two accesses.
        """
        import torch

        if self._fingerprint:
            return self._fingerprint
        digest = start_fingerprint(self.preprocessing, self.normalized, self.resize, str(self._autocast))
        digest.update(f"{type(self._module).__name__} {getattr(self._module, 'name', '')}".encode())
        # Equal weights in other code of a plug-in give other embeddings.
        names = {str(getattr(part, "name", "")) for part in self._module.modules()}
        for entry in plugins_of(f"backbone {name}" for name in sorted(names)):
            digest.update(entry["sha256"].encode())
        for name, value in self._module.state_dict().items():
            array = value.detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
            # Reinterpreted as bytes because numpy has no bfloat16.
            digest.update(memoryview(array.flatten().view(torch.uint8).numpy()))
        return digest.hexdigest()

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `Embedder.embed`.

        Raises:
            ModelError: the images have another type or size, or an embedding is not finite.
        """
        images = fit_images(images, self.preprocessing.image_size, self.resize)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), self.batch_size):
            embeddings[start : start + self.batch_size] = self._embed_batch(images[start : start + self.batch_size])
        return check_finite(embeddings, "the torch module")

    @property
    def has_quality(self) -> bool:
        """Tells whether the model says how well an image can be recognised."""
        return getattr(self._module, "quality_head", None) is not None

    def qualities(self, images: np.ndarray) -> np.ndarray:
        """See `facekd.embedder.quality.GivesQuality`, and `embed_with_quality` for errors."""
        return self.embed_with_quality(images)[1]

    def embed_with_quality(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `facekd.embedder.quality.GivesQuality`.

        Raises:
            ModelError: the images have another type or size, the model has no quality head, or an embedding or a
                quality is not finite.
        """
        import torch

        head = getattr(self._module, "quality_head", None)
        if head is None:
            raise ModelError("the torch module has no quality head; `facekd train-quality` makes one")
        images = fit_images(images, self.preprocessing.image_size, self.resize)
        embeddings, found = np.empty((len(images), self.embedding_size), np.float32), np.empty(len(images), np.float32)
        for start in range(0, len(images), self.batch_size):
            some = slice(start, start + self.batch_size)
            with torch.inference_mode():
                embedding = self._call(torch.from_numpy(np.ascontiguousarray(images[some])), None)
                found[some] = head(embedding).cpu().numpy()
                embeddings[some] = self._normalized(embedding).cpu().numpy()
        check_finite(embeddings, "the torch module")
        return embeddings, check_finite(found, "the torch module", "quality")

    def _embed_batch(self, images: np.ndarray) -> np.ndarray:
        import torch

        return self.embed_tensor(torch.from_numpy(np.ascontiguousarray(images))).cpu().numpy()

    def embed_tensor(self, images: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
        """Embeds images in one call of the module, without waiting for the device.

        Args:
            images: uint8 RGB (B, S, S, 3) in the model's image size; moved to the device if they lie elsewhere.
            flip: (B,) bool, True for images to mirror first; None mirrors none.

        Returns:
            float32 (B, D) on the device, without gradient. The caller checks that the values are finite.

        Raises:
            ModelError: the module returns a tensor that is not (B, D).
        """
        import torch

        with torch.inference_mode():
            embedding = self._normalized(self._call(images, flip))
        return embedding.clone()  # outside inference mode: a loss may keep it for its backward pass

    def _normalized(self, embedding: torch.Tensor) -> torch.Tensor:
        """Returns embeddings (B, D) at unit length, if this embedder normalises, or as they are."""
        import torch

        return torch.nn.functional.normalize(embedding) if self.normalized else embedding

    def _call(self, images: torch.Tensor, flip: torch.Tensor | None) -> torch.Tensor:
        """Returns the embeddings as the module gives them, float32 (B, D), an inference tensor; see `embed_tensor`."""
        import torch

        from facekd.images.model_input import to_model_input

        step = self.preprocessing.channel_step
        with _evaluation_mode(self._module), torch.inference_mode():
            # Images travel to the device as uint8, a quarter of the bytes; the permuted view is already channels_last.
            pixels = images.to(self.device, non_blocking=True)
            if step == -1:
                pixels = pixels.flip(3)
            if flip is not None:
                flip = flip.to(self.device, non_blocking=True)
            inputs = to_model_input(pixels, flip, self.preprocessing.mean[::step], self.preprocessing.std[::step])

            # One call of the module, in half precision if asked for.
            enabled = self._autocast is not None
            with torch.autocast(self.device.type, dtype=self._autocast, enabled=enabled):
                embedding = self._module(inputs)
            if embedding.ndim != 2 or len(embedding) != len(images):
                raise ModelError(
                    f"the torch module returns shape {tuple(embedding.shape)} for {counted(len(images), 'image')}, "
                    f"expected ({len(images)}, embedding size)"
                )
            return embedding.float()


@contextlib.contextmanager
def _evaluation_mode(module: torch.nn.Module) -> Iterator[None]:
    """Puts a module in evaluation mode, and afterwards restores the mode of each submodule (some may be frozen)."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
