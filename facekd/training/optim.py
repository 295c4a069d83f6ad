"""Builds optimisers and their parameter groups, and keeps the moving average of the weights.

The clock is `images_seen`, the number of images consumed before a step: 0 for the first. Nothing here keeps a counter,
so a resumed run, or one on another number of processes, sees the same decays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from facekd.errors import ConfigError
from facekd.training.config.optim_config import OptimizerConfig
from facekd.utils.foreign import some_of
from facekd.utils.wording import counted


def parameter_groups(
    modules: Mapping[str, nn.Module],
    weight_decay: float,
    *,
    decay_norm_and_bias: bool = True,
    lr_scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Sorts parameters into groups for `build_optimizer`, one or two per module.

    Frozen parameters are left out. A parameter that two modules share (a shared classifier) belongs to the first.

    Args:
        modules: modules by name, such as {"backbone": backbone, "head": classifier}, in the order of the groups.
        weight_decay: weight decay of every decayed parameter.
        decay_norm_and_bias: False puts biases, normalisation layers, PReLU slopes and what modules name in `undecayed`
            in a group of their own, "<name> (no decay)", with weight decay 0. True by default, see `OptimizerConfig`.
        lr_scales: factors of the learning rate by module name; 1 for modules that are not named.

    Returns:
        Groups with `params`, `weight_decay`, `name` and `lr_scale`; none of them is empty.

    Raises:
        ConfigError: nothing to train, or an lr scale for an unknown module.
    """
    lr_scales = {} if lr_scales is None else dict(lr_scales)
    unknown = sorted(set(lr_scales) - set(modules))
    if unknown:
        raise ConfigError(f"lr scales for {', '.join(unknown)}, but the modules are {', '.join(modules)}")
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()
    for name, module in modules.items():
        # Sort the parameters of one module; those that an earlier module took are not taken twice.
        decayed: list[Tensor] = []
        undecayed: list[Tensor] = []
        for owner in module.modules():
            for parameter_name, parameter in owner.named_parameters(recurse=False):
                if not parameter.requires_grad or id(parameter) in taken:
                    continue
                taken.add(id(parameter))
                is_plain = decay_norm_and_bias or not _is_norm_or_bias(owner, parameter_name, parameter)
                (decayed if is_plain else undecayed).append(parameter)

        # Make a group of each sort that is not empty.
        lr_scale = lr_scales.get(name, 1.0)
        if decayed:
            groups.append({"params": decayed, "weight_decay": weight_decay, "name": name, "lr_scale": lr_scale})
        if undecayed:
            group_name = f"{name} (no decay)"
            groups.append({"params": undecayed, "weight_decay": 0.0, "name": group_name, "lr_scale": lr_scale})
    if not groups:
        raise ConfigError(f"nothing to train: every parameter of {', '.join(modules) or 'no module'} is frozen")
    return groups


def build_optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Builds the optimiser that a config asks for.

    Its learning rate is NaN until `set_learning_rate` sets one, so the first step shows if nobody did.

    Args:
        config: the `optimizer` section.
        groups: groups from `parameter_groups`, each with its own weight decay.
    """
    is_fused = config.implementation == "fused"
    implementation: dict[str, Any] = {"fused": True} if is_fused else {"foreach": config.implementation == "foreach"}
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps, **implementation)
    else:
        optimizer = torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **implementation)
        if is_fused and config.momentum:
            # The fused form allocates the momentum in its first step and fills it there, but not if a loss scaler finds
            # that the gradients overflowed: the second step would then read uninitialised memory.
            for parameter in (parameter for group in groups for parameter in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    set_learning_rate(optimizer, math.nan)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, found: Mapping[str, Any]) -> str:
    """Loads the buffers of each parameter from a state dict, if all of them fit.

    Hyperparameters stay those that the optimiser was built with: a run goes on only with the config it was begun with.

    Args:
        optimizer: takes the buffers.
        found: what `optimizer.state_dict` returned, as a checkpoint holds it.

    Returns:
        A clause that names the first thing that does not fit; empty if all is loaded.
    """
    own = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if [group.get("params") for group in found.get("param_groups", ())] != [g["params"] for g in own["param_groups"]]:
        return "its optimiser trains other tensors"

    # Each buffer has the shape of its parameter, but for the number of steps.
    names = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.AdamW) else {"momentum_buffer"}
    for index, entries in found.get("state", {}).items():
        buffers = {name: value for name, value in entries.items() if value is not None}
        if not 0 <= index < len(parameters):
            return f"its optimiser has buffers for tensor {index}, and there are {len(parameters)}"
        if buffers and buffers.keys() != names:
            return f"its optimiser has {some_of(buffers)} for tensor {index}, expected {', '.join(sorted(names))}"
        for name, value in buffers.items():
            shape = () if name == "step" else tuple(parameters[index].shape)
            if not (isinstance(value, Tensor) and value.is_floating_point() and tuple(value.shape) == shape):
                return f"its optimiser's {name} for tensor {index} is not floating-point numbers of shape {shape}"
    optimizer.load_state_dict({"state": found.get("state", {}), "param_groups": own["param_groups"]})
    return ""


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group to `lr` times the group's `lr_scale` (1 if it has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def ema_decay(images: int, half_life_images: float, images_seen: int | None = None) -> float:
    """Returns the share of the old average that is kept in a step of `images` images.

    Args:
        images: global batch size of the step.
        half_life_images: number of images after which a weight counts half; independent of the batch size.
        images_seen: images consumed before the step. If given, the average starts as the plain mean of the weights so
            far (0 at the first step), so the random initial weights leave no trace; None turns this off.

    Raises:
        ConfigError: the half-life or the number of images is not positive.
    """
    if images < 1 or not half_life_images > 0:
        raise ConfigError(
            f"{counted(images, 'image')} per step, half-life of {half_life_images}: both must be positive"
        )
    decay = 0.5 ** (images / half_life_images)
    return decay if images_seen is None else min(decay, images_seen / (images_seen + images))


@torch.no_grad()
def ema_update(ema_module: nn.Module, module: nn.Module, decay: float) -> None:
    """Moves the averaged module towards the module: average = decay * average + (1 - decay) * new.

    Parameters and floating-point buffers (the statistics of batch normalisation) are averaged, other buffers are
    copied. The averaged module keeps its own dtype.

    Args:
        ema_module: a deep copy of `module` made before training; changed in place.
        module: the module after the step.
        decay: share of the old average, in [0, 1], from `ema_decay`.

    Raises:
        ConfigError: the modules have different tensors, or the decay is out of range.
    """
    if not 0 <= decay <= 1:
        raise ConfigError(f"decay = {decay} is outside [0, 1]")
    averages, values = _tensors(ema_module), _tensors(module)
    if averages.keys() != values.keys():
        different = sorted(averages.keys() ^ values.keys())[0]
        raise ConfigError(f"the averaged module and the module differ: only one of them has {different}")
    floating = [name for name in averages if averages[name].is_floating_point()]
    if floating:
        old = [averages[name] for name in floating]
        new = [values[name].to(averages[name].dtype) for name in floating]
        get_ema_multi_avg_fn(decay)(old, new, 0)  # its step count is unused
    for name in averages.keys() - set(floating):
        averages[name].copy_(values[name])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


_NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
)


def _is_norm_or_bias(owner: nn.Module, name: str, parameter: Tensor) -> bool:
    is_undecayed = name in getattr(owner, "undecayed", ())  # position embeddings, for example
    return is_undecayed or isinstance(owner, _NORM_LAYERS) or name == "bias" or parameter.ndim < 2
