"""Trains a quality head on embeddings that are made already: seconds, because the backbone is not run.

Shapes: N embeddings, D embedding values.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facekd.errors import InputError
from facekd.quality.head import QualityHead
from facekd.utils.progress import track

STEPS = 2000
BATCH = 512
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
BETA = 0.1  # of the smooth L1 loss: from this error on, mislabelled images pull no harder
STEPS_BETWEEN_LOOKS = 100
ROWS_LOOKED_AT = 20_000
SMALLEST_SPREAD = 1e-3  # of a feature: less is rounding, as of the length in models that normalise, and not enlarged


@dataclass(frozen=True)
class FittedHead:
    """Holds a trained head, and how well it predicts images that it did not learn from.

    Attributes:
        head: the head, in evaluation mode.
        rank_correlation: Spearman's, between prediction and target of the images held out; None if all are equal.
        rank_correlation_of_length: the same of the length of the embedding.
        num_learnt_from, num_held_out: embeddings.
        step: the step whose head was kept, the best for the images held out.
    """

    head: QualityHead
    rank_correlation: float | None
    rank_correlation_of_length: float | None
    num_learnt_from: int
    num_held_out: int
    step: int


def fit_quality_head(
    embeddings: NDArray[np.float32],
    targets: NDArray[np.float64],
    is_held_out: NDArray[np.bool_],
    seed: int = 0,
    steps: int = STEPS,
) -> FittedHead:
    """Fits a head by the smooth L1 loss, with AdamW, and keeps the step that predicts the images held out best.

    Args:
        embeddings: (N, D), before they are normalised.
        targets: (N,), from 0 to 1.
        is_held_out: (N,), whether an embedding is not learnt from. Hold out people, not images.
        seed: random seed of first weights and batches.
        steps: number of steps.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or nothing to learn from or to hold out.
    """
    _check(embeddings, targets, is_held_out)
    x, y = torch.from_numpy(embeddings), torch.from_numpy(targets.astype(np.float32))
    learnt, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    looked_at = torch.from_numpy(held_out[:: -(-len(held_out) // ROWS_LOOKED_AT)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        head = QualityHead(embeddings.shape[1])

    mean, spread = _mean_and_spread(head, x[torch.from_numpy(learnt[:: -(-len(learnt) // ROWS_LOOKED_AT)])])
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    draws = np.random.default_rng(seed)
    loss_of = nn.SmoothL1Loss(beta=BETA)

    def loss_at(rows: Tensor) -> Tensor:
        return loss_of(head.predict((head.features(x[rows]) - mean) / spread).sigmoid(), y[rows])

    # The best step is the one with the lowest loss on people that are not learnt from.
    best, best_step, kept = math.inf, 0, copy.deepcopy(head.state_dict())
    for step in track(range(1, steps + 1), "learning quality"):
        optimizer.zero_grad()
        loss_at(torch.from_numpy(draws.choice(learnt, BATCH))).backward()
        optimizer.step()
        decay.step()
        if step % STEPS_BETWEEN_LOOKS and step != steps:
            continue
        with torch.no_grad():
            loss = float(loss_at(looked_at))
        if loss < best:
            best, best_step, kept = loss, step, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    _fold(head, mean, spread)
    found, lengths = predict(head, embeddings[held_out]), np.linalg.norm(embeddings[held_out], axis=1)
    return FittedHead(
        head.eval().requires_grad_(False),
        rank_correlation(found, targets[held_out]),
        rank_correlation(lengths, targets[held_out]),
        len(learnt),
        len(held_out),
        best_step,
    )


@torch.no_grad()
def predict(head: QualityHead, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the qualities (N,) that a head gives to embeddings (N, D)."""
    return head(torch.from_numpy(embeddings)).numpy()


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Computes Spearman's rank correlation of two (N,); None where one of them is constant, or N below 3."""
    from scipy.stats import rankdata  # not at the top: it takes a second to import

    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


@torch.no_grad()
def _mean_and_spread(head: QualityHead, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what features are moved and divided by (D + 1,) while they are learnt from; `_fold` undoes it.

    The values of the direction together weigh as much as the length, or who somebody is would drown it.
    """
    features = head.features(rows)
    spread = features.std(0, correction=0)
    spread[spread < SMALLEST_SPREAD] = 1
    spread[:-1] *= math.sqrt(len(spread) - 1)
    return features.mean(0), spread


@torch.no_grad()
def _fold(head: QualityHead, mean: Tensor, spread: Tensor) -> None:
    """Lets the first layer take features as they are: W (x - m) / s + b = (W / s) x + (b - (W / s) m)."""
    weight = head.hidden.weight.double() / spread.double()
    head.hidden.bias.copy_(head.hidden.bias.double() - weight @ mean.double())
    head.hidden.weight.copy_(weight)


def _check(embeddings: np.ndarray, targets: np.ndarray, is_held_out: np.ndarray) -> None:
    if embeddings.ndim != 2 or not len(embeddings) == len(targets) == len(is_held_out):
        shapes = f"{embeddings.shape}, {targets.shape} and {is_held_out.shape}"
        raise InputError(f"embeddings, targets and what is held out have shapes {shapes}; expected (N, D), (N,), (N,)")
    if not np.isfinite(embeddings).all() or not np.isfinite(targets).all():
        raise InputError("an embedding or a target is not finite")
    if is_held_out.all() or not is_held_out.any():
        raise InputError("some embeddings must be learnt from, and others held out")
