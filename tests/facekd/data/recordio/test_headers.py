"""Compares headers that are read at once with those of each record alone, and asks what is read ahead of its use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from facekd.data.recordio import Header, RecordReader, RecordWriter, pack, read_ahead, unpack
from facekd.data.recordio.format import MAGIC_BYTES, first_label, unpack_labelled
from facekd.data.recordio.headers import read_headers

ROWS = [
    (3.0, b"an image"),
    (np.array([5, 1], np.float32), b""),  # an identity record
    (7.0, b""),
    (np.array([8, 0, 2], np.float32), b"xyz"),
    (np.array([9.5], np.float32), MAGIC_BYTES * 3 + b"a record of several parts"),
    (1.0, b"damaged, below"),
    (2.0, b"cut short, below"),
]


def write(folder: Path) -> Path:
    path = folder / "train.rec"
    with RecordWriter(path) as writer:
        for key, (labels, image) in enumerate(ROWS):
            writer.write(key, pack(Header(0, labels, key, 0), image))
    return path


def test_headers_read_at_once_are_those_of_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.data.recordio.headers.ROWS_CHUNK", 3)
    path = write(tmp_path)
    with RecordReader(path) as reader:
        offsets, keys = np.array(reader.index.offsets), np.array(reader.keys)
        order = np.random.default_rng(0).permutation(len(ROWS))
        content = bytearray(path.read_bytes())
        content[offsets[5]] ^= 1
        path.write_bytes(content[: offsets[6] + 34])
        headers = read_headers(reader, offsets[order], keys[order])
        for row, number in enumerate(order.tolist()):
            labels, image = ROWS[number]
            assert headers.is_readable[row] == (number < 5)
            assert headers.is_empty[row] == (number in (1, 2))
            if number < 5:
                expected, payload = unpack(reader.read(number))
                assert payload == image
                assert headers.labels[row] == first_label(expected) == np.ravel(labels)[0]
                assert headers.num_labels[row] == expected.flag == np.size(labels) * (np.ndim(labels) > 0)
                assert headers.image_sizes[row] == len(image)
                assert unpack_labelled(reader.read(number)) == (np.ravel(labels)[0], image)
            else:
                assert np.isnan(headers.labels[row])
        assert headers.is_readable.dtype == bool and headers.labels.dtype == np.float64


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be asked to read ahead")
def test_neighbours_are_read_ahead_by_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    requests = []

    def note(descriptor: int, *request: int) -> None:
        assert os.path.sameopenfile(descriptor, opened.fileno())
        requests.append(request)

    monkeypatch.setattr(os, "posix_fadvise", note)
    with path.open("rb") as opened:
        read_ahead.read_ahead(path, np.array([40, 0, 100, 20, 130]), np.array([10, 20, 30, 20, 8]))
        will_need = os.POSIX_FADV_WILLNEED
        assert requests == [(0, 50, will_need), (100, 38, will_need)]
        requests.clear()
        read_ahead.read_ahead(path, np.zeros(0, np.int64), np.zeros(0, np.int64))
        assert requests == []
        # A length of 0 would ask for all of the file.
        read_ahead.request_records(opened.fileno(), np.array([64, 8, 4, 0]), np.array([1 << 30, -1, 0, 12]))
        assert requests == [(64, read_ahead.MAX_READ, will_need), (0, 12, will_need)]


def test_a_job_that_goes_on_indexes_the_records_that_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.files.resumable_file.CHECKPOINT_BYTES", 1)  # keep even so short a run
    path = tmp_path / "train.rec"
    notes = ["", "a note\twith a tab", "another"]
    with pytest.raises(ZeroDivisionError), RecordWriter(path, job={"command": "the same"}) as writer:
        for key, note in zip((7, 3, 5), notes, strict=True):
            writer.write(key, bytes(10 * key), note)
        raise ZeroDivisionError
    with RecordWriter(path, job={"command": "the same"}) as writer:
        assert list(writer.found()) == list(zip((7, 3, 5), notes, strict=True)) and len(writer) == 3
        writer.write(4, b"the last")
    with RecordReader(path) as reader:
        assert reader.keys.tolist() == [7, 3, 5, 4]
        assert [len(reader.read(key)) for key in (7, 3, 5)] == [70, 30, 50] and reader.read(4) == b"the last"


def test_records_after_a_restart_are_found_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facekd.files.resumable_file.CHECKPOINT_BYTES", 1)
    path = tmp_path / "train.rec"
    with pytest.raises(ZeroDivisionError), RecordWriter(path, job={"command": "the same"}) as writer:
        writer.write(7, b"given up", note=None)  # neither this one is noted nor any after it
        writer.restart()
        assert len(writer) == 0
        writer.write(1, b"kept", "a note")
        raise ZeroDivisionError
    with RecordWriter(path, job={"command": "the same"}) as writer:
        assert list(writer.found()) == [(1, "a note")]
