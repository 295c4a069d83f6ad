"""IJB-style layouts: read back by a plain reader, counted, and held to what a set of templates must be."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.ijb_sets.drawn_embeddings import write_embeddings
from data_prep.ijb_sets.plan import PUBLISHED, IjbPlan, plan_of_counts, plan_of_images
from data_prep.ijb_sets.sources import loosen
from data_prep.make_ijb_layout import main
from facekd.data.synthetic import render_faces
from facekd.errors import DataError, FacekdError
from facekd.images.alignment import template as template_points


def read_layout(root: Path, prefix: str = "ijbc", galleries: tuple[str, str] = ("G1", "G2")) -> dict:
    """A reader as plain as can be: lists of tuples, dictionaries of rows."""

    def table(name: str) -> list[list[str]]:
        return [line.split() for line in (root / "meta" / f"{prefix}_{name}.txt").read_text().splitlines()]

    def faces(name: str) -> list[dict[str, str]]:
        with (root / "meta" / f"{prefix}_1N_{name}.csv").open() as stream:
            return list(csv.DictReader(stream))

    return {
        "rows": [(name, int(template), int(media)) for name, template, media in table("face_tid_mid")],
        "points": {
            name: (np.array(values[:10], float).reshape(5, 2), float(values[10]))
            for name, *values in table("name_5pts_score")
        },
        "pairs": [(int(a), int(b), int(label)) for a, b, label in table("template_pair_label")],
        "galleries": [faces(f"gallery_{name}") for name in galleries],
        "probes": faces("probe_mixed"),
    }


def check_consistent(layout: dict) -> None:
    """What holds of the release: each template has one subject, one role, its rows; pairs are gallery x probe."""
    images_of = defaultdict(set)
    for name, template, _ in layout["rows"]:
        images_of[template].add(name)
    assert len({name for name, *_ in layout["rows"]}) == len(layout["rows"])
    assert set(layout["points"]) == {name for name, *_ in layout["rows"]}
    subject_of: dict[int, str] = {}
    templates = []
    for faces in (*layout["galleries"], layout["probes"]):
        listed = defaultdict(set)
        for face in faces:
            listed[int(face["TEMPLATE_ID"])].add(face["FILENAME"])
            assert subject_of.setdefault(int(face["TEMPLATE_ID"]), face["SUBJECT_ID"]) == face["SUBJECT_ID"]
        assert all(listed[template] == images_of[template] for template in listed)
        templates.append(set(listed))
    first, second, probes = templates
    assert not first & second and not (first | second) & probes
    assert first | second | probes == set(images_of)
    in_gallery = [subject_of[template] for template in first | second]
    assert len(set(in_gallery)) == len(in_gallery)  # one gallery template a subject, and in one gallery
    assert {subject_of[template] for template in probes} <= set(in_gallery)
    assert len({pair[:2] for pair in layout["pairs"]}) == len(layout["pairs"])
    for gallery, probe, label in layout["pairs"]:
        assert gallery in first | second and probe in probes
        assert label == (subject_of[gallery] == subject_of[probe])


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts") / "generated"
    assert main(["synthetic:8x6", str(root), "--image-size", "48", "--workers", "0"]) == 0
    return root


def test_generated_faces_in_the_layout(generated: Path) -> None:
    layout = read_layout(generated)
    check_consistent(layout)
    counts = json.loads((generated / "layout.json").read_text())["counts"]
    assert counts["images"] == len(layout["rows"]) == 48
    assert counts["gallery_1"] == counts["gallery_2"] == 4
    probes = {face["TEMPLATE_ID"] for face in layout["probes"]}
    assert counts["genuine"] == sum(label for *_, label in layout["pairs"]) == len(probes)
    assert len(layout["pairs"]) == 8 * len(probes)  # all of gallery x probe
    assert all(0.5 < score <= 1 for _, score in layout["points"].values())
    for name, (points, _) in layout["points"].items():
        height, width = cv2.imread(str(generated / "loose_crop" / name)).shape[:2]
        assert (height, width) == (72, 72)
        assert (points > 0).all() and (points < width).all()


@pytest.mark.slow
def test_the_same_options_give_the_same_bytes_and_another_seed_others(generated: Path, tmp_path: Path) -> None:
    arguments = ["synthetic:8x6", "--image-size", "48", "--workers", "0"]
    for name, seed in (("again", "0"), ("other", "1")):
        main([*arguments[:1], str(tmp_path / name), *arguments[1:], "--seed", seed])
    files = sorted(path.relative_to(generated) for path in generated.rglob("*") if path.is_file())
    assert len(files) == 48 + 6 + 2
    assert all((generated / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)
    assert any((generated / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in files)


def test_a_loosened_face_aligns_back_to_itself() -> None:
    face = render_faces(np.array([3]), np.array([1]), 112)[0]
    crop, landmarks = loosen(face, np.random.default_rng(5))
    assert crop.shape == (168, 168, 3)
    # A similarity is fixed by two points; that it fits all five shows that crop and landmarks moved as one.
    source, target = landmarks @ [1, 1j], template_points(112) @ [1, 1j]
    factor = (target[1] - target[0]) / (source[1] - source[0])
    shift = target[0] - factor * source[0]
    assert np.allclose(factor * source + shift, target)
    matrix = np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    back = cv2.warpAffine(crop, matrix, (112, 112))
    inner = slice(20, 92)
    assert np.abs(back[inner, inner].astype(int) - face[inner, inner]).mean() < 6


def write_people(folder: Path, counts: dict[str, int], size: tuple[int, int] = (40, 40), suffix: str = ".jpg") -> Path:
    generator = np.random.default_rng(0)
    for person, count in counts.items():
        (folder / person).mkdir(parents=True)
        for image in range(count):
            cv2.imwrite(str(folder / person / f"{image}{suffix}"), generator.integers(0, 255, (*size, 3), np.uint8))
    return folder


def test_aligned_photos_keep_their_bytes_and_get_the_templates_landmarks(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people", {"ann": 5, "bob": 3, "cy": 1})
    root = tmp_path / "with a space" / "ijbb"
    assert main([str(people), str(root), "--target", "IJBB"]) == 0
    layout = read_layout(root, "ijbb", ("S1", "S2"))
    check_consistent(layout)
    sources = dict(line.split("\t") for line in (root / "sources.tsv").read_text().splitlines())
    assert sorted(sources.values()) == sorted(str(path.relative_to(people)) for path in people.rglob("*.jpg"))
    first, second = layout["galleries"]
    person_of = {face["FILENAME"]: face["SUBJECT_ID"] for face in (*first, *second, *layout["probes"])}
    assert len({(sources[name].split("/")[0], subject) for name, subject in person_of.items()}) == 3
    for name, source in sources.items():
        assert (root / "loose_crop" / name).read_bytes() == (people / source).read_bytes()
        points, score = layout["points"][name]
        assert np.allclose(points, template_points(40), atol=1e-3) and score == 1
    # Someone with one image is in a gallery, and nobody's mate.
    probes = {face["SUBJECT_ID"] for face in layout["probes"]}
    assert len(probes) == 2


def test_what_is_left_out_of_a_folder_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    people = write_people(tmp_path / "people", {"ann": 3, "bob": 3})
    (people / "ann" / "notes.txt").write_text("not a face")
    assert main([str(people), str(tmp_path / "ijb"), "--workers", "1"]) == 0
    assert capfd.readouterr().err.count("left out: 1 file that is not an image (ann/notes.txt)") == 1


def test_given_landmarks_go_with_their_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = write_people(tmp_path / "people", {"ann": 3, "bob": 3}, (60, 50), ".png")
    names = sorted(str(path.relative_to(people)) for path in people.rglob("*.png"))
    lines = [f"{name}\t" + "\t".join(str(10 * row + value) for value in range(10)) for row, name in enumerate(names)]
    lines[1] += "\t0.75"
    (tmp_path / "points.tsv").write_text("# image x1 y1 ...\n" + "\n".join(lines[:-1]) + "\n")
    arguments = [str(people), str(tmp_path / "ijb"), "--landmarks", str(tmp_path / "points.tsv")]
    with pytest.raises(FacekdError, match=r"no line for 1 of the 6 images .* first bob/2\.png"):
        main(arguments)
    assert not (tmp_path / "ijb").exists()
    assert main([*arguments, "--on-missing", "drop"]) == 0
    assert "1 image has no landmarks" in capsys.readouterr().out
    layout = read_layout(tmp_path / "ijb")
    check_consistent(layout)
    sources = dict(line.split("\t") for line in (tmp_path / "ijb" / "sources.tsv").read_text().splitlines())
    assert sorted(sources.values()) == names[:-1]
    for name, source in sources.items():
        points, score = layout["points"][name]
        assert np.allclose(points.reshape(-1), 10 * names.index(source) + np.arange(10))
        assert score == (0.75 if source == names[1] else 1)
        decoded = cv2.imread(str(tmp_path / "ijb" / "loose_crop" / name))
        assert decoded.shape == (60, 50, 3)
        assert (tmp_path / "ijb" / "loose_crop" / name).read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("ann/0.jpg 1 2 3\n", r"line 1: .* ends in 3 numbers"),
        ("ann/0.jpg" + " 1" * 9 + " nan\n", r"line 1: a coordinate of ann/0.jpg is not finite"),
        (("ann/0.jpg" + " 1" * 10 + "\n") * 2, r"line 2: ann/0.jpg has landmarks already"),
        ("\n", "lists no landmarks"),
    ],
)
def test_landmarks_that_cannot_be(tmp_path: Path, lines: str, message: str) -> None:
    people = write_people(tmp_path / "people", {"ann": 2, "bob": 2})
    (tmp_path / "points").write_text(lines)
    with pytest.raises(FacekdError, match=message):
        main([str(people), str(tmp_path / "ijb"), "--landmarks", str(tmp_path / "points")])


def test_what_cannot_be_laid_out_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people", {"ann": 2, "bob": 2})
    (people / "bob" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(FacekdError, match=r"bob/1\.jpg: .*do not decode"):
        main([str(people), str(tmp_path / "ijb")])
    wide = write_people(tmp_path / "wide", {"ann": 2, "bob": 2}, (40, 60))
    with pytest.raises(FacekdError, match="60x40 pixels, so it is not an aligned face"):
        main([str(wide), str(tmp_path / "ijb")])
    with pytest.raises(FacekdError, match="no such folder or pack"):
        main([str(tmp_path / "absent"), str(tmp_path / "ijb")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people", "wide"]


def test_a_folder_in_use_is_left_alone(generated: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        with pytest.raises(FacekdError, match="not empty"):
            main(["synthetic:4x4", str(tmp_path / "mine"), *extra])
    small = tmp_path / "small"
    arguments = [str(small), "--image-size", "16", "--workers", "0"]
    main(["synthetic:4x4", *arguments])
    for name in ("notes.txt", "embeddings.npy"):  # the second is a part of other layouts
        (small / name).write_text("mine")
    with pytest.raises(FacekdError, match="--overwrite replaces"):
        main(["synthetic:3x3", *arguments])
    main(["synthetic:3x3", *arguments, "--overwrite"])
    assert len(list((small / "loose_crop").iterdir())) == 9
    assert (small / "notes.txt").read_text() == (small / "embeddings.npy").read_text() == "mine"
    with pytest.raises(FacekdError, match=r"embeddings.npy: is there already, and not from this command"):
        main(["--full-size", "--fraction", "0.002", "--embedding-size", "4", str(small), "--overwrite"])
    assert len(list((small / "loose_crop").iterdir())) == 9


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.integers(0, 5), st.integers(1, 4))
@settings(max_examples=40)
def test_any_people_make_a_sound_plan(counts: list[int], seed: int, largest: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if sum(count >= 2 for count in counts) < 2:
        with pytest.raises(DataError, match="at least two such people"):
            plan_of_images(labels, seed, largest)
        return
    plan = plan_of_images(labels, seed, largest)
    assert sorted(plan.sources.tolist()) == list(range(len(labels)))
    people = labels[plan.sources]
    for template in range(len(plan.roles)):
        rows = plan.templates == template
        assert len(set(people[rows])) == 1
        assert 1 <= rows.sum() <= (largest if plan.roles[template] == 2 else 8)
    assert len(set(plan.template_ids.tolist())) == len(plan.template_ids)
    # A medium belongs to one subject.
    assert len(set(zip(plan.media_ids.tolist(), people.tolist(), strict=True))) == len(set(plan.media_ids.tolist()))
    limited = plan_of_images(labels, seed, largest, most_impostors=3)
    assert (~limited.is_same).sum() == min(3, (~plan.is_same).sum())


def counts_of(plan: IjbPlan) -> tuple:
    galleries = (int((plan.roles == 0).sum()), int((plan.roles == 1).sum()))
    return len(plan), galleries, int((plan.roles == 2).sum()), int(plan.is_same.sum()), int((~plan.is_same).sum())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["IJBB", "IJBC"])
def test_the_full_size_has_the_published_counts(target: str) -> None:
    counts = PUBLISHED[target].counts
    plan = plan_of_counts(counts)
    assert counts_of(plan) == (counts.images, counts.galleries, counts.probes, counts.genuine, counts.impostor)
    assert len(np.unique(plan.pairs[:, 0] * np.int64(len(plan.roles)) + plan.pairs[:, 1])) == len(plan.pairs)
    assert np.array_equal(plan.subject_ids[plan.pairs[:, 0]] == plan.subject_ids[plan.pairs[:, 1]], plan.is_same)


def test_the_published_counts_are_those_of_the_papers() -> None:
    for target, templates, pairs in (("IJBC", 23_124, 15_658_489), ("IJBB", 12_115, 8_010_270)):
        counts = PUBLISHED[target].counts
        assert sum(counts.galleries) + counts.probes == templates
        assert counts.genuine + counts.impostor == pairs


def test_a_fraction_of_the_full_size_with_embeddings(tmp_path: Path) -> None:
    root = tmp_path / "part"
    assert main(["--full-size", str(root), "--fraction", "0.01", "--embedding-size", "64", "--dtype", "float16"]) == 0
    layout = read_layout(root)
    check_consistent(layout)
    embeddings = np.load(root / "embeddings.npy")
    assert embeddings.shape == (4694, 128) and embeddings.dtype == np.float16
    assert list((root / "loose_crop").iterdir()) == []
    # Rows are those of the lists: images of a template are more alike than images of two.
    plain = embeddings[:, :64].astype(np.float64)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    templates = np.array([template for _, template, _ in layout["rows"]])
    same = templates[1:] == templates[:-1]
    cosines = (plain[1:] * plain[:-1]).sum(1)
    assert cosines[same].mean() > 0.3 > 0.05 > abs(cosines[~same].mean())


def test_worse_images_have_lower_detector_scores_and_norms(tmp_path: Path) -> None:
    plan = plan_of_counts(PUBLISHED["IJBC"].counts.scaled(0.005))
    detector = write_embeddings(tmp_path / "e.npy", plan, 32)
    norms = np.linalg.norm(np.load(tmp_path / "e.npy")[:, :32], axis=1)
    assert np.corrcoef(detector, norms)[0, 1] > 0.5
    assert (detector > 0.49).all() and (detector < 1).all()


@pytest.mark.parametrize(
    "arguments",
    [
        ["out"],
        ["--full-size", "faces", "out"],
        ["faces", "out", "--fraction", "0.5"],
        ["--full-size", "out", "--fraction", "0"],
        ["faces", "out", "--largest-probe", "0"],
    ],
)
def test_options_that_contradict_each_other(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "`facekd data make-ijb --help` lists the options" in capsys.readouterr().err


def test_a_record_pack_is_a_source_too(tmp_path: Path) -> None:
    from data_prep.pack_records import main as pack_records

    people = write_people(tmp_path / "people", {"ann": 4, "bob": 4}, (32, 32))
    pack_records([str(people), str(tmp_path / "pack"), "--size", "32"])
    assert main([str(tmp_path / "pack"), str(tmp_path / "ijb")]) == 0
    check_consistent(read_layout(tmp_path / "ijb"))
    written = {path.read_bytes() for path in (tmp_path / "ijb" / "loose_crop").iterdir()}
    assert written == {path.read_bytes() for path in people.rglob("*.jpg")}
