"""Says what this machine and this installation have for facekd, and what is missing for which commands."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from facekd import __version__
from facekd.commands.command_line import CommandParser
from facekd.errors import run_verb
from facekd.utils.gpu_driver import has_gpu_driver
from facekd.utils.processes.children import usable_cores
from facekd.utils.requirements import PACKAGES, installed_version, is_within, wanted_versions
from facekd.utils.wording import counted

EXAMPLE = """examples:
  facekd doctor
  facekd doctor --json > doctor.json
  pip install $(facekd doctor --without-torch)      # all that data and the evaluation of ONNX models need

It changes nothing, and its status is 0 whatever it finds."""
# Loading workers hand batches over in shared memory, and keep the files of a data set open.
LEAST_SHARED_MEMORY = 256 << 20
LEAST_OPEN_FILES = 1024
LEAST_DISK = 1 << 30


def main(argv: list[str] | None = None) -> int:
    """Prints what was found, as lines or as JSON."""
    parser = CommandParser("facekd doctor", __doc__ or "", EXAMPLE)
    parser.add_argument("--json", action="store_true", help="print it as JSON, sizes in bytes")
    parser.add_argument(
        "--without-torch",
        action="store_true",
        help="print instead, for pip, the packages of the commands that work without torch: the data commands and the "
        "evaluation of ONNX models",
    )
    arguments = parser.parse_args(argv)
    if arguments.without_torch:
        wanted = wanted_versions()
        names = [name for name, package in PACKAGES.items() if not (package.extra or package.needs_torch)]
        print(" ".join(name + wanted[name].replace(" ", "") for name in names))
        return 0
    found = examine()
    print(json.dumps(found, indent=2) if arguments.json else _as_lines(found))
    return 0


def examine() -> dict[str, Any]:
    """Returns what this machine and this installation have. Sizes are in bytes; null stands for unknown."""
    found = {
        "facekd": {"version": __version__, "folder": str(Path(__file__).parent.parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "cores": usable_cores(),
        "memory": _memory(),
        "shared_memory": _free(Path("/dev/shm")),
        "open_files": _open_files(),
        "disk": _working_directory(),
        "devices": _devices(),
        "packages": _packages(),
    }
    return {**found, "problems": _problems(found)}


def _packages() -> dict[str, dict[str, Any]]:
    """Returns for each package its version, the one that is wanted, and the state that follows."""
    wanted = wanted_versions()
    packages = {}
    for name, package in PACKAGES.items():
        version = installed_version(name)
        state = "ok" if version and is_within(version, wanted[name]) else "unfit" if version else "missing"
        row = {"version": version, "wanted": wanted[name], "state": state, "needed_for": package.needed_for}
        packages[name] = {**row, "extra": package.extra}
    return packages


def _devices() -> dict[str, Any]:
    """Returns the accelerators that torch sees. It is imported only where the system has the files of a driver."""
    if not has_gpu_driver():
        return {"driver": False, "names": [], "problem": ""}
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [torch.cuda.get_device_properties(number) for number in range(count)]
        problem = (
            "" if gpus else f"torch {torch.__version__} sees no GPU: another build of torch or driver may be needed"
        )
        return {"driver": True, "names": [f"{gpu.name}, {_size(gpu.total_memory)}" for gpu in gpus], "problem": problem}
    except Exception as error:  # a library of another version, a driver that fails: whatever torch meets
        return {"driver": True, "names": [], "problem": f"torch does not work: {type(error).__name__}: {error}"}


def _memory() -> dict[str, int | None]:
    """Returns the memory that this process may have, less than the machine's in a container, and what is free."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
        total, free = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return {"total": None, "free": None}
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return {"total": total, "free": min(free, total)}


def _free(folder: Path) -> dict[str, int | None]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return {"total": None, "free": None}
    return {"total": usage.total, "free": usage.free}


def _working_directory() -> dict[str, Any]:
    try:
        return {"folder": str(Path.cwd()), **_free(Path.cwd())}
    except FileNotFoundError:  # it is deleted
        return {"folder": "a deleted folder", "total": None, "free": None}


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _problems(found: dict[str, Any]) -> list[str]:
    """Returns a sentence for each thing that stops some commands, or slows them, with what to do."""
    problems = []
    for name, row in found["packages"].items():
        need = f"{name}{row['wanted']}"
        if row["state"] == "unfit":
            problems.append(f"{name} {row['version']} is not what facekd wants: pip install '{need}'")
        elif row["state"] == "missing" and not row["extra"]:
            problems.append(f"{name} is missing, for {row['needed_for']}: pip install '{need}'")
    if found["devices"]["problem"]:
        problems.append(found["devices"]["problem"])
    if (shared := found["shared_memory"]["free"]) is not None and shared < LEAST_SHARED_MEMORY:
        problems.append(
            f"/dev/shm has {_size(shared)} left: processes that load images need more (docker run --shm-size 2g), or "
            "train with --data.workers 0"
        )
    if (files := found["open_files"]) is not None and files < LEAST_OPEN_FILES:
        problems.append(
            f"only {counted(files, 'file')} may be open at once: `ulimit -n 4096` before facekd allows more"
        )
    if (free := found["disk"]["free"]) is not None and free < LEAST_DISK:
        problems.append(f"{found['disk']['folder']} has {_size(free)} left on its disk")
    if os.name == "nt":
        problems.append("facekd is made for Linux and macOS; use WSL on Windows")
    return problems


def _as_lines(found: dict[str, Any]) -> str:
    devices, memory = found["devices"], found["memory"]
    none = "none seen" if devices["driver"] else "no GPU driver: everything runs on the CPU"
    rows = {
        "facekd": f"{found['facekd']['version']}, {found['facekd']['folder']}",
        "Python": f"{found['python']['version']}, {found['python']['executable']}",
        "platform": found["platform"],
        "CPU": f"{counted(found['cores'], 'core')}, {_size(memory['free'])} of {_size(memory['total'])} memory free",
        "GPUs": "; ".join(devices["names"]) or none,
        "/dev/shm": f"{_size(found['shared_memory']['free'])} free",
        "open files": str(found["open_files"] or "no limit"),
        "disk": f"{_size(found['disk']['free'])} free at {found['disk']['folder']}",
    }
    lines = [f"{name:<10}  {text}" for name, text in rows.items()]
    # The packages, and what does not work without those that are missing.
    width = max(map(len, PACKAGES))
    for name, row in found["packages"].items():
        state = "" if row["state"] == "ok" else f"wanted: {row['wanted']}" if row["version"] else "missing, for "
        what = row["needed_for"] if not row["version"] else ""
        remedy = f" (pip install 'facekd[{row['extra']}]')" if what and row["extra"] else ""
        lines.append(f"  {name:<{width}}  {row['version'] or '-':<12}  {state}{what}{remedy}".rstrip())
    problems = [f"- {problem}" for problem in found["problems"]]
    return "\n".join([*lines, "", *(problems or ["Nothing that facekd requires is missing."])])


def _size(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
