"""Runs the tests under several Pythons, each with the lowest and the newest versions of the dependencies.

    python -m tests.versions                                     # Python 3.10 to 3.14, as far as they are found
    python -m tests.versions --pythons /opt/py/bin/python3.12 --sets lowest tests/facekd/verification

Environments are made by uv in `.venv-versions/` and kept. `lowest` installs the lowest versions that setup.cfg promises
(for which there is a wheel), `newest` the newest. A table ends the output; the status is 1 if a set of versions could
not be installed or a test failed.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-versions"
RELEASES = ("3.10", "3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = ("torch", "numpy", "opencv-python-headless", "onnxruntime")
NOT_NEEDED = ("ruff", "pyright")  # they examine the sources, whatever runs them


class Outcome(NamedTuple):
    """Holds the row of the table for one environment, and whether its tests passed."""

    python: str
    versions: str
    installed: dict[str, str]
    tests: str
    passed: bool


def main() -> int:
    """Makes the environments, runs the tests in each, prints the table; returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="*", default=[], help="interpreters (default: those found of 3.10 to 3.14)")
    parser.add_argument("--sets", nargs="+", choices=RESOLUTIONS, default=list(RESOLUTIONS), help="default: both")
    parser.add_argument("--uv", default=shutil.which("uv") or str(Path(sys.executable).parent / "uv"))
    parser.add_argument("tests", nargs="*", default=[], help="words for pytest (default: the suite without slow tests)")
    arguments = parser.parse_args()

    # Say which interpreters there are.
    pythons = arguments.pythons or find_pythons()
    versions = {python: version for python in pythons if (version := version_of(python))}
    for python in set(pythons) - set(versions):
        print(f"{python} does not run")
    absent = [release for release in RELEASES if not any(v.startswith(f"{release}.") for v in versions.values())]
    print(
        f"found Python {', '.join(versions.values()) or 'nowhere'}; without {', '.join(absent) or 'none'}", flush=True
    )
    if len(versions) < max(len(pythons), 1):
        return 1

    # Test one environment after the other, and print everything known at the end.
    outcomes = [
        run_tests(arguments.uv, python, version, name, arguments.tests)
        for python, version in versions.items()
        for name in arguments.sets
    ]
    print(f"\n| Python | versions | {' | '.join(SHOWN)} | tests |\n|{'---|' * (3 + len(SHOWN))}")
    for outcome in outcomes:
        shown = " | ".join(outcome.installed.get(package, "") for package in SHOWN)
        print(f"| {outcome.python} | {outcome.versions} | {shown} | {outcome.tests} |")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def find_pythons() -> list[str]:
    """Finds one interpreter of each release, on the path or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for release in RELEASES:
        places = [shutil.which(f"python{release}"), *sorted(map(str, pyenv.glob(f"{release}.*/bin/python{release}")))]
        # A shim of pyenv lies on the path for releases that it does not run.
        running = [place for place in places if place and version_of(place).startswith(f"{release}.")]
        found += running[:1]
    return found


def version_of(python: str) -> str:
    """Returns the version of an interpreter, such as "3.12.1"; empty if it does not run."""
    command = [python, "-c", "import platform; print(platform.python_version())"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def requirements() -> list[str]:
    """Reads from setup.cfg what facekd and its tests need, optional packages included."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    blocks = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and line not in NOT_NEEDED]


def run_tests(uv: str, python: str, version: str, name: str, words: list[str]) -> Outcome:
    """Makes one environment, or brings it up to date, and runs the tests in it."""
    folder = FOLDER / f"{version.rpartition('.')[0]}-{name}"
    print(f"\n{folder.name}: Python {version}, {name} versions", flush=True)
    if not install(uv, python, RESOLUTIONS[name], folder):
        return Outcome(version, name, {}, "could not be installed", False)
    inside = str(folder / "bin" / "python")
    freeze = subprocess.run([uv, "pip", "freeze", "-p", inside], capture_output=True, text=True, check=True)
    installed = dict(line.split("==") for line in freeze.stdout.splitlines() if line.count("==") == 1)

    # Test, and show the output only if something failed; one thread a worker, as in `make test`.
    command = [inside, "-m", "pytest", "--tb=short", *(words or ["-n", "auto", "--dist=worksteal"])]
    start, environment = time.monotonic(), {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    if done.returncode:
        print(done.stdout + done.stderr, flush=True)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)", (done.stdout.strip().splitlines() or [""])[-1])
    tests = f"{', '.join(counts) or f'ended with status {done.returncode}'}, {minutes}m{seconds:02}s"
    print(tests, flush=True)
    passed = done.returncode == 0 and any(count.endswith("passed") for count in counts)  # or all were skipped
    return Outcome(version, name, installed, tests, passed)


def install(uv: str, python: str, resolution: str, folder: Path) -> bool:
    """Installs what facekd needs and facekd itself, editable, into `folder`; tells whether it could be."""
    # Packages are hard links into uv's cache, so that a second torch of the same version takes no space.
    inside = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    if not inside.exists():
        subprocess.run([uv, "venv", "-q", "--clear", "-p", python, str(folder)], check=True)
    command = [uv, "pip", "install", "-q", "-p", str(inside)]
    return all(
        subprocess.run([*command, *words], check=False).returncode == 0
        for words in (
            ["--resolution", resolution, "--upgrade", "--only-binary", ":all:", *requirements()],
            ["--no-deps", "-e", str(ROOT)],
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())
