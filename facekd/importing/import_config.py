"""Verb `facekd import-config`: turns the configuration of another trainer into one of `facekd train`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from facekd.commands.command_line import CommandParser, whole_number
from facekd.commands.config_files import parse_config
from facekd.commands.places import check_apart
from facekd.errors import ConfigError, run_verb
from facekd.files.output_lock import file_lock
from facekd.files.reading import read_text_file
from facekd.files.writing import atomic_path
from facekd.importing.adaface_command import read_command, translate_adaface
from facekd.importing.arcface_config import translate_arcface
from facekd.importing.python_config import MAX_BYTES, read_python_config
from facekd.importing.translation import Translation
from facekd.utils.wording import counted

DESCRIPTION = """\
Turns the configuration of a training with arcface_torch (a .py file, which is read and never run) or with AdaFace's
trainer (a command line, or a shell script with one) into a YAML file for `facekd train`. What is not the same here, and
what has no counterpart, is printed and stands in the file."""
EPILOG = """examples:
  facekd import-config configs/ms1mv3_r50.py --gpus 8 --data /data/ms1mv3 --output ms1mv3_r50.yaml
  facekd import-config scripts/run_ir50_ms1mv2.sh --output adaface_ir50.yaml
  facekd import-config 'python main.py --arch ir_50 --head adaface --m 0.4 --h 0.333' --output adaface_ir50.yaml

Then: facekd train ms1mv3_r50.yaml
"""
BASE, SUFFIXES = "base.py", (".yaml", ".yml")


def make_parser() -> argparse.ArgumentParser:
    """Defines the options of `facekd import-config`."""
    parser = CommandParser(prog="facekd import-config", description=DESCRIPTION, example=EPILOG)
    parser.add_argument("source", metavar="CONFIG", help="a .py file, a shell script, or a command line in quotes")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.yaml", help="config to write")
    parser.add_argument(
        "--gpus",
        type=whole_number(1, 100_000),
        help="for arcface_torch: how many GPUs it trained on, because batch_size is that of one (default: by the name "
        "of the file, such as 32gpus, and 8)",
    )
    parser.add_argument("--data", metavar="PACK", help="the training data, in place of the path in CONFIG")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parses, translates and writes one configuration; returns the exit status."""
    arguments = make_parser().parse_args(argv)
    output: Path = arguments.output
    if not _is_command(arguments.source):
        source = Path(arguments.source)
        check_apart(output, source, source.with_name(BASE) if source.suffix == ".py" else None)
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output {output}: a configuration is a YAML file; give a name that ends in .yaml")
    with file_lock(output):
        found = _translate(arguments.source, arguments.gpus, arguments.data)
        _write(output, found)
    if text := found.describe():
        print(text)
    print(f"wrote {output}; next: facekd train {output}")
    return 0


def _is_command(source: str) -> bool:
    """Tells whether a source is a command line: it is no file, and has options."""
    return "--" in source and not os.path.isfile(source)  # noqa: PTH113 - pathlib fails where the line is a long one


def _translate(source: str, gpus: int | None, data: str | None) -> Translation:
    """Tells the kind of a configuration and translates it."""
    path = Path(source)
    if _is_command(source):
        return translate_adaface(read_command(source, "command line"), "command line", data)
    if path.suffix != ".py":
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: has {counted(path.stat().st_size, 'byte')}, and a script at most {MAX_BYTES:,}")
        return translate_adaface(read_command(read_text_file(path, error=ConfigError), str(path)), str(path), data)

    # A configuration of arcface_torch changes some values of the base.py beside it.
    values, base = read_python_config(path), path.with_name(BASE)
    has_base = base.is_file() and path.name != BASE
    return translate_arcface(values, path, gpus, data, read_python_config(base) if has_base else None)


def _write(output: Path, found: Translation) -> None:
    """Writes the config, if `facekd train` accepts it.

    Raises:
        ConfigError: it does not, because a value is outside of what facekd takes.
    """
    from facekd.training.config import TrainConfig

    with atomic_path(output) as file:
        file.write_text(found.to_yaml(), encoding="utf-8")
        try:
            parse_config(TrainConfig, [str(file)], "facekd train", "")
        except ConfigError as error:
            reason = str(error.args[0]).replace(f"{file}: ", "")
            raise ConfigError(f"{found.source}: facekd cannot train so: {reason}") from error


if __name__ == "__main__":
    raise SystemExit(run_verb(main))
