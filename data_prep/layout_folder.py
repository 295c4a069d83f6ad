"""Puts a made layout into its folder as a whole, and replaces an older one when asked to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from facekd.errors import DataError
from facekd.files.output_lock import file_lock
from facekd.files.reading import read_json
from facekd.files.syncing import sync_file_system, sync_folder
from facekd.files.temporaries import temporary_folder
from facekd.files.writing import write_json

SUMMARY, UNFINISHED = "layout.json", ".layout_unfinished"
PARTS = "parts"  # the key under which both say what belongs to the layout


@contextmanager
def layout_folder(output: Path, overwrite: bool, key: str, parts: Sequence[str]) -> Iterator[Path]:
    """Yields an empty folder to write a layout into, and moves what was written to `output`.

    The caller writes `layout.json` too, which is moved last: a folder that has it holds a whole layout. Its key `parts`
    is added here; by it the next layout knows what it may remove. Other files in `output` stay as they are.

    Args:
        output: folder of the layout; new or empty, or one that holds a layout of the same command.
        overwrite: whether a layout may be replaced; one that was left unfinished is in any case.
        key: a key of `layout.json` by which the command knows its own.
        parts: names of all files and folders that a layout of the command may have, beside `layout.json`. A record
            that names others is not believed.

    Raises:
        DataError: the folder holds something else, a layout that may not be replaced, or files of somebody else where
            the new layout has its own.
    """
    with file_lock(output, "command makes a set in this folder"):
        own = _parts_to_replace(output, overwrite, key, parts)
        with temporary_folder(output) as staged:  # so that an interrupted run leaves no half of a set
            yield staged
            new = {path.name for path in staged.iterdir()} - {SUMMARY}
            assert new <= {*parts}, new - {*parts}
            _refuse_strangers(output, new - own)
            about = read_json(staged / SUMMARY, "the summary of a layout")
            write_json(staged / SUMMARY, {**about, PARTS: sorted(new)})

            # While this mark is there, what it names is no set, and the next run replaces it. It gets its name at once,
            # because half of it would be a file that nobody knows.
            mark = staged.parent / UNFINISHED
            write_json(mark, {PARTS: sorted(own | new)})
            sync_file_system(staged)
            output.mkdir(exist_ok=True)
            mark.replace(output / UNFINISHED)
            sync_folder(output)
            for name in (SUMMARY, *sorted(own)):
                _remove(output / name)
            for part in sorted(staged.iterdir(), key=lambda path: path.name == SUMMARY):  # the summary last
                part.replace(output / part.name)
            (output / UNFINISHED).unlink()


def _parts_to_replace(output: Path, overwrite: bool, key: str, parts: Sequence[str]) -> set[str]:
    """Returns the names in a folder that belong to the layout there, which may be replaced; none in an empty folder.

    Raises:
        DataError: the folder holds something else, or a layout that may not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return set()
    unfinished = _recorded(output / UNFINISHED)
    if unfinished is not None:
        return unfinished & {*parts}
    recorded = _recorded(output / SUMMARY, key)
    if recorded is not None and overwrite:
        return recorded & {*parts}
    if recorded is not None:
        remedy = "--overwrite replaces what is there"
    elif _is_layout(output / SUMMARY, key):
        remedy = f"its {SUMMARY} does not say which files are the layout's: delete them, or choose an empty folder"
    elif (output / UNFINISHED).exists():
        remedy = f"its {UNFINISHED} does not say what was made: delete what is there, or choose an empty folder"
    else:
        remedy = "choose an empty folder, or a new one"
    raise DataError(f"{output} exists and is not empty; {remedy}")


def _refuse_strangers(output: Path, names: set[str]) -> None:
    """Raises a `DataError` if there is something under names that the layout needs and no earlier layout had."""
    if there := sorted(name for name in names if (output / name).exists() or (output / name).is_symlink()):
        raise DataError(
            f"{output / there[0]}: is there already, and not from this command, whose layout has a part of this name; "
            "move it away, or choose an empty folder"
        )


def _recorded(file: Path, key: str = PARTS) -> set[str] | None:
    """Returns the names that a summary or a mark of an unfinished layout lists; None if it is none of either."""
    if not _is_layout(file, key, PARTS):
        return None
    names = read_json(file, "the record of a layout")[PARTS]
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return {*names} if is_list else None


def _is_layout(summary: Path, *keys: str) -> bool:
    if not summary.is_file():
        return False
    try:
        return bool(read_json(summary, "the summary of a layout", keys=keys))
    except DataError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
