"""Evaluates a model during training; the command hands these to the training loop, which knows no benchmark."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from evaluation.sets.class_ranks import rank_images
from evaluation.sets.embedding_cache import Embed, ImageSubset, distinct_images, embed_images
from evaluation.sets.pair_set import load_pair_set
from facekd.data.config import DataConfig, open_training_data
from facekd.data.datasets import print_summary
from facekd.utils.processes.children import launcher_number
from facekd.verification.kfold import USUAL_FOLDS
from facekd.verification.measures import measure_pairs
from facekd.verification.scores import cosines
from facekd.verification.top_k_accuracy import top_k_accuracy


class PairSetValidator:
    """Evaluates verification on a `.bin` pack, its images shared between the ranks.

    An image that occurs in several pairs (a third of LFW's do) is embedded once, and while one batch is embedded the
    next is decoded. The pack is read and checked at construction, so that a bad one stops a run before its first step.

    Args:
        path: the verification pack.
        flip: add the embedding of the mirror image.
        name: name in the log; by default that of the file without `.bin`.
        folds: number of folds for the accuracy; fewer where the pack has not as many pairs of each kind. They are
            balanced where contiguous ones would not all hold both kinds, with a warning.
        fars: FARs of TAR@FAR; those for which the pack has too few impostor pairs are left out.

    Raises:
        FacekdError: see `evaluation.sets.pair_set.load_pair_set`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        flip: bool = True,
        name: str | None = None,
        folds: int = USUAL_FOLDS,
        fars: Sequence[float] = (1e-2, 1e-3),
    ) -> None:
        self._pair_set = load_pair_set(path, folds, name=name, fewer_folds=True)
        if launcher_number("RANK", 0) == 0:
            for warning in self._pair_set.warnings:
                print(f"warning: {warning}", file=sys.stderr)
        self._mirrors = (False, True) if flip else (False,)
        self._fars = tuple(fars)
        self.name = self._pair_set.name
        self._place_of, self._distinct = distinct_images(self._pair_set.images)

    def __call__(
        self,
        embed: Embed,
        rank: int = 0,
        world_size: int = 1,
        all_gather: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    ) -> dict[str, float]:
        """Embeds this rank's share of the images, gathers all, and measures: every rank returns the same values.

        Args:
            embed: uint8 RGB (B, S, S, 3) -> (B, D).
            rank: rank of this process.
            world_size: number of processes.
            all_gather: (M, D) of each rank -> all of them, in rank order; every rank gives the same M.

        Returns:
            `accuracy`, `accuracy_std`, `eer`, `auc`, and `tar_at_far_0.001` for each measurable FAR.
        """
        # Embed this rank's share of the images.
        num_images = len(self._distinct)
        share = -(-num_images // world_size)
        # Every rank embeds equally many images, the last ranks some again, because the exchange needs equal shapes.
        start = min(rank * share, num_images - share)
        own = ImageSubset(self._pair_set, self._distinct[start : start + share])
        embeddings = sum(embed_images(embed, own, mirrors=self._mirrors))

        # Put the shares of all ranks together.
        gathered = np.asarray(all_gather(np.asarray(embeddings))).reshape(world_size, share, -1)
        distinct = np.empty((num_images, gathered.shape[2]), np.float32)
        for other, rows in enumerate(gathered):
            first = min(other * share, num_images - share)
            distinct[first : first + share] = rows

        # Measure.
        places = self._place_of
        scores = cosines(distinct[places[0::2]], distinct[places[1::2]], self._pair_set.path)
        measured = measure_pairs(scores, self._pair_set.is_same, self._pair_set.fold_of, self._fars, replicates=0)
        points = measured["tar_at_far"]
        return {
            "accuracy": measured["accuracy"]["mean"],
            "accuracy_std": measured["accuracy"]["std"],
            "eer": measured["eer"],
            "auc": measured["auc"],
            **{f"tar_at_far_{point['far']:g}": point["tar"] for point in points if point["tar"] is not None},
        }


class ClassificationValidator:
    """Evaluates top-1 and top-5 of the classifiers in training, on held-out images or on the test images.

    Args:
        data: the `data` section of the run.
        which: "held_out" or "test".
        batch_size: images per batch.

    Raises:
        DataError: the data set has no such images.
    """

    def __init__(self, data: DataConfig, which: Literal["held_out", "test"], batch_size: int = 256) -> None:
        self._dataset = open_training_data(data, which)
        if which == "test":  # the run has printed those of the training images
            print_summary(self._dataset)
        self._batch_size = batch_size
        self._workers = data.workers
        self.name = which

    def measure_heads(
        self,
        embed: Embed,
        predict: Callable[[np.ndarray], dict[str, np.ndarray]],
        rank: int = 0,
        world_size: int = 1,
        all_gather: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    ) -> dict[str, float]:
        """Classifies this rank's share of the images, gathers the ranks of the true classes, and counts.

        Returns:
            `accuracy` and `top5` of the classifier to use, then `NAME_top1` and `NAME_top5` of each if there are
            several; top5 only with more than 5 classes.
        """
        # Rank the true classes in this rank's share of the images.
        count = len(self._dataset)
        share = -(-count // world_size)
        start = min(rank * share, count - share)  # equally many on each rank, because the exchange needs equal shapes
        own = rank_images(
            self._dataset,
            lambda images: predict(embed(images)),
            start,
            start + share,
            batch_size=self._batch_size,
            workers=self._workers,
        )

        # Put the shares of all ranks together.
        names = list(own)
        gathered = np.asarray(all_gather(np.stack([own[name] for name in names], axis=1)))
        every = np.empty((count, len(names)), np.int64)
        for other, rows in enumerate(gathered.reshape(world_size, share, -1)):
            first = min(other * share, count - share)
            every[first : first + share] = rows

        # Count the correct images.
        found: dict[str, float] = {}
        for column, name in enumerate(names):
            for k, accuracy in top_k_accuracy(every[:, column], self._dataset.num_classes).items():
                if column == 0:
                    found["accuracy" if k == 1 else f"top{k}"] = accuracy
                if len(names) > 1:
                    found[f"{name}_top{k}"] = accuracy
        return found
