"""Checks the commands a study stands for, its statistics, its report, and which files are refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from evaluation import evaluate_classification, evaluate_folder, evaluate_lfw
from evaluation.evaluate_lfw import parse
from evaluation.result_files import write_arrays
from evaluation.sets.all_pairs import AllPairs
from facekd.cli import main
from facekd.commands.config_files import parse_config
from facekd.data.pair_packs.pair_pack import write_pair_pack
from facekd.errors import ConfigError, DataError
from facekd.experiments.command_runner import CompletedSteps, run_steps
from facekd.experiments.studies.comparison import Values, paired_difference
from facekd.experiments.studies.file import load_study, make_study, parse_study
from facekd.experiments.studies.report import write_report
from facekd.experiments.studies.results import gather
from facekd.training.config import TrainConfig
from facekd.training.config.distill_config import DistillConfig
from facekd.verification.intervals.seeds_and_people import Components, crossed_difference, power
from facekd.verification.measures import (
    add_intervals_of_all_pairs,
    measure_pairs,
    measure_verification,
    verification_curves,
)
from facekd.verification.scores import unit_rows

ROOT = Path(__file__).resolve().parents[3]
FARS = (0.1, 0.01)
PEOPLE_FARS = (1e-2, 1e-3)
PAIRS = 120


def parse_evaluation(verb: str, words: list[str]) -> object:
    verbs = {"lfw": evaluate_lfw, "folder": evaluate_folder, "classification": evaluate_classification}
    return verbs[verb].parse(words)


def content(**changes: Any) -> dict[str, Any]:
    """Returns a study in plain values."""
    return {
        "output": "runs/study",
        "seeds": [3, 4],
        "reference": "alone",
        "base": {"data": {"train": "data", "image_size": 64}, "backbone.width": 0.5, "schedule": {"lr": "1e-1"}},
        "packs": [{"pairs": "{study}/test.bin", "names": "{study}/names.txt"}],
        "evaluate": {"fars": [0.1, "1e-2"], "flip": False, "folds": 2},
        "methods": {
            "alone": {"verb": "train"},
            "sh_kd": {"verb": "distill", "config": {"teacher.model": "{under}", "loss.embedding_l2": 1}},
            "under": {"verb": "train", "judge": False, "config": {"shared_head": "{alone}"}},
            "teacher": {"verb": "train", "seeds": [0], "config": {"backbone": {"width": 1.0}}},
            "th_kd": {"verb": "distill", "config": {"teacher": {"model": "{teacher}"}, "share": 1}},
            "outside": {"model": "{study}/other.onnx", "evaluate": {"mean": [1, 2, 3], "flip": True}},
        },
        **changes,
    }


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


def test_variables_and_references_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("teacher", "/from the environment")
    prepare = ["data synthesize --output ${teacher}/x {study}/$teacher"]
    study = load_study(write(tmp_path, base={"data.train": "${teacher}/x"}, prepare=prepare))
    words = [step.words for step in study.steps()]
    assert words[0][3:] == ("/from the environment/x", "runs/study//from the environment")
    assert next(found for found in words if found[0] == "train")[2] == "${teacher}/x"  # the training expands it


@pytest.mark.parametrize(
    ("command", "message"),
    [("data synthesize --output 'x", "prepare 2 is 'data .*: no closing quotation"), ("", "prepare 2 is empty")],
)
def test_a_command_that_no_shell_could_take_apart_is_refused(tmp_path: Path, command: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, prepare=["doctor", command]))


@pytest.mark.parametrize(
    "changes",
    [
        {"packs": ["--plugin=p.py"]},
        {"base": {"data.train": "--plugin=/a folder/p.py"}},
        {"methods": {"alone": {"verb": "train"}, "other": {"model": "--plugin=p.py"}}},
        {
            "methods": {
                "alone": {"verb": "train"},
                "means": {"verb": "rebuild-head", "config": {"model": "{alone}", "device": "--plugin=p.py"}},
            }
        },
    ],
)
def test_no_value_of_a_file_becomes_an_option_that_names_code(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--plugin names code, which runs only where you name it"):
        load_study(write(tmp_path, **changes)).steps()


@pytest.mark.parametrize("option", ["plugin", "plug"])
@pytest.mark.parametrize("place", ["prepare", "evaluate", "methods.alone.evaluate", "methods.means.config"])
def test_a_file_names_no_code(place: str, option: str, tmp_path: Path) -> None:
    """That of a plug-in ran as soon as the options of an evaluation were checked."""
    named = {option: str(tmp_path / "p.py")}
    made = content()
    if place == "prepare":
        made["prepare"] = [f"cache-teacher m.onnx --data d --output o --{option}={named[option]}"]
    elif place == "evaluate":
        made["evaluate"] |= named
    elif place == "methods.alone.evaluate":
        made["methods"]["alone"] = {**made["methods"]["alone"], "evaluate": named}
    else:
        made["methods"]["means"] = {"verb": "rebuild-head", "config": {"model": "{alone}", **named}}
    with pytest.raises(ConfigError, match=rf"^{place}( 1)?: --{option} names code, which runs only where you name it"):
        load_study(write(tmp_path, **made))


def test_a_folder_with_a_dollar_sign_reaches_every_verb_as_it_is(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, output="a$$b", seeds=[0]))
    study.check_configs()
    words = {step.title: step.words for step in study.steps()}
    trained = parse_config(TrainConfig, list(words["train under, seed 0"][1:]), "facekd train", "")
    assert (trained.output, trained.shared_head) == ("a$b/runs/under/seed-0", "a$b/runs/alone/seed-0")
    assert words["export alone, seed 0"][1] == "a$b/runs/alone/seed-0"


def test_a_file_stands_for_commands_seed_by_seed_and_teachers_first(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), "out put")
    steps = study.steps(threads=2)
    trained = [step.title for step in steps if step.words[0] in ("train", "distill")]
    assert trained == [
        *("train alone, seed 3", "train under, seed 3", "distill sh_kd, seed 3"),
        *("train teacher, seed 0", "distill th_kd, seed 3"),
        *("train alone, seed 4", "train under, seed 4", "distill sh_kd, seed 4", "distill th_kd, seed 4"),
    ]
    by_title = {step.title: step for step in steps}
    assert list(by_title["distill th_kd, seed 4"].words) == [
        *("distill", "--data.train", "data", "--data.image_size", "64", "--backbone.width", "0.5"),
        *("--schedule.lr", "0.1", "--teacher.model", "out put/runs/teacher/seed-0", "--share", "1"),
        *("--seed", "4", "--output", "out put/runs/th_kd/seed-4"),
    ]
    assert by_title["distill sh_kd, seed 4"].after == ("train under, seed 4",)
    assert "0.5" not in by_title["train teacher, seed 0"].words  # a section overrides a dotted key
    assert list(by_title["judge outside"].words) == [
        *("evaluate", "lfw", "--model", "out put/other.onnx", "--pairs", "out put/test.bin"),
        *("--names", "out put/names.txt", "--output", "out put/runs/outside/verification"),
        *("--fars", "0.1,0.01", "--flip", "--folds", "2", "--mean", "1,2,3", "--threads", "2"),
    ]
    assert "--no-flip" in by_title["judge alone, seed 3"].words
    assert not [title for title in by_title if title.startswith(("judge under", "export outside"))]


def test_class_means_of_a_method_are_computed_for_others(tmp_path: Path) -> None:
    methods = {
        "alone": {"verb": "train"},
        "means": {"verb": "rebuild-head", "config": {"model": "{alone}", "power": 0.25}},
        "under": {"verb": "train", "config": {"shared_head": "{means}"}},
    }
    base = {"data": {"train": "a$$b", "image_size": 64, "on_bad_record": "skip", "resize": True}}
    study = load_study(write(tmp_path, methods=methods, base=base, output="o$$u"))
    study.check_configs()
    by_title = {step.title: step for step in study.steps()}
    means = by_title["rebuild-head means, seed 3"]
    made = "o$u/runs/means/seed-3/head.pt"
    read = ["--data", "a$b", "--on-bad-record", "skip", "--resize", "--power", "0.25"]
    assert list(means.words) == ["rebuild-head", "o$u/runs/alone/seed-3", *read, "--output", made]
    assert means.makes == Path(made) and means.after == ("train alone, seed 3",)
    under = by_title["train under, seed 3"]
    assert parse_config(TrainConfig, list(under.words[1:]), "facekd train", "").shared_head == made
    assert under.after == (means.title,) and "export means, seed 3" not in by_title


def test_embeddings_of_a_method_are_cached_for_others(tmp_path: Path) -> None:
    taught = {"teacher.model": "{teacher}", "teacher.cache": "{cache}", "loss": {"ce": 1, "embedding_l2": 10}}
    methods = {
        "teacher": {"verb": "train", "seeds": [0]},
        "cache": {"verb": "cache-teacher", "seeds": [0], "config": {"model": "{teacher}", "workers": 1}},
        "alone": {"verb": "train"},
        "l2": {"verb": "distill", "config": taught},
    }
    base = {"data": {"train": "a$$b", "image_size": 64, "resize": True}}
    study = load_study(write(tmp_path, methods=methods, base=base, output="o$$u"))
    study.check_configs()
    by_title = {step.title: step for step in study.steps()}
    cache, made = by_title["cache-teacher cache, seed 0"], "o$u/runs/cache/seed-0/teacher.cache"
    read = ["--data", "a$b", "--resize", "--workers", "1", "--output", made]
    assert list(cache.words) == ["cache-teacher", "o$u/runs/teacher/seed-0", *read]
    assert cache.makes == Path(made) and cache.after == ("train teacher, seed 0",)
    l2 = by_title["distill l2, seed 4"]
    assert parse_config(DistillConfig, list(l2.words[1:]), "facekd distill", "").teacher.cache == made
    assert l2.after == ("train teacher, seed 0", cache.title)
    assert not [title for title in by_title if title.startswith(("export cache", "judge cache"))]


def test_a_budget_is_the_images_of_all_stages(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("images: 500\n")
    methods = content()["methods"]
    methods["alone"] = {"verb": "train", "config": {"images": 100}}
    methods["means"] = {"verb": "rebuild-head", "config": {"model": "{alone}"}}  # a stage that sees no image
    methods["under"]["config"] = {"shared_head": "{means}", "images": 2000}
    methods["sh_kd"]["recipe"] = str(tmp_path / "recipe.yaml")
    methods["longer"] = {"verb": "train", "budget": "sh_kd"}
    methods["as_one"] = {"verb": "train", "seeds": [7], "budget": "alone"}
    base = {"data": {"train": "data", "image_size": 64}, "epochs": 3}
    study = load_study(write(tmp_path, methods=methods, base=base))
    found = {step.title: list(step.words) for step in study.steps()}
    for title, images in (("train longer, seed 3", 500 + 2000 + 100), ("train as_one, seed 7", 100)):
        parsed = parse_config(TrainConfig, found[title][1:], "facekd train", "")
        assert parsed.images == images and "--epochs" not in found[title]
    assert [one.title for one in study.stages_of(study.run_of("sh_kd", 4))] == [
        *("alone, seed 4", "under, seed 4", "sh_kd, seed 4")
    ]
    methods["alone"] = {"verb": "train"}
    study = load_study(write(tmp_path, methods=methods, base=base))
    for check in (study.steps, study.check_configs):
        with pytest.raises(
            ConfigError, match=r"^methods\.longer\.budget: alone, seed 3 has its length in epochs; give `im"
        ):
            check()
    methods["alone"] = {"verb": "train", "config": {"imagse": 100}}
    study = load_study(write(tmp_path, methods={"longer": methods["longer"], **methods}, base=base))
    with pytest.raises(
        ConfigError, match=r"^methods\.alone: 'imagse' is not a configuration key; did you mean 'images'"
    ):
        study.check_configs()


def test_a_part_of_a_study_has_what_it_needs_and_the_reference(tmp_path: Path) -> None:
    study = {
        "teacher": {"verb": "train", "seeds": [0]},
        "alone": {"verb": "train"},
        "met": {"verb": "train", "judge": False, "config": {"backbone.weights": "{teacher}", "shared_head": "{alone}"}},
        "kd": {"verb": "distill", "config": {"teacher.model": "{met}"}},
        "other": {"verb": "distill", "config": {"teacher.model": "{teacher}"}},
        "as_long": {"verb": "train", "budget": "kd"},
    }
    path = write(tmp_path, methods=study)

    def names(*only: str) -> list[str]:
        return list(make_study(parse_study([str(path), "--only", f"[{', '.join(only)}]"])).methods)

    assert names("kd") == ["teacher", "alone", "met", "kd"]
    assert names("other") == ["teacher", "alone", "other"]
    assert names("as_long") == ["teacher", "alone", "met", "kd", "as_long"]
    assert names() == list(study)
    with pytest.raises(ConfigError, match=r"only: 'oter' is no method; did you mean other\? There are teacher, alone"):
        names("oter")


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    file = parse_study(["--jobs", "2", "--report-only", str(write(tmp_path)), "--methods.alone.note", "by itself"])
    assert (file.jobs, file.report_only, file.methods["alone"].note) == (2, True, "by itself")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, r"study.yaml: 'seed' is not a configuration key; did you mean 'seeds'\?"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"seeds": 3}, r"study.yaml: seeds: expected a list in brackets"),
        ({"seeds": [-1]}, "seeds: expected a list of whole numbers from 0"),
        ({"seeds": []}, "seeds: expected a list of whole numbers from 0"),
        (
            {"reference": "alon"},
            r"'alon' is not a method that is trained and evaluated; did you mean alone\? Name the baseline",
        ),
        ({"reference": "under"}, "'under' is not a method that is trained and evaluated"),
        ({"packs": []}, "packs: expected a list"),
        ({"packs": ["a/x.bin", "b/x.bin"]}, "two are the same"),
        ({"people": "faces"}, "people: a study compares methods on packs, on all pairs of people, or on images to"),
        ({"people": "faces", "packs": [], "evaluate": {"images": "x"}}, "evaluate.images: the study sets it; see `peo"),
        ({"packs": [{"pair": "x.bin"}]}, r"study.yaml: 'packs.0.pair' is not .*; did you mean 'packs.0.pairs'\?"),
        ({"evaluate": {"output": "x"}}, "evaluate.output: the study sets it"),
        ({"jobs": 0}, "jobs 0: give at least 1"),
        (
            {"methods": {"alone": {"verb": "train", "budget": "alon"}}},
            r"methods.alone.budget: 'alon' is not a method that is trained; did you mean alone\? There are alone",
        ),
        (
            {"methods": {"alone": {"verb": "train", "budget": "alone"}}},
            "methods.alone.budget: alone, seed 3 of alone has a budget itself",
        ),
        (
            {
                "methods": {
                    "alone": {"verb": "train"},
                    "b": {"verb": "train", "budget": "alone", "config": {"images": 9}},
                }
            },
            "methods.b.budget: its length is that of alone; leave out images of its config",
        ),
        ({"base": {"seed": 1}}, "base.seed: the study sets it"),
        (
            {"methods": {"alone": {"verb": "trian"}}},
            "study.yaml: methods.alone.verb: expected one of 'train', 'distill'",
        ),
        ({"methods": {"alone": {}}}, "methods.alone.verb: expected train or distill"),
        (
            {"methods": {"alone": {"verb": "train"}, "means": {"verb": "rebuild-head", "recipe": "x"}}},
            "methods.means.recipe: rebuild-head takes no configuration file",
        ),
        (
            {"methods": {"alone": {"verb": "train", "seed": [1]}}},
            r"study.yaml: 'methods.alone.seed' is not a configuration key; did you mean 'methods.alone.seeds'\?",
        ),
        ({"methods": {"alone": "train"}}, r"study.yaml: methods.alone is a section: expected keys below it"),
        ({"methods": {"alone": {"verb": "train", "model": "x"}}}, "is not trained"),
        (
            {"methods": {"alone": {"verb": "train", "config": {"shared_head": "{alon}"}}}},
            r"\{alon\} names no method; did you mean alone\? There are alone",
        ),
        (
            {"methods": {"alone": {"verb": "train", "config": {"shared_head": "{alone@9}"}}}},
            "asks for seed 9, but alone runs with 3, 4",
        ),
        (
            {
                "methods": {
                    "alone": {"verb": "train", "config": {"shared_head": "{b}"}},
                    "b": {"verb": "train", "config": {"shared_head": "{alone}"}},
                }
            },
            "alone -> b -> alone go round in a circle",
        ),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, **changes))


def test_a_typo_in_a_method_is_found_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = {"alone": {"verb": "train"}, "last": {"verb": "distill", "config": {"loss.cosine": 1}}}
    assert main(["study", str(write(tmp_path, methods=methods, output=str(tmp_path / "out")))]) == 2
    assert "methods.last: 'loss.cosine' is not a configuration key" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folsd": 2}, r"evaluate: .*--folsd.* \(?did you mean --folds\?.*`facekd evaluate lfw --help`"),
        ({"fold": 2}, r"evaluate: --fold is not an option; did you mean --folds\?.*`facekd evaluate lfw --help`"),
        ({"folds": "two"}, "evaluate: argument --folds: expected a whole number from 2 to 10,000, found 'two'"),
        ({"bootstrap": 3}, "evaluate: --bootstrap 3: give 0, or at least 100 draws"),
        ({"color": "grey"}, "evaluate: argument --color: invalid choice: 'grey'"),
    ],
)
def test_options_of_the_evaluation_are_checked_by_its_own_parser(
    tmp_path: Path, options: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for section in ("evaluate", "methods.alone.evaluate"):
        methods = {"alone": {"verb": "train", **({"evaluate": options} if "methods" in section else {})}}
        changes = {"methods": methods, "evaluate": {} if "methods" in section else options}
        assert main(["study", str(write(tmp_path, output=str(tmp_path / "out"), **changes))]) == 2
        found = capsys.readouterr().err
        assert re.search(message.replace("evaluate:", f"{section}:", 1), found), found
    assert not (tmp_path / "out").exists()


def test_every_option_of_the_evaluation_may_be_given(tmp_path: Path) -> None:
    options = {"image_size": 64, "resize": False, "cache": False, "embeddings": "{study}/e", "rule": "insightface"}
    study = load_study(write(tmp_path, evaluate=options))
    study.check_evaluation(parse_evaluation)
    words = next(step.words for step in study.steps() if step.title == "judge alone, seed 3")
    parsed = parse(list(words[2:]))
    assert (parsed.image_size, parsed.resize, parsed.cache, parsed.rule) == (64, False, False, "insightface")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_along_parse(path: Path) -> None:
    study = load_study(path)
    study.check_configs()
    study.check_evaluation(parse_evaluation)


@pytest.mark.parametrize("count", [2, 3, 6, 30])
def test_the_interval_is_that_of_a_paired_t_test(count: int) -> None:
    generator = np.random.default_rng(0)
    method, reference = generator.normal(0.1, 0.02, count), generator.normal(0.12, 0.02, count)
    own, other = dict(enumerate(method)), {**dict(enumerate(reference)), 99: 0.5}
    found = paired_difference(Values(own, {}), Values(other, {}), None, lower_is_better=True)
    assert found is not None
    expected = stats.ttest_rel(method, reference)
    interval = expected.confidence_interval(0.95)
    assert found["ci95"] == pytest.approx([interval.low, interval.high], rel=1e-9)
    assert (found["p_value"], found["over"]) == (pytest.approx(expected.pvalue), "seeds")
    assert found["mean"] == pytest.approx((method - reference).mean())
    assert (found["n"], found["better_in"]) == (count, int((method < reference).sum()))
    single = paired_difference(Values({1: 0.5}, {}), Values({1: 0.25, 2: 0.1}, {}), None, lower_is_better=True)
    assert single == {"n": 1, "mean": 0.25, "ci95": None, "better_in": 0, "p_value": None, "over": None}
    assert paired_difference(Values({1: 0.5}, {}), Values({2: 0.1}, {}), None, lower_is_better=True) is None


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Writes a study whose runs are evaluated, all but one; returns its file."""
    is_same = np.arange(PAIRS) % 2 == 0
    write_pair_pack(tmp_path / "test.bin", [b"image"] * (2 * PAIRS), is_same)
    path = write(tmp_path, output=str(tmp_path), packs=["{study}/test.bin"], title="<b>Heads</b> & 'tails'")
    study = load_study(path)
    for number, run in enumerate(run for run in study.runs if run.method.judge):
        if (run.method.name, run.seed) == ("th_kd", 4):
            continue
        scores = np.random.default_rng(number).normal(np.where(is_same, 1.0, -1.0), 1.0)
        result = measure_pairs(scores, is_same, np.arange(PAIRS) * 2 // PAIRS, FARS, "exact", None, 0, 0)
        run.verification.mkdir(parents=True)
        np.save(run.verification / "scores.npy", scores)
        described = {"pair_set": {"sha256": "0", "num_subjects": None}, "protocol": {"text": "cosine"}}
        (run.verification / "results.json").write_text(json.dumps({**result, **described}))
        if run.method.verb:
            speed = 100.0 if run.method.name == "alone" else 80.0
            entries = [{"kind": "train", "images_seen": n, "loss": 1.0, "images_per_second": speed} for n in (1, 2, 3)]
            (run.folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_results_are_those_of_the_runs(evaluated: Path) -> None:
    study = load_study(evaluated)
    results = gather(study)
    methods = {method["name"]: method for method in results["methods"]}
    assert results["missing"] == ["th_kd, seed 4"]

    def eers(name: str, *seeds: int) -> list[float]:
        folders = [study.run_of(name, seed).verification for seed in seeds]
        return [json.loads((folder / "results.json").read_text())["eer"] for folder in folders]

    found = methods["sh_kd"]["packs"]["test"]["eer"]
    expected = np.array(eers("sh_kd", 3, 4))
    assert (found["n"], found["mean"]) == (2, pytest.approx(expected.mean()))
    assert found["std"] == pytest.approx(expected.std(ddof=1))
    interval = stats.ttest_rel(expected, eers("alone", 3, 4)).confidence_interval(0.95)
    assert found["difference"]["ci95"] == pytest.approx([interval.low, interval.high])
    # A lower EER is better, and a higher accuracy.
    assert found["difference"]["better_in"] == int((expected < eers("alone", 3, 4)).sum()) == 2
    accuracy = {name: methods[name]["packs"]["test"]["accuracy"] for name in ("sh_kd", "alone")}
    better = [one > accuracy["alone"]["values"][seed] for seed, one in accuracy["sh_kd"]["values"].items()]
    assert accuracy["sh_kd"]["difference"]["better_in"] == sum(better)
    assert methods["sh_kd"]["cost"]["relative_speed"] == pytest.approx(0.8)
    assert methods["alone"]["packs"]["test"]["eer"]["difference"] is None
    assert methods["th_kd"]["packs"]["test"]["eer"]["difference"]["ci95"] is None  # one seed has no interval
    assert methods["outside"]["packs"]["test"]["eer"]["difference"] is None and methods["outside"]["cost"] is None
    assert methods["under"].get("packs") is None
    # 60 impostor pairs measure a FAR of 0.1, not of 0.01.
    assert [point["tar"] is None for point in methods["alone"]["packs"]["test"]["tar_at_far"]] == [False, True]


def test_classifiers_are_compared_with_their_class_means_below_the_results(evaluated: Path) -> None:
    study = load_study(evaluated)
    for seed, correlation in ((3, 0.2), (4, 0.4)):
        entry = {"kind": "centres", "images_seen": 3, "correlation": correlation, "rows_dimension": 12.34}
        study.run_of("under", seed).folder.mkdir(parents=True)
        with (study.run_of("under", seed).folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
    results = gather(study)
    write_report(study, results)
    for text in ((evaluated.parent / name).read_text() for name in ("results.md", "report.html")):
        assert "Who resembles whom" in text and "0.30" in text and "12.3" in text
    under = next(method for method in results["methods"] if method["name"] == "under")
    assert under["centres"]["correlation"]["values"] == {"3": 0.2, "4": 0.4}


def test_the_report_of_what_is_there(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(evaluated), "--report-only"]) == 0
    folder = evaluated.parent
    table = (folder / "results.md").read_text()
    printed = capsys.readouterr().out
    assert "|" not in printed and "`" not in printed and "#" not in printed  # no source of Markdown
    assert "Not evaluated yet: th_kd, seed 4." in printed and re.search(r"\nth_kd +1 +\d+\.\d\d ", printed)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    assert set(rows) == {"method", "alone", "sh_kd", "teacher", "th_kd", "outside"}
    assert "| 3 (6 with teacher) |" in rows["th_kd"] and "| 3 |" in rows["sh_kd"]  # `under` left no log
    assert "80 images/s, 0.80" in rows["sh_kd"] and "Not evaluated yet: th_kd, seed 4." in table
    assert "TAR % at FAR 0.1 " in rows["method"] and "FAR 0.01" not in rows["method"]
    assert "test: TAR at FAR 0.01 is not shown, because 60 impostor pairs are too few to measure it." in table
    # For spreadsheets every number, for papers the same table, and the figures at any size.
    lines = list(csv.DictReader((folder / "results.csv").open()))
    own = [one for one in lines if (one["method"], one["metric"]) == ("sh_kd", "eer")]
    methods = {one["name"]: one for one in json.loads((folder / "results.json").read_text())["methods"]}
    eer = methods["sh_kd"]["packs"]["test"]["eer"]
    assert float(own[0]["value"]) == eer["mean"] and float(own[0]["ci95_low"]) == eer["difference"]["ci95"][0]
    assert {one["seed"]: float(one["value"]) for one in own[1:]} == eer["values"]
    tex = (folder / "results.tex").read_text()
    body = [line for line in tex.splitlines() if line.endswith(r" \\")]
    assert len({line.count(" & ") for line in body}) == 1 and len(body) == 6 and r"sh\_kd & " in tex
    assert tex.count("{") == tex.count("}") and "EER \\%" in tex and r"$\pm$" in tex
    assert all(
        (folder / f"test_{name}.{kind}").stat().st_size > 2000 for name in ("eer", "roc") for kind in ("svg", "pdf")
    )
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "<h1>&lt;b&gt;Heads&lt;/b&gt; &amp; &#39;tails&#39;</h1>" in page and "<b>" not in page
    assert json.loads((folder / "results.json").read_text())["format"] == "facekd-study"


def test_what_was_assumed_of_a_model_is_said_beside_it(evaluated: Path) -> None:
    file = load_study(evaluated).run_of("outside", 0).verification / "results.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({**result, "model": {"assumed": ["mean", "std"]}}))
    assert main(["study", str(evaluated), "--report-only"]) == 0
    for name in ("results.md", "report.html"):
        text = (evaluated.parent / name).read_text()
        assert "outside (preprocessing assumed)" in text and "alone (preprocessing assumed)" not in text
        assert "does not record mean, std: assumed" in text
    methods = json.loads((evaluated.parent / "results.json").read_text())["methods"]
    assert [method["assumed"] for method in methods if "packs" in method] == [[], [], [], [], ["mean", "std"]]


def test_scores_of_another_run_are_refused(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(evaluated)
    assert main(["study", str(evaluated), "--report-only"]) == 0
    before = (evaluated.parent / "report.html").read_bytes()
    one, other = (study.run_of("alone", seed).verification for seed in (3, 4))
    (other / "scores.npy").write_bytes((one / "scores.npy").read_bytes())
    assert main(["study", str(evaluated), "--report-only"]) == 2
    error = capsys.readouterr().err
    assert f"{other / 'results.json'} and {other / 'scores.npy'} do not belong together" in error
    assert "delete results.json there and run the study again" in error
    (other / "scores.npy").write_bytes(b"")
    assert main(["study", str(evaluated), "--report-only"]) == 2
    assert f"{other / 'scores.npy'}: cannot be read" in capsys.readouterr().err
    assert (evaluated.parent / "report.html").read_bytes() == before


def test_nothing_to_report_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(write(tmp_path, output=str(tmp_path / "none"))), "--report-only"]) == 2
    assert "no run is evaluated yet" in capsys.readouterr().err


PEOPLE = 40


def evaluate_people(folder: Path, name: str, seed: int, set_sha256: str = "1", draws: int = 100) -> None:
    """Writes what an evaluation of all pairs writes, of embeddings of 40 people that a method holds apart so well."""
    spread = {"alone": 1.1, "better": 0.9, "equal": 1.1, "teacher": 0.5}[name]
    people = np.repeat(np.arange(PEOPLE), 4)
    centers = np.random.default_rng(5).normal(size=(PEOPLE, 16))
    photos = np.random.default_rng(6).normal(size=(len(people), 16))
    own = np.random.default_rng([seed, len(name)]).normal(size=(len(people), 16))
    rows = unit_rows(centers[people] + spread * (photos + 0.3 * own), None)
    pairs = AllPairs(rows, people, PEOPLE_FARS)
    found = measure_verification(pairs.ranked, PEOPLE_FARS, "exact")
    drawn = add_intervals_of_all_pairs(found, pairs.ranked, pairs, PEOPLE, draws, 0)
    about = {"num_people": PEOPLE, "images": "p", "set_sha256": set_sha256, "protocol": {"text": "all pairs"}}
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder, curves=verification_curves(pairs.ranked), draws=drawn)
    (folder / "results.json").write_text(json.dumps({**found, **about, "format": "facekd-folder", "version": 1}))


@pytest.fixture(scope="module")
def runs_on_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluates the runs of a study on all pairs of people."""
    folder = tmp_path_factory.mktemp("people")
    for name, seeds in (("teacher", [0]), ("alone", range(4)), ("better", range(5)), ("equal", range(4))):
        for seed in seeds:
            evaluate_people(folder / "runs" / name / f"seed-{seed}" / "verification", name, seed)
    return folder


@pytest.fixture
def with_people(tmp_path: Path, runs_on_people: Path) -> Path:
    """Writes a study on all pairs of people whose runs are evaluated; returns its file."""
    shutil.copytree(runs_on_people, tmp_path, dirs_exist_ok=True)
    methods = {
        "teacher": {"verb": "train", "seeds": [0]},
        "alone": {"verb": "train"},
        "better": {"verb": "train", "seeds": [0, 1, 2, 3, 4]},
        "equal": {"verb": "train"},
    }
    changes = {"packs": [], "people": "{study}/people", "methods": methods, "seeds": [0, 1, 2, 3], "evaluate": {}}
    return write(tmp_path, output=str(tmp_path), **changes)


def test_people_are_evaluated_by_all_pairs(tmp_path: Path) -> None:
    changes = {"packs": [], "people": "synthetic:9x4:7", "evaluate": {"bootstrap": 200}}
    study = load_study(write(tmp_path, **changes))
    study.check_evaluation(lambda verb, words: parse_evaluation({"folder": "folder"}[verb], words))
    words = {step.title: list(step.words) for step in study.steps(threads=1)}["judge alone, seed 3"]
    assert words == [
        *("evaluate", "folder", "--model", "runs/study/runs/alone/seed-3/model.onnx", "--images", "synthetic:9x4:7"),
        *("--output", "runs/study/runs/alone/seed-3/verification", "--fars", "0.01,0.001", "--no-report"),
        *("--bootstrap", "200", "--threads", "1"),
    ]


def test_intervals_cover_seeds_and_people(with_people: Path) -> None:
    study = load_study(with_people)
    results = gather(study)
    methods = {method["name"]: method["packs"]["people"] for method in results["methods"]}
    assert "over seeds and people together" in results["interval"]
    # The interval is that of the draws that the runs kept, over the seeds that both have.
    runs = {name: [study.run_of(name, seed).verification for seed in range(4)] for name in ("alone", "better")}
    eer = {name: [json.loads((one / "results.json").read_text())["eer"] for one in runs[name]] for name in runs}
    draws = {name: np.stack([np.load(one / "draws.npz")["eer"] for one in runs[name]]) for name in runs}
    expected = crossed_difference(np.subtract(eer["better"], eer["alone"]), draws["better"] - draws["alone"], PEOPLE)
    found = methods["better"]["eer"]["difference"]
    assert (found["n"], found["over"], methods["better"]["eer"]["n"]) == (4, "seeds and people", 5)
    assert found["ci95"] == pytest.approx(list(expected.ci95)) and found["ci95"][1] < 0
    # Two methods have an interval; the p-value of the better one counts twice.
    assert found["p_holm"] == pytest.approx(2 * expected.p_value) and found["num_compared"] == 2
    assert methods["equal"]["eer"]["difference"]["p_holm"] > 0.05
    assert methods["teacher"]["eer"]["difference"]["ci95"] is None
    tar = methods["better"]["tar_at_far"]
    assert [point["far"] for point in tar] == list(PEOPLE_FARS) and tar[0]["tar"]["difference"]["p_value"] is not None
    assert methods["better"]["accuracy"] is None


def test_the_page_of_people_explains_its_tests(with_people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(with_people), "--report-only"]) == 0
    table, page = capsys.readouterr().out, (with_people.parent / "report.html").read_text()
    for text in (
        "corrected by Holm's method for the 2 methods of a column",
        "better is compared over the seeds that both have (0, 1, 2, 3); its mean is over 0, 1, 2, 3, 4.",
        "teacher: one seed in common gives no interval",
    ):
        assert text in table and text.replace("'", "&#39;") in page
    assert "accuracy %" not in table and re.search(r"\nbetter +5 +\d.* p (< )?0\.\d+ ", table)
    assert page.count("data:image/png;base64,") == 2


def test_the_power_of_a_study(with_people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(with_people.parent.iterdir())
    assert main(["study", str(with_people), "--power", "--difference", "1.5"]) == 0
    text = capsys.readouterr().out
    assert sorted(with_people.parent.iterdir()) == before
    titles = ["EER, people", "TAR at FAR 0.01, people", "TAR at FAR 0.001, people"]
    assert [line for line in text.splitlines() if line in titles] == titles
    head, *lines = text.split(f"{titles[0]}\n")[1].split("\n\n")[0].splitlines()
    assert head.split("  ")[-7:][:2] and head.strip().startswith("40 people  150 people")
    rows = {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines)}
    chances = {name: [float(cell) for cell in cells] for name, cells in rows.items() if name.endswith("seeds")}
    # More people and more seeds never make it worse, and the cells are those of the formula.
    for cells in chances.values():
        assert cells == sorted(cells)
    assert all(few <= more for few, more in zip(chances["3 seeds"], chances["10 seeds"], strict=True))
    differences = [m["packs"]["people"]["eer"]["difference"] for m in gather(load_study(with_people))["methods"]]
    found = [one["variances"] for one in differences if one and one["ci95"]]
    mean = Components(*(float(np.mean([one[key] for one in found])) for key in ("seeds", "people", "both")))
    assert chances["6 seeds"][1] == round(100 * power(0.015, mean, 6, 150))
    needed = int(rows["seeds for 80%"][-1])
    assert power(0.015, mean, needed, 5000) >= 0.8
    assert needed == 2 or power(0.015, mean, needed - 1, 5000) < 0.8
    assert "From 4 seeds the first is known within a factor of 0.6 to 3.7." in text


def test_power_needs_variances(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(evaluated), "--power"]) == 2
    assert "--power needs the variances of a finished study" in capsys.readouterr().err
    assert main(["study", str(evaluated), "--power", "--difference", "0"]) == 2
    assert "difference 0.0: give points, above 0 and up to 100" in capsys.readouterr().err


def test_methods_without_a_common_seed_are_not_compared(with_people: Path) -> None:
    changed = yaml.safe_load(with_people.read_text())
    changed["methods"]["better"]["seeds"] = [4]
    with_people.write_text(yaml.safe_dump(changed, sort_keys=False))
    assert main(["study", str(with_people), "--report-only"]) == 0
    text = (with_people.parent / "results.md").read_text()
    assert "better is not compared: no seed of it (4) is one of alone's (0, 1, 2, 3)." in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set_sha256": "2"}, "was evaluated with other images or people than"),
        ({"draws": 120}, r"was evaluated with other draws of people \(--bootstrap, --seed\) than"),
    ],
)
def test_runs_on_other_people_are_refused(with_people: Path, changes: dict[str, Any], message: str) -> None:
    folder = load_study(with_people).run_of("equal", 2).verification
    evaluate_people(folder, "equal", 2, **changes)
    with pytest.raises(
        DataError, match=f"equal/seed-2/verification/results.json: {message} .*evaluates this run again"
    ):
        gather(load_study(with_people))


def test_draws_of_another_run_are_refused(with_people: Path) -> None:
    study = load_study(with_people)
    one, other = (study.run_of("alone", seed).verification / "draws.npz" for seed in (0, 1))
    other.write_bytes(one.read_bytes())
    with pytest.raises(DataError, match=r"seed-1/verification/results\.json and .*draws\.npz do not belong together"):
        gather(study)
    other.unlink()
    with pytest.raises(DataError, match=r"draws\.npz: is gone"):
        gather(study)


@pytest.mark.slow
@pytest.mark.parametrize("on", ["packs", "people"])
def test_a_study_runs_fails_in_part_and_goes_on(tmp_path: Path, on: str) -> None:
    generated = "data synthesize --identities 8 --images-per-identity 6 --test-identities 20 --pairs 40 --size 32"
    changes: dict[str, Any] = {
        "output": str(tmp_path / "out"),
        "seeds": [0, 1],
        "prepare": [f"{generated} --output {{study}}/data"],
        "base": {
            "data": {"train": "{study}/data", "image_size": 32, "workers": 0},
            "backbone": {"width": 0.125, "embedding_size": 16},
            "head.scale": 16,
            "schedule.lr": 0.05,
            "images": 64,
            "global_batch_size": 16,
            "tensorboard": False,
        },
        "packs": ["{study}/data/test.bin"] if on == "packs" else [],
        "people": None if on == "packs" else "synthetic:20x3:5",
        "evaluate": {"fars": [0.1], **({"bootstrap": 0, "pictures": False} if on == "packs" else {"bootstrap": 100})},
        "methods": {
            "alone": {"verb": "train"},
            "broken": {"verb": "train", "config": {"shared_head": str(tmp_path / "head")}},
            "l2": {"verb": "distill", "config": {"teacher.model": "{alone}", "loss.embedding_l2": 1}},
        },
    }
    path = write(tmp_path, **changes)
    assert main(["study", str(path), "--jobs", "2"]) == 1  # there is no tmp_path/head
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["missing"] == ["broken, seed 0", "broken, seed 1"]
    assert {
        method["name"]: len(method["cost"]["images_per_second"]) for method in results["methods"] if method["cost"]
    } == {
        "alone": 2,
        "l2": 2,
    }
    assert results["conditions"]["jobs"] == 2
    methods = {method["name"]: method for method in results["methods"]}
    assert methods["l2"]["images"] == {"own": 64, "all_stages": 128, "by_stage": {"alone": 64, "l2": 64}}
    [found] = methods["l2"]["packs"].values()
    assert found["eer"]["difference"]["over"] == ("seeds" if on == "packs" else "seeds and people")
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("model.onnx")}
    assert len(stamps) == 4
    changes["methods"]["broken"]["config"] = {}
    assert main(["study", str(write(tmp_path, **changes))]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["missing"] == []
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    outcome = run_steps(load_study(path).steps(2), CompletedSteps(tmp_path / "out"))
    assert not outcome.failed
