"""Tests the tests: changes facekd a little, in one place at a time, and lists the changes that no test notices.

`python -m tests.mutation.run [NAME ...]`, each name one of `SUBJECTS` or a file of theirs. mutmut makes the changes
("mutants") and runs, for each, those tests of the subject that reach the changed function; a mutant is killed if a
test fails or takes far too long. This file chooses which mutants are tried, and compares the survivors with
`survivors.yaml`, which gives a reason for each one that is left. Any other survivor ends with status 1.

Not tried: changes of an error's text alone, and code outside functions. Verdicts are kept in `build/mutants/`, so that
an interrupted run goes on; only survivors and changed functions are tried again. Delete that folder to begin anew.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import yaml
from mutmut.configuration import reset_config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name, orig_function_and_class_names_from_key

from tests.mutation.subjects import SUBJECTS

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
SURVIVORS = Path(__file__).with_name("survivors.yaml")
MAX_MEMORY = 8 << 30  # bytes; a mutant may ask for any amount
KILLED = ("killed", "timeout", "segfault")
MUTMUT_CONFIG = """
[tool.mutmut]
source_paths = ["facekd", "evaluation", "data_prep"]
only_mutate = {modules}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["--hypothesis-seed=0"]
process_isolation = "forkserver"  # autograd's threads do not survive a fork: the server runs no test
use_git_change_detection = false
timeout_multiplier = 8.0
timeout_constant = 2.0
"""


class Mutant(NamedTuple):
    """A change, as mutmut names it now (`name`), and as a person does (`change`), which other edits do not renumber."""

    name: str
    change: str
    status: str  # the verdict of an earlier run, "not checked" if there is none


def main() -> int:
    """Tries the mutants of all subjects, or of those named; returns 1 if one survives that no reason is given for."""
    parser = argparse.ArgumentParser(description="Changes the code a little, which the tests must notice.")
    parser.add_argument("names", nargs="*", help=f"files, or subjects: {', '.join(SUBJECTS)} (default: all)")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each file; 0 tries all (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="mutants at once (default: one a CPU)")
    arguments = parser.parse_args()

    # Subjects by files: a name may be either.
    chosen: dict[str, list[str]] = {}
    for subject, (patterns, _) in SUBJECTS.items():
        if gone := [pattern for pattern in patterns if not any(ROOT.glob(pattern))]:
            parser.error(f"{subject}: no file is called {', '.join(gone)}: correct tests/mutation/subjects.py")
        files = sorted(str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern))
        chosen[subject] = [f for f in files if not arguments.names or {subject, f} & set(arguments.names)]
    if unknown := set(arguments.names) - set(SUBJECTS) - {file for files in chosen.values() for file in files}:
        parser.error(f"no subject and no file of one: {', '.join(sorted(unknown))}")

    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    explained = yaml.safe_load(SURVIVORS.read_text(encoding="utf-8"))
    good = True
    for subject, files in chosen.items():
        if files:
            _copy_tree(subject)
            good &= _try_subject(subject, files, explained, arguments)
    return 0 if good else 1


def _try_subject(
    subject: str, files: list[str], explained: dict[str, list[dict]], arguments: argparse.Namespace
) -> bool:
    """Tries the sampled mutants of some files; prints a row for each and all that is new; returns whether none is."""
    os.chdir(WORK / subject)
    reset_config()
    reasons = {file: {change for row in explained.get(file, []) for change in row["changes"]} for file in files}
    everything = {file: mutants for file in files if (mutants := _mutants(file))}
    if not everything:
        print(f"{subject}: has no mutants, so nothing is tested")
        return False
    sample = {file: _sample(mutants, arguments.sample, arguments.seed) for file, mutants in everything.items()}

    # mutmut tries what it is given by name, even if it has a verdict: those that have one are left out here.
    names = [
        mutant.name
        for file in sample
        for mutant in sample[file]
        if mutant.status not in KILLED and not (mutant.status == "survived" and mutant.change in reasons[file])
    ]
    print(f"{subject}: {len(names)} mutants to try", flush=True)
    if names:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORK / subject / "mutants")}
        command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(arguments.processes)]
        subprocess.run([*command, *names], env=environment, check=True)
        sample = {file: _sample(_mutants(file), arguments.sample, arguments.seed) for file in sample}

    # The verdicts, against the list of reasons.
    new: dict[str, dict[str, list[str]]] = {file: {} for file in sample}
    old: dict[str, list[str]] = {}
    print(f"\n{'file':<46}{'mutants':>8}{'tried':>7}{'killed':>8}{'explained':>11}{'new':>5}")
    for file in sample:
        survivors = {mutant.change for mutant in sample[file] if mutant.status not in KILLED}
        killed = {mutant.change for mutant in sample[file]} - survivors
        for mutant in sample[file]:
            if mutant.change in survivors - reasons[file]:
                new[file].setdefault(mutant.status, []).append(mutant.change)
        old[file] = sorted((reasons[file] & killed) | (reasons[file] - {m.change for m in everything[file]}))
        tried, lost = len(sample[file]), sum(mutant.status in KILLED for mutant in sample[file])
        found = sum(len(changes) for changes in new[file].values())
        print(f"{file:<46}{len(everything[file]):>8}{tried:>7}{lost:>8}{tried - lost - found:>11}{found:>5}")
    for title, rows in (("new survivors", new), ("killed or gone, to be struck from survivors.yaml", old)):
        if some := {file: changes for file, changes in rows.items() if changes}:
            print(f"\n{title}:\n{yaml.safe_dump(some, width=100_000, allow_unicode=True)}", flush=True)
    return not any(new.values()) and not any(old.values())


def _copy_tree(subject: str) -> None:
    """Copies changed sources and tests to the work folder of a subject, and writes mutmut's settings."""
    listing = ["git", "ls-files", "-coz", "--exclude-standard", "--", "facekd", "evaluation", "data_prep", "tests"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    modules, tests = SUBJECTS[subject]
    wanted = {name: (ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()}
    for path in (path for pattern in modules for path in ROOT.glob(pattern)):
        wanted[str(path.relative_to(ROOT))] = _undecorated(path.read_text(encoding="utf-8")).encode()
    config = MUTMUT_CONFIG.format(modules=list(modules), tests=list(tests))
    wanted["pyproject.toml"] = (ROOT / "pyproject.toml").read_bytes() + config.encode()

    # What is gone from the repository goes from both copies; mutmut looks at the time of a file to see a change.
    work = WORK / subject
    (work / "mutants").mkdir(parents=True, exist_ok=True)  # it is on the path of a process that only then fills it
    for folder in (work, work / "mutants"):
        for top in ("facekd", "evaluation", "data_prep", "tests"):
            for path in (folder / top).rglob("*.py"):
                if str(path.relative_to(folder)) not in wanted:
                    path.unlink()
    for name, content in wanted.items():
        path = work / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if name.startswith("tests/"):  # changed tests may reach other functions
                (work / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    shutil.rmtree(work / "mutants" / ".hypothesis", ignore_errors=True)


def _undecorated(source: str) -> str:
    """Writes `@decorate def f` as `def f` and `f = decorate(f)`: mutmut leaves decorated functions alone."""
    lines = source.split("\n")
    tree = ast.parse(source)
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [node for scope in scopes for node in scope.body if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: -node.lineno):
        decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
        if not decorators or decorators in (["overload"], ["staticmethod"], ["classmethod"]):
            continue
        call = "".join(f"{decorator}(" for decorator in decorators) + node.name + ")" * len(decorators)
        lines.insert(node.end_lineno or 0, f"{' ' * node.col_offset}{node.name} = {call}")
        del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join(lines)


def _mutants(file: str) -> list[Mutant]:
    """Lists the mutants of a file of the present work folder, but for those that change the text of an error alone."""
    made = mutate_file_contents(file, Path(file).read_text(encoding="utf-8"), None, None)
    lines = made.code.split("\n")
    known = SourceFileMutationData(path=file)
    known.load()
    mutants = []
    for short in made.mutant_names:
        # mutmut writes the original and each mutant as functions of their own, under these names.
        mangled = short.partition("__mutmut_")[0]
        full, (function, owner) = get_mutant_name(Path(file), short), orig_function_and_class_names_from_key(short)
        before, after = (
            "\n".join(lines[span.start - 1 : span.end]).replace(f"def {name}(", f"def {function}(").strip("\n")
            for name in (f"{mangled}__mutmut_orig", short)
            for span in [made.line_span_by_function_name[name]]
        )
        if _without_errors(before) == _without_errors(after):
            continue
        difference = list(difflib.ndiff(before.split("\n"), after.split("\n")))
        was, now = (" ".join(line[2:].strip() for line in difference if line.startswith(sign)) for sign in ("- ", "+ "))
        same = known.hash_by_function_name.get(mangled) == made.hash_by_function_name[mangled]
        status = status_by_exit_code[known.exit_code_by_key.get(full) if same else None]
        mutants.append(Mutant(full, f"{f'{owner}.' * bool(owner)}{function}: {was} => {now}", status))
    return mutants


def _without_errors(function: str) -> str:
    """Writes a function in one form, with every raised exception replaced by its class alone."""
    indent = len(function) - len(function.lstrip())
    tree = ast.parse("if True:\n" + function if indent else function)
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
    return ast.dump(tree)


def _sample(mutants: list[Mutant], number: int, seed: int) -> list[Mutant]:
    """Chooses mutants by a hash of their text, so that a change of one function leaves the choice in others."""
    by_hash = sorted(mutants, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.change}".encode()).digest())
    return by_hash[:number] if number else mutants


if __name__ == "__main__":
    raise SystemExit(main())
