"""Classifies embeddings: by a margin classifier for faces, by a linear one for everything else.

Both are called as `classifier(embedding_BD, labels_B)` and return dense float32 logits for
`torch.nn.functional.cross_entropy`; without labels they return the prediction, no margin applied. The loss of a margin
classifier is computed in training by `facekd/head/chunked_loss.py`, which never holds all logits. Both ways share
`class_scores` (the product and its precision) and `MarginClassifier.apply_margin`.

Shapes: B batch, D embedding, C classes, M sub-centres of a class (1 unless `head.sub_centers` says otherwise); suffixes
such as `weight_CD` name the dimensions of a tensor. A row of `weight` is a class: its centre, or its M sub-centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from facekd.distributed import ALONE, World
from facekd.errors import ConfigError, InputError
from facekd.head.class_scores import NORM_EPSILON, best_scores, centre_columns, class_scores
from facekd.head.class_shards import ClassShards
from facekd.head.config import DEFAULT_NORM_MOMENTUM, HeadConfig
from facekd.labels import check_labels
from facekd.margins.adaptive import norm_statistics
from facekd.margins.functions import MARGIN_FUNCTIONS, NORM_LOSSES, OTHER_COSINES
from facekd.margins.table import MARGINS

# What some margins keep beside the centres, and where the authors' code starts: AdaFace's norms, CurricularFace's mean.
STATISTICS = {"norm_mean": 20.0, "norm_std": 100.0, "mean_target": 0.0}
TARGET_MOMENTUM = 0.01  # share of a new batch in CurricularFace's running mean, as its authors have it
# Cosines (B, n) of some classes -> what they become in training, and the slope of that.
OtherCosines = Callable[[Tensor], tuple[Tensor, Tensor]]
ROWS_CHUNK = 2**16  # rows of a fresh weight that are drawn at a time


class SampledRows(NamedTuple):
    """Holds the classes of a sharded head that take part in a step of partial FC: S of this process's classes."""

    places_S: Tensor  # (S,) int64, ascending, counted from the first class of this process
    weight_SD: Tensor  # (S, M D), their centres; a leaf that gets the gradient where the head learns


class MarginClassifier(nn.Module):
    """Computes scaled cosines between embeddings and class centres, with a margin on the target's.

    Args:
        embedding_size: D.
        num_classes: C.
        config: which margin and scale; ArcFace with margin 0.5 and scale 64 by default.
        shards: how the classes are split over processes. Such a head works through `facekd.head.chunked_loss` only,
            since no process has the logits of all classes.

    Attributes:
        weight: (C, M D), class centres; stored without normalisation and normalised, one by one, at every use. With
            `shards`, only the centres of this process's classes.
        sample: with partial FC, the classes that take part in the current step (`facekd.head.partial_fc`).
        norm_mean: () float32, running mean of embedding norms; exists with AdaFace only, and is in its state dict.
        norm_std: () float32, their running standard deviation.
        mean_target: () float32, running mean of the target cosines; exists with CurricularFace only, likewise.

    Raises:
        InputError: sizes below 1.
        ConfigError: a configuration of a linear head.
    """

    norm_mean: Tensor
    norm_std: Tensor
    mean_target: Tensor
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
        self.config: HeadConfig = HeadConfig() if config is None else config
        if self.config.kind != "margin":
            raise ConfigError("head.kind = 'linear' asks for a LinearClassifier: use build_classifier")
        self.embedding_size = embedding_size
        self.num_classes = num_classes
        self.scale: float = float(self.config.scale)
        self.shards = shards
        self.weight: nn.Parameter = nn.Parameter(
            _draw_centres(num_classes, self.config.sub_centers * embedding_size, shards)
        )
        if MARGINS[self.config.margin].needs_norms:
            self._register_statistics("norm_mean", "norm_std")
        if MARGINS[self.config.margin].changes_others:
            self._register_statistics("mean_target")

    def _register_statistics(self, *names: str) -> None:
        for name in names:
            self.register_buffer(name, torch.tensor(STATISTICS[name]))

    def forward(self, embedding_BD: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Computes dense logits; training computes the same in class chunks (`chunked_losses` of `LazyLogits.of`).

        Args:
            embedding_BD: (B, D), floating, not normalised.
            labels_B: (B,), int64; None applies no margin.

        Returns:
            (B, C), float32 (float64 for float64 embeddings and weights).

        Raises:
            InputError: labels of the wrong shape or dtype, or out of range; embeddings of another size; a head whose
                classes are split over processes.
        """
        if self.shards is not None and self.shards.world.size > 1:
            raise InputError("a head split over processes has no logits of all classes: use chunked_losses")
        cosine_BC = self.cosine(embedding_BD)
        if labels_B is not None:
            margined_BC = self.apply_margin(cosine_BC, labels_B, embedding_BD)
            cosine_BC = self._with_others(cosine_BC, margined_BC, labels_B) if self.changes_others else margined_BC
        return cosine_BC * self.scale

    def cosine(self, embedding_BD: Tensor) -> Tensor:
        """Computes all cosines (B, C) at once, by the same `class_scores` with which training computes them in chunks.

        They are float32 (or float64), without margin and scale. The columns of a sharded head are this process's
        classes.
        """
        _check_embedding(embedding_BD, self.embedding_size)
        half = self.product_dtype(embedding_BD.device.type)
        with torch.autocast(embedding_BD.device.type, enabled=False):
            dtype = torch.promote_types(embedding_BD.dtype, torch.float32)
            unit_BD = functional.normalize(embedding_BD.to(dtype))
            scores = []
            for centre_CD in centre_columns(self.weight.to(dtype), self.config.sub_centers):
                norm_C = torch.linalg.vector_norm(centre_CD, dim=1).clamp_min(NORM_EPSILON)
                scores.append(class_scores(unit_BD, centre_CD, norm_C, half)[0])
            return best_scores(scores)[0]

    def product_dtype(self, device_type: str) -> torch.dtype | None:
        """Returns the half type in which embeddings meet centres: autocast's, where the configuration asks for it."""
        is_half = self.config.product == "autocast" and torch.is_autocast_enabled(device_type)
        return torch.get_autocast_dtype(device_type) if is_half else None

    def apply_margin(self, cosine_BC: Tensor, labels_B: Tensor, embedding_BD: Tensor) -> Tensor:
        """Applies the configured margin to cosines; training passes it the target cosines alone, as C = 1.

        Args:
            cosine_BC: (B, C) cosines.
            labels_B: (B,), int64.
            embedding_BD: (B, D), the embeddings of the cosines; AdaFace and MagFace use their norms. In training mode
                AdaFace also moves the running statistics.

        Returns:
            (B, C) margined cosines, not scaled.
        """
        norms: dict[str, Tensor] = {}
        if MARGINS[self.config.margin].needs_norms:
            norms_B = torch.linalg.vector_norm(embedding_BD.detach().to(cosine_BC.dtype), dim=1)
            if self.training:
                self._update_norm_statistics(norms_B)
            mean, std = self.norm_mean.to(cosine_BC.dtype), self.norm_std.to(cosine_BC.dtype)
            norms = {"norms": norms_B, "norm_mean": mean, "norm_std": std}
        function, arguments = MARGIN_FUNCTIONS[self.config.margin], self.config.margin_arguments
        if MARGINS[self.config.margin].draws_margins and self.training:
            drawn_B = torch.normal(arguments["margin"], arguments["std"], labels_B.shape, device=labels_B.device)
            norms = {"margins": drawn_B.clamp(-1, 1)}
        if MARGINS[self.config.margin].learns_norms:
            norms = {"norms": torch.linalg.vector_norm(embedding_BD.to(cosine_BC.dtype), dim=1)}
        return function(cosine_BC, labels_B, **norms, **arguments, gradient=self.config.gradient)

    @property
    def learns_norms(self) -> bool:
        """Tells whether the loss has a gradient through the norms of the embeddings."""
        return MARGINS[self.config.margin].learns_norms

    def norm_loss(self, embedding_BD: Tensor) -> Tensor:
        """Computes what a margin that learns norms adds to the loss of each image, (B,), from embeddings (B, D)."""
        norms_B = torch.linalg.vector_norm(embedding_BD, dim=1)
        return NORM_LOSSES[self.config.margin](norms_B, **self.config.margin_arguments)

    @property
    def changes_others(self) -> bool:
        """Tells whether cosines of other classes than the target are changed in training."""
        return MARGINS[self.config.margin].changes_others or self.config.filter_above > 0

    def make_others(self, target_B: Tensor, margined_B: Tensor) -> OtherCosines:
        """Returns the function that changes the cosines of other classes in this pass.

        In training mode it moves the running mean of the target cosines first.

        Args:
            target_B: (B,) target cosines, of the images of all processes where the classes are split.
            margined_B: (B,) the same with margin.

        Returns:
            A function from cosines (B, n) of any n classes to the new ones and their slopes; targets among them are to
            be replaced.
        """
        name, arguments = self.config.margin, self.config.margin_arguments
        margined_B1 = margined_B.detach()[:, None]
        if MARGINS[name].changes_others:
            if self.training and len(target_B):
                with torch.no_grad():
                    self.mean_target.lerp_(target_B.detach().mean().to(self.mean_target.dtype), TARGET_MOMENTUM)
            arguments = {**arguments, "mean_target": self.mean_target.to(margined_B1.dtype, copy=True)}

        def change(cosine_Bn: Tensor) -> tuple[Tensor, Tensor]:
            new_Bn, slope_Bn = cosine_Bn, torch.ones_like(cosine_Bn)
            if MARGINS[name].changes_others:
                new_Bn, slope_Bn = OTHER_COSINES[name](cosine_Bn, margined_B1, **arguments)
            if self.config.filter_above:
                is_same = cosine_Bn > self.config.filter_above
                new_Bn, slope_Bn = new_Bn.masked_fill(is_same, 0.0), slope_Bn.masked_fill(is_same, 0.0)
            return new_Bn, slope_Bn

        return change

    def _with_others(self, cosine_BC: Tensor, margined_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Changes the cosines of other classes and puts the margined targets among them."""
        target_B1, margined_B1 = (values.gather(1, labels_B[:, None]) for values in (cosine_BC, margined_BC))
        return self.make_others(target_B1[:, 0], margined_B1[:, 0])(cosine_BC)[0].scatter(
            1, labels_B[:, None], margined_B1
        )

    @torch.no_grad()
    def _update_norm_statistics(self, norms_B: Tensor) -> None:
        given = self.config.norm_momentum
        momentum = DEFAULT_NORM_MOMENTUM if given is None else given
        mean, std = norm_statistics(norms_B)
        self.norm_mean.lerp_(mean.to(self.norm_mean.dtype), momentum)
        self.norm_std.lerp_(std.to(self.norm_std.dtype), momentum)

    def check_labels(self, labels_B: Tensor) -> None:
        """Raises InputError, naming the first such label, where a label is none of this classifier's classes."""
        check_labels(labels_B, self.num_classes)

    def extra_repr(self) -> str:
        return f"{self.embedding_size}, {self.num_classes}, {self.config}"


class LinearClassifier(nn.Module):
    """Computes plain logits by a linear layer; called like a margin classifier.

    Args:
        embedding_size: D.
        num_classes: C.
        bias: add a learned (C,) bias.

    Attributes:
        weight: (C, D).
        bias: (C,) or None.

    Raises:
        InputError: sizes below 1.
    """

    def __init__(self, embedding_size: int, num_classes: int, bias: bool = True) -> None:
        super().__init__()
        _check_sizes(embedding_size, num_classes)
        self.embedding_size = embedding_size
        self.num_classes = num_classes
        self.bias: nn.Parameter | None
        layer = nn.Linear(embedding_size, num_classes, bias=bias)  # for its initial values
        self.weight: Tensor = layer.weight
        self.register_parameter("bias", layer.bias)

    def forward(self, embedding_BD: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Computes dense logits (B, C) in at least float32, for `facekd train`; `facekd distill` takes them in chunks.

        Labels are checked, and change nothing.

        Raises:
            InputError: labels of the wrong shape or dtype, or out of range; embeddings of another size.
        """
        _check_embedding(embedding_BD, self.embedding_size)
        if labels_B is not None:
            self.check_labels(labels_B)
        with torch.autocast(embedding_BD.device.type, enabled=False):
            dtype = torch.promote_types(embedding_BD.dtype, torch.float32)
            bias = None if self.bias is None else self.bias.to(dtype)
            return functional.linear(embedding_BD.to(dtype), self.weight.to(dtype), bias)

    def check_labels(self, labels_B: Tensor) -> None:
        """Raises InputError, naming the first such label, where a label is none of this classifier's classes."""
        check_labels(labels_B, self.num_classes)

    def extra_repr(self) -> str:
        return f"{self.embedding_size}, {self.num_classes}, bias={self.bias is not None}"


def build_classifier(
    config: HeadConfig, embedding_size: int, num_classes: int, world: World | None = None
) -> MarginClassifier | LinearClassifier:
    """Builds the classifier of a configuration; a sharded one splits its classes over `world`.

    Raises:
        InputError: sizes below 1.
    """
    if config.kind == "linear":
        return LinearClassifier(embedding_size, num_classes, bias=config.bias is not False)
    shards = ClassShards(num_classes, world or ALONE) if config.sharded else None
    return MarginClassifier(embedding_size, num_classes, config, shards)


def _draw_centres(num_classes: int, columns: int, shards: ClassShards | None) -> Tensor:
    """Draws fresh centres (C, `columns`), or for a sharded head this process's rows of the same ones.

    The rows depend on the seed alone, not on the number of processes, and no process ever holds all of them.
    """
    # N(0, 0.01) is where the published recipes start. A centre's gradient is proportional to 1 / its length, so the
    # length sets how fast it turns.
    if shards is None or shards.world.size == 1:
        return torch.empty(num_classes, columns).normal_(0, 0.01)
    own = torch.empty(shards.stop - shards.start, columns)
    for first in range(0, num_classes, ROWS_CHUNK):
        drawn = torch.empty(min(ROWS_CHUNK, num_classes - first), columns).normal_(0, 0.01)
        start, stop = max(first, shards.start), min(first + len(drawn), shards.stop)
        if start < stop:
            own[start - shards.start : stop - shards.start] = drawn[start - first : stop - first]
    return own


def _check_sizes(embedding_size: int, num_classes: int) -> None:
    if embedding_size < 1 or num_classes < 1:
        raise InputError(f"a classifier needs sizes of at least 1, found {embedding_size=} and {num_classes=}")


def _check_embedding(embedding_BD: Tensor, embedding_size: int) -> None:
    if embedding_BD.ndim != 2 or embedding_BD.shape[1] != embedding_size:
        raise InputError(
            f"embeddings have the shape {tuple(embedding_BD.shape)} but the classifier takes (B, {embedding_size}): "
            "backbone and classifier were built for different embedding sizes"
        )
