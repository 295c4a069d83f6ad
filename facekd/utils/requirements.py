"""Names the packages that facekd requires or can use, what needs each, and which command installs it."""

from __future__ import annotations

import importlib.util
import re
from typing import NamedTuple


class Package(NamedTuple):
    """Describes a package that facekd imports.

    Attributes:
        module: the name that Python imports.
        needed_for: what does not work without it, for people.
        extra: the extra of facekd that installs it; empty if facekd requires it.
        needs_torch: whether only commands that need torch as well import it.
    """

    module: str
    needed_for: str
    extra: str = ""
    needs_torch: bool = False


TRAINING = "training, distilling, exporting, opening checkpoints"
# By the name under which pip knows it.
PACKAGES: dict[str, Package] = {
    "torch": Package("torch", TRAINING, needs_torch=True),
    "torchvision": Package("torchvision", f"{TRAINING}; CIFAR", needs_torch=True),
    "numpy": Package("numpy", "all but `doctor` and `configs`"),
    "opencv-python-headless": Package("cv2", "images: data, evaluation, training"),
    "simplejpeg": Package("simplejpeg", "images: data, evaluation, training"),
    "jsonargparse": Package("jsonargparse", "train, distill, study, pipeline, quickstart", needs_torch=True),
    "pyyaml": Package("yaml", "configurations, and `import-config`"),
    "tensorboard": Package("tensorboard", "training", needs_torch=True),
    "rich": Package("rich", "progress and tables"),
    "jinja2": Package("jinja2", "pages of evaluations, studies, `data inspect`"),
    "onnxruntime": Package("onnxruntime", "ONNX models"),
    "scipy": Package("scipy", "evaluation"),
    "scikit-learn": Package("sklearn", "evaluation"),
    "matplotlib": Package("matplotlib", "pictures on pages"),
    "onnx": Package("onnx", "ONNX models"),
    "onnxscript": Package("onnxscript", "`export`", needs_torch=True),
    "safetensors": Package("safetensors", "classifiers shared out over processes", needs_torch=True),
    "pyarrow": Package("pyarrow", "Parquet and Arrow files", "parquet"),
    "pillow-heif": Package("pillow_heif", "HEIC photographs", "heic"),
    "pillow": Package("PIL", "AVIF and HEIC photographs", "heic"),
    "argcomplete": Package("argcomplete", "completion of verbs and options in the shell", "completion"),
    "timm": Package("timm", "backbones `timm:NAME`", "timm"),
    "wandb": Package("wandb", "`--logging [wandb]`", "wandb"),
    "mlflow": Package("mlflow", "`--logging [mlflow]`", "mlflow"),
    "playwright": Package("playwright", "`report --pdf`", "pdf"),
}


def explain_missing(module: str | None) -> str | None:
    """Says that a required package is missing, and how it is installed; None for a module that facekd does not require.

    Args:
        module: the `name` of a ModuleNotFoundError.
    """
    asked = (module or "").partition(".")[0]
    name = next((name for name, package in PACKAGES.items() if package.module == asked), None)
    if name is None or PACKAGES[name].extra:  # the errors of optional packages say more
        return None
    # All that this command may need, so that the next error is not another missing package.
    wanted = [other for other, package in PACKAGES.items() if not package.extra]
    wanted = [other for other in wanted if PACKAGES[name].needs_torch or not PACKAGES[other].needs_torch]
    missing = [other for other in wanted if other == name or not _is_there(PACKAGES[other].module)]
    return (
        f"this command needs {name}, which is not installed here: pip install {' '.join(missing)} (`facekd doctor` "
        "says what is missing)"
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None  # without importing it
    except ModuleNotFoundError:
        return False


def installed_version(name: str) -> str | None:
    """Returns the version of a package, without importing it; None if it is not installed.

    A package of another name that brings the same module counts, such as onnxruntime-gpu for onnxruntime.
    """
    from importlib.metadata import PackageNotFoundError, packages_distributions, version  # every command imports this

    try:
        return version(name)
    except PackageNotFoundError:
        module = PACKAGES[name].module
        others = packages_distributions().get(module, ()) if _is_there(module) else ()  # slow, and seldom needed
        return version(others[0]) if others else None


def wanted_versions() -> dict[str, str]:
    """Returns what facekd asks of the version of each package, such as ">=2.11"; empty text for nothing or unknown."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("facekd") or []
    except PackageNotFoundError:  # a checkout that is not installed
        lines = []
    matches = [re.match(r"([A-Za-z0-9._-]+)(?:\[.*?\])?\s*([^;]*)", line) for line in lines]
    return dict.fromkeys(PACKAGES, "") | {match[1].lower(): match[2].strip(" ()") for match in matches if match}


def is_within(version: str, wanted: str) -> bool:
    """Tells whether a version such as "2.14.1+cpu" is within bounds such as ">=2.11,<5"; other signs are ignored."""

    def numbers(text: str) -> tuple[int, ...]:
        found = tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", text)[0])))
        return found + (0,) * (4 - len(found))

    bounds = re.findall(r"(>=|<)(?!=)\s*([\d.]+)", wanted)
    return all((numbers(version) >= numbers(bound)) == (sign == ">=") for sign, bound in bounds)
