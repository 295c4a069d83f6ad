"""Lays out embeddings of a few people in a plane and draws them: near each other lies what is alike (t-SNE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facekd.pages.figures import PALETTE, color_of, in_legend, label_axes, new_figure
from facekd.utils.sampling import spread_evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PEOPLE, MOST_IMAGES = 16, 25
PERPLEXITY = 15.0  # how many neighbours of an image count, at most
MARKERS = ("o", "^")
CAPTION = (
    "The people with the most images, each image a point (t-SNE of the embeddings). Images that lie together are alike "
    "to the model; distances between groups, and their size, mean nothing. A point among those of another person may "
    "be a wrong label."
)


@dataclass(frozen=True)
class EmbeddingMap:
    """Holds where the images of some people lie.

    Attributes:
        people: names of the people.
        person: int (n,) the person of each image, a position in `people`.
        places: float64 (n, 2); only which images lie together means something.
    """

    people: list[str]
    person: np.ndarray
    places: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what is kept to draw it again."""
        return {"map_x": self.places[:, 0], "map_y": self.places[:, 1], "map_person": self.person}


def lay_out_people(embeddings: np.ndarray, people: np.ndarray, count: int, seed: int) -> EmbeddingMap:
    """Chooses the people with the most images, and lays out up to 25 images of each.

    The layout is t-SNE by scikit-learn on cosine distances (L. van der Maaten, G. Hinton, JMLR 2008). Equal inputs give
    equal places on one machine.

    Args:
        embeddings: float64 (N, D) of unit length.
        people: (N,) who is on each image.
        count: how many people, at most `MOST_PEOPLE`.
        seed: random seed of the layout.
    """
    from sklearn.manifold import TSNE  # here, because importing it takes a second

    # Of people with as many images the first by name; of a person's images some that are evenly spread.
    names, person_of, counts = np.unique(people, return_inverse=True, return_counts=True)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:count])
    rows, person = [], []
    for place, who in enumerate(chosen.tolist()):
        own = np.flatnonzero(person_of == who)
        rows.append(own[spread_evenly(len(own), MOST_IMAGES)])
        person += [place] * len(rows[-1])
    drawn = embeddings[np.concatenate(rows)]

    # A perplexity has to be below the number of images.
    perplexity = min(PERPLEXITY, (len(drawn) - 1) / 3)
    layout = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed % 2**32)
    places = layout.fit_transform(drawn).astype(np.float64)
    return EmbeddingMap([str(names[who]) for who in chosen], np.array(person), places)


def draw_embedding_map(names: Sequence[str], arrays: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Draws the images where `lay_out_people` has laid them, each person in a colour and a shape.

    Args:
        names: the people.
        arrays: those of `EmbeddingMap.arrays`.
        title: the heading.
    """
    figure, [axes] = new_figure((8.0, 6.0))
    for number, name in enumerate(names[:MOST_PEOPLE]):
        own = arrays["map_person"] == number
        marker = MARKERS[number // len(PALETTE) % len(MARKERS)]
        x, y = arrays["map_x"][own], arrays["map_y"][own]
        axes.plot(x, y, marker, ms=5, mew=0, color=color_of(number), label=in_legend(name))
    label_axes(axes, title or "embeddings of some people", "", "", "below")
    axes.set_xticks([])
    axes.set_yticks([])
    return figure
