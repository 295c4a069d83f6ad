"""Opens ONNX files in onnxruntime, and says in plain words why one cannot be opened."""

from __future__ import annotations

import contextlib
import io
import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from facekd.commands.command_line import GPU_NAME
from facekd.embedder.onnx_models.file import OnnxFile
from facekd.errors import ModelError
from facekd.files.unchanged import state_of
from facekd.utils.foreign import shown
from facekd.utils.processes.children import usable_cores

if TYPE_CHECKING:
    import onnx

CUDA = "CUDAExecutionProvider"
LONGEST_MESSAGE, LONGEST_SHOWN = 3000, 600  # characters of onnxruntime's messages that are looked at, and shown
LEAST_IN_A_CALL = 8  # images: a thread embeds as many a second by 8 at once as by 32
WORTH_A_SESSION = 256  # images: for fewer, opening another session takes as long as it saves
CALLS_OF_A_THREAD = 4  # of one block of images: where a thread is held up, the others take its calls


class Sessions:
    """Holds the sessions of one ONNX file: one for a call that stands alone, one for calls that run side by side.

    A call that stands alone is computed by all threads, which wait for each other at every layer, and turn in circles
    meanwhile. Calls side by side have a thread each and wait for nobody: more images a second, and many more where
    another program has one of the cores (docs/benchmarks.md). The second session is opened when many images have come.

    Args:
        file: the file, as `read_onnx_file` has checked it.
        threads: threads for the model; None means one per core.
        device: `"cpu"`, or `"cuda"` or `"cuda:N"`, on which no calls run side by side.
        content: the model to open instead, see `open_session`.

    Attributes:
        alone: the session for a call that stands alone.
        most_calls: calls that may run side by side.

    Raises:
        ModelError: see `open_session`.
    """

    def __init__(
        self, file: OnnxFile, threads: int | None = None, device: str = "cpu", content: bytes | None = None
    ) -> None:
        self._file, self._content = file, content
        self._states = [state_of(path) for path in file.files]
        self.alone: Any = open_session(file, threads, device, content)
        self.most_calls: int = 1 if device != "cpu" else usable_cores() if threads is None else threads
        self._of_one_thread: Any = None
        self._num_images = 0

    def is_worth_it(self, count: int) -> bool:
        """Tells whether `count` images more should be embedded by calls side by side, and counts them."""
        self._num_images += count
        return self.most_calls > 1 and (self._of_one_thread is not None or self._num_images >= WORTH_A_SESSION)

    def images_per_call(self, count: int, most: int) -> int:
        """Returns how many of `count` images a call should take, at most `most`: all, if calls cannot run at once."""
        if self.most_calls == 1:
            return max(1, min(most, count))
        each, several = -(-count // self.most_calls), -(-count // (self.most_calls * CALLS_OF_A_THREAD))
        return max(1, min(most, max(several, min(each, LEAST_IN_A_CALL))))

    def side_by_side(self) -> Any:
        """Returns the session for calls that run at once, and opens it first if need be."""
        if self._of_one_thread is None:
            is_same = [state_of(path) for path in self._file.files] == self._states
            # If the file was written anew, the network that is open goes on.
            self._of_one_thread = open_session(self._file, 1, content=self._content) if is_same else self.alone
        return self._of_one_thread


def open_session(file: OnnxFile, threads: int | None = None, device: str = "cpu", content: bytes | None = None) -> Any:
    """Opens an ONNX file as an onnxruntime `InferenceSession`.

    Args:
        file: the file, as `read_onnx_file` has checked it.
        threads: threads of onnxruntime; None means one per core.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.
        content: the model to open instead, the same network in another form; the file only names it.

    Raises:
        ModelError: the device is not there, or the file cannot be opened; the message says why.
    """
    import onnxruntime

    # Each process that trains has a GPU of its own, which torch names cuda:N.
    gpu = re.fullmatch(GPU_NAME, device)
    if device != "cpu" and gpu is None:
        raise ModelError(f"device is {device!r}; expected cpu, cuda or cuda:N for an ONNX file")
    if gpu is not None:
        _load_cuda_libraries()
        if CUDA not in onnxruntime.get_available_providers():
            raise ModelError(f"device is {device!r} but this onnxruntime has no CUDA: {_cuda_remedy()}")
    on_gpu = [] if gpu is None else [(CUDA, {"device_id": gpu[1] or "0"})]
    providers = [*on_gpu, "CPUExecutionProvider"]
    if threads is not None and threads < 1:
        raise ModelError(f"threads is {threads}: expected at least 1")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # warnings about a file do not help its user, and errors are raised and told by us
    options.intra_op_num_threads = _threads_to_use() if threads is None else threads
    options.add_session_config_entry("session.load_model_format", "ONNX")  # and not its own, whatever the name
    try:
        model = str(file.path) if content is None else content
        session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise ModelError(f"{file.path}: onnxruntime cannot open it: {_reason(file, str(error))}") from error
    # Where a library of CUDA cannot be loaded, onnxruntime takes the CPU, and says so in its log alone.
    if gpu is not None and CUDA not in session.get_providers():
        raise ModelError(f"device is {device!r} but onnxruntime would run {file.path} on the CPU: {_cuda_remedy()}")
    return session


def _load_cuda_libraries() -> None:
    """Loads the libraries of CUDA and cuDNN that pip has installed, if any; onnxruntime by itself does not find them.

    Importing torch does the same, which commands that only run an ONNX file do without.
    """
    import onnxruntime

    if load := getattr(onnxruntime, "preload_dlls", None):  # from onnxruntime 1.21 on
        with contextlib.redirect_stdout(io.StringIO()):  # it prints which it has not found; the session tells
            load(msvc=False)


def _threads_to_use() -> int:
    """Returns how many threads onnxruntime should have; 0 leaves it to onnxruntime, one per core of the machine.

    Its own choice overlooks that `taskset` or a scheduler has given this process fewer cores. More threads than those
    turn in circles while they wait for each other: two on one core took twice the processor's time.
    """
    cores = usable_cores()
    return 0 if cores == os.cpu_count() else cores


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


def _reason(file: OnnxFile, message: str) -> str:
    """Returns why onnxruntime refuses a file, and what to do."""
    import onnxruntime

    # A message may quote megabytes of the file, on which the patterns below would take for ever.
    message = message.replace(f"Load model from {file.path} ", "").replace("failed:", "")[:LONGEST_MESSAGE]
    model = file.model

    # A newer exporter writes what this onnxruntime does not know.
    here = f"onnxruntime {onnxruntime.__version__}"
    remedy = f"update it (pip install -U {' '.join(_builds()) or 'onnxruntime'})"
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if "opset" in message.lower() and "under development" in message:
        listed = shown(", ".join(f"{domain} {number}" for domain, number in opsets.items()))
        return f"its opset ({listed}) is newer than {here} knows; {remedy}, or export with a lower opset_version"
    if "Unsupported model IR version" in message:
        return f"its IR version {model.ir_version} is newer than {here} knows; {remedy}, or export with an older onnx"
    unknown = re.search(r"No Op registered for (\S+)|error: (\S+?)\(.*is not a registered function", message)
    if unknown:
        name = shown(unknown[1] or unknown[2])
        return (
            f"{here} has no operator {name} (the file's opset is {opsets.get('ai.onnx', 'not stated')}); "
            "export with operators of ONNX itself, or update onnxruntime if the operator is a newer one"
        )
    return brief(message)


def brief(message: str) -> str:
    """Returns onnxruntime's message on one line, without the places in its own source code, as `shown` shows it."""
    ours = (
        r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.(?:cc|h):\d+ |/onnxruntime_src\S+ |\bonnxruntime::[\w:]+\([^()]*\) "
    )
    message = re.sub(ours, "", message[:LONGEST_MESSAGE])
    return shown(" ".join(message.split()), LONGEST_SHOWN)


def _cuda_remedy() -> str:
    builds = _builds()
    if "onnxruntime" in builds and len(builds) > 1:
        names = " ".join(builds)
        return (
            f"{' and '.join(builds)} are both installed and overwrite each other's files; "
            f"pip uninstall -y {names}, then pip install {builds[-1]}"
        )
    if builds == ["onnxruntime-gpu"]:
        return (
            "onnxruntime-gpu is installed but finds no CUDA; the CUDA and cuDNN that it was built for are needed: pip "
            "install 'onnxruntime-gpu[cuda,cudnn]'"
        )
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
