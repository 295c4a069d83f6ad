"""Tells what kind of file was given in the place of a model, for messages that name the right mistake."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from facekd.files.reading import require_regular_file

ONNX_FILE, TORCH_FILE, OLD_TORCH_FILE = "an ONNX file", "a torch file", "a torch file as written before torch 1.6"
TORCHSCRIPT, SAFETENSORS = "a TorchScript archive", "a safetensors file"
# The first bytes of files that people mix up with models.
STARTS = {
    b"\x0a\x23\xd7\xce": "a .rec pack of images",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19": OLD_TORCH_FILE,
    b"\x80": "a pickle, as verification packs (.bin) are",
    b"\x12\x01\x00\x00\x00\x00\x00\x00": "an mxnet .params file",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy array",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)",
    b"\x08": ONNX_FILE,  # a serialised model starts with its first field, ir_version
}
LARGEST_DIRECTORY = 64 << 20  # bytes that list the members of an archive
CACHE_END = b"facekd teacher\n\n"


def describe_file(path: Path) -> str:
    """Returns what a file is, as `an ONNX file`, by its content; empty if that shows nothing known."""
    require_regular_file(path)
    if path.is_dir():
        return "a folder"
    with path.open("rb") as stream:
        head = stream.read(4096)
        stream.seek(max(0, path.stat().st_size - len(CACHE_END)))
        end = stream.read()
    if not head:
        return "empty"
    if end == CACHE_END:
        return "a teacher cache"
    if _is_safetensors(head, path.stat().st_size):
        return SAFETENSORS
    if is_zip(path):
        return _describe_zip(path)
    found = next((kind for start, kind in STARTS.items() if head.startswith(start)), "")
    return found or ("a text file" if _is_text(head) else "")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Tells whether a file begins as safetensors do: with the length of a JSON object, and the object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def is_zip(path: Path) -> bool:
    """Tells whether a file is a zip archive, as torch's files are: one that all readers of archives read alike.

    Its list of members stands right before its end, without a comment behind it, and is not huge.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 98))
        end = stream.read()
    if end[-22:-18] != b"PK\5\6":
        return False
    length, start = struct.unpack("<LL", end[-10:-2])
    place = size - 22
    if end[-98:-94] == b"PK\6\6" and end[-42:-38] == b"PK\6\7":  # for more than 4 GB, or 65,535 members
        length, start = struct.unpack("<QQ", end[-58:-42])
        place = size - 98
    return length <= LARGEST_DIRECTORY and start + length == place


def _describe_zip(path: Path) -> str:
    """Returns what a zip archive holds; torch's files are such archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except Exception:  # a damaged archive can make zipfile raise anything
        return TORCH_FILE  # as its reader will find out
    if "constants.pkl" in names:
        return TORCHSCRIPT
    if "data.pkl" in names:
        return TORCH_FILE
    return "an archive of numpy arrays" if any(name.endswith(".npy") for name in names) else "a zip archive of no model"


def _is_text(head: bytes) -> bool:
    """Tells whether bytes are text in UTF-8, which may be cut in the middle of a character."""
    if min(head) < 9:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3
    return True
