"""Parses the options of a verb: argparse with one-line errors that suggest what was meant."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from facekd.commands.completion import answer
from facekd.commands.suggestions import did_you_mean
from facekd.utils.terminal import printable

GPU_NAME = "cuda(?::(0|[1-9][0-9]?))?"  # a regular expression; torch takes no leading zero, and 128 for -128


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns a `type` for an option that takes a whole number from `least` to `most`, both included."""
    expected = f"a whole number from {least:,}" + (f" to {most:,}" if most is not None else "")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise _unexpected(text, expected) from None
        if value < least or (most is not None and value > most):
            raise _unexpected(text, expected)
        return value

    return parse


def real_number(least: float, most: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """Returns a `type` for an option that takes a finite number from `least` to `most`; with `above`, not `least`."""
    expected = f"a number {'above' if above else 'from'} {least:g}"
    if most < math.inf:
        expected += f"{', at most' if above else ' to'} {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _unexpected(text, expected) from None
        if not (least < value if above else least <= value) or not value <= most or math.isinf(value):
            raise _unexpected(text, expected)
        return value

    return parse


def comma_separated(parse: Callable[[str], float], example: str) -> Callable[[str], tuple[float, ...]]:
    """Returns a `type` for an option that takes numbers with commas between, each checked by `parse`."""

    def parse_all(text: str) -> tuple[float, ...]:
        try:
            return tuple(parse(part) for part in text.split(","))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}; several with commas between, such as {example}") from None

    return parse_all


def device_name(text: str) -> str:
    """Parses where a model runs: cpu, cuda, or cuda:N for one GPU of several."""
    if not re.fullmatch(f"cpu|{GPU_NAME}", text):
        raise _unexpected(text, "cpu, cuda or cuda:N")
    return text


def _expand_home(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (os.path.expanduser(value) if value.startswith("~") else value)  # noqa: PTH111


def _unexpected(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")


# The numbers that many verbs take. No option has plain `int` or `float` as its type: a test walks through all of them.
SEED = whole_number(0, 2**64 - 1)
THREADS = whole_number(1, 4096)
PROCESSES = whole_number(0, 4096)  # 0: the verb works alone
IMAGE_SIDE = whole_number(1, 8192)  # pixels
JPEG_QUALITY = whole_number(1, 100)
COUNT = whole_number(1, 10**9)
COSINE = real_number(-1, 1)
FAR_LIST = comma_separated(real_number(0, 1, above=True), "0.1,0.01")


def command_text(verb: str, argv: Sequence[str] | None) -> str:
    """Returns a command as a user types it, to write it down beside what it made.

    Args:
        verb: the words of the verb, such as "evaluate lfw".
        argv: the words behind them; None takes those of this process.
    """
    return shlex.join(["facekd", *verb.split(), *(sys.argv[1:] if argv is None else argv)])


class CommandParser(argparse.ArgumentParser):
    """Parses the command line of a verb; every verb uses it.

    Description and example are printed as they are written. An error is one line, with exit status 2, and says what a
    mistyped option or choice was most likely meant to be.

    Args:
        prog: the command as the user types it, such as "facekd data pack".
        description: what it does.
        example: at least one command to try, and what it writes; printed below the options.
    """

    def __init__(self, prog: str, description: str, example: str, **options: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=example, formatter_class=formatter, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parses as argparse does, after looking for options that do not exist."""
        return super().parse_args(self._checked(args), namespace)

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parses as argparse does, after looking for options that do not exist."""
        words = self._checked(args)
        if {"-h", "--help"} & {*words}:  # argparse would leave what needs no option out of the usage
            return super().parse_args(words, namespace)
        return super().parse_intermixed_args(words, namespace)

    def format_help(self) -> str:
        """Formats the help under a usage of one or two lines: what must be given, and `[options]`."""
        groups = [group for group in self._mutually_exclusive_groups if group.required]
        grouped = [action for group in groups for action in group._group_actions]
        needed = [
            action for action in self._actions if action.required or action in grouped or not action.option_strings
        ]
        formatter = self._get_formatter()
        formatter.add_usage(None, needed, groups, prefix="")
        self.usage: str | None = f"{formatter.format_help().strip()} [options]".replace("%", "%%")
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Prints one line, without the usage, and exits with status 2."""
        self.exit(2, f"error: {printable(message, kept='')} (`{self.prog} --help` lists the options)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse keeps quiet where help cannot be printed, such as on a full disk, and ends with status 0.
        if message:
            (file or sys.stderr).write(message)

    def _checked(self, args: Sequence[str] | None) -> list[str]:
        """Refuses an option that does not exist, because argparse would first complain of what else is missing.

        Also expands `~` at the beginning of a word or value, which a shell leaves in `--output=~/x` and in quotes.
        """
        answer(self)
        words = [_expand_home(word) for word in (sys.argv[1:] if args is None else args)]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words[: words.index("--")] if "--" in words else words:
            option = word.partition("=")[0]
            # The beginning of an option may be accepted; argparse itself refuses one that fits several.
            is_known = any(name.startswith(option) for name in known) if self.allow_abbrev else option in known
            if option.startswith("--") and not is_known:
                self.error(f"{option} is not an option{self._meant(option, known)}")
        return words

    def _meant(self, option: str, known: Collection[str]) -> str:
        """Returns what was meant by an option that does not exist, to go behind that statement."""
        places = {action.dest: action.metavar or action.dest for action in self._actions if not action.option_strings}
        place = places.get(option[2:].replace("-", "_"))
        return f": {place} is given without a name" if place else did_you_mean(option, known)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            meant = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{meant} (choose from {', '.join(choices)})")
