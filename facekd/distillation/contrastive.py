"""Computes contrastive representation distillation (CRD), which keeps an embedding of every training image in memory.

Tian et al. 2020, "Contrastive Representation Distillation", arXiv:1910.10699. It runs on any device. Negatives are
drawn by hashing (seed, position of the image in the run). So there is no generator state to save, and a run draws the
same negatives at any world size. What is learned or remembered is in parameters and buffers.

Shapes: B batch, N training images, K negatives, D the student's embedding size, E the teacher's, P projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from facekd.distillation.checks import at_least_float32, in_full_precision, pair, unit
from facekd.errors import InputError
from facekd.utils.wording import counted

# SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), its constants as the signed 64-bit integers that torch computes with.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


@in_full_precision
def contrastive_loss(positive_logits: Tensor, negative_logits: Tensor, num_images: int) -> Tensor:
    """Computes noise-contrastive estimation: the one true partner against K random ones (arXiv:1910.10699, eq. 18).

    With P = exp(logit) the estimated probability of a partner and m = K / N, the loss is the mean over the batch of
    -log(P+ / (P+ + m)) - sum_k log(m / (P-_k + m)), computed on logarithms.

    Args:
        positive_logits: (B,), log P of the true partners.
        negative_logits: (B, K), log P of the negatives.
        num_images: N; 1 / N is the probability of a noise sample.

    Raises:
        InputError: shapes that do not fit.
    """
    if positive_logits.ndim != 1 or negative_logits.ndim != 2 or len(positive_logits) != len(negative_logits):
        raise InputError(
            f"contrastive_loss needs logits (B,) and (B, K), found {tuple(positive_logits.shape)} and "
            f"{tuple(negative_logits.shape)}"
        )
    log_noise = math.log(negative_logits.shape[1] / num_images)
    positive_B = functional.logsigmoid(at_least_float32(positive_logits) - log_noise)
    negative_BK = functional.logsigmoid(log_noise - at_least_float32(negative_logits))
    return -(positive_B + negative_BK.sum(1)).mean()


@dataclass(frozen=True)
class ContrastiveSettings:
    """Holds the numbers that CRD is tuned by.

    Args:
        projection_size: P.
        num_negatives: K, drawn for each image with replacement.
        temperature: divides the cosines.
        momentum: share of the old memory that is kept when an image is seen again.
        shared_negatives: draw K for the whole batch instead of K for each image, so that one product replaces the
            gathering. Negatives of an image's own class are left out for that image, and each process draws its own.
            Our addition.

    Raises:
        InputError: a value out of range.
    """

    projection_size: int = 128
    num_negatives: int = 16384
    temperature: float = 0.07
    momentum: float = 0.5
    shared_negatives: bool = False

    def __post_init__(self) -> None:
        for name, size in (("projection_size", self.projection_size), ("num_negatives", self.num_negatives)):
            if size < 1:
                raise InputError(f"CRD needs {name} of at least 1, found {size}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"CRD needs a positive temperature, found {self.temperature}; 0.07 is usual")
        if not 0 <= self.momentum < 1:
            raise InputError(f"CRD needs a momentum in [0, 1), found {self.momentum}; 0.5 is usual")


class ContrastiveDistillation(nn.Module):
    """Computes CRD: the student's projection of an image picks out the teacher's of the same image, and the reverse.

    Both embeddings go through learned linear projections and are scaled to length 1. The loss is the sum of two
    `contrastive_loss`: the student's projection against remembered ones of the teacher, and the teacher's against
    remembered ones of the student, with P = exp(cos / temperature) / Z. The first training batch sets Z so that P
    averages 1 / N; after that Z stays. After each training batch the memories of its images move towards their new
    projections.

    Put the parameters (both projections) in the student's optimiser. The two memories hold N P numbers each (together
    0.05 GB for CIFAR-100, 5.3 GB for MS1MV3 at P = 128), and each step gathers B K P numbers twice (1 GB each at 128,
    16,384 and 128) unless `shared_negatives`.

    Args:
        student_size: D.
        teacher_size: E, which may differ from D.
        num_images: N, number of images in the training set; the indices given later are below it.
        labels: (N,), int64; negatives are then drawn from other classes than the image's, as in the authors' released
            setting. None draws from all other images.
        settings: numbers that CRD is tuned by.
        seed: random seed of projections, memories and draws, 0 <= seed < 2**63.

    Attributes:
        student_memory: (N, P), rows at length 1 once seen.
        teacher_memory: (N, P).
        log_normalizer: (2,), log Z of scores of the student's and of the teacher's projections.
        is_normalized: (), bool, whether Z has been set.
        images_seen: (), int64, counts positions where `forward` is not given any.
        gather_rows: concatenates the rows of all processes that train together, in rank order; by default the identity.
            With it memories and Z follow the global batch, and are the same on every process.

    Raises:
        InputError: sizes, seed or labels out of range.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_normalizer: Tensor
    is_normalized: Tensor
    images_seen: Tensor
    by_class: Tensor
    class_start: Tensor
    class_count: Tensor
    class_of: Tensor

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        num_images: int,
        *,
        labels: Tensor | None = None,
        settings: ContrastiveSettings | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, size in (("student_size", student_size), ("teacher_size", teacher_size)):
            if size < 1:
                raise InputError(f"CRD needs {name} of at least 1, found {size}")
        if num_images < 2:
            raise InputError(f"CRD contrasts images with each other: num_images = {num_images} is too few")
        if not 0 <= seed < 2**63:
            raise InputError(f"CRD needs a seed from 0 to 2**63 - 1, found {seed}")
        self.num_images = num_images
        self.settings: ContrastiveSettings = ContrastiveSettings() if settings is None else settings
        self.seed = seed
        self.gather_rows: Callable[[Tensor], Tensor] = _identity

        # Projections and memories are drawn from a generator of their own, in this order.
        generator = torch.Generator().manual_seed(seed)
        size = self.settings.projection_size
        self.student_projection: nn.Linear = _linear(student_size, size, generator)
        self.teacher_projection: nn.Linear = _linear(teacher_size, size, generator)
        bound = math.sqrt(3 / size)  # so that the rows have length 1 on average
        shape = num_images, size
        self.register_buffer("student_memory", torch.empty(shape).uniform_(-bound, bound, generator=generator))
        self.register_buffer("teacher_memory", torch.empty(shape).uniform_(-bound, bound, generator=generator))
        self.register_buffer("log_normalizer", torch.zeros(2))
        self.register_buffer("is_normalized", torch.tensor(False))
        self.register_buffer("images_seen", torch.tensor(0, dtype=torch.int64))
        self._index_classes(labels)

    def _index_classes(self, labels: Tensor | None) -> None:
        """Sorts the images by class, so that a draw skips an image's own class as one range."""
        if labels is None:
            labels = torch.arange(self.num_images)
        if labels.dtype != torch.int64 or labels.shape != (self.num_images,):
            raise InputError(
                f"CRD needs one int64 label for each of {counted(self.num_images, 'image')}, "
                f"found {labels.dtype} of shape {tuple(labels.shape)}"
            )
        class_of = labels.cpu().unique(return_inverse=True)[1]
        count = class_of.bincount()
        if len(count) < 2:
            raise InputError("CRD draws negatives from other classes, but all images have the same label")
        # These follow from the labels, so they stay out of the checkpoint.
        self.register_buffer("class_of", class_of, persistent=False)
        self.register_buffer("by_class", class_of.argsort(stable=True), persistent=False)
        self.register_buffer("class_count", count, persistent=False)
        self.register_buffer("class_start", count.cumsum(0) - count, persistent=False)

    @in_full_precision
    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        indices: Tensor,
        positions: Tensor | None = None,
        *,
        indices_checked: bool = False,
    ) -> Tensor:
        """Computes the loss of a batch; in training mode the memories move afterwards, in evaluation mode nothing does.

        Args:
            student_embedding: (B, D).
            teacher_embedding: (B, E), detached here.
            indices: (B,), int64, which training image each row is, in [0, N).
            positions: (B,), int64, each image's position in the run, which determines its negatives; None counts the
                images this module has seen, which is the same in a run of one process.
            indices_checked: the indices have passed `check_indices` on the host; otherwise their range is checked here,
                and on a GPU that waits for the device.

        Returns:
            0-d.

        Raises:
            InputError: shapes or sizes that do not fit, or an index out of range.
        """
        # Checks, and projections of length 1.
        student_BD, teacher_BE = pair(student_embedding, teacher_embedding, "embeddings")
        self._check_shapes(student_BD, teacher_BE, indices, positions)
        if not indices_checked:
            self.check_indices(indices)
        if positions is None:
            positions = self.images_seen + torch.arange(len(indices), device=indices.device)
        dtype = self.student_projection.weight.dtype
        student_BP = unit(self.student_projection(student_BD.to(dtype)))
        teacher_BP = unit(self.teacher_projection(teacher_BE.to(dtype)))

        # Each side against the other side's memories, with the same negatives.
        negatives, is_own = self.draw_negatives(indices, positions.to(indices.device))
        student_scores = self._scores(student_BP, self.teacher_memory, indices, negatives)
        teacher_scores = self._scores(teacher_BP, self.student_memory, indices, negatives)
        log_normalizer = self._normalizer(student_scores, teacher_scores)
        total = student_BP.new_zeros(())
        for (positive_B, negative_BK), log_z in zip((student_scores, teacher_scores), log_normalizer, strict=True):
            negative_BK = negative_BK - log_z
            if is_own is not None:
                negative_BK = negative_BK.masked_fill(is_own, -math.inf)  # adds neither loss nor gradient
            total = total + contrastive_loss(positive_B - log_z, negative_BK, self.num_images)
        if self.training:
            self._remember(student_BP, teacher_BP, indices)
        return total

    def draw_negatives(self, indices: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draws the images to contrast with, as a function of (seed, positions, indices) alone.

        Args:
            indices: (B,), int64.
            positions: (B,), int64, on the same device.

        Returns:
            (B, K) image indices of other classes and None; with `shared_negatives` (K,) of any class, drawn for the
            batch's smallest position, and a (B, K) mask of those in the image's own class.
        """
        counter_K = torch.arange(1, self.settings.num_negatives + 1, device=indices.device)
        if self.settings.shared_negatives:
            words_K = _random_words(self.seed, positions.min()[None], counter_K)[0]
            negatives_K = words_K % self.num_images
            return negatives_K, self.class_of[negatives_K][None, :] == self.class_of[indices][:, None]
        own_B1 = self.class_of[indices][:, None]
        start_B1, count_B1 = self.class_start[own_B1], self.class_count[own_B1]
        place_BK = _random_words(self.seed, positions, counter_K) % (self.num_images - count_B1)
        place_BK = place_BK + count_B1 * (place_BK >= start_B1)
        return self.by_class[place_BK], None

    def _scores(
        self, anchor_BP: Tensor, memory_NP: Tensor, indices: Tensor, negatives: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Computes (B,) and (B, K) cosines over temperature, to memories of the same images and of the negatives."""
        dtype = anchor_BP.dtype
        positive_B = (anchor_BP * memory_NP[indices].to(dtype)).sum(1)
        if negatives.ndim == 1:
            negative_BK = anchor_BP @ memory_NP[negatives].to(dtype).T
        else:
            negative_BK = (memory_NP[negatives].to(dtype) @ anchor_BP[:, :, None]).squeeze(2)
        return positive_B / self.settings.temperature, negative_BK / self.settings.temperature

    @torch.no_grad()
    def _normalizer(self, *scores: tuple[Tensor, Tensor]) -> Tensor:
        """Returns (2,) log Z: as it has been set, else from this batch's mean of exp(score)."""
        fresh = []
        for positive_B, negative_BK in scores:
            all_scores = self.gather_rows(torch.cat([positive_B[:, None], negative_BK], 1).logsumexp(1))
            log_count = math.log(len(all_scores) * (negative_BK.shape[1] + 1))
            fresh.append(all_scores.logsumexp(0) - log_count + math.log(self.num_images))
        # No branch on the flag: reading it would make a GPU wait at every step.
        log_normalizer = torch.where(self.is_normalized, self.log_normalizer.to(fresh[0].dtype), torch.stack(fresh))
        if self.training:
            self.log_normalizer.copy_(log_normalizer)
            self.is_normalized.fill_(True)
        return log_normalizer

    @torch.no_grad()
    def _remember(self, student_BP: Tensor, teacher_BP: Tensor, indices: Tensor) -> None:
        """Moves the memories of the batch's images, of all processes, towards their new projections."""
        indices = self.gather_rows(indices)
        # For an image that is twice in a batch the last one counts; two different writes to a row would race on a GPU.
        last_B = (indices[:, None] == indices[None, :]).int().cumsum(1).argmax(1)
        momentum = self.settings.momentum
        for memory_NP, rows_BP in ((self.student_memory, student_BP), (self.teacher_memory, teacher_BP)):
            rows_BP = self.gather_rows(rows_BP).to(memory_NP.dtype)
            moved_BP = unit(momentum * memory_NP[indices] + (1 - momentum) * rows_BP)
            memory_NP.index_copy_(0, indices, moved_BP[last_B])
        self.images_seen += len(indices)

    def check_indices(self, indices: Tensor) -> None:
        """Refuses image numbers that the memories have no row for; call it on the host, where no GPU has to wait.

        Args:
            indices: (B,), int64.

        Raises:
            InputError: one is outside [0, N).
        """
        wrong_B = (indices < 0) | (indices >= self.num_images)
        if bool(wrong_B.any()):
            raise InputError(
                f"image index {int(indices[wrong_B][0])} is outside [0, {self.num_images}): CRD was built for another "
                "data set, or was given labels or positions for indices"
            )

    def _check_shapes(self, student_BD: Tensor, teacher_BE: Tensor, indices: Tensor, positions: Tensor | None) -> None:
        for side, values, layer in (
            ("student", student_BD, self.student_projection),
            ("teacher", teacher_BE, self.teacher_projection),
        ):
            if values.shape[1] != layer.in_features:
                raise InputError(
                    f"{side} embeddings have {counted(values.shape[1], 'value')}, but CRD was built for "
                    f"{layer.in_features}"
                )
        for name, numbers in (("indices", indices), ("positions", positions)):
            if numbers is not None and (numbers.dtype != torch.int64 or numbers.shape != (len(student_BD),)):
                raise InputError(
                    f"CRD needs {name} as int64 of shape ({len(student_BD)},), one per image; "
                    f"found {numbers.dtype} of {tuple(numbers.shape)}"
                )

    def extra_repr(self) -> str:
        settings = self.settings
        return (
            f"num_images={self.num_images}, num_negatives={settings.num_negatives}, "
            f"temperature={settings.temperature}, momentum={settings.momentum}, "
            f"shared_negatives={settings.shared_negatives}, seed={self.seed}"
        )


def _linear(size_in: int, size_out: int, generator: torch.Generator) -> nn.Linear:
    """Builds a linear layer, initialised as torch does it but from our generator."""
    layer = nn.utils.skip_init(nn.Linear, size_in, size_out)
    assert isinstance(layer, nn.Linear)
    bound = 1 / math.sqrt(size_in)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _identity(rows: Tensor) -> Tensor:
    return rows


def _random_words(seed: int, positions: Tensor, counters: Tensor) -> Tensor:
    """Hashes (seed, position, counter) to (B, K) integers in [0, 2**63)."""
    keys_B1 = _mix64(positions * _GAMMA + seed)[:, None]
    return _shift(_mix64(keys_B1 + counters[None, :] * _GAMMA), 1)


def _mix64(words: Tensor) -> Tensor:
    """Mixes the bits of 64-bit words by SplitMix64's finaliser, as `facekd.utils.randomness.mix64` does in numpy."""
    words = (words ^ _shift(words, 30)) * _MIX_1
    words = (words ^ _shift(words, 27)) * _MIX_2
    return words ^ _shift(words, 31)


def _shift(words: Tensor, bits: int) -> Tensor:
    """Shifts right by `bits`, filling with zeros: torch's own shift of a signed integer copies the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
