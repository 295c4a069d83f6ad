"""Images by the batch, from the mapped file: what reading them one by one gives, and the same complaints."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.data.datasets.sharded_records import ShardedRecords, shard_path
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack
from facekd.errors import RecordError

MAGIC = bytes.fromhex("0a23d7ce")
IMAGES = [bytes([number]) * (number + 1) for number in range(20)] + [b"abcd" + MAGIC + b"a split image", b"x" * 3]
LABELS = [number // 4 for number in range(len(IMAGES))]


def write_pack(folder: Path, layout: str) -> RecordPack:
    with RecordPackWriter(folder, image_size=112, layout=layout) as writer:  # type: ignore[arg-type]
        for label, image in zip(LABELS, IMAGES, strict=True):
            writer.add(label, image)
    return open_record_pack(folder)


def one_by_one(data: RecordPack | ShardedRecords, images: np.ndarray) -> list[tuple[bytes, int]]:
    return [data.read_image(image) for image in images.tolist()]


def by_the_batch(data: RecordPack | ShardedRecords, images: np.ndarray) -> list[tuple[bytes, int]]:
    encoded, labels = data.read_images(images)
    assert labels.dtype == np.int64
    return list(zip(map(bytes, encoded), labels.tolist(), strict=True))


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_a_batch_is_the_images_one_by_one(tmp_path: Path, layout: str) -> None:
    data = write_pack(tmp_path, layout)
    for images in (np.arange(len(data)), np.array([21, 3, 20, 3, 0]), np.zeros(0, np.int64)):
        assert by_the_batch(data, images) == one_by_one(data, images)
    assert one_by_one(data, np.arange(len(data))) == list(zip(IMAGES, LABELS, strict=True))


def test_views_outlive_the_pack_and_a_pickled_one_maps_anew(tmp_path: Path) -> None:
    data = write_pack(tmp_path, "im2rec")
    encoded, _ = data.read_images(np.arange(5))
    copy = pickle.loads(pickle.dumps(data))
    data.reader.close()
    del data
    assert [bytes(image) for image in encoded] == IMAGES[:5]
    assert by_the_batch(copy, np.array([7])) == [(IMAGES[7], LABELS[7])]


def test_an_index_in_another_order_or_of_some_records_reads_the_same(tmp_path: Path) -> None:
    write_pack(tmp_path, "im2rec")
    idx = tmp_path / "train.idx"
    idx.write_text("".join(idx.read_text().splitlines(keepends=True)[::-3]))
    data = open_record_pack(tmp_path)
    images = np.arange(len(data))
    assert by_the_batch(data, images) == [(IMAGES[key], LABELS[key]) for key in data.image_keys.tolist()]


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    for number in range(3):
        with RecordPackWriter(shard_path(tmp_path, number, 3), image_size=112, layout="im2rec") as writer:
            for image in range(number, len(IMAGES), 3):
                writer.add(LABELS[image], IMAGES[image], key=image)
    (tmp_path / "property").write_text("6,112,112\n")
    data = ShardedRecords(tmp_path)
    images = np.random.default_rng(0).permutation(len(IMAGES))
    assert by_the_batch(data, images) == one_by_one(data, images)
    assert by_the_batch(data, images[:0]) == []
    with pytest.raises(IndexError, match="images 0 to 22 of 22"):
        data.read_images(np.array([0, 22]))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (pack(Header(0, -1.0, 4, 0), b"x"), "its label is -1.0"),
        (pack(Header(0, np.nan, 4, 0), b"x"), "its label is nan"),
        (pack(Header(0, 0.5, 4, 0), b"x"), "its label is 0.5"),
        (pack(Header(0, 1.0, 4, 0), b""), "it holds no image"),
        (pack(Header(2, np.array([1, 1]), 4, 0), b"")[:-4], "announces 2 labels"),
        (b"short", "too short for an image header"),
    ],
)
def test_a_bad_record_is_named_as_when_read_alone(tmp_path: Path, payload: bytes, message: str) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in range(6):
            writer.write(key, payload if key == 4 else pack(Header(0, 1.0, key, 0), b"image"))
    data = open_record_pack(tmp_path)
    with pytest.raises(RecordError, match=rf"record 4 at offset \d+: .*{message}") as alone:
        data.read_image(4)
    with pytest.raises(RecordError) as together:
        data.read_images(np.array([0, 4, 5]))
    assert str(together.value) == str(alone.value)
    assert by_the_batch(data, np.array([5, 0])) == [(b"image", 1)] * 2


def test_a_flipped_bit_in_a_length_is_noticed(tmp_path: Path) -> None:
    write_pack(tmp_path, "im2rec")
    rec = tmp_path / "train.rec"
    content = bytearray(rec.read_bytes())
    content[RecordReader(rec).offset_of(9) + 4] ^= 4
    rec.write_bytes(content)
    with pytest.raises(RecordError, match=r"record 9 .*its length field is corrupt"):
        open_record_pack(tmp_path).read_images(np.arange(12))


def test_records_beyond_the_end_are_named(tmp_path: Path) -> None:
    write_pack(tmp_path, "im2rec")
    rec = tmp_path / "train.rec"
    rec.write_bytes(rec.read_bytes()[: RecordReader(rec).offset_of(15) + 6])
    data = open_record_pack(tmp_path, on_bad_record="skip")
    assert by_the_batch(data, np.arange(15)) == one_by_one(data, np.arange(15))
    for image in (15, 16, 21):
        with pytest.raises(RecordError, match=rf"record {image} .*truncated"):
            data.read_images(np.array([0, image]))


def test_a_file_cut_while_it_is_read_is_an_error_and_no_crash(tmp_path: Path) -> None:
    data = write_pack(tmp_path, "im2rec")
    data.read_images(np.arange(3))
    with (tmp_path / "train.rec").open("r+b") as stream:
        stream.truncate(64)
    with pytest.raises(RecordError, match=r"had [\d,]+ bytes when it was opened: something is writing to it"):
        data.read_images(np.arange(3))


@settings(max_examples=60)
@given(
    records=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 3]), st.binary(min_size=1, max_size=40), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_any_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int, bytes, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    expected = []
    with RecordWriter(folder / "train.rec") as writer:
        for key, (label, num_labels, image, has_magic) in enumerate(records, start=1):
            image += MAGIC * has_magic
            labels = label if num_labels == 0 else np.full(num_labels, label, np.float32)
            writer.write(key, pack(Header(0, labels, key, 0), image))
            expected.append((image, label))
    data = open_record_pack(folder)
    assert by_the_batch(data, np.arange(len(data))) == one_by_one(data, np.arange(len(data))) == expected


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not say what is in memory")
@pytest.mark.parametrize("is_in_memory", [True, False])
def test_records_are_asked_for_together_where_they_are_not_in_memory(tmp_path, monkeypatch, is_in_memory) -> None:
    data = write_pack(tmp_path, "im2rec")
    images = np.arange(len(data))
    expected = by_the_batch(data, images)  # which also brings them there
    asked_for: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, offset, *_: asked_for.append(offset))
    if not is_in_memory:

        def would_wait(*_: object) -> int:
            raise BlockingIOError

        monkeypatch.setattr(os, "preadv", would_wait)
    assert by_the_batch(data, images) == expected
    rows = np.flatnonzero(data.reader.index.extents >= 0)
    assert sorted(asked_for) == ([] if is_in_memory else sorted(data.reader.index.offsets[rows].tolist()))
