"""`facekd evaluate protocol` on layouts that `facekd data make-protocol` writes, against loops over the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import loadmat

from data_prep.make_pair_set import main as make_pairs
from data_prep.make_protocol_layout import main as make_protocol
from evaluation.compare_models import main as report
from evaluation.evaluate_lfw import main as evaluate_lfw
from evaluation.evaluate_protocol import main
from evaluation.protocols.kinds import KINDS
from evaluation.results.pairs_of_result import load_pairs
from facekd.errors import DataError
from facekd.faces.show_threshold import main as show_threshold
from facekd.images.preprocessing import fit_images
from facekd.verification import equal_error_rate, tar_at_far
from tests.evaluation.conftest import SIZE, make_model, quarters

PEOPLE, IMAGES = 16, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and patchwork faces of people, `faces/PERSON/*.png`."""
    folder = tmp_path_factory.mktemp("protocols")
    make_model(folder / "m.onnx")
    for person in range(PEOPLE):
        colors = np.random.default_rng([7, person]).uniform(60, 195, (2, 2, 3))
        (folder / "faces" / f"p{person:02d}").mkdir(parents=True)
        for number in range(IMAGES):
            shifted = colors + np.random.default_rng([8, person, number]).normal(0, 45, (2, 2, 3))
            image = np.clip(np.kron(shifted, np.ones((SIZE // 2, SIZE // 2, 1))), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "faces" / f"p{person:02d}" / f"{number}.png"), image)
    return folder


def evaluated(place: Path, kind: str, *words: str) -> dict:
    """Makes the layout if it is not there, evaluates, and returns the results."""
    root, output = place / kind, place / f"out-{kind}-{len(words)}"
    if not root.exists():
        make_protocol([kind, str(place / "faces"), str(root), "--probe-size", "8"])
    options = [
        "--resize",
        "--threads",
        "1",
        "--workers",
        "1",
        "--bootstrap",
        "100",
        "--output",
        str(output),
        "--no-report",
    ]
    main([kind, "--root", str(root), "--model", str(place / "m.onnx"), *options, *words])
    return json.loads((output / "results.json").read_text())


def embedding(path: Path) -> np.ndarray:
    pixels = fit_images(np.asarray(cv2.imread(str(path)))[None, :, :, ::-1], SIZE, True)
    return quarters(pixels)[0].astype(np.float64) + quarters(pixels[:, :, ::-1])[0]


def unit(row: np.ndarray) -> np.ndarray:
    return row / np.linalg.norm(row)


def listed(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by what their names begin with."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        found.setdefault(path.name.partition("_")[0], []).append(path)
    return found


def rank_and_mates(probe: np.ndarray, mates: list[np.ndarray], others: list[np.ndarray]) -> tuple[int, float]:
    best = max(float(mate @ probe) for mate in mates)
    return 1 + sum(float(other @ probe) >= best - 1e-12 for other in others), best


def test_tinyface_equals_loops(place: Path) -> None:
    result = evaluated(place, "tinyface")
    folder = place / "tinyface" / "Testing_Set"
    gallery = {who: [unit(embedding(path)) for path in own] for who, own in listed(folder / "Gallery_Match").items()}
    strangers = [unit(embedding(path)) for path in sorted((folder / "Gallery_Distractor").iterdir())]
    ranks, precisions = [], []
    for who, own in listed(folder / "Probe").items():
        for probe in (unit(embedding(path)) for path in own):
            others = [row for other, rows in gallery.items() if other != who for row in rows] + strangers
            ranks.append(rank_and_mates(probe, gallery[who], others)[0])
            # The ranked list, walked down.
            entries = [(float(row @ probe), True) for row in gallery[who]] + [
                (float(row @ probe), False) for row in others
            ]
            area, hits, before, recall = 0.0, 0, 1.0, 0.0
            for place_of, (_, is_mate) in enumerate(sorted(entries, key=lambda entry: -entry[0]), start=1):
                hits += is_mate
                area += (hits / len(gallery[who]) - recall) * (before + hits / place_of) / 2
                recall, before = hits / len(gallery[who]), hits / place_of
            precisions.append(area)
    found = result["identification"]["gallery"]
    assert [entry["rate"] for entry in found["rank"]] == [np.mean(np.array(ranks) <= r) for r in (1, 5, 20)]
    assert found["mean_average_precision"]["value"] == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found["num_gallery"] == sum(map(len, gallery.values())) + len(strangers)
    low, high = found["mean_average_precision"]["ci95"]
    assert low < np.mean(precisions) < high and "draws of 12 people" in result["search_intervals"]
    assert any(
        note.startswith("this is not the whole release: gallery 24 instead of 4,443") for note in result["notes"]
    )
    assert result["tar_at_far"] is None and result["failures"]["num_images"] == 0


def test_survface_equals_loops_and_its_report_is_made_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(place, "survface", "--fpirs", "0.25", "--fars", "0.2", "--report")
    output = place / "out-survface-5"
    page = (output / "report.html").read_text()
    (output / "report.html").unlink()
    report([str(output)])
    assert (output / "report.html").read_text() == page
    assert "FNIR % at FPIR 0.25, rank 20" in page and "FNIR % at FPIR 0.25, rank 20" in capsys.readouterr().out
    assert ",tpir," in (output / "results.csv").read_text()
    folder = place / "survface" / "Face_Identification_Test_Set"
    gallery = {who: [unit(embedding(path)) for path in own] for who, own in listed(folder / "gallery").items()}
    mated, alone = [], []
    for who, own in listed(folder / "mated_probe").items():
        others = [row for other, rows in gallery.items() if other != who for row in rows]
        mated += [rank_and_mates(unit(embedding(path)), gallery[who], others) for path in own]
    entries = [row for rows in gallery.values() for row in rows]
    for path in (folder / "unmated_probe").iterdir():
        alone.append(max(float(row @ unit(embedding(path))) for row in entries))
    limit = sorted(alone, reverse=True)[len(alone) // 4]
    found = result["identification"]["gallery"]
    assert [entry["rate"] for entry in found["rank"]] == [np.mean([rank <= r for rank, _ in mated]) for r in (1, 5, 20)]
    (point,) = found["tpir_at_fpir"]
    assert point["tpir"] == np.mean([rank <= 20 and score > limit for rank, score in mated])
    assert (found["num_mated"], found["num_nonmated"]) == (len(mated), len(alone))
    # The pairs.
    pairs = place / "survface" / "Face_Verification_Test_Set"
    scores = {}
    for kind in ("positive", "negative"):
        names = loadmat(pairs / f"{kind}_pairs_names.mat")[f"{kind}_pairs_names"]
        rows = [[unit(embedding(pairs / "verification_images" / cell.item())) for cell in pair] for pair in names]
        scores[kind] = [float(first @ second) for first, second in rows]
    assert result["tar_at_far"][0]["tar"] == tar_at_far(scores["positive"], scores["negative"], [0.2])[0].tar
    kept = np.load(output / "scores.npy")
    np.testing.assert_allclose(kept, scores["positive"] + scores["negative"], atol=1e-6)


def test_megaface_searches_for_each_mate_alone_among_the_distractors(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(place, "megaface", "--fars", "0.3,0.05,1e-6")
    people = {
        folder.name: [unit(embedding(path)) for path in sorted(folder.iterdir())]
        for folder in (place / "megaface" / "facescrub_images").iterdir()
    }
    strangers = [unit(embedding(path)) for path in (place / "megaface" / "megaface_images").rglob("*.jpg")]
    ranks = [
        1 + sum(float(other @ own[i]) >= float(own[j] @ own[i]) for other in strangers)
        for own in people.values()
        for i in range(len(own))
        for j in range(len(own))
        if i != j
    ]
    found = result["identification"]["distractors"]
    assert [entry["rate"] for entry in found["rank"]] == [np.mean(np.array(ranks) <= r) for r in (1, 5, 20)]
    assert (found["num_mated"], found["num_gallery"]) == (len(ranks), len(strangers) + 1)
    assert found["tpir_at_fpir"] == []
    # 1:1: each two images of a person, and each probe against each distractor.
    genuine = [float(own[i] @ own[j]) for own in people.values() for i in range(len(own)) for j in range(i)]
    impostor = [float(probe @ other) for own in people.values() for probe in own for other in strangers]
    points = tar_at_far(genuine, impostor, [0.3, 0.05])
    for point, expected in zip(result["tar_at_far"], points, strict=False):
        assert (point["tar"], point["false_accepts"]) == (expected.tar, expected.false_accepts)
        assert point["ci95"][0] < expected.tar < point["ci95"][1] and point["interval"] == "subject bootstrap"
    assert result["tar_at_far"][2]["tar"] is None, "so few pairs do not measure a FAR of 1e-6"
    assert (result["num_genuine"], result["num_impostor"]) == (len(genuine), len(impostor))
    assert result["eer"] == pytest.approx(equal_error_rate(genuine, impostor), abs=1e-9)
    printed = capsys.readouterr().out
    assert "rank-1 %" in printed and "false accepts" in printed
    # No scores are kept, so that differences between models are not tested.
    assert not (place / "out-megaface-2" / "scores.npy").exists() and result["bootstrap"]["resampled"] == "subjects"
    with pytest.raises(DataError, match="its 1:1 scores are counted and not kept"):
        load_pairs(result)


def test_ijbs_pools_frames_and_searches_both_galleries(place: Path) -> None:
    result = evaluated(place, "ijbs", "--fpirs", "0.3")
    root = place / "ijbs"
    tables: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    for path in (root / "protocols").iterdir():
        table = tables.setdefault(path.stem, {})
        for line in path.read_text().splitlines()[1:]:
            template, subject, file = line.split(",")
            table[template, subject] = table.get((template, subject), 0) + embedding(root / "images" / file)
    for name in ("G1", "G2"):
        gallery = {subject: unit(row) for (_, subject), row in tables[f"gallery_{name}"].items()}
        mated, alone = [], []
        for (_, subject), row in tables["probe_frames"].items():
            probe = unit(row)
            if subject in gallery:
                others = [other for who, other in gallery.items() if who != subject]
                mated.append(rank_and_mates(probe, [gallery[subject]], others))
            else:
                alone.append(max(float(other @ probe) for other in gallery.values()))
        limit = sorted(alone, reverse=True)[int(0.3 * len(alone) + 1e-9)]
        found = result["identification"][name]
        assert found["rank"][0]["rate"] == np.mean([rank == 1 for rank, _ in mated])
        assert found["tpir_at_fpir"][0]["tpir"] == np.mean([rank == 1 and score > limit for rank, score in mated])
    both = [result["identification"][name]["rank"][0]["rate"] for name in ("G1", "G2")]
    assert result["identification"]["mean"]["rank"][0]["rate"] == pytest.approx(np.mean(both))


def test_masked_compares_all_masked_with_all_unmasked(place: Path) -> None:
    result = evaluated(place, "masked", "--fars", "0.01,0.1")
    sides = {
        side: [(path.parent.name, unit(embedding(path))) for path in (place / "masked" / side).rglob("*.jpg")]
        for side in ("masked", "unmasked")
    }
    genuine, impostor = [], []
    for who, first in sides["masked"]:
        for other, second in sides["unmasked"]:
            (genuine if who == other else impostor).append(float(first @ second))
    assert [point["tar"] for point in result["tar_at_far"]] == [
        point.tar for point in tar_at_far(genuine, impostor, [0.01, 0.1])
    ]
    assert result["bootstrap"]["resampled"] == "subjects" and result["identification"] is None


def test_xqlfw_goes_through_make_pairs(place: Path) -> None:
    make_protocol(["xqlfw", str(place / "faces"), str(place / "xqlfw"), "--probe-size", "8"])
    folder = place / "xqlfw"
    make_pairs(
        [
            str(folder / "xqlfw_aligned_112"),
            str(place / "x.bin"),
            "--pairs",
            str(folder / "xqlfw_pairs.txt"),
            "--size",
            str(SIZE),
        ]
    )
    words = ["--pairs", str(place / "x.bin"), "--folds", "2", "--bootstrap", "0", "--output", str(place / "out-x")]
    evaluate_lfw(["--model", str(place / "m.onnx"), *words, "--threads", "1", "--no-pictures"])
    assert json.loads((place / "out-x" / "results.json").read_text())["num_pairs"] == 24


def worse(place: Path, kind: str, *words: str) -> Path:
    """Evaluates the embeddings of the images of a set after noise is added; returns the folder of the results."""
    names = KINDS[kind].load(place / kind).names
    rows = np.stack([embedding(place / kind / name) for name in names]).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 2 * rows.std(), rows.shape)
    np.save(place / f"worse-{kind}.npy", rows + noise.astype(np.float32))
    options = ["--embeddings", str(place / f"worse-{kind}.npy"), "--no-embeddings-flipped", "--bootstrap", "100"]
    main([kind, "--root", str(place / kind), *options, "--output", str(place / f"worse-{kind}"), *words])
    return place / f"worse-{kind}"


def test_pairs_of_a_protocol_are_compared_and_their_thresholds_used(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fars = ("--fars", "0.1,0.3")
    better = evaluated(place, "masked", "--no-flip", *fars)
    folders = [place / "out-masked-3", worse(place, "masked", *fars)]
    assert report([*map(str, folders), "--output", str(tmp_path), "--draws", "200"]) == 0
    printed = capsys.readouterr().out
    [compared] = json.loads((tmp_path / "comparison.json").read_text())["sets"]
    entries = compared["differences"][0]["tar_at_far"]
    assert [entry["first"] for entry in entries] == [point["tar"] for point in better["tar_at_far"]]
    assert all(entry["difference"] < 0 for entry in entries)
    assert f"over {PEOPLE - PEOPLE // 4} people" in printed  # a quarter are strangers
    # Their thresholds decide about other images.
    show_threshold([str(folders[0]), "--far", "0.1"])
    assert f"{better['tar_at_far'][0]['threshold']:.4f}" in capsys.readouterr().out
    # Lists that have changed since are no longer those of the scores.
    shutil.move(place / "masked" / "masked", place / "aside")
    try:
        assert report([*map(str, folders), "--output", str(tmp_path)]) == 0
        assert "Differences were not tested: the data is not at its place" in capsys.readouterr().out
    finally:
        shutil.move(place / "aside", place / "masked" / "masked")


def test_searches_of_a_protocol_are_compared(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(place, "tinyface", "--no-flip")
    folders = [place / "out-tinyface-1", worse(place, "tinyface")]
    assert report([*map(str, folders), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mAP %" in printed and "Differences were not tested: there are no 1:1 results." in printed
    found = result["identification"]["mean"]
    assert f"{100 * found['rank'][0]['rate']:.2f}" in printed
    assert f"{100 * found['mean_average_precision']['value']:.2f}" in printed
    assert (tmp_path / "comparison.html").read_text().count("data:image/png;base64,") == 1


def test_embeddings_made_elsewhere_and_the_first_distractors(place: Path) -> None:
    whole = evaluated(place, "megaface")
    lines = [
        place / "megaface" / f"{name}_images" / line
        for name in ("facescrub", "megaface")
        for line in (place / "megaface" / f"{name}_lst").read_text().split()
    ]
    rows = np.stack([embedding(path) for path in lines]).astype(np.float32)
    np.save(place / "rows.npy", rows)
    base = [
        "megaface",
        "--root",
        str(place / "megaface"),
        "--embeddings",
        str(place / "rows.npy"),
        "--bootstrap",
        "100",
    ]
    base += ["--no-embeddings-flipped", "--no-report"]
    main([*base, "--output", str(place / "given")])
    given = json.loads((place / "given" / "results.json").read_text())
    assert given["identification"]["distractors"]["rank"] == whole["identification"]["distractors"]["rank"]
    main([*base, "--output", str(place / "fewer"), "--distractors", "3"])
    fewer = json.loads((place / "fewer" / "results.json").read_text())
    assert fewer["identification"]["distractors"]["num_gallery"] == 4
    with pytest.raises(DataError, match=r"--distractors 1,000: .* has 16"):
        main([*base, "--output", str(place / "fewer"), "--distractors", "1000"])


def copied(place: Path, kind: str, tmp_path: Path) -> Path:
    if not (place / kind).exists():
        make_protocol([kind, str(place / "faces"), str(place / kind), "--probe-size", "8"])
    return Path(shutil.copytree(place / kind, tmp_path / kind))


def run(place: Path, kind: str, root: Path, *words: str) -> dict:
    output = root.parent / "out"
    options = ["--resize", "--threads", "1", "--workers", "1", "--bootstrap", "0", "--no-report"]
    main([kind, "--root", str(root), "--model", str(place / "m.onnx"), *options, "--output", str(output), *words])
    return json.loads((output / "results.json").read_text())


def test_missing_and_broken_images_are_listed_and_counted(place: Path, tmp_path: Path) -> None:
    root = copied(place, "megaface", tmp_path)
    files = sorted((root / "facescrub_images").rglob("*.jpg"))
    files[0].unlink()
    with pytest.raises(
        DataError, match=r"1 of 64 listed images is missing \(1 gallery, 1 probe\), the first .*Person_"
    ):
        run(place, "megaface", root)
    files[1].write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 64 listed images is missing"):
        run(place, "megaface", root)
    found = run(place, "megaface", root, "--on-missing", "drop")
    assert found["failures"]["num_images"] == 2 and found["failures"]["by_role"]["probe"] == 2
    assert found["dataset"]["num_probes"] == 46


def test_noisy_images_are_left_out(place: Path, tmp_path: Path) -> None:
    root = copied(place, "megaface", tmp_path)
    probe, stranger = ((root / f"{name}_lst").read_text().split()[0] for name in ("facescrub", "megaface"))
    (root / "facescrub_noises.txt").write_text(f"# noisy\n{probe.rpartition('/')[2]}\nnobody.jpg\n")
    (root / "megaface_noises.txt").write_text(f"7\t{stranger}\n")
    found = run(place, "megaface", root)
    assert (found["dataset"]["num_probes"], found["dataset"]["num_distractors"]) == (47, 15)
    assert any("facescrub_noises.txt: 1 of its 2 images is in facescrub_lst, and left out" in n for n in found["notes"])


def test_distractors_that_hold_people_of_the_gallery_are_reported(place: Path, tmp_path: Path) -> None:
    root = copied(place, "tinyface", tmp_path)
    inside = next((root / "Testing_Set" / "Gallery_Match").iterdir())
    shutil.copy(inside, root / "Testing_Set" / "Gallery_Distractor" / inside.name)
    notes = run(place, "tinyface", root)["notes"]
    assert any(note.startswith("distractors named as gallery or probe images: 1, the first") for note in notes)
    assert any(note.startswith("distractors embedded exactly as a gallery or probe image: 1") for note in notes)
    root = copied(place, "survface", tmp_path)
    search = root / "Face_Identification_Test_Set"
    inside = next((search / "gallery").iterdir())
    shutil.copy(inside, search / "unmated_probe" / f"{inside.name.partition('_')[0]}_cam9_1.jpg")
    notes = run(place, "survface", root)["notes"]
    assert any(note.startswith("unmated probes whose names begin with a person of the gallery: 1") for note in notes)


def test_wrong_layouts_end_in_one_sentence(place: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for kind, message in (
        ("survface", "holds neither Face_Identification_Test_Set nor Face_Verification_Test_Set"),
        ("tinyface", "expected the folders Gallery_Match, Probe and Gallery_Distractor"),
        ("megaface", "facescrub_lst: is missing"),
        ("ijbs", "expected gallery_NAME.csv and probe_NAME.csv"),
        ("masked", "masked: is missing; expected masked/PERSON"),
    ):
        with pytest.raises(DataError, match=message):
            run(place, kind, empty)
        with pytest.raises(DataError, match="no such folder"):
            run(place, kind, tmp_path / "nowhere")

    # Lists that lead out of the folder, repeat a line, or contradict each other.
    root = copied(place, "megaface", tmp_path)
    text = (root / "megaface_lst").read_text()
    for line, message in (("a/../x.jpg", "1 of 17 names is not of an image below"), ("x.jpg", "1 line with fewer"),
        (text.split()[0], "twice; each image has one line")):  # fmt: skip
        (root / "megaface_lst").write_text(f"{text}{line}\n")
        with pytest.raises(DataError, match=message):
            run(place, "megaface", root)
    root = copied(place, "ijbs", tmp_path)
    table = root / "protocols" / "gallery_G1.csv"
    for line, message in (("1,,x.jpg", "lacks SUBJECT_ID"), ("1,999,x.jpg", "gives template 1 to subject 999")):
        table.write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\n1,5,still/0.jpg\n" + line + "\n")
        with pytest.raises(DataError, match=message):
            run(place, "ijbs", root)
    table.write_text("TEMPLATE_ID,FILENAME\n1,x.jpg\n")
    with pytest.raises(DataError, match="has no column SUBJECT_ID"):
        run(place, "ijbs", root)
