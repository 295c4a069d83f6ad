"""Checks that what a verb reads and what it writes are different places, and that it replaces nothing unasked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from facekd.errors import ConfigError, DataError
from facekd.files.output_lock import file_lock
from facekd.files.result_folder import MARK, was_stopped
from facekd.utils.foreign import shown

MARK_WITHIN = 1024  # bytes


def check_apart(output: Path, *sources: Path | None, names: Collection[str] | None = None) -> None:
    """Refuses an output that is a source, lies in one, or holds one.

    Results would be taken for images the next time, or replace what is read.

    Args:
        output: the folder or the file that will be written.
        sources: folders and files that will be read; None and what does not exist are passed over.
        names: the names that will be written in the folder `output`, which may hold sources under other names; None
            stands for any name.

    Raises:
        DataError: the output and a source overlap.
    """
    place = output.resolve()
    for source in sources:
        if source is None or not source.exists():
            continue
        read = source.resolve()
        if place == read:
            problem = f"{output} is a source itself"
        elif place.is_relative_to(read) and read.is_dir():
            problem = f"{output} lies in {source}, which is read"
        elif read.is_relative_to(place):
            if names is not None and not {*names} & {*read.relative_to(place).parts}:
                continue
            problem = f"{source}, which is read, lies in {output}"
        # Two packs in one folder would share the file `property`.
        elif place.suffix == read.suffix == ".rec" and place.parent == read.parent:
            problem = f"{output} lies beside {source}, which is read"
        else:
            continue
        raise DataError(f"{problem}; sources are never touched: choose an output that does not overlap with them")


def path_of_model(model: str | Path) -> Path:
    """Returns what is read of a model: its file or, of a run, the folder of its checkpoints; see `check_apart`."""
    path = Path(model)
    return path / "checkpoints" if path.is_dir() else path


def paths_of_data(data: str | Path) -> list[Path]:
    """Returns what is read of training data: the files of a pack, or of that in a folder, or a folder of images."""
    path = Path(data)
    rec_path = path if path.suffix == ".rec" else path / "train.rec"
    return [rec_path, *files_beside_pack(rec_path)] if rec_path.is_file() else [path]


def files_beside_pack(rec_path: Path) -> list[Path]:
    """Returns the files that belong to a `.rec` and lie beside it: its index, its list and `property`."""
    return [rec_path.with_suffix(".idx"), rec_path.with_suffix(".lst"), rec_path.parent / "property"]


def mark_of_format(name: str) -> bytes:
    """Returns what a JSON file of a format has among its first bytes, as `write_json` writes it; see `require_own`."""
    return f'"format": "{name}"'.encode()


def check_named_once(*paths: Path | None) -> None:
    """Refuses two names of one file, of which the one would replace the other.

    Raises:
        DataError: two paths lead to the same place, whether something is there or not; None is passed over.
    """
    places: dict[Path, Path] = {}
    for path in paths:
        if path is None:
            continue
        other = places.setdefault(path.resolve(), path)
        if other is not path:
            also = "" if str(other) == str(path) else f", as {other} too"
            raise DataError(f"{path}: is named twice{also}, and one file would replace the other; give different names")


def require_own(path: Path, verb: str, marks: Iterable[bytes]) -> None:
    """Refuses to replace a file that was not written by a verb; an empty one holds nothing that could be lost.

    Args:
        path: what will be written; it may be absent.
        verb: the command, such as `facekd search`.
        marks: a file that has one of these among its first bytes was written by it.

    Raises:
        DataError: a file of something else is there, or a folder.
    """
    if not path.exists():
        return
    beginning = _beginning(path) if path.is_file() else None
    if beginning is None or (beginning and not any(mark in beginning for mark in marks)):
        raise DataError(f"{path}: is there already, and not from `{verb}`; choose another name, or move it away")


def require_own_results(
    folder: Path, files: Iterable[str], verb: str, mark: str = MARK, marks: Collection[bytes] = (b"",)
) -> None:
    """Refuses a folder in which somebody else has files of the names that a verb replaces; see `start_results`.

    Args:
        folder: where the results will be; it may be absent.
        files: names of the files that they may consist of, beside `mark`.
        verb: the command, such as `facekd study`.
        mark: name of the file that is there when results are complete.
        marks: what it has among its first bytes, if it is of this verb; by default any will do.

    Raises:
        DataError: a file of something else is there, or a folder of its name.
    """
    require_own(folder / mark, verb, marks)
    if (folder / mark).exists() or was_stopped(folder, mark):
        return
    for name in files:
        require_own(folder / name, verb, ())


def require_own_output(file: Path, output: str) -> None:
    """Refuses the configuration of a run that was moved or copied, which names the folder where the run was before.

    Args:
        file: the configuration.
        output: the folder that it names.

    Raises:
        ConfigError: it lies in a run, and the folder is another.
    """
    # A project may have such a folder as well, for weights of others; no log of a training lies beside it.
    marks = [file.parent / "checkpoints", file.parent / "log.jsonl"]
    is_of_a_run = file.name == "config.yaml" and all(mark.exists() for mark in marks)
    if is_of_a_run and output and not _is_same_folder(file.parent, Path(output)):
        raise ConfigError(
            f"{file}: belongs to the run in {file.parent}, and names the output {shown(output)}: was the run moved, or "
            f"copied? Give `--output {file.parent}` to go on with it, or another folder to start anew"
        )


def _is_same_folder(one: Path, other: Path) -> bool:
    """Tells whether two paths lead to one folder, which may be mounted in two places."""
    return one.resolve() == other.resolve() or (other.exists() and one.samefile(other))


@contextmanager
def claimed_files(
    outputs: Iterable[Path | None],
    sources: Iterable[Path | None],
    verb: str,
    marks: Collection[bytes],
    replaceable: Iterable[Path] = (),
) -> Iterator[None]:
    """Locks the files that a verb will write while the block runs, and refuses to replace those of anybody else.

    Its own earlier results are replaced, so that the same command goes on wherever it was stopped.

    Args:
        outputs: the files; None for one that was not asked for.
        sources: files and folders that will be read; None for one that was not given.
        verb: the command, such as `facekd search`.
        marks: a file that has one of these among its first bytes was written by this verb.
        replaceable: more files that it will write, which it may replace whatever they are or looks at itself: those
            that the user has named, beside which `outputs` get names of their own.

    Raises:
        DataError: a file of something else is there, cannot be written, overlaps with a source, or is named twice.
        InUseError: another process writes one of them.
    """
    own = [path for path in outputs if path is not None]
    written, sources = [*replaceable, *own], [*sources]
    check_named_once(*written)
    for path in written:
        check_apart(path, *sources)
    with ExitStack() as stack:
        for path in written:
            stack.enter_context(file_lock(path))
        for path in own:
            require_own(path, verb, marks)
        yield


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MARK_WITHIN)
