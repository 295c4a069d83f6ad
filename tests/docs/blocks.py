"""Reads the code blocks of README and docs, and finds the commands in them.

A block that no test runs says why, in a comment before it: `<!-- not run: needs MS1MV3 -->`. Python to be run is
marked `python`, signatures `py`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
COMMANDS = ("bash", "console")
BEGINS_COMMANDS = re.compile(r"(facekd|python|make|pip) ")
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
# README has no such comments. Its blocks that are not run, by how they begin:
NOT_RUN = {
    "make quickstart": "takes minutes; tests/facekd/experiments runs the same at its tiny size",
    "make test": "runs this test",
    "facekd data inspect /data/ms1mv3": "needs MS1MV3 and 8 GPUs",
    "facekd distill configs/distill/ms1mv3_th_kd.yaml": "needs MS1MV3 and a teacher",
}
# Scripts that the docs name by their path, and their verbs.
SCRIPTS = {"evaluation/evaluate_lfw.py": ["evaluate", "lfw"], "evaluation/evaluate_ijbc.py": ["evaluate", "ijbc"]}


@dataclass(frozen=True)
class Block:
    """Describes one fenced block.

    Attributes:
        page: its file, relative to the root of the repository.
        line: number of the line of its first fence, from 1.
        language: what stands behind the fence.
        text: what is between the fences.
        reason: why no test runs it; None for a block that is run.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Returns the command lines as a shell takes them, continued lines joined; of a console those typed."""
        if self.language not in COMMANDS:
            return []
        lines: list[str] = []
        continues = False
        for line in self.text.splitlines():
            is_typed = self.language == "bash" or line.startswith("$ ")
            if continues:
                lines[-1] += line.strip()
            elif is_typed and line.strip() and not line.lstrip("$ ").startswith("#"):
                lines.append(line.removeprefix("$ ").strip())
            else:
                continue
            continues = lines[-1].endswith("\\")
            lines[-1] = lines[-1].removesuffix("\\")
        return lines


def read_blocks(page: str) -> Iterator[Block]:
    """Yields the blocks of a page; one without a language is a shell's if it begins like a command."""
    content = (ROOT / page).read_text(encoding="utf-8")
    for match in FENCE.finditer(content):
        line = content.count("\n", 0, match.start("language")) + 1
        language = match["language"] or ("bash" if BEGINS_COMMANDS.match(match["text"]) else "text")
        reason = match["reason"] or (_reason_in_readme(match["text"]) if page == "README.md" else None)
        yield Block(page, line, language, match["text"], reason)


def _reason_in_readme(text: str) -> str | None:
    return next((reason for begins, reason in NOT_RUN.items() if text.startswith(begins)), None)


def all_blocks() -> list[Block]:
    """Returns the blocks of all pages that users read."""
    docs = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
    return [block for page in (*PAGES, *docs) for block in read_blocks(page)]


def facekd_calls(command: str) -> list[list[str]]:
    """Returns the words behind each `facekd` of a command line, also where Python or its launcher starts it."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    calls: list[list[str]] = []
    current: list[str] | None = None
    for place, word in enumerate(words):
        before = words[place - 1] if place else "|"
        if re.fullmatch(r"[|&;<>]+", word):
            current = None
        elif word == "facekd" and (before == "-m" or _begins(words[:place])):
            current = []
            calls.append(current)
        elif word in SCRIPTS and before == "python":
            current = [*SCRIPTS[word]]
            calls.append(current)
        elif current is not None:
            current.append(word)
    return calls


def _begins(words: list[str]) -> bool:
    """Returns whether the next word begins a command: only assignments of variables may stand before it."""
    own = words[max((place + 1 for place, word in enumerate(words) if re.fullmatch(r"[|&;]+", word)), default=0) :]
    return all(re.fullmatch(r"\w+=.*", word) for word in own)
