"""Translates a configuration of InsightFace's arcface_torch into one of `facekd train`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facekd.errors import ConfigError
from facekd.importing.translation import Given, Translation
from facekd.utils.foreign import shown
from facekd.utils.wording import agreeing, counted

# Their names of networks: ours, with the options that they have.
NETWORKS: dict[str, dict[str, Any]] = {
    **{f"r{depth}": {"name": f"iresnet{depth}"} for depth in (18, 34, 50, 100, 200)},
    "mbf": {"name": "mobilefacenet_0.45g"},
    "mbf_large": {"name": "mobilefacenet_large"},
    "vit_t": {"name": "vit_t", "drop_path": 0.1, "mask_ratio": 0.1},
    "vit_t_dp005_mask0": {"name": "vit_t", "drop_path": 0.05},
    "vit_s": {"name": "vit_s", "drop_path": 0.1, "mask_ratio": 0.1},
    "vit_s_dp005_mask_0": {"name": "vit_s", "drop_path": 0.05},
}
# What their configs/base.py has, for keys that a file leaves out.
DEFAULTS: dict[str, Any] = {
    "margin_list": [1.0, 0.5, 0.0],
    "network": "r50",
    "embedding_size": 512,
    "output": None,
    "sample_rate": 1,
    "interclass_filtering_threshold": 0,
    "fp16": False,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "verbose": 2000,
    "frequent": 10,
    "dali_aug": False,
    "gradient_acc": 1,
    "seed": 2048,
    "num_workers": 2,
    "using_wandb": False,
    "val_targets": [],
    "warmup_epoch": 0,
}
LOSSES = {"arcface": [1.0, 0.5, 0.0], "cosface": [1.0, 0.0, 0.4]}  # by name, before 2022-04
SCALE, MOMENTUM, CLIP_NORM, OLD_LR_BATCH = 64, 0.9, 5, 512  # written into their code
USUAL_GPUS = 8
# Keys that change no result, or have no counterpart.
LEFT_OUT = {
    "resume": "a run of facekd goes on by itself where it was",
    "save_all_states": "every checkpoint of facekd has all that a run needs to go on",
    "dali": "facekd decodes on the CPU",
    "num_classes": "facekd takes it from the data",
    "dataset": "the data is given by its path",
    "wandb_key": "a secret: log in by `wandb login` or WANDB_API_KEY",
    **dict.fromkeys(
        (
            "wandb_entity",
            "wandb_project",
            "suffix_run_name",
            "notes",
            "wandb_log_all",
            "save_artifacts",
            "wandb_resume",
        ),
        "docs/scale.md says what facekd does with wandb",
    ),
}


def translate_arcface(
    values: Mapping[str, Any],
    source: Path,
    gpus: int | None = None,
    data: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> Translation:
    """Translates the values of a configuration of arcface_torch, of 2021 or later.

    Args:
        values: by key, without "config.".
        source: the file, whose name may say how many GPUs there were.
        gpus: their number; None goes by the name of the file, then by arcface_torch's README.
        data: the training data, in place of theirs.
        base: the values of the base.py beside the file, for keys that it leaves out.

    Raises:
        ConfigError: a value is missing or impossible, or facekd has no such network or optimiser.
    """
    everything = {**(base or {}), **values}
    given = Given(everything, DEFAULTS, str(source), "config.")
    found = Translation(source.name, "arcface_torch")
    gpus, gpus_by = _number_of_gpus(source, gpus)
    accumulated = given.whole("gradient_acc", 1, 10_000)
    batch = given.whole("batch_size", 1, 10**6) * gpus

    _translate_data(given, found, source, data)
    _translate_network(given, found)
    _translate_head(given, found)
    _translate_optimizer(given, found, accumulated)
    _translate_length(given, found, batch, accumulated)

    # Batches: those of a GPU keep their size, over which batch normalisation takes its statistics.
    found.set(
        "global_batch_size",
        batch * accumulated,
        f"{given.whole('batch_size')} on each of {counted(gpus, 'GPU')} ({gpus_by})",
    )
    found.set("batch_size_per_rank", given.whole("batch_size"), "of one pass, whatever the number of GPUs")
    if accumulated > 1:
        found.comments["global_batch_size"] += f", {counted(accumulated, 'pass')} for an update"
        found.differences.append(
            f"gradient_acc = {accumulated} adds up the gradients of {counted(accumulated, 'batch')}, facekd takes "
            "their mean: so lr is multiplied by it, and weight_decay and clip_norm are divided"
        )
    precision = "fp16" if given.flag("fp16") else "fp32"
    found.set("precision", precision)
    if precision == "fp16":
        found.differences.append("precision fp16 needs a GPU; bf16 trains alike without loss scaling, and on a CPU")
    found.set("clip_norm", CLIP_NORM / accumulated, "of the backbone's gradient alone, as there")
    found.set("seed", given.whole("seed", 0, 2**63))
    found.differences.append("the order of the images, the first weights and the classes drawn are others")
    if given.flag("using_wandb"):
        found.set("logging", ["tensorboard", "wandb"])
    for key in given.rest():
        if key in values or key not in LEFT_OUT:  # of base.py, only what is not known
            why = LEFT_OUT.get(key, f"not known ({shown(repr(everything[key]), 60)})")
            found.left_out[f"config.{key}"] = why
    return found


def _number_of_gpus(source: Path, gpus: int | None) -> tuple[int, str]:
    if gpus is not None:
        return gpus, "--gpus"
    named = re.search(r"(?<![0-9a-z])(\d{1,4}|one)_?gpus?(?![a-z])", source.stem)
    if named:
        return (1 if named[1] == "one" else max(1, int(named[1]))), "by the name of the file; --gpus says otherwise"
    return USUAL_GPUS, "as in its README; --gpus says otherwise"


def _translate_data(given: Given, found: Translation, source: Path, data: str | None) -> None:
    """Translates paths, and what is measured on the way."""
    output = given.take("output")
    found.set_path("output", output if isinstance(output, str) and output else f"runs/{source.stem}")
    rec = given.take("rec") if data is None else data
    if rec == "synthetic" and data is None:
        classes = given.whole("num_classes", 2)
        found.set("data.train", f"synthetic:{classes}x1", "random pixels there, generated faces here")
    elif isinstance(rec, str) and rec:
        found.set_path("data.train", rec, "the folder with train.rec and train.idx")
    else:
        raise ConfigError(f"{source}: config.rec is not set: give the training data by --data FOLDER")
    given.take("rec")
    found.set("data.workers", given.whole("num_workers", 0, 4096))
    found.set("augmentation.flip", True, "as there, with probability 1/2")
    if given.flag("dali_aug"):
        found.left_out["config.dali_aug"] = (
            "its random resizing, blur, hue and grey images have no exact counterpart; near are augmentation."
            "low_resolution 0.1, .blur 0.2 and .color_jitter 0.2"
        )
    targets = given.take("val_targets")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise given.fault("val_targets", "a list of names")
    packs = [posixpath.join(str(rec), f"{name}.bin") for name in targets] if rec != "synthetic" else []
    found.set_path("validation.packs", packs)


def _translate_network(given: Given, found: Translation) -> None:
    network = given.text("network")
    if network not in NETWORKS:
        raise given.fault("network", f"one that facekd has: {', '.join(NETWORKS)}")
    for key, value in NETWORKS[network].items():
        found.set(f"backbone.{key}", value, f"{network} there" if key == "name" else "")
    found.set("backbone.embedding_size", given.whole("embedding_size", 1, 65_536))


def _translate_head(given: Given, found: Translation) -> None:
    """Translates margin, scale, filter and partial FC.

    Raises:
        ConfigError: the margins are none that their loss takes.
    """
    # Their loss takes the cosine's margin alone if there is one, and otherwise the angle's.
    if "loss" in given and "margin_list" not in given:
        margins = LOSSES[given.text("loss", LOSSES)]
    else:
        margins = given.numbers("margin_list", 3)
        given.take("loss")
    m1, m2, m3 = margins
    if m1 == 1.0 and m3 == 0.0:
        found.set("head.margin", "arcface")
        found.set("head.margin_value", m2, "radians")
        if "margin_list" in given or "loss" not in given:  # by their oldest losses the gradient was exact
            found.set("head.gradient", "straight_through", "as there; exact is facekd's default")
        found.differences.append(
            "where the margined angle would pass pi, facekd has a guard (docs/method.md), and arcface_torch has none"
        )
    elif m3 > 0:
        found.set("head.margin", "cosface")
        found.set("head.margin_value", m3, "units of cosine")
        if (m1, m2) != (1.0, 0.0):
            found.differences.append(
                f"margin_list = ({m1:g}, {m2:g}, {m3:g}): their loss takes m3 alone where it is not 0, so this does, "
                "too; all three together are head.margin combined, with head.m1, .m2 and .m3"
            )
    else:
        raise given.fault("margin_list", "(1, m2, 0) or m3 above 0: their loss takes no others")
    found.set("head.scale", SCALE, "written into their code")
    threshold = given.number("interclass_filtering_threshold", 0, 1)
    if threshold:
        found.set("head.filter_above", threshold)

    # Their classifier is always split over the GPUs.
    found.set("head.sharded", True, "each GPU has a part of the classes")
    rate = given.number("sample_rate", 0, 1)
    if rate < 1:
        found.set("head.sample_rate", rate or 1e-9, "" if rate else "0 there: the classes of the batch alone")
        found.differences.append(
            "classes that are not drawn for a step stay as they are; there, weight decay and momentum move them, too"
        )


def _translate_optimizer(given: Given, found: Translation, accumulated: int) -> None:
    name = given.text("optimizer", ("sgd", "adamw"))
    found.set("optimizer.name", name)
    decay = given.number("weight_decay", 0, 100)
    momentum = given.number("momentum", 0, 1)
    if name == "sgd":
        found.set("optimizer.momentum", MOMENTUM, "written into their code")
        if "momentum" in given and momentum != MOMENTUM:
            found.differences.append(f"momentum = {momentum:g} has no effect there: their code has {MOMENTUM}")
        decay /= accumulated
    found.set("optimizer.weight_decay", decay, "of everything, normalisations and biases too, as there")


def _translate_length(given: Given, found: Translation, batch: int, accumulated: int) -> None:
    """Translates epochs to images, and the schedule, which depends on the version.

    Raises:
        ConfigError: the length is missing.
    """
    # Epochs of whole batches, as there.
    epochs = given.number("num_epoch", 1e-9, 1e6)
    images = given.whole("num_image", 1)
    steps = images // batch
    if not steps:
        raise given.fault("num_image", f"at least the {counted(batch, 'image')} of a batch")
    per_epoch = steps * batch
    warmup = given.number("warmup_epoch", -1e6, 1e6)
    factor = accumulated if found.values["optimizer.name"] == "sgd" else 1
    lr = given.number("lr", 1e-12, 1e6) * factor

    # The decay.
    if "decay_epoch" in given:
        milestones = [int(epoch * images // batch) * batch for epoch in given.numbers("decay_epoch")]
        found.set("schedule.name", "step")
        found.set("schedule.milestones", milestones, "epochs there; images here")
        found.set("schedule.gamma", 0.1)
        lr = lr / OLD_LR_BATCH * batch
        comment = f"{given.number('lr'):g} there, for {OLD_LR_BATCH} images; for all of the batch here"
    elif "loss" in given and "margin_list" not in given:
        found.set("schedule.name", "polynomial")
        found.set("schedule.power", 2.0, "as arcface_torch had it in January 2022")
        comment = "as given: not rescaled by the batch"
    else:
        found.set("schedule.name", "linear", "to 0 at the end")
        comment = "as given: not rescaled by the batch"
        found.differences.append(
            "the rate falls in a straight line, as in arcface_torch since April 2023; before, by the power 2: "
            "schedule.name polynomial repeats that"
        )
    found.set("schedule.lr", lr, comment)
    if warmup > 0:
        found.set(
            "schedule.warmup_images",
            int(steps * warmup) * batch,
            f"{warmup:g} of {epochs:g} {agreeing(epochs, 'epoch')}",
        )
        found.differences.append(
            "the warm-up begins at 1 % of the rate (schedule.warmup_start); there at 0, after one step at the full rate"
        )
    total = int(steps * epochs) * batch
    found.set(
        "images",
        total,
        f"{epochs:g} {agreeing(epochs, 'epoch')} of {counted(images, 'image')}, without the last incomplete batch of "
        "each",
    )

    # What they count in steps or epochs.
    found.set("validation.every_images", given.whole("verbose", 1) * batch, "every so many steps there")
    found.set("checkpoint.every_images", per_epoch, "each epoch, as there")
    found.set("log_every_images", given.whole("frequent", 1) * batch)
