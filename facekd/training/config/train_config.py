"""Defines the config of a training run: frozen dataclasses, read from YAML and dotted overrides, checked at once.

A section that belongs to one module is defined beside it (`HeadConfig` beside the classifier, `ScheduleConfig` with the
schedule). This file joins the sections and checks what concerns more than one of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from facekd.backbones.config import BackboneConfig
from facekd.checkpoints.run_folder import CheckpointConfig
from facekd.commands.command_line import GPU_NAME
from facekd.commands.config_files import path_field, require
from facekd.data.config import DataConfig
from facekd.errors import ConfigError, ModelError
from facekd.head.config import HeadConfig
from facekd.images.config import Augmentation
from facekd.training.config.optim_config import OptimizerConfig
from facekd.training.schedule import ScheduleConfig
from facekd.utils.wording import counted


@dataclass(frozen=True)
class ValidationConfig:
    """Defines the `validation` section: what is measured during training.

    Args:
        packs: verification packs (.bin). They choose the best checkpoint, so do not report results on them.
        classification: measures top-1 and top-5 of a linear head, on the images of data.held_out (`held_out`) or on the
            test images beside data.train (`test`); a checkpoint chosen on `test` must not be reported on it.
        every_images: images between two validations; 0 validates only at the end.
        flip: add the embedding of the mirrored image.
    """

    packs: tuple[str, ...] = path_field(())
    classification: Literal["none", "held_out", "test"] = "none"
    every_images: int = 0
    flip: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """Configures `facekd train`: a backbone trained with a classifier.

    Args:
        output: folder of the run: checkpoints, log.jsonl, config.yaml, tensorboard. The same command resumes it.
        data: the training images.
        augmentation: random changes to the training images.
        backbone: the network from images to embeddings.
        head: the classifier on the embeddings.
        shared_head: a checkpoint whose classifier is used, frozen, instead of a fresh one. SH-KD trains its teacher
            with the student's classifier this way, or with class means (`facekd rebuild-head`).
        freeze: parts of the backbone that keep the weights they start with: `backbone` for all, `norms` for its batch
            normalisations, or parts by name, `stem`, `stage1` and so on. Their statistics do not move either.
        head_warmup_images: images at the beginning during which only the classifier learns, so that fresh centres do
            not spoil a trained backbone; 0 for none.
        optimizer: turns gradients into updates.
        schedule: the learning rate as a function of images seen.
        epochs: length of the run in passes over the data, if `images` is 0.
        images: length of the run in images; 0 uses `epochs`.
        global_batch_size: images per update, over all processes.
        batch_size_per_rank: images per forward pass of a process; 0 takes the global batch divided by the processes.
            A smaller number accumulates gradients over several passes.
        precision: fp32; bf16 or fp16 autocast (fp16 with loss scaling, on a GPU only).
        clip_norm: the backbone's gradient is scaled down to this norm, the head's never; 0 turns it off.
        ema_half_life_images: half-life of a moving average of the backbone, which is kept and exported; 0 keeps none.
        channels_last: memory layout of the convolutions; faster on GPUs and most CPUs.
        compile: compile the backbone by torch.compile; pays off in long GPU runs.
        deterministic: use only GPU kernels that give the same bits in every run, which is slower; an operator that has
            none is an error (docs/scale.md). On a CPU runs are the same without it.
        seed: random seed of the weights, the order of the images and the augmentation.
        device: auto, cpu, cuda or cuda:N.
        validation: what is measured during training.
        checkpoint: how often to save and how many to keep.
        log_every_images: images between two log lines.
        logging: where the log goes besides log.jsonl: `tensorboard` (a folder of that name), `wandb`, `mlflow`; the
            last two are extras, `pip install 'facekd[wandb]'`. Without a server that they know they write to `output`.
        diagnostics: at the end, compare the classifier's centres with the class means of a sample of the images; a
            distillation also compares student and teacher: classifiers class by class, embeddings, predictions.
        tensorboard: false takes `tensorboard` out of `logging`, as configs of an earlier facekd do.
    """

    output: str = path_field()
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    shared_head: str = path_field()
    freeze: tuple[str, ...] = ()
    head_warmup_images: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: float = 20.0
    images: int = 0
    global_batch_size: int = 1024
    batch_size_per_rank: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: float = 5.0
    ema_half_life_images: int = 0
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False
    seed: int = 0
    device: str = "auto"
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every_images: int = 10_000
    logging: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    diagnostics: bool = True
    tensorboard: bool = True

    def __post_init__(self) -> None:
        self._check_run()
        self._check_data()
        self._check_unlabelled()
        self._check_head_and_precision()
        self._check_validation()
        self._check_checkpoint()
        self._check_backbone()
        self._check_start()

    @property
    def trackers(self) -> tuple[str, ...]:
        """Returns where the log goes besides log.jsonl."""
        return tuple(name for name in dict.fromkeys(self.logging) if self.tensorboard or name != "tensorboard")

    def check_length(self, total_images: int) -> None:
        """Checks what has to fit into the length of the run, in images, which depends on the data.

        Raises:
            ConfigError: the schedule or the head's warm-up does not.
        """
        self.schedule.check(total_images)
        require(
            self.head_warmup_images < total_images,
            f"head_warmup_images = {self.head_warmup_images:,} leaves nothing of a run of "
            f"{counted(total_images, 'image')} to the backbone: shorten the warm-up or lengthen the run",
        )

    def _check_run(self) -> None:
        require(bool(self.output), "output is empty: name the folder of the run, `--output runs/NAME`")
        require(self.global_batch_size >= 1, f"global_batch_size must be at least 1, not {self.global_batch_size}")
        require(self.batch_size_per_rank >= 0, f"batch_size_per_rank cannot be negative ({self.batch_size_per_rank})")
        require(self.images >= 0, f"images must not be negative ({self.images}); 0 takes epochs")
        require(0 <= self.seed < 1 << 64, f"seed must be from 0 to 2**64 - 1, not {self.seed}")
        require(
            self.images > 0 or (math.isfinite(self.epochs) and self.epochs > 0),
            f"the run has no length: epochs is {self.epochs}, images is {self.images}; set one of them above 0",
        )
        for name in ("clip_norm", "ema_half_life_images"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"{name} must not be negative ({value}); 0 turns it off")
        require(self.log_every_images >= 1, f"log_every_images must be at least 1, not {self.log_every_images}")
        require(
            bool(re.fullmatch(f"auto|cpu|{GPU_NAME}", self.device)),
            f"device is {self.device!r}: auto, cpu, cuda, cuda:N",
        )

    def _check_data(self) -> None:
        data = self.data
        require(bool(data.train), "data.train is empty: name the training images, `--data.train FOLDER`")
        require(data.workers >= 0, f"data.workers must not be negative ({data.workers})")
        for name, number, most in (
            ("data.workers", data.workers, 4096),
            ("data.image_size", data.image_size, 8192),
            ("backbone.embedding_size", self.backbone.embedding_size, 65_536),
            ("backbone.width", self.backbone.width, 64),
        ):
            require(number <= most, f"{name} must be at most {most:,}, not {number:,}: more would fill the memory")
        require(min(data.std) > 0, f"data.std must be positive, not {list(data.std)}")
        require(
            not data.images_each or self.global_batch_size % data.images_each == 0,
            f"global_batch_size = {self.global_batch_size} is no multiple of data.images_each = {data.images_each}",
        )
        require(0 <= data.held_out < 1, f"data.held_out is a share below 1, not {data.held_out}")
        require(0 <= data.center_crop <= 1, f"data.center_crop is a share, not {data.center_crop}")
        require(
            not (data.center_crop and data.resize),
            "data.center_crop cuts images to shape and data.resize stretches them: choose one",
        )

    def _check_unlabelled(self) -> None:
        require(
            not self.data.unlabelled,
            "data.unlabelled: `facekd train` learns who is who, which images without labels do not say; `facekd "
            "distill` learns from a teacher's embeddings of them",
        )

    def _check_head_and_precision(self) -> None:
        require(
            not (self.precision == "fp16" and self.device == "cpu"),
            "precision fp16 needs a GPU (its gradients are scaled there); on a CPU use --precision bf16 or fp32",
        )
        require(
            self.head.product == "float32" or self.precision != "fp32",
            f"head.product = {self.head.product!r} has no effect with precision = 'fp32': set precision to bf16, or on "
            "a GPU to fp16, or remove head.product",
        )
        require(
            self.head.kind == "margin" or not self.ema_half_life_images,
            "ema_half_life_images averages the backbone alone, and a linear classifier fits the backbone as trained: "
            "set it to 0 with head.kind = 'linear'",
        )

    def _check_validation(self) -> None:
        validation = self.validation
        require(
            validation.classification == "none" or self.head.kind == "linear",
            f"validation.classification = {validation.classification!r} evaluates a linear head: set head.kind to "
            "'linear', or measure faces by validation.packs",
        )
        require(
            validation.classification != "held_out" or self.data.held_out > 0,
            "validation.classification = 'held_out', but no images are held out: set data.held_out, such as 0.1",
        )
        names = [Path(pack).stem for pack in validation.packs]
        require(
            len(set(names)) == len(names),
            f"validation.packs: results go by file name, and two are the same ({', '.join(sorted(names))}); rename one",
        )
        _check_interval("validation", validation.every_images)

    def _check_checkpoint(self) -> None:
        keep, minutes = self.checkpoint.keep, self.checkpoint.every_minutes
        require(keep >= 1, f"checkpoint.keep must be at least 1, not {keep}")
        require(
            math.isfinite(minutes) and minutes >= 0,
            f"checkpoint.every_minutes must not be negative ({minutes}); 0 goes by images alone",
        )
        _check_interval("checkpoint", self.checkpoint.every_images)

    def _check_backbone(self) -> None:
        from facekd.backbones.building import check_backbone  # imports torch, which `--help` does without

        try:
            check_backbone(image_size=self.data.image_size, **self.backbone.architecture)
        except ModelError as error:  # in a config, image_size is a key of the data section
            raise ConfigError(str(error).replace("backbone.image_size", "data.image_size")) from error

    def _check_start(self) -> None:
        from facekd.backbones.building import network_of
        from facekd.backbones.given_module import GIVEN

        # Not every network can compute its units again.
        name, network = self.backbone.name, network_of(self.backbone.name)
        require(
            network.takes_gradient_checkpointing or not self.backbone.gradient_checkpointing,
            f"backbone.gradient_checkpointing: {name} has no units that can be computed again: leave it off",
        )
        require(
            not (self.backbone.gradient_checkpointing and self.compile),
            "compile chooses what the backward pass computes again, so set backbone.gradient_checkpointing or compile",
        )

        # Names of parts depend on the network.
        known = ("backbone", "norms", *network.parts)
        unknown = sorted(set(self.freeze) - set(known))
        require(not unknown, f"freeze names {', '.join(unknown)}, and {name} has {', '.join(known)}")

        # What would have no effect, or contradict something else, is a mistake.
        is_frozen = "backbone" in self.freeze
        require(
            not (is_frozen and (self.optimizer.backbone_lr_factor != 1 or self.head_warmup_images)),
            "optimizer.backbone_lr_factor and head_warmup_images have no effect on a backbone that is frozen as a "
            "whole: remove them, or take `backbone` out of freeze",
        )
        require(
            not (self.backbone.name == GIVEN and self.backbone.weights),
            f"backbone.weights is for networks that facekd builds: with backbone.name = '{GIVEN}', load the weights "
            "into the module before you give it",
        )
        require(
            bool(self.backbone.weights) or not self.backbone.select_weights,
            "backbone.select_weights takes a part of the network that backbone.weights names: set that too",
        )
        require(self.head_warmup_images >= 0, f"head_warmup_images must not be negative ({self.head_warmup_images})")
        require(
            not (self.shared_head and self.head.weights),
            "shared_head is a classifier that stays as it is, head.weights one to start from: give one of them",
        )


def _check_interval(section: str, images: int) -> None:
    require(images >= 0, f"{section}.every_images must not be negative ({images}); 0 is only at the end")
