"""Runs the commands and the Python of README and docs, page by page, in a folder with files of the names they use."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.blocks import COMMANDS, Block, all_blocks, facekd_calls, read_blocks
from tests.docs.world import make_world, run

# What the Python of the pages takes as given.
GIVEN = """\
import numpy as np
images = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
genuine_scores, impostor_scores = np.linspace(0.1, 0.9, 5000), np.linspace(-0.3, 0.3, 5000)
"""
RUNNABLE = (*COMMANDS, "python")
BLOCKS = [block for block in all_blocks() if block.language in RUNNABLE]
PAGES = sorted({block.page for block in BLOCKS if block.reason is None})


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "world"
    make_world(folder)
    return folder


def script_of(block: Block) -> str:
    """Returns what a shell runs for a block: the folder `/data` of the pages is `data` here."""
    if block.language == "python":
        return f"python -c {shlex.quote(GIVEN + block.text)}"
    return "\n".join(block.commands).replace("/data/", "data/")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs(page: str, world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    shutil.copytree(world, folder, symlinks=True)
    for block in read_blocks(page):
        if block.reason is None and block.language in RUNNABLE:
            try:
                run(script_of(block), folder)
            except AssertionError as error:
                pytest.fail(f"{block}: {error}")


def test_how_many_are_run() -> None:
    of_recipes = [block for block in BLOCKS if block.page == "docs/recipes.md"]
    counts = Counter(block.reason is None for block in BLOCKS if block not in of_recipes)
    calls = Counter(block.reason is None for block in BLOCKS for line in block.commands for _ in facekd_calls(line))
    print(f"blocks run {counts[True]}, not run {counts[False]}, recipes {len(of_recipes)}; calls of facekd {calls}")
    # Who marks a block as not run, where it could be, lowers these.
    assert counts[True] >= 42 and counts[False] <= 34, counts
    assert calls[True] >= 55, calls
