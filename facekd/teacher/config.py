"""Defines the `teacher:` section of a distillation config, and `--teacher FILE` on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facekd.commands.config_files import path_field, require
from facekd.errors import ConfigError
from facekd.files.reading import require_regular_file

CACHE_END = b"facekd teacher\n\n"  # the last bytes of every teacher cache


@dataclass(frozen=True)
class TeacherConfig:
    """Names the teacher, which is run but never trained.

    Args:
        model: a checkpoint, the folder of a run, or any ONNX file.
        head: the teacher's classifier, written by `facekd rebuild-head`, if `model` has none.
        cache: the teacher's embeddings, written by `facekd cache-teacher`; used instead of running the model.
        cache_despite_augmentation: use the cache although images are augmented by more than the flip; it holds
            embeddings of the images before augmentation.
        resize: resize images to the teacher's input size if it differs.
        mean: mean in units of 0..255, for an ONNX file that does not record it.
        std: standard deviation in the same units, for an ONNX file that does not record it.
        color: channel order, for an ONNX file that does not record it.
        embedding_output: output that is the embedding, for an ONNX file that has several.
        rewrite_prelu: compute the PReLU of an ONNX file in a form that is faster on a CPU, as `--rewrite-prelu` does.
        weight: weight beside the other teachers, where several are named; they are divided by their sum.

    Raises:
        ConfigError: a weight that is not positive.
    """

    model: str = path_field()
    head: str = path_field()
    cache: str = path_field()
    cache_despite_augmentation: bool = False
    resize: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    color: Literal["rgb", "bgr"] | None = None
    embedding_output: str = ""
    rewrite_prelu: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.weight) and self.weight > 0, f"teacher weight = {self.weight}: give a positive number"
        )


def is_teacher_cache(path: str) -> bool:
    """Tells whether a file ends as a teacher cache does; what cannot be read is none.

    Raises:
        DataError: it is a named pipe or a device, at which opening could wait for ever.
    """
    place = Path(path).expanduser()
    try:
        require_regular_file(place)
        with place.open("rb") as file:
            file.seek(-len(CACHE_END), 2)
            return file.read() == CACHE_END
    except OSError:
        return False


def spell_out_teachers(argv: Sequence[str]) -> list[str]:
    """Turns `--teacher FILE` into the keys of a config, given once or several times.

    One names the model of the `teacher` section, or its cache. Several are the list `teachers`, in place of a model,
    classifier and cache that the config file names.

    Args:
        argv: words of the command line.

    Raises:
        ConfigError: `--teacher` is the last word.
    """
    # A file of YAML, or YAML itself, is a whole section, as with any other.
    words, named = [], []
    rest = iter(argv)
    for word in rest:
        if word != "--teacher" and not word.startswith("--teacher="):
            words.append(word)
            continue
        value = word.partition("=")[2] if "=" in word else next(rest, "")
        if not value:
            raise ConfigError("--teacher needs a checkpoint, the folder of a run, an ONNX file or a teacher cache")
        if value.startswith("{") or value.endswith((".yaml", ".yml")):
            words += ["--teacher", value]
        else:
            named.append(("cache" if is_teacher_cache(value) else "model", value))
    if not named:
        return words
    # What a config file names gives way; what other options say does not.
    is_one = len(named) == 1
    replaced = ("model", "cache") if is_one else ("model", "cache", "head")
    words = [*(word for key in replaced for word in (f"--teacher.{key}", "")), *words]
    if is_one:
        return [*words, f"--teacher.{named[0][0]}", named[0][1]]
    return [*words, "--teachers", json.dumps([{key: value} for key, value in named])]
