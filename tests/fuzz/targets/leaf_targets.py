"""Lists readers of arrays and pickles that get a valid file in which a type, a shape, a value or a header is changed.

Damaged bytes seldom make another sound header, or a sound dictionary with numbers as keys; here the bytes only choose.
"""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.inspection.identity_findings import load_embeddings
from evaluation.sets.embedding_rows import NpyRows
from evaluation.sets.given_embeddings import read_named_embeddings
from facekd.data.pair_packs.pair_pack import decode_images
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.experiments.studies.comparison import read_draws
from facekd.files.array_file import MAGIC, START_BYTES, open_arrays, save_arrays
from facekd.results.reading import read_curves
from facekd.training.logbook.centre_maps import draw_centre_maps
from tests.fuzz.target import Target
from tests.fuzz.targets.array_targets import check_gallery, gallery_file, read_gallery_as_search
from tests.fuzz.targets.binary_targets import encoded
from tests.fuzz.targets.set_targets import check_cifar, cifar_file, prepare_cifar, read_cifar
from tests.hostile_values import JSON_KINDS, KINDS, changed_by

FREE_MEMORY, MEMORY_A_BYTE = 32 << 20, 50
CHOICES = 9  # bytes: three changes, or as many pairs as fit


def leaf(
    name: str, file_name: str, write: Callable[[Path, bytes], None], read: Callable[[Path], Any], **more: Any
) -> Target:
    """Returns a target whose bytes say what is changed in a valid file; its reader takes memory near the file's size.

    Args:
        name, file_name: see `Target`.
        write: writes the changed file, by the bytes; none change nothing.
        read: reads it.
        more: see `Target`.
    """

    def read_changed(path: Path) -> Any:
        write(path, path.read_bytes())
        tracemalloc.start()
        try:
            return read(path)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < FREE_MEMORY + MEMORY_A_BYTE * path.stat().st_size, f"it takes {peak:,} bytes"

    return Target(name, file_name, read_changed, lambda: [b""], max_len=CHOICES, **{"copies": 30, **more})


@dataclass(frozen=True)
class Member:
    """Holds an array as a file states it, which need not be true."""

    descr: Any
    shape: tuple[int, ...]
    content: bytes
    is_fortran: bool = False
    version: int = 1

    @classmethod
    def of(cls, value: Any) -> Member:
        array = np.asarray(value)
        return cls(np.lib.format.dtype_to_descr(array.dtype), array.shape, array.tobytes())

    def npy(self) -> bytes:
        """Returns the bytes of a .npy file."""
        header = {"descr": self.descr, "fortran_order": self.is_fortran, "shape": self.shape}
        text = repr(header).encode("latin1") + b"\n"
        length = len(text).to_bytes(2 if self.version == 1 else 4, "little")
        return np.lib.format.MAGIC_PREFIX + bytes([self.version, 0]) + length + text + self.content


DESCRIPTIONS: list[Any] = [
    *("<U0", "|S0", "|V0", "<U1", "<U4", ">U4", "|S9", "|V8", "|b1", "|u1", "|i1", "<i4", "<i8", ">i8", "<u8"),
    *("<f2", "<f4", ">f4", "<f8", "<c8", "<M8[s]", "|O", "?", "<f16", "<U1000000000", "x", None, 3),
    *([], [("a", "<f4")], [("a", "<U0")], [("a", "|O")], [("a", "<f4", (2, 2))], ("<f4", (2, 2))),
]
SHAPES: list[Any] = [
    *((), (0,), (1,), (2,), (4,), (2, 1), (1, 2), (2, 2), (4, 0), (0, 4), (2, 1, 1), (-1,), (-1, -1), (2, -2)),
    *((4 * 10**8,), (2**31, 2**31), (2**62, 4), (2**63,), (10**30,), (1,) * 33, (1,) * 65, (True,), (1.5,), ("a",)),
    *(None, [2], 2),
]
SOUND_SHAPES = [(), (2,), (3,), (4,), (5,), (2, 2), (2, 4), (3, 3), (3, 4), (4, 8), (3, 5, 2)]
FILLINGS: list[Any] = [0, 1, -1, 2**62, np.nan, np.inf, 1e-45, True, 1j, "", "a", "\x1b[31m\u202e" * 50, b"a\xff"]
FILLINGS += [np.datetime64("NaT"), np.uint64(2**64 - 1), np.int64(-(2**63)), np.float16(1)]


def _changed_member(member: Member, what: int, which: int) -> Member | None:
    """Returns a member with one part changed; None leaves it out."""
    match what % 8:
        case 0:
            return replace(member, descr=DESCRIPTIONS[which % len(DESCRIPTIONS)])
        case 1:
            return replace(member, shape=SHAPES[which % len(SHAPES)])
        case 2:
            return replace(member, is_fortran=not member.is_fortran, version=1 + which % 4)
        case 3:
            return replace(member, content=member.content[: which * len(member.content) // 256])
        case 4:
            return replace(member, content=bytes([which]) * len(member.content))
        case 5:  # another value everywhere, in a sound array of the same shape or one more
            shape = member.shape if member.shape in SOUND_SHAPES else (2,)
            return Member.of(np.full(shape + (1,) * (which % 2), FILLINGS[which // 2 % len(FILLINGS)]))
        case 6:
            place = which * len(member.content) // 256
            content = member.content[:place] + bytes([which]) + member.content[place + 1 :]
            return replace(member, content=content[: len(member.content)])
        case _:
            return None


def _write_npz(members: dict[str, Member]) -> Callable[[Path, bytes], None]:
    def write(path: Path, choices: bytes) -> None:
        changed: dict[str, Member | None] = {**members}
        names = [*members]
        for which, what, how in zip(choices[::3], choices[1::3], choices[2::3], strict=False):
            name = names[which % len(names)]
            member = changed[name] or members[name]
            if name == "about" and what % 2:
                about = np.frombuffer(members[name].content, members[name].descr)[0]
                changed[name] = Member.of(json.dumps(changed_by(choices[1:], json.loads(str(about)), JSON_KINDS)))
            else:
                changed[name] = _changed_member(member, what, how)
        method = zipfile.ZIP_DEFLATED if len(choices) % 2 else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, member in changed.items():
                if member is not None:
                    archive.writestr(f"{name}.npy", member.npy())

    return write


def _write_npy(path: Path, choices: bytes) -> None:
    member = Member.of(np.ones((4, 8), np.float32))
    for what, how in zip(choices[::2], choices[1::2], strict=False):
        member = _changed_member(member, what, how) or member
    path.write_bytes(member.npy())


IMAGES = [encoded(".png", 4)] * 4
PACK = {
    "format": "facekd-pair-pack",
    "version": 1,
    "data": np.frombuffer(b"".join(IMAGES), np.uint8),
    "offsets": np.cumsum([0, *map(len, IMAGES)], dtype=np.int64),
    "is_same": [True, False],
    "fold_of": np.array([0, 1], np.int64),
    "subjects": [["a", "a"], ["a", "b"]],
}
GIVEN = {"names": ["a/1.jpg", "b/1.jpg"], "embeddings": np.eye(2, 4, dtype=np.float32)}


def _members(arrays: dict[str, Any]) -> dict[str, Member]:
    return {name: Member.of(array) for name, array in arrays.items()}


def _gallery() -> dict[str, Member]:
    with np.load(io.BytesIO(gallery_file())) as arrays:
        return _members({name: arrays[name] for name in arrays.files})


def _read_pack(path: Path) -> Any:
    """Reads a pack, and what an evaluation takes from it."""
    pack = read_pair_pack(path)
    assert len(pack.images) == 2 * len(pack.is_same) and pack.is_same.dtype == np.bool_
    assert pack.subjects is None or pack.subjects.shape == (len(pack), 2)
    decode_images(pack.images[:2], source=path)
    return pack


def _doubled(depth: int) -> tuple[Any, ...]:
    """Returns a tuple that holds one tuple twice, and so on: whoever writes it out or hashes it never ends."""
    value: tuple[Any, ...] = ()
    for _ in range(depth):
        value = (value, value)
    return value


MARK = 7_654_320  # stands for opcodes that pickle never writes
HASHED_ALIKE = b"".join(b"\x8a\x0b" + (k * (2**61 - 1)).to_bytes(11, "little") + b"N" for k in range(1, 60_000))
OPCODES = {
    MARK + 1: b"}(" + HASHED_ALIKE + b"u",
    MARK + 2: b"}" + b")" + b"2\x86" * 40 + b"Ns",
    MARK + 3: b"\x8f(" + HASHED_ALIKE.replace(b"N\x8a", b"\x8a") + b"\x90",
    MARK + 4: b"N" + b"\x94" * 20_000,
    MARK + 5: b"r\xff\xff\xff\x7f",
    MARK + 6: b"\x96" + b"\xff" * 6 + b"\0\0",
}
PICKLED: dict[str, Any] = {
    **{name: value for name, value in KINDS.items() if not isinstance(value, torch.Tensor)},
    **{f"opcodes_{number - MARK}": number for number in OPCODES},
    "numbers_as_keys": dict.fromkeys(range(-50, 50)),
    "few_of_one_hash": {k * (2**61 - 1): None for k in range(-8, 8)},
    "wide_key": {2**80: None},
    "fractions_as_keys": {0.5: 1, float("inf"): 2},
    "pair_as_key": {(1, 2): 3},
    "nothing_as_key": {None: 1, True: 2, b"a": 3},
    "doubled": _doubled(40),
    "doubled_in_a_list": [_doubled(40)] * 4,
    "wide": 2**5000,
    "byte_array": bytearray(b"\x89PNG"),
    "array": np.frombuffer(IMAGES[0], np.uint8),
    "column": np.frombuffer(IMAGES[0], np.uint8)[:, None],
    "square": np.ones((2, 2), np.uint8),
    "labels": np.array([[True], [False]]),
    "labels_in_a_row": np.array([[True, False]]),
    "big_endian": np.array([1, 0], ">i4"),
    "fractions": np.ones(4),
    "objects": np.array([IMAGES[0], None], object),
    "without_shape": np.array(1, np.int64),
    "texts": np.array(["a", "b"]),
    "fields": np.array([(1, 2)], "i4,i4"),
    "of_numpy": np.int64(1),
    "one_of_numpy": np.bool_(True),
}


def _write_pickle(content: dict[str, Any], finish: Callable[[dict[str, Any]], Any]) -> Callable[[Path, bytes], None]:
    def write(path: Path, choices: bytes) -> None:
        changed = finish(changed_by(choices[1:], content, PICKLED) if len(choices) > 2 else content)
        protocol = choices[0] % 6 if choices else 4
        plain = pickle.dumps(changed, protocol)
        # Frames have lengths, which the opcodes would change; protocol 2 has none.
        marked = pickle.dumps(changed, 2)
        for number, opcodes in OPCODES.items():
            if (mark := b"J" + number.to_bytes(4, "little")) in marked:
                plain = marked = marked.replace(mark, opcodes)
        path.write_bytes(plain)

    return write


PAIRS = {"images": IMAGES, "is_same": [True, False]}
DRAWS = {"eer": np.linspace(0.1, 0.2, 4), "fars": [0.01, 0.1], "tar": np.linspace(0.5, 0.9, 8).reshape(2, 4)}
POINTS = [{"far": far, "tar": tar, "achieved_far": far} for far, tar in zip(DRAWS["fars"], (0.6, 0.8), strict=True)]
RESULT: dict[str, Any] = {
    "bootstrap": {"resampled": "subjects", "replicates": 4, "num_subjects": 3},
    "tar_at_far": POINTS,
    "eer": 0.15,
    "eer_ci95": np.quantile(DRAWS["eer"], (0.025, 0.975)).tolist(),
    "identification": {"gallery": {"tpir_at_fpir": [{"fpir": 0.1}]}},
}
CURVES = {
    "roc_far": [0.0, 0.01, 0.1, 1.0],
    "roc_tar": [0.5, 0.6, 0.8, 1.0],
    "cmc_gallery": [0.5, 0.75],
    "dir_gallery_fpir": [0.0, 1.0],
    "dir_gallery_tpir": [0.25, 0.5],
    "map_person": [0, 1],
    "map_x": [0.5, 1.5],
    "map_y": [0.5, 1.5],
    "histogram_edges": [0.0, 0.5, 1.0],
    "histogram_genuine": [1, 2],
    "histogram_impostor": [2, 1],
}
CENTRES = {"classes": [0, 1], "means": np.eye(2), "rows": np.eye(2, dtype=np.float32)}
STORED = {"labels": np.arange(40, dtype=np.int64), "names": np.array(["a", "bc"])}
HEADERS: dict[str, Any] = {
    **JSON_KINDS,
    **{str(descr): descr for descr in DESCRIPTIONS if isinstance(descr, str)},
    **{f"shape {shape}": [*shape] for shape in SHAPES if isinstance(shape, tuple)},
}


def _write_stored(path: Path, choices: bytes) -> None:
    """Writes an array file with a changed header of a right checksum."""
    save_arrays(path, {"source": {"stamp": [1, 2]}}, STORED)
    whole = path.read_bytes()
    end = START_BYTES + int.from_bytes(whole[8:12], "little")
    header = json.dumps(changed_by(choices, json.loads(whole[START_BYTES:end]), HEADERS)).encode()
    header += b" " * (-(START_BYTES + len(header)) % 64)
    start = MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little")
    path.write_bytes(start + header + whole[end:])


def _read_stored(path: Path) -> Any:
    about, arrays = open_arrays(path)
    return about, {name: array.tobytes() for name, array in arrays.items()}


def _prepare_cifar(folder: Path) -> None:
    import torchvision.datasets  # noqa: F401 - whose memory is none of the file's

    prepare_cifar(folder)


TARGETS = [
    leaf("pairs_npz_leaf", "pack.npz", _write_npz(_members(PACK)), _read_pack),
    leaf("gallery_leaf", "faces.npz", _write_npz(_gallery()), read_gallery_as_search, check=check_gallery),
    leaf("given_leaf", "given.npz", _write_npz(_members(GIVEN)), lambda path: read_named_embeddings(path, False)),
    leaf("npy_leaf", "e.npy", _write_npy, lambda path: load_embeddings(path, 4)),
    leaf("npy_rows_leaf", "e.npy", _write_npy, lambda path: NpyRows(path, None, False, 4).read(0, 4)),
    leaf("draws_leaf", "draws.npz", _write_npz(_members(DRAWS)), lambda path: read_draws(path.parent, RESULT)),
    leaf("curves_leaf", "curves.npz", _write_npz(_members(CURVES)), lambda path: read_curves(path.parent, RESULT)),
    leaf(
        "centres_leaf",
        "centres.npz",
        _write_npz(_members(CENTRES)),
        lambda path: draw_centre_maps(path.parent),
        finds=False,  # too few classes for a picture
    ),
    leaf("array_file_leaf", "cache", _write_stored, _read_stored),
    leaf("pairs_bin_leaf", "pack.bin", _write_pickle(PAIRS, lambda pack: [*pack.values()]), _read_pack),
    leaf(
        "cifar_leaf",
        "train",
        _write_pickle(cifar_file(2), dict),
        read_cifar,
        check=check_cifar,
        prepare=_prepare_cifar,
        copies=10,
        is_named=False,
    ),
]
