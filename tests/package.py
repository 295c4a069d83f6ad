"""Builds what would be published, and uses it as a stranger would: `python -m tests.package [--python PYTHON]`.

The source archive is built, the wheel from it; their files are compared with the repository. The wheel is installed
into an environment of its own, `.venv-versions/package`, without the optional packages. There, in a folder without the
repository that holds packages of others with the names of ours, every verb explains itself, the quickstart runs at its
smallest size, an example config trains by its name and printed into a file, a model of the run is evaluated on the
generated pack, and the three plug-ins of `examples/` are trained with. In another environment, which has no torch, the
model is evaluated again. The status is 1 if anything of that is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from facekd.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-versions" / "package"
PACKAGES = ("facekd", "evaluation", "data_prep")
SHORT = "configs/debug.yaml --images 64 --schedule.warmup_images 0"


def main() -> int:
    """Builds, compares, installs and uses; returns 1 if something is wrong, after saying what."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment (default: this one)")
    parser.add_argument("--uv", default=str(Path(sys.executable).parent / "uv"), help="default: beside this Python")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([arguments.uv, "build", "-q", "--out-dir", str(folder / "dist"), str(ROOT)], check=True)
        wheel, archive = next(folder.glob("dist/*.whl")), next(folder.glob("dist/*.tar.gz"))
        problems = [*compare(wheel, archive), *check_description(arguments.uv, wheel, archive)]
        problems = problems or list(use(install(arguments.uv, arguments.python, wheel), folder / "elsewhere"))
        problems += use_without_torch(arguments.uv, arguments.python, wheel, folder / "elsewhere")
    print("\n".join(problems) or "all ok")
    return 1 if problems else 0


def compare(wheel: Path, archive: Path) -> Iterator[str]:
    """Yields what is missing from the two files or does not belong there."""
    belongs = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for pattern in ("*.py", "*.j2", "*.json", "py.typed")
        for path in (ROOT / package).rglob(pattern)
    }
    belongs |= {f"facekd/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")}
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
        licences = [name for name in opened.namelist() if name.endswith("/licenses/LICENSE")]
    with tarfile.open(archive) as opened:
        members = {member.name.partition("/")[2] for member in opened if member.isfile()}
    yield from (f"{wheel.name} lacks {name}" for name in sorted(belongs - names))
    yield from (f"{wheel.name} has {name}, which does not belong there" for name in sorted(names - belongs))
    yield from () if licences else (f"{wheel.name} lacks the licence",)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = {name for name in tracked.splitlines() if not name.startswith(".") and not (ROOT / name).is_symlink()}
    yield from (f"{archive.name} lacks {name}" for name in sorted((belongs | kept) - members))
    print(f"{wheel.name}: {len(names)} files, {archive.name}: {len(members)} files", flush=True)


def check_description(uv: str, wheel: Path, archive: Path) -> Iterator[str]:
    """Yields what an index of packages would say against the description, and links that would lead nowhere there."""
    with zipfile.ZipFile(wheel) as opened:
        about = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        text = opened.read(about).decode()
    yield from (
        f"{wheel.name}: its description links to {link}" for link in re.findall(r"\]\((?!https?://)(.*?)\)", text)
    )
    done = subprocess.run(
        [uv, "tool", "run", "-q", "twine", "check", "--strict", str(wheel), str(archive)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        yield done.stdout + done.stderr


def install(uv: str, python: str, wheel: Path) -> Path:
    """Installs the wheel and what it requires into a new environment; returns the folder of its commands."""
    commands = new_environment(uv, python, ENVIRONMENT)
    subprocess.run([uv, "pip", "install", "-q", "-p", str(commands / "python"), str(wheel)], check=True)
    return commands


def new_environment(uv: str, python: str, folder: Path) -> Path:
    """Makes an empty environment; returns the folder of its commands."""
    subprocess.run([uv, "venv", "-q", "--clear", "-p", python, str(folder)], check=True)
    return folder / "bin"


def use_without_torch(uv: str, python: str, wheel: Path, folder: Path) -> Iterator[str]:
    """Installs as docs/versions.md says for no torch, and evaluates the model of the quickstart; yields what fails."""
    commands = new_environment(uv, python, ENVIRONMENT.with_name("package-without-torch"))
    into = [uv, "pip", "install", "-q", "-p", str(commands / "python")]
    subprocess.run([*into, "--no-deps", str(wheel)], check=True)
    words = [str(commands / "facekd"), "doctor", "--without-torch"]
    needed = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    subprocess.run([*into, *needed], check=True)
    options = "--model quick/part/model.onnx --pairs quick/data/test.bin --output without-torch"
    yield from run_lines(commands, folder, [f"evaluate lfw {options}", "data inspect quick/data"])
    # What needs it says so in a sentence, and leaves nothing.
    refusal = "".join(run_lines(commands, folder, [f"train {SHORT} --output no"]))
    is_sentence = re.search(r"ended with status 2:\n(.*\n)*error: .*torch", refusal) and "Traceback" not in refusal
    if not is_sentence or (folder / "no").exists():
        yield f"facekd train does not refuse to run without torch in a sentence: {refusal or 'it ran'}"


def use(commands: Path, folder: Path) -> Iterator[str]:
    """Runs commands in a folder that has the examples alone; yields those that fail, and their output."""
    folder.mkdir()
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('a package of another with this name')\n")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    lines = [
        "--version",
        *(f"{verb} --help" for verb in VERBS),
        "quickstart --size tiny --output quick",
        f"train {SHORT} --output run",
        "configs",
        "configs configs/debug.yaml",
        "train mine.yaml --images 64 --schedule.warmup_images 0 --output mine",
        "evaluate lfw --model quick/part/model.onnx --pairs quick/data/test.bin --output results",
        "report results quick/th_kd/verification --output compared",
        f"train {SHORT} --plugin examples/plain_backbone.py --backbone.name plain --output plain",
        "export plain --plugin examples/plain_backbone.py --output plain.onnx",
        f"train {SHORT} --plugin examples/mv_softmax_margin.py --head.margin mv_softmax --output margin",
        f"distill {SHORT} --plugin examples/pkt_loss.py --loss.plugin.pkt 1000 --teacher.model run --output loss",
    ]
    yield from run_lines(commands, folder, lines)


def run_lines(commands: Path, folder: Path, lines: list[str]) -> Iterator[str]:
    """Runs facekd commands in a folder; yields those that fail, and their output."""
    # One thread: torch's own wait for each other busily, on a machine with other load for ever.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    environment.pop("PYTHONPATH", None)
    for line in lines:
        start = time.monotonic()
        done = subprocess.run(
            [str(commands / "facekd"), *line.split()],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"facekd {line}: status {done.returncode}, {time.monotonic() - start:.1f} s", flush=True)
        if line == "configs configs/debug.yaml":
            (folder / "mine.yaml").write_text(done.stdout)
        if done.returncode:
            yield f"facekd {line} ended with status {done.returncode}:\n{done.stdout}{done.stderr}"


if __name__ == "__main__":
    raise SystemExit(main())
