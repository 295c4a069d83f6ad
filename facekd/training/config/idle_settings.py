"""Finds settings of a training that nothing reads, such as the exponent of a schedule that is not polynomial."""

from __future__ import annotations

from facekd.training.config.distill_config import DistillConfig
from facekd.training.config.train_config import TrainConfig


def idle_settings(config: TrainConfig) -> list[str]:
    """Returns a sentence for each setting that differs from its default and has no effect, or none that is measured.

    They are warned of, not refused: runs that have them must go on.
    """
    optimizer, schedule, augmentation = config.optimizer, config.schedule, config.augmentation
    readers: list[tuple[str, bool, str]] = [
        ("optimizer.momentum", optimizer.name == "sgd", "optimizer.name is not sgd"),
        ("optimizer.betas", optimizer.name == "adamw", "optimizer.name is not adamw"),
        ("optimizer.eps", optimizer.name == "adamw", "optimizer.name is not adamw"),
        ("schedule.gamma", schedule.name == "step", "schedule.name is not step"),
        ("schedule.power", schedule.name == "polynomial", "schedule.name is not polynomial"),
        ("schedule.warmup_start", schedule.warmup_images > 0, "schedule.warmup_images is 0"),
        ("augmentation.crop_min_area", augmentation.crop > 0, "augmentation.crop is 0"),
        ("augmentation.low_resolution_min_side", augmentation.low_resolution > 0, "augmentation.low_resolution is 0"),
        ("augmentation.color_jitter_strength", augmentation.color_jitter > 0, "augmentation.color_jitter is 0"),
        ("augmentation.blur_max_sigma", augmentation.blur > 0, "augmentation.blur is 0"),
        ("augmentation.jpeg_min_quality", augmentation.jpeg > 0, "augmentation.jpeg is 0"),
    ]
    if isinstance(config, DistillConfig):
        has_temperature = config.effective_loss.has_temperature
        readers.append(("loss.temperature", has_temperature, "no loss that has one is active"))
    found = []
    if config.data.held_out and config.validation.classification != "held_out":
        found.append(
            "data.held_out keeps images from training, and nothing measures them: set validation.classification to "
            "held_out, or data.held_out to 0"
        )
    for key, is_read, why in readers:
        section, name = key.split(".")
        values = getattr(config, section)
        value = getattr(values, name)
        if not is_read and value != getattr(type(values), name):
            shown = list(value) if isinstance(value, tuple) else value
            found.append(f"{key} = {shown} has no effect: {why}")
    return found
