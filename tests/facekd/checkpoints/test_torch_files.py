"""Torch files of strangers: what torch.save writes is read as it was; nothing takes far more memory than its file."""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from facekd.checkpoints.file_kinds import is_zip
from facekd.checkpoints.torch_files import read_torch_file
from facekd.errors import ModelError

STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("


def read(path: Path) -> Any:
    return read_torch_file(path, "a checkpoint", ModelError, "copy it again")


def plain(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def tensor(num_items: int, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> bytes:
    """Returns the opcodes of a float tensor that shows storage 0."""
    return b"".join(
        (
            *(TENSOR, STORAGE, plain(num_items), b"tQ", plain(offset), plain(sizes), plain(strides)),
            b"\x89ccollections\nOrderedDict\n)RtR",
        )
    )


def archive(
    path: Path,
    content: bytes,
    numbers: bytes = bytes(16),
    compression: int = zipfile.ZIP_STORED,
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Writes an archive as torch does, around a pickle made by hand."""
    members = {"data.pkl": b"\x80\2" + content + b".", "byteorder": b"little", "data/0": numbers, "version": b"3\n"}
    with zipfile.ZipFile(path, "w", compression) as stream:
        for name, value in {**members, **more}.items():
            stream.writestr(f"a/{name}", value)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read_as_it_was(zipped: bool, tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    state = collections.OrderedDict(weight=torch.nn.Parameter(shared), tied=shared, part=shared[1:, ::2].T)
    state._metadata = collections.OrderedDict(version=1)  # type: ignore[attr-defined]
    content = {
        "state": state,
        "kinds": [torch.zeros(3, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.int64, torch.bool)],
        "plain": [None, True, -1, 2**63, 1.5, "é", b"\xff\0", (1, (2,)), {3: {"x": []}}, {4, 5}, torch.Size([2])],
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(3),
        "counter": collections.Counter({80: 1}),
        "type": torch.float32,
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "a.pt")
    torch.testing.assert_close(dict(content["state"]), found.pop("state"), rtol=0, atol=0)
    torch.testing.assert_close(content["kinds"], found.pop("kinds"), rtol=0, atol=0)
    for name in ("empty", "scalar"):
        torch.testing.assert_close(content[name], found.pop(name), rtol=0, atol=0)
    assert found == {name: content[name] for name in ("plain", "counter", "type")}


def test_tensors_made_by_hand_are_read(tmp_path: Path) -> None:
    assert torch.equal(read(archive(tmp_path / "a.pt", tensor(4, (2, 2), (2, 1)))), torch.zeros(2, 2))


def repeated(depth: int) -> list[object]:
    value: list[object] = [0] * 10
    for _ in range(depth):
        value = [value, value]
    return value


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor(4, (10**6, 4), (0, 1)), r"would take more than 1,05\d,\d+ bytes.*shape \(1000000, 4\).*repeats"),
        (b"](" + b"".join(tensor(4, (300, 300), (0, 0)) for _ in range(4)) + b"e", "repeats the same numbers"),
        (b"](" + tensor(4, (300, 300), (0, 0)) + b"q\0" + b"h\0" * 9 + b"e", "stands in several places"),
        (tensor(4, (5,), (1,)), r"shape \(5,\) reaches beyond the end of its storage"),
        (tensor(4, (1,), (1,), offset=4), "beyond the end"),
        (tensor(4, (-1, 4), (4, 1)), "no whole number from 0 on"),
        (tensor(5, (5,), (1,)), "damaged: data/0 in its archive has 16 bytes, and a tensor needs 20"),
        (tensor(10**12, (1,), (1,)), r"claim 4,000,000,000,000 bytes, and the file has \d{3}\b"),
        (plain(repeated(25)), "holds the same containers again and again"),
        (plain(nested(101)), "nests more than 100 deep"),
        (b"]q\0(h\0e", "nests more than 100 deep"),
        (plain(10**5000), "the opcode LONG4"),
        (plain(2**80), "a whole number of 11 bytes"),
        (b"}" * 100_000, r"builds more than 35,\d+ objects with 100,\d+ bytes, far more than its content needs"),
        (b"(" * 100_000, r"builds more than 35,\d+ objects"),
        (plain({(1, 2): 3}), "has a tuple as a key"),
        (b"cbuiltins\nbytearray\n" + plain((10**11,)) + b"R", r"could run code: builtins\.bytearray"),
        (b"ctorch\nempty\n" + plain(((10**9,),)) + b"R", r"could run code: torch\.empty"),
        (b"ctorch\nfloat32\n)R", r"could run code: torch\.float32"),
        (b"ccollections\nOrderedDict\n" + plain(([("a", 0)] * 9,)) + b"R", None),
        (plain([("a", 0)] * 900) + b"q\1\x85q\x020" + b"ccollections\nOrderedDict\nq\3h\2R0h\3h\2R" * 40, "same items"),
        (
            b"X\x40\0\0\0" + b"a" * 64 + b"X\6\0\0\0latin1\x86q\x020" + b"c_codecs\nencode\nh\2R0" * 999 + b"N",
            "same by",
        ),
        (tensor(4, (4,), (1,)) + b"N" + plain({"x": 1}) + b"\x86b", "alters a tensor"),
        (STORAGE + plain(4) + b"tQ" + plain([10**9, 4]) + b"b", "alters a storage"),
    ],
)
def test_nothing_is_built_that_is_far_larger_than_its_file(content: bytes, message: str | None, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.pt", content)
    if message is None:
        assert read(path) == {"a": 0}
        return
    with pytest.raises(ModelError, match=rf"^{path}: .*{message}"):
        read(path)


def with_edit(edit: Callable[[zipfile.ZipInfo], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        archive(path, tensor(4, (4,), (1,)))
        with zipfile.ZipFile(path, "a") as stream:
            edit(stream.getinfo("a/data/0"))
            stream._didModify = True  # type: ignore[attr-defined]

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: archive(path, b"N", bytes(9 << 20), zipfile.ZIP_DEFLATED), "is compressed, as torch never"),
        (with_edit(lambda member: setattr(member, "flag_bits", 1)), "a/data/0 in its archive is encrypted"),
        (with_edit(lambda member: setattr(member, "file_size", 10**12)), "claim more bytes than the file has"),
        (with_edit(lambda member: setattr(member, "CRC", 5)), "damaged: its bytes do not match their checksums"),
        (lambda path: archive(path, b"N", more={"DATA/0": b"x"}), "two members of its archive have the same name"),
        (lambda path: archive(path, b"N", more={"x/data.pkl": b"N."}), r"has 2 data\.pkl"),
        (lambda path: zipfile.ZipFile(path, "w").close(), r"has no data\.pkl"),
        (lambda path: path.write_bytes(archive(path, b"N").read_bytes() + b"more"), "not a checkpoint, or a truncated"),
        (lambda path: path.write_bytes(b"before" + archive(path, b"N").read_bytes()), "or a truncated one"),
        (lambda path: archive(path, STORAGE + plain(4) + b"tQ", b""), "data/0 in its archive has 0 bytes"),
    ],
)
def test_an_archive_that_torch_would_not_write_is_refused(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.pt")
    with pytest.raises(ModelError, match=rf"a\.pt: .*{message}.*copy it again"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\5Nt", b"J\0\0\0\x7fNt", r"claim 8,522,825,728 bytes"),
        (b"K\5Nt", b"K\6Nt", "cannot be read as a checkpoint"),  # torch notices that the count differs
        (b"cpuq", b"cpu\0", "cannot be read"),
    ],
)
def test_an_old_file_claims_no_more_than_it_has(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"weight": torch.ones(5)}, stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue()
    assert content.count(old) == 1
    (tmp_path / "old.pth").write_bytes(content.replace(old, new))
    with pytest.raises(ModelError, match=rf"old\.pth: .*{message}"):
        read(tmp_path / "old.pth")


def test_an_old_file_must_list_all_its_storages(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"weight": torch.ones(5)}, stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue()
    end = content.rindex(b"\x80\2]")
    (tmp_path / "old.pth").write_bytes(content[:end] + b"\x80\2].")  # torch would leave the tensor's memory as it was
    with pytest.raises(ModelError, match="its list of storages is not that of its tensors"):
        read(tmp_path / "old.pth")


def test_an_archive_with_the_end_of_large_ones_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # really 65,535 members, or 4 GB
    path = archive(tmp_path / "a.pt", tensor(4, (4,), (1,)))
    assert b"PK\6\6" in path.read_bytes()
    assert is_zip(path) and torch.equal(read(path), torch.zeros(4))
