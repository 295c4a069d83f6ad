"""Lists the example configurations that come with facekd, or prints one, to be changed."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import shorten

from facekd.commands.command_line import CommandParser
from facekd.commands.completion import complete_by
from facekd.commands.config_files import SHIPPED_CONFIGS
from facekd.commands.suggestions import nearest
from facekd.errors import ConfigError, run_verb

EXAMPLE = """examples:
  facekd configs
  facekd configs configs/debug.yaml > mine.yaml     # then: facekd train mine.yaml

`facekd train` and the others take the same names in any folder: facekd train configs/debug.yaml"""
LONGEST = 90  # characters of the line that says what a configuration is


def main(argv: list[str] | None = None) -> int:
    """Lists the configurations, or prints the one that the command line names."""
    parser = CommandParser("facekd configs", __doc__ or "", EXAMPLE)
    known = {f"configs/{path.relative_to(SHIPPED_CONFIGS)}": path for path in sorted(SHIPPED_CONFIGS.rglob("*.yaml"))}
    help_text = "the configuration to print, as the list and `facekd train` name it"
    option = parser.add_argument("name", nargs="?", help=help_text)
    complete_by(option, known)
    name = parser.parse_args(argv).name
    if name is None:
        width = max(map(len, known))
        print("\n".join(f"{one:<{width}}  {_subject(path)}" for one, path in known.items()))
        return 0
    if name not in known:
        same = [one for one, path in known.items() if path.stem == Path(name).stem]
        meant = same[0] if same else nearest(name, known)
        hint = f"; did you mean {meant}?" if meant else ""
        raise ConfigError(f"{name}: no example configuration of facekd{hint} (`facekd configs` lists them)")
    print(known[name].read_text(encoding="utf-8"), end="")
    return 0


def _subject(path: Path) -> str:
    """Returns the beginning of a configuration's header, which says what it is and where it comes from."""
    header = re.match(r"# Source\s+((?:.*\n)(?:#  .*\n)*)", path.read_text(encoding="utf-8"))
    text = " ".join(line.lstrip("# ") for line in header[1].splitlines()) if header else ""
    return shorten(text, LONGEST, placeholder=" ...")


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
