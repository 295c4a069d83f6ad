"""`facekd report`: several models over each other, and refusals of what cannot be compared."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.make_ijb_layout import main as make_ijb
from evaluation.compare_models import main
from evaluation.evaluate_ijbc import main as evaluate_ijbc
from evaluation.evaluate_lfw import main as evaluate_lfw
from facekd.errors import DataError, FacekdError
from facekd.pages.figures import new_figure, to_png
from tests.evaluation.conftest import make_model, make_pack


@pytest.fixture(scope="module")
def ijb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `good` and `bad`: the same drawn embeddings, the second with noise added."""
    folder = tmp_path_factory.mktemp("compare")
    root = folder / "set"
    make_ijb(["--full-size", str(root), "--fraction", "0.02", "--embedding-size", "32"])
    embeddings = np.load(root / "embeddings.npy")
    noise = np.random.default_rng(0).normal(size=embeddings.shape).astype(np.float32)
    for name, amount in (("good", 0.0), ("bad", 4.0)):
        np.save(folder / f"{name}.npy", embeddings + amount * noise)
        arguments = ["--root", str(root), "--embeddings", str(folder / f"{name}.npy")]
        assert evaluate_ijbc([*arguments, "--output", str(folder / name)]) == 0
    return folder


def test_two_models_on_an_ijb_set(ijb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(ijb / "bad"), str(ijb / "good"), "--output", str(tmp_path), "--draws", "200"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "comparison.json").read_text())
    [compared] = content["sets"]
    results = [json.loads((ijb / name / "results.json").read_text()) for name in ("bad", "good")]
    tars = [{point["far"]: point["tar"] for point in result["tar_at_far"]} for result in results]
    [difference] = compared["differences"]
    assert (difference["first"], difference["second"]) == ("bad.npy", "good.npy")
    for entry in difference["tar_at_far"]:
        assert entry["first"] == tars[0][entry["far"]] and entry["second"] == tars[1][entry["far"]]
        assert entry["difference"] == pytest.approx(entry["second"] - entry["first"])
    strict = next(entry for entry in difference["tar_at_far"] if entry["far"] == 1e-2)
    assert strict["difference"] > 0 and strict["p_value"] < 0.05
    assert "good.npy is better" in printed and "people" in compared["about"]
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "good.npy is better" in page
    assert main(arguments) == 0
    assert json.loads((tmp_path / "comparison.json").read_text()) == content


def test_one_result_gets_its_own_report(ijb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ijb / "good")]) == 0
    assert str(ijb / "good" / "report.html") in capsys.readouterr().out
    assert (ijb / "good" / "report.html").stat().st_size > 10_000


def change(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    result = json.loads((folder / "results.json").read_text())
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "results.json").write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("protocol", "keep_norm"), False, "the protocols differ .*keep_norm is True and False"),
        (("protocol", "rule"), "insightface", "rule is exact and insightface"),
        (("dataset", "fingerprint"), "0" * 64, "evaluated on different data"),
        (("dropped", "pairs"), 3, "different images were left out"),
        (("format",), "facekd-verification", "other/results.json: it has no"),
        (("format",), "facekd-training", "holds facekd-training"),
    ],
)
def test_other_protocols_and_data_are_refused(
    ijb: Path, tmp_path: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    shutil.copytree(ijb / "bad", tmp_path / "other")
    change(tmp_path / "other", path, value)
    with pytest.raises(FacekdError, match=message):
        main([str(ijb / "good"), str(tmp_path / "other"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_where_scores_or_data_are_gone_the_table_remains(ijb: Path, tmp_path: Path) -> None:
    shutil.copytree(ijb / "bad", tmp_path / "other")
    (tmp_path / "other" / "scores.npy").unlink()
    assert main([str(ijb / "good"), str(tmp_path / "other"), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "not tested: no scores.npy" in text and "TAR % at FAR 0.01" in text
    for name in ("one", "two"):
        shutil.copytree(ijb / "bad", tmp_path / name)
        change(tmp_path / name, ("dataset", "root"), str(tmp_path / "gone"))
    assert main([str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "data is not at its place" in text
    assert "bad.npy (one)" in text and "bad.npy (two)" in text  # told apart by their folders


@pytest.mark.parametrize("of", ["scores.npy", "curves.npz"])
def test_scores_or_curves_of_another_model_are_refused(ijb: Path, tmp_path: Path, of: str) -> None:
    shutil.copytree(ijb / "bad", tmp_path / "other")
    shutil.copy(ijb / "good" / of, tmp_path / "other" / of)
    files = f"{tmp_path / 'other' / 'results.json'} and {tmp_path / 'other' / of} do not belong together"
    with pytest.raises(DataError, match=f"{files}.*run the evaluation again"):
        main([str(ijb / "good"), str(tmp_path / "other"), "--output", str(tmp_path / "out")])
    with pytest.raises(DataError, match=files):
        main([str(tmp_path / "other")])


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two models on two packs: the same network, the second with half of its input's channels swapped."""
    folder = tmp_path_factory.mktemp("lfw")
    packs = [str(make_pack(folder, 120, 30, seed, name)) for seed, name in ((0, "first"), (1, "second"))]
    model = str(make_model(folder / "quarters.onnx"))
    for name, extra in (("a", []), ("b", ["--mean", "127.5", "--std", "60,127.5,250"])):
        arguments = ["--model", model, "--pairs", *packs, "--output", str(folder / name), "--no-pictures"]
        assert evaluate_lfw([*arguments, *extra, "--bootstrap", "0"]) == 0
    return folder


def test_two_models_on_several_packs(lfw: Path, tmp_path: Path) -> None:
    assert main([str(lfw / "a"), str(lfw / "b"), "--output", str(tmp_path), "--draws", "100"]) == 0
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [one["data"] for one in content["sets"]] == ["first", "second"]
    assert all("people are not known" in one["about"] for one in content["sets"])
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "accuracy %" in page


def test_what_the_tests_go_by_otherwise_than_the_table_is_said(
    lfw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pack = str(lfw / "quarters.onnx"), str(lfw / "first.bin")
    words = ["--model", model, "--no-pictures", "--no-report", "--bootstrap", "0", "--fars", "0.03"]
    out, other = tmp_path / "a", tmp_path / "b"
    assert evaluate_lfw([*words, "--pairs", pack, "--rule", "insightface", "--output", str(out)]) == 0
    shutil.copytree(out, other)
    assert main([str(out), str(other), "--output", str(tmp_path / "out"), "--draws", "100"]) == 0
    assert "by the exact rule (the TARs above are by the insightface rule)" in capsys.readouterr().out
    # Packs that are in one folder alone are named.
    summary = lfw / "a" / "results.json"
    few = tmp_path / "few"
    shutil.copytree(lfw / "a", few)
    result = json.loads(summary.read_text())
    (few / "results.json").write_text(json.dumps({**result, "pair_sets": result["pair_sets"][:1]}))
    assert main([str(few), str(lfw / "b"), "--output", str(tmp_path / "of two"), "--draws", "100"]) == 0
    assert "left out, because not all of these were evaluated on them: second\n" in capsys.readouterr().err


def test_scores_normalised_by_another_number_of_images_are_not_compared(lfw: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
    for count in (10, 20):
        np.save(tmp_path / f"{count}.npy", rows[:count])
        words = ["--model", str(lfw / "quarters.onnx"), "--pairs", str(lfw / "first.bin"), "--no-pictures"]
        norm = ["--score-norm", "s", "--cohort", str(tmp_path / f"{count}.npy"), "--bootstrap", "0", "--no-report"]
        assert evaluate_lfw([*words, *norm, "--output", str(tmp_path / str(count))]) == 0
    with pytest.raises(FacekdError, match=r"protocols differ \(score_norm\.num_images is 10 and 20\)"):
        main([str(tmp_path / "10"), str(tmp_path / "20"), "--output", str(tmp_path / "out")])


def _scores_of_another(scores: np.ndarray) -> None:
    scores[:] = scores[::-1].copy()  # of as many genuine pairs, but others: every second pair is one


def _one_score_higher(scores: np.ndarray) -> None:
    scores[np.argmin(np.where(np.arange(len(scores)) % 2, np.inf, scores))] = 1.0  # the worst genuine pair


def _a_pair_left_out(scores: np.ndarray) -> None:
    scores[0] = np.nan


@pytest.mark.parametrize(
    ("change_scores", "message"),
    [
        (_scores_of_another, "is .* % in the first, and .* % by the second"),
        (_one_score_higher, "the EER is .* % in the first"),
        (_a_pair_left_out, "60 genuine and 60 impostor pairs in the first, 59 and 60 in the second"),
    ],
)
def test_results_that_the_scores_do_not_give_are_refused(
    lfw: Path, tmp_path: Path, change_scores: Callable[[np.ndarray], None], message: str
) -> None:
    shutil.copytree(lfw / "b", tmp_path / "b")
    file = tmp_path / "b" / "second" / "scores.npy"
    scores = np.load(file)
    change_scores(scores)
    np.save(file, scores)
    both = f"{tmp_path / 'b' / 'results.json'} and {file} do not belong together: "
    with pytest.raises(DataError, match=both + ".*" + message):
        main([str(lfw / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out"), "--draws", "100"])


@pytest.mark.parametrize("damage", [b"", b"not numpy", "two columns", "cut"])
def test_damaged_scores_are_named(lfw: Path, tmp_path: Path, damage: bytes | str) -> None:
    shutil.copytree(lfw / "b" / "first", tmp_path / "b")
    file = tmp_path / "b" / "scores.npy"
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        np.save(file, np.load(file).reshape(-1, 2) if damage == "two columns" else np.load(file)[:-1])
    with pytest.raises(DataError, match=f"{file}.*run the evaluation again"):
        main([str(lfw / "a" / "first"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])


def test_a_pack_that_has_changed_is_not_taken_for_the_one_evaluated(lfw: Path, tmp_path: Path) -> None:
    make_pack(tmp_path, 120, 60, 5, "first")
    for name in ("a", "b"):
        shutil.copytree(lfw / name / "first", tmp_path / name)
        change(tmp_path / name, ("pair_set", "path"), str(tmp_path / "first.bin"))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]) == 0
    [compared] = json.loads((tmp_path / "out" / "comparison.json").read_text())["sets"]
    assert compared["differences"] is None and "first.bin: has changed since the evaluation" in compared["about"]


def test_names_make_it_a_test_over_people(lfw: Path, tmp_path: Path) -> None:
    arguments = [str(lfw / "a" / "first"), str(lfw / "b" / "first"), "--names", str(lfw / "first.txt")]
    assert main([*arguments, "--output", str(tmp_path), "--draws", "100"]) == 0
    [compared] = json.loads((tmp_path / "comparison.json").read_text())["sets"]
    assert "over 180 people" in compared["about"]


def test_packs_that_differ_are_refused(lfw: Path, tmp_path: Path) -> None:
    with pytest.raises(FacekdError, match="evaluated on different data"):
        main([str(lfw / "a" / "first"), str(lfw / "b" / "second"), "--output", str(tmp_path)])
    shutil.copytree(lfw / "b", tmp_path / "b")
    result = json.loads((tmp_path / "b" / "results.json").read_text())
    for one in result["pair_sets"]:
        one["pair_set"]["name"] += "_other"
    (tmp_path / "b" / "results.json").write_text(json.dumps(result))
    with pytest.raises(FacekdError, match="no set was evaluated in all of these folders"):
        main([str(lfw / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])


def test_a_single_pack_and_several_packs_get_their_pages_again(
    lfw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(lfw / "a", tmp_path / "a")
    for place in (folder, folder / "first"):
        (place / "report.html").unlink()
        assert main([str(place)]) == 0
        assert str(place / "report.html") in capsys.readouterr().out
        first = (lfw / "a" / place.relative_to(folder) / "report.html").read_text()
        assert (place / "report.html").read_text() == first.replace(str(lfw / "a"), str(folder)).replace(
            f"--output {folder}",
            f"--output {lfw / 'a'}",  # the command stays as it was
        )
    (folder / "results.json").write_text('{"format": "facekd-verification-summary", "version": 1, "pair_sets": []}')
    with pytest.raises(FacekdError, match="is of no pack"):
        main([str(folder)])


def test_a_picture_that_leads_elsewhere_stays_out_of_the_page(lfw: Path, tmp_path: Path) -> None:
    folder, secret = shutil.copytree(lfw / "a" / "first", tmp_path / "a"), tmp_path / "secret.png"
    secret.write_bytes(to_png(new_figure((1, 1))[0]))
    (folder / "roc.png").symlink_to(secret)
    (folder / "quality.png").write_text("private")
    os.mkfifo(folder / "hardest_pairs.png")
    assert main([str(folder)]) == 0
    assert "data:image" not in (folder / "report.html").read_text()
    # A picture of the results themselves is shown.
    (folder / "roc.png").unlink()
    shutil.copy(secret, folder / "roc.png")
    assert main([str(folder)]) == 0
    assert base64.b64encode(secret.read_bytes()).decode() in (folder / "report.html").read_text()


def test_a_pack_whose_name_leads_out_of_the_folder_is_refused(lfw: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lfw / "a", tmp_path / "a")
    for name in ("../first", "..", "first/../../b", str(lfw / "b" / "first"), ""):
        change(folder, ("pair_sets", 0, "pair_set", "name"), name)
        with pytest.raises(
            DataError, match=r"pair_sets\[0\]\.pair_set\.name is .* the name of a folder within this one"
        ):
            main([str(folder), str(lfw / "b"), "--output", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "arguments",
    [["a", "b"], ["a", "--output", "o"], ["a", "--fars", "1e-4"], ["a", "b", "--output", "o", "--draws", "10"], []],
)
def test_options_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "`facekd report --help` lists the options" in capsys.readouterr().err
