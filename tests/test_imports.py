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
    "facekd.digit_words": 0,
    "facekd.files": 0,
    "facekd.progress": 0,
    "facekd.preprocessing": 0,
    "facekd.margins": 0,
    "facekd.verification": 0,
    "facekd.alignment": 0,
    "facekd.optim": 0,
    "facekd.data.record": 0,
    "facekd.data.recordio": 0,
    "facekd.backbones": 1,
    "facekd.class_centres": 0,
    "facekd.chunked": 1,
    "facekd.class_shards": 1,
    "facekd.classifier": 1,
    "facekd.data": 1,
    "facekd.distillation": 1,
    "facekd.distributed": 1,
    "facekd.config": 2,
    "facekd.sampled_centres": 1,
    "facekd.head_shards": 2,
    "facekd.sharing": 2,
    "facekd.checkpoint": 2,
    "facekd.classifying_model": 2,
    "facekd.logbook": 2,
    "facekd.embedder": 2,
    "facekd.onnx_embedder": 2,
    "facekd.teacher_cache": 2,
    "facekd.model_options": 2,
    "facekd.training_data": 2,
    "facekd.training_state": 3,
    "facekd.run_control": 3,
    "facekd.validation": 3,
    "facekd.train": 3,
    "facekd.distill": 3,
    "facekd.distiller": 3,
    "facekd.cache_teacher": 3,
    "facekd.rebuild_head": 3,
    "facekd.export": 3,
    "facekd.import": 3,
    "facekd.html_page": 0,
    "facekd.lifeline": 0,
    "facekd.steps": 0,
    "facekd.study": 3,
    "facekd.pipeline": 3,
    "facekd.yaml_sections": 2,
    "facekd.quickstart": 3,
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
