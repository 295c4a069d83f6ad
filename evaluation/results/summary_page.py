"""Writes the page of an evaluation on several verification packs: the row of a paper's table, and the ROC of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.provenance import describe_assumptions
from evaluation.results.page import name_of, pictures_beside
from evaluation.results.terminal import accuracy_table
from facekd.commands.command_line import command_text
from facekd.pages.html import write_page


def write_summary_page(folder: Path, results: Sequence[dict[str, Any]]) -> Path:
    """Writes `report.html` into the output folder of an evaluation on several packs.

    Args:
        folder: the output folder, with the pictures in it.
        results: of each pack, checked by `check_result`.

    Returns:
        The file written.
    """
    path = folder / "report.html"
    first = results[0]
    packs = [one["pair_set"]["name"] for one in results]
    write_page(
        path,
        "packs",
        title=f"{name_of(first)} on {', '.join(packs)}",
        assumptions=[text] if (text := describe_assumptions(first.get("model"))) else [],
        accuracy=accuracy_table(results, name_of(first)),
        protocols=[f"{one['pair_set']['name']}: {one['protocol']['text']}." for one in results],
        pictures=pictures_beside(folder),
        command=first.get("command") or "",
        next=[
            f"One pack in detail is in its own folder, such as `{folder / packs[0] / 'report.html'}`",
            "Compared with another model that was evaluated alike, in its folder OTHER: "
            f"`{command_text('report', [str(folder), 'OTHER', '--output', 'COMPARISON'])}`",
        ],
    )
    return path
