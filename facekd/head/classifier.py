"""Classifiers: embeddings and labels to logits. A margin classifier for faces, a linear one for everything else.

Shapes: B batch, D embedding, C classes. Rows of `weight` (C, D) are class centres. Both classifiers are called as
`classifier(embedding_BD, labels_B)` and return float32 logits for `torch.nn.functional.cross_entropy`; without labels
they return what the network believes, no margin applied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from facekd.distributed import ALONE, World
from facekd.errors import ConfigError
from facekd.head.class_shards import ClassShards
from facekd.head.config import HeadConfig
from facekd.margins import MARGINS, adaface, check_labels, combined, norm_statistics


class SampledRows(NamedTuple):
    """Classes of a sharded head that take part in a step, S of this process's."""

    places_S: Tensor  # (S,) int64, ascending, counted from the first class of this process
    weight_SD: Tensor  # (S, D), their centres; a leaf that gets the gradient where the head learns


class MarginClassifier(nn.Module):
    """Scaled cosines between embeddings and class centres, the target's lessened by a margin.

    Args:
        embedding_size: D.
        num_classes: C.
        config: which margin and scale; ArcFace with margin 0.5 and scale 64 by default.
        shards: where the classes are shared out over processes. Such a head is for `facekd.head.chunked_loss` alone: no
            process can name the logits of all classes.

    Attributes:
        weight: (C, D), class centres; not normalised themselves, normalised whenever used. With `shards` those of this
            process's classes only.
        sample: with `shards`, the classes in use and their centres, where not all are (`facekd.head.partial_fc`).
        norm_mean: () float32, AdaFace's running mean of embedding norms; in the state dict with AdaFace only.
        norm_std: () float32, their running standard deviation.

    Raises:
        ConfigError: sizes below 1.
    """

    norm_mean: Tensor
    norm_std: Tensor
    sample: SampledRows | None = None

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        config: HeadConfig | None = None,
        shards: ClassShards | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(embedding_size, num_classes)
        self.config = HeadConfig() if config is None else config
        if self.config.kind != "margin":
            raise ConfigError("head.kind = 'linear' asks for a LinearClassifier: use build_classifier")
        self.embedding_size = embedding_size
        self.num_classes = num_classes
        self.scale = float(self.config.scale)
        self.shards = shards
        self.weight = nn.Parameter(_draw_centres(num_classes, embedding_size, shards))
        if self.config.margin == "adaface":
            self.register_buffer("norm_mean", torch.tensor(20.0))  # where the authors' code starts
            self.register_buffer("norm_std", torch.tensor(100.0))

    def forward(self, embedding_BD: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Logits for cross-entropy.

        Args:
            embedding_BD: (B, D), floating, not normalised.
            labels_B: (B,), int64; None leaves the margin out.

        Returns:
            (B, C), float32 (float64 for float64 embeddings and weights).

        Raises:
            InputError: labels of the wrong shape or dtype, or out of range.
            ConfigError: embeddings of another size.
        """
        if self.shards is not None and self.shards.world.size > 1:
            raise ConfigError("a head shared out over processes has no logits of all classes: use chunked_losses")
        cosine_BC = self.cosine(embedding_BD)
        if labels_B is not None:
            cosine_BC = self.apply_margin(cosine_BC, labels_B, embedding_BD)
        return cosine_BC * self.scale

    def cosine(self, embedding_BD: Tensor) -> Tensor:
        """(B, C) cosines between embeddings and class centres, float32 (or float64), no margin and no scale.

        Of a sharded head the columns are this process's classes.
        """
        _check_embedding(embedding_BD, self.embedding_size)
        device_type = embedding_BD.device.type
        with torch.autocast(device_type, enabled=False):
            dtype = torch.promote_types(embedding_BD.dtype, torch.float32)
            unit_embedding_BD = functional.normalize(embedding_BD.to(dtype))
            unit_weight_CD = functional.normalize(self.weight.to(dtype))
            if self.config.product == "float32":
                return functional.linear(unit_embedding_BD, unit_weight_CD)
        return functional.linear(unit_embedding_BD, unit_weight_CD).to(dtype)

    def apply_margin(self, cosine_BC: Tensor, labels_B: Tensor, embedding_BD: Tensor) -> Tensor:
        """Apply the configured margin to cosines.

        Args:
            cosine_BC: (B, C), from `cosine`.
            labels_B: (B,), int64.
            embedding_BD: (B, D), the embeddings they came from; only AdaFace looks at them, for their norms. In
                training mode it also moves the running statistics.

        Returns:
            (B, C) margined cosines, not scaled.
        """
        config = self.config
        if config.margin == "adaface":
            norms_B = torch.linalg.vector_norm(embedding_BD.detach().to(cosine_BC.dtype), dim=1)
            if self.training:
                self._update_norm_statistics(norms_B)
            h = 0.333 if config.h is None else config.h
            return adaface(
                cosine_BC,
                labels_B,
                norms_B,
                config.value,
                h,
                norm_mean=self.norm_mean.to(cosine_BC.dtype),
                norm_std=self.norm_std.to(cosine_BC.dtype),
                gradient=config.gradient,
            )
        if config.margin == "combined":
            return combined(cosine_BC, labels_B, *config.combined_values, gradient=config.gradient)
        if config.margin == "none":
            return MARGINS["none"](cosine_BC, labels_B)
        return MARGINS[config.margin](cosine_BC, labels_B, config.value, gradient=config.gradient)

    @torch.no_grad()
    def _update_norm_statistics(self, norms_B: Tensor) -> None:
        momentum = 0.01 if self.config.norm_momentum is None else self.config.norm_momentum
        mean, std = norm_statistics(norms_B)
        self.norm_mean.lerp_(mean.to(self.norm_mean.dtype), momentum)
        self.norm_std.lerp_(std.to(self.norm_std.dtype), momentum)

    def check_labels(self, labels_B: Tensor) -> None:
        """Raise InputError, naming the first, when a label does not belong to this classifier."""
        check_labels(labels_B, self.num_classes)

    def extra_repr(self) -> str:
        return f"{self.embedding_size}, {self.num_classes}, {self.config}"


class LinearClassifier(nn.Module):
    """A linear layer, called like a margin classifier.

    Args:
        embedding_size: D.
        num_classes: C.
        bias: add a learned (C,) bias.

    Attributes:
        weight: (C, D).
        bias: (C,) or None.

    Raises:
        ConfigError: sizes below 1.
    """

    def __init__(self, embedding_size: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        _check_sizes(embedding_size, num_classes)
        self.embedding_size = embedding_size
        self.num_classes = num_classes
        self.bias: nn.Parameter | None
        layer = nn.Linear(embedding_size, num_classes, bias=bias)  # for its initial values
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)

    def forward(self, embedding_BD: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Logits (B, C) in at least float32; labels are checked, and change nothing.

        Raises:
            InputError: labels of the wrong shape or dtype, or out of range.
            ConfigError: embeddings of another size.
        """
        _check_embedding(embedding_BD, self.embedding_size)
        if labels_B is not None:
            self.check_labels(labels_B)
        with torch.autocast(embedding_BD.device.type, enabled=False):
            dtype = torch.promote_types(embedding_BD.dtype, torch.float32)
            bias = None if self.bias is None else self.bias.to(dtype)
            return functional.linear(embedding_BD.to(dtype), self.weight.to(dtype), bias)

    def check_labels(self, labels_B: Tensor) -> None:
        """Raise InputError, naming the first, when a label does not belong to this classifier."""
        check_labels(labels_B, self.num_classes)

    def extra_repr(self) -> str:
        return f"{self.embedding_size}, {self.num_classes}, bias={self.bias is not None}"


def build_classifier(
    config: HeadConfig, embedding_size: int, num_classes: int, world: World | None = None
) -> MarginClassifier | LinearClassifier:
    """The classifier a configuration asks for; a sharded one shares its classes out over `world`.

    Raises:
        ConfigError: sizes below 1.
    """
    if config.kind == "linear":
        return LinearClassifier(embedding_size, num_classes, bias=config.bias is not False)
    shards = ClassShards(num_classes, world or ALONE) if config.sharded else None
    return MarginClassifier(embedding_size, num_classes, config, shards)


ROWS_AT_ONCE = 2**16


def _draw_centres(num_classes: int, embedding_size: int, shards: ClassShards | None) -> Tensor:
    """Fresh centres (C, D), of a sharded head this process's: those the whole one would have, never held together."""
    # The published recipes start here. A centre's gradient goes with 1 / its length: that sets how fast it turns.
    if shards is None or shards.world.size == 1:
        return torch.empty(num_classes, embedding_size).normal_(0, 0.01)
    own = torch.empty(shards.stop - shards.start, embedding_size)
    for first in range(0, num_classes, ROWS_AT_ONCE):
        drawn = torch.empty(min(ROWS_AT_ONCE, num_classes - first), embedding_size).normal_(0, 0.01)
        start, stop = max(first, shards.start), min(first + len(drawn), shards.stop)
        if start < stop:
            own[start - shards.start : stop - shards.start] = drawn[start - first : stop - first]
    return own


def _check_sizes(embedding_size: int, num_classes: int) -> None:
    if embedding_size < 1 or num_classes < 1:
        raise ConfigError(f"a classifier needs sizes of at least 1, found {embedding_size=} and {num_classes=}")


def _check_embedding(embedding_BD: Tensor, embedding_size: int) -> None:
    if embedding_BD.ndim != 2 or embedding_BD.shape[1] != embedding_size:
        raise ConfigError(
            f"embeddings have the shape {tuple(embedding_BD.shape)} but the classifier takes (B, {embedding_size}): "
            "backbone and classifier were built for different embedding sizes"
        )
