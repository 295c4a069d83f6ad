"""Finds what was meant by a mistyped word, and by a file that is given as a configuration and is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

# Keys that only the configuration of this verb has; two of them, or the first, tell it.
KEYS_OF_VERBS: dict[str, tuple[str, ...]] = {
    "facekd study": ("methods", "packs", "reference", "prepare", "seeds"),
    "facekd pipeline sh-kd": ("distilled", "student", "processes", "base"),
    "facekd distill": ("teacher", "loss", "share", "diagnostics", "margin_on_teacher_head"),
    "facekd train": ("data", "backbone", "head", "optimizer", "schedule", "global_batch_size"),
}
# Where the settings of arcface_torch's Python configs go.
KEYS_OF_ARCFACE_TORCH = {
    "rec": "data.train",
    "output": "output",
    "network": "backbone.name",
    "embedding_size": "backbone.embedding_size",
    "margin_list": "head.margin and head.margin_value",
    "sample_rate": "head.sample_rate",
    "optimizer": "optimizer.name",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "lr": "schedule.lr",
    "num_epoch": "epochs",
    "warmup_epoch": "schedule.warmup_images (in images)",
    "batch_size": "global_batch_size (of all GPUs together)",
    "fp16": "precision",
    "val_targets": "validation.packs",
    "seed": "seed",
}
DATA_SUFFIXES = {
    ".rec": "a record file: give it as `--data.train {path}`",
    ".idx": "the index of a record file: give the .rec beside it as `--data.train`",
    ".tar": "a tar file; `facekd data convert` makes records of it, to be given as `--data.train`",
    ".bin": "a verification pack: give it as `--validation.packs [{path}]`",
    ".pt": "a checkpoint; the configuration of its run is config.yaml in the folder of the run",
    ".onnx": "an ONNX model: give it as `--teacher.model {path}` to `facekd distill`",
}


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Returns the known word most like `word`, taking `-` and `_` for the same; None if none is like it."""
    spelled = {name.replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.replace("-", "_"), spelled, n=1, cutoff=cutoff)
    return spelled[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean WORD?` with the known word most like `word`, or nothing."""
    close = nearest(word, known)
    return f"; did you mean {close}?" if close else ""


def why_no_config(path: Path, prog: str) -> str | None:
    """Says what a file or folder that cannot be a configuration is, and what to give instead; None if it may be one.

    Args:
        path: what was given as the configuration.
        prog: the command as the user types it.
    """
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return f"is the folder of a run; its configuration is {path / 'config.yaml'}"
        return "is a folder, and a configuration is a YAML file; folders of images are given as `--data.train`"
    if path.suffix in DATA_SUFFIXES and path.is_file():
        return f"is {DATA_SUFFIXES[path.suffix].format(path=path)}; `{prog} --help` shows an example"
    if path.suffix != ".py" or not path.is_file():
        return None
    # A Python config is not run: its assignments tell which keys to write.
    names = re.findall(rb"^\s*config\.(\w+)\s*=", path.read_bytes(), re.MULTILINE)
    found = {name: KEYS_OF_ARCFACE_TORCH[name] for name in map(bytes.decode, names) if name in KEYS_OF_ARCFACE_TORCH}
    keys = ", ".join(f"{key} for config.{name}" for name, key in found.items())
    return "is Python, and facekd reads YAML" + (f"; as a config of arcface_torch, write {keys}" if keys else "")


def verb_of_keys(keys: Collection[str], known: Collection[str]) -> str | None:
    """Returns the verb whose configuration has these top-level keys, of which some are not `known`; None if unclear."""
    unknown = {key for key in keys if key not in known}
    for verb, own in KEYS_OF_VERBS.items():
        if own[0] in unknown or len(unknown.intersection(own)) > 1:
            return verb
    return None
