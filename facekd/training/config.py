"""The configuration of a run: frozen dataclasses, read from YAML and dotted overrides, checked before anything starts.

A section that belongs to one module is defined there (`HeadConfig` beside the classifier, `ScheduleConfig` beside the
schedule); here they come together, with the checks that look at more than one of them.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from facekd.backbones import BackboneError, check_backbone
from facekd.data.loading.block_shuffle import BlockShuffle
from facekd.errors import FacekdError
from facekd.head.classifier import HeadConfig
from facekd.images.augmentation import Augmentation
from facekd.training.optim import OptimizerConfig, ScheduleConfig

Config = TypeVar("Config")


class ConfigError(FacekdError):
    """A key that does not exist, a value that cannot be, or two that contradict each other."""


@dataclass(frozen=True)
class DataConfig:
    """The training images.

    Args:
        train: a folder with train.rec, a .rec file, a folder with one folder of images per identity or class (or with
            such folders as train/ and val/), CIFAR's folder, or `synthetic:200x20` for 200 generated identities of 20
            images.
        image_size: height and width in pixels that the records must have.
        mean: subtracted from each RGB channel, in units of 0..255; written into every exported model.
        std: each channel is divided by it, same units.
        resize: scale images of another size to `image_size` instead of refusing them.
        center_crop: for classification: of image files of any size, take the square in the middle, this share of the
            shorter side (0.875 is usual), scaled to `image_size`; in training `augmentation.resized_crop` takes another
            box. 0 refuses images of another size.
        held_out: this share of each class is not trained on, to choose the best checkpoint by; the same images for
            every seed.
        workers: loader processes per rank, at most one a core; 0 decodes in the training process.
        shuffle: `full`: any image may follow any other. `sequential`, for packs on network or spinning disks: blocks of
            neighbouring records, read in one go, change places and are shuffled through each other a window at a time.
        shuffle_block: of `sequential`: neighbouring images in a block.
        shuffle_window: of `sequential`: blocks in a window, which all fit in the page cache twice.
        on_bad_record: `fail` stops at a record that cannot be decoded, `skip` uses the next and counts.
    """

    train: str = ""
    image_size: int = 112
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    resize: bool = False
    center_crop: float = 0.0
    held_out: float = 0.0
    workers: int = 4
    shuffle: Literal["full", "sequential"] = "full"
    shuffle_block: int = 1024
    shuffle_window: int = 64
    on_bad_record: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        BlockShuffle(self.shuffle_block, self.shuffle_window)
        unused = [key for key in ("shuffle_block", "shuffle_window") if getattr(self, key) != getattr(DataConfig, key)]
        if unused and self.shuffle != "sequential":
            raise ConfigError(
                f"data.{unused[0]} has no effect unless data.shuffle is sequential: set that or remove it"
            )

    @property
    def block_shuffle(self) -> BlockShuffle | None:
        """The shape of a sequential shuffle; None where the shuffle is full."""
        return BlockShuffle(self.shuffle_block, self.shuffle_window) if self.shuffle == "sequential" else None


@dataclass(frozen=True)
class BackboneConfig:
    """The network from images to embeddings.

    Args:
        name: `mobilefacenet` (1.0 M), `mobilefacenet_0.45g` (2.06 M, InsightFace's), or `iresnet18` .. `iresnet200`;
            for classification those of CIFAR papers, `resnet8x4`, `resnet32x4`, `resnet20`, `resnet56`, `wrn_16_2` and
            `wrn_40_2`, or torchvision's `resnet50`, `mobilenet_v2` and others.
        embedding_size: numbers in an embedding; fixed by the network for those of classification.
        width: multiplies the channels of every layer.
        dropout: before the embedding layer; of the embedding where there is no such layer.
    """

    name: str = "mobilefacenet"
    embedding_size: int = 512
    width: float = 1.0
    dropout: float = 0.0


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
class CheckpointConfig:
    """What is kept.

    Args:
        every_images: a checkpoint each so many images seen, besides the one at the end; 0 goes by the clock alone.
        every_minutes: a checkpoint each so many minutes too: what a kill costs at most; 0 goes by images alone.
        keep: how many of the newest stay; `best.pt`, by validation accuracy, stays besides.
    """

    every_images: int = 0
    every_minutes: float = 15.0
    keep: int = 3


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
        _require(bool(self.data.train), "data.train is empty: name the training images, `--data.train FOLDER`")
        _require(bool(self.output), "output is empty: name the folder of the run, `--output runs/NAME`")
        _require(self.global_batch_size >= 1, f"global_batch_size must be at least 1, not {self.global_batch_size}")
        _require(self.batch_size_per_rank >= 0, f"batch_size_per_rank cannot be negative ({self.batch_size_per_rank})")
        _require(self.images >= 0, f"images must not be negative ({self.images}); 0 takes epochs")
        _require(0 <= self.seed < 1 << 64, f"seed must be from 0 to 2**64 - 1, not {self.seed}")
        _require(
            self.images > 0 or (math.isfinite(self.epochs) and self.epochs > 0),
            f"the run has no length: epochs is {self.epochs}, images is {self.images}; set one of them above 0",
        )
        for name in ("clip_norm", "ema_half_life_images"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} must not be negative ({value}); 0 turns it off")
        _require(self.log_every_images >= 1, f"log_every_images must be at least 1, not {self.log_every_images}")
        _require(self.data.workers >= 0, f"data.workers must not be negative ({self.data.workers})")
        _require(min(self.data.std) > 0, f"data.std must be positive, not {list(self.data.std)}")
        _require(0 <= self.data.held_out < 1, f"data.held_out is a share below 1, not {self.data.held_out}")
        _require(0 <= self.data.center_crop <= 1, f"data.center_crop is a share, not {self.data.center_crop}")
        _require(
            not (self.data.center_crop and self.data.resize),
            "data.center_crop cuts images to shape and data.resize stretches them: choose one",
        )
        _require(
            self.validation.classification == "none" or self.head.kind == "linear",
            f"validation.classification = {self.validation.classification!r} judges a linear head: set head.kind to "
            "'linear', or measure faces by validation.packs",
        )
        _require(
            self.validation.classification != "held_out" or self.data.held_out > 0,
            "validation.classification = 'held_out', but nothing is: set data.held_out, such as 0.1",
        )
        names = [Path(pack).stem for pack in self.validation.packs]
        _require(
            len(set(names)) == len(names),
            f"validation.packs: results go by file name, and two are the same ({', '.join(sorted(names))}); rename one",
        )
        _require(self.checkpoint.keep >= 1, f"checkpoint.keep must be at least 1, not {self.checkpoint.keep}")
        minutes = self.checkpoint.every_minutes
        _require(
            math.isfinite(minutes) and minutes >= 0,
            f"checkpoint.every_minutes must not be negative ({minutes}); 0 goes by images alone",
        )
        for section in ("checkpoint", "validation"):
            every = getattr(self, section).every_images
            _require(every >= 0, f"{section}.every_images must not be negative ({every}); 0 is only at the end")
        _require(
            bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)),
            f"device is {self.device!r}: auto, cpu, cuda, cuda:N",
        )
        _require(
            not (self.precision == "fp16" and self.device == "cpu"),
            "precision fp16 needs a GPU (its gradients are scaled there); on a CPU use --precision bf16 or fp32",
        )
        _require(
            self.head.product == "float32" or self.precision != "fp32",
            f"head.product = {self.head.product!r} has no effect with precision = 'fp32': set precision to bf16, or on "
            "a GPU to fp16, or remove head.product",
        )
        _require(
            self.head.kind == "margin" or not self.ema_half_life_images,
            "ema_half_life_images averages the backbone alone, and a linear classifier fits the backbone as trained: "
            "set it to 0 with head.kind = 'linear'",
        )
        try:
            check_backbone(image_size=self.data.image_size, **asdict(self.backbone))
        except BackboneError as error:  # whose image_size is not a key of the backbone here
            raise ConfigError(str(error).replace("backbone.image_size", "data.image_size")) from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def parse_config(config_class: type[Config], argv: list[str], prog: str, description: str) -> Config:
    """Read `[CONFIG.yaml] [--a.b value ...]` into a config; later values win.

    `--help` and `--print_config` print and exit, as in any jsonargparse program.

    Raises:
        ConfigError: a key that does not exist (with the nearest that does), a value of the wrong type, a bad file.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} CONFIG.yaml [--key value ...]\n\nexample: {prog} configs/debug.yaml --seed 1",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,  # or `--batch_size` would quietly mean batch_size_per_rank
    )
    parser.add_argument("--config", action="config", help="a YAML file; CONFIG.yaml as the first word is the same")
    parser.add_class_arguments(config_class)
    if argv and not argv[0].startswith("-"):
        _check_yaml(Path(argv[0]), config_class)
        argv = ["--config", argv[0], *argv[1:]]
    try:
        values = parser.instantiate(parser.parse_args(argv))
        return config_class(**{item.name: values[item.name] for item in fields(config_class)})  # type: ignore[arg-type]
    except FacekdError:
        raise
    except Exception as error:  # jsonargparse wraps everything in its own ArgumentError, our checks included
        raise _readable(error, config_class) from error


def _check_yaml(path: Path, config_class: type) -> None:
    """Find what is wrong with a file as a file, and with its sections as sections, before its keys are looked at."""
    import yaml

    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; configs/ holds examples to start from")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds no configuration; expected lines such as `output: runs/mine`")
    for item in fields(config_class):
        is_section = callable(item.default_factory) and is_dataclass(item.default_factory())
        if is_section and not isinstance(content.get(item.name, {}), dict):
            raise ConfigError(f"{path}: {item.name} is a section: expected keys below it, not {content[item.name]!r}")


def _readable(error: BaseException, config_class: type) -> FacekdError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, FacekdError):
            return cause
        cause = cause.__cause__ or cause.__context__
    message = re.sub(r"\s+", " ", str(error)).strip()
    message = re.sub(r"Group '([\w.]+)' does not accept option '([\w.]+)'", r"Option '\1.\2'", message)
    known = config_keys(config_class)
    for named in re.findall(r"(?:[Kk]ey|Option) '([\w.]+)'|--([\w.-]+)", message):
        typed = named[0] or named[1]
        key = typed.replace("-", "_")
        if typed not in known and typed != "config":
            # Most often the section was left out, or was another: `lr` for `schedule.lr`.
            close = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
            close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return ConfigError(f"{typed!r} is not a configuration key{hint} (`--help` lists them all)")
    if wrong := re.search(r'Parser key "([\w.]+)": (.*)', message):
        return ConfigError(f"{wrong[1]}: {_without_types(wrong[2])}")
    return ConfigError(message)


def _without_types(message: str) -> str:
    """`Expected a <class 'float'>` and `typing.Literal['a', 'b']`, said without Python."""
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("NoneType", "null")
    message = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\].*?Given",
        r"expected \1. Given",
        message,
    )
    message = message.replace("Expected a tuple", "expected a list in brackets")
    return re.sub(r"[Ee]xpected a typing\.Literal\[(.*?)\]", r"expected one of \1", message)


def config_keys(config_class: type) -> list[str]:
    """All dotted keys of a config class, sections included: `["output", "data", "data.train", ...]`."""
    keys = []
    for item in fields(config_class):
        keys.append(item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            keys += [f"{item.name}.{key}" for key in config_keys(type(default))]
    return keys


def to_plain(config: Any) -> dict[str, Any]:
    """A config as nested dicts and lists of plain values, as it goes into checkpoints and YAML."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def to_yaml(config: Any) -> str:
    """A config as YAML that `parse_config` reads back."""
    import yaml

    return yaml.safe_dump(to_plain(config), sort_keys=False)


def with_defaults(plain: dict[str, Any], config_class: type) -> dict[str, Any]:
    """A plain config written before some keys existed, with those at their defaults: what it meant then."""
    found = dict(plain)
    for item in fields(config_class):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if is_dataclass(default):
            found[item.name] = with_defaults(found.get(item.name, {}), type(default))
        elif item.name not in found:
            found[item.name] = _plain(default)
    return found


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys at which two plain configs differ, with both values; a key that one lacks counts as None."""
    found = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[prefix + key] = (before, after)
    return found
