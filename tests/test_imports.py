"""The direction of dependencies (pure maths at the bottom, the command at the top), held by walking the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up; a module may import its own layer and those below. The longest matching prefix counts.
LAYERS = {
    "facekd": 0,
    "facekd.errors": 0,
    "facekd.utils.decimal_digits": 0,
    "facekd.utils.files": 0,
    "facekd.utils.progress": 0,
    "facekd.images.preprocessing": 0,
    "facekd.margins": 0,
    "facekd.verification": 0,
    "facekd.images.alignment": 0,
    "facekd.training.optim": 0,
    "facekd.data.record": 0,
    "facekd.data.recordio": 0,
    "facekd.backbones": 1,
    "facekd.head.robust_centres": 0,
    "facekd.chunked": 1,
    "facekd.head.class_shards": 1,
    "facekd.head.classifier": 1,
    "facekd.data": 1,
    "facekd.distillation": 1,
    "facekd.distributed": 1,
    "facekd.training.config": 2,
    "facekd.head.partial_fc": 1,
    "facekd.checkpoints.head_shards": 2,
    "facekd.checkpoints.shared_head": 2,
    "facekd.checkpoints.checkpoint": 2,
    "facekd.embedder.classifying_model": 2,
    "facekd.training.logbook": 2,
    "facekd.embedder": 2,
    "facekd.embedder.onnx_embedder": 2,
    "facekd.teacher.cache": 2,
    "facekd.embedder.model_options": 2,
    "facekd.training_data": 2,
    "facekd.training.state": 3,
    "facekd.run_control": 3,
    "facekd.training.validation": 3,
    "facekd.training.train": 3,
    "facekd.training.distill": 3,
    "facekd.training.distiller": 3,
    "facekd.teacher.cache_teacher": 3,
    "facekd.teacher.rebuild_head": 3,
    "facekd.export": 3,
    "facekd.import": 3,
    "facekd.utils.html": 0,
    "facekd.utils.processes": 0,
    "facekd.experiments.command_runner": 0,
    "facekd.experiments.study": 3,
    "facekd.experiments.sh_kd": 3,
    "facekd.utils.config_files": 2,
    "facekd.experiments.quickstart": 3,
    "evaluation": 4,
    "data_prep": 4,
    "facekd.cli": 5,
    "facekd.__main__": 6,
}
FILES = sorted(path for package in ("facekd", "evaluation", "data_prep") for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> int:
    prefixes = [prefix for prefix in LAYERS if module == prefix or module.startswith((f"{prefix}.", f"{prefix}_"))]
    assert prefixes, f"{module} belongs to no layer: add it to LAYERS"
    return LAYERS[max(prefixes, key=len)]


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = node.module in ("facekd", "facekd.data", "facekd.data.recordio", "evaluation", "data_prep")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if is_package else {node.module}
    return {name for name in found if name.split(".")[0] in ("facekd", "evaluation", "data_prep")}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    module = module_name(path)
    upward = [name for name in imported_modules(path) if layer_of(name) > layer_of(module)]
    assert not upward, f"{module} reaches up to {upward}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_distributed_names_collectives(path: Path) -> None:
    if module_name(path) != "facekd.distributed":
        assert "torch.distributed" not in {
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
