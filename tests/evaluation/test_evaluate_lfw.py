"""`facekd evaluate lfw` from the command line to its files."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluation.evaluate_lfw import main
from evaluation.sets.pair_set import load_pair_set
from facekd.data.pair_packs.npz_file import write_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack, write_pair_pack
from facekd.data.pair_packs.reading import read_pair_pack
from facekd.errors import FacekdError, run_verb
from facekd.verification import kfold_accuracy
from facekd.verification.measures import measure_pairs
from tests.evaluation.conftest import make_pack, quarters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def evaluate(model, pack, tmp_path):
    """Run the verb; returns its exit status and the results, if any."""

    def run(*extra: str, output: str = "out", pictures: bool = False) -> tuple[int, dict]:
        folder = tmp_path / output
        fast = ["--bootstrap", "100", *([] if pictures else ["--no-pictures"])]
        arguments = ["--model", str(model), "--pairs", str(pack), "--output", str(folder), *fast, *extra]
        status = run_verb(lambda: main(arguments))
        return status, json.loads((folder / "results.json").read_text()) if status == 0 else {}

    return run


def expected_scores(pack: Path, flip: bool) -> np.ndarray:
    images = load_pair_set(pack).decode(0, 80)
    embeddings = quarters(images).astype(np.float64)
    if flip:
        embeddings += quarters(images[:, :, ::-1])
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings[0::2] * embeddings[1::2]).sum(axis=1)


@pytest.mark.parametrize("flip", [True, False])
def test_scores_and_results_are_those_of_the_model_in_numpy(evaluate, pack, tmp_path, flip):
    status, results = evaluate(*([] if flip else ["--no-flip"]), "--folds", "4")
    scores = np.load(tmp_path / "out" / "scores.npy")
    np.testing.assert_allclose(scores, expected_scores(pack, flip), atol=1e-5)
    is_same = load_pair_set(pack).is_same
    measured = measure_pairs(scores, is_same, 4, replicates=100)
    assert status == 0
    assert {key: results[key] for key in measured} == measured
    assert results["protocol"]["flip"] is flip and results["protocol"]["folds"] == 4
    # By hand, once: what other programs rely on.
    assert results["accuracy"]["mean"] == kfold_accuracy(scores, is_same, 4).mean
    assert set(results["tar_at_far"][0]) >= {
        *("far", "tar", "threshold", "false_accepts", "achieved_far", "num_impostor", "ci95", "reason")
    }
    assert results["tar_at_far"][-1]["tar"] is None and results["tar_at_far"][-1]["reason"]


def test_every_key_written_is_documented(evaluate, pack):
    _, results = evaluate("--names", str(pack.with_suffix(".txt")))
    # `model.path` documents a key as well as `path` does.
    documented = set(re.findall(r"[`.](\w[\w-]*)(?=[`.])", (ROOT / "docs" / "results.md").read_text()))

    def keys_of(value) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for entry in value.values() for key in keys_of(entry)}
        return {key for entry in value for key in keys_of(entry)} if isinstance(value, list) else set()

    assert not keys_of(results) - documented


def test_pictures_open_and_the_table_is_printed(evaluate, tmp_path, capsys):
    evaluate(pictures=True)
    for name in ("roc.png", "hardest_pairs.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).std() > 5
    output = capsys.readouterr().out
    assert "accuracy" in output and "FAR" in output and "10 contiguous folds" in output
    assert "EER" in output and "f(mirrored x)" in output


def test_names_bring_intervals_over_subjects(evaluate, pack):
    _, results = evaluate("--names", str(pack.with_suffix(".txt")))
    assert results["pair_set"]["num_subjects"] == 60
    assert results["tar_at_far"][0]["interval"] == "subject bootstrap"
    assert evaluate()[1]["tar_at_far"][0]["interval"] == "pair bootstrap"


def test_a_second_run_under_other_flags_does_not_need_the_model_again(evaluate, tmp_path, monkeypatch):
    evaluate()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "embeddings").iterdir()}
    assert len(files) == 2

    def refuse(*_):
        raise AssertionError("the model was run")

    monkeypatch.setattr("facekd.embedder.OnnxEmbedder.embed", refuse)
    status, results = evaluate("--folds", "5", "--rule", "insightface", "--fars", "0.1,0.5")
    assert status == 0 and len(results["accuracy"]["folds"]) == 5
    assert [point["far"] for point in results["tar_at_far"]] == [0.1, 0.5]
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "embeddings").iterdir()}
    with pytest.raises(AssertionError, match="the model was run"):
        evaluate("--no-cache")


def test_the_rule_is_about_tars_alone_and_says_so(evaluate, capsys):
    _, exact = evaluate("--fars", "0.14")
    _, other = evaluate("--fars", "0.14", "--rule", "insightface")
    # 2.8 of 20 impostors: two may be accepted, and three are nearer.
    assert [entry["tar_at_far"][0]["false_accepts"] for entry in (exact, other)] == [2, 3]
    assert all(exact[key] == other[key] for key in ("accuracy", "eer", "eer_threshold", "auc"))
    said = "TAR@FAR by the insightface rule (accuracy, EER and AUC do not depend on it)"
    printed = capsys.readouterr().out
    assert other["protocol"]["text"].endswith(said) and said in printed
    assert "intervals: wilson (TAR), pair bootstrap (EER), 100 draws" in printed
    assert exact["protocol"]["text"].endswith("TAR@FAR by the exact rule")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "accuracy, EER and AUC do not depend on it" in " ".join(capsys.readouterr().out.split())


def test_preprocessing_flags_reach_the_model(evaluate, tmp_path, capsys):
    _, default = evaluate(output="default")
    assert "assumed: mean" in capsys.readouterr().err and default["model"]["assumed"] == ["mean", "std", "color"]
    _, given = evaluate("--mean", "127.5", "--std", "127.5,127.5,127.5", "--color", "rgb", output="given")
    assert given["model"]["assumed"] == [] and given["accuracy"] == default["accuracy"]
    for flags in (["--color", "bgr"], ["--mean", "0,0,0", "--std", "255,255,255"]):
        evaluate(*flags, output="other")
        other = np.load(tmp_path / "other" / "scores.npy")
        assert np.abs(other - np.load(tmp_path / "default" / "scores.npy")).max() > 1e-3


def test_what_the_graph_itself_does_is_said_and_recorded(model, pack, tmp_path, capsys):
    # The same model behind a normalisation, with a second output: the length of the embedding.
    graph = onnx.load(model)
    graph.graph.node[0].input[0] = "normal"
    graph.graph.node.insert(0, helper.make_node("Div", ["centred", "half"], ["normal"]))
    graph.graph.node.insert(0, helper.make_node("Sub", ["images", "half"], ["centred"]))
    graph.graph.node.append(helper.make_node("ReduceL2", ["feature"], ["norm"], axes=[1]))
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(127.5), "half"))
    graph.graph.output.append(helper.make_tensor_value_info("norm", TensorProto.FLOAT, ["batch", 1]))
    graph.graph.node[-2].output[0] = graph.graph.output[0].name = "feature"
    onnx.save(graph, tmp_path / "inside.onnx")

    def run(file: Path, *extra: str) -> tuple[dict, str]:
        arguments = ["--model", str(file), "--pairs", str(pack), "--output", str(tmp_path / "out"), "--no-pictures"]
        assert main([*arguments, "--bootstrap", "0", *extra]) == 0
        return json.loads((tmp_path / "out" / "results.json").read_text()), capsys.readouterr().err

    plain, _ = run(model)
    assert plain["model"]["input_arithmetic"] is None and plain["model"]["output"] == "embedding"
    inside, said = run(tmp_path / "inside.onnx")
    assert (
        "inside.onnx: the graph itself does (x - 127.5) / 127.5: it takes raw pixels 0..255; passed with mean 0" in said
    )
    assert "the embedding is its output feature; norm left out" in said and "assumed: color rgb" in said
    assert inside["accuracy"] == plain["accuracy"] and inside["eer"] == plain["eer"]
    assert inside["model"]["input_arithmetic"]["mean"] == pytest.approx([127.5] * 3)
    assert inside["model"]["preprocessing"]["std"] == [1, 1, 1] and inside["model"]["output"] == "feature"
    _, said = run(tmp_path / "inside.onnx", "--embedding-output", "feature", "--mean", "127.5", "--std", "127.5")
    assert "warning: the graph itself does" in said and "normalised twice" in said
    with pytest.raises(FacekdError, match="has no output 'fc1'; it has feature, norm"):
        run(tmp_path / "inside.onnx", "--embedding-output", "fc1")


def test_mean_and_std_in_fractions_are_taken_so_and_it_is_said(evaluate, capsys):
    _, fractions = evaluate("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", output="fractions")
    assert (
        "taken as fractions of 255, that is 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375"
        in capsys.readouterr().err
    )
    _, levels = evaluate("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", output="levels")
    assert fractions["eer"] == levels["eer"]
    assert fractions["model"]["preprocessing"]["mean"] == pytest.approx([123.675, 116.28, 103.53])


@pytest.fixture
def genuine_first(pack) -> Path:
    """The pack with its genuine pairs before the others, as some lists have them, and its list of names."""
    content = read_pair_pack(pack)
    order = np.argsort(~content.is_same, kind="stable")
    path = pack.with_name("sorted.bin")
    images = [content.images[2 * pair + side] for pair in order.tolist() for side in (0, 1)]
    write_pair_pack(path, images, content.is_same[order])
    lines = pack.with_suffix(".txt").read_text().splitlines()
    path.with_suffix(".txt").write_text("\n".join(lines[pair] for pair in order.tolist()))
    return path


def test_folds_of_one_kind_are_balanced_and_it_is_said(evaluate, pack, genuine_first, capsys):
    _, mixed = evaluate()
    assert mixed["protocol"]["fold_kind"] == "contiguous" and mixed["notes"] == []
    capsys.readouterr()
    _, found = evaluate("--pairs", str(genuine_first))
    assert found["accuracy"] == mixed["accuracy"] and found["eer"] == mixed["eer"]
    assert found["protocol"]["fold_kind"] == "balanced"
    assert "10 balanced folds (genuine and impostor pairs each cut" in found["protocol"]["text"]
    said = capsys.readouterr().out
    assert "warning: " in said and "sorted.bin: 10 of its 10 contiguous folds hold one kind of pair only" in said
    assert "fold 1 (4 genuine, 0 impostor)" in said and "--fold-kind contiguous" in found["notes"][0]
    # Asked for, they are used without a word; and contiguous ones with one.
    assert evaluate("--pairs", str(genuine_first), "--fold-kind", "balanced")[1]["notes"] == []
    assert evaluate("--fold-kind", "balanced")[1]["accuracy"] == mixed["accuracy"]
    _, kept = evaluate("--pairs", str(genuine_first), "--fold-kind", "contiguous")
    assert kept["protocol"]["fold_kind"] == "contiguous" and "take the accuracy of --fold-kind" in kept["notes"][0]
    assert kept["accuracy"] != found["accuracy"]


def test_recorded_folds_of_one_kind_are_balanced_too(evaluate, genuine_first, tmp_path, capsys):
    content = read_pair_pack(genuine_first)
    path = tmp_path / "recorded.npz"
    for fold_of, made in ((np.arange(40) // 4, "balanced"), (np.arange(40) % 10, "recorded")):
        write_native_pair_pack(path, PairPack(content.images, content.is_same, None, fold_of))
        _, results = evaluate("--pairs", str(path))
        assert results["protocol"]["fold_kind"] == made
        assert ("10 of its 10 recorded folds" in capsys.readouterr().out) is (made == "balanced")


def test_fewer_pairs_of_a_kind_than_folds_are_refused_with_the_number_to_take(evaluate, pack, tmp_path, capsys):
    content = read_pair_pack(pack)
    path = tmp_path / "few.bin"
    write_pair_pack(path, content.images, np.arange(40) < 5)
    status, _ = evaluate("--pairs", str(path))
    assert status == 2 and "few.bin: 10 folds of 5 genuine and 35 impostor" in (said := capsys.readouterr().err)
    assert "take 2 to 5 folds" in said
    assert evaluate("--pairs", str(path), "--folds", "5")[0] == 0


def test_several_packs_have_a_folder_each_and_a_summary(model, pack, tmp_path):
    other, output = make_pack(tmp_path, seed=1, noise=60, name="hard"), tmp_path / "out"
    names = ["--names", str(pack.with_suffix(".txt")), "-"]
    packs = ["--pairs", str(pack), str(other)]
    assert main(["--model", str(model), *packs, *names, "--output", str(output), "--bootstrap", "100"]) == 0
    summary = json.loads((output / "results.json").read_text())
    assert [entry["pair_set"]["name"] for entry in summary["pair_sets"]] == ["pairs", "hard"]
    for entry in summary["pair_sets"]:
        folder = output / entry["pair_set"]["name"]
        assert json.loads((folder / "results.json").read_text()) == entry
        assert (folder / "scores.npy").exists() and (folder / "roc.png").exists()
    assert cv2.imread(str(output / "roc.png")).std() > 5
    assert summary["pair_sets"][0]["eer"] < summary["pair_sets"][1]["eer"]


@pytest.fixture
def made_elsewhere(evaluate, tmp_path) -> tuple[dict, np.ndarray, np.ndarray]:
    """The results of a model, and its embeddings of the images and of their mirror images, as it left them."""
    _, results = evaluate(output="by the model")
    kept = tmp_path / "by the model" / "embeddings"
    return results, *(np.load(next(kept.glob(f"*-{side}.npy"))) for side in ("plain", "mirrored"))


def run_given(tmp_path: Path, pack: Path, rows: np.ndarray, *extra: str) -> tuple[int, dict]:
    np.save(tmp_path / "made elsewhere.npy", rows)
    arguments = ["--embeddings", str(tmp_path / "made elsewhere.npy"), "--pairs", str(pack), "--bootstrap", "100"]
    out = tmp_path / "given"
    status = run_verb(lambda: main([*arguments, "--no-pictures", "--output", str(out), *extra]))
    return status, json.loads((out / "results.json").read_text()) if status == 0 else {}


def test_given_embeddings_give_what_the_model_gave(made_elsewhere, evaluate, tmp_path, pack, capsys):
    expected, plain, mirrored = made_elsewhere
    measures = ("accuracy", "eer", "eer_ci95", "auc", "tar_at_far", "protocol", "num_pairs")
    both = np.hstack([plain, mirrored])
    status, found = run_given(tmp_path, pack, both, "--embeddings-flipped")
    assert status == 0 and {key: found[key] for key in measures} == {key: expected[key] for key in measures}
    np.testing.assert_array_equal(
        np.load(tmp_path / "given" / "scores.npy"), np.load(tmp_path / "by the model" / "scores.npy")
    )
    content = (tmp_path / "made elsewhere.npy").read_bytes()
    assert found["model"] is None and found["embeddings"] == {
        "path": str(tmp_path / "made elsewhere.npy"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "shape": [80, 24],
        "dtype": "float32",
        "holds": "plain+flipped",
        "embedding_size": 12,
    }
    # Without mirror images: left out when asked, or because there are none.
    _, unflipped = evaluate("--no-flip", output="unflipped")
    for rows, flags in ((both, ["--embeddings-flipped", "--no-flip"]), (plain, ["--no-embeddings-flipped"])):
        _, found = run_given(tmp_path, pack, rows, *flags)
        assert {key: found[key] for key in measures} == {key: unflipped[key] for key in measures}
    assert run_given(tmp_path, pack, plain, "--no-embeddings-flipped", "--flip")[0] == 2
    assert "holds no embeddings of mirror images" in capsys.readouterr().err


def test_given_embeddings_of_several_packs_and_with_pictures(made_elsewhere, tmp_path, pack):
    _, plain, _ = made_elsewhere
    other = make_pack(tmp_path, seed=1, name="other")
    np.save(tmp_path / "plain.npy", plain)
    np.save(tmp_path / "other.npy", plain[::-1])
    files = ["--embeddings", str(tmp_path / "plain.npy"), str(tmp_path / "other.npy"), "--no-embeddings-flipped"]
    out = tmp_path / "two"
    assert main([*files, "--pairs", str(pack), str(other), "--output", str(out), "--bootstrap", "0"]) == 0
    summary = json.loads((out / "results.json").read_text())
    names = [Path(entry["embeddings"]["path"]).name for entry in summary["pair_sets"]]
    assert summary["model"] is None and names == ["plain.npy", "other.npy"]
    assert "embeddings made elsewhere" in (out / "table.md").read_text() and (out / "roc.png").exists()


def test_a_folder_of_embeddings_is_still_the_cache(evaluate, tmp_path):
    assert evaluate("--embeddings", str(tmp_path / "kept"))[0] == 0
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2 and not (tmp_path / "out" / "embeddings").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "x.bin"], "give --model FILE, or --embeddings with a file X.npy"),
        (["--pairs", "x.bin", "--model", "m.onnx", "--embeddings", "x.npy"], "that file or --model, one of the two"),
        (["--pairs", "x.bin", "--embeddings", "x.npy", "y.npy"], "2 files are given for 1 pack"),
        (["--pairs", "x.bin", "--model", "m.onnx", "--embeddings", "a", "b"], "2 folders are given"),
        (["--pairs", "x.bin", "--model", "m.onnx", "--embeddings-flipped"], "--embeddings-flipped is about"),
        (["--pairs", "x.bin", "--embeddings", "x.npy", "--color", "bgr"], "--color is about a model"),
    ],
)
def test_words_of_embeddings_that_make_no_sense_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--output", "out"])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((79, 4)), "holds 79 rows; expected 80, one for each image of the pack"),
        (np.ones((80, 4), np.int64), "expected real numbers"),
        (np.ones((80, 3)), "rows of 3 values cannot be two embeddings"),
    ],
)
def test_given_embeddings_that_do_not_fit_are_refused(tmp_path, pack, capsys, rows, message):
    assert run_given(tmp_path, pack, rows, "--embeddings-flipped")[0] == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "41"], "folds must lie between 2 and the 40 pairs"),
        (["--model", "nowhere.onnx"], "nowhere.onnx: no such file"),
        (["--pairs", "nowhere.bin"], "No such file or directory: nowhere.bin"),
        (["--image-size", "112"], "takes 16 pixels, but image_size 112 is given"),
        (["--mean", "127.5"], "give mean and std together"),
        (["--mean", "1,2", "--std", "3,4"], "expected one number, or three"),
    ],
)
def test_mistakes_are_one_line_and_write_no_result(evaluate, tmp_path, capsys, arguments, message):
    status, _ = evaluate(*arguments)
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fars", "0.1,zero"], "expected a number above 0, at most 1, found 'zero'"),
        (["--fars", "0"], "expected a number above 0, at most 1, found '0'"),
        (["--bootstrap", "7"], "at least 100"),
        (["--names", "a.txt", "b.txt"], "2 given for 1 pack"),
        (["--seed", "-1"], "--seed: expected a whole number from 0"),
        (["--threads", "0"], "--threads: expected a whole number from 1 to"),
        (["--threads", "100000"], "found '100000'"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(evaluate, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        evaluate(*arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_two_packs_of_one_name_are_refused(model, pack, tmp_path, capsys):
    (tmp_path / "twin").mkdir()
    twin = make_pack(tmp_path / "twin")
    arguments = ["--model", str(model), "--pairs", str(pack), str(twin), "--output", str(tmp_path / "out")]
    assert run_verb(lambda: main(arguments)) == 2
    assert "two packs are called pairs" in capsys.readouterr().err


def test_images_of_another_size_are_resized_only_when_asked(model, tmp_path, capsys):
    pack = make_pack(tmp_path, name="large")
    content = read_pair_pack(pack)
    large = [
        cv2.imencode(".png", cv2.resize(cv2.imdecode(np.frombuffer(image, np.uint8), 1), (48, 48)))[1].tobytes()
        for image in content.images
    ]
    write_pair_pack(pack, large, content.is_same)
    arguments = ["--model", str(model), "--pairs", str(pack), "--output", str(tmp_path / "out"), "--no-pictures"]
    assert run_verb(lambda: main(arguments)) == 2
    assert "48 x 48" in capsys.readouterr().err
    assert run_verb(lambda: main([*arguments, "--resize"])) == 0


@pytest.mark.parametrize("folder", [False, True])
def test_a_checkpoint_or_the_folder_of_its_run_is_evaluated_as_an_onnx_file_is(pack, tmp_path, folder):
    import torch

    from facekd.backbones.building import build_backbone
    from facekd.checkpoints.checkpoint import save_checkpoint

    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "image_size": 64, "width": 0.25}
    backbone = build_backbone("mobilefacenet", **sizes).eval()
    checkpoint = tmp_path / "run" / "checkpoints" / "000000000100.pt"
    content = {
        "config": {"backbone": {"name": "mobilefacenet", "dropout": 0.0, **sizes}},
        "preprocessing": {"mean": [127.5] * 3, "std": [127.5] * 3, "color": "rgb"},
        "backbone": backbone.state_dict(),
    }
    save_checkpoint(checkpoint, content)
    arguments = ["--pairs", str(pack), "--output", str(tmp_path / "out"), "--no-pictures", "--no-flip", "--resize"]
    assert main(["--model", str(tmp_path / "run" if folder else checkpoint), *arguments]) == 0

    images = [cv2.resize(image, (64, 64)) for image in load_pair_set(pack).decode(0, 80)]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        embeddings = torch.nn.functional.normalize(backbone((x.float() - 127.5) / 127.5).double())
    expected = (embeddings[0::2] * embeddings[1::2]).sum(1).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out" / "scores.npy"), expected, atol=1e-4)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["model"]["embedding_size"] == 16 and results["model"]["assumed"] == []
    assert results["model"]["path"] == str(checkpoint)


def test_the_script_runs_by_its_path_and_its_help_shows_an_example(model, pack, tmp_path):
    script = [sys.executable, str(ROOT / "evaluation" / "evaluate_lfw.py")]
    help_text = subprocess.run([*script, "--help"], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert "example:" in help_text and "facekd evaluate lfw --model model.onnx --pairs lfw.bin" in help_text
    arguments = ["--model", str(model), "--pairs", str(pack), "--output", "made/here", "--no-pictures"]
    done = subprocess.run([*script, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "here" / "results.json").exists()


def test_a_folder_of_packs_gives_the_table_of_papers(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = tmp_path / "packs"
    packs.mkdir()
    for seed, name in enumerate(("calfw", "lfw", "agedb_30", "another")):
        make_pack(packs, 40, seed=seed, name=name)
    assert main(["--model", str(model), "--pairs", str(packs), "--output", str(tmp_path / "out"), "--no-pictures"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())["pair_sets"]
    accuracy = {result["pair_set"]["name"]: 100 * result["accuracy"]["mean"] for result in results}
    assert set(accuracy) == {"calfw", "lfw", "agedb_30"}  # the usual ones, where there are any
    rows = [line.split("|")[1:-1] for line in (tmp_path / "out" / "table.md").read_text().splitlines() if "|" in line]
    head, _, row = ([cell.strip() for cell in line] for line in rows)
    assert head == ["accuracy %", "LFW", "AgeDB-30", "CALFW", "mean"]
    values = [accuracy["lfw"], accuracy["agedb_30"], accuracy["calfw"], sum(accuracy.values()) / 3]
    assert row == ["quarters.onnx (assumed: mean, std, color)", *(f"{value:.2f}" for value in values)]
    printed = capsys.readouterr()
    assert "AgeDB-30" in printed.out and f"{packs}: left out, name them by --pairs: another.bin\n" in printed.err


def test_a_folder_without_packs_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FacekdError, match="holds no verification pack"):
        main(["--model", str(model), "--pairs", str(tmp_path / "empty"), "--output", str(tmp_path / "out")])


def test_quality_gives_curves_of_the_lower_image_of_each_pair(evaluate, pack, tmp_path):
    quality = np.random.default_rng(5).normal(size=80)
    np.save(tmp_path / "quality.npy", quality)
    status, results = evaluate("--no-flip", "--folds", "2", "--quality", str(tmp_path / "quality.npy"), pictures=True)
    assert status == 0 and (tmp_path / "out" / "quality.png").stat().st_size > 1000
    found = results["quality"]
    assert found["source"]["kind"] == "file" and found["num_samples"] == 80
    same = load_pair_set(pack).is_same
    scores = np.load(tmp_path / "out" / "scores.npy")[same]
    lower = quality.reshape(-1, 2).min(axis=1)[same]
    (curve,) = found["curves"]
    rejected = scores < results["tar_at_far"][0]["threshold"]
    assert curve["fnmr"] == rejected.mean()
    for share in (0, 10, 50):
        left = np.argsort(lower)[int(share / 100 * 20) :]
        assert curve["fnmr_by_pairs"][share] == rejected[left].mean()
        minimum = np.sort(quality)[int(share / 100 * 80)]
        assert curve["fnmr_by_samples"][share] == rejected[lower >= minimum].mean()


def test_the_length_of_embeddings_is_a_quality(evaluate, pack, tmp_path, capsys):
    status, results = evaluate("--no-flip", "--folds", "2", "--quality", "norm")
    assert status == 0 and results["quality"]["source"] == {"kind": "norm"}
    lengths = np.linalg.norm(quarters(load_pair_set(pack).decode(0, 80)), axis=1)
    np.save(tmp_path / "lengths.npy", lengths)
    assert (
        results["quality"]["curves"]
        == evaluate("--no-flip", "--folds", "2", "--quality", str(tmp_path / "lengths.npy"), output="again")[1][
            "quality"
        ]["curves"]
    )
    assert "without 10 % of pairs" in capsys.readouterr().out
    assert evaluate("--folds", "2", output="without")[1]["quality"] is None


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(79), "holds float64 (79,); expected 80 numbers (80,): one for each image of the pack"),
        (np.append(np.arange(79.0), np.nan), "1 of 80 qualities is no finite number, the first in row 79 (nan)"),
        (np.ones(80), "all 80 qualities are 1, so they say nothing"),
        (np.zeros((80, 2)), "holds float64 (80, 2)"),
        (np.full(80, "good"), "expected 80 numbers"),
    ],
)
def test_qualities_that_cannot_be_meant_are_refused(evaluate, tmp_path, capsys, array, message):
    np.save(tmp_path / "quality.npy", array)
    status, _ = evaluate("--folds", "2", "--quality", str(tmp_path / "quality.npy"))
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and message in error and "quality.npy" in error


def test_a_quality_that_is_no_file_and_one_of_unit_length_are_refused(evaluate, pack, tmp_path, capsys):
    assert evaluate("--folds", "2", "--quality", "sharpness")[0] == 2
    assert "--quality sharpness: expected norm" in capsys.readouterr().err
    rows = np.random.default_rng(0).normal(size=(80, 5))
    np.save(tmp_path / "unit.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    words = [
        "--embeddings",
        str(tmp_path / "unit.npy"),
        "--no-embeddings-flipped",
        "--pairs",
        str(pack),
        "--folds",
        "2",
    ]
    assert run_verb(lambda: main([*words, "--quality", "norm", "--output", str(tmp_path / "unit")])) == 2
    assert "all embeddings have length 1, so --quality norm says nothing" in capsys.readouterr().err
