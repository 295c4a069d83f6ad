"""Holds the direction of imports: folders from the bottom up, no circles, verbs imported by the command alone."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A folder may import folders of its own row and of those above it in this list.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("facekd.errors", "facekd.utils"),
    ("facekd.files",),
    ("facekd.commands",),
    ("facekd.pages",),
    (
        "facekd.labels",
        "facekd.margins",
        "facekd.distributed",
        "facekd.images",
        "facekd.verification",
    ),
    ("facekd.results",),
    ("facekd.backbones", "facekd.head", "facekd.quality", "facekd.distillation", "facekd.data"),
    ("facekd.plugins",),
    ("facekd.checkpoints",),
    ("facekd.embedder",),
    ("facekd.teacher", "facekd.export", "facekd.faces"),
    ("facekd.training",),
    ("facekd.experiments", "facekd.importing"),
    ("evaluation", "data_prep"),
    ("facekd.api",),
    ("facekd.cli",),
    ("facekd.__main__",),
)
LAYER_OF = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}
PACKAGES = ("facekd", "evaluation", "data_prep")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def syntax_tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of the project that a module imports, at its top or inside a function; not those for type checkers."""
    tree = syntax_tree(module)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in MODULES else node.module)
    return frozenset(found & MODULES.keys()) - {module}


def layer_of(module: str) -> int:
    if module == "facekd":  # the version alone
        return 0
    folders = [folder for folder in LAYER_OF if module == folder or module.startswith(f"{folder}.")]
    assert folders, f"{module} belongs to no folder that LAYERS knows"
    return LAYER_OF[folders[0]]


def is_verb(module: str) -> bool:
    """Whether a file has a `main` that takes the command line: it is a script, not a library."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in syntax_tree(module).body)


def test_a_file_imports_only_its_own_layer_and_those_below() -> None:
    upward = [(module, name) for module in MODULES for name in imports_of(module) if layer_of(name) > layer_of(module)]
    assert not upward, f"these reach up: {upward}"


def test_only_the_command_imports_a_file_that_has_a_main() -> None:
    # The calls of `facekd.api` are commands for Python.
    libraries = [
        module
        for module in MODULES
        if module not in ("facekd.cli", "facekd.__main__") and not module.startswith("facekd.api.")
    ]
    verbs = [(module, name) for module in libraries for name in imports_of(module) if is_verb(name)]
    assert not verbs, f"these import a verb: {verbs}; move what they need into a file without `main`"


def test_evaluation_and_data_prep_do_not_name_each_other() -> None:
    other = {"evaluation": "data_prep", "data_prep": "evaluation"}
    packages = {module: module.partition(".")[0] for module in MODULES}
    named = [
        (module, name)
        for module, package in packages.items()
        for name in imports_of(module)
        if packages[name] == other.get(package)
    ]
    assert not named, f"these import each other: {named}"


def test_no_files_import_each_other_in_a_circle() -> None:
    left = {module: set(imports_of(module)) for module in MODULES}
    # What imports nothing that is left cannot be part of a circle.
    while free := {module for module, names in left.items() if not names & left.keys()}:
        left = {module: names for module, names in left.items() if module not in free}
    # Nor can what nothing that is left imports.
    while unused := left.keys() - set().union(*left.values()):
        left = {module: names for module, names in left.items() if module not in unused}
    assert not left, f"these import each other in a circle, or lie between circles: {sorted(left)}"


def test_only_distributed_names_collectives() -> None:
    naming = [
        module
        for module in MODULES
        for node in ast.walk(syntax_tree(module))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
        if name == "torch.distributed"
    ]
    assert set(naming) <= {"facekd.distributed"}
