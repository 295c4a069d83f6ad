"""Says what a fuzz target is, and what a reader of foreign bytes may do with them.

A reader returns, or raises an error meant for the user. Anything else, a crash, a hang, a traceback or memory far
beyond the size of the file, is a fault of facekd.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facekd.errors import FacekdError

LONGEST_ERROR = 1000  # characters that people read


@dataclass(frozen=True)
class Target:
    """Names a reader and what it is fed.

    Attributes:
        name: name of the target.
        file_name: name that the bytes get in an empty folder; its suffix matters to some readers.
        read: called with the path of that file.
        seeds: makes valid files of the kind, from which mutations start.
        check: an oracle, called with the bytes and what `read` returned; raises AssertionError if they disagree.
        prepare: fills the folder with what belongs beside the file.
        copies: damaged copies that the default suite reads; few for a slow reader.
        is_named: whether errors must name the file; False where the reader gets text and no path.
        finds: whether `read` returns something for each seed; False where None stands for "accepted".
        words: what the format is made of, which atheris puts into its inputs: names of columns, keys, marks.
        max_len: the most bytes that atheris makes.
        refused: makes files that the reader must refuse, from which mutations start as well.
        megabytes: memory that an input may take while atheris runs; more where a stated limit allows more.
    """

    name: str
    file_name: str
    read: Callable[[Path], Any]
    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes, Any], None] | None = None
    prepare: Callable[[Path], object] | None = None
    copies: int = 150
    is_named: bool = True
    finds: bool = True
    words: tuple[str | bytes, ...] = ()
    max_len: int = 65536
    refused: Callable[[], list[bytes]] = list
    megabytes: int = 300


def lines(*rows: str) -> list[bytes]:
    """Returns a seed of these lines: plain, with carriage returns, with a byte-order mark, and as UTF-16."""
    text = "\n".join(rows) + "\n"
    plain = text.encode()
    return [plain, plain.replace(b"\n", b"\r\n"), codecs.BOM_UTF8 + plain, text.encode("utf-16")]


def text_of(content: bytes) -> str:
    """Decodes a text as Python does, by its byte-order mark: an oracle for `read_text_file`."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8-sig")
    text = content.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict")
    return re.sub("\r\n|\r", "\n", text)


def rows_of(content: bytes, is_row: Callable[[str], object] = str.strip) -> list[str]:
    """Returns the lines of a text that count, those that are not blank."""
    return [row for row in text_of(content).split("\n") if is_row(row)]


class TargetRunner:
    """Feeds one target with bytes, in a folder of its own in memory where the system has one."""

    def __init__(self, target: Target) -> None:
        shm = Path("/dev/shm")
        self.target = target
        self.found: Any = None  # what the last input that was accepted was read as
        self.folder = Path(tempfile.mkdtemp(prefix="facekd-fuzz-", dir=shm if shm.is_dir() else None))
        if target.prepare is not None:
            target.prepare(self.folder)

    def feed(self, content: bytes) -> bool:
        """Reads the bytes; returns whether the reader accepted them.

        Raises:
            AssertionError: the oracle disagrees, or an error is no message for people.
            Exception: what the reader should have turned into a message.
        """
        path = self.folder / self.target.file_name
        path.write_bytes(content)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                result = self.target.read(path)
        except FacekdError as error:
            # One line, in which a terminal obeys nothing, and which names the file.
            assert str(error).strip(), "an error without a message"
            assert str(error).isprintable(), f"not one harmless line: {error}"
            assert len(str(error)) < LONGEST_ERROR, f"an error of {len(str(error)):,} characters: {str(error)[:300]}"
            assert not _ran_out(error), f"asks for more memory than there is: {error}"
            assert not self.target.is_named or path.name in str(error), f"does not name the file: {error}"
            return False
        except OSError as error:
            # The operating system's own errors reach the user with the name of the file.
            if error.filename is None or error.errno == errno.ENAMETOOLONG:
                raise
            return False
        self.found = result
        if self.target.check is not None:
            self.target.check(content, result)
        return True

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> TargetRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ran_out(error: BaseException) -> bool:
    """Tells whether an error goes back to memory that could not be had."""
    causes = list[BaseException]()
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(isinstance(cause, MemoryError) or "bad_alloc" in str(cause) for cause in causes)


def mutations(seeds: list[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields `count` damaged copies of the seeds: flipped bits, other bytes, cuts, repeats, splices, large numbers."""
    import random

    random_state = random.Random(seed)
    for _ in range(count):
        content = bytearray(random_state.choice(seeds))
        for _ in range(random_state.choice((1, 1, 1, 2, 4))):
            _damage(content, seeds, random_state)
        yield bytes(content)


def _damage(content: bytearray, seeds: list[bytes], random_state: Any) -> None:
    if not content:
        content.extend(random_state.randbytes(8))
        return
    place = random_state.randrange(len(content))
    length = random_state.randrange(1, 9)
    kind = random_state.randrange(8)
    if kind == 0:
        content[place] ^= 1 << random_state.randrange(8)
    elif kind == 1:
        content[place : place + length] = random_state.randbytes(length)
    elif kind == 2:
        del content[place:]
    elif kind == 3:
        del content[place : place + length]
    elif kind == 4:
        content[place:place] = content[place : place + 8 * length]
    elif kind == 5:
        other = random_state.choice(seeds)
        start = random_state.randrange(len(other) or 1)
        content[place : place + 8 * length] = other[start : start + 8 * length]
    elif kind == 6:
        content[place : place + 4] = random_state.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
    else:
        content[place : place + 1] = random_state.choice(
            (b"9" * 30, b"9" * 5000, b"-1", b"-" * 600, b"1+" * 900, b"1e308", b"nan", b"\n", b"\t", b"\x1b[31m")
        )
