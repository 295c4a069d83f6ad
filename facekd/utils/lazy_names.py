"""Lets a package hand on names without importing the files that define them until one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package whose names are imported at their first use.

    torch takes seconds to import, and a config section that lies beside networks does not need it: with this,
    `facekd train --help` imports the section without the networks.

    Args:
        package: the package's `__name__`.
        module_of: name handed on -> the module that defines it.
    """

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module_of[name]), name)

    return get
