"""RecordIO: what is written can be read, by us and by a naive reading of the format; what is damaged says so."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.data.recordio import Header, RecordReader, RecordWriter, first_label, pack, unpack
from facekd.data.recordio.format import frame
from facekd.errors import InUseError, RecordError

MAGIC = bytes.fromhex("0a23d7ce")
# Payloads in which the magic number turns up at every alignment.
PAYLOADS = st.lists(st.sampled_from([MAGIC, MAGIC, b"a", b"bcde", b"\0\0", b"\xff" * 9]), max_size=9).map(b"".join)


def write_records(path: Path, records: dict[int, bytes]) -> Path:
    with RecordWriter(path) as writer:
        for key, payload in records.items():
            writer.write(key, payload)
    return path


def read_naively(content: bytes) -> list[bytes]:
    """All payloads of a `.rec` file, read part by part as `docs/formats.md` says."""
    payloads: list[bytes] = []
    parts: list[bytes] = []
    position = 0
    while position < len(content):
        magic, word = struct.unpack_from("<II", content, position)
        assert magic == 0xCED7230A
        flag, length = word >> 29, word & (2**29 - 1)
        parts.append(content[position + 8 : position + 8 + length])
        position += 8 + length
        assert not any(content[position : position + -length % 4])
        position += -length % 4
        if flag in (0, 3):
            payloads.append(MAGIC.join(parts))
            parts = []
    assert not parts
    return payloads


@settings(max_examples=60)
@given(payloads=st.lists(PAYLOADS, min_size=1, max_size=8))
def test_any_payload_comes_back(tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("records") / "any.rec"
    write_records(path, dict(enumerate(payloads)))
    assert read_naively(path.read_bytes()) == payloads
    with RecordReader(path) as reader:
        assert [reader.read(key) for key in range(len(payloads))] == payloads
    path.with_suffix(".idx").unlink()
    with RecordReader(path) as scanned:  # a scan finds the same records
        assert [bytes(scanned.read_row(row)) for row in range(len(scanned))] == payloads


@given(payload=PAYLOADS)
def test_no_aligned_magic_but_at_the_start_of_a_part(payload: bytes) -> None:
    """The point of splitting: a reader that looks for the magic number is never misled."""
    content = frame(payload)
    starts = [i for i in range(0, len(content), 4) if content[i : i + 4] == MAGIC]
    position, parts = 0, []
    while position < len(content):
        parts.append(position)
        length = struct.unpack_from("<I", content, position + 4)[0] & (2**29 - 1)
        position += 8 + (length + 3) // 4 * 4
    assert starts == parts


@pytest.mark.parametrize(
    "header",
    [
        Header(0, 3.0, 17, 0),
        Header(0, -0.25, 2**64 - 1, 2**64 - 1),
        Header(1, np.array([5], np.float32), 1, 2),
        Header(4, np.array([1, 2.5, np.inf, -3], np.float32), 0, 1),
    ],
)
def test_headers_come_back(header: Header) -> None:
    found, image = unpack(pack(header, b"image"))
    assert image == b"image"
    assert (found.flag, found.id, found.id2) == (header.flag, header.id, header.id2)
    np.testing.assert_array_equal(found.label, header.label)
    assert first_label(found) == np.atleast_1d(header.label)[0]


def test_pack_sets_the_flag_from_the_label_as_mxnet_does() -> None:
    assert unpack(pack(Header(7, 2.0, 0, 0), b""))[0].flag == 0
    assert unpack(pack(Header(0, np.zeros(3, np.float32), 0, 0), b""))[0].flag == 3


def test_a_class_label_that_float32_would_change_is_refused() -> None:
    assert unpack(pack(Header(0, 2**24, 0, 0), b""))[0].label == 2**24
    with pytest.raises(RecordError, match=r"label 16777217 does not survive float32"):
        pack(Header(0, 2**24 + 1, 0, 0), b"")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"short", "5 bytes is too short for an image header"),
        (struct.pack("<IfQQ", 1000, 0, 9, 0), "id 9: the header announces 1,000 labels"),
    ],
)
def test_a_payload_that_is_no_image_record_says_so(payload: bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        unpack(payload)


def test_keys_keep_their_order_and_need_not_be_sorted(tmp_path: Path) -> None:
    records = {30: b"thirty", 10: b"ten", 4_000_000_000_000: b"far", 20: b""}
    with RecordReader(write_records(tmp_path / "a.rec", records)) as reader:
        assert reader.keys.dtype == np.int64
        assert reader.keys.tolist() == list(records)
        assert len(reader) == 4
        assert {key: reader.read(key) for key in reader.keys} == records
        assert bytes(reader.read_view(10)) == b"ten"
        with pytest.raises(
            RecordError, match=r"no record has key 11; its 4 keys lie between 10 and 4000000000000"
        ) as info:
            reader.read(11)
        assert info.value.key == 11
        with pytest.raises(RecordError, match="no record has key -1"):
            reader.read(-1)


def test_an_index_that_lists_few_of_the_records_still_reads_them(tmp_path: Path) -> None:
    big = np.random.default_rng(0).bytes(3 << 20)  # more than is read at once
    path = write_records(tmp_path / "a.rec", {0: b"zero", 1: big, 2: big[::-1], 3: b"three"})
    idx = path.with_suffix(".idx")
    idx.write_text("".join(line + "\n" for line in idx.read_text().splitlines() if not line.startswith("2")))
    with RecordReader(path) as reader:
        assert reader.read(0) == b"zero"
        assert reader.read(1) == big
        assert reader.read(3) == b"three"


def test_a_truncated_file_is_refused_at_once_and_can_be_read_in_part(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", {key: bytes([key]) * 100 for key in range(10)})
    whole = path.read_bytes()
    for lost in (1, 3, 60, 108, 109, 500):
        path.write_bytes(whole[: len(whole) - lost])
        with pytest.raises(
            RecordError, match=r"a.rec \([\d,]+ bytes\) is truncated.*record 9 at offset 972.*--on-bad-record"
        ) as info:
            RecordReader(path)
        assert (info.value.key, info.value.offset) == (9, 972)
        with RecordReader(path, allow_truncated=True) as reader:
            num_whole = (len(whole) - lost) // 108
            assert [reader.read(key) for key in range(num_whole)] == [bytes([key]) * 100 for key in range(num_whole)]
            for key in range(num_whole, 10):
                with pytest.raises(
                    RecordError,
                    match=rf"record {key} at offset {108 * key:,} is (cut short|missing)",
                ):
                    reader.read(key)


def test_a_corrupt_record_names_its_key_and_offset_and_spares_the_others(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", dict.fromkeys(range(100, 120), b"payload!"))
    content = bytearray(path.read_bytes())
    content[16 * 7 : 16 * 7 + 4] = b"\0\0\0\0"
    path.write_bytes(content)
    with RecordReader(path) as reader:
        with pytest.raises(
            RecordError, match=r"a.rec: record 107 at offset 112 has 0x0+ at byte 112 where the magic"
        ) as info:
            reader.read(107)
        assert (info.value.key, info.value.offset) == (107, 112)
        assert all(reader.read(key) == b"payload!" for key in range(100, 120) if key != 107)


def test_a_split_record_with_a_lost_part_says_so(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", {0: b"abcd" + MAGIC + b"efgh", 1: b"next"})
    content = path.read_bytes()
    path.write_bytes(content[:12] + content[24:])  # without the last part of record 0
    path.with_suffix(".idx").write_text("0\t0\n1\t12\n")
    with RecordReader(path) as reader:
        assert reader.read(1) == b"next"
        with pytest.raises(RecordError, match="record 0 at offset 0 is split and its part at byte 12 is missing"):
            reader.read(0)


def test_the_index_of_another_file_is_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    one = write_records(tmp_path / "one.rec", {i: generator.bytes(int(generator.integers(50, 90))) for i in range(50)})
    other = write_records(
        tmp_path / "other.rec", {i: generator.bytes(int(generator.integers(50, 90))) for i in range(50)}
    )
    with pytest.raises(
        RecordError, match=r"one.idx does not belong to .*other.rec \([\d,]+ bytes\).*facekd data index"
    ):
        RecordReader(other, one.with_suffix(".idx"))
    one.with_suffix(".idx").write_text("0\t0\n1\t4\n2\t8\n3\t12\n")
    with pytest.raises(RecordError, match="record 1 at offset 4, and none starts there, nor at 2 of 3 other places"):
        RecordReader(other, one.with_suffix(".idx"))
    small = write_records(tmp_path / "small.rec", {0: b"1234"})
    small.with_suffix(".idx").write_text("5\t4000\n")
    with pytest.raises(RecordError, match=r"record 5 at offset 4,000, and the file ends before that"):
        RecordReader(small, allow_truncated=True)


def test_missing_and_mistaken_files_are_named(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", {0: b"x"})
    with pytest.raises(RecordError, match=r"b.rec: no such record file"):
        RecordReader(tmp_path / "b.rec")
    with pytest.raises(RecordError, match=r"b.idx: no such index"):
        RecordReader(path, tmp_path / "b.idx")
    with pytest.raises(RecordError, match=r"a.idx is an index; give the .rec"):
        RecordReader(path.with_suffix(".idx"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_records_at_once(tmp_path: Path, method: str) -> None:
    records = {key: np.random.default_rng(key).bytes(3000) for key in range(400)}
    reader = RecordReader(write_records(tmp_path / "a.rec", records))
    reader.read(0)  # the file is open before the workers start
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        answers = list(pool.map(reader.read, records, chunksize=50, timeout=60))
    assert answers == list(records.values())


def test_forked_children_share_an_open_reader_without_disturbing_each_other(tmp_path: Path) -> None:
    """With a shared file position, interleaved reads of forked loader workers corrupt each other (mxnet issue 9974)."""
    records = {key: bytes([key % 251]) * 2000 for key in range(500)}
    reader = RecordReader(write_records(tmp_path / "a.rec", records))
    reader.read(0)
    context = multiprocessing.get_context("fork")

    def check(seed: int) -> None:
        for key in np.random.default_rng(seed).integers(0, 500, 2000).tolist():
            if reader.read(key) != records[key]:
                os._exit(1)

    children = [context.Process(target=check, args=(seed,)) for seed in range(3)]
    for child in children:
        child.start()
    check(99)
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]


def test_threads_may_share_a_reader(tmp_path: Path) -> None:
    records = {key: bytes([key]) * 500 for key in range(200)}
    reader = RecordReader(write_records(tmp_path / "a.rec", records))
    wrong: list[int] = []

    def check() -> None:
        wrong.extend(key for key in records if reader.read(key) != records[key])

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_reader_works_again_after_pickling_and_closing(tmp_path: Path) -> None:
    reader = RecordReader(write_records(tmp_path / "a.rec", {5: b"five"}))
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert copy.read(5) == b"five"
    assert reader.read(5) == b"five"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list the open files")
def test_a_reader_that_nobody_holds_closes_its_file(tmp_path: Path) -> None:
    def times_open() -> int:
        return sum(link.resolve() == path.resolve() for link in Path("/proc/self/fd").iterdir())

    path = write_records(tmp_path / "a.rec", {0: b"a record"})
    reader = RecordReader(path)
    assert repr(reader) == f"RecordReader('{path}', 1 record)" and times_open() == 1
    del reader
    gc.collect()  # where something traces calls, frames hold it for a while
    assert times_open() == 0


def test_an_exception_leaves_the_old_files_as_they_were(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.rec", {0: b"old"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail_halfway() -> None:
        with RecordWriter(path) as writer:
            writer.write(0, b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    write_records(path, {7: b"new"})
    assert RecordReader(path).read(7) == b"new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    script = (
        "import os, sys; from facekd.data.recordio import RecordWriter; w = RecordWriter(sys.argv[1]);"
        "w.write(0, bytes(5_000_000)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.rec"], timeout=60)
    assert not (tmp_path / "a.rec").exists()
    assert len(list(tmp_path.iterdir())) == 1  # the partial file
    write_records(tmp_path / "a.rec", {1: b"one"})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.idx", "a.rec"]
    assert RecordReader(tmp_path / "a.rec").read(1) == b"one"


def test_a_full_disk_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: the system refuses the write in the same way."""
    path = write_records(tmp_path / "a.rec", {0: b"old"})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    script = (
        "import resource, signal, sys; from facekd.data.recordio import RecordWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, -1))\n"
        "try:\n"
        "    with RecordWriter(sys.argv[1]) as writer:\n"
        "        for key in range(int(sys.argv[2])): writer.write(key, bytes(100_000))\n"
        "except OSError as error:\n"
        "    print(error.errno, error.filename)\n"
    )
    for num_records in (100, 21):  # refused while writing, and at the last flush
        done = subprocess.run(
            [sys.executable, "-c", script, path, str(num_records)], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.split() == [str(errno.EFBIG), str(path)], done.stderr
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(0, b"first")
        with pytest.raises(InUseError, match=r"another process is writing .*a.rec"):
            RecordWriter(tmp_path / "a.rec")
        writer.write(1, b"still first")
    assert RecordReader(tmp_path / "a.rec").read(1) == b"still first"


def test_a_reader_sent_to_a_worker_refuses_a_file_that_was_replaced(tmp_path: Path) -> None:
    for payload in (b"first", b"other"):  # of the same size
        with RecordWriter(tmp_path / "a.rec") as writer:
            writer.write(0, payload)
        if payload == b"first":
            sent = pickle.dumps(RecordReader(tmp_path / "a.rec"))
            assert pickle.loads(sent).read(0) == b"first"
    with pytest.raises(RecordError, match=r"a\.rec: was replaced or changed since it was opened; start again"):
        pickle.loads(sent).read(0)


def test_unusable_keys_are_refused(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.rec") as writer:
        for key in (3, 0):
            writer.write(key, b"")
            with pytest.raises(RecordError, match=f"key {key} has been written already"):
                writer.write(key, b"")
        with pytest.raises(RecordError, match="key -1 is negative"):
            writer.write(-1, b"")
    with pytest.raises(RecordError, match="the writer is closed"):
        writer.write(4, b"")


def test_split_records_of_mxnet(real_data: Callable[[str], Path]) -> None:
    truth = real_data("recordio/multipart_payloads.hex").read_text().split("\n")
    with RecordReader(real_data("recordio/multipart.rec")) as reader:
        assert len(reader) == 10
        assert [reader.read(key).hex() for key in range(10)] == truth[:10]


def test_rewriting_the_records_of_mxnet_gives_its_bytes(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("recordio/multipart", "recordio/labels", "lfw_train/train"):
        rec = real_data(f"{name}.rec")
        with RecordReader(rec) as reader:
            write_records(tmp_path / "copy.rec", {key: reader.read(key) for key in reader.keys.tolist()})
        assert (tmp_path / "copy.rec").read_bytes() == rec.read_bytes()
        assert (tmp_path / "copy.idx").read_bytes() == rec.with_suffix(".idx").read_bytes()


def test_labels_of_mxnet(real_data: Callable[[str], Path]) -> None:
    with RecordReader(real_data("recordio/labels.rec")) as reader:
        assert reader.keys.tolist() == [30, 10, 20]
        scalar, array, single = (unpack(reader.read(key)) for key in (30, 10, 20))
    assert scalar == (Header(0, 7.0, 11, 12), b"payload30")
    assert array[0].label.tolist() == [1, 2, 3] and array[1] == b"payload10"  # type: ignore[union-attr]
    assert single[0].label.tolist() == [9] and single[0].flag == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("bit", range(2, 12))
def test_a_flipped_bit_in_a_length_is_noticed(bit: int, tmp_path: Path) -> None:
    # Bits 0 and 1 hide in the padding. The record after next is not in the index, which alone is no damage.
    rec = tmp_path / "a.rec"
    with RecordWriter(rec, rec.with_suffix(".idx")) as writer:
        for key in range(4):
            writer.write(key, bytes([key + 1]) * (1000 + key))
    lines = rec.with_suffix(".idx").read_text().splitlines(keepends=True)
    rec.with_suffix(".idx").write_text("".join(lines[:2] + lines[3:]))
    with RecordReader(rec) as reader:
        assert [len(reader.read(key)) for key in (0, 1, 3)] == [1000, 1001, 1003]
        offset = reader.offset_of(0)
    content = bytearray(rec.read_bytes())
    content[offset + 4 + bit // 8] ^= 1 << bit % 8
    rec.write_bytes(content)
    with (
        RecordReader(rec) as reader,
        pytest.raises(RecordError, match=r"record 0 at .*length field is corrupt"),
    ):
        reader.read(0)
