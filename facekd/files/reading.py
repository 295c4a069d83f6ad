"""Reads files that people and other tools have written, and tells whether a file has changed."""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import re
import resource
import stat
import zlib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from facekd.errors import DataError, FacekdError
from facekd.utils.wording import counted

SPARE_FILES = 128  # open files of everything else: libraries, logs, pipes to processes

DESCRIPTOR = re.compile(r"/proc/\w+/fd/\d+")  # an open file of a process, by another name

CONVERT = "convert it, such as by `iconv -f LATIN1 -t UTF-8`"


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Refuses a named pipe, a socket or a device, at which opening or reading could wait for ever.

    Files and folders pass, and so does what is not there or cannot be read: opening it says more. What a shell passes
    on, `<(command)` or `/dev/stdin`, has a writer at its other end and passes, too. The kernel's own files in /proc
    look regular, and reading some waits for ever; the memory of a process fails at once instead, and passes.

    Raises:
        DataError: `path` is one.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)  # noqa: PTH116 - called for each of millions of images
    except OSError:
        return
    mode, is_regular = status.st_mode, stat.S_ISREG(status.st_mode)
    if stat.S_ISDIR(mode) or (is_regular and status.st_dev != _device_of_proc()):
        return
    if not is_regular and (name.startswith("/dev/fd/") or name == "/dev/stdin" or DESCRIPTOR.fullmatch(name)):
        return
    if is_regular and os.path.basename(os.path.realpath(name)) == "mem":  # noqa: PTH119
        return
    named = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a file of the kernel"}
    kind = named.get(stat.S_IFMT(mode), "a device")
    raise DataError(f"{name}: is {kind}, and a file is needed; write what comes out of it into a file, and give that")


def is_listed_file(path: Path) -> bool:
    """Tells whether a name that a list gives is that of a file; a name too long for the file system is none.

    Raises:
        OSError: it cannot be looked up, such as in a folder without permission.
    """
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


@cache
def _device_of_proc() -> int:
    """Returns the device number of the files in /proc; -1 where there is none."""
    try:
        return os.stat("/proc/self/stat").st_dev  # noqa: PTH116
    except OSError:
        return -1


def allow_open_files(count: int, what: str, most_each: int = 1) -> None:
    """Raises the number of files that this process may have open, as far as the system lets it.

    Args:
        count: number of files that will be opened and kept open.
        what: names them, for the message.
        most_each: the most entries that each may take in the table of open files; mapping one takes another entry.

    Raises:
        DataError: the system does not allow so many.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    table = Path("/proc/self/fd")
    num_open = sum(1 for _ in table.iterdir()) if table.is_dir() else 0
    wanted = num_open + count * most_each + SPARE_FILES
    if soft == unlimited or wanted <= soft:
        return
    if hard != unlimited and num_open + count > hard:
        raise DataError(
            f"{what}: its {counted(count, 'file has', 'files have')} to be open at the same time, and this system "
            f"allows a process {counted(hard, 'open file')} (`ulimit -Hn`); raise that limit, or make fewer and "
            "larger files where it is higher (`facekd data convert --shards`)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == unlimited else min(wanted, hard), hard))


def read_text_file(
    path: str | os.PathLike[str], *, has_file_names: bool = False, error: type[FacekdError] = DataError
) -> str:
    r"""Reads a text that a person or another tool has written, with `\n` at the ends of its lines.

    UTF-8 with or without a byte order mark is understood, and UTF-16 and UTF-32 with one. Split the text at `\n`:
    `splitlines` splits at characters within names as well.

    Args:
        path: the file.
        has_file_names: the text may hold names of files, which on Linux are any bytes: those that are not UTF-8 become
            surrogates, as in Python's own file names.
        error: class of the error.

    Raises:
        FacekdError: of class `error`, if the text has another encoding; it names the line.
        OSError: the file is missing or cannot be read.
    """
    require_regular_file(path)
    content = Path(path).read_bytes()
    # UTF-32 first: its mark begins like that of UTF-16.
    marks = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
    mark, encoding = next(((mark, name) for mark, name in marks.items() if content.startswith(mark)), (b"", "utf-8"))
    is_utf8 = encoding == "utf-8"
    if is_utf8 and 0 in content:
        number = content.count(b"\n", 0, content.index(0)) + 1
        advice = CONVERT.replace("LATIN1", "UTF-16LE")
        raise error(f"{path}: is not text: line {number} has a zero byte; if it is UTF-16, {advice}")
    try:
        text = content[len(mark) :].decode(encoding, "surrogateescape" if has_file_names and is_utf8 else "strict")
    except UnicodeDecodeError as cause:
        number = content[len(mark) :][: cause.start].decode(encoding, "replace").count("\n") + 1
        if not is_utf8:
            raise error(f"{path}: begins as {encoding[:6].upper()} and is not that at line {number}") from cause
        raise error(f"{path}: is not UTF-8 at line {number}; {CONVERT}") from cause
    return text.replace("\r\n", "\n").replace("\r", "\n")


def rows_of_table(
    text: str, columns: Collection[str], *, strict: bool = False, skipinitialspace: bool = False
) -> tuple[list[str], list[dict[str, str]]]:
    """Reads some columns of a table with commas whose first line names its columns.

    `csv.DictReader` would give each row an entry for every column of the first line, so that time and memory went by
    the product of both.

    Args:
        text: the table.
        columns: those to read.
        strict, skipinitialspace: as for `csv.reader`.

    Returns:
        The names in the first line, and for each row that is not empty its values by column: those of `columns` that
        the table has, as empty text where the row ends before them.

    Raises:
        csv.Error: it is no such table.
    """
    reader = csv.reader(io.StringIO(text), strict=strict, skipinitialspace=skipinitialspace)
    names = next(reader, [])
    places = {name: place for place, name in enumerate(names) if name in columns}
    rows = (row for row in reader if row)
    return names, [{name: row[at] if at < len(row) else "" for name, at in places.items()} for row in rows]


def encoding_hint(name: str) -> str:
    """Returns advice for the message that a listed file does not exist, if its name is not UTF-8; else nothing."""
    is_utf8 = all(not 0xDC80 <= ord(letter) <= 0xDCFF for letter in name)
    return "" if is_utf8 else f". Its list is not UTF-8: {CONVERT}"


def read_json(
    path: str | os.PathLike[str],
    what: str,
    remedy: str = "delete it and run the same command again",
    keys: Collection[str] = (),
    error: type[FacekdError] = DataError,
) -> dict[str, Any]:
    """Reads a JSON object, as `write_json` writes it.

    Args:
        path: the file.
        what: what the file should be, for the message: "a list of steps".
        remedy: what to do about a damaged file, for the message.
        keys: keys that the object must have.
        error: class of the error.

    Raises:
        FacekdError: of class `error`, if the file is not UTF-8, not JSON, nested too deeply, not an object, or lacks a
            key; `DataError` for a named pipe.
        OSError: the file is missing or cannot be read.
    """
    require_regular_file(path)
    try:
        value = json.loads(Path(path).read_bytes())  # in any encoding of Unicode
    except (ValueError, RecursionError) as cause:  # a wrong byte is a ValueError, too
        raise error(f"{path}: damaged, not {what} (is not JSON: {cause}); {remedy}") from cause
    if not isinstance(value, dict):
        raise error(f"{path}: damaged, not {what} (expected a JSON object, found {type(value).__name__}); {remedy}")
    if missing := [key for key in keys if key not in value]:
        raise error(f"{path}: damaged, not {what} (it lacks {', '.join(missing)}); {remedy}")
    return value


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Returns an object with a key "crc32" more: the checksum of the others as JSON, for `is_sealed`."""
    content = json.dumps({key: item for key, item in value.items() if key != "crc32"}, sort_keys=True)
    return {**value, "crc32": zlib.crc32(content.encode())}


def is_sealed(value: dict[str, Any]) -> bool:
    """Tells whether an object read from JSON is as `sealed` made it."""
    try:
        return value.get("crc32") == sealed(value)["crc32"]
    except RecursionError:  # Python reads JSON of a few levels more than it can write
        return False


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Returns the hexadecimal SHA-256 of a file's content.

    Raises:
        DataError: it is no regular file; see `require_regular_file`.
        OSError: it is missing or cannot be read.
    """
    require_regular_file(path)
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def stamp_of(*paths: Path | None) -> tuple[int, ...]:
    """Returns three numbers for each file, which tell whether it has changed; zeros for None.

    They are its size, its modification time and its change time in ns. Copying tools restore the modification time (`cp
    -p`, `rsync -t`, `tar x`), so a replaced file of the same size may keep it; nothing can set the change time. A file
    that was only moved to another disk counts as changed.
    """
    stamp: list[int] = []
    for path in paths:
        status = path.stat() if path is not None else None
        stamp += [status.st_size, status.st_mtime_ns, status.st_ctime_ns] if status else [0, 0, 0]
    return tuple(stamp)


def stamp_to_rename(status: os.stat_result) -> str:
    """Returns inode, size and modification time of a file, which stay when it is renamed; see `stamp_of`."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
