"""Writes the list in docs/recipes.md from the headers of the configurations: `python -m tests.docs.recipes_page`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "recipes.md"
MARK = "<!-- From here on written by `python -m tests.docs.recipes_page`. -->\n"
FOLDERS = {
    ".": "To try",
    "train": "Training",
    "distill": "Distillation",
    "classification": "Image classification",
    "study": "Comparisons",
}
RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))


def read_header(path: Path) -> dict[str, list[str]]:
    """Returns the lines of each part of a header, such as "Source", without what begins every line."""
    parts: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if begins := re.match(r"# ([A-Z][a-z]+) +(.*)", line):
            parts[begins[1]] = [begins[2]]
        elif line.startswith("#  ") and parts:
            [*parts.values()][-1].append(line.lstrip("# "))
        elif not line.startswith("#"):
            break
    return parts


def script(lines: list[str]) -> Iterator[str]:
    """Yields the lines of a header's part "Command" as a shell takes them: what is no command becomes a comment."""
    continues = False
    for line in lines:
        labelled = re.fullmatch(r"(?:(.*\S) *: )?((?:facekd|python) .*?)(?: {2,}\((.*)\))?", line)
        if continues:
            yield f"    {line}"
        elif labelled:
            if comment := labelled[1] or labelled[3]:
                yield f"# {comment}"
            yield labelled[2]
        else:
            yield f"# {line}"
        continues = line.endswith("\\") and (continues or labelled is not None)


def list_recipes() -> str:
    """Returns the part of the page that the headers give."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for folder, title in FOLDERS.items():
        paths = [path for path in RECIPES if path.parent.relative_to(ROOT / "configs") == Path(folder)]
        headers = {path.relative_to(ROOT).as_posix(): read_header(path) for path in paths}
        yield f"## {title}\n"
        yield "| recipe | source | hardware |\n|---|---|---|"
        for name, parts in headers.items():
            anchor = re.sub(r"[^\w-]", "", name)
            yield f"| [`{name}`](#{anchor}) | {_text(parts['Source'])} | {_text(parts['Hardware'])} |"
        yield ""
        for name, parts in headers.items():
            yield f"### `{name}`\n"
            yield f"Expected: {_text(parts['Expect'])}\n"
            if "Ours" in parts:
                yield f"Ours: {_text(parts['Ours'])}\n"
            if folder != ".":
                yield "<!-- not run: needs the data and the hardware of the recipe -->\n"
            yield "\n".join(["```bash", *script(parts["Command"]), "```", ""])


def _text(lines: list[str]) -> str:
    """Returns a header's part as one line of a table's cell."""
    return " ".join(lines).replace("|", "\\|")


def whole_page() -> str:
    """Returns the page with its list written anew."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + list_recipes()


if __name__ == "__main__":
    PAGE.write_text(whole_page(), encoding="utf-8")
