"""Lists the clients that are tried, the forms that each is promised to take, and those that are known to fail."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from tests.clients.models import FORMS

PLAIN = tuple(name for name, form in FORMS.items() if not form.raw)
EVERY: dict[str, dict[str, Any]] = {form: {} for form in FORMS}


class Job(TypedDict):
    """Describes one file for a client: where it lies, the sizes of batches to try, and arguments of `open_model`."""

    form: str
    model: str
    embeddings: str
    batches: list[int]
    keywords: dict[str, Any]


@dataclass(frozen=True)
class Route:
    """Describes a client.

    Attributes:
        name: the first column of the table.
        file: below `examples/clients/`.
        package: whose version the table shows.
        requirements: what its environment needs, in the words of pip.
        forms: those that are tried, with the arguments of `open_model`.
        known: those of them that may fail, with the reason; the others are promised to work.
        kind: how it is run.
        alone: requirements that are installed without what they require themselves.
        python: a release that it needs, such as "3.10"; without one, this Python's.
        is_optional: old, so that it is told and no failure if it cannot be installed (any more).
        least_cosine, most_error: what its embeddings may differ by from torch's, if more than the form's.
    """

    name: str
    file: str
    package: str
    requirements: tuple[str, ...]
    forms: dict[str, dict[str, Any]]
    known: dict[str, str] = field(default_factory=dict)
    kind: Literal["python", "node", "browser", "cpp"] = "python"
    alone: tuple[str, ...] = ()
    python: str = ""
    is_optional: bool = False
    least_cosine: float = 1.0
    most_error: float = 0.0


def _opencv(version: str, *more: str) -> Route:
    requirements = (f"opencv-python-headless{version}", *more)
    forms = {name: {"raw": form.raw} if form.raw else {} for name, form in FORMS.items()}
    is_old = "==" in version
    return Route("OpenCV", "opencv_client.py", "opencv-python-headless", requirements, forms, is_optional=is_old)


def _insightface(version: str, **for_bytes: Any) -> Route:
    """Returns a version of insightface; `for_bytes` are the arguments by which it gives bytes to a model, if it can."""
    known = {"nhwc bytes": "takes channels first alone"}
    if not for_bytes:
        known["nchw bytes"] = "gives normalised images to every model"
    return Route(
        "insightface",
        "insightface_client.py",
        "insightface",
        (f"insightface{version}", "onnxruntime"),
        {**{name: {} for name in PLAIN}, "nchw bytes": for_bytes, "nhwc bytes": {}},
        known,
        is_optional=bool(version),
    )


NEWEST = ("onnxruntime", "numpy")
WEB = ("onnxruntime-web", "@sparticuz/chromium", "puppeteer-core")
TAKES_FLOATS = {name: "is converted for normalised images, channels first" for name, form in FORMS.items() if form.raw}
ORT_1_14 = ("onnxruntime==1.14.*", "numpy<2")
BF16: dict[str, dict[str, Any]] = {form: {"precision": "bf16"} for form in ("default", "IR-18")}

ROUTES = (
    Route("onnxruntime", "onnxruntime_client.py", "onnxruntime", NEWEST, EVERY),
    Route("onnxruntime", "onnxruntime_client.py", "onnxruntime", ORT_1_14, EVERY, python="3.10", is_optional=True),
    Route("onnxruntime (C++)", "cpp/embed.cpp", "onnxruntime", NEWEST, EVERY, kind="cpp"),
    Route("onnxruntime-web (node)", "onnxruntime_web.mjs", "onnxruntime-web", WEB, EVERY, kind="node"),
    Route("onnxruntime-web (page)", "browser/index.html", "onnxruntime-web", WEB, EVERY, kind="browser"),
    _insightface("", model_task="recognition", model_metadata={"preprocessing": "embedded"}),
    _insightface("==0.7.3"),
    _opencv(""),
    _opencv("<5"),
    _opencv("==4.8.*", "numpy<2"),
    Route("OpenVINO (f32)", "openvino_client.py", "openvino", ("openvino",), EVERY),
    Route(
        "OpenVINO (bf16)", "openvino_client.py", "openvino", ("openvino",), BF16, least_cosine=0.9, most_error=math.inf
    ),
    Route("ncnn", "ncnn_client.py", "ncnn", ("ncnn", "numpy"), EVERY, TAKES_FLOATS, alone=("pnnx",)),
    Route("MNN", "mnn_client.py", "MNN", ("MNN", "numpy"), EVERY, TAKES_FLOATS),
)
