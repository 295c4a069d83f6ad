"""`facekd data make-pairs`: published lists and drawn pairs, to packs that the harness reads."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import make_pair_set
from data_prep.pairs.published_lists import read_pair_list, subject_of
from data_prep.pairs.sampling import all_pairs, sample_pairs
from evaluation.sets.pair_set import load_pair_set
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import DataError

Run = Callable[..., tuple[int, str, str]]
PEOPLE = ["Ada_Lovelace", "Bob", "Cyd", "Dan", "Eve", "Fay"]


def picture(seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (112, 112)))[1].tobytes()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people of four aligned images, named as LFW's are."""
    root = tmp_path_factory.mktemp("faces")
    for number, person in enumerate(PEOPLE):
        (root / person).mkdir()
        for image in range(1, 5):
            (root / person / f"{person}_{image:04d}.jpg").write_bytes(picture(10 * number + image))
    return root


def content(root: Path, person: str, image: int) -> bytes:
    return (root / person / f"{person}_{image:04d}.jpg").read_bytes()


LFW = """2\t2
Ada_Lovelace\t1\t4
Bob\t1\t2
Ada_Lovelace\t2\tCyd\t3
Bob\t4\tDan\t1
Cyd\t1\t2
Eve\t3\t4
Cyd\t1\tEve\t1
Fay\t2\tBob\t2
"""


@pytest.mark.parametrize("suffix", [".bin", ".npz"])
def test_lfw_pairs_become_a_pack(faces: Path, tmp_path: Path, run: Run, suffix: str) -> None:
    (tmp_path / "pairs.txt").write_text(LFW)
    out = tmp_path / f"lfw{suffix}"
    status, text, err = run(make_pair_set.main, faces, out, "--pairs", tmp_path / "pairs.txt")
    assert (
        status == 0
        and "8 pairs of 6 people, 4 genuine of 4 people, 4 impostor of 4 pairs of people, 2 folds" in text
        and "layout lfw" in err
        and "note: `facekd evaluate lfw` takes 10 folds unless told; these by --folds 2" in text
    )
    pack = read_pair_pack(out)
    assert pack.is_same.tolist() == [True, True, False, False] * 2
    assert pack.images[:2] == [content(faces, "Ada_Lovelace", 1), content(faces, "Ada_Lovelace", 4)]
    assert pack.images[14:] == [content(faces, "Fay", 2), content(faces, "Bob", 2)]
    names = None if suffix == ".npz" else tmp_path / "lfw_pairs.txt"
    pair_set = load_pair_set(out, folds=2, names=names)
    assert pair_set.subjects is not None and pair_set.subjects[3].tolist() == ["Bob", "Dan"]
    assert pair_set.fold_of.tolist() == [0] * 4 + [1] * 4


def test_cfp_pairs_frontal_with_profile(tmp_path: Path, run: Run) -> None:
    root, protocol = tmp_path / "Images", tmp_path / "Protocol"
    lists: dict[str, list[str]] = {"F": [], "P": []}
    for person in (1, 2, 3, 4):
        for view, folder, count in (("F", "frontal", 2), ("P", "profile", 1)):
            for image in range(1, count + 1):
                name = f"{person:03d}/{folder}/{image:02d}.jpg"
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(picture(person * 100 + image + 50 * (view == "P")))
                lists[view].append(f"{len(lists[view]) + 1} ../Data/Images/{name}")
    for view, lines in lists.items():
        (protocol / f"Pair_list_{view}.txt").parent.mkdir(exist_ok=True)
        (protocol / f"Pair_list_{view}.txt").write_text("\n".join(lines) + "\n")
    for kind, same, different in (("FP", "1,1", "1,2"), ("FF", "1,2", "1,3")):
        for fold in ("01", "02"):
            folder = protocol / "Split" / kind / fold
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text(same + "\n")
            (folder / "diff.txt").write_text(different + "\n")
    out = tmp_path / "fp.npz"
    assert run(make_pair_set.main, root, out, "--pairs", protocol)[0] == 0
    pack = read_pair_pack(out)
    read = [(root / name).read_bytes() for name in ("001/frontal/01.jpg", "001/profile/01.jpg", "002/profile/01.jpg")]
    assert pack.images[:4] == [read[0], read[1], read[0], read[2]]
    assert pack.fold_of is not None and pack.fold_of.tolist() == [0, 0, 1, 1]
    assert pack.subjects is not None and pack.subjects[1].tolist() == ["001", "002"]
    assert run(make_pair_set.main, root, tmp_path / "ff.bin", "--pairs", protocol, "--layout", "cfp-ff")[0] == 0
    assert load_pair_set(tmp_path / "ff.bin", 2, tmp_path / "ff_pairs.txt").subjects is not None
    (protocol / "Split" / "FP" / "01" / "same.txt").write_text("1,99\n")
    with pytest.raises(DataError, match="line 1: '1,99'"):
        read_pair_list(protocol)


def test_two_lines_a_pair_are_spread_over_the_folds(faces: Path, tmp_path: Path, run: Run) -> None:
    """CALFW and CPLFW list all genuine pairs first: contiguous folds of that would hold one kind each."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in faces.rglob("*.jpg"):
        (flat / file.name).write_bytes(file.read_bytes())
    genuine = [f"{person}_0001.jpg 1\n{person}_0002.jpg 1\n" for person in PEOPLE]
    impostor = [f"{PEOPLE[i]}_0003.jpg 0\n{PEOPLE[i - 1]}_0004.jpg 0\n" for i in range(6)]
    (tmp_path / "pairs_CALFW.txt").write_text("".join(genuine + impostor))
    status, _, err = run(make_pair_set.main, flat, tmp_path / "c.bin", "--pairs", tmp_path / "pairs_CALFW.txt",
                         "--folds", 3)  # fmt: skip
    assert status == 0 and "layout two-lines" in err and "apart" in err
    pair_set = load_pair_set(tmp_path / "c.bin", 3, tmp_path / "c_pairs.txt")
    assert pair_set.is_same.tolist() == [True, True, False, False] * 3
    assert pair_set.images[8] == content(faces, "Cyd", 1)
    assert pair_set.subjects is not None and pair_set.subjects[2].tolist() == ["Ada_Lovelace", "Fay"]


@pytest.mark.parametrize("separator", ["\t", " ", ","])
def test_lists_of_two_names_and_a_label(faces: Path, tmp_path: Path, run: Run, separator: str) -> None:
    rows = []
    for i in range(6):
        rows.append((f"{PEOPLE[i]}/{PEOPLE[i]}_0001.jpg", f"{PEOPLE[i]}/{PEOPLE[i]}_0002.jpg", "1"))
        rows.append((f"{PEOPLE[i]}/{PEOPLE[i]}_0001", f"{PEOPLE[i - 1]}_0004.png", "0"))
    (tmp_path / "list.txt").write_text("\n".join(separator.join(row) for row in rows))
    out = tmp_path / "n.npz"
    assert run(make_pair_set.main, faces, out, "--pairs", tmp_path / "list.txt", "--folds", 3)[0] == 0
    pack = read_pair_pack(out)
    assert pack.is_same.tolist() == [True, False] * 6  # the order of the list stays
    assert pack.images[3] == content(faces, "Fay", 4)


def test_a_name_that_fits_files_of_several_suffixes_is_said(tmp_path: Path, run: Run) -> None:
    root, listed = tmp_path / "faces", tmp_path / "pairs.txt"
    for number, name in enumerate(("Ada/1.jpg", "Ada/1.jpeg", "Ada/2.jpg", "Bob/1.jpg")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    told = "names of the list that fit several files, which differ in their suffix: 1; the first file is taken, "
    command = (make_pair_set.main, root, tmp_path / "a.npz", "--pairs", listed, "--folds", 2, "--force")
    for first, is_said in (("Ada/1", True), ("Ada/1.png", True), ("Ada/1.jpg", False)):
        listed.write_text(f"{first} Ada/2 1\nAda/2 Bob/1 0\n" * 2)
        status, _, err = run(*command)
        assert status == 0 and (f"{told}Ada/1.jpeg for {first}" in err) == is_said == ("suffix" in err)


def test_an_image_of_another_person_is_not_the_one_listed(tmp_path: Path, run: Run) -> None:
    files = ("Ada/1", "Ada/2", "Bob/3", "Bob/4", "Cyd/Cyd_0005", "Cyd/Cyd_0006")
    for number, name in enumerate(files):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / f"{name}.jpg").write_bytes(picture(number))
    arguments = (tmp_path / "faces", tmp_path / "out.npz", "--pairs", tmp_path / "list.txt", "--folds", 2)
    # The folders of a list may be longer or shorter than those of the files, and a name may say who it is.
    rows = ["Ada/1 2.jpg 1", "x/Ada/1.jpg 3 0", "Bob/3 x/Bob/4 1", "pictures/Cyd_0005 Cyd_0006.jpg 0"]
    (tmp_path / "list.txt").write_text("\n".join(rows))
    assert run(make_pair_set.main, *arguments)[0] == 0
    named = [files.index(name) for name in ("Ada/1", "Ada/2", "Ada/1", "Bob/3", "Bob/3", "Bob/4", *files[4:])]
    assert read_pair_pack(tmp_path / "out.npz").images == [picture(number) for number in named]
    # Bob has no 1.jpg, though only one file is called so.
    (tmp_path / "list.txt").write_text("\n".join([*rows, "Bob/1 Bob/3 1"]))
    status, _, err = run(make_pair_set.main, *arguments, "--force")
    assert status == 2 and "1 of 5 pairs" in err and "does not hold: Bob/1;" in err


def test_what_is_missing_is_named_or_dropped(faces: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "pairs.txt").write_text(LFW.replace("Eve\t3\t4", "Eve\t3\t9"))
    status, _, err = run(make_pair_set.main, faces, tmp_path / "x.npz", "--pairs", tmp_path / "pairs.txt")
    assert status == 2 and "1 of 8 pairs" in err and "Eve/Eve_0009" in err and "--on-missing drop" in err
    arguments = (faces, tmp_path / "x.npz", "--pairs", tmp_path / "pairs.txt", "--on-missing", "drop")
    status, text, _ = run(make_pair_set.main, *arguments)
    assert status == 0 and "7 pairs" in text and "1 dropped" in text
    assert load_pair_set(tmp_path / "x.npz", 2).fold_of.tolist() == [0] * 4 + [1] * 3
    assert "folds differ in size" in run(make_pair_set.main, faces, tmp_path / "x.bin", *arguments[2:])[1]
    status, _, err = run(make_pair_set.main, *arguments)
    assert status == 2 and "is there already" in err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux, to have a file that cannot be read")
def test_an_image_that_the_device_does_not_give_is_not_dropped(faces: Path, tmp_path: Path, run: Run) -> None:
    copy = shutil.copytree(faces, tmp_path / "copy")
    lost = next(copy.rglob("Bob_0001.jpg"))
    lost.unlink()
    lost.symlink_to("/proc/self/mem")
    (tmp_path / "pairs.txt").write_text(LFW)
    arguments = (copy, tmp_path / "x.bin", "--pairs", tmp_path / "pairs.txt", "--on-missing", "drop")
    status, _, err = run(make_pair_set.main, *arguments)
    assert status == 2 and f"Input/output error while reading or writing {lost}" in err
    assert not (tmp_path / "x.bin").exists()


def test_a_broken_image_is_named_or_its_pairs_dropped(faces: Path, tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "copy"
    for file in faces.rglob("*.jpg"):
        (copy / file.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / file.parent.name / file.name).write_bytes(b"" if file.name == "Bob_0001.jpg" else file.read_bytes())
    (tmp_path / "pairs.txt").write_text(LFW)
    arguments = (copy, tmp_path / "x.bin", "--pairs", tmp_path / "pairs.txt")
    status, _, err = run(make_pair_set.main, *arguments)
    assert status == 2 and "Bob_0001.jpg" in err and not (tmp_path / "x.bin").exists()
    assert "7 pairs" in run(make_pair_set.main, *arguments, "--on-missing", "drop")[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LFW.replace("Bob\t1\t2\n", ""), "announces 2 folds of 2 .* lists 7"),
        (f"{10**15}\t0\n", "announces 1,000,000,000,000,000 folds of 0 .* lists 0"),
        (LFW.replace("Bob\t1\t2\n", "Bob\t1\tCyd\t2\n"), "line 3: should be a genuine pair"),
        (LFW.replace("Bob\t1\t2\n", "Bob\tx\t2\n"), "line 3: 'Bob.*expected `name n1 n2`"),
        ("a.jpg 1\nb.jpg 1\nc.jpg 0\n", "odd number"),
        ("a.jpg 1\nb.jpg 0\n", "one label"),
        ("a.jpg b.jpg 1\na.jpg b.jpg\n", "line 2: .* label 1 or 0"),
        ("what is this line about\n", "of no known kind"),
        ("\n", "lists no pairs"),
    ],
)
def test_lists_that_are_not_clear_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pair_list(tmp_path / "list.txt")


def test_who_an_image_shows() -> None:
    assert subject_of("Ada/1.jpg") == "Ada" and subject_of("001/frontal/02.jpg") == "001"
    assert subject_of("Ada_Lovelace_0003.jpg") == "Ada_Lovelace"
    assert subject_of("16_JohnWayne_36_m.jpg") == "JohnWayne"
    assert subject_of("17.jpg") is None


def test_the_official_lfw_list_reads_in_full(real_data: Callable[[str], Path]) -> None:
    pairs = read_pair_list(real_data("lfw_landmarks/pairs.txt"))
    assert pairs.layout == "lfw" and len(pairs.names) == 6000 and pairs.is_same.sum() == 3000
    assert pairs.fold_of is not None and np.bincount(pairs.fold_of).tolist() == [600] * 10
    lines = real_data("lfw_pairs/lfw_folds12_pairs.txt").read_text().splitlines()
    listed = [tuple(line.split("\t")[:2]) for line in lines]
    assert [tuple(f"{name}.jpg" for name in pair) for pair in pairs.names[:1200]] == listed


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 6))
def test_drawn_pairs_are_distinct_balanced_and_folds_share_nobody(seed: int, folds: int, per_kind: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(6 * folds), generator.integers(3, 6, 6 * folds)))
    pairs, is_same, fold_of = sample_pairs(labels, 2 * folds * per_kind, folds, seed)
    assert is_same.tolist() == ([True] * per_kind + [False] * per_kind) * folds
    assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == is_same).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
    people = [set(labels[pairs[fold_of == fold]].ravel().tolist()) for fold in range(folds)]
    assert sum(map(len, people)) == len(set.union(*people))
    for fold in range(folds):
        for kind in (True, False):
            counts = Counter(labels[pairs[(fold_of == fold) & (is_same == kind)]].ravel().tolist())
            spread = [counts.get(person, 0) for person in people[fold]]
            assert max(spread) - min(spread) <= 2 or per_kind > 6  # a pair more, of two images each
    again = sample_pairs(labels, 2 * folds * per_kind, folds, seed)
    np.testing.assert_array_equal(pairs, again[0])


def test_drawing_can_use_up_every_pair_and_says_when_there_are_no_more() -> None:
    labels = np.repeat(np.arange(4), 3)  # folds of 2 people: 6 genuine and 9 impostor pairs each
    assert len(sample_pairs(labels, 24, 2, 0)[0]) == 24
    with pytest.raises(DataError, match=r"want 7 genuine ones a fold, but the 2 people .* give only 6"):
        sample_pairs(labels, 28, 2, 0)
    with pytest.raises(DataError, match="multiple of 4"):
        sample_pairs(labels, 6, 2, 0)
    with pytest.raises(DataError, match="impostor"):
        sample_pairs(np.repeat(np.arange(2), 5), 4, 2, 0)


def test_a_person_of_thousands_of_images_gives_distinct_pairs_without_listing_all() -> None:
    labels = np.array([0] * 3000 + [1] * 3 + [2, 3])
    pairs, is_same, _ = sample_pairs(labels, 12, 2, 0)
    assert len({frozenset(pair) for pair in pairs.tolist()}) == 12 and is_same.sum() == 6
    assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == is_same).all()


def test_all_pairs_need_as_many_of_each_kind_as_folds() -> None:
    with pytest.raises(DataError, match="only 1 genuine pair for 2 folds"):
        all_pairs(np.array([0, 0, 1]), 2, 0)
    with pytest.raises(DataError, match="only 0 impostor pairs for 2 folds"):
        all_pairs(np.zeros(4, np.int64), 2, 0)


def test_all_pairs_of_a_small_set() -> None:
    labels = np.array([0, 1, 0, 2, 1, 0])
    pairs, is_same, fold_of = all_pairs(labels, 2, 0)
    assert sorted(map(tuple, pairs.tolist())) == [(a, b) for a in range(6) for b in range(a + 1, 6)]
    assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == is_same).all() and is_same.sum() == 4
    assert (np.diff(fold_of) >= 0).all() and np.bincount(fold_of[is_same]).tolist() == [2, 2]


def test_sampling_from_a_folder(faces: Path, tmp_path: Path, run: Run) -> None:
    status, text, _ = run(make_pair_set.main, faces, tmp_path / "s.bin", "--sample", 24, "--folds", 2)
    assert status == 0 and "24 pairs of 6 people, 12 genuine of 6 people, 12 impostor of 6 pairs of people" in text
    pair_set = load_pair_set(tmp_path / "s.bin", 2, tmp_path / "s_pairs.txt")
    assert pair_set.num_subjects_in_several_folds == 0
    first = (tmp_path / "s.bin").read_bytes()
    run(make_pair_set.main, faces, tmp_path / "s.bin", "--sample", 24, "--folds", 2, "--force")
    assert (tmp_path / "s.bin").read_bytes() == first
    run(make_pair_set.main, faces, tmp_path / "s.bin", "--sample", 24, "--folds", 2, "--force", "--seed", 1)
    assert (tmp_path / "s.bin").read_bytes() != first


def test_few_pairs_of_people_are_said_and_that_the_folds_limit_them(faces: Path, tmp_path: Path, run: Run) -> None:
    """Three folds of two people each allow three pairs of people, however many pairs of images are drawn."""
    arguments = (faces, tmp_path / "s.npz", "--sample", 96, "--folds")
    status, text, _ = run(make_pair_set.main, *arguments, 2)
    assert status == 2  # six images of pairs a person: too few genuine ones for 96
    status, text, err = run(make_pair_set.main, faces, tmp_path / "s.npz", "--sample", 72, "--folds", 3)
    assert status == 0 and "36 genuine of 6 people, 36 impostor of 3 pairs of people, 3 folds" in text
    assert "pairs of people in the 36 impostor pairs: only 3," in err and "36 genuine pairs: only 6" in err
    assert "6 people make 15, but folds that share nobody allow 3: take fewer folds" in err
    assert load_pair_set(tmp_path / "s.npz", 3).people.num_impostor_people_pairs == 3  # type: ignore[union-attr]
    # All pairs: 15 pairs of people, with 16 comparisons each.
    status, text, err = run(make_pair_set.main, faces, tmp_path / "all.npz", "--sample", "all", "--folds", 3)
    assert "240 impostor of 15 pairs of people" in text and "impostor pairs: only 15," in err and "folds" not in err


def test_labels_that_contradict_the_names_are_reported(faces: Path, tmp_path: Path, run: Run) -> None:
    rows = [f"{person}/{person}_0001.jpg {person}/{person}_0002.jpg 1" for person in PEOPLE]
    rows += [f"{PEOPLE[i]}/{PEOPLE[i]}_0003.jpg {PEOPLE[i - 1]}/{PEOPLE[i - 1]}_0004.jpg 0" for i in range(6)]
    rows[2] = rows[2][:-1] + "0"
    (tmp_path / "list.txt").write_text("\n".join(rows))
    arguments = (faces, tmp_path / "x.npz", "--pairs", tmp_path / "list.txt", "--folds", 2)
    status, text, err = run(make_pair_set.main, *arguments)
    assert status == 0 and "list.txt: 1 of 12 labels contradicts the names of the images" in err
    assert "pair 2, labelled impostor, compares Cyd with Cyd (Cyd/Cyd_0001.jpg and Cyd/Cyd_0002.jpg)" in err
    assert "no list of subjects is written" in text and read_pair_pack(tmp_path / "x.npz").subjects is None
    # Folders that are no people say nothing about the labels.
    flat = tmp_path / "flat" / "images"
    flat.mkdir(parents=True)
    for file in faces.rglob("*.jpg"):
        (flat / file.name).write_bytes(file.read_bytes())
    rows[2] = rows[2][:-1] + "1"
    text = "\n".join(re.sub(r"\w+/", "images/", row) for row in rows)
    (tmp_path / "list.txt").write_text(text)
    status, _, err = run(make_pair_set.main, flat.parent, tmp_path / "y.npz", *arguments[2:])
    assert status == 0 and "contradict the names" not in err


def test_folds_left_with_one_kind_are_said(faces: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "pairs.txt").write_text(LFW.replace("Eve\t3\t4", "Eve\t3\t9").replace("Cyd\t1\t2", "Cyd\t1\t9"))
    arguments = (faces, tmp_path / "x.npz", "--pairs", tmp_path / "pairs.txt", "--on-missing", "drop")
    status, _, err = run(make_pair_set.main, *arguments)
    assert status == 0 and "1 of 2 folds holds one kind of pair only, the first fold 2 (0 genuine, 2 impostor)" in err


@pytest.mark.parametrize("name", ["tab\there", "line\nbreak"])
def test_a_name_that_the_list_of_who_is_compared_cannot_hold_is_refused(
    faces: Path, tmp_path: Path, run: Run, name: str
) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    (tmp_path / "faces" / "Bob").rename(tmp_path / "faces" / name)
    status, _, err = run(make_pair_set.main, tmp_path / "faces", tmp_path / "all.bin", "--sample", "all", "--folds", 2)
    assert status == 2 and "do not fit a list; rename the image" in err and repr(name)[1:-1] in err
    assert not (tmp_path / "all.bin").exists()
