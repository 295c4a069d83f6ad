"""Says what must hold after a fault, and after the same command has run again."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.attempts import Ended
from tests.faults.commands import Command
from tests.faults.contents import UNREADABLE, differences

# Results that grow or are replaced while a command is at work; each version of them is whole. Of kept embeddings of
# IJB a file beside them says which rows are there.
LOG = "log.jsonl"
GROWING = ("*.jsonl", "steps.json", "best.pt", "config.yaml", "embeddings/*-plain.npy", "embeddings/*-mirrored.npy")


def found_after_fault(
    command: Command, found: dict[str, str], expected: dict[str, str], old: dict[str, str]
) -> list[str]:
    """Returns what is half, and shown as whole: a mark of complete results beside others, a half file under its name.

    Args:
        command: the command that was broken.
        found, expected: contents of its folder now, and when it was not disturbed.
        old: contents before it began, which were the results of another command.
    """
    lines = []
    for name, content in found.items():
        path = Path(name)
        is_hidden = any(part.startswith(".") for part in path.parts)
        if path.parts[0] in ("tmp", "cache") or is_hidden or content == "not compared":
            continue
        grows = any(map(path.match, GROWING))
        is_known = content in (expected.get(name, content), old.get(name))
        if content.startswith(UNREADABLE) or (not is_known and not grows):
            lines.append(f"half under its name: {name} ({content})")
    marks = [mark for mark in command.done if _below(mark) in found]
    wrong = _missing_from(found, expected)
    # Where there were results before, the mark may be theirs.
    if old and not _missing_from(found, old):
        wrong = []
    return lines + [f"shown as done: {mark} is there, but {line}" for mark in marks for line in wrong[:3]]


def _missing_from(found: dict[str, str], whole: dict[str, str]) -> list[str]:
    """Returns what is missing from whole results, or differs; more files may be there."""
    return [
        line
        for line in differences(found, whole)
        if not line.endswith("should not be there") and not line.startswith(("tmp/", "cache/"))
    ]


def found_after_rerun(
    ended: Ended, before: dict[str, str], found: dict[str, str], expected: dict[str, str]
) -> list[str]:
    """Returns how the second run differs from an undisturbed one.

    Args:
        ended: how it ended. It may refuse to replace results that the first run had completed before it was killed.
        before, found, expected: contents of the folder before it, after it, and when nothing was disturbed.
    """
    lines = [f"process left: {stray}" for stray in ended.strays]
    is_complete = not differences(before, expected) and re.search("--(force|overwrite)", ended.output)
    if ended.status != 0 and not is_complete:
        return [*lines, f"the same command again: status {ended.status}: {last_lines(ended.output)}"]
    return lines + [f"after the same command again: {line}" for line in differences(found, expected)]


def is_said_loss(ended: Ended, hit: str, difference: str) -> bool:
    """Tells whether lines of a log could not be written, and the command said so and went on, as it promises."""
    return LOG in hit and LOG in difference and LOG in ended.output


def found_in_message(ended: Ended, names: list[str]) -> list[str]:
    """Returns what is wrong with how a command ended that could not read or write a file.

    Args:
        ended: how it ended; with status 0 it must have got along, which the contents show.
        names: names of files of which the message should give one.
    """
    if ended.status == 0:
        return []
    # torch's launcher ends with a status and a traceback of its own, behind what the processes say.
    launcher = ended.output.find("ChildFailedError")
    own = ended.output if launcher < 0 else ended.output[: ended.output.rfind("Traceback", 0, launcher)]
    expected = 2 if launcher < 0 else 1
    lines = []
    if ended.status != expected:
        lines.append(f"status {ended.status} instead of {expected}: {last_lines(own)}")
    if "Traceback" in own:
        lines.append(f"a traceback: {last_lines(own)}")
    said = [line for line in own.splitlines() if re.search(r"\berror: ", line)]
    if not said:
        lines.append(f"no sentence: {last_lines(own)}")
    elif not any(name in " ".join(said) for name in names):
        lines.append(f"names none of {', '.join(sorted(set(names))[:3])}: {said[-1][:200]}")
    return lines


def last_lines(output: str) -> str:
    """Returns the end of what a command printed, in one line."""
    return " / ".join(output.strip().splitlines()[-3:])[-300:]


def _below(mark: str) -> str:
    return mark.removeprefix("../") if mark.startswith("../") else f"out/{mark}"
