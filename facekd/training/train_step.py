"""One update of the weights by one global batch: forward and backward in as many passes as fit, clip, step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from facekd.data.loading.loader import Batch
from facekd.distributed import AMP_DTYPES, mean_over_world, sum_over_world, without_gradient_exchange
from facekd.errors import TrainingError
from facekd.head.partial_fc import sampled_centres
from facekd.images.model_input import to_model_input
from facekd.margins import labels_checked
from facekd.training.optim import ema_decay, ema_update, set_learning_rate
from facekd.training.state import TrainingState


def train_step(
    state: TrainingState, batch: Batch, lr: float, wishes: Callable[[], Sequence[bool]] = tuple
) -> tuple[list[float], dict[str, float], list[bool]]:
    """One update by one global batch.

    Args:
        wishes: what this rank wants done after the step (stop, save); asked when the gradients are there, so that a
            signal that came meanwhile counts.

    Returns:
        Losses over the global batch (the first is what is minimised, `Recognizer.loss_names` has the rest); norms of
        the gradient of the backbone before clipping and of what else is trained; and of each wish whether any rank
        has it.

    Raises:
        TrainingError: the loss or the gradient is not finite; raised before the weights are touched.
        InputError: a label of no class, likewise.
    """
    config, optimizer, scaler = state.config, state.optimizer, state.scaler
    _seed_step(state)
    set_learning_rate(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    # Here, where they are on the host: a check on the device would wait for it in every pass.
    with labels_checked(batch.labels, state.dataset.num_classes), _drawn_classes(state, batch):
        losses = _accumulate_gradients(state, batch)
        asked = losses.new_tensor([float(wish) for wish in wishes()])
        means = mean_over_world(torch.cat([losses, asked]), state.world).tolist()
        values, granted = means[: len(losses)], [wish > 0 for wish in means[len(losses) :]]
        scaler.unscale_(optimizer)
        norms = _clip_gradients(state)
        _require_finite(state, values[0], sum(norms.values()), lr)
        scaler.step(optimizer)
        scaler.update()
    if state.ema is not None:
        decay = ema_decay(config.global_batch_size, config.ema_half_life_images, state.images_seen)
        ema_update(state.ema, state.recognizer.deployed, decay)
    state.images_seen += config.global_batch_size
    return values, norms, granted


def _drawn_classes(state: TrainingState, batch: Batch) -> contextlib.AbstractContextManager[None]:
    """The classes that take part in this step, where not all do."""
    config = state.config
    if config.head.sample_rate == 1:
        return contextlib.nullcontext()
    labels = batch.labels.to(state.world.device, non_blocking=True)
    return sampled_centres(state.recognizer.sharded_heads, labels, state.optimizer, config.seed, state.images_seen)


def _clip_gradients(state: TrainingState) -> dict[str, float]:
    """Scale the backbone's gradient down to `clip_norm`; returns the norms before that, over all processes.

    The head's is left alone, as in the recipes whose figures ours are compared with: its fresh, short class centres
    have gradients of hundreds, beside which a norm over both would leave nothing of the backbone's.
    """
    backbone, heads = state.recognizer.backbone, state.recognizer.sharded_heads
    inside = {id(parameter) for parameter in backbone.parameters()}
    shards = {id(head.weight if head.sample is None else head.sample.weight_SD) for head in heads}
    trained = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    others = [p.grad for p in trained if id(p) not in inside | shards]
    norm = clip_grad_norm_(backbone.parameters(), state.config.clip_norm or math.inf)
    square = get_total_norm(others).square() if others else torch.zeros_like(norm)
    if heads:
        own = [p.grad for p in trained if id(p) in shards]
        own_square = get_total_norm(own).square() if own else torch.zeros_like(norm)
        square = square + sum_over_world(own_square, state.world)
    names = ("gradient_norm", "head_gradient_norm")
    return dict(zip(names, torch.stack([norm, square.sqrt()]).tolist(), strict=True))


def _accumulate_gradients(state: TrainingState, batch: Batch) -> torch.Tensor:
    """Gradients of the mean loss over this rank's batch, by as many passes as its micro-batches; returns the losses."""
    config, device = state.config, state.world.device
    size = config.batch_size_per_rank or len(batch.labels)
    starts = range(0, len(batch.labels), size)
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = AMP_DTYPES[config.precision]
    targets = state.recognizer.targets(batch)
    total = torch.zeros(len(state.recognizer.loss_names), device=device)
    pixels, flip = batch.on_device or (batch.images, batch.flip)
    for start in starts:
        part = slice(start, start + size)
        images = to_model_input(
            pixels[part].to(device, non_blocking=True),
            flip[part].to(device, non_blocking=True),
            config.data.mean,
            config.data.std,
            memory_format=memory_format,
        )
        labels = batch.labels[part].to(device, non_blocking=True)
        share = len(labels) / len(batch.labels)  # the last micro-batch may be smaller
        exchange = contextlib.nullcontext() if start == starts[-1] else without_gradient_exchange(state.replica)
        with exchange:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                losses = state.replica(images, labels, *(target[part] for target in targets)) * share
            state.scaler.scale(losses[0]).backward()
        total += losses.detach()
    return total


def _seed_step(state: TrainingState) -> None:
    # Dropout's draws follow from where the run is, so that a resumed run draws what the uninterrupted one would.
    seeds = np.random.SeedSequence([state.config.seed, state.images_seen, state.world.rank])
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def _require_finite(state: TrainingState, loss: float, norm: float, lr: float) -> None:
    # With loss scaling an infinite gradient is ordinary: the scaler skips that update and lowers the scale. One that is
    # infinite without any scale is not, and the scaler would skip updates for ever.
    is_norm_fine = math.isfinite(norm) or (state.scaler.is_enabled() and state.scaler.get_scale() > 1)
    if math.isfinite(loss) and is_norm_fine:
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {norm}"
    step = state.images_seen // state.config.global_batch_size
    raise TrainingError(
        f"{what} at step {step} (images_seen {state.images_seen:,}, learning rate {lr:.3g}); the weights were not "
        f"updated and the checkpoints in {state.folder / 'checkpoints'} are from before. Usual causes: schedule.lr too "
        "high, no schedule.warmup_images, precision fp16 where bf16 would do"
    )
