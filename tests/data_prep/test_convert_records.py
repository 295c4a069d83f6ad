"""`facekd data convert`: what goes in comes out, whatever it passes through."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import convert_records, pack_records, unpack_records
from data_prep.sources.image_sources import read_tsv
from facekd.data.datasets import open_dataset
from facekd.data.datasets.record_pack import open_record_pack
from facekd.data.datasets.record_pack_writer import RecordPackWriter
from facekd.data.datasets.sharded_records import ShardedRecords, find_shards
from facekd.errors import DataError, RecordError
from facekd.images.decoding import decode_rgb

Run = Callable[..., tuple[int, str, str]]
PACK_FILES = ("train.rec", "train.idx", "train.lst", "property")


def picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (32, 32)))[1].tobytes()


def make_faces(root: Path, people: dict[str, int], seed: int) -> Path:
    for person, count in people.items():
        (root / person).mkdir(parents=True)
        for number in range(count):
            (root / person / f"{number} é.jpg").write_bytes(picture(seed + 31 * number + ord(person[0])))
    return root


@pytest.fixture
def pack(tmp_path: Path, run: Run) -> Path:
    folder = make_faces(tmp_path / "faces", {"Ada": 3, "Bob": 2, "Cyd": 4}, 0)
    assert run(pack_records.main, folder, tmp_path / "pack", "--size", 32)[0] == 0
    return tmp_path / "pack"


def content_of(folder: Path) -> list[tuple[bytes, int]]:
    records = ShardedRecords(folder) if find_shards(folder) else open_record_pack(folder)
    return [records.read_image(image) for image in range(records.num_images)]


def assert_same_pack(one: Path, other: Path) -> None:
    for name in PACK_FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("options", [("--to", "webdataset"), ("--shards", 4), ("--shards", 3, "--to", "webdataset")])
def test_a_pack_comes_back_to_the_byte(pack: Path, tmp_path: Path, run: Run, options: tuple) -> None:
    assert run(convert_records.main, pack, tmp_path / "there", *options)[0] == 0
    assert run(convert_records.main, tmp_path / "there", tmp_path / "back")[0] == 0
    assert_same_pack(pack, tmp_path / "back")


def test_shards_read_as_one_and_know_their_classes(pack: Path, tmp_path: Path, run: Run) -> None:
    assert run(convert_records.main, pack, tmp_path / "shards", "--shards", 4)[0] == 0
    assert sorted(file.name for file in (tmp_path / "shards").glob("*.rec"))[-1] == "train-00003-of-00004.rec"
    assert content_of(tmp_path / "shards") == content_of(pack)
    data, expected = (open_dataset(path, 32) for path in (tmp_path / "shards", pack))
    assert len(data) == 9 and data.num_classes == 3
    indices = np.array([8, 0, 4, 3])
    for one, other in zip(data.load(indices), expected.load(indices), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "train-00003-of-00004.rec" in data.describe(8)
    (tmp_path / "shards" / "train-00001-of-00004.rec").unlink()
    with pytest.raises(RecordError, match="1 of 4 shards is missing"):
        open_dataset(tmp_path / "shards", 32)


def test_shuffled_packs_hold_the_same_in_another_order(pack: Path, tmp_path: Path, run: Run) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(convert_records.main, pack, tmp_path / name, "--shuffle", "--seed", seed)[0] == 0
    a, b, c = (content_of(tmp_path / name) for name in "abc")
    assert sorted(a) == sorted(content_of(pack)) and a == b != c and a != content_of(pack)
    assert open_record_pack(tmp_path / "a").layout == "im2rec"
    run(convert_records.main, tmp_path / "a", tmp_path / "sorted", "--layout", "insightface")
    assert sorted(content_of(tmp_path / "sorted")) == sorted(content_of(pack))


@pytest.mark.parametrize("kind", ["pack", "shards", "tars"])
def test_a_shuffled_conversion_asks_for_each_image_once_and_ahead(
    pack: Path, tmp_path: Path, run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"pack": (), "shards": ("--shards", 2), "tars": ("--to", "webdataset")}[kind]
    assert run(convert_records.main, pack, tmp_path / "source", *options)[0] == 0
    monkeypatch.setattr(convert_records, "ROWS_ANNOUNCED", 2)
    asked: list[tuple[str, int]] = []
    read: list[tuple[str, int]] = []
    pread = os.pread

    def name(file: int) -> str:
        return Path(f"/proc/self/fd/{file}").readlink().name

    def counting_pread(file: int, size: int, offset: int) -> bytes:
        if asked:  # else the pack is only being looked at
            assert (name(file), offset) in asked
            read.append((name(file), offset))
        return pread(file, size, offset)

    monkeypatch.setattr(os, "posix_fadvise", lambda file, offset, size, advice: asked.append((name(file), offset)))
    monkeypatch.setattr(os, "pread", counting_pread)
    assert run(convert_records.main, tmp_path / "source", tmp_path / "out", "--shuffle")[0] == 0
    assert len(asked) == len(set(asked)) == 9 and sorted(read) == sorted(asked)
    monkeypatch.undo()
    assert sorted(content_of(tmp_path / "out")) == sorted(content_of(pack))


def test_merged_packs_have_labels_of_their_own(pack: Path, tmp_path: Path, run: Run) -> None:
    other = make_faces(tmp_path / "other", {"Ada": 2, "Zoe": 3}, 500)
    status, _, err = run(convert_records.main, pack, other, tmp_path / "merged")
    assert status == 0 and "record pack (insightface): 9 images" in err and "folder of images: 5 images" in err
    merged = content_of(tmp_path / "merged")
    assert [label for _, label in merged] == [0] * 3 + [1] * 2 + [2] * 4 + [3] * 2 + [4] * 3
    assert merged[9][0] == (other / "Ada" / "0 é.jpg").read_bytes()
    report = json.loads((tmp_path / "merged" / "convert_report.json").read_text())
    assert [source["first_label"] for source in report["sources"]] == [0, 3] and report["num_classes"] == 5
    assert run(unpack_records.main, tmp_path / "merged", tmp_path / "images", "--names")[0] == 0
    assert (tmp_path / "images" / "1_Ada" / "0 é.jpg").exists()
    _, _, err = run(convert_records.main, pack, other, tmp_path / "same", "--same-labels")
    warning = f"but label 1 is 'Bob' in {pack} and 'Zoe' in {other}\n"
    assert f"warning: --same-labels takes a label for one person in all sources, {warning}" in err
    assert "warning" not in run(convert_records.main, pack, pack, tmp_path / "twice", "--same-labels")[2]
    assert [label for _, label in content_of(tmp_path / "same")] == [0] * 5 + [1] * 5 + [2] * 4


def test_images_are_encoded_again_only_when_asked(pack: Path, tmp_path: Path, run: Run) -> None:
    run(convert_records.main, pack, tmp_path / "small", "--reencode", 30)
    for (before, _), (after, _) in zip(content_of(pack), content_of(tmp_path / "small"), strict=True):
        assert len(after) < len(before)
        assert np.abs(decode_rgb(before).astype(int) - decode_rgb(after)).mean() < 12


def test_sources_and_earlier_results_are_not_destroyed(pack: Path, tmp_path: Path, run: Run) -> None:
    before = {file.name: file.read_bytes() for file in pack.iterdir()}
    status, _, err = run(convert_records.main, pack, pack, "--force")
    assert status == 2 and "is a source itself" in err
    run(convert_records.main, pack, tmp_path / "out", "--shards", 4)
    status, _, err = run(convert_records.main, pack, tmp_path / "out", "--shards", 2)
    assert status == 2 and "is there already" in err
    assert run(convert_records.main, pack, tmp_path / "out", "--shards", 2, "--force")[0] == 0
    assert len(find_shards(tmp_path / "out")) == 2 and content_of(tmp_path / "out") == content_of(pack)
    assert {file.name: file.read_bytes() for file in pack.iterdir()} == before


def test_train_tsv_of_all_forms(tmp_path: Path, run: Run) -> None:
    faces = make_faces(tmp_path / "faces", {"Ada": 2, "Bob": 1}, 0)
    for text in (
        "Ada/0 é.jpg\t0\nBob/0 é.jpg\t1\n",
        "path\tlabel\nAda/0 é.jpg\t0\nBob/0 é.jpg\t1\n",
        "0\tAda/0 é.jpg\tAda\n1\tBob/0 é.jpg\tBob\n",
    ):
        (faces / "train.tsv").write_text(text)
        assert run(convert_records.main, faces, tmp_path / "out", "--force")[0] == 0
        expected = [((faces / person / "0 é.jpg").read_bytes(), label) for label, person in enumerate(("Ada", "Bob"))]
        assert content_of(tmp_path / "out") == expected
    (faces / "train.tsv").write_text("a\tb\tc\td\n")
    with pytest.raises(DataError, match="line 1"):
        read_tsv(faces / "train.tsv")


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_tars_of_others(tmp_path: Path, run: Run) -> None:
    a, b = picture(1), picture(2)
    write_tar(
        tmp_path / "x.tar",
        [("d/0001.cls", b" 1\n"), ("d/0001.jpg", a), ("d/0002.jpg", b), ("d/0002.json", b'{"label": 0}')],
    )
    assert run(convert_records.main, tmp_path / "x.tar", tmp_path / "out")[0] == 0
    assert content_of(tmp_path / "out") == [(b, 0), (a, 1)]
    write_tar(tmp_path / "y.tar", [("1.jpg", a)])
    status, _, err = run(convert_records.main, tmp_path / "y.tar", tmp_path / "out2")
    assert status == 2 and "sample 1 has no label" in err
    (tmp_path / "z.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:700])
    status, _, err = run(convert_records.main, tmp_path / "z.tar", tmp_path / "out3")
    assert status == 2 and "z.tar" in err


def test_samples_of_a_tar_that_are_left_out_are_named(tmp_path: Path, run: Run) -> None:
    image = picture(1)
    others = [("1.img", image), ("1.cls", b"1"), ("2.cls", b"2"), ("shapes.json", b"[]"), ("about.txt", b"")]
    tar = tmp_path / "x.tar"
    write_tar(tar, [("0.jpg", image), ("0.cls", b"0"), *others, ("3.jpg", image), ("3.json", b'{"label": 1.0}')])
    status, out, err = run(convert_records.main, tar, tmp_path / "out")
    left_out = "left out: 2 of the labelled samples, which have no image that can be read, first"
    assert status == 0 and "2 images of 2 identities" in out and f"{left_out} {tar}: sample 1 (.img, .cls)" in err


@pytest.mark.parametrize("label", [b"1.7", b"true", b"Infinity", b"NaN", b"[1]", b"null"])
def test_a_label_in_a_tar_that_is_no_whole_number_is_refused(tmp_path: Path, run: Run, label: bytes) -> None:
    write_tar(tmp_path / "x.tar", [("0.jpg", picture(1)), ("0.json", b'{"label": ' + label + b"}")])
    status, _, err = run(convert_records.main, tmp_path / "x.tar", tmp_path / "out")
    assert status == 2 and "sample 0 has no label (a whole number" in err


def test_tables_of_images_and_labels(tmp_path: Path, run: Run) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the optional package pyarrow")
    import pyarrow.parquet as parquet

    images = [picture(number) for number in range(4)]
    (tmp_path / "data").mkdir()
    for part in (0, 1):
        rows = {
            "image": [{"bytes": image, "path": None} for image in images[2 * part : 2 * part + 2]],
            "label": [part, 1 - part],
        }
        table = pyarrow.table(rows)
        parquet.write_table(table, tmp_path / "data" / f"train-{part}.parquet")
        with (
            pyarrow.OSFile(str(tmp_path / f"{part}.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    assert run(convert_records.main, tmp_path / "data", tmp_path / "out")[0] == 0
    assert content_of(tmp_path / "out") == [(images[0], 0), (images[3], 0), (images[1], 1), (images[2], 1)]
    assert run(convert_records.main, tmp_path / "0.arrow", tmp_path / "out2")[0] == 0
    assert content_of(tmp_path / "out2") == [(images[0], 0), (images[1], 1)]


def test_images_that_cannot_be_used_are_met_by_the_policy(tmp_path: Path, run: Run) -> None:
    faces = make_faces(tmp_path / "faces", {"Ada": 2, "Bob": 1}, 0)
    (faces / "Ada" / "0 é.jpg").write_bytes(b"broken")
    arguments = (faces, tmp_path / "out", "--reencode", 90)
    status, _, err = run(convert_records.main, *arguments)
    assert status == 2 and "Ada/0 é.jpg" in err and not list((tmp_path / "out").glob("*.rec"))
    assert "2 images of 2 identities, 1 skipped" in run(convert_records.main, *arguments, "--on-bad-record", "skip")[1]


def test_popkorn_comes_back_to_the_byte(real_data: Callable[[str], Path], tmp_path: Path, run: Run) -> None:
    """Someone's im2rec pack with keys out of order: the list's index is the key."""
    source = real_data("recordio/popkorn")
    assert run(unpack_records.main, source, tmp_path / "images")[0] == 0
    status, _, err = run(pack_records.main, source / "train.lst", tmp_path / "out", "--root", tmp_path / "images",
                         "--layout", "im2rec")  # fmt: skip
    assert status == 0 and "`index label path`" in err
    for name in PACK_FILES[:3]:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--to", "webdataset", "--shards", 3), ("--shards", 3)])
def test_the_real_pack_comes_back_to_the_byte(
    real_data: Callable[[str], Path], tmp_path: Path, run: Run, options: tuple
) -> None:
    source = real_data("lfw_train")
    assert run(convert_records.main, source, tmp_path / "there", *options)[0] == 0
    assert run(convert_records.main, tmp_path / "there", tmp_path / "back")[0] == 0
    assert_same_pack(source, tmp_path / "back")


# Reads shards and tars in a process that may open 60 files, of which the system allows as many as are named.
FEW_FILES = """
import functools, os, resource, sys
import numpy as np
from data_prep.convert_records import main
from facekd.data.datasets import open_dataset
from facekd.errors import run_verb
os.fsync = lambda file: None  # nobody cuts the power of a test
allowed, folder = int(sys.argv[1]), sys.argv[2]
if allowed == 0:
    sys.exit(main([folder + "/pack", folder + "/shards", "--shards", "80"])
             or main([folder + "/pack", folder + "/tars", "--shards", "80", "--to", "webdataset"]))
resource.setrlimit(resource.RLIMIT_NOFILE, (60, allowed))
def read():
    data = open_dataset(folder + "/shards", 32)
    print(len(data.load(np.arange(len(data)))[0]))
for number, act in enumerate([
    functools.partial(main, [folder + "/shards", f"{folder}/a{allowed}"]),
    functools.partial(main, [folder + "/tars", f"{folder}/b{allowed}"]),
    read,
]):
    print("status", run_verb(act))
"""


def test_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    with RecordPackWriter(tmp_path / "pack", 32) as writer:
        for number in range(80):
            writer.add(number // 40, picture(number), f"{number // 40}/{number}.jpg")

    def run_with(allowed: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FEW_FILES, str(allowed), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert run_with(0).returncode == 0
    enough, too_few = run_with(1000), run_with(70)
    assert enough.stdout.count("status 0") == 3 and "\n80\n" in enough.stdout, enough.stderr
    assert_same_pack(tmp_path / "pack", tmp_path / "a1000")
    assert_same_pack(tmp_path / "pack", tmp_path / "b1000")
    assert too_few.stdout == "status 2\n" * 3
    lines = too_few.stderr.splitlines()
    assert len(lines) == 3 and all("its 80 files have to be open at the same time" in line for line in lines), lines
    assert "allows a process 70 open files (`ulimit -Hn`)" in lines[0]
