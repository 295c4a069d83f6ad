"""Every list by a person is understood in any Unicode encoding that it announces, or refused with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.inspection.clean_lists import read_clean_lists
from data_prep.pairs.published_lists import read_pair_list
from data_prep.photographs.landmark_files import read_landmarks
from data_prep.sources.image_lists import read_lst
from data_prep.sources.image_sources import read_tsv
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from evaluation.sets.pair_set import read_subjects
from facekd.data.datasets.record_pack import read_property
from facekd.data.recordio.idx_file import parse_idx
from facekd.errors import FacekdError
from facekd.files.reading import encoding_hint

NAMES = "Mü\u2028/1.jpg\tMü\u2028/2.jpg\t1\nMü\u2028/1.jpg\tb/1.jpg\t0\n"
READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "clean list": (lambda path: read_clean_lists([path]), "# ü\ndrop\t3\n"),
    "pairs": (read_pair_list, NAMES),
    "landmarks": (read_landmarks, "Mü/1.jpg " + "1 " * 10 + "\n"),
    "lst": (read_lst, "1\tMü/1.jpg\t0\n1\tb/2.jpg\t1\n"),
    "tsv": (read_tsv, "Mü/1.jpg\t0\nb/2.jpg\t1\n"),
    "subjects": (lambda path: read_subjects(path, np.array([True, False]), "pack").tolist(), NAMES),
    "idx": (lambda path: [column.tolist() for column in parse_idx(path)], "0\t0\n1\t96\n"),
    "property": (lambda path: read_property(path, []), "10,112,112\n"),
}


def write(folder: Path, text: str, encoding: str) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_changes_nothing(kind: str, encoding: str, tmp_path: Path) -> None:
    read, text = READERS[kind]
    expected = repr(read(write(tmp_path, text, "utf-8")))
    assert repr(read(write(tmp_path, text.replace("\n", "\r\n"), encoding))) == expected


@pytest.mark.parametrize("kind", ["clean list", "subjects"])
def test_another_encoding_is_refused_with_its_line(kind: str, tmp_path: Path) -> None:
    read, text = READERS[kind]
    with pytest.raises(FacekdError, match=r"list.txt: is not UTF-8 at line 1; convert it.*iconv"):
        read(write(tmp_path, text.replace("\u2028", ""), "latin-1"))


@pytest.mark.parametrize("kind", ["pairs", "landmarks", "lst", "tsv"])
def test_names_of_files_in_another_encoding_are_kept_and_explained_where_they_are_missing(
    kind: str, tmp_path: Path
) -> None:
    read, text = READERS[kind]
    found = str(read(write(tmp_path, text.replace("\u2028", ""), "latin-1")))
    assert "M\\udcfc" in found and "iconv" in encoding_hint("M\udcfc")


@pytest.mark.parametrize(
    "read", [read_pairs, lambda path: read_named_numbers(path, 1, np.float64), read_template_subjects]
)
def test_ijb_lists_in_utf16_are_refused_in_one_line(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(FacekdError, match="is UTF-16; convert it by `iconv -f UTF-16 -t UTF-8`"):
        read(write(tmp_path, "1 2 1\n", "utf-16"))
