"""Describes what produced a result: the model and the software versions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from facekd import __version__
from facekd.utils.foreign import shown


def name_with_assumptions(name: str, model: Mapping[str, Any] | None) -> str:
    """Returns the name of a model as tables and pictures show it: with what was assumed of it, if anything.

    Args:
        name: the name.
        model: the entry `model` of a result, or None.
    """
    assumed = (model or {}).get("assumed")
    return f"{name} (assumed: {', '.join(assumed)})" if assumed else name


def describe_assumptions(model: Mapping[str, Any] | None) -> str:
    """Says which preprocessing of a model was assumed, beside the numbers that depend on it; empty if none was."""
    assumed = (model or {}).get("assumed")
    if model is None or not assumed:
        return ""
    values = [_as_text((model.get("preprocessing") or {}).get(name)) for name in assumed]
    used = "; ".join(f"{name} {value}" for name, value in zip(assumed, values, strict=True))
    return f"preprocessing assumed, not recorded: {used}; if that is wrong, the model may be better than these numbers"


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value))
    return f"{value:g}" if isinstance(value, int | float) else shown(value)


def describe_software() -> dict[str, str]:
    """Returns the entry `software` of a result: versions by package."""
    # OpenCV decodes and resizes, and its versions differ in both; the runtimes differ in the last digits.
    found = {"facekd": __version__}
    for name in ("numpy", "scipy", "opencv-python-headless", "simplejpeg", "onnxruntime", "torch"):
        with contextlib.suppress(PackageNotFoundError):  # another build of the same library, such as onnxruntime-gpu
            found[name] = version(name)
    return found
