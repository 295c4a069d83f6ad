"""Completes verbs and options when the Tab key is pressed in a shell, by argcomplete.

The shell runs `facekd` without words and passes the line in the environment. The verb of the line is then called as
always, and its parser, instead of parsing, answers. docs/versions.md says how a shell is set up for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable

VARIABLE = "_ARGCOMPLETE"  # set by argcomplete's functions of the shell: how many words of the line are the command
MAX_DIGITS = 10


def is_completing() -> bool:
    """Tells whether a shell asks for completions instead of running the command.

    Variables that are left over, without the line that is typed or with no numbers in them, ask for nothing.
    """
    numbers = (os.environ.get(name, "") for name in (VARIABLE, "COMP_POINT"))
    return "COMP_LINE" in os.environ and all(text.isdecimal() and len(text) < MAX_DIGITS for text in numbers)


def answer(parser: argparse.ArgumentParser) -> None:
    """Answers the shell with what the parser takes, and ends the process; returns if no shell asks."""
    if is_completing():
        import argcomplete  # asked for by its own functions of the shell

        argcomplete.autocomplete(parser)


def complete_by(option: argparse.Action, words: Iterable[str]) -> None:
    """Completes the value of an option by some words, where it also takes others and so has no `choices`."""
    option.completer = lambda **_: words  # type: ignore[attr-defined] - argcomplete looks for this name


def find_verb(verbs: Collection[str]) -> str | None:
    """Returns the verb of the line, whose parser is to answer; without a whole verb, answers with the words that fit.

    Args:
        verbs: all verbs, of one word or two.
    """
    from argcomplete import lexers

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    start = int(os.environ[VARIABLE])
    typed = lexers.split_line(line, point)[3][start:]
    for count in (2, 1):
        name = " ".join(typed[:count])
        if len(typed) >= count and name in verbs:
            os.environ[VARIABLE] = str(start + count)  # the parser sees the words behind the verb
            return name

    # The first word of a verb, or the second of a group.
    before = [f"{word} " for word in typed]
    fitting = {verb.removeprefix("".join(before)).split()[0] for verb in verbs if verb.startswith("".join(before))}
    os.environ[VARIABLE] = str(start + len(typed))
    parser = argparse.ArgumentParser(add_help=not typed)
    parser.add_argument("verb", choices=sorted(fitting))
    if not typed:
        parser.add_argument("--version", action="store_true")
    answer(parser)
    return None
