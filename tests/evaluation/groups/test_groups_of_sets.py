"""`--groups` of the evaluate verbs: counts against loops over pairs, a planted difference, and bad files of groups."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from evaluation.compare_models import main as report
from evaluation.evaluate_folder import main as folder
from evaluation.evaluate_ijbc import main as ijbc
from evaluation.evaluate_lfw import main as lfw
from evaluation.groups.group_file import read_groups
from facekd.errors import DataError, FacekdError
from facekd.verification import far_threshold
from tests.evaluation.conftest import make_pack
from tests.evaluation.ijb_layout import make_layout

SIZE = 24


def planted(root: Path, noisy: float = 1.0, people: int = 36, images: int = 4) -> dict[str, np.ndarray]:
    """People in three groups in turn, whose embeddings stand in a .npz; those of group C vary `noisy` times as much."""
    generator = np.random.default_rng(5)
    found, lines = {}, ["person,region,sex"]
    for person in range(people):
        group, centre = "ABC"[person % 3], generator.normal(size=SIZE)
        lines.append(f"p{person:02d},{group},{'fm'[person // 3 % 2]}")
        for number in range(images):
            name = f"p{person:02d}/{number}.jpg"
            (root / "people" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "people" / name).write_bytes(name.encode())
            spread = 0.75 * (noisy if group == "C" else 1)
            found[name] = centre + spread * generator.normal(size=SIZE)
    np.savez(root / "people.npz", names=np.array(list(found)), embeddings=np.array(list(found.values())))
    (root / "groups.csv").write_text("\n".join(lines) + "\n")
    return found


def run_folder(root: Path, *extra: str, groups: str = "groups.csv") -> dict:
    files = ["--embeddings", str(root / "people.npz"), "--images", str(root / "people"), "--no-embeddings-flipped"]
    more = ["--groups", str(root / groups), "--output", str(root / "out"), "--fars", "1e-2", "--bootstrap", "200"]
    assert folder([*files, *more, *(extra or ["--no-report"])]) == 0
    return json.loads((root / "out" / "results.json").read_text())


def unit(rows: list[np.ndarray]) -> np.ndarray:
    array = np.array(rows)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.mark.slow
def test_counts_of_a_folder_are_those_of_two_loops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = planted(tmp_path, noisy=1.6)
    result = run_folder(tmp_path, "--report")
    group_of = {line.split(",")[0]: line.split(",")[1] for line in (tmp_path / "groups.csv").read_text().split()[1:]}
    names, rows = list(embeddings), unit(list(embeddings.values()))
    [point] = result["groups"]["attributes"][0]["points"]
    cells = {(one, other): {"fmr": [], "fnmr": []} for one in "ABC" for other in "ABC" if one <= other}
    for first, second in combinations(range(len(names)), 2):
        people = [names[side].split("/")[0] for side in (first, second)]
        key = tuple(sorted(group_of[person] for person in people))
        cells[key]["fnmr" if people[0] == people[1] else "fmr"].append(rows[first] @ rows[second])  # type: ignore[index]
    for pair in point["pairs"]:
        scores = cells[pair["first"], pair["second"]]
        threshold = point["threshold"] + 1e-12  # it lies just above a score, which a loop may round otherwise
        accepted = np.array(scores["fmr"]) >= threshold
        assert (pair["fmr"]["num"], pair["fmr"]["errors"]) == (accepted.size, accepted.sum())
        refused = np.array(scores["fnmr"]) < threshold
        assert (pair["fnmr"]["num"], pair["fnmr"]["errors"]) == (refused.size, refused.sum())
    for entry in point["groups"]:
        scores = cells[entry["group"], entry["group"]]
        threshold = far_threshold(scores["fmr"], 1e-2)
        assert entry["own"]["threshold"] == pytest.approx(threshold, abs=1e-12)
        assert entry["own"]["fnmr"] == pytest.approx((np.array(scores["fnmr"]) < threshold).mean())  # type: ignore[operator]
    # The page and the terminal show what the file says, and `facekd report` makes the page again.
    page, printed = (tmp_path / "out" / "groups.html").read_text(), capsys.readouterr().out
    worst = max(point["pairs"], key=lambda pair: pair["fmr"]["rate"])["fmr"]
    assert f"{worst['errors']:,} of {worst['num']:,}" in page and "Gini coefficient" in page
    assert "region: FAR 0.01 over all comparisons" in printed
    (tmp_path / "out" / "groups.html").unlink()
    assert report([str(tmp_path / "out")]) == 0 and (tmp_path / "out" / "groups.html").read_text() == page


def test_a_planted_difference_is_found_and_none_where_there_is_none(tmp_path: Path) -> None:
    planted(tmp_path, noisy=1.8)
    region, sex = run_folder(tmp_path)["groups"]["attributes"]
    found = {entry["group"]: entry["fnmr"] for entry in region["points"][0]["groups"]}
    assert found["C"]["minus_others"]["ci95"][0] > 0.1, "images of group C vary more, so that it is refused more often"
    assert found["C"]["ratio_to_others"]["ci95"][0] > 1.5
    assert found["A"]["minus_others"]["ci95"][1] < 0
    measured = region["points"][0]["differentials"]["fnmr"]
    assert measured["gini"]["ci95"][0] > 0.2
    for entry in sex["points"][0]["groups"]:
        low, high = entry["fnmr"]["minus_others"]["ci95"]
        assert low < 0 < high, "nothing was planted in this attribute"
    # With the threshold of its own the group is refused as often: its images do not look like each other's.
    own = {entry["group"]: entry["own"] for entry in region["points"][0]["groups"]}
    assert own["C"]["fnmr"] > own["A"]["fnmr"] and own["C"]["fmr"] <= 1e-2


def test_images_of_unknown_group_count_in_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = planted(tmp_path)
    names = list(embeddings)
    lines = [f"{name},{'young' if number % 4 < 2 else 'old'}" for number, name in enumerate(names)]
    (tmp_path / "ages.csv").write_text("\n".join(["image,age", *lines[:-8], f"{names[-8]},", "p99/0.jpg,old"]) + "\n")
    [age] = run_folder(tmp_path, groups="ages.csv")["groups"]["attributes"]
    assert age["num_without_group"] == 8 and sum(group["num_images"] for group in age["groups"]) == len(names) - 8
    notes = " ".join(age["notes"])
    assert "7 of 144 images of the set are not in it" in notes and "1 of its 138 images is not in the set" in notes
    assert "people have images in several groups, the first p00" in notes
    [mixed] = [pair for pair in age["points"][0]["pairs"] if pair["first"] != pair["second"]]
    assert mixed["fnmr"]["num"] == 34 * 4, "a person's young and old images are mated comparisons of two groups"
    assert "warning: age:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "its first line is ''"),
        ("name,sex\na,f\n", "its first line is 'name,sex'"),
        ("person\na\n", "at least one attribute"),
        ("person,sex\np00,f\np00,m\n", "line 3: person p00 is in two groups of sex, f and m"),
        ("person,sex\np00\n", "line 2 has 1 column; expected 2"),
        ("person,sex\np00,\n", "names no group"),
        ("person,sex\nnobody,f\nnoone,m\n", "names no person of .*: it has nobody, noone, and the set p00, p01, p02"),
        ("person,sex\np00,f\np01,f\n", "sex has 1 group in the set"),
        ("template,sex\n1,f\n2,m\n", "its groups go by template, and .* knows person or image only"),
        ('person,sex\n"p00,f\n', "cannot be read as CSV"),
        (f"person,{','.join(map(str, range(129)))}\n", "names 129 attributes, and at most 128 are compared"),
    ],
)
def test_bad_files_of_groups_are_refused(tmp_path: Path, content: str, message: str) -> None:
    planted(tmp_path, people=6, images=2)
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        run_folder(tmp_path, groups="bad.csv")
    assert not (tmp_path / "out" / "results.json").exists()


def test_groups_of_one_person_say_what_they_lack(tmp_path: Path) -> None:
    planted(tmp_path)
    rows = ["person,kind", "p00,one", *(f"p{person:02d},many" for person in range(1, 36))]
    (tmp_path / "small.csv").write_text("\n".join(rows))
    [kind] = run_folder(tmp_path, groups="small.csv")["groups"]["attributes"]
    assert "groups of fewer than two people have no false match rate of their own: one" in " ".join(kind["notes"])
    own = {entry["group"]: entry["own"] for entry in kind["points"][0]["groups"]}
    assert own["one"]["threshold"] is None and "needs mated and non-mated" in own["one"]["reason"]
    assert "a group has no comparisons" in kind["points"][0]["differentials"]["fmr"]["gini"]["reason"]
    assert any("no comparisons: one" in sentence for sentence in kind["thin"])


def test_a_bom_and_spaces_are_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\ufeffperson, sex\r\n a , f\r\n\r\nb,m\r\n", encoding="utf-8")
    found = read_groups(tmp_path / "x.csv")
    assert found.attributes == {"sex": {"a": "f", "b": "m"}} and found.key == "person"


def test_groups_of_a_pack(tmp_path: Path, model: Path) -> None:
    pack = make_pack(tmp_path, 120)
    groups = [f"person_{subject},{'xy'[subject % 4 // 2]}" for subject in range(240)]
    (tmp_path / "groups.csv").write_text("\n".join(["person,kind", *groups]))
    files = ["--model", str(model), "--pairs", str(pack), "--output", str(tmp_path / "out"), "--no-pictures"]
    options = ["--groups", str(tmp_path / "groups.csv"), "--fars", "0.1", "--bootstrap", "100"]
    with pytest.raises(FacekdError, match="does not say who is in its pairs; give its list with --names"):
        lfw([*files, *options])
    assert lfw([*files, *options, "--names", str(tmp_path / "pairs.txt")]) == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = np.load(tmp_path / "out" / "scores.npy")
    [point] = result["groups"]["attributes"][0]["points"]
    for pair in point["pairs"]:
        # Pair i compares subjects 2i and 2i or 2i + 1, whose group is that of i.
        some = np.array([i for i in range(120) if pair["first"] == pair["second"] == "xy"[i % 2]], int)
        genuine, impostor = some[some % 2 == 0], some[some % 2 == 1]
        assert pair["fmr"]["num"] == len(impostor)
        assert pair["fmr"]["errors"] == (scores[impostor] >= point["threshold"]).sum()
        assert pair["fnmr"]["errors"] == (scores[genuine] < point["threshold"]).sum()
    assert (tmp_path / "out" / "groups.html").is_file()


@pytest.mark.parametrize("key", ["person", "template", "image"])
def test_groups_of_templates(tmp_path: Path, key: str) -> None:
    layout = make_layout(0)
    root, out = layout.write(tmp_path / "set"), tmp_path / "out"
    subject_of = dict([row for rows in layout.galleries.values() for row in rows] + layout.probes)
    names = {
        "person": {str(subject): subject for subject in subject_of.values()},
        "template": {str(template): subject for template, subject in subject_of.items()},
        "image": {name: subject_of[template] for name, template in zip(layout.names, layout.templates, strict=True)},
    }[key]
    lines = [f"{name},{'ab'[subject % 2]}" for name, subject in names.items()]
    (tmp_path / "groups.csv").write_text("\n".join([f"{key},kind", *lines]))
    files = ["--embeddings", str(root / "embeddings.npy"), "--root", str(root), "--output", str(out)]
    options = ["--groups", str(tmp_path / "groups.csv"), "--fars", "0.1", "--bootstrap", "100", "--protocol", "1:1"]
    pages = [] if key == "person" else ["--no-report"]
    assert ijbc([*files, *options, *pages, "--embeddings-flipped"]) == 0
    result = json.loads((out / "results.json").read_text())
    scores = np.load(out / "scores.npy")
    [point] = result["groups"]["attributes"][0]["points"]
    for pair in point["pairs"]:
        kinds = {pair["first"], pair["second"]}
        some = [
            number
            for number, (first, second, label) in enumerate(layout.pairs)
            if label == 0 and {"ab"[subject_of[first] % 2], "ab"[subject_of[second] % 2]} == kinds
        ]
        assert pair["fmr"]["num"] == len(some)
        assert pair["fmr"]["errors"] == (scores[some] >= point["threshold"]).sum()
    assert (out / "groups.html").is_file() == (key == "person")
