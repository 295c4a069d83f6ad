"""RFW and BFW from their layouts: the scores are those of the files, the groups those of the folders."""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from evaluation.evaluate_lfw import main
from evaluation.groups.race_layouts import is_race_layout, load_race_layout
from evaluation.protocols.ijbs import read_table
from facekd.errors import DataError
from facekd.images.encoding import encode_png
from tests.evaluation.conftest import SIZE, quarters

GROUPS = ("African", "Asian")
FOLDS, OF_A_KIND = 2, 6


def face(group: str, person: int, number: int) -> np.ndarray:
    place = [GROUPS.index(group), person]
    colors = np.random.default_rng(place).uniform(40, 215, (2, 2, 3))
    colors += np.random.default_rng([*place, number]).normal(0, 30, (2, 2, 3))
    return np.clip(np.kron(colors, np.ones((SIZE // 2, SIZE // 2, 1))), 0, 255).astype(np.uint8)


def write_images(folder: Path, pattern: str) -> None:
    for group, person, number in product(GROUPS, range(6), (1, 2)):
        file = folder / pattern.format(group=group, person=person, number=number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(face(group, person, number)))


def write_rfw(root: Path) -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Two groups of six people, in two folds of six pairs of each kind; returns the pairs in order."""
    write_images(root / "data", "{group}/m.{person}/m.{person}_{number:04d}.png")
    pairs = []
    for group in GROUPS:
        lines = []
        for fold in range(FOLDS):
            for person in range(OF_A_KIND):
                lines.append(f"m.{person}\t1\t2")
                pairs.append((group, (person, 1), (person, 2)))
            for person in range(OF_A_KIND):
                other = (person + 1 + fold) % 6
                lines.append(f"m.{person}\t1\tm.{other}\t2")
                pairs.append((group, (person, 1), (other, 2)))
        (root / "txts" / group).mkdir(parents=True)
        (root / "txts" / group / f"{group}_pairs.txt").write_text("\n".join(lines) + "\n")
    return pairs


def write_bfw(root: Path) -> Path:
    write_images(root, "{group}/n{person}/{number}_01.png")
    lines = ["ID,fold,p1,p2,label,att1,att2,g1,g2,vgg16"]
    for fold, (one, other) in product((1, 2), product(GROUPS, GROUPS)):
        for person in range(6):
            image, mate = f"{one}/n{person}/1_01.png", f"{one}/n{person}/2_01.png"
            stranger = f"{other}/n{(person + fold) % 6}/2_01.png"
            for second, label, group in ((mate, 1, one), (stranger, 0, other)):
                genders = f"{'FM'[person % 2]},{'FM'[int(second.split('/')[1][1:]) % 2]}"
                lines.append(f"{len(lines)},{fold},{image},{second},{label},{one},{group},{genders},0.5")
    (root / "bfw.csv").write_text("\n".join(lines) + "\n")
    return root / "bfw.csv"


def run(model: Path, pairs: Path, out: Path, *extra: str) -> dict:
    words = ["--model", str(model), "--pairs", str(pairs), "--output", str(out), "--no-pictures", "--no-report"]
    assert main([*words, "--folds", "2", "--bootstrap", "100", "--fars", "0.2", "--no-flip", *extra]) == 0
    return json.loads((out / "results.json").read_text())


def test_rfw_is_scored_file_by_file_and_by_group(tmp_path: Path, model: Path) -> None:
    pairs = write_rfw(tmp_path / "RFW")
    result = run(model, tmp_path / "RFW", tmp_path / "out")
    scores = np.load(tmp_path / "out" / "scores.npy")
    for score, (group, one, other) in zip(scores, pairs, strict=True):
        rows = quarters(np.stack([face(group, *one), face(group, *other)])).astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        assert score == pytest.approx(rows[0] @ rows[1], abs=1e-6)
    assert result["protocol"]["fold_kind"] == "recorded" and result["pair_set"]["num_subjects"] == 12
    [race] = result["groups"]["attributes"]
    assert race["name"] == "race" and [group["name"] for group in race["groups"]] == list(GROUPS)
    [point] = race["points"]
    for pair in point["pairs"]:
        some = [i for i, (group, _, _) in enumerate(pairs) if pair["first"] == pair["second"] == group]
        impostor = [i for i in some if pairs[i][1][0] != pairs[i][2][0]]
        assert (pair["fmr"]["num"], pair["fnmr"]["num"]) == (len(impostor), len(some) - len(impostor))
        assert pair["fmr"]["errors"] == (scores[impostor] >= point["threshold"]).sum()
    notes = " ".join(result["notes"])
    assert "African_pairs.txt has 24 pairs, and that of RFW as published 6,000" in notes
    assert "has lists of 2 groups, and RFW as published of 4" in notes


def test_folds_of_bfw_may_be_written_as_pandas_writes_numbers(tmp_path: Path) -> None:
    table = write_bfw(tmp_path)
    whole = load_race_layout(table, None, 2, "auto")
    text = table.read_text()
    table.write_text(text.replace(",1,African/", ",1.0,African/").replace(",2,", ",2.0,"))
    found = load_race_layout(table, None, 2, "auto")
    assert found.fold_kind == whole.fold_kind == "recorded"
    np.testing.assert_array_equal(found.fold_of, whole.fold_of)
    table.write_text(text.replace("1,2,", "1,x,", 1))
    with pytest.raises(DataError, match=r"has the fold 'x'; expected a whole number"):
        load_race_layout(table, None, 2, "auto")


def test_bfw_gives_its_attributes(tmp_path: Path, model: Path) -> None:
    table = write_bfw(tmp_path / "BFW")
    result = run(model, table, tmp_path / "out")
    assert [one["name"] for one in result["groups"]["attributes"]] == ["subgroup", "gender"]
    pairs = result["groups"]["attributes"][0]["points"][0]["pairs"]
    assert [pair["fmr"]["num"] for pair in pairs] == [12, 24, 12]
    loaded = load_race_layout(table, None, 2, "auto")
    assert len(loaded) == 96 and len(loaded.files.files) == 24 and loaded.num_folds == 2
    np.testing.assert_array_equal(loaded.decode(2, 4)[1], face("African", 1, 2))
    # The images may lie elsewhere, and other groups may be given.
    (tmp_path / "g.csv").write_text("person,half\n" + "\n".join(f"{g}/n{n},{n // 3}" for g in GROUPS for n in range(6)))
    (tmp_path / "moved.csv").write_text(table.read_text())
    options = ["--image-root", str(tmp_path / "BFW"), "--groups", str(tmp_path / "g.csv")]
    result = run(model, tmp_path / "moved.csv", tmp_path / "moved", *options)
    assert [one["name"] for one in result["groups"]["attributes"]] == ["half"]


def test_what_is_wrong_in_a_layout_is_named(tmp_path: Path) -> None:
    write_rfw(tmp_path / "RFW")
    assert is_race_layout(tmp_path / "RFW") and not is_race_layout(tmp_path)
    (tmp_path / "RFW" / "data" / "Asian" / "m.2" / "m.2_0002.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 24 images that its pairs name is missing in .*: Asian/m.2/m.2"):
        load_race_layout(tmp_path / "RFW", None, 2, "auto")
    pairs = tmp_path / "RFW" / "txts" / "Asian" / "Asian_pairs.txt"
    for line in ("m.1 one 2", "m.1 1", "../x 1 2", "m.1 1 m.2", "m.1 1 m.1 2"):
        pairs.write_text("m.0\t1\t2\n" + line + "\n")
        with pytest.raises(DataError, match=r"Asian_pairs\.txt: a line is"):
            load_race_layout(tmp_path / "RFW", None, 2, "auto")
    pairs.write_text("m" * 300 + "\t1\t2\n")  # a name that no file can have
    with pytest.raises(DataError, match=r"2 of the \d+ images that its pairs name are missing in .*: Asian/m{60,}"):
        load_race_layout(tmp_path / "RFW", None, 2, "auto")
    table = write_bfw(tmp_path / "BFW")
    table.write_text(table.read_text().replace("/1_01.png", "/1_01" + "_" * 300 + ".png", 1))
    with pytest.raises(DataError, match=r"1 of the \d+ images that its pairs name is missing in .*: .*____"):
        load_race_layout(table, None, 2, "auto")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no att1, att2, label, p1, p2"),
        ("p1,p2,label,att1,att2\n", "has no pairs"),
        ("p1,p2,label,att1,att2\na/x/1.jpg,a/x/2.jpg,0,a,a\n", "line 2 is labelled '0', and compares a/x with a/x"),
        ("p1,p2,label,att1,att2\na/x/1.jpg,a/y/2.jpg,2,a,a\n", "line 2 is labelled '2'"),
        ("p1,p2,label,att1,att2\n../x/1.jpg,a/y/2.jpg,0,a,a\n", "expected GROUP/PERSON/IMAGE"),
        ("p1,p2,label,att1,att2\na/x/1.jpg,a/x/2.jpg,1,a,b\n", "line 2: a/x is in two groups of subgroup, a and b"),
        ("p1,p2,label,att1,att2\na/x/1.jpg,a/x/2.jpg,1,a,a\n", "all 1 pair is of one kind"),
        (f"p1,p2,label,att1,att2,fold\na/x/1.jpg,a/x/2.jpg,1,a,a,{'9' * 5000}\n", "line 2 has the fold"),
    ],
)
def test_bad_tables_of_bfw_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bfw.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load_race_layout(tmp_path / "bfw.csv", None, 2, "auto")


def test_columns_that_nobody_reads_cost_nothing(tmp_path: Path) -> None:
    """A row is no longer than its cells, however many columns the first line names."""
    more, table = ",".join(map(str, range(5000))), tmp_path / "bfw.csv"
    table.write_text(f"p1,p2,label,att1,att2,{more}\n" + "a/x/1.jpg,a/x/2.jpg,1,a,a\n" * 5000)
    started = time.process_time()
    with pytest.raises(DataError, match="all 5,000 pairs are of one kind"):
        load_race_layout(table, None, 2, "auto")
    (tmp_path / "gallery.csv").write_text(f"TEMPLATE_ID,SUBJECT_ID,FILENAME,{more}\n" + "1,2,3.jpg\n" * 5000)
    assert len(read_table(tmp_path / "gallery.csv", {}).images) == 5000
    assert time.process_time() - started < 1


def test_options_that_go_by_packs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rfw(tmp_path / "RFW")
    words = ["--model", "m.onnx", "--output", str(tmp_path / "out")]
    for extra in (["--names", "x.txt"], ["--quality", "norm"]):
        with pytest.raises(SystemExit):
            main([*words, "--pairs", str(tmp_path / "RFW"), *extra])
        assert f"{extra[0]} goes by the pairs of a pack" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--pairs", "x.bin", "--image-root", "y"])
    assert "--image-root is for --pairs that list images" in capsys.readouterr().err
