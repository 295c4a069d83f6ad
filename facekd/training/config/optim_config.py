"""Defines the `optimizer:` section of a training config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facekd.commands.config_files import check_choice, check_number
from facekd.errors import ConfigError


@dataclass(frozen=True)
class OptimizerConfig:
    """Holds the `optimizer` section of a configuration; the learning rate is in `ScheduleConfig`.

    Args:
        name: "sgd" or "adamw".
        momentum: momentum of SGD.
        nesterov: use Nesterov's momentum; SGD only.
        betas: decay rates of the two moments of AdamW.
        eps: AdamW's constant in the denominator.
        weight_decay: coupled (added to the gradient) for SGD, decoupled for AdamW.
        decay_norm_and_bias: also decay biases, normalisation layers, PReLU slopes and position embeddings. True by
            default because the published face recipes, which our results are compared with, decay everything.
        implementation: torch's implementation. "fused" makes one pass over weight, gradient and momentum and needs no
            extra memory; "foreach" applies each operation to many tensors at once, "loop" to one tensor at a time.
            Their results differ by rounding.
        backbone_lr_factor: factor on the learning rate of the backbone, such as 0.1 to fine-tune it gently beside a
            fresh classifier.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    implementation: Literal["fused", "foreach", "loop"] = "fused"
    backbone_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        check_choice("optimizer.name", self.name, ("sgd", "adamw"))
        check_number("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        check_number("optimizer.weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        check_number("optimizer.eps", self.eps, self.eps > 0, "positive")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas = {list(self.betas)}: give two numbers in [0, 1)")
        check_choice("optimizer.implementation", self.implementation, ("fused", "foreach", "loop"))
        factor = self.backbone_lr_factor
        check_number("optimizer.backbone_lr_factor", factor, factor > 0, "positive (freeze [backbone] stops it)")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ConfigError("optimizer.nesterov = true needs optimizer.name = sgd and optimizer.momentum above 0")
