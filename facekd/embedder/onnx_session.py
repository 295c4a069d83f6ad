"""Opens ONNX files in onnxruntime, and says in plain words why one cannot be opened."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facekd.checkpoints.file_kinds import ONNX_FILE, describe_file
from facekd.errors import ModelError

if TYPE_CHECKING:
    import onnx


def open_session(path: Path, threads: int | None = None, device: str = "cpu") -> Any:
    """Opens an ONNX file as an onnxruntime `InferenceSession`.

    Args:
        path: the file.
        threads: threads of onnxruntime; None means one per core.
        device: `"cpu"` or `"cuda"`.

    Raises:
        ModelError: the device is not there, or the file cannot be opened; the message says why.
    """
    import onnxruntime

    providers = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}.get(device)
    if providers is None:
        raise ModelError(f"device is {device!r}; expected cpu or cuda for an ONNX file")
    if providers[0] not in onnxruntime.get_available_providers():
        raise ModelError(f"device is 'cuda' but this onnxruntime has no CUDA: {_cuda_remedy()}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # warnings about a file do not help its user, and errors are raised and told by us
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise ModelError(f"{path}: onnxruntime cannot open it: {_reason(path, str(error))}") from error


STRIDES = (8, 16, 32)
YUNET_OUTPUTS = frozenset(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES)


def face_detector_kind(session: Any) -> str:
    """Tells by its outputs what face detector a network is.

    Returns:
        `"scrfd"`, `"scrfd without landmarks"`, `"yunet"`, `"other"` for one that returns boxes otherwise, or `""`.
    """
    outputs = session.get_outputs()
    if frozenset(output.name for output in outputs) >= YUNET_OUTPUTS:
        return "yunet"
    last = [output.shape[-1] if output.shape else 0 for output in outputs]
    sizes = sorted(size if isinstance(size, int) else 0 for size in last)
    if sizes == [1] * 3 + [4] * 3 + [10] * 3:
        return "scrfd"
    if sizes == [1] * 3 + [4] * 3:
        return "scrfd without landmarks"
    # RetinaFace, UltraFace and their like: boxes (1, N, 4) beside their scores.
    has_boxes = any(len(output.shape) == 3 and output.shape[-1] == 4 for output in outputs)
    return "other" if has_boxes and len(outputs) > 1 else ""


def load_graph(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file without the data that lie beside it."""
    import onnx

    return onnx.load(str(path), load_external_data=False)


def external_data_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Lists the files beside an ONNX file that hold its weights, by name."""
    tensors = model.graph.initializer
    locations = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / location for location in sorted(locations)]


def _reason(path: Path, message: str) -> str:
    """Returns why onnxruntime refuses a file, and what to do."""
    import onnxruntime
    from google.protobuf.message import DecodeError

    # A file cut short is no message of protobuf's any more.
    try:
        model = load_graph(path)
    except DecodeError:
        kind, size = describe_file(path), path.stat().st_size
        if kind not in (ONNX_FILE, ""):
            return f"it is {kind}, not an ONNX model"
        return f"its {size:,} bytes are not a whole ONNX model; was it copied or downloaded completely?"
    if not model.graph.node:
        return "it holds no graph; was it copied or downloaded completely?"

    # Weights beside the file are easily left behind.
    missing = [file.name for file in external_data_files(path, model) if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        return f"its weights lie in {', '.join(missing[:3])}{more}, missing in {path.parent}; copy them there"
    if "External initializer" in message:
        return f"the weights beside it do not fit it, copy them again: {brief(message)}"

    # A newer exporter writes what this onnxruntime does not know.
    here = f"onnxruntime {onnxruntime.__version__}"
    remedy = f"update it (pip install -U {' '.join(_builds()) or 'onnxruntime'})"
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if "opset" in message.lower() and "under development" in message:
        shown = ", ".join(f"{domain} {number}" for domain, number in opsets.items())
        return f"its opset ({shown}) is newer than {here} knows; {remedy}, or export with a lower opset_version"
    if "Unsupported model IR version" in message:
        return f"its IR version {model.ir_version} is newer than {here} knows; {remedy}, or export with an older onnx"
    unknown = re.search(r"No Op registered for (\S+)|error: (\S+?)\(.*is not a registered function", message)
    if unknown:
        name = unknown[1] or unknown[2]
        return (
            f"{here} has no operator {name} (the file's opset is {opsets.get('ai.onnx', 'not stated')}); "
            "export with operators of ONNX itself, or update onnxruntime if the operator is a newer one"
        )
    return brief(message)


def brief(message: str) -> str:
    """Returns onnxruntime's message on one line, without the places in its own source code."""
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.(?:cc|h):\d+ |/onnxruntime_src\S+ ", "", message)
    return " ".join(message.split())


def _cuda_remedy() -> str:
    builds = _builds()
    if "onnxruntime" in builds and len(builds) > 1:
        names = " ".join(builds)
        return (
            f"{' and '.join(builds)} are both installed and overwrite each other's files; "
            f"pip uninstall -y {names}, then pip install {builds[-1]}"
        )
    if builds == ["onnxruntime-gpu"]:
        return "onnxruntime-gpu is installed but finds no CUDA; the CUDA and cuDNN that it was built for are needed"
    return "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"


def _builds() -> list[str]:
    """Lists the installed packages that provide onnxruntime; there should be one."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        found.append(name)
    return found


def is_in_training_mode(model: onnx.ModelProto) -> bool:
    """Tells whether a graph was exported in training mode: it then normalises by the statistics of each batch.

    onnxruntime even keeps what it gathers, so that the same image has another embedding the next time.
    """
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    return any(
        len([name for name in node.output if name]) > 1
        or any(entry.name == "training_mode" and entry.i for entry in node.attribute)
        for node in norms
    )
