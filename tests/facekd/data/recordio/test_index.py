"""The index of a record file: parsed, cached, or found again by scanning."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.data.recordio import Header, RecordReader, RecordWriter, pack
from facekd.data.recordio.idx_file import parse_idx, write_idx
from facekd.data.recordio.index import load_index, scan_records
from facekd.errors import RecordError

MAGIC = bytes.fromhex("0a23d7ce")


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def write_records(path: Path, payloads: list[bytes], first_key: int = 0) -> Path:
    with RecordWriter(path) as writer:
        for key, payload in enumerate(payloads, start=first_key):
            writer.write(key, payload)
    return path


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("cut", [0, 1])
def test_an_index_comes_back(tmp_path: Path, is_sorted: bool, cut: int) -> None:
    generator = np.random.default_rng(0)
    keys = np.arange(200_000) if is_sorted else generator.permutation(200_000)
    offsets = np.cumsum(generator.integers(1, 40_000, 200_000)) * 4
    write_idx(tmp_path / "a.idx", keys, offsets)
    content = (tmp_path / "a.idx").read_bytes()
    (tmp_path / "a.idx").write_bytes(content[: len(content) - cut])  # some tools leave the last newline out
    found_keys, found_offsets = parse_idx(tmp_path / "a.idx")
    np.testing.assert_array_equal(found_keys, keys)
    np.testing.assert_array_equal(found_offsets, offsets)


@settings(max_examples=80)
@given(
    key_digits=st.integers(1, 18),
    offset_digits=st.integers(1, 18),
    num_lines=st.integers(1, 400),
    seed=st.integers(0, 2**32),
    is_sorted=st.booleans(),
    last_newline=st.booleans(),
)
def test_any_numbers_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    key_digits: int,
    offset_digits: int,
    num_lines: int,
    seed: int,
    is_sorted: bool,
    last_newline: bool,
) -> None:
    """Lines of one layout are read together: whatever the layouts, and wherever they change, nothing may shift."""
    generator = np.random.default_rng(seed)
    keys, offsets = (
        generator.integers(0, 10 ** generator.integers(1, digits + 1, num_lines))
        for digits in (key_digits, offset_digits)
    )
    offsets -= offsets % 4
    if is_sorted:
        keys, offsets = np.sort(keys), np.sort(offsets)
    idx = tmp_path_factory.mktemp("idx") / "a.idx"
    text = "".join(f"{key}\t{offset}\n" for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True))
    idx.write_text(text if last_newline else text[:-1])
    found_keys, found_offsets = parse_idx(idx)
    assert found_keys.tolist() == keys.tolist()
    assert found_offsets.tolist() == offsets.tolist()


@pytest.mark.parametrize("character", ["/", ":", "x", "\0", "\xff"])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_wrong_character_is_seen_wherever_it_stands(tmp_path: Path, character: str, place: int) -> None:
    lines = [f"{key}\t{4 * key}" for key in range(1000, 1100)]
    lines[70] = lines[70][:place] + character + lines[70][place + 1 :]
    (tmp_path / "a.idx").write_bytes("\n".join(lines).encode("latin1"))
    with pytest.raises(RecordError, match=r"a\.idx"):
        parse_idx(tmp_path / "a.idx")


@pytest.mark.parametrize(
    "text", ["7\t0\n3\t16\n", "7\t0\n3\t16", "7 0\n3 16\n", "7\t0\r\n3\t16\r\n", "\n7\t0\n\n3\t16\n"]
)
def test_indexes_of_other_tools_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.idx").write_bytes(text.encode())
    keys, offsets = parse_idx(tmp_path / "a.idx")
    assert (keys.tolist(), offsets.tolist()) == ([7, 3], [0, 16])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.idx is empty"),
        ("1\t0\nx\t4\n", r"a.idx is not an index.*: line 2 is 'x\\t4'"),
        ("1\t0\n2\t4\t5\n", "a.idx is not an index"),
        ("1\t0\n2\t2\u09345\n", "a.idx is not an index.*: line 2"),
        ("1\t0\t1\n2\t4\t5\n", r"line 1 is '1\\t0\\t1'"),
        ("0\t0\n1 8\t16\n\t24\n", r"line 2 is '1 8\\t16'"),  # the numbers of two lines, but not two in each
        ("0-4\t\n8\t16\n", r"line 1 is '0-4\\t'"),
        ("99999999999999999999\t0\n7\t16\n", r"line 1 is '99999999999999999999\\t0'"),
        ("1\t0\n2\t1.5\n", "a.idx is not an index"),
        ("1\t0\n2\t-4\n", "line 2: key 2 has offset -4"),
        ("1\t0\n2\t7\n", "line 2: key 2 has offset 7, and records start at multiples of 4"),
        ("1\t0\n2\t99999999999999999999\n", "a.idx"),
    ],
)
def test_a_file_that_is_no_index_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(RecordError, match=message):
        parse_idx(tmp_path / "a.idx")


def test_the_cache_serves_until_a_file_changes(tmp_path: Path) -> None:
    rec = write_records(tmp_path / "a.rec", [b"one", b"two", b"three"])
    idx = rec.with_suffix(".idx")
    first = load_index(rec, idx, min_rows_to_cache=1)
    again = load_index(rec, idx, min_rows_to_cache=1)
    assert not first.is_cached and again.is_cached
    for name in ("keys", "offsets", "extents"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    swapped = idx.read_text().splitlines()[::-1]
    status = idx.stat()
    idx.write_text("\n".join(swapped) + "\n")
    os.utime(idx, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # the same size, a nanosecond later
    changed = load_index(rec, idx, min_rows_to_cache=1)
    assert not changed.is_cached
    assert changed.keys.tolist() == [2, 1, 0]
    assert load_index(rec, idx, min_rows_to_cache=1).is_cached
    write_records(rec, [b"one", b"two", b"three", b"four"])
    assert load_index(rec, idx, min_rows_to_cache=1).keys.tolist() == [0, 1, 2, 3]


def test_a_reader_with_a_cached_index_travels_without_it(tmp_path: Path) -> None:
    num = 60_000  # more than the number of rows from which an index is cached
    path = write_records(tmp_path / "a.rec", [b"abcd"] * num)
    size_before = len(pickle.dumps(RecordReader(path)))
    reader = RecordReader(path)
    assert reader.index.is_cached
    travelling = pickle.dumps(reader)
    assert len(travelling) < 2000 < size_before
    assert pickle.loads(travelling).read(num - 1) == b"abcd"


@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    rec = write_records(tmp_path / "a.rec", [b"one", b"two"])
    load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1)
    cache = tmp_path / "a.facekd-index"
    content = cache.read_bytes()
    cache.write_bytes({"empty": b"", "cut": content[:-8], "other": b"\0" * len(content)}[damage])
    assert not load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1).is_cached
    assert load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1).is_cached


def test_whatever_byte_of_the_cache_is_damaged_the_index_is_right(tmp_path: Path) -> None:
    rec = write_records(tmp_path / "a.rec", [b"one", b"two", b"three" * 9])
    expected = load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1)
    cache = tmp_path / "a.facekd-index"
    whole = cache.read_bytes()
    for place in range(0, len(whole), 9):
        cache.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        found = load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1)
        for name in ("keys", "offsets", "extents"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_read_only_folder_is_left_alone(tmp_path: Path, own_cache_folder: Path) -> None:
    folder = tmp_path / "data"
    rec = write_records(folder / "a.rec", [b"one", b"two"])
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o555)
    try:
        load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1)
        assert sorted(file.name for file in folder.iterdir()) == ["a.idx", "a.rec"]
        assert load_index(rec, rec.with_suffix(".idx"), min_rows_to_cache=1).is_cached  # from the user's cache folder
        assert len(list((own_cache_folder / "facekd").iterdir())) == 1
    finally:
        folder.chmod(mode)


def test_no_place_for_a_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = tmp_path / "data"
    rec = write_records(folder / "a.rec", [b"one"])
    folder.chmod(0o555)
    try:
        assert not load_index(rec, None, min_rows_to_cache=1).is_cached
        assert not load_index(rec, None, min_rows_to_cache=1).is_cached
    finally:
        folder.chmod(0o755)


def image_payloads(ids: list[int]) -> list[bytes]:
    return [pack(Header(0, 1.0, identifier, 0), b"image" * (identifier % 7)) for identifier in ids]


def test_a_scan_finds_the_records_and_their_keys(tmp_path: Path) -> None:
    rec = tmp_path / "a.rec"
    ids = [5, 900, 3, 17]
    with RecordWriter(rec) as writer:
        for identifier, payload in zip(ids, image_payloads(ids), strict=True):
            writer.write(identifier, payload)
    keys, offsets = parse_idx(rec.with_suffix(".idx"))
    found_keys, found_offsets, damage = scan_records(rec)
    assert (found_keys.tolist(), found_offsets.tolist(), damage) == (keys.tolist(), offsets.tolist(), [])


def test_ids_that_repeat_give_way_to_positions(tmp_path: Path) -> None:
    rec = write_records(tmp_path / "a.rec", image_payloads([4, 4, 4]))
    assert scan_records(rec)[0].tolist() == [0, 1, 2]
    headed = [*image_payloads([4, 4]), pack(Header(2, np.array([3, 3], np.float32), 4, 0), b"")]
    assert scan_records(write_records(tmp_path / "b.rec", headed))[0].tolist() == [1, 2, 0]


def test_a_scan_steps_over_damage_and_says_where(tmp_path: Path) -> None:
    payloads = image_payloads([1, 2, 3, 4, 5, 6])
    rec = write_records(tmp_path / "a.rec", payloads, first_key=1)
    _, offsets = parse_idx(rec.with_suffix(".idx"))
    whole = rec.read_bytes()

    def scan(content: bytes) -> tuple[list[int], list[str]]:
        rec.write_bytes(content)
        keys, _, damage = scan_records(rec)
        return keys.tolist(), damage

    keys, damage = scan(whole[:-3])
    assert keys == [1, 2, 3, 4, 5]
    assert damage == [f"the record at offset {offsets[5]} is cut short by the end of the file"]
    keys, damage = scan(whole[: offsets[2]] + b"\0\0\0\0" + whole[offsets[2] + 4 :])
    assert keys == [1, 2, 4, 5, 6]
    assert damage == [f"bytes {offsets[2]} to {offsets[3]} are no record"]
    keys, damage = scan(whole[: offsets[2] + 4] + b"\xff\xff\0\0" + whole[offsets[2] + 8 :])  # a wrong length
    assert keys == [1, 2, 4, 5, 6]
    assert damage == [f"the record at offset {offsets[2]} is cut short by the end of the file"]
    length = (offsets[4] + 4 - offsets[2] - 8).item().to_bytes(4, "little")  # to amid record 5
    keys, damage = scan(whole[: offsets[2] + 4] + length + whole[offsets[2] + 8 :])
    assert keys == [1, 2, 4, 5, 6]
    assert damage == [f"the record at offset {offsets[2]} runs into the one after it"]
    keys, damage = scan(b"not a record" + whole)
    assert keys == [1, 2, 3, 4, 5, 6] and damage == ["bytes 0 to 12 are no record"]


def test_a_payload_that_another_tool_did_not_split_does_not_mislead_a_scan(tmp_path: Path) -> None:
    """Some writers ignore the rule about the magic number: the length of the record then decides."""
    payload = b"abcd" + MAGIC + b"efgh"
    naive = MAGIC + len(payload).to_bytes(4, "little") + payload
    (tmp_path / "a.rec").write_bytes(naive * 3)
    keys, offsets, damage = scan_records(tmp_path / "a.rec")
    assert (keys.tolist(), offsets.tolist(), damage) == ([0, 1, 2], [0, 20, 40], [])


def test_a_reader_refuses_a_damaged_file_without_an_index_unless_asked(tmp_path: Path) -> None:
    rec = write_records(tmp_path / "a.rec", image_payloads([1, 2, 3]), first_key=1)
    rec.with_suffix(".idx").unlink()
    rec.write_bytes(rec.read_bytes()[:-4])
    with pytest.raises(RecordError, match=r"no .idx, and scanning it found 1 damaged place.*the 2 whole records"):
        RecordReader(rec)
    assert RecordReader(rec, allow_truncated=True).keys.tolist() == [1, 2]


@pytest.mark.parametrize("content", [b"", b"abc", b"nothing of the kind", MAGIC])
def test_a_file_without_records_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.rec").write_bytes(content)
    with pytest.raises(RecordError, match=r"a.rec holds no RecordIO record"):
        RecordReader(tmp_path / "a.rec")


def test_scanning_the_packs_of_mxnet_finds_their_index(real_data: Callable[[str], Path]) -> None:
    for name in ("lfw_train/train", "recordio/popkorn/train"):
        keys, offsets = parse_idx(real_data(f"{name}.idx"))
        order = np.argsort(offsets)
        found_keys, found_offsets, damage = scan_records(real_data(f"{name}.rec"))
        np.testing.assert_array_equal(found_keys, keys[order])
        np.testing.assert_array_equal(found_offsets, offsets[order])
        assert damage == []
