"""The configuration of a run: frozen dataclasses, read from YAML and dotted overrides, checked before anything starts.

A section that belongs to one module is defined there (`HeadConfig` beside the classifier, `ScheduleConfig` beside the
schedule); here they come together, with the checks that look at more than one of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from facekd.backbones.config import BackboneConfig
from facekd.checkpoints.run_folder import CheckpointConfig
from facekd.data.config import DataConfig
from facekd.errors import ConfigError, ModelError
from facekd.head.config import HeadConfig
from facekd.images.config import Augmentation
from facekd.training.optim_config import OptimizerConfig
from facekd.training.schedule import ScheduleConfig
from facekd.utils.config_files import require


@dataclass(frozen=True)
class ValidationConfig:
    """What is measured during training.

    Args:
        packs: verification packs (.bin); not the ones you will report, for the best checkpoint is chosen by them.
        classification: top-1 and top-5 of a linear head on `held_out`, the images of data.held_out, or on `test`, the
            test images beside data.train; what is chosen on `test` must not be reported on it.
        every_images: how often, in images seen; 0 only at the end.
        flip: add the embedding of the mirror image.
    """

    packs: tuple[str, ...] = ()
    classification: Literal["none", "held_out", "test"] = "none"
    every_images: int = 0
    flip: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """A backbone trained with a margin classifier.

    Args:
        output: the folder of the run: checkpoints, log.jsonl, config.yaml, tensorboard. The same command resumes it.
        data: the training images.
        augmentation: what is done to them.
        backbone: images to embeddings.
        head: the margin classifier.
        shared_head: a checkpoint whose classifier is used, frozen, instead of a fresh one: the teacher of SH-KD is
            trained under the student's.
        optimizer: how gradients move the weights.
        schedule: the learning rate as a function of images seen.
        epochs: length of the run in passes over the data; or give `images`.
        images: length of the run in images; 0 takes `epochs`.
        global_batch_size: images behind one update, over all processes.
        batch_size_per_rank: images per forward pass of a process; 0 is the global batch over the processes.
            A smaller number accumulates gradients over several passes.
        precision: fp32; bf16 or fp16 autocast (fp16 with loss scaling, on a GPU only).
        clip_norm: the backbone's gradient is scaled down to this norm, the head's never; 0 does not clip.
        ema_half_life_images: a moving average of the backbone with this half-life is kept and exported; 0 keeps none.
        channels_last: memory layout of the convolutions; faster on GPUs and most CPUs.
        compile: torch.compile the network; pays on long GPU runs.
        seed: of the weights, the order of the images and the augmentation.
        device: auto, cpu, cuda or cuda:N.
        validation: what is measured meanwhile.
        checkpoint: what is kept.
        log_every_images: a log line each so many images.
        tensorboard: write TensorBoard events too.
    """

    output: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    shared_head: str = ""
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
    seed: int = 0
    device: str = "auto"
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log_every_images: int = 10_000
    tensorboard: bool = True

    def __post_init__(self) -> None:
        require(bool(self.data.train), "data.train is empty: name the training images, `--data.train FOLDER`")
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
        require(self.data.workers >= 0, f"data.workers must not be negative ({self.data.workers})")
        require(min(self.data.std) > 0, f"data.std must be positive, not {list(self.data.std)}")
        require(0 <= self.data.held_out < 1, f"data.held_out is a share below 1, not {self.data.held_out}")
        require(0 <= self.data.center_crop <= 1, f"data.center_crop is a share, not {self.data.center_crop}")
        require(
            not (self.data.center_crop and self.data.resize),
            "data.center_crop cuts images to shape and data.resize stretches them: choose one",
        )
        require(
            self.validation.classification == "none" or self.head.kind == "linear",
            f"validation.classification = {self.validation.classification!r} judges a linear head: set head.kind to "
            "'linear', or measure faces by validation.packs",
        )
        require(
            self.validation.classification != "held_out" or self.data.held_out > 0,
            "validation.classification = 'held_out', but nothing is: set data.held_out, such as 0.1",
        )
        names = [Path(pack).stem for pack in self.validation.packs]
        require(
            len(set(names)) == len(names),
            f"validation.packs: results go by file name, and two are the same ({', '.join(sorted(names))}); rename one",
        )
        require(self.checkpoint.keep >= 1, f"checkpoint.keep must be at least 1, not {self.checkpoint.keep}")
        minutes = self.checkpoint.every_minutes
        require(
            math.isfinite(minutes) and minutes >= 0,
            f"checkpoint.every_minutes must not be negative ({minutes}); 0 goes by images alone",
        )
        for section in ("checkpoint", "validation"):
            every = getattr(self, section).every_images
            require(every >= 0, f"{section}.every_images must not be negative ({every}); 0 is only at the end")
        require(
            bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)),
            f"device is {self.device!r}: auto, cpu, cuda, cuda:N",
        )
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
        from facekd.backbones.building import check_backbone  # imports torch, which `--help` does without

        try:
            check_backbone(image_size=self.data.image_size, **asdict(self.backbone))
        except ModelError as error:  # whose image_size is not a key of the backbone here
            raise ConfigError(str(error).replace("backbone.image_size", "data.image_size")) from error
