"""Tests reading packs and lists of names as validated pair sets."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.sets.pair_set import load_pair_set
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError, InputError


def test_a_pack_becomes_a_pair_set(pack):
    pair_set = load_pair_set(pack, folds=4)
    assert (pair_set.name, len(pair_set), len(pair_set.images), pair_set.num_folds) == ("pairs", 40, 80, 4)
    np.testing.assert_array_equal(pair_set.fold_of, np.repeat(range(4), 10))
    np.testing.assert_array_equal(pair_set.is_same, np.arange(40) % 2 == 0)
    assert pair_set.subjects is pair_set.people is pair_set.num_subjects_in_several_folds is None
    assert pair_set.decode(78, 80).shape == (2, 16, 16, 3)
    assert load_pair_set(pack, name="mine").name == "mine"


def test_names_give_the_subjects(pack):
    pair_set = load_pair_set(pack, names=pack.with_suffix(".txt"))
    assert pair_set.subjects[0].tolist() == ["person_0", "person_0"]
    assert pair_set.subjects[1].tolist() == ["person_2", "person_3"]
    assert (pair_set.people.num_people, pair_set.num_subjects_in_several_folds) == (60, 0)


def test_subjects_shared_between_folds_are_counted(tmp_path, pack):
    names = tmp_path / "shared.txt"
    lines = ["a/1\ta/2\t1", "b/1\tc/1\t0"] * 20  # the same three people in every fold
    names.write_text("\n".join(lines))
    assert load_pair_set(pack, names=names).num_subjects_in_several_folds == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "names 39 pairs, but .* holds 40"),
        (lambda lines: [lines[0].replace("\t", " "), *lines[1:]], "line 1 is .* expected nameA<TAB>nameB<TAB>label"),
        (lambda lines: [*lines[:3], lines[3][:-1] + "7", *lines[4:]], "line 4 .* label 0 or 1"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 is labelled 0, pair 0 of .* 1; .* another order"),
        (lambda lines: ["a/1\tb/1\t1", *lines[1:]], "line 1 is a pair of a and b, labelled genuine"),
        (lambda lines: [lines[0], "a/1\ta/2\t0", *lines[2:]], "line 2 is a pair of a and a, labelled impostor"),
        (lambda lines: ["1.jpg\t2.jpg\t1", *lines[1:]], "line 1: '1.jpg' has no folder part"),
    ],
)
def test_names_of_another_pack_are_refused_naming_the_line(pack, change, message):
    names = pack.with_suffix(".txt")
    names.write_text("\n".join(change(names.read_text().splitlines())))
    with pytest.raises(DataError, match=message):
        load_pair_set(pack, names=names)


def warnings_of(path, images, is_same, **more) -> str:
    write_pair_pack(path, images, is_same)
    return "\n".join(load_pair_set(path, folds=2, **more).warnings)


def test_equal_images_that_contradict_the_labels_are_counted(pack, tmp_path):
    whole = read_pair_pack(pack)
    images, path = list(whole.images), tmp_path / "doubtful.bin"
    assert warnings_of(path, images, whole.is_same) == ""
    # Pair 1 is labelled impostor and shows the two images of genuine pair 0; pair 3 an image and itself.
    images[2:4] = images[1], images[0]
    images[6:8] = images[6], images[6]
    said = warnings_of(path, images, whole.is_same)
    assert "joined to one person by genuine pairs: 2 of 40, the first pair 1; some of these labels" in said
    # Pair 5 joins an image of pair 0 with one of pair 2, both genuine, and pair 7 calls their other images two people.
    images = list(whole.images)
    is_same = whole.is_same.copy()
    is_same[5] = True
    images[10:12] = images[0], images[4]
    images[14:16] = images[1], images[5]
    assert "by genuine pairs: 1 of 40, the first pair 7;" in warnings_of(path, images, is_same)


def test_genuine_pairs_of_one_image_are_counted(pack, tmp_path):
    whole = read_pair_pack(pack)
    images = list(whole.images)
    images[5] = images[4]
    said = warnings_of(tmp_path / "same.bin", images, whole.is_same)
    assert "genuine pairs that compare an image with itself: 1, the first pair 2" in said


def test_an_image_under_two_names_is_named(pack, tmp_path):
    whole = read_pair_pack(pack)
    images = list(whole.images)
    images[6] = images[0]
    said = warnings_of(tmp_path / "twice.bin", images, whole.is_same, names=pack.with_suffix(".txt"))
    assert "images under several names: 1, the first image 0 (pair 0): person_0, person_6" in said


def test_few_people_behind_many_pairs_are_counted(pack, tmp_path):
    names = tmp_path / "few.txt"
    lines = ["a/1\ta/2\t1", "b/1\tc/1\t0"] * 20
    names.write_text("\n".join(lines))
    pair_set = load_pair_set(pack, folds=2, names=names)
    assert (pair_set.people.num_genuine_people, pair_set.people.num_impostor_people_pairs) == (1, 1)
    said = "\n".join(pair_set.warnings)
    assert "people in the 20 genuine pairs: only 1," in said
    assert "pairs of people in the 20 impostor pairs: only 1," in said and "3 people make 3" in said


def test_names_that_are_no_text_are_refused(pack):
    with pytest.raises(DataError, match="is not text"):
        load_pair_set(pack, names=pack)


@pytest.mark.parametrize(("value", "present"), [(True, "genuine"), (False, "impostor")])
def test_a_pack_of_one_kind_is_refused(tmp_path, pack, value, present):
    path = tmp_path / "one_kind.bin"
    write_pair_pack(path, read_pair_pack(pack).images, np.full(40, value))
    with pytest.raises(DataError, match=f"all 40 pairs are {present}"):
        load_pair_set(path)


def test_more_folds_than_pairs_and_a_damaged_pack_are_refused(tmp_path, pack):
    with pytest.raises(InputError, match="between 2 and the 40 pairs"):
        load_pair_set(pack, folds=41)
    damaged = tmp_path / "damaged.bin"
    damaged.write_bytes(pack.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"damaged\.bin"):
        load_pair_set(damaged)


def test_lfw_folds_share_no_subject(real_data):
    pair_set = load_pair_set(
        real_data("lfw_pairs/lfw_folds12.bin"), folds=2, names=real_data("lfw_pairs/lfw_folds12_pairs.txt")
    )
    assert (len(pair_set), int(pair_set.is_same.sum())) == (1200, 600)
    assert pair_set.num_subjects_in_several_folds == 0


def test_the_small_pack_of_insightface_has_genuine_pairs_only(real_data):
    with pytest.raises(DataError, match="all 10 pairs are genuine"):
        load_pair_set(real_data("lfw_pairs/small_lfw.bin"), folds=2)
