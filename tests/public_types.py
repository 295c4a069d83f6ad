"""Measures how many of facekd's names have a type that every type checker reads alike: `python -m tests.public_types`.

facekd ships `py.typed`, so the type checkers of its users read its own annotations. `pyright --verifytypes` counts the
names that a user can import, and their attributes, whose type is written down. It reads a copy of the packages in a
folder of their own, as after an installation: it does not follow an editable one. The status is 1 below `--least` per
cent; the names without a type are listed then, or with `--all`.

The layers of the networks in `facekd/backbones` (`self.conv1 = nn.Conv2d(...)`) are most of the rest: to write
`nn.Conv2d` twice in each of those lines would help nobody.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("facekd", "evaluation", "data_prep")
LEAST = 95.0


def main() -> int:
    """Measures and reports; returns 1 if too few names have a type."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--least", type=float, default=LEAST, help="per cent below which it fails (default: %(default)g)"
    )
    parser.add_argument("--all", action="store_true", help="list the names without a type even if they are few")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = verify(Path(scratch))
        counts = found["exportedSymbolCounts"]
        known, number = counts["withKnownType"], sum(counts.values())
        is_enough = 100 * known >= arguments.least * number
        if arguments.all or not is_enough:
            print("\n".join(sorted(untyped(found, scratch))))
    print(
        f"{known:,} of {number:,} public names have a known type, {100 * known / number:.1f} %: "
        f"{'enough' if is_enough else 'too few'}, at least {arguments.least:g} % are wanted"
    )
    return 0 if is_enough else 1


def verify(folder: Path) -> dict[str, Any]:
    """Copies the packages into an empty folder and returns what pyright says of facekd there."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    # pyright asks the first Python of PATH where packages are: the copy, then torch and all whose types ours use.
    commands = Path(sys.executable).parent
    done = subprocess.run(
        [str(commands / "pyright"), "--verifytypes", "facekd", "--ignoreexternal", "--outputjson"],
        cwd=folder,
        env={**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    # Its status is 1 as soon as a single name has no type.
    found = json.loads(done.stdout).get("typeCompleteness") if done.stdout.startswith("{") else None
    if found is None or Path(found.get("packageRootDirectory", "")).resolve() != (folder / "facekd").resolve():
        raise SystemExit(f"pyright did not read the copy in {folder}:\n{done.stdout[:2000]}{done.stderr}")
    return found


def untyped(found: dict[str, Any], folder: str) -> Iterator[str]:
    """Yields `FILE:LINE NAME: what is wrong` for each name whose type is not known, without those that only follow."""
    for symbol in found["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            for problem in symbol["diagnostics"]:
                if problem["severity"] == "error" and "range" in problem:
                    place = problem["file"].removeprefix(folder).lstrip(os.sep)
                    text = " ".join(problem["message"].split())
                    yield f"{place}:{problem['range']['start']['line'] + 1} {symbol['name']}: {text}"


if __name__ == "__main__":
    raise SystemExit(main())
