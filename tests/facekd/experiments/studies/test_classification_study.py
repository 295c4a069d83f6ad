"""Studies of classifiers: the commands they stand for, top-1 over seeds against scipy, and what they refuse."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from evaluation.evaluate_classification import parse
from facekd.cli import main
from facekd.errors import ConfigError, DataError
from facekd.experiments.studies.file import load_study
from facekd.experiments.studies.results import gather

SEEDS = (0, 1, 2, 3)
MEANS = {"teacher": 0.9, "alone": 0.7, "kd": 0.75, "th_kd": 0.7}
RESNET20 = {"backbone.name": "resnet20", "backbone.embedding_size": 64}
Evaluated = tuple[Path, dict[tuple[str, int], dict[str, float]]]
MEASURES = ("top1", "top5", "mean_class_top1")


def write(folder: Path, **changes: Any) -> Path:
    content = {
        "output": str(folder / "out"),
        "seeds": list(SEEDS),
        "reference": "alone",
        "base": {"data": {"train": "cifar", "image_size": 32}, "head.kind": "linear", **RESNET20},
        "classification": "data/cifar",
        "methods": {
            "teacher": {"verb": "train", "seeds": [0]},
            "alone": {"verb": "train"},
            "kd": {"verb": "distill", "config": {"teacher.model": "{teacher}", "loss": {"kl": 1}}},
            "th_kd": {"verb": "distill", "config": {"teacher.model": "{teacher}", "loss": {"kl": 1, "th_kl": 1}}},
        },
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_result(folder: Path, name: str, seed: int, top5: bool = True, **data: Any) -> dict[str, float]:
    """Writes what an evaluation of 1,000 images writes; returns the shares."""
    generator = np.random.default_rng([seed, *name.encode()])
    shares = {key: float(MEANS[name] + 0.02 * generator.normal()) for key in MEASURES if top5 or key != "top5"}
    about = {"name": "cifar-10-batches-py (test; official)", "split": "test", "num_images": 1000, "num_classes": 10}
    digests = {"images_sha256": "1", "labels_sha256": "2"}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": "facekd-classification", "version": 1, "data": {**about, **digests, **data}}
    (folder / "results.json").write_text(json.dumps({**content, "heads": {"head": shares}}))
    return shares


@pytest.fixture
def evaluated(tmp_path: Path) -> Evaluated:
    """Writes a study whose runs are evaluated, all but one; returns its file, and the shares of each run."""
    path = write(tmp_path)
    runs = [run for run in load_study(path).runs if (run.method.name, run.seed) != ("th_kd", 3)]
    return path, {
        (one.method.name, one.seed): write_result(one.verification, one.method.name, one.seed) for one in runs
    }


def test_runs_are_exported_and_classify(tmp_path: Path) -> None:
    methods = {"alone": {"verb": "train"}, "other": {"model": "{study}/b.onnx", "evaluate": {"batch_size": 8}}}
    study = load_study(write(tmp_path, output="out", methods=methods, evaluate={"workers": 0}))
    study.check_configs()
    study.check_evaluation(lambda verb, words: {"classification": parse}[verb](words))
    words = {step.title: list(step.words) for step in study.steps(threads=3)}
    assert words["export alone, seed 2"][:2] == ["export", "out/runs/alone/seed-2"]
    assert words["judge alone, seed 2"] == [
        *("evaluate", "classification", "--model", "out/runs/alone/seed-2/model.onnx", "--data", "data/cifar"),
        *("--output", "out/runs/alone/seed-2/verification", "--workers", "0", "--threads", "3"),
    ]
    other = parse(words["judge other"][2:])
    assert (other.model, other.batch_size, other.workers, other.threads) == ("out/b.onnx", 8, 0, 3)


def test_shares_are_compared_by_paired_t_tests(
    evaluated: Evaluated,
) -> None:
    path, shares = evaluated
    results = gather(load_study(path))
    methods = {method["name"]: method for method in results["methods"]}
    assert results["missing"] == ["th_kd, seed 3"] and results["evaluation"] == "classification"
    assert "the images evaluated on are the same throughout" in results["interval"]
    data = {"data": "cifar-10-batches-py (test; official)", "split": "test", "num_images": 1000, "num_classes": 10}
    assert results["packs"] == [{"name": "cifar", "sha256": "1", **data}]
    for measure in MEASURES:
        kd, alone = ([shares[name, seed][measure] for seed in SEEDS] for name in ("kd", "alone"))
        found = methods["kd"]["packs"]["cifar"][measure]
        expected = stats.ttest_rel(kd, alone)
        interval = expected.confidence_interval(0.95)
        assert (found["n"], found["mean"]) == (4, pytest.approx(np.mean(kd)))
        assert found["difference"]["ci95"] == pytest.approx([interval.low, interval.high])
        assert found["difference"]["p_value"] == pytest.approx(expected.pvalue)
        assert found["difference"]["std"] == pytest.approx(np.std(np.subtract(kd, alone), ddof=1))
        # More is better, and two methods are compared with the baseline by an interval.
        assert found["difference"]["better_in"] == int(np.sum(np.array(kd) > alone)) > 0
        assert (found["difference"]["num_compared"], found["difference"]["over"]) == (2, "seeds")
    assert methods["th_kd"]["packs"]["cifar"]["top1"]["difference"]["n"] == 3
    assert methods["teacher"]["packs"]["cifar"]["top1"]["difference"]["ci95"] is None


def test_the_page_tables_and_figures(evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    path, shares = evaluated
    assert main(["study", str(path), "--report-only"]) == 0
    folder, printed = path.parent / "out", capsys.readouterr().out
    assert "cifar: 1,000 images of 10 classes" in printed and "TAR" not in printed and "EER" not in printed
    assert re.search(r"\nkd +4 +\d\d\.\d\d ± \d\.\d\d +[+−]\d\.\d\d \(.*\), p ", printed)
    lines = list(csv.DictReader((folder / "results.csv").open()))
    top5 = {one["seed"]: float(one["value"]) for one in lines if (one["method"], one["metric"]) == ("kd", "top5")}
    assert {str(seed): shares["kd", seed]["top5"] for seed in SEEDS} == {k: v for k, v in top5.items() if k}
    head = next(line for line in (folder / "results.md").read_text().splitlines() if line.startswith("| method"))
    assert [cell.strip() for cell in head.split("|")[3:9:2]] == ["top-1 %", "top-5 %", "mean over classes %"]
    assert r"mean over classes \%" in (folder / "results.tex").read_text()
    figures = sorted(one.name for one in folder.iterdir() if one.suffix in (".svg", ".pdf"))
    assert figures == ["cifar_top1.pdf", "cifar_top1.svg"]  # no ROC: there are no pairs
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 and "th_kd is compared over the seeds that both have" in page


def test_five_classes_have_no_top_5(tmp_path: Path) -> None:
    path = write(tmp_path)
    for run in load_study(path).runs:
        write_result(run.verification, run.method.name, run.seed, top5=False)
    assert main(["study", str(path), "--report-only"]) == 0
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| top-1 % |" in table and "top-5" not in table


def test_the_power_is_that_of_a_paired_t_test(evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    path, shares = evaluated
    assert main(["study", str(path), "--power", "--difference", "2"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.endswith(", cifar")] == [
        *("top-1, cifar", "top-5, cifar", "mean over classes, cifar")
    ]
    own = {
        name: np.var([shares[name, seed]["top1"] - shares["alone", seed]["top1"] for seed in seeds], ddof=1)
        for name, seeds in (("kd", SEEDS), ("th_kd", SEEDS[:3]))
    }
    sigma = np.sqrt(np.mean(list(own.values())))
    rows = dict(re.findall(r"^ *(\d+ seeds) +(\d+)$", text.split("top-5")[0], re.MULTILINE))
    for seeds in (5, 10, 20):
        limit, shift = stats.t.ppf(0.975, seeds - 1), 0.02 / sigma * np.sqrt(seeds)
        expected = stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift)
        assert abs(float(rows[f"{seeds} seeds"]) - 100 * expected) <= 0.6
    assert f"{100 * sigma:.2f} by the seed. From 3 seeds" in text and "People" not in text


def test_power_needs_two_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(write(tmp_path)), "--power"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("two methods or more with two seeds or more in common\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packs": ["a.bin"]}, "classification: a study compares methods on packs, on all pairs of people, or on im"),
        ({"people": "faces"}, "people: a study compares methods on packs"),
        ({"evaluate": {"data": "x"}}, "evaluate.data: the study sets it; see `classification`"),
        ({"evaluate": {"teacher_head": "x"}}, "evaluate.teacher-head: a study evaluates each model as it is deployed"),
        (
            {"methods": {"alone": {"verb": "train", "evaluate": {"mix": 0.5}}}},
            "methods.alone.evaluate.mix: a study evaluates each model as it is deployed",
        ),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_study(write(tmp_path, **changes))


def test_a_margin_classifier_and_typos_are_found_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"data": {"train": "cifar", "image_size": 32}}
    assert main(["study", str(write(tmp_path, base=base))]) == 2
    assert "methods.teacher: head.kind is 'margin', and `classification` compares linear" in capsys.readouterr().err
    assert main(["study", str(write(tmp_path, evaluate={"worker": 2}))]) == 2
    assert re.search(r"evaluate: --worker is not an option; did you mean --workers\?", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"images_sha256": "9"}, "was evaluated with other images or classes than"),
        ({"num_images": 999}, "was evaluated with other images or classes than"),
        ({"num_images": "many"}, "results.json: data.num_images is 'many'"),
    ],
)
def test_runs_on_other_images_are_refused(evaluated: Evaluated, data: dict[str, Any], message: str) -> None:
    study = load_study(evaluated[0])
    write_result(study.run_of("kd", 2).verification, "kd", 2, **data)
    with pytest.raises(DataError, match=message):
        gather(study)


def test_results_without_the_own_classifier_are_refused(
    evaluated: Evaluated,
) -> None:
    study = load_study(evaluated[0])
    path = study.run_of("kd", 2).verification / "results.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "heads": {"teacher_head": found["heads"]["head"]}}))
    with pytest.raises(DataError, match="damaged, it lacks the top-1"):
        gather(study)


@pytest.mark.slow
def test_a_study_of_classifiers_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generated = "data synthesize-classification --layout cifar-10 --classes 6 --images-per-class 12"
    base = {
        "data": {"train": "{study}/data", "image_size": 32, "workers": 0},
        "backbone": {"name": "resnet20", "width": 0.5, "embedding_size": 32},
        "head.kind": "linear",
        "schedule.lr": 0.05,
        "images": 48,
        "global_batch_size": 12,
        "tensorboard": False,
    }
    teacher = {"backbone": {"name": "resnet8x4", "width": 0.25, "embedding_size": 64}}
    methods = {
        "teacher": {"verb": "train", "judge": False, "config": teacher},
        "alone": {"verb": "train"},
        # Without a classifier of its own, through a projection: exported as one classifier.
        "shared": {
            "verb": "distill",
            "config": {"teacher.model": "{teacher}", "share": 1, "loss": {"ce": 1, "kl": 1}},
        },
    }
    prepare = [f"{generated} --test-images-per-class 4 --output {{study}}/data"]
    changes = {"prepare": prepare, "classification": "{study}/data", "evaluate": {"workers": 0}}
    path = write(tmp_path, base=base, methods=methods, seeds=[0], **changes)
    assert main(["study", str(path)]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["missing"] == [] and results["packs"][0]["num_images"] == 24
    shared = next(method for method in results["methods"] if method["name"] == "shared")
    assert shared["packs"]["data"]["top1"]["n"] == 1 and shared["images"]["all_stages"] == 96
    capsys.readouterr()
    assert main(["study", str(write(tmp_path, base=base, methods=methods, seeds=[0, 1], **changes)), "--dry-run"]) == 0
    assert re.search(r"\nalone +1 +\d", capsys.readouterr().out)
