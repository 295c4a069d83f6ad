"""Verification results for eyes: a table on the terminal, ROC and score pictures, the hardest pairs.

Takes the plain values of `evaluation.measures.measure_pairs`; computes nothing that is reported. matplotlib is
driven without pyplot, so that no display, global state or window system takes part.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from evaluation.results.figures import IMPOSTOR_COLOR, save_figure
from evaluation.sets.pair_set import PairSet

if TYPE_CHECKING:
    pass


def draw_hardest_pairs(
    path: str | os.PathLike[str], pair_set: PairSet, scores: np.ndarray, threshold: float, count: int = 8
) -> None:
    """Write a PNG of the genuine pairs with the lowest scores and the impostor pairs with the highest.

    Worth a look at each new model or pack: wrong labels, bad crops and twins show here first.

    Args:
        path: of the PNG.
        pair_set: whose images.
        scores: (N,) of its pairs.
        threshold: pairs on the wrong side of it are marked as errors.
        count: pairs of each kind.
    """
    from matplotlib.figure import Figure

    genuine, impostor = np.flatnonzero(pair_set.is_same), np.flatnonzero(~pair_set.is_same)
    rows = [
        ("genuine pairs, lowest scores", genuine[np.argsort(scores[genuine], kind="stable")][:count]),
        ("impostor pairs, highest scores", impostor[np.argsort(-scores[impostor], kind="stable")][:count]),
    ]
    images = {int(pair): pair_set.decode(2 * int(pair), 2 * int(pair) + 2) for _, pairs in rows for pair in pairs}
    size = max(max(image.shape[1:3]) for image in images.values())
    step, gap, heading = size * 1.06, size * 0.22, size * 0.26
    height = 2 * (heading + gap + 2 * step)
    # One pair of axes for all: a subplot an image costs seconds.
    figure = Figure(figsize=(1.25 * count, 1.25 * height / step + 0.45))
    axes = figure.add_axes((0.01, 0.01, 0.98, 1 - 0.45 / figure.get_figheight()))
    axes.set_axis_off()
    figure.suptitle(f"{pair_set.name}: the hardest pairs; red: wrong at threshold {threshold:.3f}", fontsize=11)
    for row, (label, pairs) in enumerate(rows):
        top = row * height / 2 + heading
        axes.text(0, top - 0.1 * size, label, fontsize=9)
        for column, pair in enumerate(pairs.tolist()):
            left = column * step
            wrong = (scores[pair] >= threshold) != pair_set.is_same[pair]
            text = f"{pair}: {scores[pair]:.3f}"
            axes.text(left, top + 0.8 * gap, text, fontsize=8, color=IMPOSTOR_COLOR if wrong else "black")
            for part, image in enumerate(images[pair]):
                upper = top + gap + part * step
                axes.imshow(image, extent=(left, left + size, upper + size, upper), interpolation="nearest")
    axes.set_xlim(0, count * step)  # imshow moves the limits
    axes.set_ylim(height, 0)
    save_figure(figure, path)
