"""Translates a command line of AdaFace's trainer, `python main.py --arch ir_50 ...`, for `facekd train`."""

from __future__ import annotations

import math
import posixpath
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facekd.errors import ConfigError
from facekd.importing.translation import Given, Translation
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

# Their options that take a value, with the defaults of their config.py.
NUMBERS: dict[str, float] = {
    "gpus": 1,
    "epochs": 24,
    "seed": 42,
    "batch_size": 256,
    "lr": 0.1,
    "lr_gamma": 0.1,
    "num_workers": 16,
    "custom_num_class": -1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "m": 0.5,
    "h": 0.0,
    "s": 64.0,
    "t_alpha": 0.01,
    "low_res_augmentation_prob": 0.0,
    "crop_augmentation_prob": 0.0,
    "photometric_augmentation_prob": 0.0,
    "accumulate_grad_batches": 1,
}
TEXTS = {
    "data_root": "",
    "train_data_path": "faces_emore/imgs",
    "val_data_path": "faces_emore",
    "prefix": "default",
    "distributed_backend": "ddp",
    "lr_milestones": "8,12,14",
    "resume_from_checkpoint": "",
    "start_from_model_statedict": "",
    "arch": "ir_18",
    "head": "adaface",
}
FLAGS = ("use_mxrecord", "train_data_subset", "swap_color_channel", "use_16bit", "fast_dev_run", "evaluate")
FLAGS = (*FLAGS, "use_wandb", "test_run", "save_all_models")
DEFAULTS: dict[str, Any] = {**NUMBERS, **TEXTS, **dict.fromkeys(FLAGS, False)}
NETWORKS = ("ir_18", "ir_34", "ir_50", "ir_101")
PACKS = ("agedb_30", "cfp_fp", "lfw", "cplfw", "calfw")
DROPOUT, WEIGHT_DECAY = 0.4, 5e-4  # written into their code
SCRIPT = "main.py"
ENDS_OF_COMMANDS = {";", "&&", "||", "|", "&", ">", ">>", "2>&1"}
LEFT_OUT = {
    "distributed_backend": "facekd has one way to train on several GPUs",
    "custom_num_class": "facekd takes the number of classes from the data",
    "resume_from_checkpoint": "a run of facekd goes on by itself; `facekd import` turns the file into weights",
    "start_from_model_statedict": "`facekd import` it, then --backbone.weights takes it",
    "train_data_subset": "a selection of images of MS1MV2 that only their code has",
    "swap_color_channel": "facekd reads images as RGB",
    "save_all_models": "checkpoint.keep says how many to keep",
    **dict.fromkeys(("evaluate", "test_run", "fast_dev_run"), "no training; see `facekd evaluate`"),
}


def read_command(text: str, where: str) -> dict[str, Any]:
    """Returns the options of the one call of main.py in a shell script or a command line, by name.

    An option that AdaFace's trainer does not have is kept under its name as well.

    Args:
        text: the script or the command line.
        where: the file, for messages.

    Raises:
        ConfigError: there is no such call, or several, or a value is missing or no number.
    """
    # Only the line of the call matters; other lines of a script may be anything.
    lines = text.replace("\\\r\n", " ").replace("\\\n", " ").split("\n")
    lines = [line for line in lines if SCRIPT in line] or lines
    try:
        words = [word for line in lines for word in (*shlex.split(line, comments=True), ";")]
    except ValueError as error:
        raise ConfigError(f"{where}: is no command line: {shown(error)}") from error
    starts = [place for place, word in enumerate(words) if posixpath.basename(word) == SCRIPT]
    if len(starts) > 1 or not any(word.startswith("--") for word in words):
        found = f"{len(starts)} calls of {SCRIPT}" if starts else "no options of a training"
        raise ConfigError(f"{where}: has {found}; expected one command, such as `python main.py --arch ir_50 --lr 0.1`")
    words = words[starts[0] + 1 :] if starts else words
    end = next((place for place, word in enumerate(words) if word in ENDS_OF_COMMANDS), len(words))
    return _parse(words[:end], where)


def _parse(words: Sequence[str], where: str) -> dict[str, Any]:
    """Sorts words into options and values."""
    values: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ConfigError(f"{where}: {shown(repr(word))} is no option: expected --NAME VALUE")
        if name in FLAGS:
            values[name] = True
            continue
        if not equals:
            is_option = not words or re.match(r"--[a-zA-Z]", words[0])
            if is_option and name in DEFAULTS:
                raise ConfigError(f"{where}: --{name} has no value")
            value = "" if is_option else words.pop(0)
        values[name] = _number(name, value, where) if name in NUMBERS else value
    return values


def _number(name: str, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{where}: --{name} is {shown(repr(text), 60)}: expected a number") from None
    if math.isinf(value):
        raise ConfigError(f"{where}: --{name} is {shown(repr(text), 60)}: no computer has so large a number")
    return int(value) if value.is_integer() else value


def translate_adaface(values: dict[str, Any], where: str, data: str | None = None) -> Translation:
    """Translates the options of AdaFace's trainer.

    Args:
        values: by name, as `read_command` returns them.
        where: the file, for messages.
        data: the training data, in place of theirs.

    Raises:
        ConfigError: a value is impossible, or facekd has no such network.
    """
    given = Given(values, DEFAULTS, where, "--")
    found = Translation(Path(where).name, "AdaFace's trainer")
    _translate_data(given, found, data)
    arch = given.text("arch")
    if arch not in NETWORKS:
        raise ConfigError(f"{where}: facekd does not have {shown(repr(arch), 60)}; it has {', '.join(NETWORKS)}")
    found.set("backbone.name", arch)
    found.set("backbone.dropout", DROPOUT, "written into their code")
    _translate_head(given, found)

    # The optimiser: what their code fixes, and what it decays.
    found.set("optimizer.name", "sgd")
    found.set("optimizer.momentum", given.number("momentum", 0, 1))
    found.set("optimizer.weight_decay", WEIGHT_DECAY, "written into their code")
    found.set("optimizer.decay_norm_and_bias", False)
    if "weight_decay" in given:
        found.left_out["--weight_decay"] = f"has no effect there: their code decays weights by {WEIGHT_DECAY:g}"
    given.take("weight_decay")
    found.differences.append(
        "their code leaves batch normalisations out of weight decay; facekd leaves out biases and PReLU slopes as well"
    )

    # Schedule and length.
    epochs, milestones = given.whole("epochs", 1), given.text("lr_milestones")
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", milestones):
        raise given.fault("lr_milestones", "epochs with commas between")
    passed = sorted({int(epoch) for epoch in milestones.split(",")})
    shares = [epoch / epochs for epoch in passed if 0 < epoch < epochs]
    found.set("schedule.name", "step" if shares else "constant")
    found.set("schedule.lr", given.number("lr", 1e-12, 1e6))
    if shares:
        found.set("schedule.milestones", shares, f"epochs {milestones} of {epochs}, as shares of the run")
        found.set("schedule.gamma", given.number("lr_gamma", 1e-12, 1))
    given.take("lr_gamma")
    found.set("epochs", epochs)
    _translate_batch(given, found)
    found.set("seed", given.whole("seed", 0, 2**63))
    if given.take("use_wandb"):
        found.set("logging", ["tensorboard", "wandb"])
    found.differences.append(
        "images are RGB here and BGR there; `facekd import` turns their weights to RGB, and a run can start from those"
    )
    found.differences.append("their random crops, sizes and colours follow the same formulas with other random numbers")
    for key in given.rest():
        found.left_out[f"--{key}"] = LEFT_OUT.get(key, "not known")
    return found


def _translate_data(given: Given, found: Translation, data: str | None) -> None:
    root, train, val = (given.text(key) for key in ("data_root", "train_data_path", "val_data_path"))
    is_pack = given.take("use_mxrecord")
    found.set_path("output", f"runs/{given.text('prefix')}")
    comment = "the folder with train.rec" if is_pack else "a folder of images for each person"
    found.set_path("data.train", data if data is not None else posixpath.join(root, train), comment)
    found.set("data.workers", min(given.whole("num_workers", 0, 4096), 16))
    for theirs, ours in (("crop", "crop"), ("low_res", "low_resolution"), ("photometric", "color_jitter")):
        found.set(f"augmentation.{ours}", given.number(f"{theirs}_augmentation_prob", 0, 1))
    packs = [posixpath.join(root, val, f"{name}.bin") for name in PACKS]
    found.set_path("validation.packs", packs, "their five sets; at the end of the run, there after each epoch")


def _translate_head(given: Given, found: Translation) -> None:
    head, margin = given.text("head", ("adaface", "arcface", "cosface")), given.number("m", 0, 3)
    h, momentum = given.number("h", 0), given.number("t_alpha", 0, 1)
    is_constant = head == "adaface" and h == 0
    found.set("head.margin", "cosface" if is_constant else head)
    found.set("head.margin_value", margin)
    if is_constant:
        found.comments["head.margin"] = "adaface there, with h = 0: the same margin for every image"
    elif head == "adaface":
        found.set("head.h", h)
        found.set("head.norm_momentum", momentum, "t_alpha there")
    if not is_constant and head != "cosface":
        found.differences.append(
            "an image whose margined angle would pass pi keeps a gradient here (docs/method.md); there it gets none"
        )
    found.set("head.scale", given.number("s", 1e-6))


def _translate_batch(given: Given, found: Translation) -> None:
    """Translates batch and precision; Lightning divides the loss by the number of passes, as facekd does."""
    gpus, batch = given.whole("gpus", 0, 10_000), given.whole("batch_size", 1, 10**7)
    passes = given.whole("accumulate_grad_batches", 1, 10_000)
    per_gpu = batch // max(1, gpus)
    if not per_gpu:
        raise given.fault("batch_size", f"at least one image for each of {counted(gpus, 'GPU')}")
    found.set("global_batch_size", per_gpu * max(1, gpus) * passes, f"on {counted(gpus, 'GPU')} of one machine")
    found.set("batch_size_per_rank", per_gpu, "of one pass, whatever the number of GPUs")
    precision = "fp16" if given.take("use_16bit") else "fp32"
    found.set("precision", precision)
    if precision == "fp16":
        found.differences.append("precision fp16 needs a GPU; bf16 trains alike without loss scaling, and on a CPU")
    found.set("clip_norm", 0, "they do not clip gradients")
