"""Lists the members of tar files, and refuses those in which members would be lost or read wrongly without a word.

Python's tarfile ends quietly at a damaged header, as if the archive ended there.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facekd.errors import DataError
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import counted

MAX_EXTENDED_HEADER = 1 << 14  # bytes of a long name or of pax records, which tarfile reads whole
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
BYTES_CHUNK = 1 << 20
WITHOUT_HOLES = "is a sparse member, whose holes are left out; pack it again without --sparse"


class Member(NamedTuple):
    """Names a file in a tar, and says where its bytes are."""

    name: str
    offset: int
    size: int


def list_members(path: Path) -> Iterator[Member]:
    """Yields the files of a tar, in its order.

    Raises:
        DataError: it is damaged, cut short, or followed by something else; or it has a sparse member.
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    whole = reading(path, "a complete tar file")
    with whole, _sentences(path), tarfile.open(path, "r:", tarinfo=_CheckedMember) as opened:
        archive: Any = opened
        while (member := archive.next()) is not None:
            archive.members.clear()  # tarfile keeps them; millions would fill the memory
            if member.size < 0 or member.offset_data + member.size > size:
                name = f"{shown(member.name)} at byte {member.offset:,}"
                raise tarfile.ReadError(f"{name} has {counted(member.size, 'byte')}, and the whole file {size:,}")
            if member.sparse is not None:
                raise tarfile.ReadError(f"{shown(member.name)} {WITHOUT_HOLES}")
            if member.isfile():
                yield Member(member.name, member.offset_data, member.size)
        _check_end(path, archive.offset)


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise DataError(f"{path}: is not a complete tar file: {shown(error)}") from error


class _CheckedMember(tarfile.TarInfo):
    """Refuses headers that tarfile takes for the end of the archive, or that would have it read without limit."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        place = archive.offset
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except tarfile.EmptyHeaderError as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise tarfile.ReadError(f"it stops at byte {place:,}, without the empty blocks that end one") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {place:,}") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.ReadError(f"{shown(member.name)} has a negative size")
        if member.type in EXTENDED and member.size > MAX_EXTENDED_HEADER:
            raise tarfile.ReadError(
                f"a header of {counted(member.size, 'byte')}; those of a file take at most {MAX_EXTENDED_HEADER:,}"
            )
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"{shown(member.name)} {WITHOUT_HOLES}")
        return member


def _check_end(path: Path, end: int) -> None:
    """Refuses a file in which something follows the end of the archive: readers stop there, and its images are lost."""
    with path.open("rb") as stream:
        stream.seek(end)
        while block := stream.read(BYTES_CHUNK):
            if block.count(0) < len(block):
                raise DataError(
                    f"{path}: something follows the end of the archive at byte {end:,}, as where tars were joined; "
                    "give them apart, or join them by `tar --concatenate`"
                )
