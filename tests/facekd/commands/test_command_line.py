"""Options of a verb: errors in one line, with what was meant; a short usage."""

from __future__ import annotations

import pytest

from facekd.commands.command_line import CommandParser
from facekd.commands.suggestions import did_you_mean, nearest


def make_parser(**options: bool) -> CommandParser:
    parser = CommandParser("facekd try", "Tries things.", "example:\n  facekd try --model m", **options)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rule", choices=("exact", "insightface"))
    parser.add_argument("--batch-size", type=int)
    return parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modle", "m"], "--modle is not an option; did you mean --model?"),  # not: --model is required
        (["--model", "m", "--batch_size=3"], "--batch_size is not an option; did you mean --batch-size?"),
        (["--model", "m", "--xyz"], "--xyz is not an option"),
        (
            ["--model", "m", "--rule", "exat"],
            "argument --rule: invalid choice: 'exat'; did you mean exact?",
        ),
        ([], "the following arguments are required: --model"),
    ],
)
def test_an_error_is_one_line_with_what_was_meant(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        make_parser().parse_args(words)
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.endswith("(`facekd try --help` lists the options)\n") and printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_beginning_of_an_option_is_accepted_unless_that_is_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_parser().parse_args(["--mod", "m"]).model == "m"
    with pytest.raises(SystemExit, match="2"):
        make_parser(allow_abbrev=False).parse_args(["--mod", "m"])
    assert "--mod is not an option; did you mean --model?" in capsys.readouterr().err


def test_words_after_two_dashes_are_no_options() -> None:
    parser = make_parser()
    parser.add_argument("file")
    assert parser.parse_args(["--model", "m", "--", "--modle"]).file == "--modle"


def test_what_is_given_without_a_name_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser()
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("output", metavar="OUT")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--output", "folder"])
    assert "--output is not an option: OUT is given without a name (`facekd try" in capsys.readouterr().err


def test_the_usage_names_what_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        make_parser().parse_args(["--help"])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: facekd try --model MODEL [options]\n")
    assert printed.endswith("example:\n  facekd try --model m\n")


def test_the_nearest_word_ignores_the_kind_of_dash() -> None:
    assert nearest("on-bad-recrd", ["on_bad_record", "output"]) == "on_bad_record"
    assert did_you_mean("qqq", ["output"]) == ""


def test_home_is_expanded_where_a_shell_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    parser = make_parser()
    parser.add_argument("files", nargs="*")
    parsed = parser.parse_args(["--model=~/m.onnx", "~/a", "b~", "./~/c"])
    assert (parsed.model, parsed.files) == ("/home/me/m.onnx", ["/home/me/a", "b~", "./~/c"])
    assert parser.parse_args(["--model", "~"]).model == "/home/me"
