"""Reads Parquet and arrow tables: labels in two forms, and files that are damaged or of another kind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.sources.table_sources import TableSource
from facekd.errors import DataError

pyarrow = pytest.importorskip("pyarrow", reason="reading tables needs the optional package pyarrow")


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    import pyarrow.parquet

    table = pyarrow.table(columns)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    else:
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_rows_keep_their_order_over_chunks_and_names_are_numbered_in_sorted_order(tmp_path: Path, suffix: str) -> None:
    images = [bytes([number]) * 3 for number in range(5)]
    first = write(tmp_path / f"a{suffix}", {"img": images[:3], "identity": ["bob", "ada", "cy"]})
    second = write(tmp_path / f"b{suffix}", {"img": images[3:], "identity": ["ada", "bob"]})
    source = TableSource([first, second])
    assert [source.read(row) for row in range(5)] == images
    assert source.labels.tolist() == [1, 0, 2, 0, 1] and source.num_classes == 3
    assert source.labels.dtype == np.int64


def test_numbers_with_a_point_are_the_labels_that_they_say(tmp_path: Path) -> None:
    source = TableSource([write(tmp_path / "a.parquet", {"img": [b"a", b"b", b"c"], "label": [10.0, 2.0, 0.0]})])
    assert source.labels.tolist() == [10, 2, 0] and source.labels.dtype == np.int64


def test_numbers_as_text_are_the_labels_that_they_say_as_in_a_list(tmp_path: Path) -> None:
    images = [b"a", b"b", b"c"]
    numbers = write(tmp_path / "a.parquet", {"img": images, "label": ["10", "2", "0"]})
    assert TableSource([numbers]).labels.tolist() == [10, 2, 0]
    # Files of one set may hold the same label as text and as a number.
    first = write(tmp_path / "b.parquet", {"img": images, "label": ["3", "ada", "3"]})
    second = write(tmp_path / "c.parquet", {"img": [b"d", b"e", b""], "label": [3.0, 3.0, 0.0]})
    source = TableSource([first, second])
    assert source.labels.tolist() == [1, 2, 1, 1, 1, 0]
    with pytest.raises(DataError, match=r"c\.parquet: row 2 holds no bytes of an image"):
        source.read(5)


def test_a_row_of_another_file_than_the_first_is_named(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", {"img": [b"a", b"b"], "label": ["0", "1"]})
    second = write(tmp_path / "b.parquet", {"img": [b"c", b"d"], "label": ["2", "nan"]})
    with pytest.raises(
        DataError, match=r"b\.parquet: row 1 has the label nan; expected whole numbers from 0, or names"
    ):
        TableSource([first, second])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [b"a", b"b"], "label": ["0", "-1"]}, "row 1 has label -1; labels are whole numbers from 0"),
        ({"image": [b"a", b"b"], "label": ["0", "nan"]}, "row 1 has the label nan; expected whole numbers from 0"),
        ({"image": [b"a"], "name": [1]}, "expected images (image, img, jpg, bytes) and labels (label, labels,"),
        ({"image": [b"a", b"b"], "label": [1, None]}, "row 1 has no label"),
        ({"image": [b"a", b"b"], "label": [0, -1]}, "row 1 has the label -1; expected whole numbers from 0"),
        ({"image": [b"a", b"b"], "label": [0.0, np.nan]}, "row 1 has the label nan; expected whole numbers from 0"),
        ({"image": [b"a", b"b"], "label": [0.5, 1.0]}, "row 0 has the label 0.5; expected"),
        ({"image": [b"a"], "label": [2**54]}, "labels are whole numbers from 0 to"),
        ({"image": pyarrow.array([], pyarrow.binary()), "label": pyarrow.array([], pyarrow.int64())}, "holds no rows"),
    ],
)
def test_a_table_of_another_kind_is_named_with_what_was_expected(
    tmp_path: Path, columns: dict[str, list[Any]], said: str
) -> None:
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError) as refused:
        TableSource([path])
    assert str(refused.value).startswith(str(path)) and said in str(refused.value)


def test_tables_of_one_set_have_the_same_columns(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.parquet", {name: [b"a"], "label": [0]}) for name in ("image", "jpg")]
    with pytest.raises(
        DataError, match=r"jpg\.parquet: has columns \['jpg', 'label'\], but .*image\.parquet has image"
    ):
        TableSource(paths)


def write_arrow(path: Path, arrays: list[Any], names: list[str]) -> Path:
    table = pyarrow.Table.from_arrays(arrays, names=names)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


IMAGES, LABELS = pyarrow.array([b"a", b"b"]), pyarrow.array([0, 1])
REPEATED = pyarrow.RunEndEncodedArray.from_arrays([2], [7])
DICTIONARY = pyarrow.array([b"a", b"a"]).dictionary_encode()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": pyarrow.nulls(2), "label": LABELS}, "its column image holds null; expected bytes, or a struct with"),
        ({"image": IMAGES, "label": pyarrow.nulls(2)}, "its column label holds null; expected whole numbers or text"),
        ({"image": IMAGES, "label": REPEATED}, "its column label holds run_end_encoded<"),
        ({"image": DICTIONARY, "label": LABELS}, "its column image holds dictionary<"),
        ({"image": IMAGES.cast(pyarrow.binary_view()), "label": LABELS}, "its column image holds binary_view;"),
        (
            {"image": pyarrow.StructArray.from_arrays([IMAGES, REPEATED], ["bytes", "path"]), "label": LABELS},
            "its column image holds struct<bytes: binary, path: run_end_encoded<",
        ),
        (
            {"image": pyarrow.nulls(10**8), "label": pyarrow.nulls(10**8)},
            "announces 100,000,000 rows, but the file has",
        ),
        ({"image": IMAGES, "image ": IMAGES, "label": LABELS}, "has several columns called image; leave one"),
        ({"image": IMAGES, "label": LABELS, "label ": LABELS}, "has several columns called label; leave one"),
    ],
)
def test_columns_in_which_few_bytes_are_many_values_and_double_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr("data_prep.sources.table_sources.run_apart", lambda *_: None)  # which takes half a second each
    path = write_arrow(tmp_path / "a.arrow", [*columns.values()], [name.strip() for name in columns])
    with pytest.raises(DataError) as refused:
        TableSource([path])
    assert str(refused.value).startswith(f"{path}: {said}")


def test_a_long_label_is_not_repeated_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.table_sources.run_apart", lambda *_: None)
    long = "b" * 1_000_000
    images = [b"x" * 100] * 20_000
    # As text, an array of numpy would take 80 GB; as a dictionary, so would a list of copies.
    for labels in (
        pyarrow.array(["a", long, *["a"] * 19_998]),
        pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 20_000), pyarrow.array([long])),
    ):
        path = write_arrow(tmp_path / "a.arrow", [pyarrow.array(images), labels], ["image", "label"])
        source = TableSource([path])
        assert np.bincount(source.labels).tolist() in ([19_999, 1], [20_000])


def test_images_in_a_struct_are_read_whatever_their_other_fields(tmp_path: Path) -> None:
    struct = pyarrow.StructArray.from_arrays([IMAGES, pyarrow.nulls(2), LABELS], ["bytes", "path", "width"])
    names = pyarrow.array(["bob", "ada"]).dictionary_encode()
    source = TableSource([write_arrow(tmp_path / "a.arrow", [struct, names], ["image", "label"])])
    assert [source.read(row) for row in range(2)] == [b"a", b"b"] and source.labels.tolist() == [1, 0]


def test_a_row_without_bytes_of_an_image_is_named(tmp_path: Path) -> None:
    source = TableSource([write(tmp_path / "a.parquet", {"image": ["a.jpg", "b.jpg"], "label": [0, 1]})])
    with pytest.raises(DataError, match=r"a\.parquet: row 1 holds no bytes of an image, only b\.jpg"):
        source.read(1)


def test_a_damaged_file_ends_in_a_sentence_with_its_name_although_it_crashes_the_parser(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.arrow", {"image": [b"x"], "label": [0]})
    content = bytearray(whole.read_bytes())
    content[-25] = 8  # pyarrow 26 reads a null pointer
    damaged = tmp_path / "damaged.arrow"
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.arrow: "):
        TableSource([whole, damaged])


@pytest.mark.parametrize("name", ["imAge", "fiEld"])
def test_names_that_are_no_text_end_in_a_sentence_with_the_file(tmp_path: Path, name: str) -> None:
    image = [{"bytes": b"x", "fiEld": 1}]
    path = write(tmp_path / "a.arrow", {"imAge": image, "image": image, "label": [0]})
    path.write_bytes(path.read_bytes().replace(name.encode(), name.replace(name[2], "\xff").encode("latin-1")))
    with pytest.raises(DataError, match=r"a\.arrow: .*UnicodeDecodeError"):
        TableSource([path])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_file_that_is_cut_is_named(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", {"image": [b"a" * 500] * 4, "label": [0, 1, 0, 1]})
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match=f"a{suffix}: "):
        TableSource([path])


@pytest.mark.slow
def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    for number in range(20):
        path = write(
            tmp_path / f"a{number}{rng.choice(['.parquet', '.arrow'])}", {"image": [b"ab"] * 4, "label": [0] * 4}
        )
        content = bytearray(path.read_bytes())
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            source = TableSource([path])
            assert len([source.read(row) for row in range(len(source.labels))]) == len(source.labels)
        except DataError as refused:
            assert path.name in str(refused)


def test_an_image_that_a_packed_file_has_once_for_many_rows_is_refused(tmp_path: Path) -> None:
    """A dictionary of one value: 120 kB that are 96 MB in memory, and could be 4 GB."""
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    rows = {"image": [bytes(range(240)) * 500] * 800, "label": list(range(800))}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"a\.parquet: its values take 96,\d+,\d+ bytes, and those of a file"):
        TableSource([path])
