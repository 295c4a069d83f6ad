"""`facekd evaluate ijbc` from the command line to its files, on ready embeddings; and on bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation.evaluate_ijbc import main
from evaluation.ijb.protocol import load_protocol
from facekd.errors import run_verb
from facekd.verification import tar_at_far
from tests.evaluation.ijb_layout import make_layout, naive_scores, naive_templates

ROOT = Path(__file__).resolve().parents[2]
FARS = ["--fars", "0.1,0.01,0.001,1e-6"]


@pytest.fixture
def evaluate(tmp_path):
    """Write a layout and run the verb on its embeddings; returns (status, results)."""

    def run(layout, *extra: str, flipped: bool = True) -> tuple[int, dict]:
        root, out = layout.write(tmp_path / "a set"), tmp_path / "out put"
        files = ["--root", str(root), "--output", str(out)]
        if "--model" not in extra:
            files += ["--embeddings", str(root / "embeddings.npy")]
        if flipped:
            files.append("--embeddings-flipped")
        status = run_verb(lambda: main([*files, "--bootstrap", "100", "--no-report", *FARS, *extra]))
        return status, json.loads((out / "results.json").read_text()) if status == 0 else {}

    run.scores = lambda: np.load(tmp_path / "out put" / "scores.npy")  # type: ignore[attr-defined]
    run.out = tmp_path / "out put"  # type: ignore[attr-defined]
    run.root = tmp_path / "a set"  # type: ignore[attr-defined]
    return run


def test_equals_loops_and_scikit_learn(evaluate):
    layout = make_layout(0)
    status, results = evaluate(layout)
    expected = naive_scores(layout, naive_templates(layout, True, True, True))
    labels = np.array([label for *_, label in layout.pairs])
    np.testing.assert_allclose(evaluate.scores(), expected, atol=1e-6)
    assert status == 0 and results["auc"] == pytest.approx(roc_auc_score(labels, expected), abs=1e-6)
    far, tar, _ = roc_curve(labels, expected, drop_intermediate=False)
    for point in results["tar_at_far"]:
        if point["tar"] is None:
            assert "not measurable" in point["reason"] and point["far"] * results["num_impostor"] < 1
        else:
            assert point["tar"] == tar[far <= point["far"] + 1e-12].max()
            assert point["false_accepts"] == (evaluate.scores()[labels == 0] >= point["threshold"]).sum()
            assert point["interval"] == "subject bootstrap" and point["ci95"][0] <= point["tar"] <= point["ci95"][1]
    assert results["dataset"]["subjects_from"] == "1:N files" and results["dataset"]["published"] is None
    assert results["protocol"]["name"] == "norm+detector+flip"
    assert set(results["identification"]) == {"G1", "G2", "mean"}
    worst = results["worst"]["impostor"][0]
    assert layout.pairs[worst["pair"]] == (worst["first"], worst["second"], 0)
    assert worst["score"] == evaluate.scores()[labels == 0].max()


def test_every_key_written_is_documented_and_json_is_strict(evaluate):
    _, results = evaluate(make_layout(0), "--all-protocols", "--calibrate")
    documented = set(re.findall(r"[`.](\w[\w-]*)(?=[`.])", (ROOT / "docs" / "results.md").read_text()))
    documented |= {"G1", "G2"}

    def keys_of(value) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for entry in value.values() for key in keys_of(entry)}
        return {key for entry in value for key in keys_of(entry)} if isinstance(value, list) else set()

    assert not keys_of(results) - documented
    with np.load(evaluate.out / "curves.npz") as curves:
        assert not {re.sub("_G[12]", "_G1", name) for name in curves} - documented


def test_all_protocols_in_one_pass_equal_each_alone(evaluate):
    layout = make_layout(1)
    _, together = evaluate(layout, "--all-protocols")
    assert len({entry["protocol"]["name"] for entry in together["protocols"]}) == 8
    for entry in together["protocols"]:
        protocol = entry["protocol"]
        names = ("keep_norm", "weight_by_detection_score", "flip_augment")
        flags = [f"--{'' if protocol[name] else 'no-'}{name.replace('_', '-')}" for name in names]
        _, alone = evaluate(layout, *flags)
        assert alone["protocol"] == protocol and alone["identification"] == entry["identification"]
        assert alone["eer"] == entry["eer"] and alone["tar_at_far"] == entry["tar_at_far"]


@pytest.mark.parametrize("preset", ["insightface", "adaface", "facexzoo", "tface", "magface"])
def test_presets_score_as_their_tools(evaluate, preset):
    layout = make_layout(2)
    _, results = evaluate(layout, "--protocol-like", preset)
    protocol = results["protocol"]
    switches = [protocol[k] for k in ("keep_norm", "weight_by_detection_score", "flip_augment", "normalize_media")]
    expected = {
        "insightface": [True, True, True, False],
        "adaface": [True, False, True, False],
        "facexzoo": [True, True, False, False],
        "tface": [False, False, False, False],
        "magface": [True, False, False, True],
    }
    assert switches == expected[preset] and protocol["like"] == preset
    np.testing.assert_allclose(evaluate.scores(), naive_scores(layout, naive_templates(layout, *switches)), atol=1e-6)


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float16])
def test_keeping_norms_that_are_all_1_is_said_to_do_nothing(evaluate, capsys, dtype):
    layout = make_layout(0)
    for part in (layout.plain, layout.mirrored):
        part[:] = (part / np.linalg.norm(part, axis=1, keepdims=True)).astype(dtype)
    note = "norm kept: the switch does nothing here, because all embeddings have unit length already"
    _, results = evaluate(layout, "--no-flip-augment", "--report")
    assert len(results["notes"]) == 1 and results["notes"][0].startswith(note)
    assert f"note: {note}" in capsys.readouterr().out
    assert note in (evaluate.out / "report.html").read_text() and note in (evaluate.out / "report.md").read_text()
    _, without = evaluate(layout, "--no-flip-augment", "--no-keep-norm")
    assert without["notes"] == [] and without["eer"] == results["eer"]
    # With mirror images the sums differ in length, but say nothing about quality.
    _, flipped = evaluate(layout)
    assert "is longer only where the two agree" in flipped["notes"][0]
    assert len(evaluate(layout, "--all-protocols")[1]["notes"]) == 2
    # One face of another length is enough.
    layout.plain[3] *= 1.01
    assert evaluate(layout, "--no-flip-augment")[1]["notes"] == []


def test_insightface_rule_is_written_beside_its_numbers(evaluate):
    layout = make_layout(3)
    _, results = evaluate(layout, "--rule", "insightface")
    scores, labels = evaluate.scores(), np.array([label for *_, label in layout.pairs], bool)
    expected = tar_at_far(scores[labels], scores[~labels], [0.1, 0.01], "insightface")
    assert [point["tar"] for point in results["tar_at_far"][:2]] == [point.tar for point in expected]
    assert results["tar_at_far"][0]["rule"] == "insightface" and "insightface rule" in results["protocol"]["text"]
    _, exact = evaluate(layout)
    assert (exact["eer"], exact["auc"]) == (results["eer"], results["auc"])


@pytest.mark.parametrize(("asked", "one", "many"), [("1:1", True, False), ("1:N", False, True), ("both", True, True)])
def test_protocols_are_evaluated_as_asked(evaluate, asked, one, many):
    _, results = evaluate(make_layout(0), "--protocol", asked)
    assert (results["tar_at_far"] is not None, results["identification"] is not None) == (one, many)
    assert (evaluate.out / "scores.npy").exists() == one


def test_what_is_about_1_to_1_is_refused_without_it(evaluate, capsys):
    assert evaluate(make_layout(0), "--protocol", "1:N", "--calibrate")[0] == 2
    assert "--calibrate is about 1:1 comparisons: leave out --protocol 1:N" in capsys.readouterr().err


def test_without_1n_files_subjects_come_from_the_genuine_pairs(evaluate, capsys):
    layout = make_layout(4)
    root = layout.write(evaluate.root)
    with_files = load_protocol(root)
    for name in ("gallery_G1", "gallery_G2", "probe_mixed"):
        (root / "meta" / f"ijbc_1N_{name}.csv").unlink()
    layout.write = lambda root: root  # type: ignore[method-assign]
    status, results = evaluate(layout)
    assert status == 0 and results["identification"] is None and results["protocol"]["evaluated"] == "1:1"
    assert results["dataset"]["subjects_from"] == "genuine pairs"
    assert results["bootstrap"]["num_subjects"] == len(np.unique(with_files.probes.subjects))
    assert evaluate(layout, "--protocol", "both")[0] == 2
    assert "--protocol 1:1 needs none" in capsys.readouterr().err


def test_plain_embeddings_are_scored_without_mirror_images(evaluate, capsys):
    layout = make_layout(5)
    layout.mirrored = layout.mirrored[:, :0]
    status, results = evaluate(layout, flipped=False)
    assert status == 0 and results["protocol"]["name"] == "norm+detector+noflip"
    assert results["embeddings"]["holds"] == "plain" and results["embeddings"]["embedding_size"] == 16
    expected = naive_scores(layout, naive_templates(layout, True, True, False))
    np.testing.assert_allclose(evaluate.scores(), expected, atol=1e-6)
    assert evaluate(layout, "--flip-augment", flipped=False)[0] == 2
    assert "--no-flip-augment" in capsys.readouterr().err


def problems_of(results: dict, kind: str) -> list[dict]:
    return [problem for problem in results["problems"] if problem["kind"] == kind]


def test_labels_that_contradict_the_1n_files_are_a_problem_of_the_report(evaluate, capsys):
    layout = make_layout(0)
    _, clean = evaluate(layout)
    assert problems_of(clean, "pair labels") == [] and "pair labels" not in capsys.readouterr().err
    flipped = [3, 10, 44]
    for row in flipped:
        first, second, label = layout.pairs[row]
        layout.pairs[row] = (first, second, 1 - label)
    status, results = evaluate(layout, "--report")
    [problem] = problems_of(results, "pair labels")
    assert status == 0 and (problem["count"], problem["severity"]) == (3, "note")
    first, second, label = layout.pairs[3]
    subject_of = dict([*layout.galleries["G1"], *layout.galleries["G2"], *layout.probes])
    who = (subject_of[first], subject_of[second])
    shown = f"both of subject {who[0]}" if who[0] == who[1] else f"of subjects {who[0]} and {who[1]}"
    kind = "genuine" if label else "impostor"
    assert problem["examples"][0] == f"row 4: templates {first} and {second}, {shown}, labelled {kind}"
    out, error = capsys.readouterr()
    assert "intervals: wilson (the labels of the pairs contradict each other's subjects" in out
    assert f"pair labels: 3, of {len(layout.pairs):,} labels contradict the subjects" in error
    for place in (error, *((evaluate.out / name).read_text() for name in ("report.html", "report.md"))):
        assert problem["examples"][0] in place
    assert results["eer"] > clean["eer"] and results["dataset"]["subjects_from"] == "genuine pairs"


def test_labels_that_contradict_one_another_are_found_without_1n_files(evaluate):
    layout = make_layout(4)
    genuine = [row for row, (*_, label) in enumerate(layout.pairs) if label]
    first, second, _ = layout.pairs[genuine[0]]
    layout.pairs += [(first, second, 0), (second, first, 0)]
    root = layout.write(evaluate.root)
    for name in ("gallery_G1", "gallery_G2", "probe_mixed"):
        (root / "meta" / f"ijbc_1N_{name}.csv").unlink()
    layout.write = lambda root: root  # type: ignore[method-assign]
    [problem] = problems_of(evaluate(layout)[1], "pair labels")
    count = len(layout.pairs)
    assert problem["count"] == 2 and "genuine pairs join to one subject" in problem["text"]
    assert problem["examples"] == [
        f"row {count - 1}: templates {first} and {second}",
        f"row {count}: templates {second} and {first}",
    ]


def test_1n_files_that_contradict_each_other_or_lack_templates_are_noted(evaluate):
    layout = make_layout(0)
    template, subject = layout.galleries["G1"][0]
    layout.probes.append((template, subject + 1))
    texts = {problem["text"]: problem for problem in problems_of(evaluate(layout)[1], "1:N files")}
    [problem] = [found for text, found in texts.items() if "two subjects by two 1:N files" in text]
    assert problem["examples"] == [f"template {template}: subjects {subject} and {subject + 1}"]
    layout = make_layout(0)
    lacking = layout.probes[0][0]
    layout.probes = [row for row in layout.probes if row[0] != lacking]
    texts = {problem["text"]: problem for problem in problems_of(evaluate(layout)[1], "1:N files")}
    [problem] = [found for text, found in texts.items() if "no subject in the 1:N files" in text]
    assert (problem["count"], problem["examples"]) == (1, [f"template {lacking}"])


def test_an_image_in_templates_of_two_subjects_is_noted(evaluate):
    layout = make_layout(0)
    subject_of = dict([*layout.galleries["G1"], *layout.galleries["G2"], *layout.probes])
    other = next(
        i for i, template in enumerate(layout.templates) if subject_of[template] != subject_of[layout.templates[0]]
    )
    name = layout.names[0]
    # The list of landmarks names the image once; the list of faces has it in two templates.
    layout.point_order = [i for i in range(len(layout.names)) if i != other]
    layout.names[other] = name
    found = problems_of(evaluate(layout)[1], "shared image")
    assert [(problem["count"], problem["examples"]) for problem in found] == [(1, [name])] * 2
    assert "templates of two subjects" in found[1]["text"]


def break_embeddings(layout, value):
    layout.plain[[4, 5]] = value


def break_scores(layout):
    layout.scores[3] = float("nan")


def lose_a_template(layout):
    layout.pairs[7] = (layout.pairs[7][0], 999_999_999, 0)


def list_twice(layout):
    for name in ("names", "templates", "media", "scores"):
        getattr(layout, name).append(getattr(layout, name)[0])
    layout.point_order = list(range(len(layout.names) - 1))
    for name in ("landmarks", "plain", "mirrored"):
        setattr(layout, name, np.concatenate([getattr(layout, name), getattr(layout, name)[:1]]))


def unlist(layout):
    layout.point_order = list(range(2, len(layout.names)))


@pytest.mark.parametrize(
    ("damage", "message", "faces"),
    [
        (lambda layout: break_embeddings(layout, np.nan), "embedding: 2, embedding all zeros or not finite", 2),
        (lambda layout: break_embeddings(layout, 0.0), r"5\.jpg of template", 2),
        (break_scores, "detector score: 1, the detector's score is negative or no number", 1),
        (lose_a_template, r"empty template: 1, .*\(999999999\)", 0),
        (list_twice, "repeated face: 1", 1),
        (unlist, "unlisted image: 2", 2),
    ],
)
def test_what_cannot_be_used_fails_or_is_dropped_and_counted(evaluate, capsys, damage, message, faces):
    layout = make_layout(6)
    damage(layout)
    assert evaluate(layout)[0] == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and "--on-missing drop" in error and "pairs" in error
    status, results = evaluate(layout, "--on-missing", "drop")
    assert status == 0 and results["dropped"]["faces"] == faces
    scores = evaluate.scores()
    assert len(scores) == len(layout.pairs) and np.isnan(scores).sum() == results["dropped"]["pairs"]
    assert results["num_pairs"] == len(layout.pairs) - results["dropped"]["pairs"]
    assert re.search(message, capsys.readouterr().err)


def test_dropping_faces_equals_a_set_without_them(evaluate):
    layout = make_layout(7)
    break_embeddings(layout, np.nan)
    _, dropped = evaluate(layout, "--on-missing", "drop")
    smaller = make_layout(7)
    keep = [i for i in range(len(smaller.names)) if i not in (4, 5)]
    for name in ("names", "templates", "media", "scores"):
        setattr(smaller, name, [getattr(smaller, name)[i] for i in keep])
    for name in ("landmarks", "plain", "mirrored"):
        setattr(smaller, name, getattr(smaller, name)[keep])
    _, expected = evaluate(smaller, "--on-missing", "drop")
    assert dropped["tar_at_far"] == expected["tar_at_far"] and dropped["identification"] == expected["identification"]


@pytest.mark.parametrize(("label", "kind"), [(1, "impostor"), (0, "genuine")])
def test_pairs_of_one_class_only_are_refused(evaluate, capsys, label, kind):
    layout = make_layout(0)
    layout.pairs = [pair for pair in layout.pairs if pair[2] == label]
    assert evaluate(layout)[0] == 2
    assert f"{kind}: no scores" in capsys.readouterr().err


def test_ties_are_said(evaluate):
    layout = make_layout(0)
    layout.plain[:] = np.sign(layout.plain[:, :1]) * np.arange(1, 17, dtype=np.float32)  # two embeddings in all
    layout.mirrored = layout.plain
    status, results = evaluate(layout)
    assert status == 0 and any("impostor pairs share the score just below" in note for note in results["notes"])


def test_a_set_of_other_embeddings_is_refused(evaluate, capsys):
    layout = make_layout(0)
    root = layout.write(evaluate.root)
    np.save(root / "embeddings.npy", np.load(root / "embeddings.npy")[:-1])
    layout.write = lambda root: root  # type: ignore[method-assign]
    assert evaluate(layout)[0] == 2
    assert "image that the set lists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        *(["--fars", "2"], ["--bootstrap", "5"], ["--seed", "-1"], ["--workers", "0"], ["--protocol-like", "x"]),
        *(["--color", "bgr"], ["--mean", "0"], ["--resize"]),  # of a model, where embeddings are given
    ],
)
def test_flags_are_checked(flags, capsys):
    with pytest.raises(SystemExit):
        main(["--embeddings", "e.npy", "--root", "r", "--output", "o", *flags])
    assert flags[0] in capsys.readouterr().err


def test_a_published_set_with_other_counts_is_noticed(evaluate, monkeypatch, capsys):
    layout = make_layout(0)
    protocol = load_protocol(layout.write(evaluate.root))
    counts = {
        "num_images": protocol.num_listed,
        "num_templates": len(set(layout.templates)),
        "num_pairs": protocol.num_pairs + 5,
    }
    monkeypatch.setattr("evaluation.ijb.protocol.TARGETS", {})
    from evaluation.ijb import problems as ijb_problems
    from evaluation.ijb import protocol as ijb

    target = ijb.Target("IJB-C", "ijbc", ("G1", "G2"), counts)
    for module in (ijb, ijb_problems):
        monkeypatch.setattr(module, "TARGETS", {"IJBC": target})
    assert evaluate(layout)[0] == 2
    assert "not as published: num_pairs" in capsys.readouterr().err
    assert evaluate(layout, "--on-missing", "drop")[1]["dataset"]["published"] == "IJB-C"
