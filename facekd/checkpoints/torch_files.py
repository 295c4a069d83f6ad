"""Reads files that `torch.save` wrote, without running code from them and in memory that stays near their size.

Anyone can write such a file. Before torch reads it, the archive is checked (members as they are, which together are no
larger than the file), and so is the pickle in it (`facekd/checkpoints/torch_pickle.py`). At most, a file takes
`LARGEST_TENSORS` times its size, and 20 times its pickle, which
has 32 MiB at most.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from facekd.checkpoints.file_kinds import OLD_TORCH_FILE, describe_file, is_zip
from facekd.checkpoints.torch_pickle import LARGEST_PICKLE, LEAVES, CodeError, PickleScan, RefusedError
from facekd.errors import FacekdError
from facekd.utils.foreign import reading, shown
from facekd.utils.wording import counted

if TYPE_CHECKING:  # torch costs seconds: `--help` does without
    import torch

LONGEST_REASON = 300
# A file of before torch 1.6: a magic number, by which it was recognised; a version, the system, the content, a list of
# its storages.
MAGIC_BYTES, NUM_PICKLES = 15, 4


class DamageError(Exception):
    """Says in a clause how a file is damaged."""


def read_torch_file(path: Path, expected: str, error: type[FacekdError], remedy: str, trusted: str = "") -> Any:
    """Returns the content of a torch file: tensors on the CPU, and dicts, lists, tuples and sets of plain values.

    An OrderedDict becomes a dict, and a parameter a tensor.

    Args:
        path: the file; a torch file by `describe_file`.
        expected: what it should be, for messages: "a checkpoint".
        error: class of the error raised.
        remedy: what to do about a damaged file.
        trusted: what to do about a file that holds code, after "; ".

    Raises:
        FacekdError: of class `error`, if the file is damaged, holds more than tensors and plain types, or would take
            far more memory than its size.
    """
    import torch

    # Old files are pickles one behind the other, all others archives.
    size = path.stat().st_size
    is_old = describe_file(path) == OLD_TORCH_FILE
    if not is_old and not is_zip(path):
        raise error(f"{path}: not {expected}, or a truncated one (torch's files are zip archives); {remedy}")

    # Nothing is unpickled before it is known what it would become.
    with reading(path, expected, error, remedy):
        try:
            with path.open("rb") as stream:
                _scan_old(stream, size) if is_old else _scan_archive(stream, size)
            content = torch.load(path, map_location="cpu", weights_only=True)
        except CodeError as cause:
            raise error(
                f"{path}: refused, because it holds more than tensors and plain types, and loading it could run code: "
                f"{shown(cause, LONGEST_REASON)}{trusted}"
            ) from cause
        except DamageError as cause:
            raise error(f"{path}: damaged: {shown(cause, LONGEST_REASON)}; {remedy}") from cause
        except RefusedError as cause:
            raise error(f"{path}: refused, because {shown(cause, LONGEST_REASON)}; {remedy}") from cause
        return _plain(content, torch.Tensor)


def _scan_archive(stream: BinaryIO, size: int) -> None:
    """Checks an archive and its checksums, which torch writes but does not verify, and the pickle in it."""
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename.lower(): member for member in archive.infolist()}  # torch takes A and a for one name
        if len(members) != len(archive.infolist()):
            raise RefusedError("two members of its archive have the same name")
        for name, member in members.items():
            if member.flag_bits & 0x1 or member.compress_type != zipfile.ZIP_STORED:
                how = "encrypted" if member.flag_bits & 0x1 else "compressed"
                raise RefusedError(f"{shown(name)} in its archive is {how}, as torch never writes it")
        if sum(member.file_size for member in members.values()) > size:
            raise RefusedError("the members of its archive claim more bytes than the file has")
        if archive.testzip() is not None:
            raise DamageError("its bytes do not match their checksums")

        # The pickle, and the storages that it names.
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or pickles[0].count("/") != 1:
            raise DamageError(f"its archive has {len(pickles) or 'no'} data.pkl in a folder of its own; expected one")
        content = members[pickles[0]]
        if content.file_size > LARGEST_PICKLE:
            raise RefusedError(
                f"its data.pkl has {counted(content.file_size, 'byte')}; at most {LARGEST_PICKLE:,} are read, because "
                "all but tensors stands there"
            )
        scan = PickleScan(io.BytesIO(archive.read(content)), content.file_size, size)
        scan.load()
        folder = pickles[0].rpartition("/")[0]
        for key, num_bytes in scan.storages.items():
            member = members.get(f"{folder}/data/{key}".lower())
            if member is None or member.file_size != num_bytes:
                found = "is not there" if member is None else f"has {counted(member.file_size, 'byte')}"
                raise DamageError(f"data/{shown(key)} in its archive {found}, and a tensor needs {num_bytes:,}")


def _scan_old(stream: BinaryIO, size: int) -> None:
    """Checks a file of before torch 1.6: some pickles, then the numbers of each storage behind their count."""
    found = []
    stream.seek(MAGIC_BYTES)
    for _ in range(NUM_PICKLES):
        most = min(LARGEST_PICKLE, size - stream.tell())
        scan = PickleScan(_Limited(stream, most), most, size)
        found.append((scan.load(), scan.storages))
    *_, (_, storages), (keys, _) = found
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise DamageError("its list of storages is not that of its tensors")  # torch would leave their memory as it was
    if sum(storages.values()) > size:
        raise DamageError(f"its tensors need {counted(sum(storages.values()), 'byte')}, and the file has {size:,}")


class _Limited:
    """Reads at most so many bytes of a stream."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, count: int) -> bytes:
        return self._spend(self._stream.read(min(count, self._left)))

    def readline(self) -> bytes:
        return self._spend(self._stream.readline(self._left))

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def _spend(self, found: bytes) -> bytes:
        self._left -= len(found)
        return found


def _plain(value: Any, tensor: type[torch.Tensor]) -> Any:
    """Returns plain containers of the same content; those of a file may have attributes that hide their methods."""
    if isinstance(value, tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _plain(item, tensor) for key, item in dict.items(value)}
    if isinstance(value, list | tuple) and LEAVES.issuperset(map(type, value)):
        return tuple(value) if isinstance(value, tuple) else value
    if isinstance(value, list):
        return [_plain(item, tensor) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return tuple(_plain(item, tensor) for item in tuple.__iter__(value))
    return value
