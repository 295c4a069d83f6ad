"""Says what a folder of results holds, so that two runs of one command can be compared.

Files are compared byte by byte, except for the times of day, durations and speeds in them, and weights, of which the
tensors and values are compared: torch writes the name of a temporary file into its archives, and safetensors orders its
header at random.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

UNREADABLE = "unreadable"  # begins the fingerprint of a file that is not what its name says
# What a run measures about itself.
MEASURED = ("images_per_second", "data_wait", "seconds_left", "seconds", "number", "cost")
# TensorBoard's events carry times, in their names too; Python tries out a folder for temporary files by a small one.
# A lock is held by a process: that it is free again, the second run shows. The empty folder around one is removed by
# the next command that writes beside it, and a command that finds everything done writes nothing.
LEFT_OUT = ("events.out.tfevents.*", "tmp/????????", "*.lock", "*.tmp/lock")
# Logs of steps say how often a step was started; caches hold times at which files changed.
UNCOMPARED = ("*.log", "*-stamps.npy", "*.facekd-protocol")
DURATION = re.compile(
    rb"\b[\d,]+ images/s(, [\d.]+)?|\b\d+(\.\d+)? (s|ms|min|h)\b|\b\d+ min \d+ s\b"
    rb"|\b(read|embed|pool|score|measure|intervals|calibrate|identify|search|protocols)( \| |</td><td[^>]*>)[\d.e-]+"
)


def contents_of(folder: Path) -> dict[str, str]:
    """Returns for each file below `folder` its name relative to it, and a fingerprint of what has to agree."""
    return {
        str(path.relative_to(folder)): fingerprint(path, folder)
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and not any(map(path.match, LEFT_OUT))
    }


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Says in which files two folders differ, in a line each; nothing if they agree."""
    lines = [f"{name}: is missing" for name in expected if name not in found]
    lines += [f"{name}: should not be there" for name in found if name not in expected]
    return lines + [f"{name}: differs" for name in expected if found.get(name, expected[name]) != expected[name]]


def fingerprint(path: Path, folder: Path) -> str:
    """Returns a fingerprint of a file's content, without what differs between two runs that agree.

    Args:
        path: the file.
        folder: the attempt's folder, whose absolute path may be written in the file.
    """
    if any(map(path.match, UNCOMPARED)) or path.is_relative_to(folder / "cache"):
        return "not compared"
    try:
        return hashlib.sha256(_comparable(path, str(folder).encode())).hexdigest()[:16]
    except Exception as error:  # a file that no longer is what its name says
        return f"{UNREADABLE}: {type(error).__name__}: {error}"


def _comparable(path: Path, folder: bytes) -> bytes:
    if path.suffix == ".pt":
        import torch

        values = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(values, dict) and "head_shards" in values:  # checksums of whole files
            values["head_shards"] = {**values["head_shards"], "checksums": sorted(values["head_shards"]["checksums"])}
        return _described(values).encode()
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return _described(dict(sorted(load_file(path).items()))).encode()
    if path.suffix == ".jsonl":
        values = [json.loads(line.replace(folder, b"")) for line in path.read_bytes().splitlines()]
        return "\n".join(json.dumps(_without_measured(value)) for value in values).encode()
    if path.name == "steps.json":  # steps that run at once end, and are numbered, in any order
        steps = json.loads(path.read_bytes().replace(folder, b""))["steps"]
        # What they made has times in it, and so not always one size.
        named = {name: {**step, "after": sorted(step["after"]), "made": ""} for name, step in steps.items()}
        return json.dumps(_without_measured(named), sort_keys=True).encode()
    if path.suffix == ".json":
        return json.dumps(_without_measured(json.loads(path.read_bytes().replace(folder, b"")))).encode()
    if path.suffix in (".html", ".md"):
        return DURATION.sub(b"(a duration)", path.read_bytes().replace(folder, b""))
    return path.read_bytes()


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_measured(item) for key, item in value.items() if key not in MEASURED}
    return [_without_measured(item) for item in value] if isinstance(value, list) else value


def _described(value: Any) -> str:
    """Describes plain values and tensors; two descriptions are equal if the values are, to the bit."""
    if hasattr(value, "detach"):
        import torch

        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(content).hexdigest()}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_described(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_described, value)) + "]"
    return repr(value)
