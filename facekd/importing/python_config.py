"""Reads a configuration that is a Python file of assignments, without running it.

arcface_torch's are: `config = edict()`, then `config.lr = 0.1` and so on. The file is parsed, and only what has a value
by itself is understood: literals, arithmetic on numbers, keys that were set before, and `if` on equal values.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facekd.errors import ConfigError
from facekd.files.reading import read_text_file
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import counted

MAX_BYTES = 1 << 16
LARGEST_NUMBER, LARGEST_WRITTEN = 1e15, 2**64  # what is computed, and what is written: a seed may be large
OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
CONTAINERS = ("edict", "EasyDict", "dict")
MODULES = ("easydict", "ml_collections")


def read_python_config(path: Path, name: str = "config") -> dict[str, Any]:
    """Returns the values that a Python file gives to the attributes of one name, in plain types.

    Args:
        path: the file.
        name: the name, as in `config.lr = 0.1`.

    Raises:
        ConfigError: it is no Python, too large, sets nothing, or has code in it; the message names the line. Or its
            expressions are nested too deeply, or its numbers too large.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(
            f"{path}: has {counted(path.stat().st_size, 'byte')}, and a configuration at most {MAX_BYTES:,}"
        )
    text = read_text_file(path, error=ConfigError)
    with reading(path, "a Python file", ConfigError, "give the configuration of a training, such as ms1mv3_r50.py"):
        tree = ast.parse(text)
    reader = _Reader(path, name)
    with reading(path, "a configuration", ConfigError, "write its values plainly"):  # expressions may be nested deeply
        reader.run(tree.body)
    if not reader.values:
        raise ConfigError(f"{path}: sets no value, as `{name}.lr = 0.1` would")
    return reader.values


class _Reader:
    """Goes through the statements of a file and keeps the values that they set."""

    def __init__(self, path: Path, name: str) -> None:
        self.values: dict[str, Any] = {}
        self._path, self._name = path, name

    def run(self, body: list[ast.stmt]) -> None:
        """Takes the assignments of a block, and of the branch of an `if` that holds."""
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
                continue
            if isinstance(node, ast.If):
                self.run(node.body if self._holds(node.test) else node.orelse)
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._assign(node.targets[0], node.value)
            else:
                raise self._refused(node)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Attribute) and self._is_config(target.value):
            self.values[target.attr] = self._value(value)
        elif isinstance(target, ast.Subscript) and self._is_config(target.value):
            key = self._value(target.slice)
            if not isinstance(key, str):
                raise self._refused(target)
            self.values[key] = self._value(value)
        elif self._is_config(target):
            self.values = self._mapping(value)
        else:
            raise self._refused(target)

    def _mapping(self, node: ast.expr) -> dict[str, Any]:
        """Returns the values of `edict()`, `dict(lr=0.1)`, `edict({"lr": 0.1})` or `{"lr": 0.1}`."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CONTAINERS:
            found = self._mapping(node.args[0]) if len(node.args) == 1 else {}
            if len(node.args) > 1 or any(keyword.arg is None for keyword in node.keywords):
                raise self._refused(node)
            return found | {str(keyword.arg): self._value(keyword.value) for keyword in node.keywords}
        value = self._value(node)
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self._refused(node)
        return value

    def _value(self, node: ast.expr) -> Any:
        """Returns the value of an expression that has one by itself."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
            if isinstance(node.value, int | float) and abs(node.value) > LARGEST_WRITTEN:
                raise ConfigError(f"{self._place(node)}: has a number beyond 2^64, which is none of a configuration")
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return [self._value(item) for item in node.elts]
        if isinstance(node, ast.Dict) and None not in node.keys:
            keys = [self._value(key) for key in node.keys if key is not None]
            if all(isinstance(key, str | int | float | bool | None) for key in keys):
                return dict(zip(keys, map(self._value, node.values), strict=True))
        if isinstance(node, ast.Attribute) and self._is_config(node.value) and node.attr in self.values:
            return self.values[node.attr]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return self._computed(node)
        raise self._refused(node)

    def _computed(self, node: ast.BinOp) -> Any:
        left, right = self._number(node.left), self._number(node.right)
        try:
            found = OPERATIONS[type(node.op)](left, right)
        except (ArithmeticError, ValueError) as error:
            raise ConfigError(f"{self._place(node)}: cannot be computed: {error}") from error
        if not abs(found) <= LARGEST_NUMBER:
            raise ConfigError(f"{self._place(node)}: gives {shown(found)}, which is no number of a configuration")
        return found

    def _number(self, node: ast.expr) -> Any:
        value = self._value(node)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._refused(node)
        return value

    def _holds(self, test: ast.expr) -> bool:
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.NotEq):
            is_equal = self._value(test.left) == self._value(test.comparators[0])
            return is_equal == isinstance(test.ops[0], ast.Eq)
        raise self._refused(test)

    def _is_config(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id == self._name

    def _place(self, node: ast.AST) -> str:
        return f"{self._path}: line {getattr(node, 'lineno', 0)}"

    def _refused(self, node: ast.AST) -> ConfigError:
        try:
            code = shown(ast.unparse(node), 60)
        except (RecursionError, ValueError):
            code = type(node).__name__
        return ConfigError(
            f"{self._place(node)}: `{code}` is code, which is not run: only `{self._name}.KEY = VALUE` is understood, "
            "with plain values, arithmetic on numbers and keys set before; write the value there"
        )
