"""Draws the pairs of a pack that a model finds hardest."""

from __future__ import annotations

import os

import numpy as np

from evaluation.results.figures import IMPOSTOR_COLOR
from evaluation.sets.pair_set import PairSet
from facekd.pages.figures import new_figure, save_figure

INCHES = 1.25  # width and height of one image
HEADING_INCHES = 0.45


def draw_hardest_pairs(
    path: str | os.PathLike[str],
    pair_set: PairSet,
    scores: np.ndarray,
    threshold: float,
    count: int = 8,
    model: str = "",
) -> None:
    """Writes a PNG of the genuine pairs with the lowest scores and the impostor pairs with the highest.

    Worth a look at each new model or pack: wrong labels, bad crops and twins show here first.

    Args:
        path: where the PNG goes.
        pair_set: the pairs and their images.
        scores: (N,) the score of each pair.
        threshold: pairs on the wrong side of it are marked as errors.
        count: how many pairs of each kind are drawn.
        model: name of the model, for the title.
    """
    # Choose the pairs and decode their images.
    genuine, impostor = np.flatnonzero(pair_set.is_same), np.flatnonzero(~pair_set.is_same)
    rows = [
        (
            f"genuine pairs, lowest scores; bold: wrong at threshold {threshold:.4f}",
            genuine[np.argsort(scores[genuine], kind="stable")][:count],
        ),
        ("impostor pairs, highest scores", impostor[np.argsort(-scores[impostor], kind="stable")][:count]),
    ]
    images = {int(pair): pair_set.decode(2 * int(pair), 2 * int(pair) + 2) for _, pairs in rows for pair in pairs}

    # Lay out two rows of pairs, each pair above each other, in pixels of the images.
    size = max(max(image.shape[1:3]) for image in images.values())
    step, gap, heading = size * 1.06, size * 0.22, size * 0.26
    height = 2 * (heading + gap + 2 * step)
    title = f"{pair_set.name}: the hardest pairs{f' of {model}' if model else ''}"
    # All images go on one pair of axes, which fills the figure: a subplot for each would cost seconds.
    figure, [axes] = new_figure((INCHES * count, INCHES * height / step + HEADING_INCHES), title=title)
    axes.set_position((0.01, 0.01, 0.98, 1 - HEADING_INCHES / figure.get_figheight()))
    axes.set_axis_off()

    # Draw each pair under its number and score.
    for row, (label, pairs) in enumerate(rows):
        top = row * height / 2 + heading
        axes.text(0, top - 0.1 * size, label, fontsize=9)
        for column, pair in enumerate(pairs.tolist()):
            left = column * step
            is_wrong = (scores[pair] >= threshold) != pair_set.is_same[pair]
            text = f"{pair}: {scores[pair]:.3f}"
            color, weight = (IMPOSTOR_COLOR, "bold") if is_wrong else ("black", "normal")
            axes.text(left, top + 0.8 * gap, text, fontsize=8, color=color, weight=weight)
            for part, image in enumerate(images[pair]):
                upper = top + gap + part * step
                axes.imshow(image, extent=(left, left + size, upper + size, upper), interpolation="nearest")
    axes.set_xlim(0, count * step)  # imshow has moved the limits
    axes.set_ylim(height, 0)
    save_figure(figure, path)
