"""Every option of every verb that takes a number says so in one line when it is given an impossible one."""

from __future__ import annotations

import argparse
from functools import cache

import pytest

from facekd.cli import VERBS, main
from facekd.commands.command_line import CommandParser

# Their options are keys of a config, checked by `tests/facekd/training/test_config.py` and `experiments/test_study.py`.
CONFIG_VERBS = {"train", "distill", "pipeline sh-kd", "study"}
IMPOSSIBLE = ("-1000000000", "-1", "1e30", "9" * 30, "nan", "inf", "x", "", "3,x", "1.5.2")


class ParserFoundError(Exception):
    pass


@cache
def parser_of(verb: str) -> CommandParser:
    """The parser of a verb, caught as it begins to parse."""

    def catch(parser: CommandParser, *_: object) -> None:
        raise ParserFoundError(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ParserFoundError) as caught:
        patch.setattr(CommandParser, "parse_args", catch)
        patch.setattr(CommandParser, "parse_intermixed_args", catch)
        main(verb.split())
    return caught.value.args[0]


def number_options(verb: str) -> list[argparse.Action]:
    """The options that take numbers: all with a type but those of paths, plug-ins and devices."""
    return [action for action in parser_of(verb)._actions if action.type is not None and _is_of_numbers(action)]


def _is_of_numbers(action: argparse.Action) -> bool:
    name = getattr(action.type, "__name__", "")
    return "Path" not in name and name not in ("load_plugin", "device_name")


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - CONFIG_VERBS))
def test_an_impossible_number_is_one_line_with_option_and_range(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for action in number_options(verb):
        assert action.type not in (int, float), f"{action.option_strings} takes any number"
        option = action.option_strings[0]
        for word in IMPOSSIBLE:
            if word == "-1" and action.dest in MAY_BE_NEGATIVE:
                continue
            with pytest.raises(SystemExit) as caught:
                parser_of(verb).parse_args([f"{option}={word}"])
            printed = capsys.readouterr().err
            assert caught.value.code == 2 and printed.startswith(f"error: argument {option}"), printed
            assert "expected a" in printed and repr(word.rpartition(",")[2])[1:-1] in printed, printed
            assert printed.count("\n") == 1


MAY_BE_NEGATIVE = {"allow_cosine", "mean", "std", "threshold", "min_cosine", "merge_cosine", "overlap_cosine"}


def test_the_walk_meets_the_options_it_is_about() -> None:
    met = {(verb, action.dest) for verb in VERBS.keys() - CONFIG_VERBS for action in number_options(verb)}
    assert {
        ("data align", "size"),
        ("data pack", "quality"),
        ("data convert", "shards"),
        ("data inspect", "sample"),
        ("data make-pairs", "folds"),
        ("evaluate lfw", "threads"),
        ("evaluate folder", "ranks"),
        ("cache-teacher", "workers"),
        ("export", "tolerance"),
    } <= met
    assert len(met) > 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data pack a b --workers 0", "--workers: expected a whole number from 1 to 4,096, found '0'"),
        ("data pack a b --size 100000", "--size: expected a whole number from 1 to 8,192, found '100000'"),
        ("data pack a b --quality 500", "--quality: expected a whole number from 1 to 100, found '500'"),
        ("data convert a b --shards 0", "--shards: expected a whole number from 1 to 100,000, found '0'"),
        (
            "data make-pairs a b.bin --sample 0",
            "--sample: expected a whole number from 2 to 1,000,000,000, found '0'; or",
        ),
        ("data make-pairs a b.bin --folds 1", "--folds: expected a whole number from 2 to 10,000, found '1'"),
        ("data align a b --min-score nan", "--min-score: expected a number from 0 to 1, found 'nan'"),
        ("data make-ijb a b --fraction 0", "--fraction: expected a number above 0, at most 1, found '0'"),
        ("export a --tolerance nan", "--tolerance: expected a number above 0, at most 1, found 'nan'"),
        (
            "evaluate folder --fars 0.1,0",
            "--fars: expected a number above 0, at most 1, found '0'; several with commas",
        ),
    ],
)
def test_messages(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert message in capsys.readouterr().err
