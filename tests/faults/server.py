"""Starts facekd commands by forking a process that has imported everything, which takes seconds in each new process.

`python -m tests.faults.server` reads a request in JSON a line, forks, and answers with the process's number, then with
its exit status. It has imported modules, all verbs among them, and has run nothing. A forked command parses its words,
runs and exits as one that was typed does; processes that it starts are fresh ones. onnxruntime is not imported, because
it starts a thread, and threads do not survive a fork. At its end a forked command calls what was registered for it, but
does not take the interpreter down, which would copy the memory of all modules.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import sys
import threading
from importlib import import_module, reload
from pathlib import Path
from typing import Any

MODULES = (
    "torch onnx onnxscript scipy.stats sklearn.metrics matplotlib.figure torch.utils.tensorboard filelock jsonargparse "
    "torch.export torch.onnx torch.distributed.checkpoint safetensors.torch cv2 simplejpeg"
)


def main() -> int:
    """Serves requests until the end of the input; in a forked process, runs the command."""
    from facekd.cli import VERBS
    from facekd.cli import main as facekd

    for module in (*(module for module, _ in VERBS.values()), *MODULES.split()):
        with contextlib.suppress(ImportError):
            import_module(module)
    gc.freeze()
    print(len(list(Path("/proc/self/task").iterdir())), flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        number = os.fork()
        if number == 0:
            _become(request)
            sys.argv = ["facekd", *request["words"]]
            _end(_run(facekd, request["words"]))
        print(number, flush=True)
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


def _run(facekd: Any, words: list[str]) -> int:
    """Runs the command and returns its exit status, as the interpreter would."""
    try:
        return facekd(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


def _end(status: int) -> None:
    """Ends this process after waiting for its threads."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _become(request: dict[str, Any]) -> None:
    """Gives this process its own session, folder, environment and output, and configures the shim anew."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    reload(sys.modules["facekd"])  # sets variables for the libraries
    with Path(os.devnull).open("rb") as nothing, Path(request["log"]).open("ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    ctypes.CDLL(None).faults_configure()


if __name__ == "__main__":
    raise SystemExit(main())
