"""Updates the weights by one global batch: micro-batches forward and backward, clip, optimiser step, average."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from facekd.data.loading.loader import Batch
from facekd.data.loading.sampler import shares
from facekd.distributed import (
    AMP_DTYPES,
    mean_over_world,
    rows_of_ranks,
    sum_over_world,
    without_gradient_exchange,
)
from facekd.errors import TrainingError
from facekd.head.partial_fc import partial_fc_step
from facekd.images.model_input import to_model_input
from facekd.labels import labels_checked
from facekd.training.freezing import drop_kept_gradients, set_training_mode, with_whole_backbone
from facekd.training.optim import ema_decay, ema_update, set_learning_rate
from facekd.training.state import TrainingState
from facekd.utils.foreign import some_of
from facekd.utils.wording import agreeing, counted


def train_step(
    state: TrainingState,
    batch: Batch,
    lr: float,
    stop_and_save_requests: Callable[[], Sequence[bool]] = tuple,
) -> tuple[list[float], dict[str, float], list[bool]]:
    """Updates the weights by one global batch.

    Args:
        state: the run; changed in place.
        batch: this rank's share of the global batch.
        lr: learning rate of this step.
        stop_and_save_requests: returns what this rank wants done after the step (stop, save). It is called once the
            gradients are computed, so a signal that arrives during the step still counts.

    Returns:
        Losses over the global batch (the first is the one minimised, `Recognizer.loss_names` names them all);
        `gradient_norm` of the backbone before clipping and `head_gradient_norm` of everything else that is trained; and
        for each request whether any rank made it.

    Raises:
        TrainingError: the loss or the gradient is not finite, or a parameter has none that others wait for; raised
            before the weights change.
        InputError: a label that no class has; raised before the weights change.
    """
    config, optimizer, scaler = state.config, state.optimizer, state.scaler
    _seed_step(state)
    set_training_mode(state)
    set_learning_rate(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    # Labels are checked here, on the host: a check on the device would make every pass wait for it.
    with labels_checked(batch.labels, state.dataset.num_classes), _drawn_classes(state, batch):
        losses = _accumulate_gradients(state, batch)
        if state.world.size > 1:
            _require_gradients(state)

        # Average the losses over the ranks. The requests travel with them: above 0 means that some rank made one.
        requests = losses.new_tensor([float(request) for request in stop_and_save_requests()])
        means = mean_over_world(torch.cat([losses, requests]), state.world).tolist()
        values, requested = means[: len(losses)], [share > 0 for share in means[len(losses) :]]

        # Clip the gradients, refuse what is not finite, and step.
        drop_kept_gradients(state)
        scaler.unscale_(optimizer)
        norms = _clip_gradients(state)
        _require_finite(state, values[0], sum(norms.values()), lr)
        scaler.step(optimizer)
        scaler.update()

    # Move the average after the weights, and the clock last: both depend on the images seen before this step.
    if state.ema is not None:
        decay = ema_decay(config.global_batch_size, config.ema_half_life_images, state.images_seen)
        ema_update(state.ema, state.recognizer.deployed, decay)
    state.images_seen += config.global_batch_size
    return values, norms, requested


@contextlib.contextmanager
def _drawn_classes(state: TrainingState, batch: Batch) -> Iterator[None]:
    """Draws the classes that take part in this step, if `head.sample_rate` is below 1."""
    config, heads = state.config, state.recognizer.sharded_heads
    if config.head.sample_rate == 1:
        yield
        return
    labels = batch.labels.to(state.world.device, non_blocking=True)
    with (
        rows_of_ranks(shares(config.global_batch_size, state.world.size)),
        partial_fc_step(heads, labels, state.optimizer, config.seed, state.images_seen),
    ):
        yield


def _clip_gradients(state: TrainingState) -> dict[str, float]:
    """Scales the backbone's gradient down to `clip_norm`; returns the norms from before, over all processes.

    The head's gradient is never scaled, as in the published recipes that our results are compared with: the gradients
    of fresh, short class centres have norms of hundreds, so clipping the joint norm would leave almost nothing of the
    backbone's.
    """
    backbone, heads = state.recognizer.backbone, state.recognizer.sharded_heads
    inside = {id(parameter) for parameter in backbone.parameters()}
    shards = {id(head.weight if head.sample is None else head.sample.weight_SD) for head in heads}
    trained = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    others = [p.grad for p in trained if id(p) not in inside | shards]

    # Clip the backbone; then measure the rest: parameters that every process has, and this process's class shards.
    norm = clip_grad_norm_(backbone.parameters(), state.config.clip_norm or math.inf).to(state.world.device)
    square = get_total_norm(others).square() if others else torch.zeros_like(norm)
    if heads:
        own = [p.grad for p in trained if id(p) in shards]
        own_square = get_total_norm(own).square() if own else torch.zeros_like(norm)
        square = square + sum_over_world(own_square, state.world)
    names = ("gradient_norm", "head_gradient_norm")
    return dict(zip(names, torch.stack([norm, square.sqrt()]).tolist(), strict=True))


def _accumulate_gradients(state: TrainingState, batch: Batch) -> torch.Tensor:
    """Computes this rank's part of the gradients, one pass per micro-batch.

    Returns:
        This rank's losses. The mean of losses and gradients over the ranks is that of the global batch.
    """
    config, world, device = state.config, state.world, state.world.device
    shared = shares(config.global_batch_size, world.size)
    size = config.batch_size_per_rank or shared[0]
    starts = range(0, len(batch.labels), size)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = AMP_DTYPES[config.precision]
    targets = state.recognizer.targets(batch)
    total = torch.zeros(len(state.recognizer.loss_names), device=device)
    pixels, flip = batch.on_device or (batch.images, batch.flip)
    for start in starts:
        # Move one micro-batch to the device.
        part = slice(start, start + size)
        images = to_model_input(
            pixels[part].to(device, non_blocking=True),
            flip[part].to(device, non_blocking=True),
            config.data.mean,
            config.data.std,
            memory_format=memory_format,
        )
        labels = batch.labels[part].to(device, non_blocking=True)

        # Weigh its loss by its size: passes differ in it, and so do the shares of ranks, whose gradients are averaged.
        # Gradients are exchanged once, in the last pass. All ranks make as many passes: `_check_batch_size`.
        weight = len(labels) * world.size / config.global_batch_size
        exchange = contextlib.nullcontext() if start == starts[-1] else without_gradient_exchange(state.replica)
        with exchange, rows_of_ranks([max(0, min(size, share - start)) for share in shared]):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                losses = state.replica(images, labels, *(target[part] for target in targets)) * weight
            state.scaler.scale(with_whole_backbone(state, losses[0])).backward()
        total += losses.detach()
    return total


def _require_gradients(state: TrainingState) -> None:
    """Raises TrainingError if a trained parameter has no gradient, where processes average those of all.

    They have averaged only some of the others then, and torch would stop at the next step, in words about itself.
    """
    heads = {id(head.weight) for head in state.recognizer.sharded_heads}  # no process waits for another's part
    parameters = state.recognizer.named_parameters()
    if found := [name for name, p in parameters if p.requires_grad and p.grad is None and id(p) not in heads]:
        raise TrainingError(
            f"{counted(len(found), 'parameter')} of the network {agreeing(len(found), 'has', 'have')} no part in the "
            f"loss ({some_of(found)}), and processes that train together wait for the gradients of all: leave "
            f"{agreeing(len(found), 'it', 'them')} out of the network, call requires_grad_(False), or train in one "
            "process"
        )


def _seed_step(state: TrainingState) -> None:
    """Seeds torch from the place in the run, so a resumed run draws the dropout that an uninterrupted one would."""
    seeds = np.random.SeedSequence([state.config.seed, state.images_seen, state.world.rank])
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def _require_finite(state: TrainingState, loss: float, norm: float, lr: float) -> None:
    """Raises TrainingError if the loss or the gradient is not finite."""
    # With loss scaling an infinite gradient is normal: the scaler skips that update and lowers the scale. A gradient
    # that is infinite at scale 1 is an error, and the scaler would skip updates for ever.
    is_norm_fine = math.isfinite(norm) or (state.scaler.is_enabled() and state.scaler.get_scale() > 1)
    if math.isfinite(loss) and is_norm_fine:
        return
    state.recognizer.check_targets()  # if the teacher caused it, this error says so
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    step = state.images_seen // state.config.global_batch_size
    raise TrainingError(
        f"{what} at step {step} (images_seen {state.images_seen:,}, learning rate {lr:.3g}); the weights were not "
        f"updated and the checkpoints in {state.folder / 'checkpoints'} are from before. Usual causes: schedule.lr too "
        "high, no schedule.warmup_images, precision fp16 where bf16 would do"
    )
