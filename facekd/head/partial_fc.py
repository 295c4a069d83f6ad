"""Implements partial FC (arXiv:2203.15565): in each step only some classes of a sharded head take part.

The classes of the batch always take part, with their margin. Of the others each process draws some of its own, anew for
each step. The draw is a function of the seed and of images seen, so a resumed run draws the same classes as an
uninterrupted one.

Classes that are not drawn do not change: their centres get no gradient, no momentum and no weight decay. The optimiser
is given the drawn rows of the weight, and of its own state for that weight, as if they were the parameter. Published
implementations give it the whole weight with a gradient of zeros elsewhere, so momentum and decay move every centre.

Shapes: B batch, G global batch, C classes of this process, S drawn classes, D embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from facekd.head.classifier import MarginClassifier, SampledRows


def draw_places(columns_G: Tensor, num_classes: int, rate: float, generator: torch.Generator) -> Tensor:
    """Draws the classes of this process that take part in a step.

    Args:
        columns_G: (G,) int64, places of the global batch's labels among this process's classes; -1 for the labels of
            other processes' classes.
        num_classes: number of classes of this process.
        rate: share of them to draw, in (0, 1]; if the batch itself has more classes, all of those are drawn.
        generator: random generator on the device of `columns_G`.

    Returns:
        (S,) int64, ascending.
    """
    priority_C = torch.rand(num_classes, generator=generator, device=columns_G.device)
    # One slot more than there are classes takes the labels of other processes (-1), so no row has to be selected,
    # which would make a GPU wait for the count.
    padded = torch.cat([priority_C, priority_C.new_zeros(1)])
    padded[columns_G] = 2.0
    priority_C = padded[:num_classes]
    count = max(int(np.ceil(rate * num_classes)), int((priority_C == 2).sum()))
    return priority_C.topk(count).indices.sort().values


@contextlib.contextmanager
def partial_fc_step(
    heads: list[MarginClassifier],
    labels_B: Tensor,
    optimizer: torch.optim.Optimizer,
    seed: int,
    images_seen: int,
) -> Iterator[None]:
    """Lets a share of the classes take part in one step; afterwards the changed rows are written back.

    If an exception ends the step, the weights and the optimiser are as they were before.

    Args:
        heads: heads sharded alike, with `config.sample_rate`; all of them use the same classes. May be empty.
        labels_B: (B,) int64, this process's labels of the step, on the device of the heads.
        optimizer: the optimiser that holds the weights of the heads that learn.
        seed: random seed of the run.
        images_seen: images seen before the step.
    """
    if not heads:
        yield
        return
    shards = heads[0].shards
    assert shards is not None
    # Draw: another stream for each step and process.
    words = np.random.SeedSequence([seed, images_seen, shards.world.rank, 0x5EED]).generate_state(1, np.uint64)
    generator = torch.Generator(labels_B.device).manual_seed(int(words[0] >> np.uint64(1)))
    columns_G = shards.columns(shards.gather(labels_B))
    places_S = draw_places(columns_G, shards.stop - shards.start, heads[0].config.sample_rate, generator)
    # Swap the drawn rows in, run the step, write them back; undo the swap in any case.
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
    """Replaces a parameter in an optimiser by some of its rows, together with those rows of the optimiser's state."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, whole: nn.Parameter, rows: nn.Parameter, places: Tensor
    ) -> None:
        self.optimizer, self.whole, self.rows, self.places = optimizer, whole, rows, places
        self._swap(whole, rows)
        state = optimizer.state.get(whole, {})
        if state:
            optimizer.state[rows] = {
                name: value[places] if self._is_by_row(value) else value for name, value in state.items()
            }

    def write_back(self) -> None:
        """Writes the rows, and the optimiser's state for them, to their places in the whole parameter."""
        with torch.no_grad():
            self.whole[self.places] = self.rows
            state = self.optimizer.state[self.whole]
            for name, value in self.optimizer.state.get(self.rows, {}).items():
                if isinstance(value, Tensor) and value.shape == self.rows.shape:
                    if not self._is_by_row(state.get(name)):
                        state[name] = torch.zeros_like(self.whole, dtype=value.dtype)
                    state[name][self.places] = value
                else:
                    state[name] = value

    def undo(self) -> None:
        """Puts the whole parameter back into the optimiser."""
        self.optimizer.state.pop(self.rows, None)
        self._swap(self.rows, self.whole)

    def _is_by_row(self, value: object) -> bool:
        """Returns whether an entry of the optimiser's state has a number for each number of the parameter."""
        return isinstance(value, Tensor) and value.shape == self.whole.shape

    def _swap(self, old: nn.Parameter, new: nn.Parameter) -> None:
        for group in self.optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
