"""A data set in RecordIO: layouts told apart, labels read and checked, warnings given."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facekd.data.datasets.record_pack import RecordPack, open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.data.recordio import Header, RecordReader, RecordWriter, pack, unpack
from facekd.errors import RecordError
from facekd.files.array_file import open_arrays, save_arrays

MAGIC = bytes.fromhex("0a23d7ce")
IMAGES = [f"image {number}".encode() * (number + 1) for number in range(7)]
LABELS = [0, 0, 1, 1, 1, 2, 2]


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_pack(folder: Path, layout: str = "insightface") -> Path:
    with RecordPackWriter(folder, image_size=112, layout=layout) as writer:  # type: ignore[arg-type]
        for label, image in zip(LABELS, IMAGES, strict=True):
            writer.add(label, image)
    return folder


def rewrite(folder: Path, change: Callable[[dict[int, bytes]], None]) -> Path:
    """Change records of a pack, given as {key: payload}."""
    with RecordReader(folder / "train.rec") as reader:
        records = {key: reader.read(key) for key in reader.keys.tolist()}
    change(records)
    with RecordWriter(folder / "train.rec") as writer:
        for key, payload in records.items():
            writer.write(key, payload)
    return folder


@pytest.mark.parametrize("layout", ["insightface", "im2rec"])
def test_what_is_written_comes_back(tmp_path: Path, layout: str) -> None:
    data = open_record_pack(write_pack(tmp_path, layout))
    assert data.layout == layout
    assert (data.num_images, data.num_classes, len(data)) == (7, 3, 7)
    assert data.labels().tolist() == LABELS
    assert data.labels().dtype == np.int64
    assert [data.read_image(number) for number in range(7)] == list(zip(IMAGES, LABELS, strict=True))
    assert data.image_keys.tolist() == (list(range(1, 8)) if layout == "insightface" else list(range(7)))
    assert data.property == {"num_classes": 3, "height": 112, "width": 112}
    assert data.warnings == []


def test_a_pack_travels_to_a_worker(tmp_path: Path) -> None:
    data = open_record_pack(write_pack(tmp_path))
    copy = pickle.loads(pickle.dumps(data))
    assert isinstance(copy, RecordPack)
    assert copy.read_image(3) == data.read_image(3)
    assert copy.labels().tolist() == LABELS


def test_the_insightface_layout_is_what_insightface_reads(tmp_path: Path) -> None:
    """Read as its loaders do: images are keys 1 to label[0] - 1 of record 0; identity records give key ranges."""
    with RecordReader(write_pack(tmp_path) / "train.rec") as reader:
        head = unpack(reader.read(0))[0]
        assert head.flag > 0
        first, last = (int(value) for value in np.asarray(head.label))
        images = [unpack(reader.read(key)) for key in range(1, first)]
        assert [image for _, image in images] == IMAGES
        by_identity = []
        for key in range(first, last):
            start, stop = (int(value) for value in np.asarray(unpack(reader.read(key))[0].label))
            by_identity.append([IMAGES[key - 1] for key in range(start, stop)])
        assert by_identity == [IMAGES[:2], IMAGES[2:5], IMAGES[5:]]
        assert reader.keys[-1] == 0


def test_an_identity_without_images_has_an_empty_range(tmp_path: Path) -> None:
    with RecordPackWriter(tmp_path, image_size=112) as writer:
        writer.add(0, b"a")
        writer.add(3, b"b")
    data = open_record_pack(tmp_path)
    assert data.num_classes == 4
    ranges = [np.asarray(unpack(data.reader.read(key))[0].label).tolist() for key in data.identity_keys.tolist()]
    assert ranges == [[1, 2], [2, 2], [2, 2], [2, 3]]


def test_an_image_under_key_0_with_a_label_array_is_no_header(tmp_path: Path) -> None:
    """arcface_torch takes any label array under key 0 for InsightFace's header; only one without payload is."""
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in range(3):
            writer.write(key, pack(Header(2, np.array([key, 1], np.float32), key, 0), b"image"))
    data = open_record_pack(tmp_path)
    assert (data.layout, data.num_images, data.labels().tolist()) == ("im2rec", 3, [0, 1, 2])


def test_without_property_and_header_the_labels_give_the_number_of_classes(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, "im2rec")
    (folder / "property").unlink()
    assert open_record_pack(folder).num_classes == 3


def test_a_header_split_by_the_magic_number_is_read(tmp_path: Path) -> None:
    """An id can equal the magic number, and the record is then split inside its header."""
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key, identifier in enumerate([1, int.from_bytes(MAGIC, "little"), 3]):
            writer.write(key, pack(Header(0, key, identifier, 0), b"image"))
    assert open_record_pack(tmp_path).labels().tolist() == [0, 1, 2]


def test_a_float32_header_that_rounds_is_corrected_by_looking(tmp_path: Path) -> None:
    """Above 2^24 the header record cannot state the first identity key exactly."""
    first_identity = 2**24 + 3  # float32 has 2^24 + 2 and 2^24 + 4
    images = range(first_identity - 5, first_identity)
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in images:
            writer.write(key, pack(Header(2, np.array([key % 2, 1], np.float32), key, 0), b"image"))
        for key in range(first_identity, first_identity + 2):
            writer.write(key, pack(Header(2, np.array([key, key], np.float32), key, 0), b""))
        announced = np.array([first_identity, first_identity + 2], np.float32)
        assert int(announced[0]) != first_identity
        writer.write(0, pack(Header(2, announced, 0, 0), b""))
    data = open_record_pack(tmp_path)
    assert data.image_keys.tolist() == list(images)
    assert data.num_classes == 2


@pytest.mark.parametrize(
    ("label", "image", "message"),
    [
        (np.nan, b"x", r"its label is nan"),
        (-1.0, b"x", r"its label is -1.0"),
        (0.5, b"x", r"its label is 0.5, and labels are whole numbers from 0"),
        (1.0, b"", r"it holds no image, only a header"),
    ],
)
def test_an_unusable_record_is_named(tmp_path: Path, label: float, image: bytes, message: str) -> None:
    folder = rewrite(write_pack(tmp_path), lambda records: records.update({4: pack(Header(0, label, 4, 0), image)}))
    data = open_record_pack(folder)
    message = rf"train.rec: record 4 at offset \d+: {message}"
    with pytest.raises(RecordError, match=message) as info:
        data.read_image(3)
    assert info.value.key == 4
    with pytest.raises(
        RecordError, match=rf"1 of 7 image records is unusable, first: .*{message}.*--on-bad-record skip"
    ):
        data.labels()
    lenient = open_record_pack(folder, on_bad_record="skip")
    assert lenient.labels().tolist() == [0, 0, 1, -1, 1, 2, 2]
    assert any("1 of 7 image records is unusable" in warning for warning in lenient.warnings)


def test_corrupt_records_are_found_by_reading_labels(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    content = bytearray((folder / "train.rec").read_bytes())
    offset = RecordReader(folder / "train.rec").offset_of(2)
    content[offset] ^= 0xFF
    (folder / "train.rec").write_bytes(content)
    with pytest.raises(RecordError, match=rf"record 2 at offset {offset} has .* where the magic number"):
        open_record_pack(folder).labels()
    assert open_record_pack(folder, on_bad_record="skip").labels().tolist() == [0, -1, 1, 1, 1, 2, 2]


def test_a_truncated_pack_is_refused_or_read_in_part(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, "im2rec")
    rec = folder / "train.rec"
    rec.write_bytes(rec.read_bytes()[:-200])
    with pytest.raises(RecordError, match="truncated"):
        open_record_pack(folder)
    data = open_record_pack(folder, on_bad_record="skip")
    labels = data.labels()
    assert labels[:4].tolist() == LABELS[:4]
    assert (labels == -1).any()
    for number in np.flatnonzero(labels >= 0).tolist():
        assert data.read_image(number) == (IMAGES[number], LABELS[number])


def test_warnings_are_given(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    (folder / "property").write_text("5,112,112\nmore\n")
    assert open_record_pack(folder).warnings == ["`property` says 5 classes and the records 3"]
    for text in ("faces", "5,112,112,8", "5,112,112-1"):
        (folder / "property").write_text(f"{text}\n")
        data = open_record_pack(folder)
        assert data.warnings == [f"`property` should read num_classes,height,width and reads '{text}'"]
        assert data.property is None
    (folder / "property").unlink()
    rewrite(folder, lambda records: [records.pop(key) for key in (3, 9)])  # an image and an identity
    assert open_record_pack(folder).warnings == [
        "the header record announces 3 identity records and there are 2",
        "the header record announces 7 images and there are 6",
    ]
    (folder / "train.idx").unlink()
    assert any("no .idx" in warning for warning in open_record_pack(folder).warnings)


def test_repeated_keys_are_told(tmp_path: Path) -> None:
    folder = write_pack(tmp_path, "im2rec")
    idx = folder / "train.idx"
    idx.write_text(idx.read_text() + idx.read_text().splitlines()[2] + "\n")
    assert open_record_pack(folder).warnings == ["1 key occurs more than once in the .idx; each row counts as a record"]


def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    def spoil(records: dict[int, bytes]) -> None:
        records[0] = pack(Header(2, np.array([np.nan, 3], np.float32), 0, 0), b"")

    folder = rewrite(write_pack(tmp_path), spoil)
    with pytest.raises(RecordError, match=r"the header record \(key 0\) should give the first identity key"):
        open_record_pack(folder)


def test_the_folder_decides_which_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"holds no \.rec file"):
        open_record_pack(tmp_path)
    with pytest.raises(RecordError, match="no such file or folder"):
        open_record_pack(tmp_path / "absent")
    (tmp_path / ".hidden.rec").write_bytes(b"")
    write_pack(tmp_path / "one.rec")
    assert open_record_pack(tmp_path).num_images == 7
    write_pack(tmp_path / "two.rec")
    with pytest.raises(RecordError, match=r"2 .rec files and none is train.rec; name one of them: one.rec, two.rec"):
        open_record_pack(tmp_path)
    write_pack(tmp_path)
    assert open_record_pack(tmp_path).reader.rec_path.name == "train.rec"
    assert open_record_pack(tmp_path / "two.rec").reader.rec_path.name == "two.rec"


def test_labels_of_a_large_pack_are_cached(tmp_path: Path) -> None:
    num = 60_000
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in range(num):
            writer.write(key, pack(Header(0, key % 100, key, 0), b"x"))
    expected = np.arange(num) % 100
    np.testing.assert_array_equal(open_record_pack(tmp_path).labels(), expected)
    cache = tmp_path / "train.facekd-labels"
    assert cache.exists()
    about, arrays = open_arrays(cache)
    other = np.concatenate([[77], arrays["labels"][1:]])
    save_arrays(cache, about, {"labels": other})  # another first label, to see that the cache is what is read
    assert open_record_pack(tmp_path).labels()[0] == 77
    content = bytearray(cache.read_bytes())
    content[-1] ^= 1
    cache.write_bytes(content)  # damaged: the headers are read again
    np.testing.assert_array_equal(open_record_pack(tmp_path).labels(), expected)
    times = (tmp_path / "train.rec").stat()
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in range(num):
            writer.write(key, pack(Header(0, key % 50, key, 0), b"x"))
    os.utime(tmp_path / "train.rec", ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and time, other labels
    os.utime(tmp_path / "train.idx", ns=(times.st_atime_ns, times.st_mtime_ns))
    np.testing.assert_array_equal(open_record_pack(tmp_path).labels(), expected % 50)


@pytest.mark.parametrize(
    ("label", "image", "name", "message"),
    [
        (0, b"x", "", "label 0 after label 1"),
        (1, b"", "", "has no bytes"),
        (-1, b"x", "", "has label -1; labels start at 0"),
        (1, b"x", "a\tb.jpg", "tabs or line breaks"),
    ],
)
def test_the_writer_refuses_what_the_layout_cannot_hold(
    tmp_path: Path, label: int, image: bytes, name: str, message: str
) -> None:
    writer = RecordPackWriter(tmp_path, image_size=112)
    writer.add(1, b"x")
    with pytest.raises(RecordError, match=message):
        writer.add(label, image, name)
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_pack_of_no_images_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no images to write"), RecordPackWriter(tmp_path, image_size=112):
        pass
    assert list(tmp_path.iterdir()) == []


def test_real_packs(real_data: Callable[[str], Path]) -> None:
    data = open_record_pack(real_data("lfw_train"))
    assert (data.layout, data.num_images, data.num_classes, data.warnings) == ("insightface", 3442, 336, [])
    assert data.image_keys.tolist() == list(range(1, 3443))
    listed = [line.split("\t") for line in real_data("lfw_train/train.lst").read_text().splitlines()]
    assert data.labels().tolist() == [int(label) for _, _, label in listed]
    popkorn = open_record_pack(real_data("recordio/popkorn"))
    assert (popkorn.layout, popkorn.num_images, popkorn.num_classes) == ("im2rec", 8, 2)
    assert popkorn.image_keys.tolist() == [0, 4, 7, 5, 1, 6, 3, 2]
    assert popkorn.labels().tolist() == [0, 1, 1, 1, 0, 1, 0, 0]
