"""Reading and checking the YAML file of a study; what it means is in `facekd/experiments/study_config.py`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facekd.errors import ConfigError
from facekd.experiments.study_config import VERBS, Method, Pack, Study
from facekd.utils.config_files import as_section, check_keys, flatten, hint, read_sections

KEYS = ("output", "title", "seeds", "reference", "base", "prepare", "packs", "evaluate", "methods")
METHOD_KEYS = ("verb", "recipe", "config", "seeds", "judge", "note", "model", "evaluate")
PACK_KEYS = ("pairs", "names")
# Options of `facekd evaluate lfw` that make sense here; the rest is the study's to set.
EVALUATE_KEYS = (
    *("folds", "flip", "fars", "rule", "bootstrap", "seed", "pictures"),
    *("mean", "std", "color", "image-size", "resize", "batch-size", "device"),
)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def load_study(path: str | Path, output: str | None = None) -> Study:
    """Read and check a study.

    Args:
        path: a YAML file.
        output: in place of the one in the file.

    Raises:
        ConfigError: a file that is none, a key that does not exist, a value that cannot be.
    """
    content = read_sections(Path(path))
    check_keys(content, KEYS, "")
    folder = output or content.get("output")
    if not isinstance(folder, str) or not folder:
        raise ConfigError("output is empty: name the folder of the study, `output: runs/study`")
    seeds = _seeds(content.get("seeds"), "seeds")
    methods = {
        name: _method(name, value, seeds) for name, value in as_section(content.get("methods"), "methods").items()
    }
    if not methods:
        raise ConfigError("methods is empty: name what to compare, see `facekd study --help`")
    study = Study(
        output=Path(folder),
        title=str(content.get("title") or Path(folder).name),
        seeds=seeds,
        reference=_reference(content.get("reference"), methods),
        base=flatten(as_section(content.get("base"), "base")),
        prepare=_strings(content.get("prepare"), "prepare"),
        packs=_packs(content.get("packs"), folder),
        evaluate=_evaluate(content.get("evaluate"), "evaluate"),
        methods=methods,
    )
    _check_base(study)
    _ = study.runs  # references, circles
    return study


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    is_list = isinstance(value, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
    if not is_list or not value or min(value) < 0:
        raise ConfigError(f"{where}: expected a list of whole numbers from 0, such as [0, 1, 2], found {value!r}")
    if len(set(value)) < len(value):
        raise ConfigError(f"{where}: {value} names a seed twice, and the same seed gives the same run")
    return tuple(value)


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: expected a list of texts, found {value!r}")
    return tuple(value)


def _method(name: str, value: Any, seeds: tuple[int, ...]) -> Method:
    where = f"methods.{name}"
    if not NAME.fullmatch(name) or name == "study":
        raise ConfigError(f"{where}: a method is named by letters, digits, - _ and ., and not 'study'")
    content = as_section(value, where)
    check_keys(content, METHOD_KEYS, f"{where}.")
    verb, model = content.get("verb") or "", content.get("model") or ""
    if model and (verb or content.get("config") or content.get("recipe")):
        raise ConfigError(f"{where}: a model that exists already is not trained: leave out verb, config and recipe")
    if not model and verb not in VERBS:
        raise ConfigError(f"{where}.verb: expected {' or '.join(VERBS)}, found {verb!r}")
    own = content.get("seeds")
    return Method(
        name=name,
        verb=verb,
        recipe=content.get("recipe") or "",
        config=flatten(as_section(content.get("config"), f"{where}.config")),
        seeds=(0,) if model else seeds if own is None else _seeds(own, f"{where}.seeds"),
        judge=content.get("judge", True),
        note=str(content.get("note") or ""),
        model=model,
        evaluate=_evaluate(content.get("evaluate"), f"{where}.evaluate"),
    )


def _reference(name: Any, methods: Mapping[str, Method]) -> str:
    if name not in methods or methods[name].model or not methods[name].judge:
        raise ConfigError(
            f"reference: {name!r} is not a method that is trained and judged{hint(str(name), methods)}; name the one "
            f"that the others are compared with, the student trained alone. There are {', '.join(methods)}"
        )
    return name


def _packs(value: Any, study: str) -> tuple[Pack, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError("packs: expected a list such as [{pairs: test.bin, names: test_pairs.txt}]")
    packs = []
    for item in value:
        content = {"pairs": item} if isinstance(item, str) else as_section(item, "packs")
        check_keys(content, PACK_KEYS, "packs: ")
        if not isinstance(content.get("pairs"), str):
            raise ConfigError(f"packs: {item!r} names no .bin file: {{pairs: test.bin}}")
        texts = (str(content[key] or "") if key in content else "" for key in PACK_KEYS)
        packs.append(Pack(*(text.replace("{study}", study) for text in texts)))
    names = [pack.name for pack in packs]
    if len(set(names)) < len(names):
        raise ConfigError(f"packs: results go by file name, and two are the same ({', '.join(names)}); rename one")
    return tuple(packs)


def _evaluate(value: Any, where: str) -> dict[str, Any]:
    content = {key.replace("_", "-"): item for key, item in as_section(value, where).items()}
    check_keys(content, EVALUATE_KEYS, f"{where}.")
    return content


def _check_base(study: Study) -> None:
    for name, values in (
        ("base", study.base),
        *((f"methods.{m.name}.config", m.config) for m in study.methods.values()),
    ):
        for key in ("seed", "output"):
            if key in values:
                raise ConfigError(f"{name}.{key}: the study sets it; see `seeds` and `output`")
