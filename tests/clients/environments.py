"""Makes the environments of clients below `.venv-clients/`, by uv and npm, and keeps them for the next time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.clients.routes import Route
from tests.versions import find_pythons, version_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, FOLDER = ROOT / "examples" / "clients", ROOT / ".venv-clients"


class CannotMake(Exception):
    """Says why an environment cannot be made."""


class IsMissing(CannotMake):
    """Says which program or file of the machine is needed and not there, which is no fault of the client."""


def make_environment(route: Route, uv: str) -> tuple[Path, str]:
    """Makes the environment of a route or brings it up to date; returns its folder, and the version of the package."""
    if route.kind in ("node", "browser"):
        return _with_npm(route)
    # One environment for each set of requirements, named by its package.
    words = [*route.requirements, *route.alone, route.python]
    folder = FOLDER / f"{route.package}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:6]}"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        _run([uv, "venv", "-q", "--clear", "-p", _interpreter(route.python), str(folder)])
    _run([uv, "pip", "install", "-q", "--upgrade", "-p", python, *route.requirements])
    if route.alone:
        _run([uv, "pip", "install", "-q", "--upgrade", "--no-deps", "-p", python, *route.alone])
        _without_torch(folder)
    if route.kind == "cpp":
        build_cpp(EXAMPLES / route.file, folder, folder / "cpp" / "embed")
    shown = f"import importlib.metadata as m; print(m.version({route.package!r}))"
    return folder, _run([python, "-c", shown]).strip()


def _interpreter(release: str) -> str:
    if not release:
        return sys.executable
    found = [python for python in find_pythons() if version_of(python).startswith(f"{release}.")]
    if not found:
        raise IsMissing(f"Python {release} was not found")
    return found[0]


def _without_torch(folder: Path) -> None:
    """Puts the program pnnx itself into the environment: the command of its package imports torch, some gigabytes."""
    program = next(folder.glob("lib/python*/site-packages/pnnx/pnnx"))
    command = folder / "bin" / "pnnx"
    command.unlink(missing_ok=True)
    command.symlink_to(program)


def _with_npm(route: Route) -> tuple[Path, str]:
    folder = FOLDER / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if not (shutil.which("npm") and shutil.which("node")):
        raise IsMissing("node and npm were not found")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    latest = [f"{name}@latest" for name in route.requirements]
    _run(["npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", *latest], cwd=folder)
    package = folder / "node_modules" / route.package / "package.json"
    return folder, json.loads(package.read_text(encoding="utf-8"))["version"]


def build_cpp(source: Path, folder: Path, target: Path) -> None:
    """Compiles a program against the library of onnxruntime's wheel, with headers from elsewhere, which it lacks."""
    include = next((place for place in _include_folders() if (place / "onnxruntime_cxx_api.h").exists()), None)
    if include is None:
        raise IsMissing(
            "onnxruntime's headers were not found: they are in Debian's package libonnxruntime-dev and in each of "
            "onnxruntime's release archives; name their folder by ONNXRUNTIME_INCLUDE"
        )
    compiler = shutil.which(sysconfig.get_config_var("CXX") or "c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise IsMissing("no C++ compiler was found")
    # The wheel has the library under its full name alone; programs look for the name of its interface.
    library = next(folder.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.1.*"))
    target.parent.mkdir(parents=True, exist_ok=True)
    link = target.parent / "libonnxruntime.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to(library)
    where = str(target.parent)
    words = ["-std=c++17", "-O2", f"-I{include}", str(source), "-o", str(target), f"-L{where}"]
    _run([compiler, *words, f"-l:{link.name}", f"-Wl,-rpath,{where}"])


def _include_folders() -> list[Path]:
    given = os.environ.get("ONNXRUNTIME_INCLUDE")
    return [Path(given)] if given else [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]


def _run(words: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotMake(f"{words[0]}: {error}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise CannotMake(f"{' '.join(words[:3])} failed: {' '.join(lines[-3:])[:300]}")
    return done.stdout
