"""Lists the readers of the lists and tables of evaluation protocols, in the forms in which sets are published."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.groups.group_file import GroupFile, read_groups
from evaluation.groups.race_layouts import load_race_layout
from evaluation.ijb import text_files
from evaluation.ijb.protocol import IjbProtocol, SubjectTemplates, load_protocol
from evaluation.ijb.text_files import read_named_numbers, read_pairs, read_template_subjects
from evaluation.protocols.ijbs import read_table
from evaluation.protocols.listed_set import Entries, ListedSet
from evaluation.protocols.megaface import load_megaface
from evaluation.sets.file_pairs import FilePairs
from tests.fuzz.target import Target, lines, rows_of, text_of
from tests.fuzz.targets.list_targets import FIVE_POINTS

BFW_OTHERS = (("f/a/2.jpg", 1), ("m/b/1.jpg", 0))


def _bfw_images(folder: Path) -> None:
    for name in ("f/a/1.jpg", *(other for other, _ in BFW_OTHERS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def _megaface_lists(folder: Path) -> None:
    (folder / "facescrub_lst").write_text("".join(f"Ann/{name}\n" for name in ANN) + "Bob/b.png\n")
    (folder / "megaface_lst").write_text("a/b/1.jpg\n")


def _check_groups(content: bytes, file: GroupFile) -> None:
    """Has the group of each cell that is not empty."""
    head, *rows = ([cell.strip() for cell in row] for row in csv.reader(io.StringIO(text_of(content))))
    for row in filter(any, rows):
        assert {name: file.attributes[name].get(row[0]) for name in head[1:]} == {
            name: cell or file.attributes[name].get(row[0]) for name, cell in zip(head[1:], row[1:], strict=True)
        }
    assert all(group and name in file.names for groups in file.attributes.values() for name, group in groups.items())


def _check_entries(content: bytes, entries: Entries) -> None:
    """Has the subject of each template, in the order in which the table names them first."""
    rows = csv.DictReader(io.StringIO(text_of(content)), skipinitialspace=True)
    subject_of = {str(row["TEMPLATE_ID"]).strip(): str(row["SUBJECT_ID"]).strip() for row in rows}
    assert entries.subjects.tolist() == list(subject_of.values())
    assert np.array_equal(np.unique(entries.of_entry), np.arange(len(entries)))
    assert len(entries.images) == len(entries.of_entry) and (entries.images >= 0).all()


def _check_megaface(_: bytes, listed: ListedSet) -> None:
    assert not any(".." in name.split("/") or name.startswith("/") for name in listed.names)
    assert listed.used().max() < len(listed.names)


def _check_pairs(content: bytes, result: Any) -> None:
    """Compares with Python's own parsing, a line at a time."""
    rows = [line.split() for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    first, second, is_same = result
    assert first.tolist() == [int(row[0]) for row in rows]
    assert second.tolist() == [int(row[1]) for row in rows]
    assert is_same.tolist() == [float(row[2]) == 1 for row in rows]


def _read_pairs(path: Path) -> Any:
    """Reads pairs at once and in small blocks, which may end within any line; both must be the same."""
    found = read_pairs(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "BYTES_CHUNK", SMALL_CHUNK)
        np.testing.assert_array_equal(np.stack(read_pairs(path)), np.stack(found))
    return found


def _read_release(path: Path) -> IjbProtocol:
    """Joins the files of a release from the text, as the binary copy is written, and from that copy: all the same."""
    parts = path.read_bytes().split(BETWEEN)
    meta = path.parent / "meta"
    meta.mkdir(exist_ok=True)
    for number, (name, _) in enumerate(RELEASE):
        (meta / name).unlink(missing_ok=True)
        if number < len(parts):
            (meta / name).write_bytes(parts[number])
    (meta / "ijbc.facekd-protocol").unlink(missing_ok=True)
    found, *others = (load_protocol(path.parent, "IJBC", use_cache) for use_cache in (False, True, True))
    for other in others:
        _check_alike(found, other)

    # Rows stand for the ids and names of the lists.
    faces, pairs = read_named_numbers(meta / RELEASE[0][0], 2, np.int64), read_pairs(meta / RELEASE[2][0])
    np.testing.assert_array_equal(found.template_ids[found.face_templates], faces[1][:, 0])
    is_known = found.face_images >= 0
    np.testing.assert_array_equal(found.image_names[found.face_images[is_known]], faces[0][is_known])
    for rows, ids in ((found.pair_first, pairs[0]), (found.pair_second, pairs[1])):
        np.testing.assert_array_equal(found.template_ids[rows], ids)
    assert (np.diff(found.template_ids) > 0).all() and found.num_listed == len(found.landmarks)
    return found


def _check_alike(one: Any, other: Any) -> None:
    for name, value in vars(one).items():
        if isinstance(value, SubjectTemplates):
            _check_alike(value, vars(other)[name])
        elif isinstance(value, dict):
            assert value.keys() == vars(other)[name].keys()
            for key, own in value.items():
                _check_alike(own, vars(other)[name][key])
        else:
            np.testing.assert_array_equal(value, vars(other)[name])


def _check_named(content: bytes, result: Any) -> None:
    """Compares with the parser for any line, bit for bit, and with Python's own numbers."""
    names, values = result
    text = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    plain_names, plain_values = text_files._parse_named(text, 11, np.dtype(np.float32))
    np.testing.assert_array_equal(names, plain_names)
    np.testing.assert_array_equal(values.view(np.int32), plain_values.view(np.int32))
    rows = [line.split() for line in text.split(b"\n") if line.strip()]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(values, np.array([[float(word) for word in row[1:]] for row in rows], np.float32))


def _read_subjects(path: Path) -> Any:
    """Reads the subjects by the fast parser and line by line, which must be the same."""
    found = read_template_subjects(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "_parse_tidy_subjects", lambda _: None)
        plain = read_template_subjects(path)
    np.testing.assert_array_equal(np.stack(found), np.stack(plain))
    return found


def _read_rfw(path: Path) -> FilePairs:
    return load_race_layout(path.parents[2], None, 2, "auto")


def _rfw_images(folder: Path) -> None:
    for name in ("Asian/m.1/m.1_0001.jpg", "Asian/m.1/m.1_0002.png", "Asian/m.2/m.2_0001.jpg"):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_bytes(name.encode())
    (folder / "txts" / "Asian").mkdir(parents=True)


def _check_rfw(content: bytes, pairs: FilePairs) -> None:
    """Has the label of each line, and images of the people that it names."""
    rows = [row.split() for row in rows_of(content)]
    assert pairs.is_same.tolist() == [len(row) == 3 for row in rows]
    people = [pairs.files.files[image].parent.name for image in pairs.image_of.tolist()]
    assert people == [person for row in rows for person in (row[0], row[2] if len(row) == 4 else row[0])]


def _check_noises(content: bytes, listed: ListedSet) -> None:
    """Leaves out the probes whose file a line names in its last column."""
    rows = [row.strip().split("\t")[-1] for row in rows_of(content) if row[0] != "#"]
    noisy = {row.rpartition("/")[2] for row in rows}
    probes = [listed.names[image].rpartition("/")[2] for image in listed.used().tolist()]
    assert [name for name in probes if name.startswith("Ann")] == [name for name in ANN if name not in noisy]


SMALL_CHUNK = 24  # bytes
BETWEEN = b"\0|\0"  # two files
FACES = "".join(f"{name}.jpg {FIVE_POINTS} 0.{name}\n" for name in (1, 2, 2, 4))
RELEASE = (
    ("ijbc_face_tid_mid.txt", b"1.jpg 1 10\n2.jpg 2 11\n2.jpg 2 12\n3.jpg 3 13\n"),
    ("ijbc_name_5pts_score.txt", FACES.encode()),
    ("ijbc_template_pair_label.txt", b"1 2 1\n1 3 0\n3 3 1\n"),
    ("ijbc_1N_gallery_G1.csv", b"TEMPLATE_ID,SUBJECT_ID,F\n1,10,a\n2,10,b\n"),
    ("ijbc_1N_gallery_G2.csv", b"TEMPLATE_ID,SUBJECT_ID,F\n3,11,a\n"),
    ("ijbc_1N_probe_mixed.csv", b"TEMPLATE_ID,SUBJECT_ID,F\n2,10,a\n3,11,b\n"),
)
ANN = ("Ann_1.jpg", "Ann_2.jpg", "Ann_3.jpg")
CSV_WORDS = (",", '"', '""', "\r\n", ";", "\n\n")

TARGETS = [
    Target(
        "ijb_pairs",
        "pairs.txt",
        _read_pairs,
        lambda: lines("1 2 1", "3 4 0", "188000 5 1")[:3],
        _check_pairs,
        words=(" 1\n", " 0\n", "12345678", "-1", "  "),
    ),
    Target(
        "ijb_names",
        "names.txt",
        lambda path: read_named_numbers(path, 11, np.float32),
        lambda: lines(f"1.jpg {FIVE_POINTS} 0.98", f"2.jpg {FIVE_POINTS} 0.7")[:3],
        _check_named,
        words=(FIVE_POINTS, "-0.0", "1e38", "nan", "inf", "1.", ".5", "0.12345678", "12345678.5", ".jpg "),
    ),
    Target(
        "ijb_subjects",
        "gallery.csv",
        _read_subjects,
        lambda: lines("TEMPLATE_ID,SUBJECT_ID,FILENAME", "1,10,a.jpg", "2,11,b.jpg")[:3],
        words=("TEMPLATE_ID", "SUBJECT_ID", "12345678", "-1", *CSV_WORDS),
    ),
    Target(
        "ijb_release",
        "release",
        _read_release,
        lambda: [BETWEEN.join(text for _, text in RELEASE[:count]) for count in (6, 3)],
        is_named=False,  # it is all of its files
        words=(BETWEEN, "2.jpg 2 12\n", "3 3 1\n", "188000", "-1", "TEMPLATE_ID,SUBJECT_ID"),
        copies=30,
    ),
    Target(
        "ijbs_table",
        "gallery_G1.csv",
        lambda path: read_table(path, {}),
        lambda: lines("TEMPLATE_ID,SUBJECT_ID,FILENAME", "1,10,a.jpg", '2,11,"b, c.jpg"', "2,11,d.jpg"),
        _check_entries,
        words=("TEMPLATE_ID", "SUBJECT_ID", "FILENAME", *CSV_WORDS),
    ),
    Target(
        "megaface_list",
        "facescrub_lst",
        lambda path: load_megaface(path.parent),
        lambda: lines("Ann/Ann_1.jpg", "Ann/Ann_2.jpg", "x/facescrub_images/Bob/Bob_1.png"),
        _check_megaface,
        lambda folder: (folder / "megaface_lst").write_text("a/b/1.jpg\n"),
    ),
    Target(
        "megaface_noises",
        "facescrub_noises.txt",
        lambda path: load_megaface(path.parent),
        lambda: lines("# noisy", "1\tAnn_1.jpg", "Ann_4.jpg"),
        _check_noises,
        _megaface_lists,
        is_named=False,
        words=("#", "\t", "/", *ANN),
    ),
    Target(
        "rfw",
        "txts/Asian/Asian_pairs.txt",
        _read_rfw,
        lambda: lines("m.1\t1\t2", "m.1\t1\tm.2\t1", "m.1\t2\t1", "m.2\t1\tm.1\t2"),
        _check_rfw,
        _rfw_images,
        is_named=False,
        words=("m.1", "m.2", "\t", "../", "/", "12345678"),
    ),
    Target(
        "groups",
        "groups.csv",
        read_groups,
        lambda: lines("person,sex,region", "ann,f,a", "bob,m,"),
        _check_groups,
        words=("person", "image", "template", *CSV_WORDS),
    ),
    Target(
        "bfw_table",
        "bfw.csv",
        lambda path: load_race_layout(path, None, 2, "auto"),
        lambda: lines(
            "fold,p1,p2,label,att1,att2,g1,g2",
            *(f"{fold},f/a/1.jpg,{other},{label},f,{other[0]},F,F" for fold in (1, 2) for other, label in BFW_OTHERS),
        ),
        prepare=_bfw_images,
        words=("att1", "g1", "e1", "label", "fold", "p1", "\\", *CSV_WORDS),
    ),
]
