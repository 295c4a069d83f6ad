"""Datasets: the images and labels that are there, checks up front, and what happens at a bad image."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facekd.data.datasets import FolderDataset, RecordDataset, SyntheticDataset, open_dataset, print_summary
from facekd.data.datasets.identity_map import images_sha256
from facekd.data.recordio import RecordReader, unpack
from facekd.data.synthetic import render_faces
from facekd.errors import DataError, RecordError
from tests.facekd.data.conftest import encode, make_photo, write_im2rec_pack, write_insightface_pack

ALL = np.arange(12)
BROKEN = b"\xff\xd8\xff\xe0 not really"


def by_pil(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def make_folder(root, suffix=".png", counts=(2, 1, 3)):
    number = 0
    for identity, count in zip(("anna", "bo", "Carl"), counts, strict=True):
        (root / identity).mkdir(parents=True)
        for _ in range(count):
            (root / identity / f"{number:02d}{suffix}").write_bytes(encode(make_photo(number), suffix.lower()))
            number += 1
    return root


def test_a_pack_gives_the_images_and_labels_that_were_written(insightface_pack):
    dataset = RecordDataset(insightface_pack(), 32)
    images, labels = dataset.load(ALL)
    assert (len(dataset), dataset.num_classes, dataset.image_size) == (12, 4, 32)
    assert images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.dtype == np.int64 and labels.tolist() == dataset.labels.tolist() == [n // 3 for n in range(12)]
    np.testing.assert_array_equal(images, [by_pil(encode(make_photo(n))) for n in range(12)])


def test_images_come_in_the_order_asked_for_repeats_included(insightface_pack):
    dataset = RecordDataset(insightface_pack(), 32)
    whole, _ = dataset.load(ALL)
    images, labels = dataset.load(np.array([7, 0, 7, 11]))
    np.testing.assert_array_equal(images, whole[[7, 0, 7, 11]])
    assert labels.tolist() == [2, 0, 2, 3]
    assert dataset.load(np.array([], dtype=np.int64))[0].shape == (0, 32, 32, 3)


def test_an_im2rec_pack_with_keys_out_of_order(tmp_path):
    images = [encode(make_photo(n)) for n in range(3)]
    dataset = RecordDataset(write_im2rec_pack(tmp_path, images, [1, 0, 1], [30, 10, 20]), 32)
    assert dataset.num_classes == 2
    assert dataset.load(np.arange(3))[1].tolist() == [1, 0, 1]
    assert "record 30 " in dataset.describe(0)


def test_the_real_pack_written_by_mxnet(real_data):
    path = real_data("lfw_train/train.rec")
    dataset = open_dataset(path.parent, 112)
    assert (len(dataset), dataset.num_classes) == (3442, 336)
    assert set(dataset.labels.tolist()) == set(range(336))
    indices = np.arange(0, 3442, 137)
    images, labels = dataset.load(indices)
    with RecordReader(path) as reader:
        for image, label, index in zip(images, labels, indices, strict=True):
            header, data = unpack(reader.read(int(index) + 1))
            np.testing.assert_array_equal(image, by_pil(data))
            assert label == np.asarray(header.label)[0]


def test_someones_own_im2rec_pack(real_data):
    dataset = open_dataset(real_data("recordio/popkorn"), 112)
    assert (len(dataset), dataset.num_classes) == (8, 2)
    assert dataset.load(np.arange(8))[0].shape == (8, 112, 112, 3)


def test_a_folder_numbers_identities_by_name_and_images_by_name_within(tmp_path):
    dataset = FolderDataset(make_folder(tmp_path), 32)
    assert dataset.identities == ["Carl", "anna", "bo"]
    assert dataset.num_classes == 3
    images, labels = dataset.load(np.arange(6))
    assert labels.tolist() == dataset.labels.tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_array_equal(images, [make_photo(n) for n in (3, 4, 5, 0, 1, 2)])
    assert dataset.describe(3) == str(tmp_path / "anna" / "00.png")


def test_a_folder_ignores_what_is_no_image_and_takes_any_case(tmp_path):
    make_folder(tmp_path, suffix=".PNG")
    (tmp_path / "anna" / "notes.txt").write_text("x")
    (tmp_path / "anna" / ".hidden.png").write_bytes(b"x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "list.csv").write_text("x")
    (tmp_path / "anna" / "older").mkdir()
    (tmp_path / "stray.png").write_bytes(b"x")
    dataset = FolderDataset(tmp_path, 32)
    assert len(dataset) == 6
    assert dataset.warnings == [
        "left out: 2 files that are not images (list.csv, anna/notes.txt), 2 hidden files and folders (.cache, "
        "anna/.hidden.png), 1 image outside the folders (stray.png), 1 folder inside a folder (anna/older)"
    ]


def test_links_in_a_folder_are_followed_except_round_in_a_loop(tmp_path):
    make_folder(tmp_path / "people")
    make_folder(tmp_path / "elsewhere")
    faces = tmp_path / "people"
    for place in (faces, faces / "bo"):
        for name, target in (("itself", "itself"), ("there", "back"), ("back", "there"), ("gone", "nowhere")):
            (place / name).symlink_to(target)
    (faces / "bo" / "linked.png").symlink_to("../anna/00.png")
    (faces / "zoe").symlink_to("../elsewhere/anna")
    dataset = open_dataset(faces, 32)
    assert isinstance(dataset, FolderDataset)
    assert dataset.identities == ["Carl", "anna", "bo", "zoe"]
    assert np.bincount(dataset.labels).tolist() == [3, 2, 2, 2]
    images = dataset.load(np.arange(9))[0]
    np.testing.assert_array_equal(images[6], images[3])
    assert dataset.warnings == ["left out: 8 files that are not images (back, gone, itself, ...)"]


def test_a_link_that_leads_nowhere_is_a_bad_image(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "bo" / "gone.png").symlink_to("nowhere")
    (tmp_path / "bo" / "itself.png").symlink_to("itself.png")
    assert len(FolderDataset(tmp_path, 32)) == 8
    with pytest.raises(DataError, match=r"bo/gone\.png: no such image, .* set on_bad_record to skip"):
        FolderDataset(tmp_path, 32).load(np.array([6]))
    skipping = FolderDataset(tmp_path, 32, on_bad_record="skip")
    assert skipping.load(np.array([7]))[1].tolist() == [0]
    assert "itself.png: Too many levels of symbolic links" in skipping.take_bad_records()[0]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux, to have a file that cannot be read")
def test_an_image_that_the_device_does_not_give_is_never_skipped(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "bo" / "lost.png").symlink_to("/proc/self/mem")
    dataset = FolderDataset(tmp_path, 32, on_bad_record="skip")
    with pytest.raises(DataError, match=r"bo/lost\.png: Input/output error; look at the disk"):
        dataset.load(np.arange(len(dataset)))
    with pytest.raises(OSError):  # nor does it become a part of the fingerprint
        images_sha256(dataset)


def test_two_links_to_one_folder_are_not_two_identities(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "zoe").symlink_to("anna")
    with pytest.raises(DataError, match=r"zoe and .*anna are one folder, by a link"):
        FolderDataset(tmp_path, 32)


def test_names_in_any_script_are_read(tmp_path):
    folder = tmp_path / "Zoë 李"
    folder.mkdir()
    (folder / "фото.png").write_bytes(encode(make_photo(3), ".png"))
    dataset = FolderDataset(tmp_path, 32)
    np.testing.assert_array_equal(dataset.load(np.array([0]))[0][0], make_photo(3))
    assert dataset.path_of(0) == folder / "фото.png"


@pytest.mark.parametrize("make", [lambda path: None, lambda path: (path / "stray.jpg").write_bytes(b"x")])
def test_a_folder_without_subfolders_says_what_was_expected(tmp_path, make):
    make(tmp_path)
    with pytest.raises(DataError, match="holds no folders with images; expected one for each identity"):
        FolderDataset(tmp_path, 32)


def test_an_identity_without_images_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "nobody").mkdir()
    with pytest.raises(DataError, match=r"nobody holds no image; every class needs at least one.*images end in .jpg, "):
        FolderDataset(tmp_path, 32)


def test_generated_faces_are_those_of_the_renderer_however_they_are_batched():
    dataset = open_dataset("synthetic:3x4:5", 32)
    assert isinstance(dataset, SyntheticDataset)
    assert (len(dataset), dataset.num_classes, dataset.image_size) == (12, 3, 32)
    images, labels = dataset.load(ALL)
    assert labels.tolist() == dataset.labels.tolist() == [n // 4 for n in range(12)]
    np.testing.assert_array_equal(images, render_faces(ALL // 4, ALL % 4, size=32, seed=5))
    np.testing.assert_array_equal(dataset.load(np.array([9, 2]))[0], images[[9, 2]])
    assert (open_dataset("synthetic:3 x 4:6", 32).load(ALL)[0] != images).any()
    assert "photo 1 of identity 2" in dataset.describe(9)


@pytest.mark.parametrize("path", ["synthetic:", "synthetic:20", "synthetic:20x", "synthetic:axb", "synthetic:2x2:x"])
def test_a_misspelt_wish_for_generated_faces_shows_how(path):
    with pytest.raises(DataError, match="write synthetic:200x20"):
        open_dataset(path, 32)


def test_no_generated_faces_at_all_is_refused():
    with pytest.raises(DataError, match="found 0 identities"):
        open_dataset("synthetic:0x5", 32)


def test_open_dataset_chooses_by_what_is_there(insightface_pack, tmp_path):
    pack = insightface_pack()
    assert isinstance(open_dataset(pack, 32), RecordDataset)
    assert isinstance(open_dataset(str(pack / "train.rec"), 32), RecordDataset)
    assert isinstance(open_dataset(make_folder(tmp_path / "people"), 32), FolderDataset)
    with pytest.raises(DataError, match=r"no data at .*nowhere; expected a \.rec file"):
        open_dataset(tmp_path / "nowhere", 32)
    (tmp_path / "tars").mkdir()
    for file in (tmp_path / "tars" / "train-000.tar", tmp_path / "lfw.bin"):
        file.touch()
    for path in (tmp_path / "tars", tmp_path / "tars" / "train-000.tar"):
        with pytest.raises(DataError, match=rf"{path}: tar files are for .*`facekd data convert {path} OUT`"):
            open_dataset(path, 32)
    with pytest.raises(DataError, match=r"lfw.bin: is a verification pack"):
        open_dataset(tmp_path / "lfw.bin", 32)


def test_another_image_size_fails_at_once_and_says_what_to_do(insightface_pack):
    with pytest.raises(DataError, match=r"record 1 at offset 0: .*32x32 pixels, expected 64x64; set the image size"):
        RecordDataset(insightface_pack(), 64)


def test_another_image_size_can_be_resized(insightface_pack, tmp_path):
    images, _ = RecordDataset(insightface_pack(), 16, resize=True).load(ALL)
    assert images.shape == (12, 16, 16, 3)
    assert FolderDataset(make_folder(tmp_path / "people"), 64, resize=True).load(np.arange(2))[0].shape == (
        2,
        64,
        64,
        3,
    )


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (BROKEN, "cut short"),
        (b"\x89PNG...", "do not decode"),
        (encode(make_photo(0, 40)), "40x40 pixels, expected 32x32"),
    ],
)
def test_a_bad_image_fails_with_its_key_offset_and_reason(insightface_pack, broken, reason):
    path = insightface_pack({7: broken})
    dataset = RecordDataset(path, 32)
    with RecordReader(path / "train.rec") as reader:
        offset = reader.offset_of(8)
    with pytest.raises(DataError, match=rf"train\.rec: record 8 at offset {offset:,}: .*{reason}"):
        dataset.load(np.array([0, 7]))


def test_skip_takes_the_next_good_image_with_its_label_and_says_so(insightface_pack):
    dataset = RecordDataset(insightface_pack({7: BROKEN, 8: b"junk"}), 32, on_bad_record="skip")
    images, labels = dataset.load(np.array([6, 7, 1]))
    assert labels.tolist() == [2, 3, 0]
    np.testing.assert_array_equal(images[1], by_pil(encode(make_photo(9))))
    bad = dataset.take_bad_records()
    assert len(bad) == 2 and "record 8 " in bad[0] and "record 9 " in bad[1]
    assert dataset.take_bad_records() == []


def test_skip_goes_round_at_the_end(insightface_pack):
    dataset = RecordDataset(insightface_pack({11: BROKEN}), 32, on_bad_record="skip")
    images, labels = dataset.load(np.array([11]))
    assert labels.tolist() == [0]
    np.testing.assert_array_equal(images[0], by_pil(encode(make_photo(0))))


def test_a_first_image_skipped_while_opening_is_not_counted_before_it_is_read(insightface_pack):
    dataset = RecordDataset(insightface_pack({0: BROKEN}), 32, on_bad_record="skip")
    assert dataset.take_bad_records() == []
    dataset.load(np.array([0]))
    assert len(dataset.take_bad_records()) == 1


def test_skip_gives_up_where_everything_is_bad(insightface_pack):
    path = insightface_pack(dict.fromkeys(range(12), BROKEN))
    with pytest.raises(
        DataError, match=r"100 images in a row .* more than a few bad ones; the last: .*record \d+ at offset"
    ):
        RecordDataset(path, 32, on_bad_record="skip")


def test_damage_to_the_record_itself_is_met_like_a_bad_image(insightface_pack):
    path = insightface_pack()
    dataset = RecordDataset(path, 32)
    offset = dataset.pack.reader.offset_of(6)
    with (path / "train.rec").open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\0\0\0\0")
    with pytest.raises(DataError, match=rf"record 6 at offset {offset:,}.*magic.*set on_bad_record to skip"):
        dataset.load(np.array([5]))
    skipping = RecordDataset(path, 32, on_bad_record="skip")
    assert len(skipping) == 11
    assert skipping.load(np.array([4, 5]))[1].tolist() == [1, 2]
    assert any("1 of 12 image records is unusable, first:" in note for note in skipping.warnings)
    assert pickle.loads(pickle.dumps(skipping)).load(np.array([4, 5]))[1].tolist() == [1, 2]
    with pytest.raises(RecordError, match="record 6"):
        RecordDataset(path, 32)


def test_the_rest_of_a_truncated_pack_can_be_used(insightface_pack):
    path = insightface_pack()
    reader = RecordReader(path / "train.rec")
    cut = reader.offset_of(10) + 50
    with (path / "train.rec").open("r+b") as stream:
        stream.truncate(cut)
    with pytest.raises(RecordError, match="truncated"):
        RecordDataset(path, 32)
    dataset = RecordDataset(path, 32, on_bad_record="skip")
    assert dataset.labels.tolist() == dataset.load(np.arange(9))[1].tolist() == [n // 3 for n in range(9)]
    assert dataset.num_classes == 4  # by `property`
    assert dataset.take_bad_records() == []
    assert any("the .rec is truncated: 7 records lie beyond its end" in note for note in dataset.warnings)


def test_a_pack_that_lost_half_is_no_more_than_a_smaller_pack(tmp_path):
    # The lost half is longer than the stretch of undecodable images at which "skip" gives up.
    images = [encode(make_photo(n % 7)) for n in range(300)]
    path = write_insightface_pack(tmp_path, images, [n // 3 for n in range(300)])
    with (path / "train.rec").open("r+b") as stream:
        stream.truncate(RecordReader(path / "train.rec").offset_of(150))
    dataset = RecordDataset(path, 32, on_bad_record="skip")
    assert len(dataset) == 149
    assert dataset.load(np.arange(149))[1].tolist() == [n // 3 for n in range(149)]


def test_identity_records_are_no_images_when_the_header_record_is_lost(insightface_pack):
    path = insightface_pack()
    with (path / "train.rec").open("r+b") as stream:
        stream.truncate(RecordReader(path / "train.rec").offset_of(0))  # which was written last
    dataset = RecordDataset(path, 32, on_bad_record="skip")
    assert (len(dataset), dataset.num_classes, dataset.pack.layout) == (12, 4, "insightface")
    assert any("so the layout is a guess" in note for note in dataset.warnings)


def test_labels_beyond_the_number_of_classes_are_refused_up_front_with_the_key(tmp_path):
    images = [encode(make_photo(n)) for n in range(4)]
    path = write_im2rec_pack(tmp_path / "pack", images, [0, 1, 5, 7], [4, 3, 2, 1])
    (path / "property").write_text("3,32,32\n")
    with pytest.raises(
        DataError,
        match=r"2 of 4 labels are not from 0 to 2; the first is 5, of .*record 2 at offset .*`property` file",
    ):
        RecordDataset(path, 32)
    with pytest.raises(DataError, match="the first is 5"):
        RecordDataset(path, 32, on_bad_record="skip")


def test_a_file_that_goes_missing_is_named(tmp_path):
    dataset = FolderDataset(make_folder(tmp_path), 32)
    dataset.path_of(4).unlink()
    with pytest.raises(DataError, match=r"01\.png: no such image"):
        dataset.load(np.arange(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"on_bad_record": "ignore"}, "must be fail or skip, found 'ignore'"), ({"image_size": 0}, "found 0")],
)
def test_arguments_out_of_range_are_refused(insightface_pack, arguments, message):
    with pytest.raises(DataError, match=message):
        open_dataset(insightface_pack(), **({"image_size": 32} | arguments))


def test_a_dataset_sent_to_a_worker_reads_the_same_there(insightface_pack, tmp_path):
    for dataset in (
        RecordDataset(insightface_pack(), 32),
        FolderDataset(make_folder(tmp_path / "people"), 32),
        SyntheticDataset(2, 3, 32),
    ):
        sent = pickle.loads(pickle.dumps(dataset))
        for ours, theirs in zip(dataset.load(np.arange(6)), sent.load(np.arange(6)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(dataset.labels, sent.labels)


def test_warnings_are_printed_by_the_first_process_only(tmp_path, capsys, monkeypatch):
    (make_folder(tmp_path) / "list.csv").write_text("x")
    dataset = FolderDataset(tmp_path, 32)
    monkeypatch.setenv("RANK", "1")
    print_summary(dataset)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    print_summary(dataset)
    assert capsys.readouterr().err == (
        f"data: {tmp_path}: 6 images, 3 of 3 classes have any, labels 0 to 2\n"
        f"warning: {tmp_path}: left out: 1 file that is not an image (list.csv)\n"
    )
