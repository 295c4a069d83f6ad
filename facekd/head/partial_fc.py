"""PartialFC (arXiv:2203.15565): in each step only some classes of a sharded head take part.

Those of the batch always do, with their margin; of the others each process draws some of its own, anew for each step
and as a function of the seed and of images seen, so that a resumed run draws what the uninterrupted one would.

What is left out is left alone: a centre that was not drawn gets no gradient, no momentum and no weight decay, for the
optimiser is given the drawn rows of the weight, and of everything it remembers of it, as if they were the parameter.
Published implementations hand it the whole weight with zeros elsewhere, which lets momentum and decay move all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from facekd.head.classifier import MarginClassifier, SampledRows


def draw_places(columns_G: Tensor, num_classes: int, rate: float, generator: torch.Generator) -> Tensor:
    """Which of a process's classes take part in a step.

    Args:
        columns_G: (G,) int64, the places of the labels of the global batch among its classes, -1 for those of others.
        num_classes: it holds.
        rate: the share of them to draw, in (0, 1]; more where the batch has more.
        generator: on the device of `columns_G`.

    Returns:
        (S,) int64, ascending.
    """
    priority_C = torch.rand(num_classes, generator=generator, device=columns_G.device)
    # Written through one slot more than there are classes, where the labels of others go, lest it waits for a count.
    padded = torch.cat([priority_C, priority_C.new_zeros(1)])
    padded[columns_G] = 2.0
    priority_C = padded[:num_classes]
    count = max(int(np.ceil(rate * num_classes)), int((priority_C == 2).sum()))
    return priority_C.topk(count).indices.sort().values


@contextlib.contextmanager
def sampled_centres(
    heads: list[MarginClassifier],
    labels_B: Tensor,
    optimizer: torch.optim.Optimizer,
    seed: int,
    images_seen: int,
) -> Iterator[None]:
    """Let a share of the classes take part in one step; afterwards what it changed is back in its place.

    If the step is left by an exception, the weights and the optimiser are as they were before.

    Args:
        heads: sharded alike, with `config.sample_rate`; all of them use the same classes. Empty for none.
        labels_B: (B,) int64, this process's labels of the step, on the device of the heads.
        optimizer: where the weights of those that learn are.
        seed: of the run.
        images_seen: before the step.
    """
    if not heads:
        yield
        return
    shards = heads[0].shards
    assert shards is not None
    words = np.random.SeedSequence([seed, images_seen, shards.world.rank, 0x5EED]).generate_state(1, np.uint64)
    generator = torch.Generator(labels_B.device).manual_seed(int(words[0] >> np.uint64(1)))
    columns_G = shards.columns(shards.gather(labels_B))
    places_S = draw_places(columns_G, shards.stop - shards.start, heads[0].config.sample_rate, generator)
    parts = []
    try:
        for head in heads:
            weight_SD = nn.Parameter(head.weight.detach()[places_S], requires_grad=head.weight.requires_grad)
            head.sample = SampledRows(places_S, weight_SD)
            if head.weight.requires_grad:
                parts.append(_Exchange(optimizer, head.weight, weight_SD, places_S))
        yield
        for part in parts:
            part.write_back()
    finally:
        for part in parts:
            part.undo()
        for head in heads:
            head.sample = None


class _Exchange:
    """In an optimiser, rows of a parameter in the place of the whole, with their rows of what is remembered of it."""

    def __init__(self, optimizer: torch.optim.Optimizer, whole: nn.Parameter, rows: nn.Parameter, places: Tensor):
        self.optimizer, self.whole, self.rows, self.places = optimizer, whole, rows, places
        self._swap(whole, rows)
        remembered = optimizer.state.get(whole, {})
        if remembered:
            optimizer.state[rows] = {
                name: value[places] if self._is_by_row(value) else value for name, value in remembered.items()
            }

    def write_back(self) -> None:
        """The rows, and what the optimiser now remembers of them, go to their places in the whole."""
        with torch.no_grad():
            self.whole[self.places] = self.rows
            remembered = self.optimizer.state[self.whole]
            for name, value in self.optimizer.state.get(self.rows, {}).items():
                if isinstance(value, Tensor) and value.shape == self.rows.shape:
                    if not self._is_by_row(remembered.get(name)):
                        remembered[name] = torch.zeros_like(self.whole, dtype=value.dtype)
                    remembered[name][self.places] = value
                else:
                    remembered[name] = value

    def undo(self) -> None:
        self.optimizer.state.pop(self.rows, None)
        self._swap(self.rows, self.whole)

    def _is_by_row(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.shape == self.whole.shape

    def _swap(self, old: nn.Parameter, new: nn.Parameter) -> None:
        for group in self.optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
