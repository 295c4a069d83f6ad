"""Tries the usual ways to preprocess images for a model on a verification pack, and says which separates people best.

Accuracy is too coarse to tell them apart: on easy packs a model with its channels exchanged loses no percent. So ways
are ranked by d', the distance between the means of genuine and impostor cosines in units of their spread, which uses
every score; differences come with a paired bootstrap over pairs, all ways on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from evaluation.sets.embedding_cache import ImageSubset, embed_images
from evaluation.sets.pair_set import PairSet
from facekd.embedder.interface import Embedder
from facekd.errors import ModelError
from facekd.utils.progress import track
from facekd.utils.wording import counted
from facekd.verification.kfold import kfold_accuracy
from facekd.verification.metrics import equal_error_rate
from facekd.verification.scores import unit_rows

Triple = tuple[float, float, float]
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# What models of the field take; docs/deployment.md says whose.
WAYS: dict[str, tuple[Triple, Triple]] = {
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "(x - 127.5) / 128": ((127.5, 127.5, 127.5), (128.0, 128.0, 128.0)),
    "ImageNet": IMAGENET,
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "raw pixels": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
COLORS = ("rgb", "bgr")
DRAWS = 500


@dataclass(frozen=True)
class Trial:
    """Holds what one way gave, or why it could not be tried.

    Attributes:
        name: a key of `WAYS`.
        mean, std, color: see `facekd.images.preprocessing.Preprocessing`.
        accuracy: k-fold accuracy.
        eer: equal error rate.
        separation: d'.
        behind: 95 % interval of the best way's d' less this one's; both 0 for the best.
        problem: why it could not be tried; empty if it was, and the numbers are NaN if it was not.
    """

    name: str
    mean: Triple
    std: Triple
    color: str
    accuracy: float = np.nan
    eer: float = np.nan
    separation: float = np.nan
    behind: tuple[float, float] = (np.nan, np.nan)
    problem: str = ""

    @property
    def is_as_good(self) -> bool:
        """Tells whether the best way is not known to be better."""
        return not self.problem and self.behind[0] <= 0


def some_pairs(pair_set: PairSet, most: int) -> np.ndarray:
    """Returns the numbers of at most `most` pairs, ascending: as many of each kind as there are, spread evenly."""
    chosen = []
    for kind in (True, False):
        pairs = np.flatnonzero(pair_set.is_same == kind)
        count = min(len(pairs), most // 2)
        chosen.append(pairs[np.linspace(0, len(pairs) - 1, count).round().astype(np.int64)])
    return np.sort(np.concatenate(chosen))


def try_ways(open_with: Callable[..., Embedder], pair_set: PairSet, pairs: np.ndarray, seed: int = 0) -> list[Trial]:
    """Embeds pairs in each usual way and ranks the ways, the best first; those that cannot be tried come last.

    Args:
        open_with: opens the model with `mean`, `std` and `color`; raises a ModelError if it does not take them.
        pair_set: the pack.
        pairs: (n,) numbers of its pairs, ascending; both kinds.
        seed: random seed of the bootstrap.
    """
    images = ImageSubset(pair_set, np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1))
    is_same, fold_of = pair_set.is_same[pairs], pair_set.fold_of[pairs]
    tried: list[tuple[Trial, np.ndarray]] = []
    failed = []
    ways = list(product(WAYS.items(), COLORS))
    for (name, (mean, std)), color in track(ways, "trying preprocessings", len(ways)):
        way = Trial(name, mean, std, color)
        try:
            embedder = open_with(mean=mean, std=std, color=color)
            (embeddings,) = embed_images(embedder.embed, images)
            units = unit_rows(
                embeddings, lambda rows: ModelError(f"{counted(rows.size, 'embedding is', 'embeddings are')} zero")
            )
        except ModelError as error:
            failed.append(replace(way, problem=str(error)))
            continue
        tried.append((way, np.einsum("pe,pe->p", units[::2], units[1::2])))
    # The numbers of each, and how far each is behind the best.
    if not tried:
        return failed
    drawn = np.array(list(_separations([scores for _, scores in tried], is_same, seed)))  # (1 + DRAWS, ways)
    best = int(drawn[0].argmax())
    low, high = np.quantile(drawn[1:, [best]] - drawn[1:], (0.025, 0.975), axis=0)
    trials = [
        replace(
            way,
            accuracy=float(kfold_accuracy(scores, is_same, np.unique(fold_of, return_inverse=True)[1]).mean),
            eer=equal_error_rate(scores[is_same], scores[~is_same]),
            separation=float(drawn[0, place]),
            behind=(float(low[place]), float(high[place])),
        )
        for place, (way, scores) in enumerate(tried)
    ]
    return sorted(trials, key=lambda trial: -trial.separation) + failed


def _separations(scores: list[np.ndarray], is_same: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields d' of each way: of all pairs first, then of drawn ones, the same draw for all ways."""
    rng = np.random.default_rng(seed)
    kinds = [np.stack(scores)[:, is_same == kind] for kind in (True, False)]  # (ways, pairs of a kind)
    yield separation(*kinds)
    for _ in range(DRAWS):
        yield separation(*(kind[:, rng.integers(0, kind.shape[1], kind.shape[1])] for kind in kinds))


def separation(genuine: np.ndarray, impostor: np.ndarray) -> np.ndarray:
    """Computes d' along the last axis: the distance of the means over the root of the mean variance; 0 without spread.

    Source: the decidability index of J. Daugman, "Biometric decision landscapes" (2000).
    """
    spread = np.sqrt((genuine.var(axis=-1) + impostor.var(axis=-1)) / 2)
    distance = genuine.mean(axis=-1) - impostor.mean(axis=-1)
    return np.divide(distance, spread, out=np.zeros_like(distance), where=spread > 0)
