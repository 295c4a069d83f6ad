"""Tests that the text files of a release are joined by name, and refused with the line if they are broken."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.ijb import text_files as ijb_text
from evaluation.ijb.protocol import load_protocol
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from facekd.errors import DataError
from tests.evaluation.ijb_layout import make_layout

ID = st.one_of(st.sampled_from([5, 55, 12_345_678]), st.integers(0, 200_000), st.integers(0, 10**9 + 7))
LINE = st.tuples(ID, ID, st.integers(0, 1))


@settings(max_examples=60)
@given(
    rows=st.lists(LINE, min_size=1, max_size=40),
    newline=st.sampled_from(["\n", "\r\n"]),
    space=st.sampled_from([" ", "  ", "\t"]),
    last=st.booleans(),
    at_once=st.integers(1, 100),
)
def test_pairs_are_read_as_int_reads_them(tmp_path_factory, rows, newline, space, last, at_once):
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    text = newline.join(space.join(map(str, row)) for row in rows) + (newline if last else "")
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ijb_text, "BYTES_CHUNK", at_once)
        first, second, is_same = read_pairs(path)
    assert list(zip(first.tolist(), second.tolist(), is_same.tolist(), strict=True)) == rows
    assert is_same.dtype == bool


@pytest.mark.parametrize(
    "line",
    [
        "1 2",
        "1 2 3",
        "1 2 0 5",
        "1 x 1",
        "1 2.5 1",
        "1 2 -1",
        "1:3 4 1",
        "1 2 1,",
        "\x0013 23 0",
        "13 2: 0",
        "1p 2 0",
        "13  0",
        " 13 0",
    ],
)
def test_a_broken_line_of_pairs_is_named(tmp_path, line, monkeypatch):
    monkeypatch.setattr(ijb_text, "BYTES_CHUNK", 16)
    path = tmp_path / "pairs.txt"
    path.write_text("10 20 1\n11 21 0\n12 22 0\n13 23 0\n" + line + "\n1 2 0\n")
    with pytest.raises(DataError, match=r"pairs\.txt, line 5: expected"):
        read_pairs(path)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_files_are_refused(tmp_path, text):
    path = tmp_path / "x.txt"
    path.write_text(text)
    for read in (read_pairs, lambda path: read_named_numbers(path, 2, np.int64), read_template_subjects):
        with pytest.raises(DataError, match=r"empty|no rows"):
            read(path)


@pytest.mark.parametrize(
    ("line", "dtype"),
    [
        ("b.jpg 1", np.int64),
        ("b.jpg 1 2 3", np.int64),
        ("b.jpg 1 2.5", np.int64),
        ("b.jpg 1 x", float),
        ("b.jpg", float),
    ],
)
def test_a_broken_named_line_is_named(tmp_path, line, dtype):
    path = tmp_path / "x.txt"
    path.write_text(f"a.jpg 1 2\n{line}\nc.jpg 3 4\n")
    with pytest.raises(DataError, match=r"x\.txt, line 2"):
        read_named_numbers(path, 2, dtype)


def test_columns_of_1n_files_are_found_by_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('FILENAME,SUBJECT_ID,"TEMPLATE_ID"\na.jpg,7,"3"\nb.jpg,8,4\n')
    templates, subjects = read_template_subjects(path)
    assert templates.tolist() == [3, 4] and subjects.tolist() == [7, 8]
    path.write_text("A,B\n3,7\nx,8\n")
    with pytest.raises(DataError, match="line 3"):
        read_template_subjects(path)


@pytest.mark.parametrize("id_step", [7, 1_000_000_007])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_release_is_joined_by_name(tmp_path, id_step, newline):
    layout = make_layout(0, id_step=id_step)
    layout.newline = newline
    layout.point_order = np.random.default_rng(0).permutation(len(layout.names)).tolist()
    root = layout.write(tmp_path / "a set with spaces")
    for _ in range(2):  # from the text, then from the binary copy
        found = load_protocol(root)
        assert [found.image_name(i) for i in found.face_images] == layout.names
        assert found.template_ids[found.face_templates].tolist() == layout.templates
        assert found.face_media.tolist() == layout.media
        np.testing.assert_allclose(found.detection_scores[found.face_images], layout.scores)
        np.testing.assert_allclose(found.landmarks[found.face_images], layout.landmarks, atol=1e-3)
        ids = found.template_ids
        pairs = zip(ids[found.pair_first], ids[found.pair_second], found.is_same, strict=True)
        assert [(int(a), int(b), int(c)) for a, b, c in pairs] == layout.pairs
        for name, rows in [*layout.galleries.items(), ("probes", layout.probes)]:
            table = found.probes if name == "probes" else found.galleries[name]
            assert dict(zip(ids[table.templates].tolist(), table.subjects.tolist(), strict=True)) == dict(rows)
    assert (root / "meta" / "ijbc.facekd-protocol").exists()


def test_the_binary_copy_follows_the_text(tmp_path, monkeypatch):
    layout = make_layout(1)
    root = layout.write(tmp_path)
    before = load_protocol(root)
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.ijb.protocol._parse", lambda files: pytest.fail("the text was read again"))
        assert load_protocol(root).fingerprint == before.fingerprint
    layout.pairs = layout.pairs[:-1]
    layout.write(root)
    after = load_protocol(root)
    assert after.num_pairs == before.num_pairs - 1 and after.fingerprint != before.fingerprint


def test_the_binary_copy_is_written_in_the_background(tmp_path):
    root = make_layout(1).write(tmp_path)
    copy = root / "meta" / "ijbc.facekd-protocol"
    may_write = threading.Event()
    with ThreadPoolExecutor(1) as background:
        background.submit(may_write.wait)
        before = load_protocol(root, background=background)
        assert not copy.exists()
        may_write.set()
    assert copy.exists() and load_protocol(root).fingerprint == before.fingerprint


def test_a_damaged_binary_copy_is_read_past(tmp_path, capsys):
    root = make_layout(1).write(tmp_path)
    before = load_protocol(root)
    copy = root / "meta" / "ijbc.facekd-protocol"
    for damaged in (copy.read_bytes()[:-1000], b"facekda2" + bytes(100), b"rubbish"):
        copy.write_bytes(damaged)
        assert load_protocol(root).fingerprint == before.fingerprint
        assert "reading the original files again" in capsys.readouterr().err


def test_whatever_byte_of_the_binary_copy_is_damaged_the_protocol_is_right(tmp_path):
    root = make_layout(1).write(tmp_path)
    before = load_protocol(root)
    copy = root / "meta" / "ijbc.facekd-protocol"
    whole, generator = copy.read_bytes(), np.random.default_rng(0)
    cuts = [whole[:length] for length in (0, 5, 12, 14, 16, 17, 900)]
    flips = [
        whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        for place in [*range(16), *generator.integers(0, len(whole), 40).tolist()]
    ]
    for content in cuts + flips:
        copy.write_bytes(content)
        found = load_protocol(root)
        assert found.fingerprint == before.fingerprint
        for name in ("image_names", "landmarks", "pair_first", "pair_second", "is_same", "face_media"):
            np.testing.assert_array_equal(getattr(found, name), getattr(before, name))


def test_a_read_only_set_is_kept_in_the_users_cache(tmp_path, monkeypatch):
    root = make_layout(1).write(tmp_path / "set")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    os.chmod(root / "meta", 0o555)  # noqa: PTH101
    try:
        load_protocol(root)
        assert not (root / "meta" / "ijbc.facekd-protocol").exists()
        assert len(list((tmp_path / "cache" / "facekd").iterdir())) == 1
    finally:
        os.chmod(root / "meta", 0o755)  # noqa: PTH101


@pytest.mark.parametrize("name", ["../../private.jpg", "/etc/private.jpg", "a/../../b.jpg", ".."])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    layout = make_layout(1)
    layout.names[3] = "1..2.jpg"  # a name like others
    assert load_protocol(layout.write(tmp_path)).image_name(3) == "1..2.jpg"
    layout.names[-1] = name
    with pytest.raises(DataError, match=r"5pts_score\.txt: names the image .*, which leads out of"):
        load_protocol(layout.write(tmp_path))


def test_what_is_missing_is_said(tmp_path):
    root = make_layout(0).write(tmp_path / "release" / "IJBC")
    with pytest.raises(DataError, match=r"it is in .*IJBC, give that"):
        load_protocol(root.parent)
    with pytest.raises(DataError, match="no such folder"):
        load_protocol(tmp_path / "nowhere")
    with pytest.raises(DataError, match="--target IJBC"):
        load_protocol(root, "IJBB")
    (root / "meta" / "ijbc_1N_gallery_G2.csv").unlink()
    with pytest.raises(DataError, match="gallery_G2"):
        load_protocol(root)


def test_a_template_of_two_subjects_is_refused(tmp_path):
    layout = make_layout(0)
    layout.probes.append((layout.probes[0][0], 99_999))
    with pytest.raises(DataError, match=f"template {layout.probes[0][0]} is given to subject"):
        load_protocol(layout.write(tmp_path))


def test_several_lines_of_a_name_are_told_apart_or_marked(tmp_path):
    layout = make_layout(0)
    layout.names[1] = layout.names[0]  # two faces, two lines: joined in their order
    found = load_protocol(layout.write(tmp_path / "a"))
    assert found.face_images[:2].tolist() == [0, 1] and "joined in their order" in found.remarks[0]
    points = tmp_path / "a" / "meta" / "ijbc_name_5pts_score.txt"
    points.write_text(points.read_text() + points.read_text().splitlines()[1].replace("0.", "1.") + "\n")
    found = load_protocol(tmp_path / "a")
    assert found.face_images[:2].tolist() == [-1, -1]
