"""Checks that names of methods mean nothing to LaTeX."""

from __future__ import annotations

import pytest

from facekd.experiments.studies import tables
from facekd.pages.tables import Table


def test_names_are_no_commands_of_latex(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["[9cm]x", r"\input{/etc/passwd}", "50 % & more_#1", "a\nb"]
    monkeypatch.setattr(tables, "pack_table", lambda *_: Table("", ["method"], [[name] for name in names]))
    pack = {"name": "p\n\\input{x}", "num_images": 1, "num_classes": 1, "split": "test", "data": "d"}
    lines = tables.to_latex({"packs": [pack]}).splitlines()
    assert lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")] == [
        r"{[}9cm]x \\",
        r"\textbackslash{}input\{/etc/passwd\} \\",
        r"50 \% \& more\_\#1 \\",
        r"a\textbackslash{}nb \\",
    ]
    assert not [line for line in lines if line.startswith(r"\input")]
